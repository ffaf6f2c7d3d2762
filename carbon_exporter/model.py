"""The nouns every room shares: readings, jobs and the two protocols that deliver them.

Nothing here does I/O and nothing here imports another module of this package.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeAlias

Component: TypeAlias = Literal["cpu", "dram", "gpu"]
COMPONENTS: Final[tuple[Component, ...]] = ("cpu", "dram", "gpu")
Json: TypeAlias = dict[str, Any]

JOULES_PER_KILOWATT_HOUR: Final = 3.6e6


class ConfigurationError(Exception):
    """Something the user wrote cannot be used; the message is one line that names the place and the cure."""


@dataclass(frozen=True, slots=True)
class Roots:
    """Where the kernel's trees are seen from here: /host/sys in a container, a test's own tree in a test."""

    sysfs: Path = Path("/sys")
    procfs: Path = Path("/proc")


@dataclass(frozen=True, slots=True)
class Gpu:
    """What NVML says about one physical GPU besides its energy. None stands for "not to be had"."""

    index: int
    model: str
    driver: str
    power_watts: float | None = None
    utilization_ratio: float | None = None
    pids: frozenset[int] = frozenset()
    sm_share_by_pid: Mapping[int, float] = field(default_factory=dict)
    """SM utilisation (0 to 1) of each process since the last reading, also of ended ones; empty where it is unknown."""
    mig: tuple["MigDevice", ...] = ()
    minor: int | None = None
    """N of its /dev/nvidiaN, by which device plugins name it."""


@dataclass(frozen=True, slots=True)
class MigDevice:
    """A slice of a GPU in MIG mode."""

    uuid: str
    model: str
    instance: str
    """GPU and compute instance, "gi1/ci0"."""
    share: float | None = None
    """Of the GPU's compute slices: 3/7 for 3g.20gb on an A100."""
    utilization_ratio: float | None = None
    """Use of the slice since the last reading, 0 to 1 of the slice itself."""
    pids: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class DeviceReading:
    """The energy of one device at one instant.

    Attributes:
        device: a name that stays the same over restarts: "package-0", "dram-1-die-0", a GPU's UUID.
        component: who shares it, or None for a domain that lies inside another one and is only published.
        energy_joules: cumulative, from an arbitrary start; never goes back.
        method: "rapl", "nvml counter", "nvml integrated" or "estimate".
        labels: the labels of the device's own energy metric.
        includes_idle: False where the joules are those of use alone (an estimate from CPU time).
    """

    device: str
    component: Component | None
    energy_joules: float
    method: str
    labels: Mapping[str, str] = field(default_factory=dict)
    includes_idle: bool = True
    gpu: Gpu | None = None


@dataclass(frozen=True, slots=True)
class SourceReading:
    """All devices of one source at one instant.

    `present` is False where such hardware does not exist on this host: that is no failure. Each failure is one
    line naming the device and the cure; a device that failed is missing from `devices`.
    """

    devices: tuple[DeviceReading, ...] = ()
    failures: tuple[str, ...] = ()
    present: bool = True


class Source(Protocol):
    """Joules out of one kind of hardware: one file in sources/."""

    def read(self, now_seconds: float) -> SourceReading:
        """Read every device; `now_seconds` is the monotonic clock. Never raises for a device that fails."""

    def state(self) -> Json:
        """What a restart needs so that the next reading continues this one."""

    def restore(self, state: Json) -> None:
        """Take up `state()` of an earlier process of the same boot; raises nothing, ignores what it cannot use."""

    def close(self) -> None:
        """Give back what the source holds."""

    def describe(self) -> str:
        """Where the joules come from, in words a person reads in a log or in `carbon-exporter check`."""


@dataclass(frozen=True, slots=True)
class JobUse:
    """One piece of a training job on this node, what it has used up to one instant and what it holds.

    Attributes:
        training_job: "" for work that belongs to no job and yet holds devices.
        resolver: who found it.
        unit: names the piece among all, and stays the same for its life: "pod UID", "slurm ID", "process NAME".
        cpu_seconds: cumulative since the piece was first seen; one that goes back has begun anew.
        pids: its processes, as far as the resolver knows them.
        devices: GPU names as the job declares them or as it was given them: "GPU-...", "MIG-...", "gpu0" (NVML's index,
            the order on the PCI bus), "nvidia0" and "nvidia0/gi1" (/dev/nvidiaN), or "0" as CUDA counts inside the job.
        cpus, memory_bytes: allocated to it; None where nobody says.
        started_seconds: when it began, on the clock of the readings; None where that is unknown.
        group: jobs alike.
        info: further labels of carbon_job_info.
    """

    training_job: str
    resolver: str
    unit: str = ""
    cpu_seconds: float = 0.0
    pids: frozenset[int] = frozenset()
    devices: frozenset[str] = frozenset()
    cpus: float | None = None
    memory_bytes: float | None = None
    started_seconds: float | None = None
    group: str = ""
    info: Mapping[str, str] = field(default_factory=dict)

    def grown(self, cpu_seconds: float, pids: frozenset[int]) -> "JobUse":
        """The same piece later on. (dataclasses.replace takes twice the time, for every job at every tick.)"""
        return JobUse(
            self.training_job,
            self.resolver,
            self.unit,
            cpu_seconds,
            pids,
            self.devices,
            self.cpus,
            self.memory_bytes,
            self.started_seconds,
            self.group,
            self.info,
        )


@dataclass(frozen=True, slots=True)
class ResolverReading:
    """The jobs running at one instant, as one resolver finds them.

    `present` is False where there is no such scheduler on this host: that is no failure. `claimed` are kinds of units
    ("pod") that are this resolver's business as a whole; the units of its jobs are anyway.
    """

    jobs: tuple[JobUse, ...] = ()
    failures: tuple[str, ...] = ()
    present: bool = True
    claimed: frozenset[str] = frozenset()


class Resolver(Protocol):
    """Finds jobs and what they used: one file in jobs/."""

    def read(self, now_seconds: float, gpu_pids: frozenset[int], claimed: frozenset[str]) -> ResolverReading:
        """The jobs alive now. Never blocks: what takes long is asked for in the background.

        Args:
            now_seconds: seconds since boot, which process start times are in too.
            gpu_pids: the processes that hold a GPU now: the resolver names those that are its own.
            claimed: units, and kinds of units, of resolvers before: what is in one of them must be left out.
        """

    def state(self) -> Json:
        """As Source.state."""

    def restore(self, state: Json) -> None:
        """As Source.restore."""

    def close(self) -> None:
        """Give back what the resolver holds."""


@dataclass(frozen=True, slots=True)
class HostCpu:
    """CPU time of the whole host since boot, in seconds times CPUs: busy, and all there was (idle included).

    `memory_bytes` is all its memory; None where it is unknown.
    """

    busy_seconds: float
    capacity_seconds: float
    cpus: int
    memory_bytes: float | None = None


@dataclass(frozen=True, slots=True)
class Intensity:
    """Grams of CO2eq for a kilowatt-hour from the grid, and how good the number is.

    `fallback_level`: 0 as asked for, 1 stale, 2 the country's yearly mean, 3 the world's.
    `data_timestamp_seconds`: the time that the value is for (Unix), None where it is for no particular time.
    """

    grams_per_kilowatt_hour: float
    grid_zone: str
    provider: str
    basis: str
    signal: str = "average"
    estimated: bool = False
    fallback_level: int = 0
    data_timestamp_seconds: float | None = None


class IntensityProvider(Protocol):
    """Grams per kilowatt-hour: one file in intensity/."""

    def current(self) -> Intensity:
        """The intensity to count with now; answers from memory."""
