"""Where slurmd keeps its jobs among the control groups.

    v1, in the hierarchy of cpuacct:  slurm_NODE/uid_1000/job_4711  (slurm/... in other builds of Slurm)
    v2:                               system.slice/slurmstepd.scope/job_4711  (NODE_slurmstepd.scope/...)

A top is the folder that holds all jobs of one slurmd; folders are given as carbon_exporter.cgroups takes them. Every
function raises OSError where what is there cannot be listed.
"""

import os
from collections.abc import Iterator

from carbon_exporter.cgroups import Cgroups


def list_tops(cgroups: Cgroups) -> list[str]:
    """The tops of this host; none where no slurmd has run since the boot."""
    if not cgroups.unified:
        names = _names_in(f"{cgroups.cpu}", "slurm")
        return [name for name in names if name == "slurm" or name.startswith("slurm_")]
    names = _names_in(f"{cgroups.cpu}/system.slice", "")
    return [f"system.slice/{n}" for n in names if n == "slurmstepd.scope" or n.endswith("_slurmstepd.scope")]


def has_unaccounted_jobs(cgroups: Cgroups) -> bool:
    """Whether Slurm makes control groups for processes and none for their CPU time (v1: JobAcctGatherType)."""
    return not cgroups.unified and bool(_names_in(f"{cgroups.cpu.parent}/freezer", "slurm")) and not list_tops(cgroups)


def list_jobs(cgroups: Cgroups, top: str) -> Iterator[str]:
    """The folders of the jobs in `top`."""
    holders = [top] if cgroups.unified else [f"{top}/{name}" for name in _names_in(f"{cgroups.cpu}/{top}", "uid_")]
    for holder in holders:
        for name in _names_in(f"{cgroups.cpu}/{holder}", "job_"):
            if job_number(name).isdigit():
                yield f"{holder}/{name}"


def job_number(folder: str) -> str:
    """Slurm's number of the job in `folder`."""
    return folder.rpartition("job_")[2]


def _names_in(path: str, beginning: str) -> list[str]:
    try:
        return [name for name in os.listdir(path) if name.startswith(beginning)]  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError):
        return []  # not there, or gone meanwhile
