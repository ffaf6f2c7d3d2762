"""The past of runs that are met after their start, by range queries."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

from carbon_exporter import metrics
from carbon_exporter.forecast.promql import Client, Series
from carbon_exporter.forecast.totals import JOULES, Counters, Totals
from carbon_exporter.forecast.track import Past, Point, Told

_PUSHED: Final = (metrics.EPOCHS_COMPLETED.name, metrics.EPOCH_END.name, metrics.PUSH_TIME)
_REGEX_CHARACTERS: Final = frozenset("\\.+*?()|[]{}^$")
_MOST_STEPS: Final = 500
_BEFORE_START_SECONDS: Final = 60.0
_LONGEST_HISTORY_SECONDS: Final = 30 * 86_400.0
_LOOKBACK_SECONDS: Final = 300
"""Longer than a gap between scrapes or a restart of an exporter."""


def read_past(client: Client, training_job: str, start_seconds: float, now_seconds: float) -> Past:
    """The past of one run since `start_seconds`, at most 30 days, in one query of at most 500 steps.

    Raises:
        PromQLError: the query failed.
    """
    return read_pasts(client, {training_job: start_seconds}, now_seconds)[training_job]


def read_pasts(client: Client, starts: Mapping[str, float], now_seconds: float) -> dict[str, Past]:
    """The past of several runs (training job -> its start) that began at about the same time, in one query.

    Raises:
        PromQLError: the query failed.
    """
    start, step = _range(min(starts.values()), now_seconds)
    jobs = f'training_job=~"{metrics.escape_label("|".join(map(escape_regex, starts)))}"'
    spent = f"sum by (training_job, instance) (last_over_time({metrics.JOB_ENERGY.name}{{{jobs}}}[5m]))"
    pushed = f'max by (__name__, training_job) ({{__name__=~"{"|".join(_PUSHED)}",{jobs}}})'
    by_job: dict[str, list[Series]] = {}
    for series in client.query_range(f"{spent} or {pushed}", start, now_seconds, step):
        by_job.setdefault(series.labels.get("training_job", ""), []).append(series)
    return {job: _past(by_job.get(job, []), started, step) for job, started in starts.items()}


def escape_regex(name: str) -> str:
    """`name` as RE2 matches it and nothing else (https://github.com/google/re2/wiki/Syntax)."""
    return "".join(f"\\{character}" if character in _REGEX_CHARACTERS else character for character in name)


def _range(start_seconds: float, now_seconds: float) -> tuple[float, float]:
    """The start of the query, and its step."""
    start = max(start_seconds - _BEFORE_START_SECONDS, now_seconds - _LONGEST_HISTORY_SECONDS)
    start = min(start, now_seconds - _BEFORE_START_SECONDS)
    return start, max(1.0, math.ceil((now_seconds - start) / _MOST_STEPS))


def _past(series: Sequence[Series], start_seconds: float, step_seconds: float) -> Past:
    spent = [one for one in series if one.labels.get("__name__") not in _PUSHED]
    pushed = {one.labels["__name__"]: dict(one.points) for one in series if one.labels.get("__name__") in _PUSHED}
    points, totals = _points(spent, start_seconds - _BEFORE_START_SECONDS)
    return Past(points, _told(pushed), step_seconds, totals)


def _points(series: Sequence[Series], begin_seconds: float) -> tuple[list[Point], Totals]:
    """The joules of all nodes at each moment that tells something new."""
    moments: dict[float, dict[str, Counters]] = {}
    for one in series:
        node = one.labels.get("instance", "")
        for seconds, joules in one.points:
            if seconds >= begin_seconds and joules >= 0:
                moments.setdefault(seconds, {})[node] = {JOULES: joules}
    totals = Totals()
    points: list[Point] = []
    before: Mapping[str, Counters] = {}
    for seconds, nodes in sorted(moments.items()):
        # Between two scrapes the older value is repeated, which would put the joules of half a minute into the wrong
        # epoch. One that stays for longer than a gap between scrapes is one at which nothing was used.
        if nodes != before or seconds - points[-1].seconds >= _LOOKBACK_SECONDS:
            totals.take(nodes, seconds)
            points.append(Point(seconds, totals.joules or 0.0))
            before = nodes
    return points, totals


def _told(values: Mapping[str, Mapping[float, float]]) -> list[Told]:
    ends, pushes = values.get(metrics.EPOCH_END.name, {}), values.get(metrics.PUSH_TIME, {})
    told: list[Told] = []
    for seen, epochs in sorted(values.get(metrics.EPOCHS_COMPLETED.name, {}).items()):
        end = ends.get(seen)
        if not told or (epochs, end) != (told[-1].epochs, told[-1].end_seconds):
            told.append(Told(epochs, seen, end, pushes.get(seen)))
    return told
