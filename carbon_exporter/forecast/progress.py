"""What is known of each job: what it pushed, its measured joules, and the energy at the end of its epochs. Pure."""

import bisect
import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from carbon_exporter.forecast.energy import Boundary

Outcome = Literal[
    "forecast",
    "finished",
    "no_epochs",
    "planned_missing",
    "invalid_value",
    "stale_push",
    "no_energy",
    "energy_went_back",
    "epochs_above_planned",
    "epochs_went_back",
    "unit_mismatch",
    "too_many_jobs",
]
MOST_BOUNDARIES: Final = 64
_MOST_POINTS: Final = 64
_MOST_EPOCHS: Final = 1e9
_SAME: Final = 1e-9
_LATE_FIRST_SCRAPE_SECONDS: Final = 120.0
_BOUNDARIES_KEPT: Final = 21
"""The first, up to which ended runs are scored one by one."""
_ONE_PUSH_SECONDS: Final = 150.0
"""Progress that has stood still for longer than two scrapes, and then steps on, has done so in one push."""
_LARGE_STEP: Final = 10.0
_FEWEST_STEPS: Final = 3.0


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a job pushed; None where it did not. Times are Unix seconds, push_seconds by the Pushgateway's clock."""

    epochs_completed: float | None = None
    epochs_planned: float | None = None
    epoch_end_seconds: float | None = None
    start_seconds: float | None = None
    finished_seconds: float | None = None
    push_seconds: float | None = None
    budget_grams: float | None = None
    group: str = ""


class Point(NamedTuple):
    """Energy and emissions in total, as scraped at one moment, and what the intensity behind the grams counted."""

    seconds: float
    joules: float
    grams: float | None = None
    emissions_basis: str = ""


class Mark(NamedTuple):
    """The end of an epoch whose energy is still to be looked up."""

    epochs: float
    seconds: float


@dataclass(frozen=True, slots=True)
class History:
    """A job's past from one range query: its points, and its marks in order."""

    points: Sequence[Point]
    marks: Sequence[Mark]


@dataclass(slots=True)
class Track:
    """The course of one run of a job.

    Epochs end between scrapes, and their pushes come late. So each mark waits until energy has been scraped after
    it, and its joules are interpolated between the points on both sides. Boundaries are bounded: where they grow
    too many, every second one after the first 21 is let go.
    """

    start_seconds: float | None = None
    boundaries: list[Boundary] = field(default_factory=list)
    points: deque[Point] = field(default_factory=lambda: deque(maxlen=_MOST_POINTS))
    went_back: bool = False
    """The epochs went back, so what lies before the first boundary left is no part of the plan."""
    lost_energy: bool = False
    """The joules went back: a node's counter is gone, and the sum says too little for the rest of this run."""
    _waiting: deque[Mark] = field(default_factory=lambda: deque(maxlen=MOST_BOUNDARIES))
    _last_epochs: float = 0.0
    _stepped_seconds: float = 0.0
    _smallest_step: float = 0.0
    """Of the epochs done from one push to the next; 0 while none is known."""

    def counts_in_another_unit(self, epochs_planned: float) -> bool:
        """Whether each push adds so much that the plan would be passed with the third: steps of a plan in epochs."""
        return self._smallest_step >= _LARGE_STEP and epochs_planned < _FEWEST_STEPS * self._smallest_step

    def add_point(self, point: Point) -> None:
        """Take the newest energy; one that is no newer than the last says nothing."""
        if self.points and point.joules < self.points[-1].joules * (1 - _SAME):
            self.lost_energy = True
        if not self.lost_energy and (not self.points or point.seconds > self.points[-1].seconds):
            self.points.append(point)

    def add_progress(self, epochs: float, end_seconds: float | None, now_seconds: float) -> bool:
        """Take pushed progress; True where its time cannot be right, and the time it was seen stands in for it."""
        if self._last_epochs * (1 - _SAME) <= epochs <= self._last_epochs * (1 + _SAME):
            self._stepped_seconds = self._stepped_seconds or now_seconds
            return False
        if epochs < self._last_epochs:
            self.went_back = True
            self._smallest_step = 0.0
            self._drop_boundaries()
        elif end_seconds is not None and end_seconds == self.start_seconds:
            # Resumed from a checkpoint: an earlier run has paid for these epochs.
            self._drop_boundaries()
        elif 0 < self._stepped_seconds < now_seconds - _ONE_PUSH_SECONDS:
            step = epochs - self._last_epochs
            self._smallest_step = min(self._smallest_step or step, step)
        self._last_epochs, self._stepped_seconds = epochs, now_seconds
        earliest = max(self._latest_seconds(), (self.start_seconds or 0.0) - 1)
        plausible = end_seconds is not None and earliest < end_seconds <= now_seconds
        self._waiting.append(Mark(epochs, end_seconds if plausible and end_seconds is not None else now_seconds))
        return end_seconds is not None and not plausible

    def place_marks(self) -> None:
        """Turn the marks that lie before the newest point into boundaries."""
        self._place(self.points)

    def fill(self, history: History) -> None:
        """Rebuild the run from its recorded past and what has been seen since."""
        points = list(self.points)
        if _falls(history.points) or _falls([*history.points[-1:], *points[-1:]]):
            self.lost_energy = True
        known = [*_before(points, history.points), *points]
        seen = [*(Mark(old.epochs, old.seconds) for old in self.boundaries if old.epochs > 0), *self._waiting]
        self.boundaries, self._last_epochs, self._stepped_seconds = [], 0.0, 0.0
        self._waiting.clear()
        self._begin(known)
        for mark in [*history.marks, *seen]:
            self.add_progress(mark.epochs, mark.seconds, mark.seconds)
            self._place(known)
        self.points.clear()
        self.points.extend(known)

    def _begin(self, known: Sequence[Point]) -> None:
        """Put the start in as the boundary of 0 epochs, where the energy then is known or was 0."""
        if self.start_seconds is None or not known:
            return
        if known[0].seconds <= self.start_seconds:
            self.boundaries.append(Boundary(0.0, self.start_seconds, _joules_at(self.start_seconds, known)))
        elif known[0].seconds <= self.start_seconds + _LATE_FIRST_SCRAPE_SECONDS:
            # A job's counter begins at 0 when the node agent first sees the job.
            self.boundaries.append(Boundary(0.0, self.start_seconds, 0.0))

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


def _falls(points: Iterable[Point]) -> bool:
    return any(after.joules < before.joules * (1 - _SAME) for before, after in itertools.pairwise(points))


def _before(points: Sequence[Point], history: Sequence[Point]) -> Iterable[Point]:
    """What `history` adds before `points`.

    A point is as old as the mean of its nodes' scrapes, a step of the history as its oldest scrape or older: between
    two scrapes of one round the history lies below the point, and no energy was lost.
    """
    if not points:
        return history
    first = points[0]
    return (point for point in history if point.seconds < first.seconds and point.joules <= first.joules)


def _joules_at(seconds: float, points: Sequence[Point]) -> float:
    """The joules at a time within `points` (in order), on the straight line between the points on both sides."""
    right = bisect.bisect_left(points, seconds, key=lambda point: point.seconds)
    after = points[min(right, len(points) - 1)]
    before = points[max(right - 1, 0)]
    if after.seconds <= before.seconds:
        return after.joules
    share = (seconds - before.seconds) / (after.seconds - before.seconds)
    return before.joules + share * (after.joules - before.joules)


def judge(pushed: Pushed, joules: float | None, now_seconds: float, push_max_age_seconds: float) -> Outcome:
    """Whether the values at hand allow a forecast, or the first reason why they do not."""
    completed, planned = pushed.epochs_completed, pushed.epochs_planned
    if pushed.finished_seconds is not None:
        return "finished"
    if completed is None or planned is None:
        return "no_epochs" if completed is None else "planned_missing"
    if not (0 <= completed <= _MOST_EPOCHS and 0 < planned <= _MOST_EPOCHS and (joules is None or joules >= 0)):
        return "invalid_value"
    if pushed.push_seconds is None or now_seconds - pushed.push_seconds > push_max_age_seconds:
        return "stale_push"
    if joules is None:
        return "no_energy"
    return "forecast" if completed <= planned * (1 + _SAME) else "epochs_above_planned"


def keep_most_telling(names: Iterable[str], known: Iterable[str], measured: Iterable[str], most: int) -> list[str]:
    """At most `most` of `names`: those with energy first, which nobody can push, and of them those known before."""
    old, spending = set(known), set(measured)
    return sorted(names, key=lambda name: (name not in spending, name not in old, name))[:most]
