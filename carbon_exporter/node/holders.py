"""Who holds each GPU, or each MIG slice of one. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from carbon_exporter.model import DeviceReading, Gpu, JobUse

SYSTEM: Final = ""
"""Stands among the holders for processes of no job; no job has the empty name."""
_UUIDS: Final = ("GPU-", "MIG-")


@dataclass(frozen=True, slots=True)
class Part:
    """A GPU, or one MIG slice of it.

    Attributes:
        uuid: its own.
        share: of the GPU's compute slices; None where it is unknown.
        utilization_ratio: of the part; None where it is unknown.
        in_use: whether a process runs on it.
        holders: names of jobs, and SYSTEM.
    """

    uuid: str
    share: float | None
    utilization_ratio: float | None
    in_use: bool
    holders: frozenset[str]


@dataclass(frozen=True, slots=True)
class Holdings:
    """Who holds what at one instant.

    Attributes:
        parts: the parts of each GPU, by its UUID.
        job_of: the job of each process on a GPU that belongs to one.
        given: the parts that were given to a job by name, so that every process on them is taken for its own.
        names: all names that each GPU answers to, by its UUID.
        unknown: names that a scheduler gave to a job and no GPU has, with the job.
        started_seconds: when each (part, holder) began, as far as that is known.
    """

    parts: Mapping[str, tuple[Part, ...]] = field(default_factory=dict)
    job_of: Mapping[int, str] = field(default_factory=dict)
    given: frozenset[str] = frozenset()
    names: Mapping[str, frozenset[str]] = field(default_factory=dict)
    unknown: frozenset[tuple[str, str]] = frozenset()
    started_seconds: Mapping[tuple[str, str], float] = field(default_factory=dict)


def find_holdings(gpus: Sequence[DeviceReading], jobs: Iterable[JobUse]) -> Holdings:
    """Who holds the parts of `gpus`: whoever has a process on one, and whoever was given it or names it.

    A process that belongs to no job holds a part for the system, unless the part was given to a job: without hostPID
    a pod's own processes cannot be told from others.
    """
    on_gpus = frozenset().union(*(device.gpu.pids for device in gpus if device.gpu))
    jobs = [use for use in jobs if use.devices or not on_gpus.isdisjoint(use.pids)]
    use_of = {pid: use for use in jobs for pid in use.pids & on_gpus}
    names_of = {device.device: _names(device.device, device.gpu) for device in gpus if device.gpu is not None}
    names = {name: uuids for own in names_of.values() for name, uuids in own.items()}
    holds, unknown = _given(jobs, names)
    given = frozenset(uuid for uuid, _ in holds)
    holds += [(uuid, use_of[pid]) for device in gpus for uuid, pids in _pids(device) for pid in pids & use_of.keys()]
    holds += _by_index(gpus, jobs, on_gpus, frozenset(uuid for uuid, _ in holds))
    holders: dict[str, set[str]] = defaultdict(set)
    for uuid, use in holds:
        holders[uuid].add(use.training_job)
    for uuid, pids in (part for device in gpus for part in _pids(device)):
        if uuid not in given and pids - use_of.keys():
            holders[uuid].add(SYSTEM)
    return Holdings(
        parts={device.device: tuple(_parts(device, holders)) for device in gpus},
        job_of={pid: use.training_job for pid, use in use_of.items()},
        given=given,
        names={gpu: frozenset(own) for gpu, own in names_of.items()},
        unknown=frozenset(unknown),
        started_seconds=_starts(holds),
    )


def _given(
    jobs: Iterable[JobUse], names: Mapping[str, Sequence[str]]
) -> tuple[list[tuple[str, JobUse]], set[tuple[str, str]]]:
    """The parts that were given to each piece of a job, and the (name, job) that no part answers to."""
    holds: list[tuple[str, JobUse]] = []
    unknown: set[tuple[str, str]] = set()
    for use in jobs:
        for name in use.devices:
            uuids = names.get(name) or _beginning_with(name, names)
            holds += [(uuid, use) for uuid in uuids]
            # Other names stand in the environment of a job's processes, which may say anything.
            by_scheduler = use.resolver == "kubernetes" or (use.resolver == "slurm" and name.startswith("gpu"))
            if by_scheduler and not uuids:
                unknown.add((name, use.training_job))
    return holds, unknown


def _starts(holds: Iterable[tuple[str, JobUse]]) -> Mapping[tuple[str, str], float]:
    """When each holder of a part began: its earliest piece there; one with a piece of unknown age is left out."""
    found: dict[tuple[str, str], list[float | None]] = defaultdict(list)
    for uuid, use in holds:
        found[uuid, use.training_job].append(use.started_seconds)
    known = {key: [seconds for seconds in starts if seconds is not None] for key, starts in found.items()}
    return {key: min(starts) for key, starts in known.items() if len(starts) == len(found[key])}


def _names(uuid: str, gpu: Gpu) -> Mapping[str, Sequence[str]]:
    """UUIDs of a GPU's parts by every name that a job may be given them under; its own stands for all its slices."""
    names: dict[str, list[str]] = defaultdict(list)
    uuids = [mig.uuid for mig in gpu.mig] or [uuid]
    names[uuid] = names[f"gpu{gpu.index}"] = uuids
    if gpu.minor is not None:
        names[f"nvidia{gpu.minor}"] = uuids
    for mig in gpu.mig:
        names[mig.uuid] = [mig.uuid]
        if gpu.minor is not None:
            names[f"nvidia{gpu.minor}/{mig.instance.partition('/')[0]}"].append(mig.uuid)
    return dict(names)


def _beginning_with(name: str, names: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """The parts of the only GPU or slice whose UUID begins so: CUDA takes that for the whole, where it is clear."""
    if not name.startswith(_UUIDS):
        return ()
    found = [uuids for known, uuids in names.items() if known.startswith(name)]
    return found[0] if len(found) == 1 else ()


def _by_index(
    gpus: Sequence[DeviceReading], jobs: Iterable[JobUse], on_gpus: frozenset[int], held: frozenset[str]
) -> list[tuple[str, JobUse]]:
    """The parts that pieces of jobs name by an index alone.

    It is believed only of a piece without a process on any GPU, for a GPU that no job holds, where all GPUs are of one
    model: containers and Slurm number the GPUs of each job from 0, and CUDA numbers different models by speed.
    """
    if len({device.gpu.model for device in gpus if device.gpu}) != 1:
        return []
    found = []
    for use in jobs:
        for device in gpus if on_gpus.isdisjoint(use.pids) else ():
            uuids = [uuid for uuid, _ in _pids(device)]
            if device.gpu and str(device.gpu.index) in use.devices and held.isdisjoint(uuids):
                found += [(uuid, use) for uuid in uuids]
    return found


def _pids(device: DeviceReading) -> Iterator[tuple[str, frozenset[int]]]:
    """The parts of a GPU by UUID, with their processes."""
    gpu = device.gpu
    if gpu is not None and gpu.mig:
        yield from ((mig.uuid, mig.pids) for mig in gpu.mig)
    elif gpu is not None:
        yield device.device, gpu.pids


def _parts(device: DeviceReading, holders: Mapping[str, set[str]]) -> Iterator[Part]:
    gpu: Gpu | None = device.gpu
    if gpu is None:
        return
    if not gpu.mig:
        held = frozenset(holders.get(device.device, ()))
        yield Part(device.device, 1.0, gpu.utilization_ratio, bool(gpu.pids), held)
    for mig in gpu.mig:
        held = frozenset(holders.get(mig.uuid, ()))
        yield Part(mig.uuid, mig.share, mig.utilization_ratio, bool(mig.pids), held)
