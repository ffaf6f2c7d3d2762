"""What the ledger keeps of jobs, their pieces and the devices, and how each is written to the state file. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from carbon_exporter.model import COMPONENTS, Component, HostCpu, JobUse, Json
from carbon_exporter.node.shares import Uses


@dataclass(slots=True)
class Account:
    """What one job has had on this node since it was first seen.

    `use` is the piece of it that was found first, by which it is described; `cpu_seconds` is of all its pieces.
    """

    use: JobUse
    last_seen_seconds: float
    energy_joules: dict[Component, float] = field(default_factory=dict)
    emissions_grams: dict[Component, float] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    gpus: int = 0

    def to_json(self) -> Json:
        """Few keys and a whole second: writing all accounts at every tick is a sixth of its time."""
        return {
            "use": [self.use.resolver, self.use.group, self.use.info],
            "seen": [int(self.last_seen_seconds), self.cpu_seconds],
            "energy": self.energy_joules,
            "emissions": self.emissions_grams,
        }

    @classmethod
    def from_json(cls, name: str, state: Any) -> "Account":
        """The account that `to_json` described; raises as `amount` and for another shape."""
        resolver, group, info = state["use"]
        last_seen_seconds, cpu_seconds = state["seen"]
        labels = {str(label): str(value) for label, value in info.items()}
        use = JobUse(str(name), str(resolver), group=str(group), info=labels)
        energy, emissions = amounts(state["energy"]), amounts(state["emissions"])
        return cls(use, amount(last_seen_seconds), energy, emissions, amount(cpu_seconds))


@dataclass(slots=True)
class Piece:
    """A piece of a job as last seen."""

    use: JobUse
    seen_seconds: float

    def to_json(self) -> list[Any]:
        """As short as can be: there is one at every tick for every pod."""
        return [self.use.training_job, self.use.cpu_seconds, int(self.seen_seconds)]

    @classmethod
    def from_json(cls, unit: str, state: Any) -> "Piece":
        """The piece that `to_json` described; raises as `Account.from_json`."""
        name, cpu_seconds, seen_seconds = state
        return cls(JobUse(str(name), "", str(unit), amount(cpu_seconds)), amount(seen_seconds))


@dataclass(frozen=True, slots=True)
class Device:
    """A device as last read: its energy, when that was, the CPU times then, and who held each part of it."""

    energy_joules: float
    seconds: float
    uses: Uses
    holders: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def to_json(self, uses_index: int) -> list[Any]:
        """The CPU times, which devices share, stand elsewhere, at `uses_index`."""
        holders = {part: sorted(names) for part, names in self.holders.items() if names}
        return [self.energy_joules, self.seconds, uses_index, holders]

    @classmethod
    def from_json(cls, state: Any, uses: Sequence[Uses]) -> "Device":
        """The device that `to_json` described; raises as `Account.from_json`."""
        joules, seconds, index, holders = state
        parts = {str(part): frozenset(map(str, names)) for part, names in holders.items()}
        return cls(amount(joules), amount(seconds), uses[index], parts)


def uses_to_json(uses: Uses) -> list[Any]:
    """For `uses_from_json`."""
    return [dict(uses.cpu_seconds), uses.host.busy_seconds, uses.host.capacity_seconds, uses.host.cpus]


def uses_from_json(state: Any) -> Uses:
    """The CPU times that `uses_to_json` described; raises as `Account.from_json`."""
    cpu_seconds, busy, capacity, cpus = state
    host = HostCpu(amount(busy), amount(capacity), int(cpus))
    return Uses({str(name): amount(seconds) for name, seconds in cpu_seconds.items()}, host)


def amounts(state: Any) -> dict[Component, float]:
    """Amounts by component.

    Raises:
        TypeError, ValueError, AttributeError: there is another component in it, or something that is no amount.
    """
    if not state.keys() <= set(COMPONENTS):
        raise ValueError(f"unknown component among {list(state)}")
    return {component: amount(value) for component, value in state.items()}


def amount(value: Any) -> float:
    """`value` as a number that a cumulative total can be.

    Raises:
        TypeError, ValueError: it is none: not a number, not finite, or negative.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    if not 0 <= value < math.inf:
        raise ValueError(f"{value!r} is no amount")
    return float(value)
