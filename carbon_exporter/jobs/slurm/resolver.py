"""Reads the CPU time of Slurm's jobs, and gives those that ended what they used after their last reading.

A tick lists the folders and reads one counter of each job. The processes of a job are looked at when it is first seen,
until one has told its name, when a step or a process on a GPU came, and else at twice its age, at least every five
minutes.
"""

import errno
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from carbon_exporter.cgroups import Cgroups, read_unit
from carbon_exporter.jobs.slurm.folders import has_unaccounted_jobs, list_jobs, list_tops
from carbon_exporter.jobs.slurm.job import Job
from carbon_exporter.model import JobUse, Json, ResolverReading

LONGEST_PAUSE_SECONDS: Final = 300.0
"""Between two looks at a job's processes."""
YOUNG_SECONDS: Final = 60.0
"""A job without a name is looked at in every tick for so long."""
LOOKS_PER_TICK: Final = 3
"""At jobs that were looked at before: many of the same age must not make one long tick."""
_log = logging.getLogger(__name__)


class SlurmResolver:
    """Implements model.Resolver over `cgroups` and the processes in `proc`."""

    def __init__(self, cgroups: Cgroups, proc: str) -> None:
        self._cgroups = cgroups
        self._proc = proc
        self._jobs: dict[str, Job] = {}
        # CPU time of each top, in which that of ended jobs stays.
        self._tops: dict[str, float] = {}
        self._read_seconds: float | None = None
        self._unit_of_pid: dict[int, str] = {}

    def read(
        self, now_seconds: float, gpu_pids: frozenset[int] = frozenset(), claimed: frozenset[str] = frozenset()
    ) -> ResolverReading:
        """The jobs alive now, and once more, with all they have used, those that ended since the last reading."""
        failures: list[str] = []
        elapsed = max(1e-3, now_seconds - self._read_seconds) if self._read_seconds is not None else float("inf")
        tops, before = self._read_tops(failures), self._jobs
        jobs: dict[str, Job] = {}
        ended: list[Job] = []
        for top, raw_seconds in tops.items():
            found, rise = self._advance(top, now_seconds, elapsed, failures)
            gone = [job for folder, job in before.items() if folder.startswith(f"{top}/") and folder not in found]
            if raw_seconds is not None and top in self._tops:
                _finish(gone, max(0.0, raw_seconds - self._tops[top] - rise), elapsed)
            jobs |= found
            ended += gone
        self._jobs, self._read_seconds = jobs, now_seconds
        self._tops = {top: seconds for top, seconds in tops.items() if seconds is not None}
        pids = self._pids_by_unit(gpu_pids)
        self._look(now_seconds, pids)
        uses = {job.unit: _last_use(job) for job in ended}
        for job in self._jobs.values():
            # A job that began just now may have no process yet: what it is called is known a tick later.
            if job.told.name or job.blind or job.seen_seconds < now_seconds:
                uses[job.unit] = job.describe(pids.get(job.unit, frozenset()))
        if claimed:
            for job in (*self._jobs.values(), *ended):
                if job.unit in claimed or job.pod in claimed:
                    uses.pop(job.unit, None)
        failures += {job.blind for job in self._jobs.values() if job.blind}
        # Also of a job not told yet: its processes must not be counted one by one meanwhile.
        kinds = frozenset({"slurm"}) if tops else frozenset[str]()
        return ResolverReading(tuple(uses.values()), tuple(failures), present=bool(tops or failures), claimed=kinds)

    def _read_tops(self, failures: list[str]) -> dict[str, float | None]:
        """The CPU time of each top; None where it cannot be read just now."""
        found = {top: self._cpu_seconds(top, failures) for top in list_tops(self._cgroups)}
        if not found and has_unaccounted_jobs(self._cgroups):
            failures.append(
                f"{self._cgroups.cpu}: Slurm makes no control groups here, so that its jobs are not found; "
                "set JobAcctGatherType=jobacct_gather/cgroup in slurm.conf"
            )
        return found

    def _cpu_seconds(self, folder: str, failures: list[str]) -> float | None:
        """None where it cannot be read: because the folder is gone, or else with a failure."""
        try:
            return self._cgroups.cpu_seconds(folder)
        except (OSError, ValueError) as error:
            if not isinstance(error, OSError) or error.errno not in (errno.ENOENT, errno.ENODEV):
                failures.append(f"{self._cgroups.cpu}/{folder}: CPU time cannot be read: {error}")
            return None

    def _advance(
        self, top: str, now_seconds: float, elapsed: float, failures: list[str]
    ) -> tuple[dict[str, Job], float]:
        """The jobs in `top` by folder, and how much CPU time they have used since the last reading, all in all."""
        jobs: dict[str, Job] = {}
        rises = 0.0
        for folder in list_jobs(self._cgroups, top):
            before, failed = self._jobs.get(folder), len(failures)
            raw_seconds = self._cpu_seconds(folder, failures)
            if raw_seconds is None:
                if before is not None and len(failures) > failed:
                    jobs[folder] = before
                continue
            job = jobs[folder] = self._job(folder, before, raw_seconds, now_seconds)
            rise = raw_seconds - job.raw_seconds
            job.raw_seconds, job.rate = raw_seconds, rise / elapsed
            job.cpu_seconds += rise
            rises += rise
        return jobs, rises

    def _job(self, folder: str, before: Job | None, raw_seconds: float, now_seconds: float) -> Job:
        """The job in `folder` as it was before, or a new one: it counts whole unless it is older than this program."""
        if before is None:
            return Job(folder, now_seconds, raw_seconds if self._read_seconds is None else 0.0)
        if raw_seconds < before.raw_seconds:
            # It was requeued: another folder has its name.
            return Job(folder, now_seconds, cpu_seconds=before.cpu_seconds)
        return before

    def _pids_by_unit(self, gpu_pids: frozenset[int]) -> dict[str, frozenset[int]]:
        known = self._unit_of_pid
        self._unit_of_pid = {p: known[p] if p in known else read_unit(self._proc, p) for p in gpu_pids}
        pids: dict[str, frozenset[int]] = {}
        for pid, unit in self._unit_of_pid.items():
            pids[unit] = pids.get(unit, frozenset()) | {pid}
        return pids

    def _look(self, now_seconds: float, pids: Mapping[str, frozenset[int]]) -> None:
        """Look at the processes of the jobs whose turn it is: of all new ones, and of some others."""
        looks = 0
        for job in self._jobs.values():
            # Its first processes come soon: what it uses until then must not be counted under another name.
            is_new = not job.told.name and not job.blind and now_seconds - job.seen_seconds < YOUNG_SECONDS
            if looks >= LOOKS_PER_TICK and not is_new:
                continue
            links = _links(f"{self._cgroups.cpu}/{job.folder}")
            new_on_gpu = bool(pids) and job.use is not None and pids.get(job.unit, frozenset()) - job.use.pids
            if is_new or now_seconds >= job.look_seconds or links > job.links or new_on_gpu:
                looks += not is_new
                job.look(self._cgroups, self._proc)
                job.look_seconds = now_seconds + min(now_seconds - job.seen_seconds, LONGEST_PAUSE_SECONDS)
            job.links = links

    def state(self) -> Json:
        """The jobs as last read, and the CPU time of each top."""
        return {
            "read_seconds": self._read_seconds,
            "tops": self._tops,
            "jobs": [job.to_json() for job in self._jobs.values()],
        }

    def restore(self, state: Json) -> None:
        """Take up the jobs of an earlier process of the same boot; what it cannot use it leaves out."""
        try:
            jobs = [Job.from_json(job) for job in state["jobs"]]
            tops = {str(top): float(seconds) for top, seconds in state["tops"].items()}
            read_seconds = float(state["read_seconds"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            _log.warning("state of jobs.slurm is not usable (%r): jobs count from now on", error)
            return
        self._jobs = {job.folder: job for job in jobs}
        self._tops, self._read_seconds = tops, read_seconds

    def close(self) -> None:
        """Hold nothing."""


def _last_use(job: Job) -> JobUse:
    """An ended job with all it used; it holds nothing any more."""
    return replace(job.describe(frozenset()), devices=frozenset(), cpus=None, memory_bytes=None)


def _finish(gone: list[Job], left_seconds: float, elapsed: float) -> None:
    """Give the jobs that ended the CPU time that is left of their top's, by their last rates.

    For one job that is exactly what it used before its end, unless another one came and went unseen meanwhile; none
    gets more than it can have used on its CPUs.
    """
    rates = sum(job.rate for job in gone)
    for job in gone:
        share = left_seconds * (job.rate / rates if rates > 0 else 1 / len(gone))
        job.cpu_seconds += min(share, job.told.cpus * elapsed) if job.told.cpus else share


def _links(path: str) -> int:
    try:
        return os.stat(path).st_nlink  # noqa: PTH116
    except OSError:
        return 0  # it ended meanwhile
