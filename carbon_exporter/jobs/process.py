"""Jobs on a host without a scheduler: processes whose environment has CARBON_TRAINING_JOB=NAME, and their descendants.

Each tick lists the pids of /proc and opens only the new ones and those of jobs. A full scan, which also finds a
process that took its label by a late exec, runs seldom.
"""

import logging
import math
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import PositiveFloat, PositiveInt

from carbon_exporter import settings
from carbon_exporter.cgroups import read_unit
from carbon_exporter.model import JobUse, Json, ResolverReading, Roots
from carbon_exporter.naming import JOB, group_in, name_in
from carbon_exporter.procfs import (
    HALF_BLIND,
    Process,
    may_look_into_processes,
    owner_name,
    parse_process,
    read_environment,
    read_process_line,
)

RANK: Final = 2
"""Resolvers of lower rank come first, and keep what they claim."""
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
_MOST_DEVICES: Final = 128
"""More than any host has, MIG slices counted: somebody made them up."""
_LONGEST_DEVICE: Final = 128
_log = logging.getLogger(__name__)


class Settings(settings.Settings):
    """Settings of jobs.process."""

    full_scan_seconds: PositiveFloat = 60.0
    most_jobs: PositiveInt = 1000


def open_resolver(chosen: Settings, roots: Roots) -> "ProcessResolver":
    """The resolver over `roots.procfs`."""
    sees_all = may_look_into_processes()
    return ProcessResolver(str(roots.procfs), chosen.full_scan_seconds, chosen.most_jobs, sees_all=sees_all)


@dataclass(slots=True)
class _Member:
    """A process of a job, as last read."""

    process: Process
    training_job: str
    group: str = ""
    devices: frozenset[str] = frozenset()
    unit: str = ""
    """The pod or Slurm job it runs in."""
    line: bytes = b""
    """Its line of /proc/PID/stat, or b"" where it was not kept."""


@dataclass(slots=True)
class _Job:
    user: str
    cpu_seconds: float = 0.0
    pids: set[int] = field(default_factory=set)
    last_use: JobUse | None = None
    """As last told, while no process came or went."""


class ProcessResolver:
    """Implements model.Resolver. `read` must get the clock that start times are in: seconds since boot."""

    def __init__(self, proc: str, full_scan_seconds: float, most_jobs: int, *, sees_all: bool = True) -> None:
        self._proc = proc
        self._sees_all = sees_all
        self._full_scan_seconds = full_scan_seconds
        self._most_jobs = most_jobs
        self._members: dict[int, _Member] = {}
        self._jobs: dict[str, _Job] = {}
        self._known: set[int] = set()
        self._young: set[int] = set()
        self._claimed: frozenset[str] = frozenset()
        self._last_full_scan = float("-inf")
        # The last two readings: what started after the earlier one has no CPU time that was counted elsewhere.
        self._reads: tuple[float, float] = (float("inf"), float("inf"))
        self._warned: set[str] = set()

    def read(
        self, now_seconds: float, gpu_pids: frozenset[int] = frozenset(), claimed: frozenset[str] = frozenset()
    ) -> ResolverReading:
        """The jobs with a process alive now; a job's CPU time counts from the reading before it was first seen."""
        del gpu_pids  # a job's processes are all known here
        try:
            pids = set(map(int, filter(str.isdigit, os.listdir(self._proc))))  # noqa: PTH208
        except OSError as error:
            return ResolverReading(failures=(f"{self._proc} cannot be listed: {error.strerror}",))
        gone = self._advance(pids)
        for member in gone:
            self._leave(member)
        self._leave_out(claimed)
        failures = self._discover(pids, now_seconds)
        self._reads = (min(self._reads[1], now_seconds), now_seconds)
        self._jobs = {name: job for name, job in self._jobs.items() if job.pids}
        return ResolverReading(tuple(self._use(name, job) for name, job in self._jobs.items()), failures)

    def _advance(self, pids: set[int]) -> list[_Member]:
        """Add the CPU time since the last reading of every member still alive; give the members that are gone."""
        rises: dict[int, tuple[float, float]] = {}
        gone = []
        for pid, member in list(self._members.items()):
            line = self._read_line(pid) if pid in pids else b""
            if line and line == member.line:
                continue
            last, now = member.process, _parsed(line)
            if now is None or now.start_ticks != last.start_ticks:
                gone.append(self._members.pop(pid))
                self._known.discard(pid)
                continue
            member.process, member.line = now, line
            rises[pid] = (now.own_seconds - last.own_seconds, now.children_seconds - last.children_seconds)
        inherited = self._inherited(gone)
        for pid, (own, children) in rises.items():
            rise = own + max(0.0, children - inherited.get(pid, 0.0))
            self._jobs[self._members[pid].training_job].cpu_seconds += max(0.0, rise)
        return gone

    def _inherited(self, gone: Iterable[_Member]) -> dict[int, float]:
        """CPU seconds counted already on members now gone, by the living ancestor whose children's time holds them."""
        parents = {member.process.pid: member.process.parent for member in gone}
        inherited: dict[int, float] = defaultdict(float)
        for member in gone:
            heir = member.process.parent
            while heir in parents and heir not in self._members:
                heir = parents[heir]
            inherited[heir] += member.process.own_seconds + member.process.children_seconds
        return inherited

    def _leave(self, member: _Member) -> None:
        job = self._jobs[member.training_job]
        job.pids.discard(member.process.pid)
        job.last_use = None

    def _leave_out(self, claimed: frozenset[str]) -> None:
        """Let go of the processes whose pod or Slurm job another resolver counts by now."""
        if claimed == self._claimed:
            return
        self._claimed = claimed
        for pid, member in list(self._members.items()):
            if self._is_claimed(member.unit):
                self._leave(self._members.pop(pid))

    def _is_claimed(self, unit: str) -> bool:
        return unit in self._claimed or unit.partition(" ")[0] in self._claimed

    def _discover(self, pids: set[int], now_seconds: float) -> tuple[str, ...]:
        """Look for labels on the processes that came since the last reading, on all of them when a scan is due."""
        new = pids - self._known
        candidates = new | (self._young & pids)
        if now_seconds - self._last_full_scan >= self._full_scan_seconds:
            self._last_full_scan = now_seconds
            candidates = pids
        # A process between fork and exec still has its parent's environment: look at it once more at the next tick.
        self._young, self._known = new, pids
        processes = [p for pid in candidates if (p := _parsed(self._read_line(pid))) is not None]
        too_many: set[str] = set()
        for process in sorted(processes, key=lambda found: found.start_ticks):
            member = self._examine(process)
            if member is None or not self._is_news(member):
                continue
            if member.training_job not in self._jobs and len(self._jobs) >= self._most_jobs:
                too_many.add(member.training_job)
                continue
            self._join(member)
        if not too_many:
            return ()
        return (f"{len(too_many)} jobs beyond jobs.process.most_jobs={self._most_jobs} are counted as system",)

    def _is_news(self, member: _Member) -> bool:
        known = self._members.get(member.process.pid)
        return known is None or known.training_job != member.training_job

    def _join(self, member: _Member) -> None:
        pid, process = member.process.pid, member.process
        before = self._members.get(pid)
        if before is not None:
            self._leave(before)
        job = self._jobs.get(member.training_job)
        if job is None:
            job = self._jobs[member.training_job] = _Job(owner_name(self._proc, pid))
        # The kernel cuts a start time down to a whole tick.
        if before is None and (process.start_ticks + 1) / _TICKS_PER_SECOND >= self._reads[0]:
            job.cpu_seconds += process.own_seconds + process.children_seconds
        job.pids.add(pid)
        job.last_use = None
        self._members[pid] = member

    def _examine(self, process: Process) -> _Member | None:
        """The job that `process` belongs to: by its own environment, else by its parent's job."""
        try:
            environment = read_environment(self._proc, process.pid)
        except PermissionError:
            if not self._sees_all:  # what even CAP_SYS_PTRACE may not look into is no training job
                self._warn("permission", f"{self._proc}/{process.pid}/environ: permission denied; {HALF_BLIND}")
            environment = {}
        except OSError:
            return None  # it ended meanwhile
        raw = environment.get(JOB, "")
        if raw.strip():
            unit = read_unit(self._proc, process.pid)
            if self._is_claimed(unit):
                return None
            name = name_in(environment)
            if not name.endswith(raw):  # a namespace may stand before it
                self._warn(raw, f"{JOB} of pid {process.pid} is no fit name: it is counted as {name!r}")
            return _Member(process, name, group_in(environment), _visible_devices(environment), unit)
        parent = self._members.get(process.parent)
        if parent is None:
            return None
        return _Member(process, parent.training_job, parent.group, parent.devices, parent.unit)

    def _warn(self, key: str, message: str) -> None:
        if key not in self._warned and len(self._warned) < self._most_jobs:
            self._warned.add(key)
            _log.warning("%s", message)

    def _read_line(self, pid: int) -> bytes:
        try:
            return read_process_line(self._proc, pid)
        except OSError:
            return b""  # it ended meanwhile

    def _use(self, name: str, job: _Job) -> JobUse:
        use = job.last_use
        if use is None:
            members = [self._members[pid] for pid in job.pids]
            devices = frozenset[str]().union(*(member.devices for member in members))
            use = JobUse(
                training_job=name,
                resolver="process",
                unit=f"process {name}",
                cpu_seconds=job.cpu_seconds,
                pids=frozenset(job.pids),
                devices=devices if len(devices) <= _MOST_DEVICES else frozenset(),
                started_seconds=min(member.process.start_ticks for member in members) / _TICKS_PER_SECOND,
                group=next((member.group for member in members if member.group), ""),
                info={"user": job.user} if job.user else {},
            )
        elif use.cpu_seconds != job.cpu_seconds:
            use = use.grown(job.cpu_seconds, use.pids)
        job.last_use = use
        return use

    def state(self) -> Json:
        """The members as last read and the CPU time of each job."""
        return {
            "read_seconds": self._reads[1],
            "jobs": {name: [job.cpu_seconds, job.user] for name, job in self._jobs.items()},
            "members": [
                [tuple(member.process), member.training_job, member.group, [*member.devices], member.unit]
                for member in self._members.values()
            ],
        }

    def close(self) -> None:
        """Hold nothing."""

    def restore(self, state: Json) -> None:
        """Take up the members of an earlier process of the same boot; what it cannot use it leaves out."""
        try:
            jobs = {name: _Job(str(user), _seconds(cpu)) for name, (cpu, user) in state["jobs"].items()}
            members = {member.process.pid: member for member in map(_restored, state["members"])}
            read_seconds = _seconds(state["read_seconds"])
            for pid, member in members.items():
                jobs[member.training_job].pids.add(pid)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            _log.warning("state of jobs.process is not usable (%r): jobs count from now on", error)
            return
        self._jobs = jobs
        self._members = members
        self._reads = (read_seconds, read_seconds)


def _restored(state: Any) -> _Member:
    """The member that ProcessResolver.state described; raises TypeError or ValueError for anything else."""
    (pid, parent, start_ticks, own, children), name, group, devices, unit = state
    process = Process(int(pid), int(parent), int(start_ticks), _seconds(own), _seconds(children))
    return _Member(process, str(name), str(group), frozenset(map(str, devices)), str(unit))


def _seconds(value: Any) -> float:
    seconds = float(value)
    if not math.isfinite(seconds):
        raise ValueError(f"no number of seconds: {value!r}")
    return seconds


def _parsed(line: bytes) -> Process | None:
    try:
        return parse_process(line)
    except (ValueError, IndexError):
        return None  # it ended while it was read


def _visible_devices(environment: dict[str, str]) -> frozenset[str]:
    """The GPUs named in CUDA_VISIBLE_DEVICES: indices, GPU- or MIG- names; CUDA ignores all after a -1.

    None where there are more than a host can have.
    """
    names: list[str] = []
    for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(","):
        if not name.strip() or name.strip().startswith("-") or not name.isascii() or len(name) > _LONGEST_DEVICE:
            break
        names.append(name.strip())
    return frozenset(names) if len(names) <= _MOST_DEVICES else frozenset()
