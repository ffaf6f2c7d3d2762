"""The nouns every room shares: readings, jobs and the two protocols that deliver them.

Nothing here does I/O and nothing here imports another module of this package.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeAlias

Component: TypeAlias = Literal["cpu", "dram", "gpu"]
COMPONENTS: Final[tuple[Component, ...]] = ("cpu", "dram", "gpu")
Json: TypeAlias = dict[str, Any]

JOULES_PER_KILOWATT_HOUR: Final = 3.6e6
LONGEST_NAME: Final = 200
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")


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
    """SM utilisation (0 to 1) of each process since the last reading; empty where the GPU does not tell."""
    mig: tuple["MigDevice", ...] = ()


@dataclass(frozen=True, slots=True)
class MigDevice:
    """A slice of a GPU in MIG mode."""

    uuid: str
    model: str
    instance: str
    """GPU and compute instance, "gi1/ci0"."""


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
    """What one training job has used up to one instant, and what it holds.

    `cpu_seconds` is cumulative since the job was first seen, over all its processes, and never goes back.
    `devices` are GPU names as the job declares them: "0", "GPU-...", "MIG-..."; unknown ones are ignored.
    """

    training_job: str
    resolver: str
    cpu_seconds: float = 0.0
    pids: frozenset[int] = frozenset()
    devices: frozenset[str] = frozenset()
    group: str = ""
    user: str = ""
    pod_namespace: str = ""


@dataclass(frozen=True, slots=True)
class ResolverReading:
    """The jobs running at one instant, as one resolver finds them."""

    jobs: tuple[JobUse, ...] = ()
    failures: tuple[str, ...] = ()


class Resolver(Protocol):
    """Finds jobs and what they used: one file in jobs/."""

    def read(self, now_seconds: float) -> ResolverReading:
        """The jobs alive now."""

    def state(self) -> Json:
        """As Source.state."""

    def restore(self, state: Json) -> None:
        """As Source.restore."""


@dataclass(frozen=True, slots=True)
class HostCpu:
    """CPU time of the whole host since boot, in seconds times CPUs: busy, and all there was (idle included)."""

    busy_seconds: float
    capacity_seconds: float
    cpus: int


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


def training_job_name(raw: str) -> str:
    """The name under which a job is counted: `raw`, made fit for a label and a URL.

    Both the node agent and the pushing job use this, so that they agree on every name, also on a hostile one.
    Control characters become "_"; a name of more than 200 characters keeps its first 180 and a hash of the whole.
    An empty name stays empty: no job.
    """
    name = _UNPRINTABLE.sub("_", raw.strip())
    if len(name) > LONGEST_NAME:
        digest = hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:16]
        name = f"{name[:180]}~{digest}"
    return name
