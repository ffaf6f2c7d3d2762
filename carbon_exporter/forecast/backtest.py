"""How good the forecast of energy and time is on recorded runs, beside what is simpler.

Every run is replayed epoch by epoch through the code of the running service. What it has learnt before comes from runs
of other configurations, never from the run itself: repeats of a configuration are near copies. Pure.
"""

import hashlib
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from carbon_exporter.forecast.conformal import BUILTIN, Calibration
from carbon_exporter.forecast.energy import Quantiles, forecast
from carbon_exporter.forecast.group_calibration import GroupCalibration
from carbon_exporter.forecast.importing import Course
from carbon_exporter.forecast.level import joule_steps, second_steps
from carbon_exporter.forecast.record import EndedRun
from carbon_exporter.forecast.summary import ended_run

CHECKPOINTS: Final = (1, 2, 3, 5, 10)
FOLDS: Final = 10
FEWEST_EPOCHS: Final = 10
BASES: Final = ("builtin", "fleet", "group", "other sets")


@dataclass
class Errors:
    """Of forecasts of totals, each a ratio of what came; intervals are added where there are any."""

    signed: list[float] = field(default_factory=list)
    inside: list[bool] = field(default_factory=list)
    widths: list[float] = field(default_factory=list)
    pinballs: list[float] = field(default_factory=list)

    def take(self, said: float, actual: float, interval: tuple[float, float] | None = None) -> None:
        """Score one forecast; `actual` is greater than 0."""
        self.signed.append(said / actual - 1)
        if interval is not None:
            low, high = interval
            self.inside.append(low <= actual <= high)
            self.widths.append((high - low) / actual)
            self.pinballs.append((_pinball(low, actual, 0.05) + _pinball(high, actual, 0.95)) / 2 / actual)

    def figures(self) -> dict[str, float | None]:
        """What is printed of them, ratios; None where there is no interval.

        Runs; median, mean and 90th percentile of the absolute error, median of the signed one; coverage, median width
        and mean pinball loss of the intervals.
        """
        sizes = sorted(abs(error) for error in self.signed)
        return {
            "runs": len(sizes),
            "median": statistics.median(sizes),
            "mean": statistics.fmean(sizes),
            "p90": sizes[math.ceil(0.9 * len(sizes)) - 1],
            "bias": statistics.median(self.signed),
            "coverage": statistics.fmean(self.inside) if self.inside else None,
            "width": statistics.median(self.widths) if self.widths else None,
            "pinball": statistics.fmean(self.pinballs) if self.pinballs else None,
        }


Table: TypeAlias = dict[str, dict[int, Errors]]
"""Forecaster -> epochs seen -> its errors."""


@dataclass
class Report:
    """The scores of one set of runs."""

    runs: int
    configs: int
    energy: Table = field(default_factory=dict)
    time: Table = field(default_factory=dict)


def backtest(
    courses: Sequence[Course],
    others: Sequence[Course] = (),
    *,
    every: int = 1,
    fewest_epochs: int = FEWEST_EPOCHS,
    history_runs: int | None = None,
    advance: Callable[[float], None] | None = None,
) -> Report:
    """Replay every `every`-th run of at least `fewest_epochs` epochs.

    Bases: "builtin", nothing has ended yet; "fleet", runs of other configurations have; "group", the other runs of the
    same configuration too, where there are any; "other sets", only `others` have, a kind never seen.

    Args:
        courses: the runs of one set, of which those of other configurations are learnt from in ten folds.
        others: the runs of other sets.
        every: 1: all.
        fewest_epochs: shorter runs are learnt from, but not forecast.
        history_runs: of other configurations; None: all.
        advance: told of progress, from 0 to 1.
    """
    fold_of = {config: index % FOLDS for index, config in enumerate(_shuffled(courses))}
    chosen = longer_than_one(courses, fewest_epochs)[::every]
    ended = ended_runs(courses)
    report = Report(len(chosen), len({course.config for course in chosen}))
    elsewhere = Calibration(ended_runs(others)).for_group("") if others else None
    done = 0
    for fold in range(FOLDS):
        other = [run for run in ended if fold_of[run.group] != fold]
        history = Calibration(other)
        for course in (course for course in chosen if fold_of[course.config] == fold):
            if history_runs is not None:
                history = Calibration(_some(other, history_runs, done))
            repeats = [run for run in ended if run.group == course.config and run.training_job != course.run]
            bases = {"builtin": BUILTIN, "fleet": history.for_group(course.config)}
            if repeats:
                bases["group"] = _with(history, repeats).for_group(course.config)
            if elsewhere is not None:
                bases["other sets"] = elsewhere
            _replay(report, course, bases)
            done += 1
            if advance is not None:
                advance(done / len(chosen))
    return report


def _some(runs: Sequence[EndedRun], most: int, turn: int) -> Sequence[EndedRun]:
    """At most `most` runs, far apart, and at each turn others."""
    step = max(1, len(runs) // most)
    return runs[turn % step :: step][:most]


def longer_than_one(courses: Sequence[Course], fewest_epochs: int) -> list[Course]:
    """Those with at least `fewest_epochs` epochs, and something left after the first."""
    return [course for course in courses if _epochs(course) >= max(2, fewest_epochs)]


def ended_runs(courses: Sequence[Course]) -> list[EndedRun]:
    """The runs as the service keeps them, as if each had done all it planned, in the order of shuffled configurations.

    Files list alike beside alike; what a service sees end one after the other is mixed.
    """
    place = {config: index for index, config in enumerate(_shuffled(courses))}
    runs = []
    for course in sorted(courses, key=lambda course: place[course.config]):
        end = course.boundaries[-1]
        ended = ended_run(
            course.boundaries,
            training_job=course.run,
            group=course.config,
            ending="finished",
            ended_seconds=end.seconds,
            epochs_planned=end.epochs,
            joules=end.joules,
            grams=None,
            gpus=None,
        )
        if ended is not None:
            runs.append(ended)
    return runs


def _shuffled(courses: Sequence[Course]) -> list[str]:
    """The configurations in an order that has nothing to do with their names, and is the same each time."""
    return sorted({course.config for course in courses}, key=lambda config: hashlib.sha256(config.encode()).digest())


def _epochs(course: Course) -> int:
    return len(course.boundaries) - 1


def _with(history: Calibration, runs: Sequence[EndedRun]) -> Calibration:
    calibration = history.copy()
    for run in runs:
        calibration.add(run)
    return calibration


def _replay(report: Report, course: Course, bases: Mapping[str, GroupCalibration]) -> None:
    end, planned = course.boundaries[-1], _epochs(course)
    for count in (count for count in CHECKPOINTS if count < planned):
        seen = course.boundaries[: count + 1]
        for basis, calibration in bases.items():
            said = forecast(seen, end.epochs, seen[-1].joules, seen[-1].seconds, calibration)
            if said is not None:
                _take(report.energy, basis, count, said.joules, end.joules)
                _take(report.time, basis, count, said.end_timestamp_seconds, end.seconds)
        joules, seconds = ([step.rate for step in steps(seen)] for steps in (joule_steps, second_steps))
        for name, rule in SIMPLER.items():
            _take(report.energy, name, count, rule(joules, planned), end.joules)
            _take(report.time, name, count, rule(seconds, planned), end.seconds)


def _take(table: Table, name: str, count: int, said: Quantiles, actual: float) -> None:
    if actual > 0:
        errors = table.setdefault(name, {}).setdefault(count, Errors())
        errors.take(said.median, actual, None if name in WITHOUT_INTERVAL else (said.low, said.high))


def _pinball(quantile: float, actual: float, level: float) -> float:
    return (level if actual >= quantile else level - 1) * (actual - quantile)


def _point(total: float) -> Quantiles:
    return Quantiles(total, total, total)


def _mean_of_all(values: Sequence[float], planned: int) -> Quantiles:
    """Carbontracker's: the mean of the epochs seen times the plan."""
    return _point(statistics.fmean(values) * planned)


def _mean_without_first(values: Sequence[float], planned: int) -> Quantiles:
    return _point(sum(values) + (planned - len(values)) * statistics.fmean(values[1:] or values))


def _last_epoch(values: Sequence[float], planned: int) -> Quantiles:
    return _point(sum(values) + (planned - len(values)) * values[-1])


def _students_t(values: Sequence[float], planned: int) -> Quantiles:
    """The mean of all, and Student's interval as if epochs were independent and alike."""
    total, left = _mean_of_all(values, planned).median, planned - len(values)
    if len(values) < 2:
        return _point(total)
    spread = _T_95[len(values)] * statistics.stdev(values) * math.sqrt(1 / len(values) + 1 / left) * left
    return Quantiles(total - spread, total, total + spread)


SIMPLER: Final[Mapping[str, Callable[[Sequence[float], int], Quantiles]]] = {
    "mean x plan": _mean_of_all,
    "drop first": _mean_without_first,
    "last epoch": _last_epoch,
    "iid t": _students_t,
}
WITHOUT_INTERVAL: Final = ("mean x plan", "drop first", "last epoch")
_T_95: Final = {2: 6.314, 3: 2.920, 5: 2.132, 10: 1.833}
"""The 95 % quantiles of Student's t with one degree of freedom less than epochs seen."""
