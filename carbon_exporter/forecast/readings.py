"""The queries of one poll, on the names that exporters and jobs publish, so that no recording rule need be loaded."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from carbon_exporter import metrics
from carbon_exporter.forecast.carbon import power_by_zone
from carbon_exporter.forecast.progress import Pushed
from carbon_exporter.forecast.promql import Client, Sample

_LOOKBACK: Final = "5m"
"""Longer than a gap between scrapes or a restart of an exporter, within which a counter keeps its last value."""
_PUSHED: Final = {
    metrics.EPOCHS_COMPLETED.name: "epochs_completed",
    metrics.EPOCHS_PLANNED.name: "epochs_planned",
    metrics.EPOCHS_RESUMED.name: "epochs_resumed",
    metrics.EPOCH_END.name: "epoch_end_seconds",
    metrics.TRAINING_START.name: "start_seconds",
    metrics.TRAINING_FINISHED.name: "finished_seconds",
    metrics.EMISSIONS_BUDGET.name: "budget_grams",
    metrics.PUSH_TIME: "push_seconds",
}
MIXED: Final = "mixed"
"""The basis of a sum of grams of several bases, as alerts/recording.yaml has it."""


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


def read(client: Client, now_seconds: float) -> Readings:
    """Everything of one poll, in eight queries.

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
    # A node whose last scrape failed still counts: its GPUs have not gone.
    gpus = f"sum by (training_job) (last_over_time({metrics.JOB_GPUS.name}[{_LOOKBACK}]))"
    grams = _by_basis(client.query(_sum(emissions, by="training_job, basis"), now_seconds))
    return Readings(
        pushed=_pushed(client.query(pushed, now_seconds)),
        joules=_by_job(client.query(_sum(energy), now_seconds)),
        grams={job: sum(parts.values()) for job, parts in grams.items()},
        emissions_basis={job: _basis_of(parts) for job, parts in grams.items()},
        scraped_seconds=_by_job(client.query(f"avg by (training_job) (timestamp({energy}))", now_seconds)),
        gpus=_by_job(client.query(gpus, now_seconds)),
        zones=_read_zones(client, now_seconds),
        grams_per_kilowatt_hour=by_name.get(metrics.INTENSITY.name),
        pue_ratio=by_name.get(metrics.PUE.name),
    )


def _read_zones(client: Client, now_seconds: float) -> dict[str, dict[str, float]]:
    """Where each job's power is drawn: its nodes' scrapes say their zone and PUE under the same label instance."""
    rate = f'rate({metrics.JOB_ENERGY.name}{{training_job!=""}}[{_LOOKBACK}])'
    watts: dict[str, dict[str, float]] = {}
    for sample in client.query(f"sum by (training_job, instance) ({rate})", now_seconds):
        watts.setdefault(sample.labels.get("training_job", ""), {})[sample.labels.get("instance", "")] = sample.value
    names = f"{metrics.NODE_GRID_ZONE.name}|{metrics.PUE.name}"
    zones: dict[str, str] = {}
    pue: dict[str, float] = {}
    for sample in client.query(f'max by (__name__, instance, grid_zone) ({{__name__=~"{names}"}})', now_seconds):
        node = sample.labels.get("instance", "")
        if sample.labels.get("__name__") == metrics.PUE.name:
            pue[node] = sample.value
        else:
            zones[node] = sample.labels.get("grid_zone", "")
    return power_by_zone(watts, zones, pue)


def read_pushed(client: Client, at_seconds: float, lookback_seconds: int) -> dict[str, Pushed]:
    """The last of each value that jobs pushed in the time before `at_seconds`, in one query.

    Raises:
        PromQLError: the query failed.
    """
    names = "|".join([*_PUSHED, metrics.TRAINING_INFO.name])
    last = f'last_over_time({{__name__=~"{names}",training_job!=""}}[{lookback_seconds}s])'
    return _pushed(client.query(f"max by (__name__, training_job, group) ({last})", at_seconds))


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
    return MIXED if len(counted) > 1 else next(iter(counted or grams))


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
