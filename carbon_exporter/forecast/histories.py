"""The past of runs that are met after their start, by range queries."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

from carbon_exporter import metrics
from carbon_exporter.forecast.promql import Client, Series
from carbon_exporter.forecast.totals import JOULES, Totals, basis_of
from carbon_exporter.forecast.track import History, Point, Told

_PUSHED: Final = (metrics.EPOCHS_COMPLETED.name, metrics.EPOCH_END.name, metrics.PUSH_TIME)
_REGEX_CHARACTERS: Final = frozenset("\\.+*?()|[]{}^$")
_MOST_STEPS: Final = 500
_BEFORE_START_SECONDS: Final = 60.0
_LONGEST_HISTORY_SECONDS: Final = 30 * 86_400.0
_LOOKBACK_SECONDS: Final = 300
"""Longer than a gap between scrapes or a restart of an exporter."""


def read_history(client: Client, training_job: str, start_seconds: float, now_seconds: float) -> History:
    """The past of one run since `start_seconds`, at most 30 days, in two queries of at most 500 steps.

    Raises:
        PromQLError: a query failed.
    """
    return read_histories(client, {training_job: start_seconds}, now_seconds)[training_job]


def read_histories(client: Client, starts: Mapping[str, float], now_seconds: float) -> dict[str, History]:
    """The past of several runs (training job -> its start) that began at about the same time, in two queries.

    Raises:
        PromQLError: a query failed.
    """
    start, step = _range(min(starts.values()), now_seconds)
    jobs = f'training_job=~"{metrics.escape_label("|".join(map(escape_regex, starts)))}"'
    counters = f'last_over_time({{__name__=~"{metrics.JOB_ENERGY.name}|{metrics.JOB_EMISSIONS.name}",{jobs}}}[5m])'
    spent = client.query_range(
        f"sum by (__name__, training_job, instance, basis) ({counters})", start, now_seconds, step
    )
    pushed = client.query_range(
        f'max by (__name__, training_job) ({{__name__=~"{"|".join(_PUSHED)}",{jobs}}})', start, now_seconds, step
    )
    spent_by_job, pushed_by_job = _by_job(spent), _by_job(pushed)
    return {job: _history(spent_by_job.get(job, []), pushed_by_job.get(job, []), starts[job], step) for job in starts}


def escape_regex(name: str) -> str:
    """`name` as RE2 matches it and nothing else (https://github.com/google/re2/wiki/Syntax)."""
    return "".join(f"\\{character}" if character in _REGEX_CHARACTERS else character for character in name)


def _range(start_seconds: float, now_seconds: float) -> tuple[float, float]:
    """The start of the query, and its step."""
    start = max(start_seconds - _BEFORE_START_SECONDS, now_seconds - _LONGEST_HISTORY_SECONDS)
    start = min(start, now_seconds - _BEFORE_START_SECONDS)
    return start, max(1.0, math.ceil((now_seconds - start) / _MOST_STEPS))


def _by_job(series: Sequence[Series]) -> dict[str, list[Series]]:
    by_job: dict[str, list[Series]] = {}
    for one in series:
        by_job.setdefault(one.labels.get("training_job", ""), []).append(one)
    return by_job


def _history(spent: Sequence[Series], pushed: Sequence[Series], start_seconds: float, step_seconds: float) -> History:
    begin = start_seconds - _BEFORE_START_SECONDS
    moments: dict[float, dict[str, dict[str, float]]] = {}
    for series in spent:
        node, name = series.labels.get("instance", ""), _counter_name(series.labels)
        for seconds, value in series.points:
            if seconds >= begin and value >= 0:
                moments.setdefault(seconds, {}).setdefault(node, {})[name] = value
    totals = Totals()
    points = []
    for seconds, nodes in sorted(moments.items()):
        totals.take({node: counters for node, counters in nodes.items() if JOULES in counters})
        if totals.joules is not None:
            grams = totals.grams
            points.append(Point(seconds, totals.joules, sum(grams.values()) if grams else None, basis_of(grams)))
    return History(_at_scrapes(points), _told(pushed), step_seconds, totals)


def _counter_name(labels: Mapping[str, str]) -> str:
    return JOULES if labels.get("__name__") == metrics.JOB_ENERGY.name else labels.get("basis", "")


def _told(pushed: Sequence[Series]) -> list[Told]:
    values = {series.labels.get("__name__", ""): dict(series.points) for series in pushed}
    ends, pushes = values.get(metrics.EPOCH_END.name, {}), values.get(metrics.PUSH_TIME, {})
    told: list[Told] = []
    for seen, epochs in sorted(values.get(metrics.EPOCHS_COMPLETED.name, {}).items()):
        end = ends.get(seen)
        if not told or (epochs, end) != (told[-1].epochs, told[-1].end_seconds):
            told.append(Told(epochs, seen, end, pushes.get(seen)))
    return told


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
