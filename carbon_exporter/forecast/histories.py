"""The past of runs that are met after their start, by range queries."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

from carbon_exporter import metrics
from carbon_exporter.forecast.promql import Client
from carbon_exporter.forecast.track import History, Point, Told

_PUSHED: Final = (metrics.EPOCHS_COMPLETED.name, metrics.EPOCH_END.name, metrics.PUSH_TIME)
_REGEX_CHARACTERS: Final = frozenset("\\.+*?()|[]{}^$")
_MOST_STEPS: Final = 500
_BEFORE_START_SECONDS: Final = 60.0
_LONGEST_HISTORY_SECONDS: Final = 30 * 86_400.0
_LOOKBACK_SECONDS: Final = 300
"""Longer than a gap between scrapes or a restart of an exporter."""


def read_history(client: Client, training_job: str, start_seconds: float, now_seconds: float) -> History:
    """The past of one run since `start_seconds`, at most 30 days, in one query of at most 500 steps.

    Raises:
        PromQLError: the query failed.
    """
    start, step = _range(start_seconds, now_seconds)
    job = f'training_job="{metrics.escape_label(training_job)}"'
    expression = f'{_energy(job)} or max by (__name__, training_job) ({{__name__=~"{"|".join(_PUSHED)}",{job}}})'
    values = {
        series.labels.get("__name__", ""): dict(series.points)
        for series in client.query_range(expression, start, now_seconds, step)
    }
    return _history(values, start_seconds, step)


def read_histories(client: Client, starts: Mapping[str, float], now_seconds: float) -> dict[str, History]:
    """The past of several runs (training job -> its start) that began at about the same time, in two queries.

    Raises:
        PromQLError: a query failed.
    """
    start, step = _range(min(starts.values()), now_seconds)
    jobs = f'training_job=~"{metrics.escape_label("|".join(map(escape_regex, starts)))}"'
    values: dict[str, dict[str, dict[float, float]]] = {job: {} for job in starts}
    for expression in (
        _energy(jobs),
        f'max by (__name__, training_job) ({{__name__=~"{"|".join(_PUSHED)}",{jobs}}})',
    ):
        for series in client.query_range(expression, start, now_seconds, step):
            of_job = values.get(series.labels.get("training_job", ""))
            if of_job is not None:
                of_job[series.labels.get("__name__", "")] = dict(series.points)
    return {job: _history(values[job], starts[job], step) for job in starts}


def escape_regex(name: str) -> str:
    """`name` as RE2 matches it and nothing else (https://github.com/google/re2/wiki/Syntax)."""
    return "".join(f"\\{character}" if character in _REGEX_CHARACTERS else character for character in name)


def _energy(matcher: str) -> str:
    return f"sum by (training_job) (last_over_time({metrics.JOB_ENERGY.name}{{{matcher}}}[{_LOOKBACK_SECONDS}s]))"


def _range(start_seconds: float, now_seconds: float) -> tuple[float, float]:
    """The start of the query, and its step."""
    start = max(start_seconds - _BEFORE_START_SECONDS, now_seconds - _LONGEST_HISTORY_SECONDS)
    start = min(start, now_seconds - _BEFORE_START_SECONDS)
    return start, max(1.0, math.ceil((now_seconds - start) / _MOST_STEPS))


def _history(values: Mapping[str, Mapping[float, float]], start_seconds: float, step_seconds: float) -> History:
    """From the values of a run by time: its joules under "", what it pushed under the name of the metric."""
    begin = start_seconds - _BEFORE_START_SECONDS
    points = [Point(*point) for point in sorted(values.get("", {}).items()) if point[0] >= begin]
    ends, pushes = values.get(metrics.EPOCH_END.name, {}), values.get(metrics.PUSH_TIME, {})
    told: list[Told] = []
    for seen, epochs in sorted(values.get(metrics.EPOCHS_COMPLETED.name, {}).items()):
        end = ends.get(seen)
        if not told or (epochs, end) != (told[-1].epochs, told[-1].end_seconds):
            told.append(Told(epochs, seen, end, pushes.get(seen)))
    return History(_at_scrapes(points), told, step_seconds)


def _at_scrapes(points: Sequence[Point]) -> list[Point]:
    """The points that tell something new.

    Between two scrapes a range query repeats the older value, which would put the joules of half a minute into the
    wrong epoch. A value that stays for longer than a gap between scrapes is one at which nothing was used.
    """
    kept = list(points[:1])
    for point in points[1:]:
        if point.joules != kept[-1].joules or point.seconds - kept[-1].seconds >= _LOOKBACK_SECONDS:
            kept.append(point)
    return kept
