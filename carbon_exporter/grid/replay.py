"""A past forecast beside what came, and the bands that many of them make. Pure.

Split conformal prediction on a rolling window: a band lies between two ranks of the logarithms of actual over forecast.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Final

from carbon_exporter.grid.statistical import LEAST_GRAMS

LEAST_SCORES: Final = 30
_TAIL: Final = 0.04
"""Of the scores outside the band, at either end. Not 0.05: scores of overlapping hours say less than their number."""
_LEAST_HALF_WIDTH: Final = 0.01
_LEAST_KNOWN: Final = 0.75
"""Of a window's hours: with fewer known, its mean is no score."""


@dataclass(frozen=True)
class Replay:
    """A past forecast beside what came, both for the hours from its origin on; None where that is not known."""

    forecast: tuple[float, ...]
    actual: tuple[float | None, ...]

    @cached_property
    def scores(self) -> tuple[float | None, ...]:
        """log(actual / forecast) of each hour."""
        pairs = zip(self.forecast, self.actual, strict=True)
        return tuple(None if actual is None else log_ratio(actual, forecast) for forecast, actual in pairs)

    @cached_property
    def forecast_sums(self) -> list[float]:
        """The forecast summed up to the begin of each hour."""
        return [0.0, *accumulate(self.forecast)]

    @cached_property
    def _known_sums(self) -> tuple[list[float], list[float], list[float]]:
        """Known hours, their forecast and their actual grams, summed up to the begin of each hour."""
        known = [actual is not None for actual in self.actual]
        return (
            [0.0, *accumulate(map(float, known))],
            [0.0, *accumulate(grams if there else 0.0 for grams, there in zip(self.forecast, known, strict=True))],
            [0.0, *accumulate(actual or 0.0 for actual in self.actual)],
        )

    def means(self, begin_hours: float, end_hours: float) -> tuple[float, float] | None:
        """The mean forecast and what came, from begin to end (hours after the origin, 0 <= begin < end).

        None where less than three quarters of that time are known, or its end is not.
        """
        last = math.ceil(end_hours) - 1
        if last >= len(self.actual) or self.actual[last] is None:
            return None
        hours, forecast, actual = self._known_sums
        known = between(hours, begin_hours, end_hours)
        if known < _LEAST_KNOWN * (end_hours - begin_hours):
            return None
        return between(forecast, begin_hours, end_hours) / known, between(actual, begin_hours, end_hours) / known


def score_band(scores: Iterable[float]) -> tuple[float, float] | None:
    """Between which two scores the next one lies nine times in ten; None with fewer than 30.

    Split conformal: the ranks are those among the scores and the one to come (Vovk et al. 2005, chapter 2).
    """
    ranked = sorted(scores)
    if len(ranked) < LEAST_SCORES:
        return None
    outside = max(1, math.floor(_TAIL * (len(ranked) + 1)))
    return ranked[outside - 1], ranked[-outside]


def around(grams: float, band: tuple[float, float]) -> tuple[float, float]:
    """`band`, of logarithms, about a forecast; never so narrow that it would claim certainty."""
    low, high = band
    return (
        grams * min(math.exp(low), 1 - _LEAST_HALF_WIDTH),
        grams * max(math.exp(high), 1 + _LEAST_HALF_WIDTH),
    )


def between(sums: Sequence[float], begin: float, end: float) -> float:
    """The area under an hourly curve from begin to end, 0 <= begin <= end <= its hours; `sums[i]` is that before i."""
    first, last = int(begin), int(end)
    area = sums[last] - sums[first]
    if begin > first:
        area -= (begin - first) * (sums[first + 1] - sums[first])
    if end > last:
        area += (end - last) * (sums[last + 1] - sums[last])
    return area


def log_ratio(actual: float, forecast: float) -> float:
    """Of two grams, neither of them counted as less than LEAST_GRAMS."""
    return math.log(max(actual, LEAST_GRAMS) / max(forecast, LEAST_GRAMS))
