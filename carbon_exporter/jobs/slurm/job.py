"""One job of Slurm: its counter, and what a look at its processes tells."""

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from carbon_exporter.cgroups import Cgroups, read_unit, slurm_unit
from carbon_exporter.jobs.slurm.environment import Told, chosen_names, told_by
from carbon_exporter.jobs.slurm.folders import job_number
from carbon_exporter.model import JobUse
from carbon_exporter.naming import slurm_job_name
from carbon_exporter.procfs import owner_name, parse_process, read_bytes, read_environment, read_process_line

MOST_PROCESSES: Final = 64
"""Of one job, that are looked at."""
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Job:
    """A job as last read.

    Attributes:
        folder: its control group.
        seen_seconds: when it was first seen.
        raw_seconds: CPU time of its control group.
        cpu_seconds: of that, what counts.
        rate: CPU seconds per second in the last interval.
        links: of its folder; one for each step, and two.
        look_seconds: when its processes are to be looked at next.
        told: what they have told.
        started_seconds: when the first of them began; None where that is unknown.
        pod: the pod they run in; "" in none.
        is_warned: whether it was said that a second training runs in it.
        blind: why they cannot be looked into; "" where they can.
        use: as last given out.
        unit: the unit that the job is.
    """

    folder: str
    seen_seconds: float
    raw_seconds: float = 0.0
    cpu_seconds: float = 0.0
    rate: float = 0.0
    links: int = 0
    look_seconds: float = float("-inf")
    told: Told = field(default_factory=Told)
    started_seconds: float | None = None
    pod: str = ""
    is_warned: bool = False
    blind: str = ""
    use: JobUse | None = None
    unit: str = field(init=False)

    def __post_init__(self) -> None:
        self.unit = slurm_unit(job_number(self.folder))

    def look(self, cgroups: Cgroups, proc: str) -> None:
        """Learn from the job's processes and its control group what they tell."""
        pids = _list_pids(f"{cgroups.cpu}/{self.folder}")[:MOST_PROCESSES]
        found = [_environment(proc, pid) for pid in pids if pid]
        readable = [environment for environment in found if environment]
        told = told_by(readable, self.told)
        self._warn_of_others(told.name, readable)
        hidden = bool(pids) and not any(pids)
        self.blind = "" if told.name else _blindness(proc, all_hidden=hidden, denied=None in found)
        pids = [pid for pid in pids if pid]
        if pids and "user" not in told.labels and (user := owner_name(proc, pids[0])):
            told = replace(told, labels={**told.labels, "user": user})
        if pids and self.started_seconds is None:
            self.started_seconds = min(filter(None, (_start(proc, pid) for pid in pids)), default=None)
            self.use = None
            unit = read_unit(proc, pids[0])
            self.pod = unit if unit != self.unit else ""
            self.use = None
        cpus = _cpus_given(cgroups, self.folder) or told.cpus
        memory_bytes = _memory_limit(cgroups, self.folder) or told.memory_bytes
        told = replace(told, cpus=cpus, memory_bytes=memory_bytes)
        if told != self.told:
            self.told, self.use = told, None

    def _warn_of_others(self, name: str, environments: Iterable[Mapping[str, str]]) -> None:
        """Say once that a training with another name than the job's gets no energy: a job's CPU time is one number."""
        other = next((chosen for chosen in chosen_names(environments) if chosen != name), "")
        if other and not self.is_warned:
            self.is_warned = True
            _log.warning(
                "Slurm job %s runs a training %r beside or after %r: all is counted under %r; give each a job, or a "
                "task of a job array, of its own, or both one name",
                job_number(self.folder),
                other,
                name,
                name,
            )

    def describe(self, pids: frozenset[int]) -> JobUse:
        """The job as it is given out; the very same object while nothing about it changes."""
        if self.use is None:
            self.use = JobUse(
                training_job=self.told.name or slurm_job_name(job_number(self.folder)),
                resolver="slurm",
                unit=self.unit,
                cpu_seconds=self.cpu_seconds,
                pids=pids,
                devices=self.told.devices,
                cpus=self.told.cpus,
                memory_bytes=self.told.memory_bytes,
                started_seconds=self.started_seconds,
                group=self.told.group,
                info=self.told.labels,
            )
        elif self.use.cpu_seconds != self.cpu_seconds or self.use.pids != pids:
            self.use = self.use.grown(self.cpu_seconds, pids)
        return self.use

    def to_json(self) -> list[Any]:
        """What a restart needs to go on."""
        numbers = [self.seen_seconds, self.raw_seconds, self.cpu_seconds, self.rate, self.look_seconds]
        return [self.folder, *numbers, self.links, self.told.to_json(), self.started_seconds, self.pod]

    @classmethod
    def from_json(cls, state: Any) -> "Job":
        """The job that `to_json` described; raises as Told.from_json."""
        folder, seen, raw, cpu, rate, look, links, told, started, pod = state
        return cls(
            folder=str(folder),
            seen_seconds=float(seen),
            raw_seconds=float(raw),
            cpu_seconds=float(cpu),
            rate=float(rate),
            links=int(links),
            look_seconds=float(look),
            told=Told.from_json(told),
            started_seconds=None if started is None else float(started),
            pod=str(pod),
        )


def _list_pids(path: str) -> list[int]:
    """The processes of a job, those of its script first; 0 stands for one outside this program's PID namespace."""
    pids: list[int] = []
    for folder, steps, _ in os.walk(path):
        # slurmstepd ("slurm", in v2) has no job's environment, and the outermost step is no more than a sleep.
        steps[:] = sorted((s for s in steps if s != "slurm"), key=lambda s: (s == "step_extern", s != "step_batch"))
        try:
            pids += map(int, read_bytes(f"{folder}/cgroup.procs").split())
        except (OSError, ValueError):
            continue  # the step ended meanwhile
    return pids


def _environment(proc: str, pid: int) -> dict[str, str] | None:
    """The environment of a process, empty where it has ended; None where it must not be read."""
    try:
        return read_environment(proc, pid)
    except PermissionError:
        return None
    except OSError:
        return {}


def _blindness(proc: str, *, all_hidden: bool, denied: bool) -> str:
    if all_hidden:
        return f"{proc}: has no processes of Slurm's jobs; show the exporter the host's (hostPID), or jobs lack names"
    if denied:
        return f"{proc}/PID/environ: permission denied; run as root with CAP_SYS_PTRACE, or Slurm's jobs lack names"
    return ""


def _start(proc: str, pid: int) -> float | None:
    try:
        return parse_process(read_process_line(proc, pid)).start_ticks / _TICKS_PER_SECOND
    except (OSError, ValueError, IndexError):
        return None  # it ended meanwhile


def _cpus_given(cgroups: Cgroups, folder: str) -> float | None:
    try:
        return float(cgroups.cpus_given(folder)) or None
    except (OSError, ValueError):
        return None  # Slurm binds jobs to no CPUs here


def _memory_limit(cgroups: Cgroups, folder: str) -> float | None:
    try:
        return cgroups.memory_limit_bytes(folder)
    except (OSError, ValueError):
        return None  # Slurm limits no memory here
