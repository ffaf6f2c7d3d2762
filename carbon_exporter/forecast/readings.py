"""The queries of one poll, on the names that exporters and jobs publish, so that no recording rule need be loaded."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from carbon_exporter import metrics
from carbon_exporter.forecast import pushes
from carbon_exporter.forecast.carbon import power_by_zone
from carbon_exporter.forecast.progress import History, Mark, Point, Pushed
from carbon_exporter.forecast.promql import Client, Sample

_LOOKBACK: Final = "5m"
"""Longer than a gap between scrapes or a restart of an exporter, within which a counter keeps its last value."""
MIXED: Final = "mixed"
"""The basis of a sum of grams of several bases, as alerts/recording.yaml has it."""
_REGEX_CHARACTERS: Final = frozenset("\\.+*?()|[]{}^$")
_MOST_STEPS: Final = 500
_BEFORE_START_SECONDS: Final = 60.0
_LONGEST_HISTORY_SECONDS: Final = 30 * 86_400.0


@dataclass(frozen=True, slots=True)
class Readings:
    """What the engine knows at one moment, by training job."""

    pushed: Mapping[str, Pushed] = field(default_factory=dict)
    joules: Mapping[str, float] = field(default_factory=dict)
    grams: Mapping[str, float] = field(default_factory=dict)
    emissions_basis: Mapping[str, str] = field(default_factory=dict)
    """What the intensity behind the grams counted; "mixed" where grams of several bases are added."""
    scraped_seconds: Mapping[str, float] = field(default_factory=dict)
    """When the joules were scraped; of a job on several nodes the mean."""
    gpus: Mapping[str, float] = field(default_factory=dict)
    zones: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Share of the job's power in each grid zone, times the PUE there; "" is a zone that is not known."""
    grams_per_kilowatt_hour: float | None = None
    pue_ratio: float | None = None
    names_left_out: int = 0
    """Pushed names without energy that are not in `pushed`: there are too many, or they are too long."""


def read(client: Client, now_seconds: float) -> Readings:
    """Everything of one poll, in five queries; in eight where too many names are pushed to be answered in one.

    Raises:
        PromQLError: one of them failed; there are no half readings.
    """
    energy, emissions, gpus = metrics.JOB_ENERGY.name, metrics.JOB_EMISSIONS.name, metrics.JOB_GPUS.name
    # A node whose last scrape failed still counts: what it measured has not gone.
    last = f'last_over_time({{__name__=~"{energy}|{emissions}|{gpus}",training_job!=""}}[{_LOOKBACK}])'
    counters = _by_name(client.query(f"sum by (__name__, training_job, basis) ({last})", now_seconds))
    scraped = client.query(
        f'avg by (training_job) (timestamp({energy}{{training_job!=""}})) or {pushes.COUNT}', now_seconds
    )
    pushing = sum(sample.value for sample in scraped if not sample.labels)
    pushed, left_out = pushes.read(client, now_seconds, int(pushing))
    grams = _by_basis(counters.get(emissions, []))
    places = _read_places(client, now_seconds)
    return Readings(
        pushed=pushed,
        joules=_by_job(counters.get(energy, [])),
        grams={job: sum(parts.values()) for job, parts in grams.items()},
        emissions_basis={job: _basis_of(parts) for job, parts in grams.items()},
        scraped_seconds=_by_job(scraped),
        gpus=_by_job(counters.get(gpus, [])),
        zones=power_by_zone(_read_watts(client, now_seconds), places.zones, places.pue),
        grams_per_kilowatt_hour=places.grams_per_kilowatt_hour,
        pue_ratio=statistics.fmean(places.pue.values()) if places.pue else None,
        names_left_out=left_out,
    )


class _Places(NamedTuple):
    """Node -> its zone and its PUE; the mean intensity of all zones."""

    zones: Mapping[str, str]
    pue: Mapping[str, float]
    grams_per_kilowatt_hour: float | None


def _read_places(client: Client, now_seconds: float) -> _Places:
    """What the nodes say of where they stand, under the same label `instance` as their joules."""
    zone, pue = metrics.NODE_GRID_ZONE.name, metrics.PUE.name
    nodes = f'max by (__name__, instance, grid_zone) ({{__name__=~"{zone}|{pue}"}})'
    grid = f'avg by (__name__) ({{__name__="{metrics.INTENSITY.name}",signal=~"(average)?"}})'
    said = _by_name(client.query(f"{nodes} or {grid}", now_seconds))
    return _Places(
        {one.labels.get("instance", ""): one.labels.get("grid_zone", "") for one in said.get(zone, [])},
        {one.labels.get("instance", ""): one.value for one in said.get(pue, [])},
        next((one.value for one in said.get(metrics.INTENSITY.name, [])), None),
    )


def _read_watts(client: Client, now_seconds: float) -> dict[str, dict[str, float]]:
    """Training job -> node -> power of late."""
    rate = f'rate({metrics.JOB_ENERGY.name}{{training_job!=""}}[{_LOOKBACK}])'
    watts: dict[str, dict[str, float]] = {}
    for sample in client.query(f"sum by (training_job, instance) ({rate})", now_seconds):
        watts.setdefault(sample.labels.get("training_job", ""), {})[sample.labels.get("instance", "")] = sample.value
    return watts


def read_pushed(client: Client, at_seconds: float, lookback_seconds: int) -> dict[str, Pushed]:
    """The last of each value that jobs pushed in the time before `at_seconds`, in one query.

    Raises:
        PromQLError: the query failed.
    """
    names = "|".join(pushes.NAMES)
    last = f'last_over_time({{__name__=~"{names}",training_job!=""}}[{lookback_seconds}s])'
    return pushes.by_job(client.query(f"max by (__name__, training_job, group) ({last})", at_seconds))


def read_history(client: Client, training_job: str, start_seconds: float, now_seconds: float) -> History:
    """The past of one run since `start_seconds`, at most 30 days, in one query of at most 500 steps.

    Raises:
        PromQLError: the query failed.
    """
    start = max(start_seconds - _BEFORE_START_SECONDS, now_seconds - _LONGEST_HISTORY_SECONDS)
    step = max(1.0, math.ceil((now_seconds - start) / _MOST_STEPS))
    job = f'training_job="{metrics.escape_label(training_job)}"'
    epochs, ends = metrics.EPOCHS_COMPLETED.name, metrics.EPOCH_END.name
    expression = f'{_sum(metrics.JOB_ENERGY.name, job)} or max by (__name__) ({{__name__=~"{epochs}|{ends}",{job}}})'
    values = {
        series.labels.get("__name__", ""): dict(series.points)
        for series in client.query_range(expression, start, now_seconds, step)
    }
    return _history(values, start_seconds)


def read_histories(client: Client, starts: Mapping[str, float], now_seconds: float) -> dict[str, History]:
    """The past of several runs (training job -> its start) that began at about the same time, in two queries.

    Raises:
        PromQLError: a query failed.
    """
    oldest = min(starts.values())
    start = max(oldest - _BEFORE_START_SECONDS, now_seconds - _LONGEST_HISTORY_SECONDS)
    step = max(1.0, math.ceil((now_seconds - start) / _MOST_STEPS))
    jobs = f'training_job=~"{metrics.escape_label("|".join(map(_escape_regex, starts)))}"'
    pushed = f"{metrics.EPOCHS_COMPLETED.name}|{metrics.EPOCH_END.name}"
    values: dict[str, dict[str, dict[float, float]]] = {job: {} for job in starts}
    for expression in (
        _sum(metrics.JOB_ENERGY.name, jobs),
        f'max by (__name__, training_job) ({{__name__=~"{pushed}",{jobs}}})',
    ):
        for series in client.query_range(expression, start, now_seconds, step):
            of_job = values.get(series.labels.get("training_job", ""))
            if of_job is not None:
                of_job[series.labels.get("__name__", "")] = dict(series.points)
    return {job: _history(values[job], starts[job]) for job in starts}


def _escape_regex(name: str) -> str:
    """`name` as RE2 matches it and nothing else (https://github.com/google/re2/wiki/Syntax)."""
    return "".join(f"\\{character}" if character in _REGEX_CHARACTERS else character for character in name)


def _history(values: Mapping[str, Mapping[float, float]], start_seconds: float) -> History:
    """From the values of a run by time: its joules under "", what it pushed under the name of the metric."""
    begin = start_seconds - _BEFORE_START_SECONDS
    ends = values.get(metrics.EPOCH_END.name, {})
    marks: list[Mark] = []
    for seen, completed in sorted(values.get(metrics.EPOCHS_COMPLETED.name, {}).items()):
        # What an earlier run of this name left in the Pushgateway ended before this one began.
        end = ends.get(seen, seen)
        if end > start_seconds and completed > 0 and (not marks or completed != marks[-1].epochs):
            marks.append(Mark(completed, min(end, seen)))
    return History([Point(*point) for point in sorted(values.get("", {}).items()) if point[0] >= begin], marks)


def _sum(name: str, matcher: str = 'training_job!=""', by: str = "training_job") -> str:
    return f"sum by ({by}) (last_over_time({name}{{{matcher}}}[{_LOOKBACK}]))"


def _by_job(samples: list[Sample]) -> dict[str, float]:
    return {job: sample.value for sample in samples if (job := sample.labels.get("training_job", ""))}


def _by_name(samples: list[Sample]) -> dict[str, list[Sample]]:
    named: dict[str, list[Sample]] = {}
    for sample in samples:
        named.setdefault(sample.labels.get("__name__", ""), []).append(sample)
    return named


def _by_basis(samples: list[Sample]) -> dict[str, dict[str, float]]:
    """Grams by training job and basis."""
    grams: dict[str, dict[str, float]] = {}
    for sample in samples:
        if job := sample.labels.get("training_job", ""):
            grams.setdefault(job, {})[sample.labels.get("basis", "")] = sample.value
    return grams


def _basis_of(grams: Mapping[str, float]) -> str:
    """The one basis of which there are grams; any where there are none yet."""
    counted = [basis for basis, amount in grams.items() if amount > 0]
    return MIXED if len(counted) > 1 else next(iter(counted or grams))
