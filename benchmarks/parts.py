"""Where the CPU time of a tick goes: the node agent's parts, timed inside this process, warm and one after the other.

    python -m benchmarks.parts

The least of many ticks is shown beside the median: other programs on the machine slow a tick down, none speeds it up.
"""

import ctypes
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pynvml
from rich.console import Console
from rich.table import Table

from benchmarks.host import configuration, moving_host, training_jobs
from benchmarks.node import SAMPLING_JOBS
from benchmarks.process import machine
from carbon_exporter.config import load_config
from carbon_exporter.node.agent import build_sampler, open_node_grid

TICKS = 60
PAUSE_SECONDS = 0.1
Seconds = dict[str, list[float]]


def timed(name: str, action: Callable[..., Any], seconds: Seconds) -> Callable[..., Any]:
    """`action`, which then notes its CPU time under `name`."""

    def run(*arguments: Any) -> Any:
        start = time.thread_time()
        result = action(*arguments)
        seconds[name].append(time.thread_time() - start)
        return result

    return run


def instrument(sampler: Any, seconds: Seconds) -> None:
    """Time every part of `sampler`."""
    for room in (sampler._sources, sampler._resolvers):  # noqa: SLF001 - there is no other way in
        for name, part in room.items():
            part.read = timed(f"read {name}", part.read, seconds)
    sampler._ledger.post = timed("share (ledger)", sampler._ledger.post, seconds)  # noqa: SLF001
    sampler._state = timed("gather the state", sampler._state, seconds)  # noqa: SLF001
    sampler._state_file.save = timed("save the state", sampler._state_file.save, seconds)  # noqa: SLF001
    sampler._publish = timed("publish the page", sampler._publish, seconds)  # noqa: SLF001
    sampler.tick = timed("whole tick", sampler.tick, seconds)


def main() -> None:
    """Tick for a while, and print the table."""
    seconds: Seconds = defaultdict(list)
    with tempfile.TemporaryDirectory() as directory, moving_host(Path(directory)) as host:
        os.environ["NVML_SHIM"] = str(host.shim.control)
        pynvml.nvmlLib = ctypes.CDLL(str(host.shim.lib))
        with training_jobs(SAMPLING_JOBS, host):
            config = load_config(configuration(host))
            sampler = build_sampler(config, lambda _plain: None, open_node_grid(config))
            instrument(sampler, seconds)
            sampler.tick()
            seconds.clear()
            for _ in range(TICKS):
                time.sleep(PAUSE_SECONDS)
                sampler.tick()
            sampler.close()
    table = Table("part", "least ms", "median ms", title=f"CPU time of a tick, {SAMPLING_JOBS} jobs")
    for name, values in seconds.items():
        table.add_row(name, f"{1000 * min(values):.2f}", f"{1000 * statistics.median(values):.2f}")
    console = Console()
    console.print(machine(), soft_wrap=True)
    console.print(table)


if __name__ == "__main__":
    main()
