"""Compares what the devices measured with the ledger's books, for an audit.

"Measured" is the rise of each device's own reading, taken from the published ticks: the ledger's own sum of it is not
asked, or a mistake of the ledger would stand on both sides.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from carbon_exporter.model import COMPONENTS, Component, DeviceReading
from carbon_exporter.node.ledger import Reason
from carbon_exporter.node.sampler import Tick

TOLERANCE: Final = 1e-6
"""Of the measured joules: the books are closed where no more than that is missing or too much."""


@dataclass(frozen=True, slots=True)
class Line:
    """The books of one component, in joules."""

    component: Component
    measured: float
    jobs: float
    idle: float
    system: float
    equally_shared: float
    estimated: bool

    @property
    def difference(self) -> float:
        """What was measured and stands nowhere; below 0 what stands somewhere and was not measured."""
        return self.measured - math.fsum((self.jobs, self.idle, self.system))

    @property
    def closed(self) -> bool:
        """Whether the difference is but rounding."""
        return abs(self.difference) <= TOLERANCE * abs(self.measured)


@dataclass(frozen=True, slots=True)
class JobLine:
    """What the ledger gave to one job."""

    name: str
    resolver: str
    energy_joules: Mapping[Component, float]


@dataclass(slots=True)
class _Watched:
    """One device from its first reading to its last."""

    first: DeviceReading
    last: DeviceReading
    ticks: int = 1
    missed: int = 0
    went_back_joules: float = 0.0

    def take(self, reading: DeviceReading) -> None:
        self.went_back_joules += max(0.0, self.last.energy_joules - reading.energy_joules)
        self.last = reading
        self.ticks += 1

    @property
    def joules(self) -> float:
        return self.last.energy_joules - self.first.energy_joules


class Balance:
    """Takes every tick of a sampler that began with empty books, and balances all so far.

    Attributes:
        ticks: how many it took.
        jobs: what the ledger had given to each job at the last of them.
    """

    def __init__(self) -> None:
        self.ticks = 0
        self.jobs: list[JobLine] = []
        self._devices: dict[str, _Watched] = {}
        self._unattributed: Mapping[tuple[Component, Reason], float] = {}
        self._equally_shared: Mapping[Component, float] = {}
        self._failures: Mapping[str, int] = {}

    def take(self, tick: Tick) -> None:
        """Note the devices' readings, and copy the books: the ledger goes on with them."""
        self.ticks += 1
        readings = {reading.device: reading for reading in tick.devices if reading.component is not None}
        for device, reading in readings.items():
            if device in self._devices:
                self._devices[device].take(reading)
            else:
                self._devices[device] = _Watched(reading, reading)
        for device in self._devices.keys() - readings.keys():
            self._devices[device].missed += 1
        accounts = tick.ledger.accounts.items()
        self.jobs = [JobLine(name, a.use.resolver, dict(a.energy_joules)) for name, a in accounts]
        self._unattributed = dict(tick.ledger.unattributed_joules)
        self._equally_shared = dict(tick.ledger.equally_shared_joules)
        self._failures = {name: record.failures for name, record in tick.records.items() if record.failures}

    def lines(self) -> list[Line]:
        """One for each component that a device was read of."""
        devices: dict[Component, list[_Watched]] = defaultdict(list)
        for watched in self._devices.values():
            if watched.first.component is not None:
                devices[watched.first.component].append(watched)
        return [self._line(component, devices[component]) for component in COMPONENTS if component in devices]

    def _line(self, component: Component, devices: list[_Watched]) -> Line:
        return Line(
            component=component,
            measured=math.fsum(watched.joules for watched in devices),
            jobs=math.fsum(job.energy_joules.get(component, 0.0) for job in self.jobs),
            idle=self._unattributed.get((component, "idle"), 0.0),
            system=self._unattributed.get((component, "system"), 0.0),
            equally_shared=self._equally_shared.get(component, 0.0),
            estimated=any(watched.last.method == "estimate" for watched in devices),
        )

    def notes(self) -> Iterator[str]:
        """What a reader of the balance must know: devices that vanished or went back, collectors that failed."""
        for name, watched in self._devices.items():
            if watched.missed:
                yield f"{name}: vanished, not there at {watched.missed} of {watched.missed + watched.ticks} readings"
            if watched.went_back_joules:
                yield f"{name}: was reset, its reading went back by {watched.went_back_joules:.3f} J"
        for collector, failures in self._failures.items():
            yield f"{collector}: failed at {failures} of {self.ticks} readings, see the log"
