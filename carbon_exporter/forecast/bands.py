"""Bands of ln(actual / level): weighted quantiles of scores, and what can be done with them. Pure."""

import itertools
import math
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, TypeAlias

from carbon_exporter.forecast.scoring import CHECKPOINTS

Basis: TypeAlias = Literal["group", "fleet", "builtin"]
Weighted: TypeAlias = Sequence[tuple[float, float]]
"""Scores and their weights, by rising score."""

_RUNS_FOR_HALF_TRUST: Final = 5.0
_LEAST_SPREAD: Final = 0.01
_SAME: Final = 1e-9


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


def fitted(synthetic: Sequence[float], fleet: Weighted) -> Sequence[float]:
    """The synthetic scores, the nearer to the fleet's own centre and spread the more these weigh.

    What they lend is the shape of the tails, for which a few runs are too few. Centre and spread are the median and the
    mean distance from it; `fleet` is by rising score.
    """
    if not fleet:
        return synthetic
    old_centre = statistics.median(synthetic)
    old_spread = sum([abs(score - old_centre) for score in synthetic]) / len(synthetic)
    up_to = list(itertools.accumulate([own for _, own in fleet]))
    weight = up_to[-1]
    centre = sum(fleet[bisect_left(up_to, weight / 2 * (1 + sign * _SAME))][0] for sign in (-1, 1)) / 2
    spread = sum([own * abs(score - centre) for score, own in fleet]) / weight
    trust = weight / (weight + _RUNS_FOR_HALF_TRUST)
    factor = max(spread / old_spread, _LEAST_SPREAD) ** trust
    moved = old_centre + trust * (centre - old_centre)
    return [moved + factor * (score - old_centre) for score in synthetic]


class Layer(NamedTuple):
    """Scores and their weights, to look up in; made by `layer`.

    Attributes:
        scores: rising.
        before: the weight of all scores before each, and at the end that of all.
    """

    scores: Sequence[float]
    before: Sequence[float]


def layer(entries: Weighted) -> Layer:
    """`entries` to look up in."""
    before = itertools.accumulate((weight for _, weight in entries), initial=0.0)
    return Layer([score for score, _ in entries], list(before))


def weighted_band(entries: Weighted, miss_rate: float, basis: Basis) -> Band:
    """`layered_band` of one layer."""
    return layered_band(layer(entries), 1.0, (), miss_rate, basis)


def layered_band(rest: Layer, share: float, own: Sequence[float], miss_rate: float, basis: Basis) -> Band:
    """The median, and half the miss rate at each end, where the run to come counts as one more, beyond the end.

    Where there are too few scores, the ends are the outermost ones. The layers are not merged, so that a thousand
    groups can look up in the same `rest`.

    Args:
        rest: at least one score.
        share: that the weights of `rest` are multiplied with.
        own: rising, each of weight 1.
        miss_rate: that the band aims at.
        basis: of the band.
    """
    total = share * rest.before[-1] + len(own)
    tail = miss_rate / 2 * (total + 1) * (1 + _SAME)

    def up_to(number: int) -> float:
        return number + 1 + share * rest.before[bisect_right(rest.scores, own[number])]

    def within(weight: float) -> tuple[int, int]:
        """How many scores of each layer come first and weigh no more than `weight` together."""
        of_own = bisect_right(range(len(own)), weight, key=up_to)
        of_rest = bisect_right(rest.before, (weight - of_own) / share) - 1
        most = bisect_right(rest.scores, own[of_own]) if of_own < len(own) else len(rest.scores)
        return min(most, max(0, of_rest)), of_own

    of_rest, of_own = within(tail)
    lower = [*rest.scores[max(of_rest - 1, 0) : of_rest], *own[max(of_own - 1, 0) : of_own]]
    low = max(lower) if lower else _following(rest, own, 0, 0)[0]
    # The score with which the upper tail would weigh too much is left out of it.
    high = _following(rest, own, *within(total - tail))[-1]
    middle = [_following(rest, own, *within(total / 2 * (1 + sign * _SAME)))[0] for sign in (-1, 1)]
    return Band(low, sum(middle) / 2, high, basis)


def _following(rest: Layer, own: Sequence[float], of_rest: int, of_own: int) -> Sequence[float]:
    """The next two scores, or the last."""
    return sorted([*rest.scores[of_rest : of_rest + 2], *own[of_own : of_own + 2]])[:2]


def interpolated(bands: Sequence[Band], units: float) -> Band:
    """Straight between the checkpoints on both sides, on a logarithmic scale; the last one's beyond it."""
    right = bisect_left(CHECKPOINTS, units * (1 - 1e-9))
    if right >= len(CHECKPOINTS) or right == 0:
        return bands[min(right, len(CHECKPOINTS) - 1)]
    before, after = CHECKPOINTS[right - 1], CHECKPOINTS[right]
    share = min(1.0, math.log(units / before) / math.log(after / before))
    left = bands[right - 1]
    low, median, high = (old + share * (new - old) for old, new in zip(left[:3], bands[right][:3], strict=True))
    return Band(low, median, high, bands[right].basis if share > 0.5 else left.basis)
