"""An hourly series of intensity from a CSV file: a header, ISO 8601 times (UTC where they name no zone) first."""

import csv
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from carbon_exporter.answers import MOST_GRAMS, utc_seconds
from carbon_exporter.grid.hours import hour_of
from carbon_exporter.model import HOUR_SECONDS, ConfigurationError

LEAST_HOURS: Final = 18 * 24
"""Two weeks to forecast from and the four days to come."""


def read_series(path: Path, column: str) -> dict[int, float]:
    """Hour number -> grams per kilowatt-hour, in order. An empty cell or a missing line is an hour that nobody knows.

    Raises:
        ConfigurationError: one line with the file and, where there is one, the number of the line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            place = _column(path, next(rows, []), column)
            series = _series(path, ((rows.line_num, row) for row in rows), place)
            if len(series) < LEAST_HOURS:
                few = f"ends with {len(series)} known hours: give at least {LEAST_HOURS}, 18 days"
                raise ConfigurationError(f"{path}:{rows.line_num}: {few}")
            return series
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: is no UTF-8 text: give a CSV file") from None
    except csv.Error as error:
        raise ConfigurationError(f"{path}: is no CSV file: {error}") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None


def _column(path: Path, header: list[str], column: str) -> int:
    names = [name.strip() for name in header]
    if column not in names[1:]:
        known = ", ".join(names[1:]) or "none"
        raise ConfigurationError(f"{path}:1: has no column {column!r}; it has: {known[:300]}; choose one with --column")
    return names.index(column, 1)


def _series(path: Path, rows: Iterable[tuple[int, list[str]]], place: int) -> dict[int, float]:
    series: dict[int, float] = {}
    before: int | None = None
    for line, row in rows:
        if not row:
            continue
        try:
            hour = _hour(row[0], before)
            grams = _grams(row[place] if place < len(row) else "")
        except ValueError as error:
            raise ConfigurationError(f"{path}:{line}: {error}") from None
        before = hour
        if grams is not None:
            series[hour] = grams
    return series


def _hour(text: str, before: int | None) -> int:
    try:
        seconds = utc_seconds(text.strip())
    except ValueError:
        raise ValueError(f"{text[:50]!r} is no ISO 8601 time, such as 2030-01-02T03:00:00Z") from None
    if seconds % HOUR_SECONDS:
        raise ValueError(f"{text[:50]!r} is no full hour: give hourly means")
    hour = hour_of(seconds)
    if before is not None and hour <= before:
        place = "twice" if hour == before else "after a later one"
        raise ValueError(f"{text[:50]!r} stands {place}: sort the lines, one for each hour")
    return hour


def _grams(text: str) -> float | None:
    if not text.strip():
        return None
    try:
        grams = float(text)
    except ValueError:
        grams = math.nan
    if not 0 <= grams <= MOST_GRAMS:
        raise ValueError(f"{text[:50]!r} is no number of grams per kilowatt-hour from 0 to {MOST_GRAMS:g}")
    return grams
