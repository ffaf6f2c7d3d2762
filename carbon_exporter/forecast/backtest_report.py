"""`carbon-exporter backtest energy FILE...`: prints how good the forecast of jobs is on recorded runs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from carbon_exporter.forecast import backtest
from carbon_exporter.forecast.importing import Course, read_courses
from carbon_exporter.model import ConfigurationError


def run(arguments: argparse.Namespace, console: Console | None = None) -> int:
    """Print the scores of every file; 0. Arguments: files, every, fewest_epochs, history (or None), json.

    Raises:
        ConfigurationError: a file or an argument is no use.
    """
    limits = {"every": arguments.every, "fewest-epochs": arguments.fewest_epochs, "history": arguments.history}
    for flag, value in limits.items():
        if value is not None and value < 1:
            raise ConfigurationError(f"--{flag} {value}: give 1 or more")
    sets = {path: read_courses(path) for path in arguments.files}
    for path, courses in sets.items():
        if not backtest.longer_than_one(courses, arguments.fewest_epochs):
            least = max(2, arguments.fewest_epochs)
            raise ConfigurationError(f"{path}: no run has {least} epochs: give a lower --fewest-epochs, or longer runs")
        if not any(course.boundaries[-1].joules > 0 for course in courses):
            raise ConfigurationError(f"{path}: no run has used energy in any epoch: give what each epoch took, in J")
    console = console or Console(soft_wrap=False)
    reports = {path: _watched(path, sets, arguments, console) for path in sets}
    if arguments.json:
        document = {str(path): _as_json(report) for path, report in reports.items()}
        sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n")
        return 0
    for path, report in reports.items():
        _print(path.name, report, console)
    return 0


def _watched(
    path: Path, sets: dict[Path, list[Course]], arguments: argparse.Namespace, console: Console
) -> backtest.Report:
    others = [course for other, courses in sets.items() if other != path for course in courses]
    columns = (TextColumn(path.name), BarColumn(), TimeRemainingColumn(compact=True))
    hidden = arguments.json or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task("", total=1.0)
        return backtest.backtest(
            sets[path],
            others,
            every=arguments.every,
            fewest_epochs=arguments.fewest_epochs,
            history_runs=arguments.history,
            advance=lambda done: progress.update(task, completed=done),
        )


def _as_json(report: backtest.Report) -> dict[str, Any]:
    tables = {
        name: {
            forecaster: {str(epochs): errors.figures() for epochs, errors in by_epochs.items()}
            for forecaster, by_epochs in table.items()
        }
        for name, table in (("energy", report.energy), ("time", report.time))
    }
    return {"runs": report.runs, "configs": report.configs, **tables}


def _print(title: str, report: backtest.Report, console: Console) -> None:
    for what, table in (("energy", report.energy), ("time", report.time)):
        heading = f"{title}, {what}: {report.runs} runs of {report.configs} configurations, %"
        console.print(Text(heading, "bold"), highlight=False)
        console.print(_table(table))
        console.print()


def _table(table: backtest.Table) -> Table:
    printed = Table(box=None, pad_edge=False, header_style="bold")
    printed.add_column("epochs", justify="right")
    printed.add_column("forecast")
    for column in ("runs", "median", "mean", "p90", "bias", "inside", "width", "pinball"):
        printed.add_column(column, justify="right")
    for epochs in backtest.CHECKPOINTS:
        shown = str(epochs)
        for forecaster, by_epochs in table.items():
            if epochs in by_epochs:
                style = "bold" if forecaster in backtest.BASES else ""
                printed.add_row(shown, forecaster, *_cells(by_epochs[epochs]), style=style)
                shown = ""
    return printed


def _cells(errors: backtest.Errors) -> Sequence[str]:
    figures = errors.figures()
    places = {"median": 2, "mean": 2, "p90": 2, "bias": 2, "coverage": 1, "width": 1, "pinball": 2}
    cells = [str(figures["runs"])]
    for name, digits in places.items():
        value = figures[name]
        sign = "+" if name == "bias" else ""
        # Adding 0 turns a rounded -0.0 into 0.0.
        cells.append("" if value is None else f"{round(100 * value, digits) + 0.0:{sign}.{digits}f}")
    return cells
