"""What the pods of this node are counted as and what each holds: by the API server's word and the kubelet's. Pure."""

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, replace

from carbon_exporter.cgroups import pod_unit
from carbon_exporter.jobs.kubernetes.names import Identity, Namer
from carbon_exporter.jobs.kubernetes.pod import Pod
from carbon_exporter.jobs.kubernetes.podresources import Device, PodName, conflicts
from carbon_exporter.model import JobUse
from carbon_exporter.naming import training_job_name


@dataclass(slots=True)
class Piece:
    """A pod that belongs to a job or holds a GPU. `use` is as last told; `begun` once its control group was seen."""

    pod: Pod
    identity: Identity
    use: JobUse
    begun: bool = False


class Pieces:
    """The pods that matter.

    Attributes:
        of: the pieces by unit.
        strangers: GPUs of pods that the API server has not told of.
        faults: what is wrong with pods, a line each.
    """

    def __init__(self, namer: Namer, wall_clock: Callable[[], float]) -> None:
        self.of: dict[str, Piece] = {}
        self.strangers: tuple[JobUse, ...] = ()
        self.faults: tuple[str, ...] = ()
        self._namer = namer
        self._identities: dict[str, tuple[Pod, Identity]] = {}
        self._wall_clock = wall_clock

    def take(
        self,
        pods: Mapping[str, Pod],
        given: Mapping[PodName, frozenset[Device]],
        alive: Container[str],
        now_seconds: float,
    ) -> None:
        """Work it out anew, after pods or devices have changed.

        Args:
            pods: all that the API server tells of, by UID.
            given: what the kubelet tells of.
            alive: units with a control group.
            now_seconds: since boot.
        """
        active = {pod_unit(uid): pod for uid, pod in pods.items() if pod.active}
        names = {(pod.namespace, pod.name) for pod in active.values()}
        ended = {(pod.namespace, pod.name) for pod in pods.values() if not pod.active} - names
        # Kubelets before 1.34 go on to list pods that have ended.
        given = {name: devices for name, devices in given.items() if name not in ended}
        known = self._identities
        self._identities = {
            unit: known[unit] if unit in known and known[unit][0] is pod else (pod, self._namer.identify(pod))
            for unit, pod in active.items()
        }
        pieces = {
            unit: piece
            for unit, pod in active.items()
            if (piece := self._piece(unit, pod, given.get((pod.namespace, pod.name), frozenset()), now_seconds))
        }
        self.of = pieces | dict(self._ending(active, alive))
        self.strangers = tuple(
            JobUse("", "kubernetes", f"pod {training_job_name('/'.join(name))}", devices=_names(devices))
            for name, devices in given.items()
            if name not in names
        )
        self.faults = (*filter(None, (piece.identity.failure for piece in pieces.values())), *conflicts(given))

    def _ending(self, active: Container[str], alive: Container[str]) -> Iterator[tuple[str, Piece]]:
        """Pieces of ended pods with a control group: what it still counts is theirs, but they hold nothing."""
        for unit, piece in self.of.items():
            if unit not in active and unit in alive and piece.begun and piece.use.training_job:
                piece.use = replace(piece.use, devices=frozenset(), cpus=None, memory_bytes=None)
                yield unit, piece

    def _piece(self, unit: str, pod: Pod, devices: frozenset[Device], now_seconds: float) -> Piece | None:
        """The piece of an active pod, going on from what was known of it; None where it is nobody's business."""
        before = self.of.get(unit)
        identity = self._identities[unit][1]
        if not identity.training_job and not devices:
            return None
        if before and before.pod == pod:
            if before.use.devices != (names := _names(devices)):
                before.use = replace(before.use, devices=names)
            return before
        use = JobUse(
            training_job=identity.training_job,
            resolver="kubernetes",
            unit=unit,
            cpu_seconds=before.use.cpu_seconds if before else 0.0,
            devices=_names(devices),
            cpus=before.use.cpus if before and pod.cpus is None else pod.cpus,
            memory_bytes=before.use.memory_bytes if before and pod.memory_bytes is None else pod.memory_bytes,
            started_seconds=self._since_boot(pod.start_seconds, now_seconds),
            group=identity.group,
            info=identity.info,
        )
        return Piece(pod, identity, use, begun=before is not None and before.begun)

    def _since_boot(self, unix_seconds: float | None, now_seconds: float) -> float | None:
        if unix_seconds is None:
            return None
        return now_seconds - max(0.0, self._wall_clock() - unix_seconds)


def _names(devices: frozenset[Device]) -> frozenset[str]:
    return frozenset(device.name for device in devices)
