"""Checks forecasts against the end: those made at 1, 2, 3, 5 and 10 epochs, of jobs that did all they planned. Pure.

Jobs that were killed, vanished or stopped early are never scored: their forecast was of another end.
"""

import statistics
from collections import deque
from typing import Final

from carbon_exporter import metrics
from carbon_exporter.forecast.energy import Forecast

CHECKPOINTS: Final = (1.0, 2.0, 3.0, 5.0, 10.0)
_MOST_SCORES: Final = 1000


class Scores:
    """The record of this process; it starts empty and keeps the newest 1,000 scores of each basis."""

    def __init__(self) -> None:
        self._made: dict[str, dict[float, Forecast]] = {}
        self._scores: dict[str, deque[tuple[bool, float]]] = {}

    def note(self, training_job: str, forecast: Forecast) -> None:
        """Keep `forecast` if it is the first since the last checkpoint that its epochs have reached."""
        reached = [epochs for epochs in CHECKPOINTS if epochs <= forecast.epochs_observed]
        if reached:
            self._made.setdefault(training_job, {}).setdefault(reached[-1], forecast)

    def forget(self, training_job: str) -> None:
        """Drop what was kept of a job that cannot be scored."""
        self._made.pop(training_job, None)

    def finish(self, training_job: str, joules: float) -> None:
        """Score what was forecast of a job that has used `joules` (greater than 0) in all."""
        for forecast in self._made.pop(training_job, {}).values():
            low, median, high = forecast.joules
            scores = self._scores.setdefault(forecast.basis, deque(maxlen=_MOST_SCORES))
            scores.append((low <= joules <= high, abs(median / joules - 1)))

    def families(self) -> list[metrics.Family]:
        """Coverage and median relative error by basis; no samples before a job has ended."""
        coverage = [
            ((basis,), statistics.fmean(inside for inside, _ in scores)) for basis, scores in self._scores.items()
        ]
        errors = [((basis,), statistics.median(error for _, error in scores)) for basis, scores in self._scores.items()]
        return [metrics.Family(metrics.FORECAST_COVERAGE, coverage), metrics.Family(metrics.FORECAST_ERROR, errors)]
