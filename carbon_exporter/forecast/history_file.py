"""The SQLite file of the record: opened, brought to the newest schema, set aside where it is damaged, or only read."""

import contextlib
import itertools
import logging
import sqlite3
from pathlib import Path
from typing import Final

from carbon_exporter.model import ConfigurationError

_BUSY_SECONDS: Final = 5.0
_SET_ASIDE: Final = (".unusable", ".unusable.2", ".unusable.3")
_APPLICATION_ID: Final = 0x63_6F_32_65  # "co2e": tells this file from other programs' databases
_MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """CREATE TABLE runs (
            id INTEGER PRIMARY KEY, training_job TEXT NOT NULL, run_group TEXT NOT NULL, ending TEXT NOT NULL,
            started_seconds REAL NOT NULL, ended_seconds REAL NOT NULL, epochs_planned REAL NOT NULL,
            epochs_done REAL NOT NULL, joules REAL NOT NULL, grams REAL, epoch_joules REAL NOT NULL,
            epoch_seconds REAL NOT NULL, gpus REAL, UNIQUE (training_job, started_seconds))""",
        "CREATE INDEX runs_by_end ON runs (ended_seconds, training_job, started_seconds)",
        """CREATE TABLE scores (
            run_id INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE, epochs REAL NOT NULL,
            joules REAL NOT NULL, seconds REAL NOT NULL, PRIMARY KEY (run_id, epochs)) WITHOUT ROWID""",
    ),
    ("ALTER TABLE runs ADD COLUMN epochs_begun REAL NOT NULL DEFAULT 0",),
    ("CREATE TABLE running (training_job TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID",),
)
"""What brings a file from each version of the schema to the next, beginning with none. Only ever added to."""
_log: Final = logging.getLogger(__name__)


def connect(path: Path | None) -> sqlite3.Connection:
    """The file, ready to be used; None is one in memory.

    Raises:
        OSError, sqlite3.Error: it cannot be made, opened or written.
        ConfigurationError: it is a folder, a newer version's, or another program's.
    """
    if path is None:
        return _connected(":memory:")
    if not path.name or path.is_dir():
        raise ConfigurationError(f"{path}: is a folder: name a file for the record of ended runs")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _connected(str(path))
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        aside = _set_aside(path)
        _log.warning("%s: %s: it is set aside as %s, and the record starts anew", path, error, aside.name)
        return _connected(str(path))


def _set_aside(path: Path) -> Path:
    """Rename the file and those that were set aside before; the oldest of four is overwritten."""
    names = [path, *(path.with_name(path.name + suffix) for suffix in _SET_ASIDE)]
    for old, new in reversed(list(itertools.pairwise(names))):
        if old.exists():
            old.replace(new)
    for companion in ("-wal", "-shm"):
        path.with_name(path.name + companion).unlink(missing_ok=True)
    return names[1]


def read_into(memory: sqlite3.Connection, path: Path) -> None:
    """Copy the file to `memory`, without writing to it or beside it.

    SQLite reads a file in WAL mode only together with two others beside it. Where it cannot make these, the file has to
    be called immutable, which it then is.

    Raises:
        sqlite3.Error: it cannot be read, or is damaged.
        ConfigurationError: it is a newer version's, or another program's.
    """
    try:
        _copy(f"{path.absolute().as_uri()}?mode=ro", memory)
    except sqlite3.OperationalError:
        _copy(f"{path.absolute().as_uri()}?immutable=1", memory)
    _prepare(memory, str(path))


def _copy(uri: str, memory: sqlite3.Connection) -> None:
    with contextlib.closing(sqlite3.connect(uri, timeout=_BUSY_SECONDS, uri=True)) as file:
        file.backup(memory)


def _connected(database: str) -> sqlite3.Connection:
    connection = sqlite3.connect(database, timeout=_BUSY_SECONDS, isolation_level=None)
    try:
        _prepare(connection, database)
        connection.execute("PRAGMA journal_mode = WAL")
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, database: str) -> None:
    check(connection)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = NORMAL")
    _migrate(connection, database)


def check(connection: sqlite3.Connection) -> None:
    """Raise sqlite3.DatabaseError where it is damaged."""
    if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        raise sqlite3.DatabaseError("is damaged")


def _migrate(connection: sqlite3.Connection, database: str) -> None:
    """Bring the schema to the newest version in one transaction: a kill leaves the old one, whole."""
    newest = len(_MIGRATIONS)
    if _version(connection, database) == newest:
        return
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        version = _version(connection, database)  # another process may just have done it
        for statement in itertools.chain(*_MIGRATIONS[version:]):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {newest}")
        connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")


def _version(connection: sqlite3.Connection, database: str) -> int:
    """The version of the schema, 0 of an empty file."""
    questions = ("PRAGMA user_version", "PRAGMA application_id", "SELECT count(*) FROM sqlite_master")
    version, owner, tables = (int(connection.execute(question).fetchone()[0]) for question in questions)
    if tables and owner != _APPLICATION_ID:
        raise ConfigurationError(f"{database}: is another program's database: name another file")
    if version > len(_MIGRATIONS):
        versions = f"has schema {version}, this program knows {len(_MIGRATIONS)}"
        raise ConfigurationError(f"{database}: {versions}: install the newer carbon-exporter, or name another file")
    return version
