"""`carbon-exporter history import|show|rebuild`: fills and shows the record of ended runs."""

import argparse
import contextlib
import os
import statistics
import sys
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Final, get_args

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from carbon_exporter.forecast.history import MOST_RUNS, History
from carbon_exporter.forecast.importing import read_runs, recordings
from carbon_exporter.forecast.promql import Client, PromQLError
from carbon_exporter.forecast.rebuilding import Finished, find_finished, pages, read_ended
from carbon_exporter.forecast.record import EndedRun, Ending
from carbon_exporter.forecast.settings import Settings, open_session
from carbon_exporter.model import ConfigurationError

_MOST_DAYS: Final = 3650


def run_import(arguments: argparse.Namespace, settings: Settings, console: Console | None = None) -> int:
    """Add the runs in files to the record: 0, or 1 where a file could not be read; nothing is taken from such a file.

    Arguments: files, group (None: as the files say), database (None: as the settings say).

    Raises:
        ConfigurationError: the record cannot be used.
    """
    console = console or Console(soft_wrap=True)
    with _opened(_database(arguments, settings)) as history:
        good = [_import(history, path, arguments.group, console) for path in recordings(arguments.files)]
        console.print(Text(f"the record holds {_counted(history.count(), 'run')}"), highlight=False)
    return 0 if all(good) else 1


def run_show(arguments: argparse.Namespace, settings: Settings, console: Console | None = None) -> int:
    """Print the record by group: 0. Arguments: database (None: as the settings say).

    Raises:
        ConfigurationError: there is no record, or it cannot be read.
    """
    path = _database(arguments, settings)
    if not path.exists():
        cure = "`carbon-exporter history import` makes one, the forecast service too"
        raise ConfigurationError(f"{path}: no run has been recorded here yet: {cure}")
    groups: dict[str, list[EndedRun]] = {}
    with contextlib.closing(History.copy_of(path)) as history:
        for run in history.newest(MOST_RUNS):
            groups.setdefault(run.group, []).append(run)
    (console or Console()).print(_table(groups))
    return 0


def run_rebuild(
    arguments: argparse.Namespace,
    settings: Settings,
    now_seconds: float,
    environment: Mapping[str, str] = os.environ,
    console: Console | None = None,
) -> int:
    """Add every run that the PromQL engine knows the end of: 0, or 1 where it failed; ask again to go on from there.

    Arguments: days, database (None: as the settings say).

    Raises:
        ConfigurationError: the record, or a setting of the engine, is no use.
    """
    if not 0 < arguments.days <= _MOST_DAYS:
        raise ConfigurationError(f"--days {arguments.days:g}: give more than 0 and at most {_MOST_DAYS}")
    console = console or Console(soft_wrap=True)
    with _opened(_database(arguments, settings)) as history, open_session(settings, environment) as session:
        client = Client(
            settings.prometheus_url,
            session,
            timeout_seconds=settings.timeout_seconds,
            largest_answer_bytes=settings.largest_answer_bytes,
        )
        counts, problem = Counter[str](), ""
        try:
            with contextlib.closing(_finished(client, now_seconds, arguments.days, console)) as runs:
                for one in runs:
                    counts[_add(client, history, one)] += 1
        except PromQLError as error:
            problem = f"{error}; start again to go on from there"
    told = f"{_counted(counts['added'], 'run')} added, {counts['known']} known before, {counts['unclear']} left out"
    console.print(Text(f"{told} (joules or epochs not known any more)"), highlight=False)
    return _fail(problem) if problem else 0


def _import(history: History, path: Path, group: str | None, console: Console) -> bool:
    try:
        runs = read_runs(path, group)
    except ConfigurationError as error:
        _fail(f"{error}; nothing of this file is imported")
        return False
    added = sum(history.add(run) for run in runs)
    told = f"{path}: {_counted(added, 'run')} imported, {len(runs) - added} known before"
    console.print(Text(told), highlight=False)
    return True


def _finished(client: Client, now_seconds: float, days: float, console: Console) -> Generator[Finished, None, None]:
    """The runs that ended, with a bar of the pages done."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("runs that ended", total=pages(days))
        for number, page in enumerate(find_finished(client, now_seconds, days)):
            for done, one in enumerate(page):
                progress.update(task, description=one.training_job[:40], completed=number + done / len(page))
                yield one
            progress.update(task, completed=number + 1)


def _add(client: Client, history: History, one: Finished) -> str:
    if history.contains(one.training_job, one.start_seconds):
        return "known"
    run = read_ended(client, one)
    if run is None:
        return "unclear"
    return "added" if history.add(run) else "known"


def _database(arguments: argparse.Namespace, settings: Settings) -> Path:
    path: Path | None = arguments.database or settings.history_file
    if path is None:
        raise ConfigurationError("forecast.history_file is null: name the record with --database FILE")
    return path


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[History]:
    history = History(path, on_disk_only=True)
    try:
        yield history
    finally:
        history.close()


def _table(groups: Mapping[str, Sequence[EndedRun]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("group", overflow="fold")
    for column in ("runs", *get_args(Ending), "kJ an epoch", "newest end"):
        table.add_column(column, justify="right")
    for group, runs in sorted(groups.items()):
        endings = Counter(run.ending for run in runs)
        median = statistics.median(run.epoch_joules for run in runs) / 1000
        newest = max((run.ended_seconds for run in runs if run.started_seconds > 0), default=None)
        cells = (str(endings[ending]) for ending in get_args(Ending))
        table.add_row(Text(group or "(none)"), str(len(runs)), *cells, f"{median:,.4g}", _time(newest))
    return table


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%MZ")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _fail(line: str) -> int:
    sys.stderr.write(f"carbon-exporter history: {line}\n")
    return 1
