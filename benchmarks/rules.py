"""Measures what the shipped rules cost a real Prometheus on a cluster of 80,000 GPUs and 5,000 jobs.

    python -m benchmarks.rules [--quick]

The exit status is 1 where a target is missed. docs/benchmarks.md says what is measured, and how.
"""

import contextlib
import multiprocessing
import re
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import requests
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.node import Measure, command
from benchmarks.process import cpu_seconds, fixed_loop_seconds, memory
from benchmarks.rules_series import GPUS_PER_NODE, PARTS, Cluster, serve
from carbon_exporter.demo.servers import Server, ServerError, free_port, prometheus

ALERTS = Path(__file__).resolve().parent.parent / "alerts"
FULL, QUICK = Cluster(nodes=10_000, jobs=5000), Cluster(nodes=1000, jobs=500)
INTERVAL_SECONDS = 30.0
"""From scrape to scrape, and from evaluation to evaluation."""
WARM_UP = 11
"""Evaluations before those that count: then the windows of five minutes are full."""
COUNTED = 3
TARGET_SECONDS = 5.0
START_SECONDS = 90.0
_DURATION = re.compile(r'prometheus_rule_group_last_duration_seconds\{rule_group="[^"]*;([^"]*)"\} (\S+)')


@dataclass
class Seen:
    """Seconds of each group by evaluation, CPU seconds of Prometheus meanwhile, and of the fixed loop."""

    groups: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    cpu: list[float] = field(default_factory=list)
    loops: list[float] = field(default_factory=list)

    def totals(self) -> list[float]:
        """Seconds of all groups together, by evaluation."""
        return [sum(at) for at in zip(*self.groups.values(), strict=True)]


@contextlib.contextmanager
def scraped(directory: Path, cluster: Cluster) -> Iterator[Server]:
    """A Prometheus with the shipped rules that scrapes the cluster's series, which a process of their own serves."""
    port = free_port()
    source = multiprocessing.get_context("spawn").Process(target=serve, args=(port, cluster, time.time()))
    source.start()
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(lambda: requests.get(f"{url}/none", timeout=10).ok)
        rules = [ALERTS / "recording.yaml", ALERTS / "alerts.yaml"]
        server = prometheus(directory, {}, rules=rules, interval_seconds=INTERVAL_SECONDS)
        configuration = yaml.safe_load((directory / "prometheus.yml").read_text())
        configuration["scrape_configs"] = [
            {
                "job_name": f"part-{part}",
                "honor_labels": True,
                "metrics_path": f"/{part}",
                "static_configs": [{"targets": [url.split("//")[1]]}],
            }
            for part in range(PARTS)
        ]
        (directory / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        with server:
            yield server
    finally:
        source.terminate()
        source.join()


def _wait(answers: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(requests.ConnectionError):
            if answers():
                return
        time.sleep(0.1)
    raise ServerError(f"the series were not served in {START_SECONDS:.0f} s")


def watch(server: Server, evaluations: int, advance: Callable[[float], object]) -> Seen:
    """What each of so many evaluations takes.

    Raises:
        ServerError: Prometheus has ended.
    """
    if server.process is None:
        raise ServerError("Prometheus has ended")
    seen = Seen()
    for _ in range(evaluations):
        before = cpu_seconds(server.process.pid)
        deadline = time.monotonic() + INTERVAL_SECONDS
        while time.monotonic() < deadline:
            seen.loops.append(fixed_loop_seconds())
            time.sleep(1)
        advance(1)
        seen.cpu.append(cpu_seconds(server.process.pid) - before)
        for group, seconds in _DURATION.findall(page_of(server)):
            seen.groups[group].append(float(seconds))
    return seen


def scrape_no_more(server: Server, directory: Path) -> None:
    """Let the next scrape be in a day: what has been scraped stays, and the rules have the machine for themselves."""
    path = directory / "prometheus.yml"
    configuration = yaml.safe_load(path.read_text())
    for scrape in configuration["scrape_configs"]:
        scrape["scrape_interval"] = "1d"
    path.write_text(yaml.safe_dump(configuration))
    requests.post(f"{server.url}/-/reload", timeout=120).raise_for_status()


def page_of(server: Server) -> str:
    """What Prometheus says of itself."""
    return requests.get(f"{server.url}/metrics", timeout=60).text


def count(server: Server, selector: str) -> int:
    """How many series there are now; OSError where there are none."""
    answer = requests.get(f"{server.url}/api/v1/query", params={"query": f"count({selector})"}, timeout=120)
    result = answer.json()["data"]["result"]
    if not result:
        raise OSError(f"{server.url} has no series {selector}")
    return int(result[0]["value"][1])


def complain(server: Server) -> None:
    """Raise ServerError where a rule could not be evaluated."""
    groups = requests.get(f"{server.url}/api/v1/rules", timeout=120).json()["data"]["groups"]
    for rule in (rule for group in groups for rule in group["rules"]):
        if rule["health"] != "ok":
            raise ServerError(f"{rule['name']}: {rule['health']}: {rule.get('lastError', '')}")


def run(cluster: Cluster, console: Console) -> list[Measure]:
    """Measure everything; a bar shows how far it is.

    Raises:
        ServerError: a program is missing, or a rule fails.
        OSError: Prometheus does not answer, or has nothing.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with (
        tempfile.TemporaryDirectory(prefix="carbon-benchmark-") as directory,
        Progress(*columns, console=console, transient=True) as progress,
        scraped(Path(directory), cluster) as server,
    ):
        task = progress.add_task("evaluations", total=WARM_UP + COUNTED + 1 + COUNTED)

        def advance(steps: float) -> None:
            progress.advance(task, steps)

        watch(server, WARM_UP, advance)
        busy = watch(server, COUNTED, advance)
        scrape_no_more(server, Path(directory))
        watch(server, 1, advance)
        alone = watch(server, COUNTED, advance)
        complain(server)
        head = re.search(r"^prometheus_tsdb_head_series (\S+)$", page_of(server), re.MULTILINE)
        recorded, alerts = count(server, '{__name__=~".+:.+"}'), count(server, "ALERTS")
        resident = memory(server.process.pid) if server.process else None
    loops = busy.loops + alone.loops
    return [
        Measure("series in all", float(head[1]) if head else 0.0, ""),
        Measure("series recorded of them", recorded, ""),
        Measure("alerts pending or firing", alerts, ""),
        *(_group(group, seconds) for group, seconds in sorted(alone.groups.items())),
        Measure("all groups together, median", statistics.median(alone.totals()), "s"),
        Measure("all groups together, most", max(alone.totals()), "s"),
        Measure(f"CPU time of Prometheus in {INTERVAL_SECONDS:.0f} s", statistics.median(alone.cpu), "s"),
        Measure("while all is scraped: all groups together", statistics.median(busy.totals()), "s"),
        Measure(f"while all is scraped: CPU time in {INTERVAL_SECONDS:.0f} s", statistics.median(busy.cpu), "s"),
        Measure("RSS of Prometheus", resident.now_megabytes if resident else 0.0, "MB"),
        Measure("a fixed loop of Python: median, least", 1000 * statistics.median(loops), "ms", 1000 * min(loops)),
    ]


def _group(name: str, seconds: list[float]) -> Measure:
    return Measure(f"group {name}", statistics.median(seconds), "s", value_target=TARGET_SECONDS)


if __name__ == "__main__":
    sys.exit(
        command(
            "benchmarks.rules",
            "Measures the recording rules and alerts on the series of 80,000 GPUs and 5,000 jobs, in 9 minutes.",
            f"rules on {FULL.nodes * GPUS_PER_NODE:,} GPUs and {FULL.jobs:,} jobs (--quick: a tenth of them)",
            lambda quick, console: run(QUICK if quick else FULL, console),
        )
    )
