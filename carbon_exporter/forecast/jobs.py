"""Follows each job from its first push to its end: what is known of it, its forecast, and what became of it."""

import logging
from dataclasses import dataclass, field
from typing import Final

from carbon_exporter.forecast import carbon, energy
from carbon_exporter.forecast.exposition import Prediction
from carbon_exporter.forecast.progress import History, Outcome, Point, Pushed, Track, judge
from carbon_exporter.forecast.readings import Readings
from carbon_exporter.forecast.scores import Scores

_log: Final = logging.getLogger("carbon_exporter.forecast")
_IDLE_SECONDS: Final = 30.0
_QUIET: Final[tuple[Outcome, ...]] = ("forecast", "finished", "no_epochs", "no_energy")
_CURES: Final[dict[str, str]] = {
    "planned_missing": "push carbon_training_epochs_planned too",
    "invalid_value": "push epochs from 0 and a plan above 0, both up to 1e9",
    "stale_push": "its last push is too old: is it still running, and does it reach the Pushgateway?",
    "energy_went_back": "its joules fell: a node of it is gone, so that its total is unknown until its next run",
    "epochs_above_planned": "it has done more epochs than it planned: push both in the same unit",
    "epochs_went_back": "forecasts go on after its next epoch",
    "epoch_end_skewed": "its epoch ends before it began or in the future: set its clock; the time seen stands in",
}


@dataclass(slots=True)
class Job:
    """One run of a training job.

    Attributes:
        history_read: whether its past was asked for; once is enough.
        ended_seconds: when it ended as intended (Unix time); None while it runs.
        as_planned: it ended with all its planned epochs done, so that its forecasts can be scored.
    """

    name: str
    track: Track
    pushed: Pushed = field(default_factory=Pushed)
    history_read: bool = False
    seen_seconds: float = 0.0
    ended_seconds: float | None = None
    as_planned: bool = False
    prediction: Prediction | None = None
    said: set[str] = field(default_factory=set)

    def is_succeeded_by(self, pushed: Pushed) -> bool:
        """Whether `pushed` comes from a later run under the same name."""
        if pushed.start_seconds is not None and self.track.start_seconds is not None:
            return pushed.start_seconds != self.track.start_seconds
        ended = self.ended_seconds is not None and pushed.finished_seconds is None
        completed, planned = pushed.epochs_completed, pushed.epochs_planned
        return ended and completed is not None and planned is not None and completed < planned

    def observe(self, readings: Readings, now_seconds: float) -> None:
        """Take what one poll says of this job."""
        self.pushed = readings.pushed.get(self.name, self.pushed if self.ended_seconds is not None else Pushed())
        self.seen_seconds = now_seconds
        joules = readings.joules.get(self.name)
        if joules is not None and joules >= 0:
            scraped = readings.scraped_seconds.get(self.name, now_seconds)
            grams, basis = readings.grams.get(self.name), readings.emissions_basis.get(self.name, "")
            self.track.add_point(Point(min(scraped, now_seconds), joules, grams, basis))

    def wants_history(self) -> bool:
        """Whether it began before this service saw it, so that its past is worth a query."""
        pushed = self.pushed
        running = pushed.start_seconds is not None and pushed.finished_seconds is None and self.ended_seconds is None
        return running and bool(self.track.points) and not self.history_read

    def remember(self, history: History) -> None:
        """Take the past."""
        self.track.fill(history)

    def follow(self, readings: Readings, now_seconds: float, push_max_age_seconds: float) -> Outcome:
        """Bring the prediction up to date, and say what became of the job in this poll."""
        outcome = judge(self.pushed, readings.joules.get(self.name), now_seconds, push_max_age_seconds)
        if self.ended_seconds is not None:
            outcome = "finished"
        elif outcome in ("forecast", "finished", "stale_push"):
            outcome = self._progress(outcome, now_seconds)
        if outcome == "finished":
            self._end(now_seconds)
        elif outcome == "forecast":
            outcome = self._predict(readings, now_seconds)
        if outcome not in ("forecast", "finished"):
            self.prediction = None
        self.say(outcome)
        return outcome

    def say(self, what: str) -> None:
        """Log `what` once."""
        if what in _QUIET or what in self.said:
            return
        self.said.add(what)
        _log.warning("training job %s: %s: %s", shown(self.name), what, _CURES[what])

    def close(self, scores: Scores) -> None:
        """Score the job if it ended as planned; whatever else became of it says nothing of its forecasts."""
        if self.as_planned and self.prediction is not None and self.prediction.energy.joules.median > 0:
            scores.finish(self.name, self.prediction.energy.joules.median)
        scores.forget(self.name)
        self.prediction = None

    def _progress(self, outcome: Outcome, now_seconds: float) -> Outcome:
        completed, planned = self.pushed.epochs_completed, self.pushed.epochs_planned
        if completed is None:
            return outcome
        if self.track.add_progress(completed, self.pushed.epoch_end_seconds, now_seconds):
            self.say("epoch_end_skewed")
        self.track.place_marks()
        if planned is not None and completed >= planned and (outcome == "stale_push" or self._is_idle()):
            return "finished"
        return outcome

    def _is_idle(self) -> bool:
        """Whether it has used nothing for 30 s."""
        if not self.track.points:
            return False
        newest = self.track.points[-1]
        return any(
            point.joules >= newest.joules
            for point in self.track.points
            if point.seconds <= newest.seconds - _IDLE_SECONDS
        )

    def _end(self, now_seconds: float) -> None:
        """Freeze progress; the joules are followed on, for what is scraped last comes after the end."""
        completed, planned = self.pushed.epochs_completed or 0.0, self.pushed.epochs_planned
        if self.ended_seconds is None:
            finished = self.pushed.finished_seconds or self.pushed.epoch_end_seconds or now_seconds
            self.ended_seconds = min(finished, now_seconds)
            self.as_planned = planned is not None and abs(completed - planned) <= 1e-6 * planned
        if not self.track.points or self.track.lost_energy:
            self.prediction = None
            return
        newest = self.track.points[-1]
        self.prediction = Prediction(
            self.name,
            self.pushed.group,
            energy.measured(self.track.boundaries, newest.joules, self.ended_seconds, completed),
            None if newest.grams is None else energy.Quantiles(newest.grams, newest.grams, newest.grams),
            newest.emissions_basis,
            now_seconds,
        )

    def _predict(self, readings: Readings, now_seconds: float) -> Outcome:
        track, planned = self.track, self.pushed.epochs_planned
        if track.lost_energy:
            return "energy_went_back"
        if planned is None or not track.points:
            return "no_energy"
        newest = track.points[-1]
        forecast = energy.forecast(track.boundaries, planned, newest.joules, now_seconds)
        if forecast is None:
            return "epochs_went_back" if track.went_back and len(track.boundaries) < 2 else "no_epochs"
        rate = carbon.job_grams_per_joule(track.points)
        if rate is None:
            rate = carbon.grid_grams_per_joule(readings.grams_per_kilowatt_hour, readings.pue_ratio)
        grams = None
        if rate is not None and newest.grams is not None:
            grams = carbon.forecast(forecast.joules, newest.joules, newest.grams, rate)
        basis = "" if grams is None else newest.emissions_basis
        self.prediction = Prediction(self.name, self.pushed.group, forecast, grams, basis, now_seconds)
        return "forecast"


def shown(name: str) -> str:
    """A name as a log line can bear it."""
    return repr(name if len(name) <= 80 else f"{name[:77]}...")
