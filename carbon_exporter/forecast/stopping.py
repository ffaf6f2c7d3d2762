"""What a job will have used where it may stop early, from how often and how early the runs of its group did. Pure.

Kaplan and Meier's estimate (JASA 53, 1958) of the share of runs that go on beyond a fraction of their planned epochs:
runs that were lost say only how far they came, and runs that went on from a checkpoint nothing of what lies before it.
Where a job may stop and what an epoch will take are drawn together, on a fixed grid, so that the same run gives the
same figures.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final, NamedTuple

from carbon_exporter.forecast.bands import Band
from carbon_exporter.forecast.record import EndedRun

FEWEST_RUNS: Final = 5
_LEVELS: Final = 10
_Z_95: Final = NormalDist().inv_cdf(0.95)
_DEVIATIONS: Final = tuple(NormalDist().inv_cdf((i + 0.5) / _LEVELS) / _Z_95 for i in range(_LEVELS))
"""Equally likely, in units of a 90 % interval's half."""


class Expected(NamedTuple):
    """A total with early stopping counted in: its 5 %, 50 % and 95 % quantiles, and its mean."""

    low: float
    median: float
    high: float
    mean: float


@dataclass(frozen=True, slots=True)
class Survival:
    """How many runs go on.

    Attributes:
        fractions: of the planned epochs, at which runs stopped; rising, each at most 1.
        going_on: of the runs that came to each, the share that went on beyond it.
    """

    fractions: tuple[float, ...]
    going_on: tuple[float, ...]

    def ends_after(self, fraction: float) -> list[tuple[float, float]]:
        """Where a run that has come beyond `fraction` ends, and how likely; the planned end, 1, comes last."""
        left, ends = 1.0, []
        for stopped, going_on in zip(self.fractions, self.going_on, strict=True):
            if stopped > fraction:
                ends.append((stopped, left * (1 - going_on)))
                left *= going_on
        return [*ends, (1.0, left)]


def survival_of(runs: Sequence[EndedRun]) -> Survival | None:
    """What a group's ended runs say; None where there are fewer than 5, or none of them stopped early.

    Fractions are rounded up to hundredths: as many as a grid can bear.
    """
    lives = [
        (run.epochs_begun / run.epochs_planned, _hundredths(run.epochs_done / run.epochs_planned), run.ending)
        for run in runs
        if run.epochs_planned > 0 and run.epochs_done > run.epochs_begun
    ]
    stops = Counter(came for _, came, ending in lives if ending == "stopped" and came < 1)
    if len(lives) < FEWEST_RUNS or not stops:
        return None
    going_on = (
        1 - stopped / sum(begun < fraction <= came for begun, came, _ in lives)
        for fraction, stopped in sorted(stops.items())
    )
    return Survival(tuple(sorted(stops)), tuple(going_on))


def _hundredths(fraction: float) -> float:
    return math.ceil(100 * min(1.0, fraction) - 1e-9) / 100


def expected(
    survival: Survival, *, reached: float, epochs_done: float, epochs_planned: float, rate: float, band: Band
) -> Expected:
    """The total at the end, planned or not.

    Args:
        survival: of the job's group.
        reached: joules, or seconds, at `epochs_done`.
        epochs_done: at the last boundary.
        epochs_planned: greater than 0.
        rate: joules or seconds an epoch, before the correction.
        band: of ln(actual / rate).
    """
    factors = [math.exp(_at(band, deviation)) for deviation in _DEVIATIONS]
    totals = sorted(
        (reached + max(0.0, fraction * epochs_planned - epochs_done) * rate * factor, likelihood / _LEVELS)
        for fraction, likelihood in survival.ends_after(epochs_done / epochs_planned)
        for factor in factors
    )
    mean = sum(total * likelihood for total, likelihood in totals)
    low, median, high = (_quantile(totals, share) for share in (0.05, 0.5, 0.95))
    return Expected(low, median, high, mean)


def _at(band: Band, deviation: float) -> float:
    """Of a normal curve whose halves have the band's widths."""
    return band.median + deviation * (band.high - band.median if deviation > 0 else band.median - band.low)


def _quantile(weighted: Sequence[tuple[float, float]], share: float) -> float:
    reached = 0.0
    for value, weight in weighted:
        reached += weight
        if reached >= share * (1 - 1e-9):
            return value
    return weighted[-1][0]
