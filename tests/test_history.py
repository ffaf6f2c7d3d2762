"""The record of ended runs: kept over kills, full disks and old versions, bounded, and the same in every order."""

import contextlib
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from carbon_exporter.forecast import history as module
from carbon_exporter.forecast import history_file
from carbon_exporter.forecast.history import History
from carbon_exporter.forecast.record import EndedRun, Score
from carbon_exporter.model import ConfigurationError


def run_of(number, **changes):
    run = EndedRun(
        training_job=f"team/resnet-{number}",
        group="resnet",
        ending="finished",
        started_seconds=1_800_000_000.0 + number,
        ended_seconds=1_800_003_600.0 + number,
        epochs_planned=50.0,
        epochs_done=50.0,
        joules=1e6 + number,
        grams=12.5,
        epoch_joules=2e4,
        epoch_seconds=70.5,
        gpus=4.0,
        scores=(Score(1.0, 0.25, -0.5), Score(2.0, 0.125, 0.0), Score(10.0, -0.0625, 0.03125)),
    )
    return replace(run, **changes)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "history.sqlite"


@pytest.fixture
def opened(path):
    histories = []

    def open_(**arguments):
        histories.append(History(arguments.pop("path", path), **arguments))
        return histories[-1]

    yield open_
    for history in histories:
        history.close()


def test_what_was_added_comes_back_after_a_restart_in_the_order_of_the_ends(opened):
    runs = [
        run_of(1),
        run_of(2, ending="lost", grams=None, gpus=None, scores=()),
        run_of(3, ending="stopped", epochs_done=12.5, epochs_begun=7.5),
    ]
    history = opened()
    assert [history.add(run) for run in (runs[2], runs[0], runs[1])] == [True, True, True]
    assert history.newest(10) == runs
    history.close()
    assert opened().newest(10) == runs


def test_a_run_is_added_once(opened):
    history = opened()
    assert not history.contains("team/resnet-1", 1_800_000_001.0)
    assert history.add(run_of(1))
    assert not history.add(run_of(1, joules=5.0))
    assert history.contains("team/resnet-1", 1_800_000_001.0)
    assert history.newest(9) == [run_of(1)]
    assert history.add(run_of(1, started_seconds=1_900_000_000.0))
    assert history.count() == 2
    assert not history.contains("team/resnet-2", 1_800_000_001.0)


def test_the_newest_are_the_same_in_whatever_order_they_came(opened):
    runs = [run_of(number, ended_seconds=2e9 + number // 4) for number in range(40)]
    orders = [runs, runs[::-1], random.Random(5).sample(runs, len(runs))]
    answers = []
    for order in orders:
        history = opened(path=None)
        for run in order:
            history.add(run)
        answers.append(history.newest(10))
    assert answers[0] == answers[1] == answers[2]
    assert {run.ended_seconds for run in answers[0]} == {2e9 + 7, 2e9 + 8, 2e9 + 9}
    assert [run.ended_seconds for run in answers[0]] == sorted(run.ended_seconds for run in answers[0])


def test_only_the_newest_are_kept_and_their_scores(opened, monkeypatch, path):
    monkeypatch.setattr(module, "MOST_RUNS", 50)
    history = opened()
    for number in random.Random(5).sample(range(200), 200):
        history.add(run_of(number))
    assert history.count() == 50
    assert history.newest(1000) == [run_of(number) for number in range(150, 200)]
    with sqlite3.connect(path) as raw:
        assert raw.execute("SELECT count(*) FROM scores").fetchone() == (150,)
    raw.close()


def test_a_file_that_holds_far_too_many_shrinks_in_small_steps(opened, monkeypatch):
    history = opened()
    for number in range(100):
        history.add(run_of(number))
    monkeypatch.setattr(module, "MOST_RUNS", 20)
    history.add(run_of(100))
    assert history.count() == 91
    for number in range(101, 120):
        history.add(run_of(number))
    assert history.newest(1000) == [run_of(number) for number in range(100, 120)]


def test_names_are_bounded_and_printable(opened):
    history = opened()
    hostile = "x" * 100_000 + "\n\ud800"
    assert history.add(run_of(1, training_job=hostile, group=hostile))
    assert not history.add(run_of(1, training_job=hostile))
    assert history.contains(hostile, 1_800_000_001.0)
    (kept,) = history.newest(1)
    assert len(kept.training_job) <= 200
    assert len(kept.group) <= 200
    assert kept.training_job.isprintable()
    quoted = run_of(2, training_job="'); DROP TABLE runs; --")
    assert history.add(quoted)
    assert history.newest(1) == [quoted]


@pytest.mark.parametrize(
    "changes",
    [{"joules": float("nan")}, {"grams": float("inf")}, {"scores": (Score(1.0, float("nan"), 0.0),)}],
    ids=["joules", "grams", "score"],
)
def test_a_number_that_is_not_finite_is_refused(opened, changes):
    history = opened()
    with pytest.raises(ValueError, match="'team/resnet-1' has a number that is not finite"):
        history.add(run_of(1, **changes))
    assert history.count() == 0


VERSION_1 = """
CREATE TABLE runs (
    id INTEGER PRIMARY KEY, training_job TEXT NOT NULL, run_group TEXT NOT NULL, ending TEXT NOT NULL,
    started_seconds REAL NOT NULL, ended_seconds REAL NOT NULL, epochs_planned REAL NOT NULL,
    epochs_done REAL NOT NULL, joules REAL NOT NULL, grams REAL, epoch_joules REAL NOT NULL,
    epoch_seconds REAL NOT NULL, gpus REAL, UNIQUE (training_job, started_seconds));
CREATE INDEX runs_by_end ON runs (ended_seconds, training_job, started_seconds);
CREATE TABLE scores (
    run_id INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE, epochs REAL NOT NULL,
    joules REAL NOT NULL, seconds REAL NOT NULL, PRIMARY KEY (run_id, epochs)) WITHOUT ROWID;
INSERT INTO runs VALUES (7, 'team/resnet-1', 'resnet', 'finished', 1800000001, 1800003601, 50, 50, 1000001, 12.5,
    20000, 70.5, 4);
INSERT INTO scores VALUES (7, 1, 0.25, -0.5), (7, 2, 0.125, 0), (7, 10, -0.0625, 0.03125);
PRAGMA application_id = 1668231781;
PRAGMA user_version = 1;
"""


def write_raw(path, script):
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = sqlite3.connect(path)
    raw.executescript(script)
    raw.close()


def version_of(path):
    raw = sqlite3.connect(path)
    version = raw.execute("PRAGMA user_version").fetchone()[0]
    raw.close()
    return version


def test_a_file_of_version_1_is_brought_to_the_newest(opened, path):
    write_raw(path, VERSION_1)
    history = opened()
    assert history.newest(9) == [run_of(1)]
    assert history.add(run_of(2))
    assert version_of(path) == len(history_file._MIGRATIONS)


def test_a_new_file_is_what_version_1_and_all_migrations_make(opened, path):
    opened().close()
    made, raw = sqlite3.connect(path), sqlite3.connect(":memory:")
    raw.executescript(VERSION_1)
    for statement in (statement for step in history_file._MIGRATIONS[1:] for statement in step):
        raw.execute(statement)
    question = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name"
    normal = [[(name, " ".join(sql.split())) for name, sql in one.execute(question)] for one in (made, raw)]
    made.close()
    raw.close()
    assert normal[0] == normal[1]


def test_a_later_version_only_adds_its_own_step(opened, path, monkeypatch):
    opened().add(run_of(1))
    step = ("ALTER TABLE runs ADD COLUMN note TEXT", "UPDATE runs SET note = 'old'")
    monkeypatch.setattr(history_file, "_MIGRATIONS", (*history_file._MIGRATIONS, step))
    history = opened()
    assert history.newest(1) == [run_of(1)]
    assert history._connection.execute("SELECT note FROM runs").fetchall() == [("old",)]
    assert version_of(path) == len(history_file._MIGRATIONS)
    opened()
    assert history._connection.execute("SELECT count(*) FROM runs WHERE note = 'old'").fetchone() == (1,)


def test_a_migration_that_fails_leaves_the_file_as_it_was(opened, path, monkeypatch):
    opened().add(run_of(1))
    before = version_of(path)
    monkeypatch.setattr(history_file, "_MIGRATIONS", (*history_file._MIGRATIONS, ("CREATE TABLE half (x)", "NONSENSE")))
    with pytest.raises(sqlite3.OperationalError, match="NONSENSE"):
        opened()
    assert version_of(path) == before
    monkeypatch.undo()
    assert opened().newest(1) == [run_of(1)]


def test_a_newer_version_is_an_error_that_names_the_cure(path):
    write_raw(path, VERSION_1 + "PRAGMA user_version = 99;")
    with pytest.raises(ConfigurationError, match=r"history\.sqlite: has schema 99, .* install the newer"):
        History(path)
    assert version_of(path) == 99


def test_another_programs_database_is_left_alone(path):
    write_raw(path, "CREATE TABLE runs (x); PRAGMA user_version = 1;")
    content = path.read_bytes()
    with pytest.raises(ConfigurationError, match=r"history\.sqlite: is another program's database"):
        History(path)
    assert path.read_bytes() == content


def test_a_folder_is_an_error(tmp_path):
    with pytest.raises(ConfigurationError, match="is a folder"):
        History(tmp_path)


@pytest.mark.parametrize("content", [b"no database at all\n" * 100, b"SQLite format 3\x00" + b"\xff" * 4000])
def test_a_file_that_is_no_database_is_set_aside(opened, path, content, caplog):
    path.parent.mkdir()
    path.write_bytes(content)
    history = opened()
    assert history.add(run_of(1))
    assert path.with_name("history.sqlite.unusable").read_bytes() == content
    assert len(caplog.messages) == 1
    assert str(path) in caplog.messages[0]
    history.close()
    assert opened().newest(1) == [run_of(1)]


def test_the_newest_three_that_were_set_aside_are_kept(opened, path):
    path.parent.mkdir()
    for number in range(5):
        path.write_bytes(b"no database %d" % number * 100)
        opened().close()
    kept = {file.name: file.read_bytes()[:13] for file in path.parent.iterdir() if ".unusable" in file.name}
    assert kept == {
        "history.sqlite.unusable": b"no database 4",
        "history.sqlite.unusable.2": b"no database 3",
        "history.sqlite.unusable.3": b"no database 2",
    }


def test_a_damaged_database_is_set_aside(opened, path, caplog):
    history = opened()
    for number in range(500):
        history.add(run_of(number))
    history.close()
    content = bytearray(path.read_bytes())
    content[3 * 4096 : 9 * 4096] = b"\xa5" * (6 * 4096)
    path.write_bytes(content)
    assert opened().count() == 0
    assert path.with_name("history.sqlite.unusable").exists()
    assert len(caplog.messages) == 1


def test_a_file_that_is_damaged_while_it_is_open_leaves_an_empty_record_in_memory(opened, path, caplog):
    history = opened()
    for number in range(2000):
        history.add(run_of(number))
    history._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    history._connection.execute("PRAGMA cache_size = 1")
    with path.open("r+b") as file:
        file.seek(3 * 4096)
        file.write(b"\xa5" * (path.stat().st_size - 3 * 4096))
    assert history.newest(5000) == []
    assert history.add(run_of(1))
    assert (history.newest(5), history.unsaved) == ([run_of(1)], 1)
    assert len(caplog.messages) == 1
    assert "malformed" in caplog.messages[0]


def test_an_empty_file_is_a_new_record(opened, path, caplog):
    path.parent.mkdir()
    path.touch()
    assert opened().add(run_of(1))
    assert caplog.messages == []


def test_a_full_disk_is_said_once_and_the_rest_is_kept_in_memory(opened, path, caplog):
    history = opened()
    for number in range(20):
        history.add(run_of(number))
    history._connection.execute("PRAGMA max_page_count = 1")  # SQLite's own way to be out of room: SQLITE_FULL
    for number in range(20, 400):
        assert history.add(run_of(number))
    assert not history.add(run_of(399))
    (message,) = caplog.messages
    assert str(path) in message
    assert "full" in message
    assert history.newest(1000) == [run_of(number) for number in range(400)]
    saved = opened().count()
    assert 20 <= saved < 400
    assert history.unsaved == 400 - saved


def test_a_file_that_cannot_be_written_is_said_once_and_still_read(opened, path, caplog):
    opened().add(run_of(1))
    history = opened()
    history._connection.execute(
        "PRAGMA query_only = TRUE"
    )  # root may write to every file, so permissions do not stop it
    assert history.add(run_of(2))
    assert history.add(run_of(3))
    assert history.newest(9) == [run_of(1), run_of(2), run_of(3)]
    assert history.unsaved == 2
    assert len(caplog.messages) == 1
    assert "readonly" in caplog.messages[0]


@contextlib.contextmanager
def unwritable(folder):
    """No file in `folder` can be written or made: root is nobody for a while, as permissions do not stop root."""
    folder.chmod(0o555)
    am_root = os.geteuid() == 0
    if am_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if am_root:
            os.seteuid(0)
        folder.chmod(0o755)


@pytest.fixture
def open_to_all():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder).resolve()
        path.chmod(0o755)
        yield path


@pytest.mark.parametrize("left_open", [False, True], ids=["closed", "killed"])
def test_on_a_volume_that_cannot_be_written_what_is_there_is_read(opened, open_to_all, caplog, left_open):
    path = open_to_all / "history ?#%.sqlite"
    first = opened(path=path)
    for number in range(50):
        first.add(run_of(number))
    if not left_open:
        first.close()
    held = sorted(file.name for file in open_to_all.iterdir())
    with unwritable(open_to_all):
        history = opened(path=path)
        assert history.newest(99) == [run_of(number) for number in range(50)]
        assert history.add(run_of(50))
        assert (history.count(), history.unsaved) == (51, 1)
        copy = History.copy_of(path)
        assert copy.newest(99) == [run_of(number) for number in range(50)]
        copy.close()
        history.close()
    assert sorted(file.name for file in open_to_all.iterdir()) == held
    (message,) = caplog.messages
    assert "it goes on in memory with the 50 runs that can be read" in message


def test_an_old_version_that_cannot_be_written_is_read(opened, open_to_all):
    path = open_to_all / "history.sqlite"
    write_raw(path, VERSION_1)
    with unwritable(open_to_all):
        assert opened(path=path).newest(9) == [run_of(1)]
    assert version_of(path) == 1


def test_another_programs_database_is_no_record_where_it_cannot_be_written_either(open_to_all):
    path = open_to_all / "history.sqlite"
    write_raw(path, "PRAGMA journal_mode = WAL; CREATE TABLE runs (x);")
    with unwritable(open_to_all):
        for reading in (History, History.copy_of):
            with pytest.raises(ConfigurationError, match="is another program's database"):
                reading(path)


def test_a_copy_leaves_the_file_as_it_is(path):
    path.parent.mkdir()
    path.write_bytes(b"no database at all\n" * 100)
    with pytest.raises(ConfigurationError, match=r"history\.sqlite: the record of ended runs cannot be read: "):
        History.copy_of(path)
    assert [file.name for file in path.parent.iterdir()] == ["history.sqlite"]


def test_a_folder_that_cannot_be_made_is_said_once(opened, tmp_path, caplog):
    (tmp_path / "file").touch()
    history = opened(path=tmp_path / "file" / "history.sqlite")
    assert history.add(run_of(1))
    assert history.newest(1) == [run_of(1)]
    assert history.unsaved == 1
    assert len(caplog.messages) == 1
    with pytest.raises(ConfigurationError, match=r"history\.sqlite: the record of ended runs cannot be used"):
        opened(path=tmp_path / "file" / "history.sqlite", on_disk_only=True)


def test_a_command_does_not_go_on_in_memory(opened, caplog):
    history = opened(on_disk_only=True)
    history._connection.execute("PRAGMA query_only = TRUE")
    with pytest.raises(ConfigurationError, match="cannot be used: attempt to write a readonly database; make it"):
        history.add(run_of(1))
    assert caplog.messages == []


def test_in_memory_nothing_is_unsaved(opened):
    history = opened(path=None)
    history.add(run_of(1))
    assert history.unsaved == 0


def test_two_processes_share_the_file(opened, path):
    first, second = opened(), opened()
    for number in range(50):
        (first if number % 2 else second).add(run_of(number))
    assert first.newest(99) == second.newest(99) == [run_of(number) for number in range(50)]


WRITER = """
import sys
from pathlib import Path
from carbon_exporter.forecast.history import History
from test_history import run_of
history, number = History(Path(sys.argv[1])), int(sys.argv[2])
while True:
    assert history.add(run_of(number))
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
    number += 1
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_loses_no_run_that_was_acknowledged(opened, path, repository):
    search = os.pathsep.join(str(repository / place) for place in ("", "tests"))
    chance, acknowledged, number = random.Random(11), [], 0
    for _ in range(20):
        command = [sys.executable, "-c", WRITER, str(path), str(number)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": search}
        ) as writer:
            assert writer.stdout is not None
            acknowledged.append(int(writer.stdout.readline()))
            time.sleep(chance.uniform(0, 0.05))
            writer.kill()
            acknowledged += [int(line) for line in writer.stdout.read().splitlines()]
        number = max(acknowledged) + 2  # the one in between may have been written without its word
        history = opened(on_disk_only=True)
        kept = {run.joules - 1e6 for run in history.newest(10**6)}
        assert set(acknowledged) <= kept
        assert all(run.scores == run_of(1).scores for run in history.newest(100))
        history.close()
    assert len(acknowledged) > 100
    assert len(kept) <= len(acknowledged) + 20
