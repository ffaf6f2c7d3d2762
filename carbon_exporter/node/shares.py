"""Who shares a device's joules, and how: the rules of the ledger, each a pure function."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from carbon_exporter.model import DeviceReading, HostCpu, JobUse

SYSTEM_HOLDER: Final = ""
"""Stands among the holders of a GPU for processes of no job; no job has the empty name."""


@dataclass(frozen=True, slots=True, eq=False)
class Uses:
    """CPU times at one instant: of every account by name, and of the host. Equal only to itself."""

    cpu_seconds: Mapping[str, float]
    host: HostCpu


def holders_of(device: DeviceReading, gpus: Sequence[DeviceReading], jobs: Sequence[JobUse]) -> frozenset[str]:
    """The names of the jobs that hold this GPU: by a process on it, or because they name it.

    A declared index is believed only of a job without a process on any GPU, for a GPU without a process of any job,
    where all GPUs are of one model: containers and Slurm number the GPUs of each job from 0, and CUDA numbers GPUs of
    different models by speed.
    """
    gpu = device.gpu
    if gpu is None:
        return frozenset()
    holders = {use.training_job for use in jobs if use.pids & gpu.pids}
    names = {device.device, *(mig.uuid for mig in gpu.mig)}
    by_index = not holders and len({other.gpu.model for other in gpus if other.gpu is not None}) == 1
    on_gpus = frozenset().union(*(other.gpu.pids for other in gpus if other.gpu is not None))
    for use in jobs:
        indices = {str(gpu.index)} if by_index and on_gpus.isdisjoint(use.pids) else set()
        if any(_names(declared, names | indices) for declared in use.devices):
            holders.add(use.training_job)
    if gpu.pids - frozenset().union(*(use.pids for use in jobs)):
        holders.add(SYSTEM_HOLDER)
    return frozenset(holders)


def _names(declared: str, names: set[str]) -> bool:
    """Whether `declared` is one of `names`; CUDA takes the beginning of a UUID for the whole."""
    return declared in names or (
        declared.startswith(("GPU-", "MIG-")) and any(name.startswith(declared) for name in names)
    )


def gpu_shares(
    device: DeviceReading, holders: frozenset[str], jobs: Sequence[JobUse]
) -> tuple[Mapping[str, float], bool]:
    """How the holders of a GPU share its energy, and whether equally for want of better knowledge.

    The shares of all holders add up to 1; without holders there are none.
    """
    if len(holders) < 2:
        return dict.fromkeys(holders, 1.0), False
    job_of = {pid: use.training_job for use in jobs for pid in use.pids}
    weights: dict[str, float] = defaultdict(float)
    for pid, share in (device.gpu.sm_share_by_pid if device.gpu else {}).items():
        holder = job_of.get(pid, SYSTEM_HOLDER)
        if holder in holders:
            weights[holder] += share
    total = sum(weights.values())
    if total <= 0:
        return dict.fromkeys(holders, 1.0 / len(holders)), True
    return {name: weight / total for name, weight in weights.items()}, False


def cpu_shares(last: Uses, now: Uses) -> tuple[Mapping[str, float], float]:
    """Each job's share of the CPU time used between two instants, and the host's busy share of all CPU time.

    The shares add up to 1 at most; the rest is processes of no job. Job and host times are read one after the other,
    so a sum of jobs above the host's own figure is taken for the whole.
    """
    before = last.cpu_seconds
    used = {name: seconds - before.get(name, 0.0) for name, seconds in now.cpu_seconds.items()}
    used = {name: seconds for name, seconds in used.items() if seconds > 0}
    of_jobs = sum(used.values())
    busy = max(0.0, now.host.busy_seconds - last.host.busy_seconds, of_jobs)
    capacity = max(now.host.capacity_seconds - last.host.capacity_seconds, busy)
    if busy <= 0 or capacity <= 0:
        return {}, 0.0
    return {name: seconds / busy for name, seconds in used.items()}, busy / capacity
