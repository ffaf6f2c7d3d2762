"""The record of ended runs, in one SQLite file that survives restarts, kills and a full disk.

https://www.sqlite.org/wal.html: in WAL mode with synchronous=NORMAL, a kill of the process loses nothing that was
committed; a power cut may lose the last runs, which `carbon-exporter history rebuild` brings back.
"""

import itertools
import logging
import math
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from carbon_exporter.forecast import history_file
from carbon_exporter.forecast.record import EndedRun, Score
from carbon_exporter.model import ConfigurationError
from carbon_exporter.naming import training_job_name

MOST_RUNS: Final = 20_000
_DELETED_AT_ONCE: Final = 10
_COLUMNS: Final = (
    "training_job, run_group, ending, started_seconds, ended_seconds, epochs_planned, epochs_done, joules, grams, "
    "epoch_joules, epoch_seconds, gpus, epochs_begun"
)
_NEWEST_FIRST: Final = "ORDER BY ended_seconds DESC, training_job DESC, started_seconds DESC"
Result = TypeVar("Result")
_log: Final = logging.getLogger(__name__)


class History:
    """The newest 20,000 ended runs; for use from the thread that made it.

    A file that is no database is renamed to NAME.unusable; the newest three such are kept. Where the file cannot be
    opened or written, the log says so once, and what it holds as far as it can be read, and all that follows, is kept
    in memory.

    Args:
        path: of the file, made where it is not there; None keeps everything in memory.
        on_disk_only: raise instead of going on in memory.

    Attributes:
        unsaved: runs added since the file could not be written; they are gone with the process.

    Raises:
        ConfigurationError: the file is a newer version's, another program's or a folder, or, with `on_disk_only`,
            cannot be used.
    """

    def __init__(self, path: Path | None, *, on_disk_only: bool = False) -> None:
        self.unsaved = 0
        self._path = path
        self._on_disk_only = on_disk_only
        self._failed = False
        try:
            self._connection = history_file.connect(path)
        except (OSError, sqlite3.Error) as error:
            self._connection = self._open_memory(error)

    @classmethod
    def copy_of(cls, path: Path) -> "History":
        """What the file holds, in memory; the file itself is only read.

        Raises:
            ConfigurationError: it is a newer version's or another program's, or cannot be read.
        """
        history = cls(None)
        try:
            history_file.read_into(history._connection, path)
        except sqlite3.Error as error:
            history.close()
            raise ConfigurationError(f"{path}: the record of ended runs cannot be read: {error}") from None
        except ConfigurationError:
            history.close()
            raise
        return history

    def add(self, run: EndedRun) -> bool:
        """Keep `run`, whose names are shortened to 200 characters; False where it is there already, by job and start.

        A run that was taken for lost, and has come back and ended, is replaced.

        Raises:
            ValueError: a number in it is not finite.
            ConfigurationError: the file cannot be written (with `on_disk_only`).
        """
        row = _row(run)
        added = self._on_any(lambda connection: _insert(connection, row, run.scores))
        self.unsaved += added and self._failed
        return added

    def contains(self, training_job: str, started_seconds: float) -> bool:
        """Whether that run is there."""
        values = (training_job_name(training_job), started_seconds)
        question = "SELECT count(*) FROM runs WHERE training_job = ? AND started_seconds = ?"
        return self._number(question, values) > 0

    def newest(self, most: int) -> list[EndedRun]:
        """The `most` runs that ended last, in the order of their ends."""
        return self._on_any(lambda connection: _newest(connection, most))

    def count(self) -> int:
        """How many runs are there."""
        return self._number("SELECT count(*) FROM runs")

    def count_by_ending(self) -> dict[str, int]:
        """How many runs ended in each way, as EndedRun.ending has it; those of which there are any."""
        question = "SELECT ending, count(*) FROM runs GROUP BY ending"
        return self._on_any(lambda connection: dict(connection.execute(question).fetchall()))

    def keep_running(self, states: Mapping[str, str], running: set[str]) -> None:
        """Keep the states of these running jobs, by name, and forget those of all that are not `running`."""
        self._on_any(lambda connection: _keep_running(connection, states, running))

    def running(self) -> list[str]:
        """The states of the jobs that were running."""
        question = "SELECT state FROM running ORDER BY training_job"
        return self._on_any(lambda connection: [state for (state,) in connection.execute(question).fetchall()])

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _number(self, question: str, values: tuple[str | float, ...] = ()) -> int:
        return self._on_any(lambda connection: int(connection.execute(question, values).fetchone()[0]))

    def _on_any(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Do `work` on the file; where that fails, on the memory that takes its place from then on."""
        try:
            return work(self._connection)
        except sqlite3.Error as error:
            failed = self._connection
            self._connection = self._open_memory(error, failed)
            failed.close()
            return work(self._connection)

    def _open_memory(self, error: Exception, failed: sqlite3.Connection | None = None) -> sqlite3.Connection:
        """A database in memory with what `failed`, or the file, holds, as far as it can be read; `error` is said."""
        said = error.strerror if isinstance(error, OSError) else str(error)
        problem = f"{self._path}: the record of ended runs cannot be used: {said}"
        if self._on_disk_only:
            raise ConfigurationError(f"{problem}; make it a file that can be written, with room on its disk")
        self._failed = True
        memory = history_file.connect(None)
        try:
            if failed is not None:
                failed.rollback()
                failed.backup(memory)
                history_file.check(memory)
            elif self._path is not None:
                history_file.read_into(memory, self._path)
        except sqlite3.Error:
            memory.close()
            memory = history_file.connect(None)
        except ConfigurationError:
            memory.close()
            raise
        (runs,) = memory.execute("SELECT count(*) FROM runs").fetchone()
        cure = "make room or the file writable and restart"
        _log.error("%s; it goes on in memory with the %d runs that can be read, so %s", problem, runs, cure)
        return memory


def _insert(connection: sqlite3.Connection, row: tuple[Any, ...], scores: Iterable[Score]) -> bool:
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        training_job, _, ending, started_seconds, *_ = row
        if ending != "lost":
            connection.execute(
                "DELETE FROM runs WHERE training_job = ? AND started_seconds = ? AND ending = 'lost'",
                (training_job, started_seconds),
            )
        inserted = connection.execute(
            f"INSERT INTO runs ({_COLUMNS}) VALUES ({', '.join('?' * len(row))}) "  # noqa: S608 - constants only
            "ON CONFLICT (training_job, started_seconds) DO NOTHING",
            row,
        )
        if not inserted.rowcount:
            return False
        run_id = inserted.lastrowid
        connection.executemany("INSERT INTO scores VALUES (?, ?, ?, ?)", ((run_id, *score) for score in scores))
        connection.execute(
            f"DELETE FROM runs WHERE id IN (SELECT id FROM runs {_NEWEST_FIRST} LIMIT ? OFFSET ?)",  # noqa: S608
            (_DELETED_AT_ONCE, MOST_RUNS),
        )
    return True


def _keep_running(connection: sqlite3.Connection, states: Mapping[str, str], running: set[str]) -> None:
    known = {name for (name,) in connection.execute("SELECT training_job FROM running").fetchall()}
    if not states and known <= running:
        return
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT OR REPLACE INTO running VALUES (?, ?)", states.items())
        connection.executemany("DELETE FROM running WHERE training_job = ?", ((name,) for name in known - running))


def _newest(connection: sqlite3.Connection, most: int) -> list[EndedRun]:
    rows = connection.execute(
        f"SELECT id, {_COLUMNS} FROM runs {_NEWEST_FIRST} LIMIT ?",  # noqa: S608 - constants only
        (most,),
    ).fetchall()
    scores: dict[int, list[Score]] = {}
    for run_id, *score in connection.execute(
        "SELECT run_id, epochs, joules, seconds FROM scores WHERE run_id IN "  # noqa: S608 - constants only
        f"(SELECT id FROM runs {_NEWEST_FIRST} LIMIT ?) ORDER BY run_id, epochs",
        (most,),
    ):
        scores.setdefault(run_id, []).append(Score(*score))
    return [EndedRun(*[*row, tuple(scores.get(run_id, ())), begun]) for run_id, *row, begun in reversed(rows)]


def _row(run: EndedRun) -> tuple[Any, ...]:
    """The values of _COLUMNS, which stand in the order of EndedRun's attributes, but for the scores."""
    bounded = replace(run, training_job=training_job_name(run.training_job), group=training_job_name(run.group))
    row = tuple(getattr(bounded, column.name) for column in fields(bounded) if column.name != "scores")
    numbers = [*(value for value in row if isinstance(value, float | int)), *itertools.chain(*run.scores)]
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"the run of {bounded.training_job!r} has a number that is not finite")
    return row
