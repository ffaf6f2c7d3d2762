"""`carbon-exporter backtest intensity FILE...`: prints how good the forecast of the intensity is on recorded series."""

import argparse
from pathlib import Path
from statistics import fmean
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from carbon_exporter.grid.backtest import FORECAST, HORIZONS, JOB_HOURS, WINDOWS, Band, Report, backtest
from carbon_exporter.grid.hours import Hours
from carbon_exporter.grid.series import read_series
from carbon_exporter.model import ConfigurationError

_MOST_HOURS: Final = 1000


def run(arguments: argparse.Namespace, console: Console | None = None) -> int:
    """Print the scores of every file; 0. Arguments: files, column, every (hours from one forecast to the next).

    Raises:
        ConfigurationError: a file or an argument is no use.
    """
    if not 1 <= arguments.every <= _MOST_HOURS:
        raise ConfigurationError(f"--every {arguments.every}: give 1 to {_MOST_HOURS}")
    console = console or Console(soft_wrap=False)
    series = {path: read_series(path, arguments.column) for path in arguments.files}
    for path, hours in series.items():
        report = _watched(path, hours, arguments.every, console)
        if not report.origins:
            raise ConfigurationError(f"{path}: no week and the 4 days after it without a hole: fill some of its holes")
        _print(f"{path.name}, {arguments.column}", report, console)
    return 0


def _watched(path: Path, hours: Hours, every_hours: int, console: Console) -> Report:
    columns = (TextColumn(path.name), BarColumn(), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=1.0)
        return backtest(hours, every_hours, lambda done: progress.update(task, completed=done))


def _print(title: str, report: Report, console: Console) -> None:
    heading = f"{title}: {report.origins:,} forecasts, mean {report.grams_mean:.0f} g/kWh"
    console.print(Text(heading, "bold"), highlight=False)
    console.print(_errors(report))
    console.print(_bands(report))
    console.print(Text(_savings(report)), highlight=False)
    console.print()


def _errors(report: Report) -> Table:
    table = _table("error, %", *(f"MAPE {hours} h" for hours in HORIZONS), *(f"mean {hours} h" for hours in WINDOWS))
    for name, errors in report.errors.items():
        figures = [*errors.hourly.values(), *errors.means.values()]
        style = "bold" if name == FORECAST else ""
        table.add_row(name, *(f"{100 * fmean(of_origins):.2f}" for of_origins in figures), style=style)
    return table


def _bands(report: Report) -> Table:
    table = _table("90 % band, %", "coverage", "width (median)")
    named = {"each of 24 h": report.hourly_band}
    named |= {f"mean of {hours} h": band for hours, band in report.mean_bands.items()}
    for name, band in named.items():
        table.add_row(name, *_figures(band))
    return table


def _figures(band: Band) -> tuple[str, str]:
    return _percent(band.coverage), _percent(band.width)


def _percent(ratio: float | None) -> str:
    return "not calibrated" if ratio is None else f"{100 * ratio:.1f}"


def _savings(report: Report) -> str:
    """What the advised start of a job saved, in a sentence."""
    savings = report.savings
    if not savings.realised:
        return "best start: not calibrated"
    expected, realised, best = (100 * fmean(of) for of in (savings.expected, savings.realised, savings.best))
    good = sum(came > 0 for came in savings.worthwhile)
    band = savings.band
    return (
        f"best start of {JOB_HOURS} h, waiting a day at most: expected to save {expected:.1f} %,\n"
        f"saved {realised:.1f} %, of {best:.1f} % that were to be had; "
        f"90 % interval held {_percent(band.coverage)} % of {len(band.inside)};\n"
        f"called worthwhile {len(savings.worthwhile)} of {len(savings.realised)} times, {good} rightly"
    )


def _table(first_column: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first_column)
    for column in columns:
        table.add_column(column, justify="right")
    return table
