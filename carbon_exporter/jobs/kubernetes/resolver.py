"""Puts together what the API server, the kubelet and the control groups say of this node's pods."""

import errno
import logging
import random
import time
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from carbon_exporter.cgroups import Cgroups, CpuTimes, read_unit
from carbon_exporter.jobs.kubernetes.api import Api
from carbon_exporter.jobs.kubernetes.folders import PodFolders
from carbon_exporter.jobs.kubernetes.names import JOB_LABEL, Namer
from carbon_exporter.jobs.kubernetes.pieces import Piece, Pieces
from carbon_exporter.jobs.kubernetes.pod import Pod
from carbon_exporter.jobs.kubernetes.podresources import Device, PodName, PodResources
from carbon_exporter.jobs.kubernetes.pods import Backoff, Known, PodWatch
from carbon_exporter.jobs.kubernetes.resourceslices import ResourceSlices
from carbon_exporter.model import JobUse, Json, ResolverReading, Roots
from carbon_exporter.procfs import boottime_seconds

if TYPE_CHECKING:
    from carbon_exporter.jobs.kubernetes import Settings

_CLAIMED: Final = frozenset({"pod"})
"""What runs in a pod is counted here or nowhere, also where the pod belongs to no job."""
_MOST_LINES: Final = 10
_NONE_GIVEN: Final[Mapping[PodName, frozenset[Device]]] = MappingProxyType({})
_log = logging.getLogger(__name__)


def build(chosen: "Settings", roots: Roots, url: str, node: str) -> "KubernetesResolver":
    """The resolver for the pods of `node` that the API server at `url` knows; it asks nobody before its first read."""
    namer = Namer(chosen.name_labels, chosen.info_labels)
    slices = ResourceSlices(Api(url, chosen.token_file, chosen.ca_file), node, boottime_seconds)
    kubelet: PodResources | None = None
    if chosen.pod_resources_socket is not None:
        kubelet = PodResources(
            chosen.pod_resources_socket, chosen.pod_resources_seconds, slices.uuid_of, boottime_seconds
        )
    watch = PodWatch(
        Api(url, chosen.token_file, chosen.ca_file),
        node,
        wanted=namer.wanted(),
        most_pods=chosen.most_pods,
        backoff=Backoff(1.0, 60.0, random.random),
        changed=kubelet.ask_soon if kubelet else lambda: None,
    )
    return KubernetesResolver(
        watch=watch,
        kubelet=kubelet,
        slices=slices,
        cgroups=Cgroups(roots.sysfs / "fs/cgroup"),
        proc=str(roots.procfs),
        namer=namer,
        wall_clock=time.time,
    )


class KubernetesResolver:
    """Implements model.Resolver.

    Args:
        watch: the pods of this node; started at the first reading.
        kubelet: who has which GPU; None where it is not asked. Started with `watch`.
        slices: what it asks for the names of devices.
        cgroups: the host's control groups.
        proc: the host's /proc.
        namer: says which job a pod belongs to.
        wall_clock: Unix time.
    """

    def __init__(
        self,
        *,
        watch: PodWatch,
        kubelet: PodResources | None,
        slices: ResourceSlices,
        cgroups: Cgroups,
        proc: str,
        namer: Namer,
        wall_clock: Callable[[], float],
    ) -> None:
        self._watch = watch
        self._kubelet = kubelet
        self._slices = slices
        self._cgroups = cgroups
        self._proc = proc
        self._folders = PodFolders(cgroups.cpu)
        self._pieces = Pieces(namer, wall_clock)
        self._cpu = CpuTimes()
        self._known = Known()
        self._given = _NONE_GIVEN
        self._saved_pods: list[Json] = []
        self._unit_of_pid: dict[int, str] = {}
        self._warned: set[str] = set()
        # The last two readings: what came after the earlier one has no CPU time that was counted elsewhere.
        self._reads: tuple[float, float] = (float("inf"), float("inf"))
        self._started = False

    def read(
        self, now_seconds: float, gpu_pids: AbstractSet[int] = frozenset(), claimed: AbstractSet[str] = frozenset()
    ) -> ResolverReading:
        """The pods of training jobs, and those without a job that hold a GPU."""
        del claimed  # nobody comes before
        if not self._started:
            self._start()
        blindness = self._folders.refresh(now_seconds)
        known, given = self._watch.known, self._kubelet.given if self._kubelet else _NONE_GIVEN
        if known is not self._known or given is not self._given:
            self._known, self._given = known, given
            self._pieces.take(known.pods, given, self._folders.of, now_seconds)
            self._saved_pods = [piece.pod.to_json() for piece in self._pieces.of.values()]
            self._warn_of_nameless()
        pids = self._pids(gpu_pids)
        faults = list(self._pieces.faults)
        found = (self._use(unit, piece, pids, faults) for unit, piece in self._pieces.of.items())
        uses = [use for use in found if use is not None]
        # A pod that lost its name is not counted: it goes on from where it is when it has one again.
        self._cpu.keep({use.unit for use in uses if use.training_job})
        self._reads = (min(self._reads[1], now_seconds), now_seconds)
        jobs = (*uses, *self._pieces.strangers)
        return ResolverReading(jobs, tuple(self._failures(blindness, faults)), claimed=_CLAIMED)

    def _start(self) -> None:
        self._started = True
        self._watch.start()
        if self._kubelet:
            self._kubelet.start()

    def _failures(self, blindness: str, faults: list[str]) -> list[str]:
        kubelet = self._kubelet.failure if self._kubelet else ""
        failures = [line for line in (self._watch.failure, kubelet, self._slices.failure, blindness) if line]
        if self._known.left_out:
            failures.append(f"pods beyond jobs.kubernetes.most_pods are left out: {self._known.left_out} of them")
        if len(faults) > _MOST_LINES:
            faults = [*faults[:_MOST_LINES], f"more pods have such faults: {len(faults) - _MOST_LINES}"]
        return failures + faults

    def _use(self, unit: str, piece: Piece, pids: Mapping[str, frozenset[int]], faults: list[str]) -> JobUse | None:
        """What the piece has used by now; None once it has ended. The same object where nothing has changed."""
        folder = self._folders.of.get(unit)
        cpu_seconds = piece.use.cpu_seconds
        if folder is None:
            if piece.begun or not piece.use.devices:
                return None
        elif piece.use.training_job:
            try:
                raw = self._cgroups.cpu_seconds(folder)
            except (OSError, ValueError, IndexError) as error:
                if isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ENODEV):
                    return None  # it ended just now
                faults.append(f"CPU time of pod {piece.pod.namespace}/{piece.pod.name} cannot be read: {error}")
                return piece.use
            fresh = self._folders.first_seen[unit] > self._reads[0]
            cpu_seconds = self._cpu.since_seen(unit, raw, fresh=fresh)
        if folder is not None and not piece.begun:
            piece.begun = True
            self._take_limits(piece, folder)
        held = pids.get(unit, frozenset())
        if cpu_seconds != piece.use.cpu_seconds or held != piece.use.pids:
            piece.use = piece.use.grown(cpu_seconds, held)
        return piece.use

    def _take_limits(self, piece: Piece, folder: str) -> None:
        """Take the limits of its control group for what a pod neither requests nor limits."""
        cpus, memory_bytes = piece.use.cpus, piece.use.memory_bytes
        try:
            if cpus is None:
                cpus = self._cgroups.cpu_quota(folder)
            if memory_bytes is None:
                memory_bytes = self._cgroups.memory_limit_bytes(folder)
        except (OSError, ValueError):
            return
        if (cpus, memory_bytes) != (piece.use.cpus, piece.use.memory_bytes):
            piece.use = replace(piece.use, cpus=cpus, memory_bytes=memory_bytes)

    def _pids(self, gpu_pids: AbstractSet[int]) -> Mapping[str, frozenset[int]]:
        """The processes on GPUs, by unit; each is looked up once."""
        known = self._unit_of_pid
        self._unit_of_pid = {pid: known[pid] if pid in known else read_unit(self._proc, pid) for pid in gpu_pids}
        units = {unit for unit in self._unit_of_pid.values() if unit in self._pieces.of}
        return {unit: frozenset(pid for pid, of in self._unit_of_pid.items() if of == unit) for unit in units}

    def _warn_of_nameless(self) -> None:
        """Say once of each pod that holds a GPU and belongs to no job how to give it a name."""
        if not self._known.complete:
            return
        nameless = {unit: piece.pod for unit, piece in self._pieces.of.items() if not piece.use.training_job}
        for unit in nameless.keys() - self._warned:
            _log.warning(
                "pod %s/%s holds a GPU and belongs to no training job: its energy is counted as system; "
                "the label %s=NAME gives it a name",
                nameless[unit].namespace,
                nameless[unit].name,
                JOB_LABEL,
            )
        self._warned = set(nameless)

    def state(self) -> Json:
        """CPU times, the control groups seen, the pods of jobs and their GPUs."""
        return {
            "read_seconds": self._reads[1],
            "cpu": self._cpu.state(),
            "units": list(self._folders.first_seen),
            "pods": self._saved_pods,
            "given_seconds": self._kubelet.answered_seconds if self._kubelet else 0.0,
            "given": [[*name, [[*device] for device in devices]] for name, devices in self._given.items()],
        }

    def restore(self, state: Json) -> None:
        """Take up what an earlier process of the same boot knew; it is believed until the servers tell anew."""
        try:
            pods = [Pod.from_json(pod) for pod in state["pods"]]
            units = [str(unit) for unit in state["units"]]
            given = {
                (str(namespace), str(name)): frozenset(Device(str(device), bool(shared)) for device, shared in devices)
                for namespace, name, devices in state["given"]
            }
            given_seconds, read_seconds = float(state["given_seconds"]), float(state["read_seconds"])
            self._cpu.restore(state["cpu"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            _log.warning("state of jobs.kubernetes is not usable (%r): jobs count from now on", error)
            return
        self._folders.restore(units)
        self._reads = (read_seconds, read_seconds)
        self._watch.known = Known({pod.uid: pod for pod in pods})
        if self._kubelet:
            self._kubelet.given, self._kubelet.answered_seconds = given, given_seconds

    def close(self) -> None:
        """End the threads."""
        if self._started:
            self._watch.close()
            if self._kubelet:
                self._kubelet.close()
