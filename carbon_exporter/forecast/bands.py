"""Bands of ln(actual / level): weighted quantiles of scores, and what can be done with them. Pure."""

import bisect
import math
import statistics
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, TypeAlias

from carbon_exporter.forecast.scoring import CHECKPOINTS

Basis: TypeAlias = Literal["group", "fleet", "builtin"]
Weighted: TypeAlias = Sequence[tuple[float, float]]
"""Scores and their weights, by rising score."""

_RUNS_FOR_HALF_TRUST: Final = 5.0
_LEAST_SPREAD: Final = 0.01


class Band(NamedTuple):
    """Of ln(actual / level): its 90 % interval and its median, and what most of its weight comes from."""

    low: float
    median: float
    high: float
    basis: Basis = "builtin"

    def holds(self, score: float) -> bool:
        """Whether `score` lies within."""
        return self.low <= score <= self.high

    def hull(self, other: "Band") -> "Band":
        """The same median and basis, and both ends at least as far out as those of `other`."""
        return self._replace(low=min(self.low, other.low), high=max(self.high, other.high))

    def shared_by(self, units: float) -> "Band":
        """After one unit -> after several alike, of which only the first differs from those to come."""
        low, median, high = (-math.log((math.exp(-end) + units - 1) / units) for end in self[:3])
        return Band(low, median, high, self.basis)

    def stretched(self, factor: float) -> "Band":
        """The same median, and both ends `factor` times as far from it."""
        return Band(
            self.median - factor * (self.median - self.low),
            self.median,
            self.median + factor * (self.high - self.median),
            self.basis,
        )


def fitted(synthetic: Sequence[float], fleet: Sequence[float]) -> Sequence[float]:
    """The synthetic scores, the nearer to the fleet's own centre and spread the more of these there are.

    What they lend is the shape of the tails, for which a few runs are too few.
    """
    if not fleet:
        return synthetic
    trust = len(fleet) / (len(fleet) + _RUNS_FOR_HALF_TRUST)
    old_centre, old_spread = _centre_and_spread(synthetic)
    centre, spread = _centre_and_spread(fleet)
    factor = max(spread / old_spread, _LEAST_SPREAD) ** trust
    moved = old_centre + trust * (centre - old_centre)
    return [moved + factor * (score - old_centre) for score in synthetic]


def _centre_and_spread(scores: Sequence[float]) -> tuple[float, float]:
    """The median, and the mean distance from it."""
    centre = statistics.median(scores)
    return centre, sum([abs(score - centre) for score in scores]) / len(scores)


def weighted_band(entries: Weighted, miss_rate: float, basis: Basis) -> Band:
    """The median, and half the miss rate at each end, where the run to come counts as one more, beyond the end.

    Where there are too few, the ends are the outermost scores.
    """
    total = sum([weight for _, weight in entries])
    tail = miss_rate / 2 * (total + 1)
    downwards = entries[::-1]
    median = (_halfway(entries, total) + _halfway(downwards, total)) / 2
    return Band(_reached(entries, tail), median, _reached(downwards, tail), basis)


def _reached(entries: Weighted, weight: float) -> float:
    """The last score up to which the entries weigh no more than `weight`; the first one where even that does."""
    reached, best = 0.0, entries[0][0]
    for value, own in entries:
        reached += own
        if reached > weight:
            break
        best = value
    return best


def _halfway(entries: Weighted, total: float) -> float:
    reached = 0.0
    for value, own in entries:
        reached += own
        if reached >= total / 2 * (1 - 1e-9):
            return value
    return entries[-1][0]


def interpolated(bands: Sequence[Band], units: float) -> Band:
    """Straight between the checkpoints on both sides, on a logarithmic scale; the last one's beyond it."""
    right = bisect.bisect_left(CHECKPOINTS, units * (1 - 1e-9))
    if right >= len(CHECKPOINTS) or right == 0:
        return bands[min(right, len(CHECKPOINTS) - 1)]
    before, after = CHECKPOINTS[right - 1], CHECKPOINTS[right]
    share = min(1.0, math.log(units / before) / math.log(after / before))
    left = bands[right - 1]
    low, median, high = (old + share * (new - old) for old, new in zip(left[:3], bands[right][:3], strict=True))
    return Band(low, median, high, bands[right].basis if share > 0.5 else left.basis)
