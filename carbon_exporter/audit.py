"""`carbon-exporter check --audit 60s`: watches this host for a while, and prints where every joule of it went."""

import math
import re
import time
from collections.abc import Callable
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from carbon_exporter.config import Config
from carbon_exporter.model import ConfigurationError
from carbon_exporter.node.agent import sampler_for
from carbon_exporter.node.balance import Balance, JobLine, Line
from carbon_exporter.node.sampler import Sampler

NOTHING: Final = "nothing was measured: no energy counter rose; `carbon-exporter check` says why, and the cure"
INTERRUPTED: Final = 130
_LONGEST_SECONDS: Final = 86_400
_TIME: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smh]?)")
_SECONDS_IN: Final = {"": 1, "s": 1, "m": 60, "h": 3600}


def parse_seconds(text: str) -> float:
    """The seconds that "60s", "2m", "1h" or plain "60" stand for.

    Raises:
        ConfigurationError: it is none of these, or not between 0 and a day.
    """
    match = _TIME.fullmatch(text.strip())
    seconds = float(match[1]) * _SECONDS_IN[match[2]] if match else 0.0
    if not 0 < seconds <= _LONGEST_SECONDS:
        raise ConfigurationError(f"--audit {text!r}: give a time above 0 and up to a day, such as 60s, 2m or 1h")
    return seconds


def run(
    config: Config,
    seconds: float,
    console: Console | None = None,
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], None] = time.sleep,
) -> int:
    """Watch for `seconds`, and print the balance. 0 where the books are closed, 1 where not or nothing was measured.

    Interrupted, it prints the balance so far, and the status is 130 where that is closed. A running agent is not
    disturbed: nothing is saved or served.

    Raises:
        ConfigurationError: a setting is no use.
    """
    console = console or Console(soft_wrap=False)
    # Nothing is forgotten while it is watched: a job that ended long ago still has its joules.
    node = config.node.model_copy(update={"state_file": None, "linger_seconds": math.inf})
    balance = Balance()
    sampler = sampler_for(config.model_copy(update={"node": node}), balance.take, lambda _now: None)
    interrupted = False
    started = clock()
    try:
        _watch(sampler, seconds, node.interval_seconds, console=console, clock=clock, wait=wait)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        sampler.close()
    lasted = f"{clock() - started:.1f} s{', interrupted' if interrupted else ''}"
    closed = _report(balance, lasted, console)
    if not closed:
        return 1
    return INTERRUPTED if interrupted else 0


def _watch(
    sampler: Sampler,
    seconds: float,
    interval_seconds: float,
    *,
    console: Console,
    clock: Callable[[], float],
    wait: Callable[[float], None],
) -> None:
    columns = (TextColumn("watching this host for {task.total:g} s"), BarColumn(), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=seconds)
        begin = clock()
        sampler.tick()
        while (left := begin + seconds - clock()) > 0:
            wait(min(interval_seconds, left))
            sampler.tick()
            progress.update(task, completed=clock() - begin)


def _report(balance: Balance, lasted: str, console: Console) -> bool:
    """Print the balance; whether the books are closed."""
    lines = balance.lines()
    console.print(f"{balance.ticks} readings in {lasted}", highlight=False)
    if lines:
        console.print(_components(lines))
    if balance.jobs:
        console.print(_jobs(balance.jobs, lines))
    for line in lines:
        if line.equally_shared:
            console.print(f"{line.component}: {_figure(line.equally_shared)} J of them shared equally, for want of use")
    for note in balance.notes():
        console.print(Text(note, "yellow"))
    if not any(line.measured for line in lines):
        console.print(Text(NOTHING, "bold red"))
        return False
    open_books = [line.component for line in lines if not line.closed]
    if open_books:
        console.print(Text(f"the books do not close: {', '.join(open_books)}", "bold red"))
        return False
    console.print(Text("the books are closed: jobs + idle + system = measured", "green"))
    return True


def _components(lines: list[Line]) -> Table:
    table = _table("component, J")
    for column in ("measured", "jobs", "idle", "system", "difference", "of measured"):
        table.add_column(column, justify="right")
    for line in lines:
        figures = (line.measured, line.jobs, line.idle, line.system, line.difference)
        percent = f"{_figure(100 * line.difference / line.measured)} %" if line.measured else ""
        table.add_row(_name(line), *map(_figure, figures), percent, style="" if line.closed else "bold red")
    return table


def _jobs(jobs: list[JobLine], lines: list[Line]) -> Table:
    table = _table("job, J")
    table.add_column("resolver")
    for line in lines:
        table.add_column(_name(line), justify="right")
    for job in sorted(jobs, key=lambda job: (-sum(job.energy_joules.values()), job.name)):
        joules = (_figure(job.energy_joules.get(line.component, 0.0)) for line in lines)
        table.add_row(Text(job.name), job.resolver, *joules)
    return table


def _table(first_column: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first_column, overflow="fold")
    return table


def _name(line: Line) -> str:
    return f"{line.component} (estimated)" if line.estimated else line.component


def _figure(number: float) -> str:
    """With three decimals; rounding leaves no minus before a zero."""
    return f"{round(number, 3) + 0.0:.3f}"
