"""What the service learns from: the record of ended runs, and the calibration and the scores that follow from it."""

import logging
from pathlib import Path
from typing import Final

from carbon_exporter import metrics
from carbon_exporter.forecast.conformal import Calibration
from carbon_exporter.forecast.group_calibration import GroupCalibration
from carbon_exporter.forecast.history import MOST_RUNS, History
from carbon_exporter.forecast.record import EndedRun
from carbon_exporter.forecast.scores import Accuracy, Scores

SCORED_RUNS: Final = 300
"""At the start, forecasts of the newest runs on record are scored, and move the miss rates; that takes 2 to 3 s."""
_log: Final = logging.getLogger("carbon_exporter.forecast")


class Learning:
    """The record, open in the thread that uses it; it is opened at its first use.

    Args:
        path: of the record's file; None keeps it in memory.

    Raises:
        ConfigurationError: at the first use: the file is another program's, a newer version's or a folder.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._history: History | None = None
        self._calibration = Calibration()
        self._scores = Scores()
        self._endings: dict[str, int] = {}

    def open(self) -> History:
        """The record; read, and learnt from, where that has not been done yet."""
        if self._history is None:
            self._history = History(self._path)
            self._calibration, self._scores = Calibration(), Scores()
            runs = self._history.newest(MOST_RUNS)
            for run in runs[:-SCORED_RUNS]:
                self._calibration.remember(run)
            for run in runs[-SCORED_RUNS:]:
                self._learn(run)
            self._endings = self._history.count_by_ending()
        return self._history

    def close(self) -> None:
        """Close the file."""
        if self._history is not None:
            self._history.close()
            self._history = None

    def knows(self, training_job: str, started_seconds: float) -> bool:
        """Whether that run has been recorded."""
        return self.open().contains(training_job, started_seconds)

    def add(self, run: EndedRun) -> None:
        """Record a run that has ended, and learn from it; one that is recorded already teaches nothing new."""
        history = self.open()
        try:
            added = history.add(run)
        except ValueError as error:
            _log.warning("%s: it is not recorded", error)
            return
        if added:
            self._learn(run)
            self._endings = history.count_by_ending()

    def for_group(self, group: str) -> GroupCalibration:
        """What ended runs say of the forecasts of `group`."""
        return self._calibration.for_group(group)

    def accuracy(self) -> tuple[Accuracy, ...]:
        """How right forecasts have been, by basis and epochs observed."""
        return self._scores.accuracy()

    def families(self) -> list[metrics.Family]:
        """The scores, and what the record holds."""
        endings = [((ending,), float(runs)) for ending, runs in sorted(self._endings.items())]
        unsaved = 0 if self._history is None else self._history.unsaved
        return [
            *self._scores.families(),
            metrics.Family(metrics.FORECAST_HISTORY_RUNS, endings),
            metrics.Family(metrics.FORECAST_HISTORY_UNSAVED, [((), float(unsaved))]),
        ]

    def _learn(self, run: EndedRun) -> None:
        self._scores.add(run, self._calibration.for_group(run.group))
        self._calibration.add(run)
