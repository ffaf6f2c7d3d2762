"""The queries of one poll, on the names that exporters and jobs publish, so that no recording rule need be loaded."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from carbon_exporter import metrics
from carbon_exporter.forecast.progress import History, Mark, Point, Pushed
from carbon_exporter.forecast.promql import Client, Sample

_LOOKBACK: Final = "5m"
"""Longer than a gap between scrapes or a restart of an exporter, within which a counter keeps its last value."""
_PUSHED: Final = {
    metrics.EPOCHS_COMPLETED.name: "epochs_completed",
    metrics.EPOCHS_PLANNED.name: "epochs_planned",
    metrics.EPOCH_END.name: "epoch_end_seconds",
    metrics.TRAINING_START.name: "start_seconds",
    metrics.TRAINING_FINISHED.name: "finished_seconds",
    metrics.PUSH_TIME: "push_seconds",
}
_MIXED: Final = "mixed"
"""The basis of a sum of grams of several bases, as alerts/recording.yaml has it."""
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
    grams_per_kilowatt_hour: float | None = None
    pue_ratio: float | None = None


def read(client: Client, now_seconds: float) -> Readings:
    """Everything of one poll, in five queries.

    Raises:
        PromQLError: one of them failed; there are no half readings.
    """
    energy, emissions = metrics.JOB_ENERGY.name, metrics.JOB_EMISSIONS.name
    names = "|".join([*_PUSHED, metrics.TRAINING_INFO.name])
    # carbon_pue_ratio has no label signal, which is the same as an empty one.
    grid_names = f"{metrics.INTENSITY.name}|{metrics.PUE.name}"
    grid = client.query(f'avg by (__name__) ({{__name__=~"{grid_names}",signal=~"(average)?"}})', now_seconds)
    by_name = {sample.labels.get("__name__", ""): sample.value for sample in grid}
    pushed = f'max by (__name__, training_job, group) ({{__name__=~"{names}",training_job!=""}})'
    grams = _by_basis(client.query(_sum(emissions, by="training_job, basis"), now_seconds))
    return Readings(
        pushed=_pushed(client.query(pushed, now_seconds)),
        joules=_by_job(client.query(_sum(energy), now_seconds)),
        grams={job: sum(parts.values()) for job, parts in grams.items()},
        emissions_basis={job: _basis_of(parts) for job, parts in grams.items()},
        scraped_seconds=_by_job(client.query(f"avg by (training_job) (timestamp({energy}))", now_seconds)),
        grams_per_kilowatt_hour=by_name.get(metrics.INTENSITY.name),
        pue_ratio=by_name.get(metrics.PUE.name),
    )


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
    values: dict[str, dict[float, float]] = {}
    for series in client.query_range(expression, start, now_seconds, step):
        values[series.labels.get("__name__", "")] = dict(series.points)
    marks: list[Mark] = []
    for seen, completed in sorted(values.get(epochs, {}).items()):
        # What an earlier run of this name left in the Pushgateway ended before this one began.
        end = values.get(ends, {}).get(seen, seen)
        if end > start_seconds and completed > 0 and (not marks or completed != marks[-1].epochs):
            marks.append(Mark(completed, min(end, seen)))
    return History([Point(*point) for point in sorted(values.get("", {}).items())], marks)


def _sum(name: str, matcher: str = 'training_job!=""', by: str = "training_job") -> str:
    return f"sum by ({by}) (last_over_time({name}{{{matcher}}}[{_LOOKBACK}]))"


def _by_job(samples: list[Sample]) -> dict[str, float]:
    return {job: sample.value for sample in samples if (job := sample.labels.get("training_job", ""))}


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
    return _MIXED if len(counted) > 1 else next(iter(counted or grams))


def _pushed(samples: list[Sample]) -> dict[str, Pushed]:
    fields: dict[str, dict[str, float]] = {}
    groups: dict[str, str] = {}
    for sample in samples:
        job, name = sample.labels.get("training_job", ""), sample.labels.get("__name__", "")
        if name in _PUSHED:
            fields.setdefault(job, {})[_PUSHED[name]] = sample.value
        elif name == metrics.TRAINING_INFO.name:
            groups[job] = sample.labels.get("group", "")
    return {job: Pushed(group=groups.get(job, ""), **values) for job, values in fields.items()}
