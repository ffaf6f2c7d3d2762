"""The metric contract: every name, type, label and help text that this project publishes or reads from jobs.

docs/metrics.md is generated from here (`python -m carbon_exporter.metrics`), and a test holds rules and dashboards
to these names. `Renderer` writes the Prometheus text format 0.0.4: prometheus_client spends about 20 us per series,
and the node agent renders at every tick.
"""

import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from carbon_exporter import __version__

Room = Literal["node", "intensity", "pushed", "forecast"]
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
PUSH_JOB: Final = "carbon_training"
"""The constant value of the label `job` of everything that jobs push; the job's name is the label training_job."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of the contract. A label whose value is "" is left out of the exposition: to Prometheus the same."""

    name: str
    kind: Literal["counter", "gauge"]
    room: Room
    help: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Family:
    """A metric with its samples: (label values in the order of `metric.labels`, value)."""

    metric: Metric
    samples: Sequence[tuple[tuple[str, ...], float]]


def _counter(name: str, room: Room, text: str, *labels: str) -> Metric:
    return Metric(name, "counter", room, text, labels)


def _gauge(name: str, room: Room, text: str, *labels: str) -> Metric:
    return Metric(name, "gauge", room, text, labels)


RAPL_ENERGY: Final = _counter(
    "carbon_rapl_energy_joules_total",
    "node",
    "Energy counted by RAPL, wraps undone. Domains package and dram may be added; core and uncore lie inside package.",
    "package",
    "die",
    "domain",
)
ESTIMATED_ENERGY: Final = _counter(
    "carbon_estimated_energy_joules_total",
    "node",
    "Energy estimated where there is no counter: CPU time times the processor's thermal design power. Not measured.",
    "component",
)
GPU_ENERGY: Final = _counter(
    "carbon_gpu_energy_joules_total",
    "node",
    "Energy of a physical GPU: NVML's counter, or its power integrated (carbon_source_info says which).",
    "uuid",
)
GPU_POWER: Final = _gauge("carbon_gpu_power_watts", "node", "Power of a physical GPU as NVML gives it.", "uuid")
GPU_POWER_LIMIT: Final = _gauge(
    "carbon_gpu_power_limit_watts",
    "node",
    "Power limit of a physical GPU that its driver enforces: the least of all that are set. Absent where NVML tells "
    "none.",
    "uuid",
)
GPU_UTILIZATION: Final = _gauge(
    "carbon_gpu_utilization_ratio", "node", "Share of time in which a kernel ran on the GPU, 0 to 1.", "uuid"
)
GPU_INFO: Final = _gauge(
    "carbon_gpu_info",
    "node",
    "A GPU or, with label mig, a MIG device of it. Always 1.",
    "uuid",
    "gpu",
    "model",
    "driver",
    "mig",
)
JOB_ENERGY: Final = _counter(
    "carbon_job_energy_joules_total",
    "node",
    "Energy of a training job on this node since it was first seen. Read it as a value, not through increase().",
    "training_job",
    "component",
)
JOB_EMISSIONS: Final = _counter(
    "carbon_job_emissions_grams_total",
    "node",
    "CO2eq of a training job on this node: its joules times PUE times the grid intensity at the time. The label basis "
    "says what the intensity counted: add grams of different bases only knowingly.",
    "training_job",
    "component",
    "basis",
)
JOB_MARKET_EMISSIONS: Final = _counter(
    "carbon_job_market_emissions_grams_total",
    "node",
    "CO2eq of a training job on this node by intensity.market_grams_per_kilowatt_hour (market-based). Beside the "
    "location-based figure, never added to it. Absent unless it is set.",
    "training_job",
    "component",
)
JOB_EMBODIED: Final = _counter(
    "carbon_job_embodied_grams_total",
    "node",
    "The job's share of what it took to make the hardware, by the time it held it (M of ISO/IEC 21031). Absent unless "
    "the configuration gives kilograms.",
    "training_job",
    "component",
)
JOB_INFO: Final = _gauge(
    "carbon_job_info",
    "node",
    "A training job: who found it and whose it is; further labels come from jobs.kubernetes.info_labels. Always 1.",
    "training_job",
    "resolver",
    "group",
    "pod_namespace",
    "user",
    "job_name",
    "account",
    "partition",
)
JOB_GPUS: Final = _gauge(
    "carbon_job_gpus", "node", "Physical GPUs that the training job holds on this node.", "training_job"
)
GPU_HOLDER: Final = _gauge(
    "carbon_gpu_holder_info",
    "node",
    "A training job that holds the GPU, or the MIG device of it, now: uuid as in carbon_gpu_info. Always 1.",
    "uuid",
    "training_job",
)
JOB_GPU_POWER_LIMIT: Final = _gauge(
    "carbon_job_gpu_power_limit_watts",
    "node",
    "Sum of the power limits of the GPUs in carbon_job_gpus, each in full, however many jobs hold it or a slice of it. "
    "Absent where one is unknown.",
    "training_job",
)
IDLE_POWER: Final = _gauge(
    "carbon_idle_power_watts",
    "node",
    "Power of a device that nobody uses, configured or learned on this device. Absent until it is known.",
    "component",
    "device",
)
NODE_ENERGY: Final = _counter(
    "carbon_node_energy_joules_total",
    "node",
    "All energy of a component of this node, counted or estimated (carbon_source_info says which), that is shared out: "
    "jobs + idle + system.",
    "component",
)
UNATTRIBUTED_ENERGY: Final = _counter(
    "carbon_unattributed_energy_joules_total",
    "node",
    "Energy that no job used: idle, or used by processes outside every job (system). Jobs + idle + system = measured.",
    "component",
    "reason",
)
EQUALLY_SHARED_ENERGY: Final = _counter(
    "carbon_equally_shared_energy_joules_total",
    "node",
    "Part of the shared-out energy that was split equally among several holders because their use was unknown.",
    "component",
)
PUE: Final = _gauge("carbon_pue_ratio", "node", "Power usage effectiveness that emissions are counted with.")
SOURCE_INFO: Final = _gauge(
    "carbon_source_info",
    "node",
    "Where a component's joules come from: rapl, nvml counter, nvml integrated or estimate. Always 1.",
    "component",
    "source",
)
COLLECTOR_SUCCESS: Final = _gauge(
    "carbon_collector_success", "node", "1 if the collector's last run read everything it should.", "collector"
)
COLLECTOR_DURATION: Final = _gauge(
    "carbon_collector_duration_seconds", "node", "How long the collector's last run took.", "collector"
)
COLLECTOR_LAST_SUCCESS: Final = _gauge(
    "carbon_collector_last_success_timestamp_seconds",
    "node",
    "When the collector last read everything it should (Unix time).",
    "collector",
)
COLLECTOR_FAILURES: Final = _counter(
    "carbon_collector_failures_total", "node", "Failed reads since the exporter started.", "collector"
)
SAMPLING_GAP: Final = _counter(
    "carbon_sampling_gap_seconds_total",
    "node",
    "Time in sampling intervals of more than twice the configured length. No joule is lost in them, but all of the "
    "interval is shared by its CPU time as a whole, and a counter that wraps twice in it falls short.",
)
BUILD_INFO: Final = _gauge(
    "carbon_exporter_build_info",
    "node",
    "Version of the running program, node agent or forecast service. Always 1.",
    "version",
    "python",
)
NODE_INFO: Final = _gauge(
    "carbon_node_info",
    "node",
    "The node's own name, which stays when the exporter gets another address (label instance). Always 1.",
    "node_name",
)
NODE_GRID_ZONE: Final = _gauge(
    "carbon_node_grid_zone_info", "node", "Grid zone that this node draws its power from. Always 1.", "grid_zone"
)

INTENSITY: Final = _gauge(
    "carbon_intensity_grams_per_kilowatt_hour",
    "intensity",
    "CO2eq for a kilowatt-hour from the grid, as it is used for emissions now.",
    "grid_zone",
    "provider",
    "signal",
    "basis",
)
INTENSITY_ESTIMATED: Final = _gauge(
    "carbon_intensity_estimated",
    "intensity",
    "1 if the intensity is modelled or an average standing in for the current value, 0 if it is as measured or set.",
    "grid_zone",
    "provider",
)
INTENSITY_DATA_TIMESTAMP: Final = _gauge(
    "carbon_intensity_data_timestamp_seconds",
    "intensity",
    "The time that the intensity is for (Unix time; of a yearly mean the end of its year).",
    "grid_zone",
    "provider",
)
INTENSITY_FALLBACK: Final = _gauge(
    "carbon_intensity_fallback_level",
    "intensity",
    "0 as asked for, 1 last good value, 2 the country's yearly mean, 3 the world's yearly mean.",
    "grid_zone",
)

INTENSITY_LAST_SUCCESS: Final = _gauge(
    "carbon_intensity_last_success_timestamp_seconds",
    "intensity",
    "When the provider last gave a usable answer for the zone (Unix time). Absent before the first.",
    "grid_zone",
    "provider",
)
INTENSITY_FETCH_ERRORS: Final = _counter(
    "carbon_intensity_fetch_errors_total", "intensity", "Questions without a usable answer.", "provider", "reason"
)
INTENSITY_FORECAST: Final = _gauge(
    "carbon_intensity_forecast_grams_per_kilowatt_hour",
    "intensity",
    "Expected mean intensity from now to the horizon. The provider is who forecasts: statistical where it is this "
    "program from what has been, static where there is a yearly mean only.",
    "grid_zone",
    "provider",
    "signal",
    "horizon",
)

EPOCHS_COMPLETED: Final = _gauge(
    "carbon_training_epochs_completed", "pushed", "Epochs done, may be fractional.", "training_job"
)
EPOCHS_PLANNED: Final = _gauge(
    "carbon_training_epochs_planned", "pushed", "Epochs that the job is set to run.", "training_job"
)
EPOCHS_RESUMED: Final = _gauge(
    "carbon_training_epochs_resumed",
    "pushed",
    "Epochs that earlier runs had done when this one was resumed from a checkpoint; absent where there are none.",
    "training_job",
)
EPOCH_END: Final = _gauge(
    "carbon_training_epoch_end_timestamp_seconds",
    "pushed",
    "When epochs_completed was reached (Unix time of the training host).",
    "training_job",
)
TRAINING_START: Final = _gauge(
    "carbon_training_start_timestamp_seconds", "pushed", "When the training started (Unix time).", "training_job"
)
TRAINING_FINISHED: Final = _gauge(
    "carbon_training_finished_timestamp_seconds",
    "pushed",
    "When the training ended as intended (Unix time); absent before.",
    "training_job",
)
EMISSIONS_BUDGET: Final = _gauge(
    "carbon_training_emissions_budget_grams", "pushed", "CO2eq that the job may cause in all.", "training_job"
)
TRAINING_INFO: Final = _gauge(
    "carbon_training_info", "pushed", "What kind of job it is. Always 1.", "training_job", "group"
)

FORECAST_ENERGY: Final = _gauge(
    "carbon_forecast_energy_joules",
    "forecast",
    "Energy of the job in total at its planned end, by quantile.",
    "training_job",
    "quantile",
)
FORECAST_EMISSIONS: Final = _gauge(
    "carbon_forecast_emissions_grams",
    "forecast",
    "CO2eq of the job in total at its planned end, by quantile.",
    "training_job",
    "quantile",
)
FORECAST_EXPECTED_ENERGY: Final = _gauge(
    "carbon_forecast_expected_energy_joules",
    "forecast",
    "Energy of the job in total with early stopping counted in, by quantile. Absent where no run of the job's group is "
    "on record as stopped early.",
    "training_job",
    "quantile",
)
FORECAST_EXPECTED_EMISSIONS: Final = _gauge(
    "carbon_forecast_expected_emissions_grams",
    "forecast",
    "CO2eq of the job in total with early stopping counted in, by quantile. Absent where no run of the job's group is "
    "on record as stopped early.",
    "training_job",
    "quantile",
)
FORECAST_END: Final = _gauge(
    "carbon_forecast_end_timestamp_seconds",
    "forecast",
    "When the job will have done its planned epochs (Unix time), by quantile.",
    "training_job",
    "quantile",
)
FORECAST_EPOCH_ENERGY: Final = _gauge(
    "carbon_forecast_epoch_energy_joules", "forecast", "Energy expected for each further epoch.", "training_job"
)
FORECAST_INFO: Final = _gauge(
    "carbon_forecast_info",
    "forecast",
    "What a forecast rests on: basis group, fleet or builtin, or measured where the job has ended. The label "
    "emissions_basis says what the intensity behind its grams counted: mixed where grams of several bases are added, "
    "empty where there are no grams. Always 1.",
    "training_job",
    "basis",
    "group",
    "emissions_basis",
)
FORECAST_EPOCHS: Final = _gauge(
    "carbon_forecast_epochs_observed", "forecast", "Epochs that the forecast has seen.", "training_job"
)
FORECAST_TIMESTAMP: Final = _gauge(
    "carbon_forecast_timestamp_seconds", "forecast", "When the forecast was made (Unix time).", "training_job"
)
FORECAST_COVERAGE: Final = _gauge(
    "carbon_forecast_coverage_ratio",
    "forecast",
    "Share of finished runs on record whose further epochs' energy fell inside the 90 % interval that the runs before "
    "them gave after 1, 2, 3, 5 and 10 epochs. Absent before a run has finished.",
    "basis",
)
FORECAST_ERROR: Final = _gauge(
    "carbon_forecast_relative_error",
    "forecast",
    "Median error of those forecasts, |forecast / actual - 1| of the energy in total. Absent before a run has "
    "finished.",
    "basis",
)
FORECAST_HISTORY_RUNS: Final = _gauge(
    "carbon_forecast_history_runs",
    "forecast",
    "Ended runs on record: finished (all planned epochs), stopped (as intended, before them) or lost (killed or "
    "vanished).",
    "ending",
)
FORECAST_HISTORY_UNSAVED: Final = _gauge(
    "carbon_forecast_history_unsaved_runs",
    "forecast",
    "Ended runs that are kept in memory only, because the record's file cannot be written.",
)
FORECAST_JOBS: Final = _gauge(
    "carbon_forecast_jobs",
    "forecast",
    "Jobs seen in the last poll, by what became of them: forecast, or the reason why there is no forecast or a "
    "doubtful one.",
    "outcome",
)
FORECAST_WARNINGS: Final = _gauge(
    "carbon_forecast_warnings",
    "forecast",
    "Jobs with a forecast that deserves less trust, by the reason. A job may have several.",
    "warning",
)
FORECAST_QUERY_ERRORS: Final = _counter(
    "carbon_forecast_query_errors_total",
    "forecast",
    "Queries to the PromQL engine that failed or came back partial (the forecasts before stay, with their age), or "
    "held values that are not finite (these are dropped).",
    "reason",
)
FORECAST_LAST_POLL: Final = _gauge(
    "carbon_forecast_last_poll_timestamp_seconds", "forecast", "When the last complete poll ended (Unix time)."
)

PUSH_TIME: Final = "push_time_seconds"
"""The Pushgateway's own metric: when a group was last pushed."""
_HUGE: Final = float("inf")
_NOT_FINITE: Final = {"nan": "NaN", "inf": "+Inf", "-inf": "-Inf"}


def contract() -> tuple[Metric, ...]:
    """Every metric above, in the order of this file."""
    return tuple(value for value in globals().values() if isinstance(value, Metric))


@dataclass(slots=True)
class _Line:
    series: str
    value: float | None = None
    text: str = ""


class Renderer:
    """Writes families as Prometheus text; keeps the lines of the last page, for most of them come again.

    Writing a number takes most of the time: a line whose value is the same is taken as it is.
    """

    def __init__(self) -> None:
        self._lines: dict[Metric, dict[tuple[str, ...], _Line]] = {}

    def render(self, families: Iterable[Family]) -> bytes:
        """The exposition of `families`; one without samples is left out."""
        known, self._lines = self._lines, {}
        lines: list[str] = []
        for family in families:
            if not family.samples:
                continue
            metric = family.metric
            lines.append(f"# HELP {metric.name} {_escape_help(metric.help)}")
            lines.append(f"# TYPE {metric.name} {metric.kind}")
            before, after = known.get(metric, {}), self._lines.setdefault(metric, {})
            for values, value in family.samples:
                line = before.get(values) or _Line(_series(metric, values))
                if line.value != value:
                    line.value = value
                    text = repr(value) if -_HUGE < value < _HUGE else _NOT_FINITE[repr(value)]
                    line.text = f"{line.series} {text}"
                after[values] = line
                lines.append(line.text)
        lines.append("")
        return "\n".join(lines).encode()


def _series(metric: Metric, values: tuple[str, ...]) -> str:
    pairs = zip(metric.labels, values, strict=True)
    labels = ",".join(f'{name}="{escape_label(value)}"' for name, value in pairs if value)
    return f"{metric.name}{{{labels}}}" if labels else metric.name


def escape_label(value: str) -> str:
    r"""`value` as it stands between double quotes in the text format and in PromQL: \, " and newline escaped."""
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _escape_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def build_info() -> Family:
    """carbon_exporter_build_info of this program."""
    return Family(BUILD_INFO, [((__version__, platform.python_version()), 1.0)])


_ROOM_TITLES: Final[dict[Room, str]] = {
    "node": "Node agent (`carbon-exporter node`)",
    "intensity": "Grid intensity (both processes)",
    "pushed": "Pushed by jobs (through the Pushgateway)",
    "forecast": "Forecast service (`carbon-exporter forecast`)",
}


def markdown() -> Iterator[str]:
    """docs/metrics.md, line by line."""
    yield "# Metrics"
    yield ""
    yield "Generated from `carbon_exporter/metrics.py` by `make docs`; do not edit. Units are in the names:"
    yield "joules, watts, grams, seconds, ratios from 0 to 1. Everything pushed stands under"
    yield f'`job="{PUSH_JOB}"`; the job\'s own name is always the label `training_job`.'
    for room, title in _ROOM_TITLES.items():
        yield from ("", f"## {title}", "", "| metric | type | labels | meaning |", "|---|---|---|---|")
        for metric in contract():
            if metric.room == room:
                labels = ", ".join(f"`{name}`" for name in metric.labels)
                yield f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |"


if __name__ == "__main__":
    print("\n".join(markdown()))  # noqa: T201 - this is the generator of docs/metrics.md
