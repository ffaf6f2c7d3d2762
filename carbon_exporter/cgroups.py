"""Reads what control groups say about CPU time and allocation (cgroups(7)), v1 and v2; the root is an argument.

A unit is a piece of work that a scheduler keeps in a control group of its own: "pod UID" or "slurm ID".
"""

import contextlib
import math
import re
from pathlib import Path
from typing import Final

from carbon_exporter.model import Json
from carbon_exporter.procfs import read_bytes

_POD: Final = re.compile(r"pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?![0-9a-f])")
_SLURM: Final = re.compile(r"(?:/slurm[^/]*|[/_]slurmstepd\.scope)(?:/uid_\d+)?/job_(\d+)(?:/|$)", re.MULTILINE)


def pod_unit(uid: str) -> str:
    """The unit of the pod with this UID; the systemd driver writes "_" for "-"."""
    return f"pod {uid.replace('_', '-')}"


def slurm_unit(job_id: str) -> str:
    """The unit of this Slurm job."""
    return f"slurm {job_id}"


def unit_of(text: str) -> str:
    """The unit that a process belongs to, from its /proc/PID/cgroup; "" where it is in none."""
    # Below user.slice users may make folders of any name.
    lines = "\n".join(line for line in text.splitlines() if "/user.slice/" not in line)
    if pod := _POD.search(lines):
        return pod_unit(pod[1])
    if job := _SLURM.search(lines):
        return slurm_unit(job[1])
    return ""


def read_unit(proc: str, pid: int) -> str:
    """The unit that `pid` belongs to; "" where it is in none, or gone.

    Under a /proc that shows other processes than this program's own (no hostPID) the answer means nothing.
    """
    try:
        return unit_of(read_bytes(f"{proc}/{pid}/cgroup").decode("utf-8", "replace"))
    except OSError:
        return ""


class Cgroups:
    """The hierarchies under `root` (/sys/fs/cgroup): one for all in v2, one for each controller in v1.

    A folder is given relative to its hierarchy, and is the same in each: "kubepods/burstable/pod1234".
    Every method raises OSError or ValueError where the kernel has no such folder or says nothing readable.
    """

    def __init__(self, root: Path) -> None:
        self.unified = (root / "cgroup.controllers").is_file()
        self.cpu, self.memory, self._cpuset = (root, root, root)
        if not self.unified:
            joined = root / "cpu,cpuacct"
            self.cpu = joined if joined.is_dir() else root / "cpuacct"
            self._quota = joined if joined.is_dir() else root / "cpu"
            self.memory, self._cpuset = root / "memory", root / "cpuset"

    def cpu_seconds(self, folder: str) -> float:
        """CPU time of all that ever ran in `folder` and below."""
        if self.unified:
            # usage_usec is the first line, also without the cpu controller.
            first, _, _ = read_bytes(f"{self.cpu}/{folder}/cpu.stat").partition(b"\n")
            return int(first.removeprefix(b"usage_usec ")) / 1e6
        return int(read_bytes(f"{self.cpu}/{folder}/cpuacct.usage")) / 1e9

    def cpus_given(self, folder: str) -> int:
        """How many CPUs `folder` was given by their numbers; 0 where it may run wherever its parent may (v2)."""
        return _count_list(read_bytes(self._cpuset / folder / "cpuset.cpus").decode())

    def cpu_quota(self, folder: str) -> float | None:
        """How many CPUs' time `folder` may use; None without a limit."""
        if self.unified:
            quota, period = read_bytes(self.cpu / folder / "cpu.max").split()
        else:
            quota = read_bytes(self._quota / folder / "cpu.cfs_quota_us").strip()
            period = read_bytes(self._quota / folder / "cpu.cfs_period_us").strip()
        return None if quota in (b"max", b"-1") else int(quota) / int(period)

    def memory_limit_bytes(self, folder: str) -> float | None:
        """How much memory `folder` may hold; None without a limit."""
        name = "memory.max" if self.unified else "memory.limit_in_bytes"
        text = read_bytes(self.memory / folder / name).strip()
        # v1 writes the largest number of pages for "no limit".
        return None if text == b"max" or int(text) > 1 << 60 else float(text)


def _count_list(text: str) -> int:
    """How many numbers a kernel list such as "0-3,8" names."""
    total = 0
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        total += int(last or first) - int(first) + 1
    return total


class CpuTimes:
    """CPU seconds of units since each was first seen; its state is what a restart needs to go on."""

    def __init__(self) -> None:
        self._baselines: dict[str, float] = {}

    def since_seen(self, unit: str, raw_seconds: float, *, fresh: bool) -> float:
        """What `unit` has used since it was first seen, or since its beginning where it was `fresh` then."""
        baseline = self._baselines.get(unit)
        if baseline is None:
            baseline = self._baselines[unit] = 0.0 if fresh else raw_seconds
        elif raw_seconds < baseline:
            baseline = self._baselines[unit] = 0.0  # its folder was made anew
        return raw_seconds - baseline

    def keep(self, units: set[str]) -> None:
        """Forget all but `units`."""
        if not self._baselines.keys() <= units:
            self._baselines = {unit: value for unit, value in self._baselines.items() if unit in units}

    def state(self) -> Json:
        """The baselines."""
        return dict(self._baselines)

    def restore(self, state: Json) -> None:
        """Take up `state()`; entries that are no numbers are left out."""
        for unit, value in state.items():
            with contextlib.suppress(TypeError, ValueError):
                if math.isfinite(float(value)):
                    self._baselines[str(unit)] = float(value)
