"""Jobs of Slurm on this node, found by the control groups that slurmd makes for them; no daemon of Slurm is asked."""

from typing import Final

from carbon_exporter import settings
from carbon_exporter.cgroups import Cgroups
from carbon_exporter.jobs.slurm.resolver import SlurmResolver
from carbon_exporter.model import Roots

RANK: Final = 1
"""Resolvers of lower rank come first, and keep what they claim."""
ABSENT: Final = "no control groups of slurmd: it has run no job here since the boot"


class Settings(settings.Settings):
    """jobs.slurm has no settings: it can be switched off."""


def open_resolver(chosen: Settings, roots: Roots) -> SlurmResolver:
    """The resolver over the control groups in `roots.sysfs` and the processes in `roots.procfs`."""
    del chosen
    return SlurmResolver(Cgroups(roots.sysfs / "fs/cgroup"), str(roots.procfs))
