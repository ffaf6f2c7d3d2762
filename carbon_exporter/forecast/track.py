"""The course of one run of a job: its measured joules, and how many were spent at the end of each epoch. Pure."""

import bisect
import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, NamedTuple

from carbon_exporter.forecast.clock import Clock, Delay, behind_at_each, clock_of
from carbon_exporter.forecast.energy import Boundary
from carbon_exporter.forecast.totals import Totals

MOST_BOUNDARIES: Final = 64
_MOST_POINTS: Final = 24
_POINTS_SAVED: Final = 10
"""They tell what a joule has cost of late."""
_SAME: Final = 1e-9
_LATE_FIRST_SCRAPE_SECONDS: Final = 120.0
_BOUNDARIES_KEPT: Final = 21
"""The first, up to which ended runs are scored one by one."""
_STOOD_STILL_SECONDS: Final = 120.0
_ONE_PUSH_SECONDS: Final = 150.0
"""Progress that was seen to stand still for longer than two scrapes, and then steps on, has done so in one push."""
_LARGE_STEP: Final = 10.0
_FEWEST_STEPS: Final = 3.0
_CLOCK_MOVED_SECONDS: Final = 15.0
_LAST_SECONDS: Final = 1e11
"""Of Unix time in seconds; in milliseconds it would be beyond."""


class Point(NamedTuple):
    """Energy and emissions in total, as scraped at one moment, and what the intensity behind the grams counted."""

    seconds: float
    joules: float
    grams: float | None = None
    emissions_basis: str = ""


class Told(NamedTuple):
    """Progress as a job told it.

    Attributes:
        epochs: done.
        seen_seconds: when it was first seen.
        end_seconds: when they were done, by the job's own clock; None where it does not say.
        pushed_seconds: when a push with it arrived; None where nobody knows.
    """

    epochs: float
    seen_seconds: float
    end_seconds: float | None = None
    pushed_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Past:
    """A job's past from range queries.

    Attributes:
        points, told: in order.
        step_seconds: of the queries.
        totals: of its nodes at the last point; None where nothing is known.
    """

    points: Sequence[Point] = ()
    told: Sequence[Told] = ()
    step_seconds: float = 0.0
    totals: Totals | None = None


class _Mark(NamedTuple):
    """The end of an epoch whose energy is still to be looked up."""

    epochs: float
    seconds: float


@dataclass(slots=True)
class Track:
    """The course of one run.

    Epochs end between scrapes, and their pushes come late. So each mark waits until energy has been scraped after
    it, and its joules are interpolated between the points on both sides. Boundaries are bounded: where they grow
    too many, every second one after the first 21 is let go.

    Attributes:
        start_seconds: as the job told it, by which its run is known; None where it did not.
        epochs_resumed: done by earlier runs, where this one has been resumed from a checkpoint.
    """

    start_seconds: float | None = None
    epochs_resumed: float = 0.0
    boundaries: list[Boundary] = field(default_factory=list)
    points: deque[Point] = field(default_factory=lambda: deque(maxlen=_MOST_POINTS))
    behind_seconds: float = 0.0
    """Of the job's clock, by which what it tells now is corrected."""
    start_behind_seconds: float = 0.0
    """The same when it started."""
    went_back: bool = False
    """The epochs went back, so what lies before the first boundary left is no part of the plan."""
    _waiting: deque[_Mark] = field(default_factory=lambda: deque(maxlen=MOST_BOUNDARIES))
    _clock: Clock = field(default_factory=Clock)
    _last_epochs: float = 0.0
    _last_end_seconds: float | None = None
    _looked_seconds: float = 0.0
    _stepped_seconds: float = 0.0
    _smallest_step: float = 0.0
    """Of the epochs done from one push to the next; 0 while none is known."""

    @property
    def began_seconds(self) -> float | None:
        """When the run started (Unix time), its clock corrected; None where that is not known."""
        start = _plausible(self.start_seconds)
        return None if start is None else start + self.start_behind_seconds

    def is_whole(self, past: Past) -> bool:
        """Whether `past` reaches back to the start: an engine may keep less."""
        return bool(past.points) and past.points[0].seconds <= (self.began_seconds or 0.0) + _LATE_FIRST_SCRAPE_SECONDS

    def see_clock(self, told: Told, doubt_seconds: float) -> bool:
        """Learn from one push how far the job's clock is off; whether the course so far is to be looked up again.

        Args:
            told: the newest progress.
            doubt_seconds: since it was last looked at.
        """
        delay = _delay_of(told, doubt_seconds)
        if delay is not None and told.end_seconds != self._last_end_seconds:
            self._last_end_seconds = told.end_seconds
            self._clock = self._clock.after(delay)
        return abs(self._clock.behind_seconds - self.behind_seconds) > _CLOCK_MOVED_SECONDS

    def counts_in_another_unit(self, epochs_planned: float) -> bool:
        """Whether each push adds so much that the plan would be passed with the third: steps of a plan in epochs."""
        return self._smallest_step >= _LARGE_STEP and epochs_planned < _FEWEST_STEPS * self._smallest_step

    def add_point(self, point: Point) -> None:
        """Take the newest energy, which never falls; a point that is no newer than the last says nothing."""
        if not self.points or point.seconds > self.points[-1].seconds:
            self.points.append(point)

    def lift(self, joules: float, grams: float, emissions_basis: str) -> None:
        """Add to every point what was spent on nodes that had gone before the first of them."""
        lifted = [
            Point(
                one.seconds,
                one.joules + joules,
                None if one.grams is None else one.grams + grams,
                emissions_basis,
            )
            for one in self.points
        ]
        self.points = deque(lifted, _MOST_POINTS)

    def add_progress(self, told: Told) -> bool:
        """Take what was told; True where its time cannot be right, and the time it was seen stands in for it."""
        return self._add(told, self.behind_seconds)

    def _add(self, told: Told, behind: float) -> bool:
        epochs, now_seconds = told.epochs, told.seen_seconds
        looked_before, self._looked_seconds = self._looked_seconds, now_seconds
        if self._last_epochs * (1 - _SAME) <= epochs <= self._last_epochs * (1 + _SAME):
            self._stepped_seconds = self._stepped_seconds or now_seconds
            return False
        if epochs < self._last_epochs:
            self.went_back = True
            self._smallest_step = 0.0
            self._drop_boundaries()
        elif self._is_resumption(told) and not self._last_epochs:
            self._drop_boundaries()
        elif self._has_stood_still(looked_before, now_seconds):
            step = epochs - self._last_epochs
            self._smallest_step = min(self._smallest_step or step, step)
        self._last_epochs, self._stepped_seconds = epochs, now_seconds
        end = _plausible(told.end_seconds)
        end = None if end is None else end + behind
        earliest = max(self._latest_seconds(), (self.began_seconds or 0.0) - 1)
        plausible = end is not None and earliest < end <= now_seconds
        self._waiting.append(_Mark(epochs, end if plausible and end is not None else now_seconds))
        return told.end_seconds is not None and not plausible

    def place_marks(self) -> None:
        """Turn the marks that lie before the newest point into boundaries."""
        self._place(self.points)

    def fill(self, past: Past) -> None:
        """Rebuild the run from its recorded past and what has been seen since."""
        known = [*_before(self.points, past.points), *self.points]
        told, delays = self._of_this_run(past)
        behind = behind_at_each(delays)
        self._clock = self._clock if self._clock.recent else clock_of(delays)
        placed_by, self.behind_seconds = self.behind_seconds, self._clock.behind_seconds
        self.start_behind_seconds = behind[0] if behind else self.behind_seconds
        since = self._told_since(told[-1].epochs if told else 0.0)
        first = next((one for one in told if one.epochs > 0), None)
        if first is not None and self._is_resumption(first):
            self.epochs_resumed = first.epochs
        self._drop_boundaries()
        self._last_epochs, self._stepped_seconds = self.epochs_resumed, 0.0
        self._begin(self.epochs_resumed, known)
        corrections = [*behind, *([self.behind_seconds - placed_by] * len(since))]
        for one, correction in zip([*told, *since], corrections, strict=True):
            if one.epochs > 0:
                self._add(one, correction)
            self._place(known)
        self.points.clear()
        self.points.extend(known)

    def state(self) -> dict[str, Any]:
        """As JSON holds it; of the points the newest."""
        plain = {one.name: getattr(self, one.name) for one in fields(self)}
        newest = list(self.points)[-_POINTS_SAVED:]
        return {**plain, "points": newest, "_waiting": list(self._waiting)}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> "Track":
        """What `state` was made of."""
        track = cls(**state)
        track.boundaries = [Boundary(*one) for one in state["boundaries"]]
        track.points = deque((Point(*one) for one in state["points"]), _MOST_POINTS)
        recent, *known = state["_clock"]
        track._clock = Clock(tuple(Delay(*one) for one in recent), *known)
        track._waiting = deque((_Mark(*one) for one in state["_waiting"]), MOST_BOUNDARIES)
        return track

    def _of_this_run(self, past: Past) -> tuple[list[Told], list[Delay]]:
        """What the job told of this run, and its delays; not what an earlier one left in the Pushgateway."""
        start, told, delays = self.start_seconds, [], []
        for one in past.told:
            delay = _delay_of(one, past.step_seconds)
            if delay is not None and start is not None and one.end_seconds is not None and one.end_seconds < start:
                continue
            if delay is None and one.seen_seconds <= (self.began_seconds or 0.0):
                continue
            told.append(one)
            delays.append(delay or Delay(0.0, math.inf))
        return told, delays

    def _has_stood_still(self, looked_seconds: float, now_seconds: float) -> bool:
        if not self._stepped_seconds:
            return False
        seen = looked_seconds - self._stepped_seconds > _STOOD_STILL_SECONDS
        return seen and now_seconds - self._stepped_seconds > _ONE_PUSH_SECONDS

    def _is_resumption(self, told: Told) -> bool:
        """Whether it is what a run begins with that is resumed from a checkpoint: an earlier one has paid for it."""
        return told.end_seconds is not None and told.end_seconds == self.start_seconds and told.epochs > 0

    def _told_since(self, epochs: float) -> list[Told]:
        """What was seen of the run beyond `epochs`, by corrected times."""
        marks = [*(_Mark(old.epochs, old.seconds) for old in self.boundaries), *self._waiting]
        return [Told(mark.epochs, mark.seconds, mark.seconds) for mark in marks if mark.epochs > epochs]

    def _begin(self, epochs: float, known: Sequence[Point]) -> None:
        """Put the start in as the first boundary, where the energy then is known or was 0."""
        began = self.began_seconds
        if began is None or not known or began > known[-1].seconds:
            return
        if known[0].seconds <= began:
            self.boundaries.append(Boundary(epochs, began, _joules_at(began, known)))
        elif known[0].seconds <= began + _LATE_FIRST_SCRAPE_SECONDS:
            # A job's counter begins at 0 when the node agent first sees the job.
            self.boundaries.append(Boundary(epochs, began, 0.0))

    def _drop_boundaries(self) -> None:
        self.boundaries.clear()
        self._waiting.clear()

    def _latest_seconds(self) -> float:
        if self._waiting:
            return self._waiting[-1].seconds
        return self.boundaries[-1].seconds if self.boundaries else 0.0

    def _place(self, known: Sequence[Point]) -> None:
        while self._waiting and known and self._waiting[0].seconds <= known[-1].seconds:
            mark = self._waiting.popleft()
            between = known
            if self.boundaries:
                last = self.boundaries[-1]
                between = [
                    Point(last.seconds, last.joules),
                    *(point for point in known if point.seconds > last.seconds),
                ]
            if mark.seconds >= between[0].seconds:
                self.boundaries.append(Boundary(mark.epochs, mark.seconds, _joules_at(mark.seconds, between)))
        if len(self.boundaries) > MOST_BOUNDARIES:
            self.boundaries[_BOUNDARIES_KEPT:-1] = self.boundaries[_BOUNDARIES_KEPT + 1 : -1 : 2]


def _delay_of(told: Told, doubt_seconds: float) -> Delay | None:
    end, arrived = _plausible(told.end_seconds), _plausible(told.pushed_seconds)
    if end is None:
        return None
    return Delay(min(arrived or told.seen_seconds, told.seen_seconds) - end, doubt_seconds)


def _plausible(seconds: float | None) -> float | None:
    return seconds if seconds is not None and 0 <= seconds <= _LAST_SECONDS else None


def _before(points: Sequence[Point], past: Sequence[Point]) -> Iterable[Point]:
    """What `past` adds before `points`.

    A point is as old as the mean of its nodes' scrapes, a step of the past as its oldest scrape or older: between
    two scrapes of one round the past lies below the point, and no energy was lost.
    """
    if not points:
        return past
    first = points[0]
    return (point for point in past if point.seconds < first.seconds and point.joules <= first.joules)


def _joules_at(seconds: float, points: Sequence[Point]) -> float:
    """The joules at a time within `points` (in order), on the straight line between the points on both sides."""
    right = bisect.bisect_left(points, seconds, key=lambda point: point.seconds)
    after = points[min(right, len(points) - 1)]
    before = points[max(right - 1, 0)]
    if after.seconds <= before.seconds:
        return after.joules
    share = (seconds - before.seconds) / (after.seconds - before.seconds)
    return before.joules + share * (after.joules - before.joules)
