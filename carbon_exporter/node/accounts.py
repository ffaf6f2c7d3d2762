"""What the ledger keeps of jobs, their pieces and the devices, and how each is written to the state file. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from carbon_exporter.model import COMPONENTS, Component, HostCpu, JobUse, Json
from carbon_exporter.node.embodied import PARTS, Part
from carbon_exporter.node.shares import Uses

Kind = TypeVar("Kind", bound=str)


@dataclass(slots=True)
class Account:
    """What one job has had on this node since it was first seen.

    Attributes:
        use: the piece of it that was found first, by which it is described.
        emissions_grams: by what they count (the basis) and component; never goes back.
        owed_grams: as emissions_grams, what was counted too much: the next grams are taken for it.
        waiting_joules: those whose intensity is not known yet, and which no grams are counted for.
        market_grams: by the market-based factor; empty without one.
        embodied_grams: its share of what it took to make the hardware; empty where that is not given.
        cpu_seconds: of all its pieces.
        gpus, gpu_power_limit_watts: the physical GPUs that it holds now, and the sum of their power limits; None where
            it holds none, or the limit of one is unknown.
        gpu_uuids: those GPUs, or the MIG devices that it holds of them.
    """

    use: JobUse
    last_seen_seconds: float
    energy_joules: dict[Component, float] = field(default_factory=dict)
    emissions_grams: dict[str, dict[Component, float]] = field(default_factory=dict)
    owed_grams: dict[str, dict[Component, float]] = field(default_factory=dict)
    waiting_joules: dict[Component, float] = field(default_factory=dict)
    market_grams: dict[Component, float] = field(default_factory=dict)
    embodied_grams: dict[Part, float] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    gpus: int = 0
    gpu_power_limit_watts: float | None = None
    gpu_uuids: tuple[str, ...] = ()

    def post(self, component: Component, joules: float, basis: str | None, grams_per_joule: float | None) -> None:
        """Add joules, and the grams for them where the intensity is known."""
        energy = self.energy_joules
        energy[component] = energy.get(component, 0.0) + joules
        if basis is None or grams_per_joule is None:
            self.waiting_joules[component] = self.waiting_joules.get(component, 0.0) + joules
        else:
            self.count(component, basis, joules * grams_per_joule)

    def count(self, component: Component, basis: str, grams: float) -> None:
        """Add grams. Where they are negative they are owed, and what comes next is taken for them first."""
        if grams < 0 or self.owed_grams:
            grams = self._settle(component, basis, grams)
        counted = self.emissions_grams.get(basis)
        if counted is None:
            counted = self.emissions_grams[basis] = {}
        counted[component] = counted.get(component, 0.0) + grams

    def embody(self, part: Part, grams: float) -> None:
        """Add grams that it took to make the hardware."""
        self.embodied_grams[part] = self.embodied_grams.get(part, 0.0) + grams

    def _settle(self, component: Component, basis: str, grams: float) -> float:
        """What is left of `grams` when what is owed has been paid; what it does not suffice for is owed still."""
        owed = self.owed_grams.get(basis, {}).pop(component, 0.0) - grams
        self.owed_grams = {name: debts for name, debts in self.owed_grams.items() if debts}
        if owed > 0:
            self.owed_grams.setdefault(basis, {})[component] = owed
        return max(0.0, -owed)

    def to_json(self) -> Json:
        """Few keys and a whole second: writing all accounts at every tick is a sixth of its time."""
        state: Json = {
            "use": [self.use.resolver, self.use.group, self.use.info],
            "seen": [int(self.last_seen_seconds), self.cpu_seconds],
            "energy": self.energy_joules,
            "emissions": self.emissions_grams,
        }
        if self.owed_grams or self.waiting_joules or self.market_grams or self.embodied_grams:
            state["further"] = [self.owed_grams, self.waiting_joules, self.market_grams, self.embodied_grams]
        return state

    @classmethod
    def from_json(cls, name: str, state: Any) -> "Account":
        """The account that `to_json` described; raises as `amount` and for another shape."""
        resolver, group, info = state["use"]
        last_seen_seconds, cpu_seconds = state["seen"]
        labels = {str(label): str(value) for label, value in info.items()}
        use = JobUse(str(name), str(resolver), group=str(group), info=labels)
        owed, waiting, market, embodied = state.get("further", ({}, {}, {}, {}))
        return cls(
            use=use,
            last_seen_seconds=amount(last_seen_seconds),
            energy_joules=amounts(state["energy"], COMPONENTS),
            emissions_grams={str(basis): amounts(grams, COMPONENTS) for basis, grams in state["emissions"].items()},
            owed_grams={str(basis): amounts(grams, COMPONENTS) for basis, grams in owed.items()},
            waiting_joules=amounts(waiting, COMPONENTS),
            market_grams=amounts(market, COMPONENTS),
            embodied_grams=amounts(embodied, PARTS),
            cpu_seconds=amount(cpu_seconds),
        )


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


def amounts(state: Any, known: Sequence[Kind]) -> dict[Kind, float]:
    """Amounts by what is `known`, which is components mostly.

    Raises:
        TypeError, ValueError, AttributeError: there is another one in it, or something that is no amount.
    """
    if not state.keys() <= set(known):
        raise ValueError(f"one is none of {', '.join(known)}: {list(state)}")
    return {key: amount(value) for key, value in state.items()}


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
