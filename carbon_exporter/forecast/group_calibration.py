"""What ended runs say of the forecasts of one group: made by conformal.py, looked up in by energy.py. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias

from carbon_exporter.forecast.bands import Band, Basis, interpolated
from carbon_exporter.forecast.record import EndedRun
from carbon_exporter.forecast.stopping import Survival

Quantity: TypeAlias = Literal["joules", "seconds"]

TOO_FAR: Final = 2.0
"""Times as far as ended runs went: beyond it they say little."""


class Usual(NamedTuple):
    """The least and the most that an epoch took in any ended run: seconds, and watts."""

    seconds: tuple[float, float]
    watts: tuple[float, float]

    def is_far_from(self, epoch_seconds: float, epoch_joules: float) -> bool:
        """Whether an epoch takes less than half of the least, or more than twice the most."""
        values = ((epoch_seconds, self.seconds), (epoch_joules / epoch_seconds, self.watts))
        return any(not low / TOO_FAR <= value <= high * TOO_FAR for value, (low, high) in values)


@dataclass(frozen=True, slots=True)
class GroupCalibration:
    """What ended runs say of the forecasts of one group.

    Attributes:
        bands: quantity -> a band for each of CHECKPOINTS.
        fleet_runs, group_runs: how many ended runs they rest on, of all groups and of this one.
        runs: the group's own, oldest first, those without scores too.
        survival: where runs of the group stop early; None without a record of it.
        usual: of the fleet's runs; None where there is none.
    """

    bands: Mapping[Quantity, tuple[Band, ...]]
    fleet_runs: int = 0
    group_runs: int = 0
    runs: tuple[EndedRun, ...] = ()
    survival: Survival | None = None
    usual: Usual | None = None

    def runs_behind(self, basis: Basis) -> int:
        """How many ended runs an interval of this basis rests on."""
        return {"group": self.group_runs, "fleet": self.fleet_runs, "builtin": 0}[basis]

    def band(self, quantity: Quantity, units: float, *, set_aside: bool) -> Band:
        """The band after `units` of work, straight between the checkpoints on a logarithmic scale.

        Args:
            quantity: whose level it is about.
            units: that were seen, greater than 0.
            set_aside: the level leaves the first unit out. Where it does not, the first unit's surplus is a `units`-th
                part of it, and what is known of the level after one unit shrinks in proportion.
        """
        bands = self.bands[quantity]
        if set_aside:
            # Before the second unit is whole, its level is as much less certain as it is shorter.
            stretch = 1 / math.sqrt(max(units - 1, 0.25)) if units < 2 else 1.0
            return interpolated(bands, max(units, 2.0)).stretched(stretch)
        if units <= 1:
            return bands[0].stretched(1 / math.sqrt(units))
        shared = bands[0].shared_by(units)
        if units < 2:
            return shared
        learnt = interpolated(bands, units)
        return learnt.hull(shared)
