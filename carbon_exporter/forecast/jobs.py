"""Follows each job from its first push to its end: what is known of it, its forecast, and what became of it."""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from carbon_exporter.forecast import energy
from carbon_exporter.forecast.energy import Boundary, Quantiles
from carbon_exporter.forecast.exposition import Prediction
from carbon_exporter.forecast.gpus import Gpus
from carbon_exporter.forecast.grams import Curves, grams_at_end
from carbon_exporter.forecast.group_calibration import GroupCalibration
from carbon_exporter.forecast.progress import Outcome, Pushed, judge
from carbon_exporter.forecast.readings import Readings
from carbon_exporter.forecast.record import EndedRun, Ending
from carbon_exporter.forecast.summary import ended_run, ending_of
from carbon_exporter.forecast.totals import JOULES, Counters, Totals, basis_of
from carbon_exporter.forecast.track import Past, Point, Told, Track

_log: Final = logging.getLogger("carbon_exporter.forecast")
_IDLE_SECONDS: Final = 30.0
_SAME_SECONDS: Final = 1.0
_QUIET: Final[tuple[Outcome, ...]] = ("forecast", "finished", "no_epochs", "no_energy")
_WITH_FORECAST: Final[tuple[Outcome, ...]] = ("forecast", "finished", "unit_mismatch")
_DOUBTFUL: Final = ("clock_skewed", "epoch_end_skewed", "energy_set_back")
"""What of all that has been said of a job makes its forecast doubtful."""
CURES: Final[dict[str, str]] = {
    "planned_missing": "push carbon_training_epochs_planned too",
    "invalid_value": "push epochs from 0 and a plan above 0, both to 1e9; or a node tells joules below 0 or above 1e15",
    "stale_push": "its last push is too old: is it still running, and does it reach the Pushgateway?",
    "energy_set_back": "a node's joules fell: they are counted on from there, so that its total is too low by some",
    "epochs_above_planned": "it has done more epochs than it planned: push both in the same unit",
    "epochs_went_back": "forecasts go on after its next epoch",
    "unit_mismatch": "each push adds so many epochs that it would soon pass its plan: push both in the same unit",
    "epoch_end_skewed": "its epoch ends before it began or in the future: set its clock; the time seen stands in",
    "clock_skewed": "its clock is not that of the Pushgateway: set it; its times are corrected meanwhile",
}


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What forecasts are made with, beside the readings.

    Attributes:
        push_max_age_seconds: how old a push may be.
        for_group: what ended runs of a group say.
        curves: the intensity to come.
    """

    push_max_age_seconds: float
    for_group: Callable[[str], GroupCalibration]
    curves: Curves


@dataclass(slots=True)
class Job:
    """One run of a training job.

    Attributes:
        pushed: what the Pushgateway holds of it now.
        last_pushed: the last that had a plan, for the record of a job whose pushes are gone.
        nodes: its counters on each node, as last read.
        totals: its joules and grams on all nodes that it has been on.
        gpus: that it holds.
        past_asked: how often its past was asked for in vain; None while it need not be asked for.
        alive_seconds: when it last used energy or pushed.
        gone_since: the first poll of all those since in which it did neither; None while it lives.
        ended_seconds: when it ended, or was last alive where it was lost (Unix time); None while it runs.
        ending: how.
        recorded: whether it has been handed to the record, or need not be.
        saved_as, saved_seconds: how far it was when its state was saved, and when that was.
        outcome: of the last poll that saw it.
    """

    name: str
    track: Track
    pushed: Pushed = field(default_factory=Pushed)
    last_pushed: Pushed = field(default_factory=Pushed)
    nodes: Mapping[str, Counters] = field(default_factory=dict)
    totals: Totals = field(default_factory=Totals)
    gpus: Gpus = field(default_factory=Gpus)
    past_asked: int | None = 0
    alive_seconds: float = 0.0
    gone_since: float | None = None
    ended_seconds: float | None = None
    ending: Ending | None = None
    recorded: bool = False
    saved_as: tuple[float, str] | None = None
    saved_seconds: float = 0.0
    outcome: Outcome = "no_epochs"
    prediction: Prediction | None = None
    said: set[str] = field(default_factory=set)

    def is_succeeded_by(self, pushed: Pushed) -> bool:
        """Whether `pushed` comes from a later run under the same name."""
        if pushed.start_seconds is not None and self.track.start_seconds is not None:
            return pushed.start_seconds != self.track.start_seconds
        ended = self.ending in ("finished", "stopped") and pushed.finished_seconds is None
        completed, planned = pushed.epochs_completed, pushed.epochs_planned
        return ended and completed is not None and planned is not None and completed < planned

    def observe(
        self, readings: Readings, now_seconds: float, push_max_age_seconds: float, last_poll_seconds: float | None
    ) -> None:
        """Take what one poll says of this job; `last_poll_seconds` is when the one before was, None for the first."""
        self.pushed = readings.pushed.get(self.name, self._pushed_still(now_seconds, push_max_age_seconds))
        if self.pushed.epochs_planned is not None:
            self.last_pushed = self.pushed
        joules, pushed_at = readings.joules(self.name), self.pushed.push_seconds
        if joules is not None or (pushed_at is not None and now_seconds - pushed_at <= push_max_age_seconds):
            self.alive_seconds, self.gone_since = now_seconds, None
            if self.ending == "lost":
                self.ending = self.ended_seconds = None
                self.recorded = False
        if joules is not None and joules >= 0:
            self.nodes = readings.nodes[self.name]
            if self.totals.take(self.nodes, now_seconds):
                self.say("energy_set_back")
            has_ended = self.ended_seconds is not None or self.pushed.finished_seconds is not None
            # What an engine repeats while no node can be scraped is no energy of now, unless nothing more will come.
            scraped = readings.scraped_seconds.get(self.name, now_seconds if has_ended else None)
            if scraped is not None:
                self._add_point(min(scraped, now_seconds))
        self._see_clock(now_seconds, math.inf if last_poll_seconds is None else now_seconds - last_poll_seconds)
        if self.ended_seconds is None:
            self.gpus.see(readings.gpus.get(self.name), readings.limit_watts.get(self.name), now_seconds)

    def wants_past(self) -> bool:
        """Whether it began before this service saw it, so that its past is worth a query."""
        wanted = self.pushed.start_seconds is not None and self.ended_seconds is None and not self.recorded
        return wanted and bool(self.track.points) and self.past_asked is not None

    def remember(self, past: Past, now_seconds: float) -> None:
        """Take the past, and be content.

        It knows of nodes that had gone before this service saw the job, and which address goes on with which other's
        counters: what was seen is put right by the difference.
        """
        if past.totals is not None and self.track.is_whole(past):
            past.totals.take(self.nodes, now_seconds)
            past.totals.reckon_grams()
            seen, whole = self.totals, past.totals
            grams = sum(whole.grams.values()) - sum(seen.grams.values())
            self.track.lift((whole.joules or 0.0) - (seen.joules or 0.0), grams, basis_of(whole.grams))
            self.totals = whole
        self.track.fill(past)
        self.past_asked = None
        self._say_clock()

    def follow(self, readings: Readings, now_seconds: float, knowledge: Knowledge) -> Outcome:
        """Bring the prediction up to date, and say what became of the job in this poll."""
        outcome = judge(self.pushed, readings.joules(self.name), now_seconds, knowledge.push_max_age_seconds)
        if self.ended_seconds is not None and self.ending != "lost":
            outcome = "finished"
            self.track.place_marks()
        elif outcome in ("forecast", "finished", "stale_push"):
            outcome = self._progress(outcome, now_seconds)
        if outcome == "finished":
            self._end(now_seconds)
        elif outcome == "forecast":
            outcome = self._predict(readings, now_seconds, knowledge)
        if outcome not in _WITH_FORECAST:
            self.prediction = None
        self.say(outcome)
        self.outcome = outcome
        return outcome

    def say(self, what: str) -> None:
        """Log `what` once; nothing of names without energy, of which anybody can push as many as they like."""
        if what in _QUIET or what in self.said or not self.track.points:
            return
        self.said.add(what)
        _log.warning("training job %s: %s: %s", shown(self.name), what, CURES[what])

    def warnings(self) -> tuple[str, ...]:
        """Why its forecast, if it has one, deserves less trust."""
        if self.prediction is None:
            return ()
        return (*self.prediction.energy.warnings, *(what for what in _DOUBTFUL if what in self.said))

    def lose(self) -> None:
        """It is gone without a word: unless it had done its plan, nobody will know what that would have used."""
        if self.ending is None:
            done = self.track.boundaries[-1].epochs if self.track.boundaries else 0.0
            planned = self.last_pushed.epochs_planned
            has_finished = planned is not None and planned > 0 and ending_of(done, planned) == "finished"
            self.ending, self.ended_seconds = "finished" if has_finished else "lost", self.alive_seconds
            self.prediction = None

    def ended_run(self) -> EndedRun | None:
        """Its record; None while it runs, and where its energy or its epochs are not known."""
        planned, ending, ended = self.last_pushed.epochs_planned, self.ending, self.ended_seconds
        if ending is None or ended is None or not planned or planned <= 0:
            return None
        if not self.track.points:
            return None
        newest, start = self.track.points[-1], self.track.start_seconds
        run = ended_run(
            self.track.boundaries,
            training_job=self.name,
            group=self.last_pushed.group,
            ending=ending,
            ended_seconds=ended,
            epochs_planned=planned,
            joules=newest.joules,
            grams=newest.grams,
            gpus=self.gpus.held,
        )
        return run if run is None or start is None else replace(run, started_seconds=start)

    def _pushed_still(self, now_seconds: float, push_max_age_seconds: float) -> Pushed:
        """What it pushed, while that is not too old: a Pushgateway that one scrape has missed is soon seen again."""
        pushed_at = self.pushed.push_seconds
        is_fresh = pushed_at is not None and now_seconds - pushed_at <= push_max_age_seconds
        return self.pushed if self.ended_seconds is not None or is_fresh else Pushed()

    def _add_point(self, seconds: float) -> None:
        joules, grams = self.totals.joules, self.totals.grams
        if not any(counters.keys() - {JOULES} for counters in self.nodes.values()):
            grams = {}  # no node tells them any more: they do not stand still, they are not known
        if joules is not None:
            self.track.add_point(Point(seconds, joules, sum(grams.values()) if grams else None, basis_of(grams)))

    def _told(self, epochs: float, now_seconds: float) -> Told:
        return Told(epochs, now_seconds, self.pushed.epoch_end_seconds, self.pushed.push_seconds)

    def _see_clock(self, now_seconds: float, doubt_seconds: float) -> None:
        """Where the job's clock turns out to be off, or less than was thought, its past is to be placed anew."""
        epochs = self.pushed.epochs_completed
        self.track.epochs_resumed = max(0.0, self.pushed.epochs_resumed or self.track.epochs_resumed)
        if epochs is not None and self.track.see_clock(self._told(epochs, now_seconds), doubt_seconds):
            self.past_asked = self.past_asked or 0

    def _say_clock(self) -> None:
        if self.track.behind_seconds or self.track.start_behind_seconds:
            self.say("clock_skewed")

    def _progress(self, outcome: Outcome, now_seconds: float) -> Outcome:
        completed, planned = self.pushed.epochs_completed, self.pushed.epochs_planned
        if completed is None:
            return outcome
        if self.track.add_progress(self._told(completed, now_seconds)):
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
            finished = self.pushed.finished_seconds or self.pushed.epoch_end_seconds
            end = now_seconds if finished is None else finished + self.track.behind_seconds
            earliest = self.track.boundaries[-1].seconds if self.track.boundaries else self.track.began_seconds or 0.0
            self.ended_seconds = end if earliest - _SAME_SECONDS <= end <= now_seconds else now_seconds
            self.ending = ending_of(completed, planned) if planned is not None else "stopped"
        if not self.track.points:
            self.prediction = None
            return
        newest = self.track.points[-1]
        self.prediction = Prediction(
            self.name,
            self.pushed.group,
            energy.measured(self.track.boundaries, newest.joules, self.ended_seconds, completed),
            None if newest.grams is None else Quantiles(newest.grams, newest.grams, newest.grams),
            newest.emissions_basis,
            now_seconds,
        )

    def _predict(self, readings: Readings, now_seconds: float, knowledge: Knowledge) -> Outcome:
        track, planned = self.track, self.pushed.epochs_planned
        if planned is None or not track.points:
            return "no_energy"
        newest = track.points[-1]
        here = Boundary(self.pushed.epochs_completed or 0.0, now_seconds, newest.joules)
        forecast = energy.forecast(
            track.boundaries or [here],
            planned,
            newest.joules,
            now_seconds,
            knowledge.for_group(self.pushed.group),
            change_seconds=self.gpus.change_seconds,
            gpus=self.gpus.held,
        )
        if forecast is None:
            return "epochs_went_back" if track.went_back and len(track.boundaries) < 2 else "no_epochs"
        joules, ends = forecast.joules, forecast.end_timestamp_seconds
        grams = grams_at_end(self.name, track, joules, ends, readings=readings, curves=knowledge.curves)
        basis = "" if grams is None else newest.emissions_basis
        self.prediction = Prediction(self.name, self.pushed.group, forecast, grams, basis, now_seconds)
        likely, end = forecast.expected_joules, forecast.expected_end_timestamp_seconds
        if grams is not None and likely is not None and end is not None:
            joules, ends = Quantiles(*likely[:3]), Quantiles(*end[:3])
            expected_grams = grams_at_end(self.name, track, joules, ends, readings=readings, curves=knowledge.curves)
            self.prediction = replace(self.prediction, expected_grams=expected_grams)
        return "unit_mismatch" if track.counts_in_another_unit(planned) else "forecast"


def shown(name: str) -> str:
    """A name as a log line can bear it."""
    return repr(name if len(name) <= 80 else f"{name[:77]}...")
