"""The queries of one poll, on the names that exporters and jobs publish, so that no recording rule need be loaded."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from carbon_exporter import metrics
from carbon_exporter.forecast import pushes
from carbon_exporter.forecast.carbon import power_by_zone
from carbon_exporter.forecast.progress import Pushed
from carbon_exporter.forecast.promql import Client, Sample
from carbon_exporter.forecast.totals import JOULES, Counters

_MOST_JOULES: Final = 1e15
"""Of one node: a quarter of a terawatt-hour."""
_LOOKBACK: Final = "5m"
"""Longer than a gap between scrapes or a restart of an exporter, within which a counter keeps its last value."""


@dataclass(frozen=True, slots=True)
class Readings:
    """What the engine knows at one moment, by training job.

    Attributes:
        nodes: the job's counters on each of its nodes.
        scraped_seconds: when its joules were scraped; of a job on several nodes the mean; none while no node can be.
        gpus: that it holds.
        limit_watts: power limit of each of its GPUs, on average; of those nodes that tell.
        zones: share of its power in each grid zone, times the PUE there; "" is a zone that is not known.
        names_left_out: pushed names without energy that are not in `pushed`: too many, or too long.
    """

    pushed: Mapping[str, Pushed] = field(default_factory=dict)
    nodes: Mapping[str, Mapping[str, Counters]] = field(default_factory=dict)
    scraped_seconds: Mapping[str, float] = field(default_factory=dict)
    gpus: Mapping[str, float] = field(default_factory=dict)
    limit_watts: Mapping[str, float] = field(default_factory=dict)
    zones: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    grams_per_kilowatt_hour: float | None = None
    pue_ratio: float | None = None
    names_left_out: int = 0

    def joules(self, training_job: str) -> float | None:
        """On the nodes of this moment; None where no node tells, NaN where one tells what cannot be."""
        nodes = self.nodes.get(training_job)
        if not nodes:
            return None
        told = [counters[JOULES] for counters in nodes.values()]
        return sum(told) if all(0 <= joules <= _MOST_JOULES for joules in told) else math.nan


def read(client: Client, now_seconds: float) -> Readings:
    """Everything of one poll, in five queries; in nine or ten where the names pushed are too many for one answer.

    Raises:
        PromQLError: one of them failed; there are no half readings.
    """
    energy, gpus, limit = metrics.JOB_ENERGY.name, metrics.JOB_GPUS.name, metrics.JOB_GPU_POWER_LIMIT.name
    names = f"{energy}|{metrics.JOB_EMISSIONS.name}|{gpus}|{limit}"
    # A node whose last scrape failed still counts: what it measured has not gone.
    last = f'last_over_time({{__name__=~"{names}",training_job!=""}}[{_LOOKBACK}])'
    told = _by_name(client.query(f"sum by (__name__, training_job, instance, basis) ({last})", now_seconds))
    scraped = client.query(
        f'avg by (training_job) (timestamp({energy}{{training_job!=""}})) or {pushes.COUNT}', now_seconds
    )
    pushing = sum(sample.value for sample in scraped if not sample.labels)
    pushed, left_out = pushes.read(client, now_seconds, int(pushing))
    places = _read_places(client, now_seconds)
    held, limits = _by_node(told.get(gpus, [])), _by_node(told.get(limit, []))
    return Readings(
        pushed=pushed,
        nodes=_counters(told.get(energy, []), told.get(metrics.JOB_EMISSIONS.name, [])),
        scraped_seconds=_by_job(scraped),
        gpus={job: sum(nodes.values()) for job, nodes in held.items()},
        limit_watts={job: watts for job in limits if (watts := _per_gpu(limits[job], held.get(job, {}))) is not None},
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
    return _by_node(client.query(f"sum by (training_job, instance) ({rate})", now_seconds))


def read_pushed(client: Client, at_seconds: float, lookback_seconds: int) -> dict[str, Pushed]:
    """The last of each value that jobs pushed in the time before `at_seconds`, in one query.

    Raises:
        PromQLError: the query failed.
    """
    names = "|".join(pushes.NAMES)
    last = f'last_over_time({{__name__=~"{names}",training_job!=""}}[{lookback_seconds}s])'
    return pushes.by_job(client.query(f"max by (__name__, training_job, group) ({last})", at_seconds))


def _by_job(samples: list[Sample]) -> dict[str, float]:
    return {job: sample.value for sample in samples if (job := sample.labels.get("training_job", ""))}


def _by_name(samples: list[Sample]) -> dict[str, list[Sample]]:
    named: dict[str, list[Sample]] = {}
    for sample in samples:
        named.setdefault(sample.labels.get("__name__", ""), []).append(sample)
    return named


def _by_node(samples: list[Sample]) -> dict[str, dict[str, float]]:
    """Training job -> node -> value."""
    values: dict[str, dict[str, float]] = {}
    for sample in samples:
        job, node = sample.labels.get("training_job", ""), sample.labels.get("instance", "")
        if job:
            values.setdefault(job, {})[node] = sample.value
    return values


def _counters(energy: list[Sample], emissions: list[Sample]) -> dict[str, dict[str, dict[str, float]]]:
    """Training job -> node -> its counters; only of nodes that tell joules."""
    counters: dict[str, dict[str, dict[str, float]]] = {}
    for job, nodes in _by_node(energy).items():
        counters[job] = {node: {JOULES: joules} for node, joules in nodes.items()}
    for sample in emissions:
        of_job = counters.get(sample.labels.get("training_job", ""), {})
        if sample.labels.get("instance", "") in of_job:
            of_job[sample.labels.get("instance", "")][sample.labels.get("basis", "")] = sample.value
    return counters


def _per_gpu(limits: Mapping[str, float], gpus: Mapping[str, float]) -> float | None:
    """Watts of one GPU, on the nodes that tell both."""
    telling = [node for node in limits if gpus.get(node, 0.0) > 0]
    held = sum(gpus[node] for node in telling)
    return sum(limits[node] for node in telling) / held if held > 0 else None
