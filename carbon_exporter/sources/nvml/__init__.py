"""Joules of NVIDIA GPUs through NVML, and who is on them (NVML API reference; the module pynvml binds the library).

Every driver tells energy or power; processes are told from driver 510 on, the use of MIG slices from Hopper on.
"""

from typing import Final

from pydantic import PositiveFloat

from carbon_exporter import settings
from carbon_exporter.model import Roots
from carbon_exporter.sources.nvml.source import NvmlSource

ABSENT: Final = "no NVIDIA driver (libnvidia-ml.so.1): nothing to do on a host without such GPUs"


class Settings(settings.Settings):
    """Settings of sources.nvml.

    `retry_seconds`: a driver or GPU that is absent or fails is initialised again after 0, 1, 2, 4 ... seconds and
    then this often. `longest_gap_seconds`: a GPU without an energy counter has its power integrated over intervals up
    to this long; what it used in a longer one is unknown and not counted. `mig_utilization`: ask GPUs that can tell
    how busy each MIG slice was.
    """

    retry_seconds: PositiveFloat = 60.0
    longest_gap_seconds: PositiveFloat = 60.0
    mig_utilization: bool = True


def open_source(chosen: Settings, roots: Roots) -> NvmlSource:
    """The source; the library is loaded at the first reading. `roots.procfs` tells no GPU from one without library."""
    return NvmlSource(
        roots.procfs,
        retry_seconds=chosen.retry_seconds,
        longest_gap_seconds=chosen.longest_gap_seconds,
        mig_utilization=chosen.mig_utilization,
    )
