"""The series of a large cluster that the rules read, served in parts for a Prometheus to scrape (honor_labels).

Counters rise evenly, so that every rule has something to show but the embodied grams, which are off by default. One
job in fifty may emit more than its budget.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PARTS = 20
GPUS_PER_NODE = 8
NODES_PER_JOB = 2
COLLECTORS = ("nvml", "rapl", "host_cpu", "kubernetes", "ledger", "state", "intensity")
QUANTILES = ("0.05", "0.5", "0.95")
Sample = tuple[str, float, float]
"""A series, its first value and how much it rises in a second."""


@dataclass(frozen=True)
class Cluster:
    """How large it is; each job has two nodes and all their GPUs."""

    nodes: int
    jobs: int


def series(cluster: Cluster, begin_seconds: float) -> Iterator[Sample]:
    """All series of the cluster; jobs began an hour before `begin_seconds` (Unix time)."""
    for node in range(cluster.nodes):
        target = f'cluster="c",job="carbon-exporter",instance="gpu-{node:05d}"'
        yield from _node(node, target)
        if node < cluster.jobs * NODES_PER_JOB:
            yield from _job_on_node(f"ml/job-{node // NODES_PER_JOB:04d}", target)
    gateway = 'cluster="c",job="carbon_training",instance="gateway"'
    for job in range(cluster.jobs):
        budget_grams = 20_000 if job % 50 == 0 else 30_000
        yield from _pushed(f'{gateway},training_job="ml/job-{job:04d}"', begin_seconds, budget_grams)
        for replica in ("forecast-1", "forecast-2"):
            labels = f'cluster="c",job="carbon-forecast",instance="{replica}",training_job="ml/job-{job:04d}"'
            yield from _forecast(labels, begin_seconds)


def serve(port: int, cluster: Cluster, begin_seconds: float) -> None:
    """Answer `/0` to `/19` with a twentieth of the series each, as of now, on that loopback port; for ever."""
    parts: list[list[Sample]] = [[] for _ in range(PARTS)]
    for index, sample in enumerate(series(cluster, begin_seconds)):
        parts[index % PARTS].append(sample)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            name = self.path.strip("/")
            past = time.time() - begin_seconds
            samples = parts[int(name)] if name.isdigit() else []
            body = "".join(f"{name} {first + rise * past:.10g}\n" for name, first, rise in samples).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            del format, args

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


def _node(node: int, target: str) -> Iterator[Sample]:
    yield f"up{{{target}}}", 1, 0
    yield f'carbon_exporter_build_info{{{target},version="1"}}', 1, 0
    yield f'carbon_node_info{{{target},node_name="gpu-{node:05d}"}}', 1, 0
    yield f'carbon_node_grid_zone_info{{{target},grid_zone="DE"}}', 1, 0
    yield f"carbon_pue_ratio{{{target}}}", 1.2, 0
    intensity = 'grid_zone="DE",provider="cluster",signal="average",basis="lifecycle"'
    yield f"carbon_intensity_grams_per_kilowatt_hour{{{target},{intensity}}}", 300, 0
    yield f'carbon_intensity_fallback_level{{{target},grid_zone="DE"}}', 0, 0
    yield f"carbon_sampling_gap_seconds_total{{{target}}}", 0, 0
    for package in range(2):
        for domain, watts in (("package", 200.0), ("dram", 20.0)):
            yield f'carbon_rapl_energy_joules_total{{{target},package="{package}",domain="{domain}"}}', 1e6, watts
    for component, watts in (("cpu", 400.0), ("dram", 40.0), ("gpu", 3200.0)):
        yield f'carbon_node_energy_joules_total{{{target},component="{component}"}}', 1e7, watts
        for reason in ("idle", "system"):
            labels = f'{target},component="{component}",reason="{reason}"'
            yield f"carbon_unattributed_energy_joules_total{{{labels}}}", 1e5, 10.0
    yield f'carbon_equally_shared_energy_joules_total{{{target},component="gpu"}}', 0, 0
    for collector in COLLECTORS:
        yield f'carbon_collector_success{{{target},collector="{collector}"}}', 1, 0
    for gpu in range(GPUS_PER_NODE):
        uuid = f'uuid="GPU-{node:05d}-{gpu}"'
        yield f"carbon_gpu_energy_joules_total{{{target},{uuid}}}", 1e7, 400.0
        yield f"carbon_gpu_utilization_ratio{{{target},{uuid}}}", 0.9, 0
        name = f"ml/job-{node // NODES_PER_JOB:04d}"
        yield f'carbon_gpu_holder_info{{{target},{uuid},training_job="{name}"}}', 1, 0


def _job_on_node(name: str, target: str) -> Iterator[Sample]:
    labels = f'{target},training_job="{name}"'
    yield f'carbon_job_info{{{labels},resolver="kubernetes",pod_namespace="ml",team="vision",user="u"}}', 1, 0
    yield f"carbon_job_gpus{{{labels}}}", GPUS_PER_NODE, 0
    for component, watts in (("cpu", 300.0), ("dram", 30.0), ("gpu", 3000.0)):
        yield f'carbon_job_energy_joules_total{{{labels},component="{component}"}}', 3600 * watts, watts
        grams = watts * 1.2 * 300 / 3.6e6
        of = f'{labels},component="{component}",basis="lifecycle"'
        yield f"carbon_job_emissions_grams_total{{{of}}}", 3600 * grams, grams


def _pushed(labels: str, begin_seconds: float, budget_grams: float) -> Iterator[Sample]:
    yield f"carbon_training_epochs_completed{{{labels}}}", 12, 0
    yield f"carbon_training_epochs_planned{{{labels}}}", 90, 0
    yield f"carbon_training_start_timestamp_seconds{{{labels}}}", begin_seconds - 3600, 0
    yield f"carbon_training_epoch_end_timestamp_seconds{{{labels}}}", begin_seconds, 0
    yield f"carbon_training_emissions_budget_grams{{{labels}}}", budget_grams, 0
    yield f"push_time_seconds{{{labels}}}", begin_seconds, 0


def _forecast(labels: str, begin_seconds: float) -> Iterator[Sample]:
    for quantile, ratio in zip(QUANTILES, (0.9, 1.0, 1.2), strict=True):
        at = f'{labels},quantile="{quantile}"'
        yield f"carbon_forecast_energy_joules{{{at}}}", 2e8 * ratio, 0
        yield f"carbon_forecast_emissions_grams{{{at}}}", 18_000 * ratio, 0
        yield f"carbon_forecast_end_timestamp_seconds{{{at}}}", begin_seconds + 30_000 * ratio, 0
    yield f"carbon_forecast_epochs_observed{{{labels}}}", 12, 0
    yield f"carbon_forecast_epoch_energy_joules{{{labels}}}", 2e6, 0
