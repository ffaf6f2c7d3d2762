"""Measures the node agent beside node_exporter: what a scrape takes, and the CPU time and memory of sampling.

    python -m benchmarks.node [--quick]

Scrapes of both programs are interleaved in one run, for only their ratio holds on another machine. The exit status is
1 where a target is missed. docs/benchmarks.md says what is measured, and how.
"""

import argparse
import contextlib
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks.host import GPUS, Host, moving_host, node_agent, node_exporter, training_jobs
from benchmarks.process import cpu_seconds, fixed_loop_seconds, machine, memory
from benchmarks.scraper import Scraper, burst, percentile, series
from carbon_exporter.demo.servers import Server, ServerError, running

SCRAPE_JOBS = 115
"""So many give a page of about 1,000 series."""
SAMPLING_JOBS = 200
SCRAPERS = 4
SCRAPE_SECONDS = 5.0
"""Between the scrapes of one scraper while sampling is measured: three times as often as is usual."""
SCRAPE_RATIO, CORE_PERCENT, MEGABYTES = 0.5, 1.0, 64.0
Advance = Callable[[float], object]


@dataclass(frozen=True)
class Size:
    """How long a run is."""

    rounds: int
    """Of scrapes, each of one program and then of the other."""
    scrapes: int
    """Of all scrapers together in one round."""
    windows: int
    """Of sampling, each without scrapers and then with them."""
    window_seconds: float
    settle_seconds: float = 5.0

    @property
    def steps(self) -> int:
        """Of the progress bar."""
        return 2 * self.rounds + 2 * self.windows


FULL = Size(rounds=60, scrapes=60, windows=6, window_seconds=15.0)
QUICK = Size(rounds=15, scrapes=40, windows=2, window_seconds=5.0)


@dataclass(frozen=True)
class Measure:
    """A row of the table; one without a target is there to be read."""

    name: str
    value: float
    unit: str
    reference: float | None = None
    ratio_target: float | None = None
    value_target: float | None = None

    @property
    def ratio(self) -> float | None:
        """The value to its reference."""
        return self.value / self.reference if self.reference else None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.ratio_target is not None:
            return self.ratio is not None and self.ratio <= self.ratio_target
        return self.value < self.value_target if self.value_target is not None else None

    def cells(self) -> list[str]:
        """The texts of the row."""
        unit, ratio = self.unit, self.ratio
        target = f"ratio <= {self.ratio_target}" if self.ratio_target is not None else ""
        if self.value_target is not None:
            target = f"< {self.value_target:g} {unit}"
        return [
            self.name,
            f"{self.value:.2f} {unit}",
            f"{self.reference:.2f} {unit}" if self.reference is not None else "",
            f"{ratio:.2f}" if ratio is not None else "",
            target,
            {None: "", True: "yes", False: "[bold red]NO[/]"}[self.met],
        ]


def measure_scrapes(host: Host, size: Size, advance: Advance) -> Iterator[Measure]:
    """The time of a scrape, ours beside node_exporter's: first with one scraper, then with several at once."""
    ours, theirs = node_agent(host), node_exporter(host)
    with training_jobs(SCRAPE_JOBS, host), running(ours, theirs), contextlib.ExitStack() as stack:
        time.sleep(size.settle_seconds)
        clients = {
            server: [stack.enter_context(Scraper(server.url)) for _ in range(SCRAPERS)] for server in (ours, theirs)
        }
        yield Measure("series on the page", series(clients[ours][0].scrape()), "")
        for count in (1, SCRAPERS):
            seconds: dict[Server, list[float]] = {ours: [], theirs: []}
            cpu_before = {server: _cpu_seconds(server) for server in seconds}
            for _ in range(size.rounds):
                for server, scrapers in clients.items():
                    seconds[server] += burst(scrapers[:count], size.scrapes // count)
                advance(1)
            per_scrape = {s: 1000 * (_cpu_seconds(s) - cpu_before[s]) / len(seconds[s]) for s in seconds}
            for percent in (50, 90, 99):
                value, reference = (1000 * percentile(seconds[server], percent) for server in (ours, theirs))
                target = SCRAPE_RATIO if percent == 50 else None
                yield Measure(f"scrape p{percent}, {_scrapers(count)}", value, "ms", reference, target)
            yield Measure(f"CPU time per scrape, {_scrapers(count)}", per_scrape[ours], "ms", per_scrape[theirs])


def measure_sampling(host: Host, size: Size, advance: Advance) -> Iterator[Measure]:
    """CPU time and memory of the agent, by itself and while several scrapers take every page."""
    agent = node_agent(host)
    percents: dict[int, list[float]] = {0: [], SCRAPERS: []}
    resident = {0: 0.0, SCRAPERS: 0.0}
    loop_seconds: list[float] = []
    with training_jobs(SAMPLING_JOBS, host), agent, contextlib.ExitStack() as stack:
        pid = _pid(agent)
        time.sleep(size.settle_seconds)
        resident[0] = memory(pid).now_megabytes
        scrapers = [stack.enter_context(Scraper(agent.url)) for _ in range(SCRAPERS)]
        burst(scrapers, 1)  # a connection that asks for nothing is cut off
        for _ in range(size.windows):
            for count in (0, SCRAPERS):
                loop_seconds += [fixed_loop_seconds() for _ in range(5)]
                cpu_before, before = cpu_seconds(pid), time.monotonic()
                _scrape_for(size.window_seconds, scrapers[:count])
                spent, lasted = cpu_seconds(pid) - cpu_before, time.monotonic() - before
                percents[count].append(100 * spent / lasted)
                advance(1)
        resident[SCRAPERS] = memory(pid).now_megabytes
        peak = memory(pid).peak_megabytes
    alone, scraped = statistics.mean(percents[0]), statistics.mean(percents[SCRAPERS])
    load = f"{SAMPLING_JOBS} jobs, {GPUS} GPUs"
    yield Measure(f"CPU time per second, {load}", 10 * alone, "ms")
    yield Measure("share of one core", alone, "%", value_target=CORE_PERCENT)
    yield Measure(f"share of one core, {_scrapers(SCRAPERS)}", scraped, "%", alone, None, CORE_PERCENT)
    yield Measure("share of one core, calmest window", min(percents[0]), "%")
    yield Measure(f"RSS, {load}", resident[0], "MB", value_target=MEGABYTES)
    yield Measure(f"RSS, {_scrapers(SCRAPERS)}", resident[SCRAPERS], "MB", resident[0], None, MEGABYTES)
    yield Measure("RSS at its highest", peak, "MB", value_target=MEGABYTES)
    median, least = 1000 * statistics.median(loop_seconds), 1000 * min(loop_seconds)
    yield Measure("a fixed loop of Python: median, least", median, "ms", least)


def _scrape_for(seconds: float, scrapers: list[Scraper]) -> None:
    """Let all scrapers scrape at once, every SCRAPE_SECONDS, for so long."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        burst(scrapers, 1)
        time.sleep(min(SCRAPE_SECONDS, left))


def _pid(server: Server) -> int:
    if server.process is None:
        raise ServerError(f"{server.command[0]} has ended")
    return server.process.pid


def _cpu_seconds(server: Server) -> float:
    return cpu_seconds(_pid(server))


def _scrapers(count: int) -> str:
    return "1 scraper" if count == 1 else f"{count} scrapers at once"


def table_of(measures: list[Measure], title: str) -> Table:
    """The measures as they are shown."""
    table = Table(title=title)
    for column in ("measure", "value", "reference", "ratio", "target", "met"):
        table.add_column(column, justify="left" if column in ("measure", "target", "met") else "right")
    for measure in measures:
        table.add_row(*measure.cells())
    return table


def run(size: Size, console: Console) -> list[Measure]:
    """Measure everything; a bar shows how far it is.

    Raises:
        ServerError: a program that is needed is missing, or ended.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    measures: list[Measure] = []
    with (
        tempfile.TemporaryDirectory(prefix="carbon-benchmark-") as directory,
        moving_host(Path(directory)) as host,
        Progress(*columns, console=console, transient=True) as progress,
    ):
        task = progress.add_task("scrapes", total=size.steps)

        def advance(steps: float) -> None:
            progress.advance(task, steps)

        measures += measure_scrapes(host, size, advance)
        progress.update(task, description="sampling")
        measures += measure_sampling(host, size, advance)
    return measures


def command(
    name: str, description: str, title: str, measure: Callable[[bool, Console], list[Measure]], note: str = ""
) -> int:
    """A benchmark's command line: a table under `title`, and `note` below it.

    The exit status: 0 where every target is met, 1 where one is missed, 2 where it could not measure.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=description)
    parser.add_argument("--quick", action="store_true", help="under a minute, with less certain figures")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)  # so that everything started is ended then, too
    console = Console()
    console.print(machine(), soft_wrap=True)
    try:
        measures = measure(arguments.quick, console)
    except (ServerError, OSError) as error:
        sys.stderr.write(f"{name}: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    console.print(table_of(measures, title))
    if note:
        console.print(note)
    return 1 if any(measured.met is False for measured in measures) else 0


if __name__ == "__main__":
    sys.exit(
        command(
            "benchmarks.node",
            "Measures the node agent.",
            "carbon-exporter node",
            lambda quick, console: run(QUICK if quick else FULL, console),
            "Reference of scrapes: node_exporter with its rapl collector alone, on the same counters.",
        )
    )
