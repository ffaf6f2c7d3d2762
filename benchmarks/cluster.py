"""Measures the node agent on a full node of a cluster: the CPU time of a tick, and memory while jobs come and go.

    python -m benchmarks.cluster [--quick]

500 pods, 200 of them labelled as jobs, 8 GPUs in 56 MIG slices, and 1,000 short jobs an hour besides. The exit status
is 1 where a target is missed. docs/benchmarks.md says what is measured, and how.
"""

import gc
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nvml_shim import build
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.cluster_node import NodeSize, cluster_node
from benchmarks.node import Measure, command
from benchmarks.parts import Seconds, instrument
from benchmarks.process import fixed_loop_seconds, memory
from carbon_exporter.node.sampler import Sampler

FULL_NODE = NodeSize(pods=500, jobs=200, gpus=8, linger_seconds=600)
SMALL_NODE = NodeSize(pods=20, jobs=10, gpus=1, linger_seconds=60)
"""For memory: growth is growth on a small node too, and 10,000 ticks of it take little more than a minute."""
TICK_MILLISECONDS = 20.0
FLAT_RATIO = 1.03
Advance = Callable[[float], object]


@dataclass(frozen=True)
class Run:
    """How long a run is, in ticks."""

    warm_up: int
    """Until as many ended jobs linger as ever will."""
    measured: int
    settled: int
    churn: int


FULL = Run(warm_up=320, measured=300, settled=2000, churn=10_000)
QUICK = Run(warm_up=100, measured=100, settled=500, churn=2000)


def measure_ticks(library: Path, state_file: Path, run: Run, advance: Advance) -> Iterator[Measure]:
    """The CPU time of a tick on a full node: that of the whole process, its background threads included."""
    seconds: Seconds = defaultdict(list)
    whole: list[float] = []
    loop_seconds: list[float] = []
    pages: deque[bytes] = deque(maxlen=1)
    with cluster_node(FULL_NODE, library, state_file, pages.append) as (node, sampler):
        _settle(sampler)
        for _ in range(run.warm_up):
            node.step()
            sampler.tick()
            advance(1)
        instrument(sampler, seconds)
        for _ in range(run.measured):
            process, thread = time.process_time(), time.thread_time()
            node.step()
            driver = time.thread_time() - thread
            sampler.tick()
            whole.append(time.process_time() - process - driver)
            loop_seconds.append(fixed_loop_seconds())
            advance(1)
        state_bytes = state_file.stat().st_size
    yield Measure("tick, median", 1000 * statistics.median(whole), "ms", value_target=TICK_MILLISECONDS)
    yield Measure("tick, mean", 1000 * statistics.mean(whole), "ms", value_target=TICK_MILLISECONDS)
    in_loop = statistics.mean(seconds.pop("whole tick"))
    for name, values in seconds.items():
        yield Measure(f"- {name}", 1000 * statistics.mean(values), "ms")
    yield Measure("- background threads", 1000 * (statistics.mean(whole) - in_loop), "ms")
    yield Measure("series on the page", _series(pages[-1]), "")
    yield Measure("state file", state_bytes / 1e3, "kB")
    median, least = 1000 * statistics.median(loop_seconds), 1000 * min(loop_seconds)
    yield Measure("fixed loop: median, least", median, "ms", least)


@dataclass(frozen=True)
class Footprint:
    """What the agent takes at one moment."""

    resident_megabytes: float
    blocks: float
    """Pieces of memory that Python has given out, in thousands."""
    series: float
    state_kilobytes: float


def measure_memory(library: Path, state_file: Path, run: Run, advance: Advance) -> Iterator[Measure]:
    """Memory, page and state file after 10,000 ticks of churn beside those after 2,000."""
    prints: list[Footprint] = []
    pages: deque[bytes] = deque(maxlen=1)
    started = time.monotonic()
    with cluster_node(SMALL_NODE, library, state_file, pages.append) as (node, sampler):
        _settle(sampler)
        for ticks in (run.settled, run.churn - run.settled):
            for _ in range(ticks):
                node.step()
                sampler.tick()
                advance(1)
            gc.collect()
            resident = memory(os.getpid()).now_megabytes
            blocks = sys.getallocatedblocks() / 1000
            prints.append(Footprint(resident, blocks, _series(pages[-1]), state_file.stat().st_size / 1e3))
    settled, end = prints
    yield Measure("churn: ticks", run.churn, "", run.settled)
    yield Measure("RSS", end.resident_megabytes, "MB", settled.resident_megabytes, FLAT_RATIO)
    yield Measure("memory blocks", end.blocks, "k", settled.blocks, FLAT_RATIO)
    yield Measure("series on the page", end.series, "", settled.series)
    yield Measure("state file", end.state_kilobytes, "kB", settled.state_kilobytes)
    yield Measure("time", time.monotonic() - started, "s")


def _settle(sampler: Sampler) -> None:
    """Begin as carbon_exporter.node.agent.run does."""
    sampler.restore()
    sampler.tick()
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)


def _series(page: bytes) -> int:
    return sum(not line.startswith(b"#") for line in page.splitlines())


def measure(run: Run, console: Console) -> list[Measure]:
    """Measure everything; a bar shows how far it is.

    Raises:
        OSError: there is no C compiler, or the fake API server has ended.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with (
        tempfile.TemporaryDirectory(prefix="carbon-cluster-") as name,
        Progress(*columns, console=console, transient=True) as progress,
    ):
        directory = Path(name)
        library = build(directory)
        measures = []
        for part, ticks in ((measure_ticks, run.warm_up + run.measured), (measure_memory, run.churn)):
            task = progress.add_task(part.__name__.partition("_")[2], total=ticks)
            measures += part(library, directory / f"{part.__name__}.json", run, partial(progress.advance, task))
    return measures


if __name__ == "__main__":
    sys.exit(
        command(
            "benchmarks.cluster",
            "Measures a full cluster node.",
            "carbon-exporter node: 500 pods, 200 labelled, 56 MIG slices",
            lambda quick, console: measure(QUICK if quick else FULL, console),
        )
    )
