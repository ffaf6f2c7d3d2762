"""How right forecasts have been: each finished run, as it would have been forecast on what had ended before it. Pure.

Because it is computed from the record of ended runs, it is the same after a restart, and imported runs count too. Runs
that were lost or stopped early are never scored: their forecast was of another end.
"""

import math
import statistics
from collections import deque
from typing import Final, NamedTuple

from carbon_exporter import metrics
from carbon_exporter.forecast.group_calibration import GroupCalibration
from carbon_exporter.forecast.level import unit_of
from carbon_exporter.forecast.record import EndedRun

CHECKPOINTS: Final = (1.0, 2.0, 3.0, 5.0, 10.0)
_MOST_SCORES: Final = 1000


class Accuracy(NamedTuple):
    """How right the forecasts of one basis were.

    Attributes:
        basis: group, fleet or builtin.
        epochs: that they had seen; where the plan is two epochs or less, tenths of it.
        runs: finished runs compared, the newest 1,000.
        coverage_ratio: share of them inside the 90 % interval.
        median_relative_error: of |forecast / actual - 1| of the energy in total.
    """

    basis: str
    epochs: float
    runs: int
    coverage_ratio: float
    median_relative_error: float


class Scores:
    """The newest 1,000 runs of each basis and checkpoint: whether each was inside its interval, and its error."""

    def __init__(self) -> None:
        self._scores: dict[tuple[str, float], deque[tuple[bool, float]]] = {}

    def add(self, run: EndedRun, calibration: GroupCalibration) -> None:
        """Score `run` if it has done all it planned; `calibration` is its group's before it ended."""
        if run.ending != "finished" or run.joules <= 0:
            return
        for score in run.scores:
            if score.epochs not in CHECKPOINTS:
                continue
            band = calibration.band("joules", score.epochs, set_aside=score.epochs > 1)
            remaining = run.epochs_done - run.epochs_begun - score.epochs * unit_of(run.epochs_planned)
            share = min(1.0, max(0.0, remaining * run.epoch_joules / run.joules))
            error = share * abs(math.expm1(band.median - score.joules))
            of_basis = self._scores.setdefault((band.basis, score.epochs), deque(maxlen=_MOST_SCORES))
            of_basis.append((band.holds(score.joules), error))

    def accuracy(self) -> tuple[Accuracy, ...]:
        """By basis and checkpoint; empty before a run has finished."""
        return tuple(
            Accuracy(basis, epochs, len(scores), *_summary(list(scores)))
            for (basis, epochs), scores in sorted(self._scores.items())
        )

    def families(self) -> list[metrics.Family]:
        """Coverage and median relative error by basis, all checkpoints together."""
        by_basis: dict[str, list[tuple[bool, float]]] = {}
        for (basis, _), scores in sorted(self._scores.items()):
            by_basis.setdefault(basis, []).extend(scores)
        summaries = {basis: _summary(scores) for basis, scores in by_basis.items()}
        return [
            metrics.Family(metrics.FORECAST_COVERAGE, [((basis,), inside) for basis, (inside, _) in summaries.items()]),
            metrics.Family(metrics.FORECAST_ERROR, [((basis,), error) for basis, (_, error) in summaries.items()]),
        ]


def _summary(scores: list[tuple[bool, float]]) -> tuple[float, float]:
    inside = sum(held for held, _ in scores) / len(scores)
    return inside, statistics.median(error for _, error in scores)
