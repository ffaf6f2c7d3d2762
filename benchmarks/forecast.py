"""Measures the forecast service on 5,000 running jobs: its polls, its answers meanwhile, and its memory.

    python -m benchmarks.forecast [--quick]

The exit status is 1 where a target is missed. docs/benchmarks.md says what is measured, and how.
"""

import contextlib
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import requests
import yaml
from fake_grid import FakeGrid, Reply
from forecast_fleet import write_record
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.forecast_engine import LOG_PATH, serve
from benchmarks.node import Measure, command
from benchmarks.process import cpu_seconds, fixed_loop_seconds, memory
from benchmarks.scraper import Scraper, percentile
from carbon_exporter.demo.servers import Server, ServerError, free_port

JOBS, GROUPS, RUNS = 5000, 100, 2000
POLL_SECONDS = 8.0
PAUSE_SECONDS = 0.1
POLL_TARGET_SECONDS, QUERIES_TARGET, SCRAPE_MILLISECONDS, MEMORY_MEGABYTES = 5.0, 10.0, 50.0, 300.0
START_SECONDS = 90.0
Advance = Callable[[float], object]


@dataclass(frozen=True)
class Size:
    """Polls of each part; one job ends before every second poll of the steady part."""

    steady: int
    restarted: int


FULL = Size(steady=12, restarted=8)
QUICK = Size(steady=3, restarted=2)


@dataclass
class Seen:
    """Of one part: seconds of each poll, of wall and of CPU, its queries, and how long answers took."""

    polls: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    queries: list[int] = field(default_factory=list)
    scrapes: list[float] = field(default_factory=list)
    lists: list[float] = field(default_factory=list)
    loops: list[float] = field(default_factory=list)
    resident_megabytes: float = 0.0
    peak_megabytes: float = 0.0


@contextlib.contextmanager
def engine(*, tells_start: bool) -> Iterator[str]:
    """The scripted engine in a process of its own; yields its URL."""
    port = free_port()
    process = multiprocessing.get_context("spawn").Process(
        target=serve, args=(port, JOBS, GROUPS), kwargs={"tells_start": tells_start}
    )
    process.start()
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(requests.ConnectionError):
                requests.get(url + LOG_PATH, timeout=10)
                break
            if time.monotonic() > deadline or not process.is_alive():
                raise ServerError(f"the scripted engine did not answer in {START_SECONDS:.0f} s")
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.join()


@contextlib.contextmanager
def service(directory: Path, engine_url: str) -> Iterator[Server]:
    """`carbon-exporter forecast` as a process, with a record of ended runs and two zones."""
    history = directory / "history.sqlite"
    if not history.exists():
        write_record(history, GROUPS, RUNS)
    first = int(time.time() // 900) * 900 - 30 * 86_400
    starts = list(range(first, first + 31 * 86_400, 900))
    told = {"unix_seconds": starts, "co2eq": [300.0 + start // 3600 % 24 for start in starts]}
    with FakeGrid({"/co2eq": Reply(told), "/co2eq_forecast": Reply("", 404)}) as provider:
        configuration = directory / "forecast.yaml"
        zones = {"DE": "energy_charts", "FR": "energy_charts"}
        settings = {
            "intensity": {"zones": zones, "energy_charts": {"url": provider.url}, "cache_dir": None},
            "forecast": {
                "prometheus_url": engine_url,
                "poll_seconds": POLL_SECONDS,
                "ended_jobs_kept_seconds": POLL_SECONDS / 2,
                "history_file": str(history),
            },
        }
        configuration.write_text(yaml.safe_dump(settings))
        url = f"http://127.0.0.1:{free_port()}"
        arguments = ["--config", str(configuration), "--web.listen-address", url.split("//")[1]]
        program = [sys.executable, "-m", "carbon_exporter", "forecast", *arguments]
        with Server(program, url, directory / "forecast.log") as server:
            yield server


def watch(server: Server, engine_url: str, polls: int, advance: Advance) -> Seen:
    """Scrape all the while, until so many polls are done: a poll lasts from its first query to its new page.

    Raises:
        ServerError: the service has ended.
        OSError: it gave a wrong answer.
    """
    if server.process is None:
        raise ServerError("the service has ended")
    pid, seen, page = server.process.pid, Seen(), b""
    cpu, jobs_url = cpu_seconds(pid), f"{server.url}/api/v1/jobs"
    with requests.Session() as session, Scraper(server.url) as scraper:
        while len(seen.polls) < polls:
            begin = time.perf_counter()
            newest = scraper.scrape()
            seen.scrapes.append(time.perf_counter() - begin)
            if newest != page:
                changed = time.monotonic() - (time.perf_counter() - begin)
                log = requests.get(engine_url + LOG_PATH, timeout=30).json()
                if page and log["queries"]:
                    seen.polls.append(changed - log["began"])
                    seen.queries.append(log["queries"])
                    seen.cpu.append(cpu_seconds(pid) - cpu)
                    advance(1)
                cpu, page = cpu_seconds(pid), newest
            begin = time.perf_counter()
            session.get(jobs_url, timeout=30).raise_for_status()
            seen.lists.append(time.perf_counter() - begin)
            seen.loops.append(fixed_loop_seconds())
            time.sleep(PAUSE_SECONDS)
    seen.resident_megabytes, seen.peak_megabytes = memory(pid).now_megabytes, memory(pid).peak_megabytes
    return seen


def measures(part: str, seen: Seen) -> Iterator[Measure]:
    """The rows of one part."""
    yield Measure(f"{part}: poll, median", statistics.median(seen.polls), "s", value_target=POLL_TARGET_SECONDS)
    yield Measure(f"{part}: poll, longest", max(seen.polls), "s", value_target=POLL_TARGET_SECONDS)
    yield Measure(f"{part}: CPU time from poll to poll, median", statistics.median(seen.cpu), "s")
    yield Measure(f"{part}: CPU time from poll to poll, most", max(seen.cpu), "s")
    yield Measure(f"{part}: queries of a poll, most", max(seen.queries), "", value_target=QUERIES_TARGET + 1)
    for percent in (50, 99):
        milliseconds = 1000 * percentile(seen.scrapes, percent)
        yield Measure(f"{part}: /metrics, p{percent}", milliseconds, "ms", value_target=SCRAPE_MILLISECONDS)
    for percent in (50, 99):
        yield Measure(f"{part}: /api/v1/jobs, p{percent}", 1000 * percentile(seen.lists, percent), "ms")
    yield Measure(f"{part}: RSS", seen.resident_megabytes, "MB", value_target=MEMORY_MEGABYTES)
    yield Measure(f"{part}: RSS at its highest", seen.peak_megabytes, "MB", value_target=MEMORY_MEGABYTES)


def run(size: Size, console: Console) -> list[Measure]:
    """Measure everything; a bar shows how far it is.

    Raises:
        ServerError: the service or its engine did not start, or ended.
        OSError: it gave a wrong answer.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    found: list[Measure] = []
    loops: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="carbon-benchmark-") as directory,
        Progress(*columns, console=console, transient=True) as progress,
    ):
        for part, polls, tells_start in (("steady", size.steady, False), ("restarted", size.restarted, True)):
            task = progress.add_task(part, total=polls)

            def advance(steps: float, task: object = task) -> None:
                progress.advance(task, steps)  # type: ignore[arg-type]

            with engine(tells_start=tells_start) as url, service(Path(directory), url) as server:
                seen = watch(server, url, polls, advance)
            found += measures(part, seen)
            loops += seen.loops
    median, least = 1000 * statistics.median(loops), 1000 * min(loops)
    return [*found, Measure("a fixed loop of Python: median, least", median, "ms", least)]


if __name__ == "__main__":
    sys.exit(
        command(
            "benchmarks.forecast",
            "Measures the forecast service on 5,000 running jobs.",
            f"carbon-exporter forecast, {JOBS} running jobs in {GROUPS} groups",
            lambda quick, console: run(QUICK if quick else FULL, console),
            "restarted: while it looks up the past of the jobs, at each poll of those on 60 nodes.",
        )
    )
