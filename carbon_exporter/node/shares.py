"""Who shares a device's joules, and how: the rules of the ledger for CPU and memory, each a pure function."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from carbon_exporter.model import HostCpu, JobUse


@dataclass(frozen=True, slots=True, eq=False)
class Uses:
    """CPU times at one instant: of every account by name, and of the host. Equal only to itself."""

    cpu_seconds: Mapping[str, float]
    host: HostCpu


@dataclass(frozen=True, slots=True)
class Allocations:
    """What share of the host's CPUs and of its memory is allocated to each job, by name; they add up to 1 at most."""

    cpus: Mapping[str, float]
    memory: Mapping[str, float]


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


def allocations(jobs: Iterable[JobUse], host: HostCpu, begin_seconds: float, end_seconds: float) -> Allocations:
    """The shares allocated to `jobs`, alive at the end of an interval, over the interval as a whole.

    A job that began within it has had its share since then. More than there is to allocate is scaled down to all of it.
    """
    cpus: dict[str, float] = defaultdict(float)
    memory: dict[str, float] = defaultdict(float)
    for use in jobs:
        if not use.training_job or not (use.cpus or use.memory_bytes):
            continue
        ratio = 1.0
        if use.started_seconds is not None and begin_seconds < use.started_seconds:
            ratio = max(0.0, end_seconds - use.started_seconds) / (end_seconds - begin_seconds)
        cpus[use.training_job] += ratio * (use.cpus or 0.0)
        memory[use.training_job] += ratio * (use.memory_bytes or 0.0)
    return Allocations(_ratios(cpus, host.cpus), _ratios(memory, host.memory_bytes or 0.0))


def _ratios(allocated: Mapping[str, float], capacity: float) -> Mapping[str, float]:
    """Of `capacity`; none where that is unknown."""
    if capacity <= 0:
        return {}
    whole = max(capacity, sum(allocated.values()))
    return {name: amount / whole for name, amount in allocated.items()}
