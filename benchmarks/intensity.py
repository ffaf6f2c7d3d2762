"""Measures what a thousand nodes cost the forecast service: its CPU time while they poll it, beside the same idle.

    python -m benchmarks.intensity [--quick]

The exit status is 1 where a target is missed. docs/benchmarks.md says what is measured, and how.
"""

import contextlib
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests
import yaml
from fake_grid import FakeGrid, Reply
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.node import Measure, command
from benchmarks.process import cpu_seconds, fixed_loop_seconds, memory
from benchmarks.scraper import percentile
from carbon_exporter.demo.servers import Server, ServerError, free_port

NODES = 1000
POLL_SECONDS = 60.0
WHOLE_EVERY = 15
"""One question in so many is put as if it were the first: every quarter of an hour a provider has something new."""
FIRST_ANSWER_SECONDS = 60.0
CORE_PERCENT = 5.0
PATH = "/api/v1/intensity?zone=DE"
_QUARTER = 900
Advance = Callable[[float], object]


@dataclass(frozen=True)
class Size:
    """How long a run is: windows, each idle first and then polled."""

    windows: int
    window_seconds: float


FULL = Size(windows=3, window_seconds=10.0)
QUICK = Size(windows=2, window_seconds=5.0)


class Nodes:
    """All nodes of a cluster: each polls once a minute over a connection of its own, evenly one after the other."""

    def __init__(self, url: str) -> None:
        host, _, port = urlsplit(url).netloc.partition(":")
        self._address = (host, int(port))
        self._tag = ""
        self.seconds: list[float] = []
        self.unchanged = 0

    def poll_for(self, seconds: float) -> None:
        """Poll for so long.

        Raises:
            OSError: an answer is neither 200 nor 304.
        """
        begin = time.monotonic()
        for number in range(round(seconds * NODES / POLL_SECONDS)):
            time.sleep(max(0.0, begin + number * POLL_SECONDS / NODES - time.monotonic()))
            known = self._tag if len(self.seconds) % WHOLE_EVERY else ""
            start = time.perf_counter()
            head = self._ask(f"If-None-Match: {known}\r\n" if known else "").partition(b"\r\n\r\n")[0].decode()
            self.seconds.append(time.perf_counter() - start)
            self.unchanged += head.startswith("HTTP/1.1 304")
            if not head.startswith(("HTTP/1.1 200", "HTTP/1.1 304")):
                raise OSError(f"answered {head.splitlines()[0]}")
            self._tag = head.partition("etag: ")[2].partition("\r\n")[0]
        time.sleep(max(0.0, begin + seconds - time.monotonic()))

    def _ask(self, condition: str) -> bytes:
        request = f"GET {PATH} HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\nConnection: close\r\n{condition}\r\n"
        received = b""
        with socket.create_connection(self._address, timeout=10) as connection:
            connection.sendall(request.encode())
            while part := connection.recv(65536):
                received += part
        return received


@contextlib.contextmanager
def forecast_service(directory: Path) -> Iterator[Server]:
    """`carbon-exporter forecast` as a process, with Energy-Charts played here; entered, it knows its zone.

    Raises:
        ServerError: it did not start, or had no answer in a minute.
    """
    first = int(time.time() // _QUARTER) * _QUARTER - 30 * 86_400
    starts = list(range(first, first + 31 * 86_400, _QUARTER))
    values = [300.0 + 100 * (start // 3600 % 24 > 12) for start in starts]
    measured = [value if start < time.time() - 3600 else None for start, value in zip(starts, values, strict=True)]
    told = {"unix_seconds": starts, "co2eq": measured, "co2eq_forecast": values}
    answers = {"/co2eq": Reply(told), "/co2eq_forecast": Reply({name: told[name] for name in told if name != "co2eq"})}
    with FakeGrid(answers) as provider:
        configuration = directory / "forecast.yaml"
        intensity = {"zones": {"DE": "energy_charts"}, "energy_charts": {"url": provider.url}, "cache_dir": None}
        away = f"http://127.0.0.1:{free_port()}"
        configuration.write_text(yaml.safe_dump({"intensity": intensity, "forecast": {"prometheus_url": away}}))
        url = f"http://127.0.0.1:{free_port()}"
        arguments = ["--config", str(configuration), "--web.listen-address", url.split("//")[1]]
        with Server(
            [sys.executable, "-m", "carbon_exporter", "forecast", *arguments], url, directory / "forecast.log"
        ) as server:
            _wait_for_the_zone(server)
            yield server


def _wait_for_the_zone(server: Server) -> None:
    deadline = time.monotonic() + FIRST_ANSWER_SECONDS
    while requests.get(server.url + PATH, timeout=10).status_code != 200:
        if time.monotonic() > deadline:
            raise ServerError(f"the service knew nothing of its zone in {FIRST_ANSWER_SECONDS:.0f} s")
        time.sleep(0.5)


def measure_service(directory: Path, size: Size, advance: Advance) -> Iterator[Measure]:
    """CPU time, memory and answering time of the service, idle and polled in turn."""
    percents: dict[bool, list[float]] = {False: [], True: []}
    loop_seconds: list[float] = []
    with forecast_service(directory) as server:
        if server.process is None:
            raise ServerError("the service has ended")
        pid = server.process.pid
        nodes = Nodes(server.url)
        for _ in range(size.windows):
            for polled in (False, True):
                loop_seconds += [fixed_loop_seconds() for _ in range(5)]
                cpu_before, before = cpu_seconds(pid), time.monotonic()
                if polled:
                    nodes.poll_for(size.window_seconds)
                else:
                    time.sleep(size.window_seconds)
                percents[polled].append(100 * (cpu_seconds(pid) - cpu_before) / (time.monotonic() - before))
                advance(1)
        resident = memory(pid).now_megabytes
        whole = requests.get(server.url + PATH, timeout=10)
    idle, busy = statistics.mean(percents[False]), statistics.mean(percents[True])
    rate = NODES / POLL_SECONDS
    yield Measure("questions answered, of them by 304", len(nodes.seconds), "", nodes.unchanged)
    yield Measure("a whole answer", len(whole.content) / 1e3, "kB", int(whole.headers["Content-Length"]) / 1e3)
    yield Measure(f"share of one core, {rate:.1f} questions a second", busy, "%", idle, None, CORE_PERCENT)
    yield Measure("CPU time per question", 10 * (busy - idle) / rate, "ms")
    for percent in (50, 99):
        yield Measure(f"time of a question, p{percent}", 1000 * percentile(nodes.seconds, percent), "ms")
    yield Measure("RSS", resident, "MB")
    median, least = 1000 * statistics.median(loop_seconds), 1000 * min(loop_seconds)
    yield Measure("a fixed loop of Python: median, least", median, "ms", least)


def run(size: Size, console: Console) -> list[Measure]:
    """Measure everything; a bar shows how far it is.

    Raises:
        ServerError: the service did not start, or ended.
        OSError: it gave a wrong answer.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with (
        tempfile.TemporaryDirectory(prefix="carbon-benchmark-") as directory,
        Progress(*columns, console=console, transient=True) as progress,
    ):
        task = progress.add_task("polling", total=2 * size.windows)

        def advance(steps: float) -> None:
            progress.advance(task, steps)

        return list(measure_service(Path(directory), size, advance))


if __name__ == "__main__":
    sys.exit(
        command(
            "benchmarks.intensity",
            "Measures what a thousand nodes cost the forecast service.",
            f"carbon-exporter forecast, {NODES} nodes polling each minute",
            lambda quick, console: run(QUICK if quick else FULL, console),
            "Reference: of the share of a core the same process idle, of an answer its compressed size.",
        )
    )
