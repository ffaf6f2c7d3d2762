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
HOUR_SECONDS: Final = 3600
LAST_SECONDS: Final = 253_402_300_800.0
"""The end of the year 9999 (Unix time): for ever, also where JSON has no infinity."""


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
    power_limit_watts: float | None = None
    """The limit that the driver enforces, the least of all that are set."""


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
class Span:
    """Grams of CO2eq for a kilowatt-hour over a stretch of time (Unix seconds, the end excluded).

    `estimated`: modelled or forecast, not measured.
    """

    start_seconds: float
    end_seconds: float
    grams_per_kilowatt_hour: float
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class GridReading:
    """What a provider says of one zone: spans in order of time, disjoint, with or without those to come.

    Attributes:
        provider: who says so; that of the answer where it comes second-hand (`cluster`).
        basis: lifecycle, direct, operational or unspecified.
        fallback_level: as in Intensity, of the provider's own doing.
        data_timestamp_seconds: the time that the value is for where the spans do not say it (of a yearly mean the end
            of its year), else None.
    """

    spans: tuple[Span, ...]
    provider: str
    basis: str
    signal: str = "average"
    fallback_level: int = 0
    data_timestamp_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Traits:
    """What a provider can, and how it wants to be asked; all times in seconds.

    Attributes:
        provider: its name in the configuration.
        basis: what its grams count: lifecycle, direct, operational or unspecified.
        zones: the zones it knows, in words.
        licence: the line that its terms ask for.
        signal: "average" or "marginal".
        resolution_seconds: length of its spans.
        refresh_seconds: from one question to the next; infinite where the answer never changes.
        lag_seconds: how old its newest value usually is at most.
        fresh_seconds: how old its newest value may be to be used still.
        horizon_seconds: how far its own forecast goes; 0: `predict` is not to be asked.
        pace_seconds: least time between two questions to it, whatever the zone.
        keeps_estimates: no better values of the past may come than its estimates, so that these are its record.
    """

    provider: str
    basis: str
    zones: str
    licence: str
    signal: str = "average"
    resolution_seconds: float = 3600.0
    refresh_seconds: float = 900.0
    lag_seconds: float = 3600.0
    fresh_seconds: float = 10_800.0
    horizon_seconds: float = 0.0
    pace_seconds: float = 0.5
    keeps_estimates: bool = False


class GridProvider(Protocol):
    """The intensity of one grid zone, from one service: one file in intensity/."""

    traits: Traits

    def observe(self, web: "Web", since_seconds: float, now_seconds: float) -> GridReading:
        """The spans from `since_seconds`, as far back as the service goes, to the one that covers now and beyond.

        Raises:
            ProviderError: there is no usable answer.
        """

    def predict(self, web: "Web", now_seconds: float) -> GridReading:
        """The service's own forecast, from now on; raises as `observe`."""


@dataclass(frozen=True, slots=True)
class Intensity:
    """Grams of CO2eq for a kilowatt-hour from the grid, as it is counted with now, and how good the number is.

    `fallback_level`: 0 as asked for, 1 last good value, 2 the country's yearly mean, 3 the world's.
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


FetchFailure: TypeAlias = Literal[
    "auth", "forbidden", "rate_limit", "timeout", "unreachable", "server", "parse", "empty", "zone_mismatch"
]


class ProviderError(Exception):
    """A provider gave no usable answer; the message is one line with the URL (no query), the cause and the cure.

    Attributes:
        reason: what `carbon_intensity_fetch_errors_total` counts it under.
        retry_after_seconds: how long the service asks to be left alone; None where it does not say.
    """

    def __init__(self, reason: FetchFailure, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True, slots=True)
class WebAnswer:
    """A whole answer of at most the allowed size. `url` is without its query; header names are in lower case."""

    url: str
    status: int
    body: bytes
    headers: Mapping[str, str]


class Web(Protocol):
    """Asks over HTTP within bounds of time and size. Implemented once, in grid/web.py."""

    def get(
        self,
        url: str,
        parameters: Mapping[str, str] = ...,
        headers: Mapping[str, str] = ...,
        auth: tuple[str, str] | None = None,
    ) -> WebAnswer:
        """One GET; redirects are not followed, and any status is an answer. `auth`: user and password for HTTP Basic,
        in UTF-8.

        Raises:
            ProviderError: "timeout" or "unreachable", or "parse" where the answer is too large or cut off.
        """
