"""Ended runs from files that others wrote: CSV of epochs, and the log pairs of Carbontracker 1 and 2.

Neither knows what was used between epochs. The parse functions are pure; `read_runs` opens the files.
"""

import csv
import hashlib
import math
from collections.abc import Iterable, Sequence
from datetime import tzinfo
from pathlib import Path
from typing import Final, NamedTuple

from carbon_exporter.forecast.carbontracker import parse_log_pair
from carbon_exporter.forecast.energy import Boundary
from carbon_exporter.forecast.record import EndedRun
from carbon_exporter.forecast.summary import ended_run
from carbon_exporter.model import ConfigurationError

COLUMNS: Final = ("run", "config", "epoch", "duration_s", "energy_j")
_LOG: Final = "_carbontracker.log"
_OUTPUT_LOG: Final = "_carbontracker_output.log"
_ERROR_LOG: Final = "_carbontracker_err.log"
_LEAST, _MOST = 1e-9, 1e15
"""Seconds or joules of an epoch; what lies beyond is a mistake."""


class Course(NamedTuple):
    """A recorded run.

    Attributes:
        run: its name.
        config: the configuration that it repeats.
        boundaries: the ends of its epochs, the first at 0.
        line: of the file, where it begins.
    """

    run: str
    config: str
    boundaries: tuple[Boundary, ...]
    line: int = 0


def recordings(paths: Iterable[Path]) -> list[Path]:
    """The files to read: of each pair of logs the standard one, once; Carbontracker's logs of errors are left out."""
    standard = (path.with_name(path.name.replace(_OUTPUT_LOG, _LOG)) for path in paths)
    return list(dict.fromkeys(path for path in standard if not path.name.endswith(_ERROR_LOG)))


def read_runs(path: Path, group: str | None, zone: tzinfo | None = None) -> list[EndedRun]:
    """The runs in one of `recordings`.

    Args:
        path: *.csv, or *_carbontracker.log with its *_carbontracker_output.log beside it.
        group: of all runs; None for the column config, or the name of the folder that the logs are in.
        zone: in which the logs were written; None for this machine's.

    Raises:
        ConfigurationError: one line with the file, the number of the line where there is one, and what is wrong.
    """
    if path.name.endswith(_LOG):
        output = path.with_name(path.name.replace(_LOG, _OUTPUT_LOG))
        name, folder = path.name.removesuffix(_LOG), path.resolve().parent.name
        logs = _lines(path), _lines(output)
        return [parse_log_pair(*logs, source=str(path), name=name, group=group or folder, zone=zone)]
    if path.suffix.lower() == ".csv":
        return parse_csv(_lines(path), str(path), group)
    raise ConfigurationError(f"{path}: is neither *.csv nor *{_LOG}")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: is no UTF-8 text") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None


def parse_csv(lines: Sequence[str], source: str, group: str | None = None) -> list[EndedRun]:
    """The runs of a CSV file with the columns of COLUMNS in any order; each run's epochs count up from 1.

    Its times are unknown: every run starts at 0, and "ends" at its place in the file, which keeps their order. A digest
    of its epochs in its name tells it from others of that name. The number of its epochs is taken for its plan. The
    energy may lack start-up, GPUs and grams are unknown.

    Raises:
        ConfigurationError: one line with `source`, the number of the line and what is wrong.
    """
    runs = []
    for place, course in enumerate(parse_courses(lines, source), start=1):
        ended = ended_run(
            course.boundaries,
            training_job=f"{course.run}~{_digest(course)}",
            group=course.config if group is None else group,
            ending="finished",
            ended_seconds=float(place),
            epochs_planned=course.boundaries[-1].epochs,
            joules=course.boundaries[-1].joules,
            grams=None,
            gpus=None,
        )
        if ended is None:
            problem = f"run {course.run[:80]!r} has used no energy in any epoch: leave it out"
            raise ConfigurationError(f"{source}:{course.line}: {problem}")
        runs.append(ended)
    return runs


def _digest(course: Course) -> str:
    """What tells a run without a date from any other: its configuration and its epochs."""
    told = course.config, *(tuple(boundary) for boundary in course.boundaries)
    return hashlib.sha256(repr(told).encode("utf-8", "replace")).hexdigest()[:16]


def read_courses(path: Path) -> list[Course]:
    """The runs in a CSV file, epoch by epoch.

    Raises:
        ConfigurationError: see parse_csv.
    """
    return parse_courses(_lines(path), str(path))


def parse_courses(lines: Sequence[str], source: str) -> list[Course]:
    """The runs of a CSV file, in the order in which they begin; never empty.

    Raises:
        ConfigurationError: see parse_csv.
    """
    courses: dict[str, list[Boundary]] = {}
    configs: dict[str, str] = {}
    begins: dict[str, int] = {}
    rows = csv.reader(lines, strict=True)
    try:
        places = _places(next(rows, []))
        for row in rows:
            if row:
                begins.setdefault(_take(row, places, courses, configs), rows.line_num)
    except (ValueError, csv.Error) as error:
        raise ConfigurationError(f"{source}:{max(rows.line_num, 1)}: {error}") from None
    if not courses:
        raise ConfigurationError(f"{source}: holds no epoch")
    return [Course(run, configs[run], tuple(boundaries), begins[run]) for run, boundaries in courses.items()]


def _places(header: Sequence[str]) -> list[int]:
    names = [name.strip() for name in header]
    missing = [column for column in COLUMNS if column not in names]
    if missing:
        raise ValueError(f"lacks the column {missing[0]}: the first line must name {','.join(COLUMNS)}")
    return [names.index(column) for column in COLUMNS]


def _take(
    row: Sequence[str], places: Sequence[int], courses: dict[str, list[Boundary]], configs: dict[str, str]
) -> str:
    """Add the epoch of `row` to its run, whose name is returned."""
    if len(row) <= max(places):
        raise ValueError(f"has {len(row)} cells, fewer than the first line names")
    run, config, *cells = (row[place].strip() for place in places)
    if not run:
        raise ValueError("names no run")
    epoch, seconds, joules = (_number(cell) for cell in cells)
    if configs.setdefault(run, config) != config:
        raise ValueError(f"run {run[:80]!r} has another config than before")
    course = courses.setdefault(run, [Boundary(0.0, 0.0, 0.0)])
    last = course[-1]
    if epoch != last.epochs + 1:
        raise ValueError(f"epoch {epoch:g} of run {run[:80]!r} stands where epoch {last.epochs + 1:g} belongs")
    course.append(Boundary(epoch, last.seconds + seconds, last.joules + joules))
    return run


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (number >= 0 and math.isfinite(number)):
        raise ValueError(f"{text[:50]!r} is no number from 0 up")
    if number and not _LEAST <= number <= _MOST:
        raise ValueError(f"{text[:50]!r} is beyond what an epoch takes: give 0, or {_LEAST:g} to {_MOST:g} (s, J)")
    return number
