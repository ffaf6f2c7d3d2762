"""`carbon-exporter history`: import, show, and rebuild from a scripted engine and from a real Prometheus."""

import itertools
import json
import re
import subprocess
import tempfile
import time
from argparse import Namespace
from pathlib import Path

import pytest
import requests
import yaml
from fake_grid import FakeGrid, Reply
from test_history import run_of, unwritable
from test_importing import CSV, HEADER, first_era

from carbon_exporter import cli, metrics
from carbon_exporter.demo.servers import free_port, prometheus
from carbon_exporter.forecast import history_command
from carbon_exporter.forecast.history import History
from carbon_exporter.forecast.past_query import _points
from carbon_exporter.forecast.promql import Client, PromQLError, Series
from carbon_exporter.forecast.rebuilding import PAGE_SECONDS, Finished, find_finished, read_ended
from carbon_exporter.forecast.settings import Settings


@pytest.fixture
def database(tmp_path):
    return tmp_path / "state" / "history.sqlite"


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "200")

    def run_(*arguments, **forecast):
        config = tmp_path / "carbon.yaml"
        config.write_text(yaml.safe_dump({"forecast": forecast}))
        status = cli.main(["history", *map(str, arguments), "--config", str(config)])
        return status, *capsys.readouterr()

    return run_


def kept(database):
    history = History(database)
    runs = history.newest(10**6)
    history.close()
    return runs


def test_files_are_imported_once(run, database, tmp_path):
    table = tmp_path / "runs.csv"
    table.write_text("\n".join(CSV))
    log = first_era().save(tmp_path / "vgg16")
    files = [table, *sorted(log.parent.iterdir())]
    status, out, err = run("import", *files, history_file=str(database))
    assert (status, err) == (0, "")
    assert f"{table}: 2 runs imported, 0 known before" in out
    assert f"{log}: 1 run imported, 0 known before" in out
    assert "the record holds 3 runs" in out
    assert [one.group for one in kept(database)] == ["lenet", "vgg", "vgg16"]
    status, out, _ = run("import", *files, history_file=str(database))
    assert status == 0
    assert f"{table}: 0 runs imported, 2 known before" in out
    assert "the record holds 3 runs" in out


def test_a_bad_file_is_named_and_the_others_are_imported(run, database, tmp_path):
    bad, good, missing = tmp_path / "bad.csv", tmp_path / "good.csv", tmp_path / "missing.csv"
    bad.write_text("\n".join([*CSV, "b/1,vgg,4,4.5,much"]))
    good.write_text(f"{HEADER}\na,c,1,20,5000\na,c,2,20,4000")
    status, out, err = run("import", bad, missing, good, "--database", database, "--group", "g")
    assert status == 1
    assert err.splitlines() == [
        f"carbon-exporter history: {bad}:8: 'much' is no number from 0 up; nothing of this file is imported",
        f"carbon-exporter history: {missing}: No such file or directory; nothing of this file is imported",
    ]
    assert "the record holds 1 run\n" in out
    assert [(one.training_job.partition("~")[0], one.group) for one in kept(database)] == [("a", "g")]


def test_runs_of_one_name_in_the_files_of_two_teams_are_all_kept(run, database, tmp_path):
    name = "n" * 300
    files = [tmp_path / f"{team}.csv" for team in ("one", "two", "three", "copy")]
    for file, config, joules in zip(files, "ccdc", (4000, 5000, 4000, 4000), strict=True):
        rows = [f"{run},{config},{epoch},20,{joules}" for run in ("1", name) for epoch in (1, 2)]
        file.write_text("\n".join([HEADER, *rows]))
    status, out, _ = run("import", *files, "--database", database)
    assert (status, [line.rpartition(": ")[2] for line in out.splitlines()[:4]]) == (
        0,
        [*["2 runs imported, 0 known before"] * 3, "0 runs imported, 2 known before"],
    )
    _, out, _ = run("import", *files, "--database", database, "--group", "mine")
    assert "the record holds 6 runs" in out
    assert sorted((one.group, one.joules) for one in kept(database)) == [
        ("c", 8000), ("c", 8000), ("c", 10_000), ("c", 10_000), ("d", 8000), ("d", 8000)
    ]  # fmt: skip


def test_absurd_numbers_in_one_file_leave_the_others_alone(run, database, tmp_path):
    log = first_era()
    log.output = [line.replace("for 3 epoch", f"for 1{'0' * 300} epoch") for line in log.output]
    bad, good = log.save(tmp_path / "bad"), first_era().save(tmp_path / "good")
    status, out, err = run("import", bad, good, "--database", database)
    assert (status, err.count("\n")) == (1, 1)
    assert f"{bad}: 3 epochs were done, 1e+300 planned; nothing of this file is imported" in err
    assert f"{good}: 1 run imported" in out


def test_a_record_that_cannot_be_written_is_one_line_and_status_2(run, tmp_path):
    table = tmp_path / "runs.csv"
    table.write_text("\n".join(CSV))
    status, out, err = run("import", table, "--database", table / "history.sqlite")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"carbon-exporter history: {table}/history.sqlite: the record of ended runs cannot be used")
    status, _, err = run("import", table, history_file=None)
    assert status == 2
    assert "forecast.history_file is null: name the record with --database FILE" in err


def cells(out):
    return [re.split(r" {2,}", line.strip()) for line in out.splitlines()]


def test_the_record_is_shown_by_group(run, database, tmp_path):
    history = History(database)
    for number, ending, joules in ((1, "finished", 1000.0), (2, "stopped", 3000.0), (3, "lost", 2000.0)):
        history.add(run_of(number, ending=ending, epoch_joules=joules))
    history.add(run_of(4, group="[red]a group[/red]", started_seconds=0.0))
    history.add(run_of(5, group="", epoch_joules=1_234_567.0))
    history.close()
    status, out, err = run("show", history_file=str(database))
    assert (status, err) == (0, "")
    assert cells(out) == [
        ["group", "runs", "finished", "stopped", "lost", "kJ an epoch", "newest end"],
        ["(none)", "1", "1", "0", "0", "1,235", "2027-01-15 09:00Z"],
        ["[red]a group[/red]", "1", "1", "0", "0", "20", "unknown"],
        ["resnet", "3", "1", "1", "1", "2", "2027-01-15 09:00Z"],
    ]


def test_a_record_that_only_others_may_write_is_shown(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.sqlite"
        history = History(path)
        history.add(run_of(1))
        history.close()
        with unwritable(Path(folder)):
            assert history_command.run_show(Namespace(database=path), Settings()) == 0
    assert cells(capsys.readouterr().out)[1][:2] == ["resnet", "1"]


def test_no_record_is_one_line_and_makes_none(run, database):
    status, out, err = run("show", "--database", database)
    assert (status, out) == (2, "")
    assert err.startswith(f"carbon-exporter history: {database}: no run has been recorded here yet: ")
    assert not database.parent.exists()


@pytest.mark.parametrize("days", ["0", "-1", "nan", "4000"])
def test_days_that_are_no_use_are_an_error(run, database, days):
    status, _, err = run("rebuild", f"--days={days}", "--database", database)
    assert status == 2
    assert "--days" in err


def test_an_engine_that_is_away_is_one_line_and_status_1(run, database):
    url = f"http://127.0.0.1:{free_port()}"
    status, out, err = run("rebuild", prometheus_url=url, history_file=str(database))
    assert status == 1
    assert out.startswith("0 runs added, 0 known before, 0 left out")
    assert err.count("\n") == 1
    assert err.startswith(f"carbon-exporter history: {url}/api/v1/query: ")


NOW = 1_800_000_000.0
QUERY, RANGE = "/api/v1/query", "/api/v1/query_range"


def vector(*rows):
    result = [{"metric": labels, "value": [NOW, repr(value)]} for labels, value in rows]
    return Reply({"status": "success", "data": {"resultType": "vector", "result": result}})


def pushed(job, start, finished, completed=10.0, planned=10.0):
    values = {
        metrics.TRAINING_START: start,
        metrics.TRAINING_FINISHED: finished,
        metrics.EPOCHS_COMPLETED: completed,
        metrics.EPOCHS_PLANNED: planned,
    }
    return [({"__name__": metric.name, "training_job": job}, float(value)) for metric, value in values.items()]


@pytest.fixture
def engine():
    with FakeGrid({}) as grid:
        yield grid


@pytest.fixture
def client(engine):
    with requests.Session() as session:
        yield Client(engine.url, session, timeout_seconds=5)


def test_each_run_is_found_once_and_only_whole_ones(engine, client):
    old = pushed("nightly", NOW - 90_000, NOW - 80_000)
    info = ({"__name__": metrics.TRAINING_INFO.name, "training_job": "nightly", "group": "g"}, 1.0)
    new = pushed("nightly", NOW - 9_000, NOW - 5_000)
    others = [
        *pushed("restarted", NOW - 10, NOW - 5_000),
        *pushed("no plan", NOW - 90, NOW - 50)[:3],
        *pushed("no epoch", NOW - 90, NOW - 50, completed=0.0),
        *pushed("too long ago", NOW - 900_000, NOW - 200_000),
    ]

    def answer(asked):
        at = float(asked.parameters["time"])
        return vector(*(new if at > NOW - 5_000 else old if at > NOW - 80_000 else []), info, *others)

    engine.answers[QUERY] = answer
    found = list(find_finished(client, NOW, 1.1))
    assert [len(page) for page in found] == [0, 1, 0, 0, 1]
    assert found[1] == [Finished("nightly", NOW - 90_000, NOW - 90_000, NOW - 80_000, 10, 10, 0, "g")]
    assert found[4] == [Finished("nightly", NOW - 9_000, NOW - 9_000, NOW - 5_000, 10, 10, 0, "g")]
    assert [float(asked.parameters["time"]) for asked in engine.asked] == [
        NOW - page * PAGE_SECONDS for page in (4, 3, 2, 1, 0)
    ]
    assert all(f"[{PAGE_SECONDS}s]" in asked.parameters["query"] for asked in engine.asked)


def test_a_run_costs_three_queries_and_a_name_cannot_break_out_of_them(engine, client):
    start, name = NOW - 1000, 'x"} or vector(1) or {a="\\\n'
    matrix = {
        "": [[start + 30 * k, f"{3000.0 * k}"] for k in range(36)],
        metrics.EPOCHS_COMPLETED.name: [[start + 30 * k, f"{k * 30 // 200}"] for k in range(36)],
        metrics.EPOCH_END.name: [[start + 30 * k, f"{start + k * 30 // 200 * 200}"] for k in range(36)],
    }
    rows = [
        {"metric": {"training_job": name, **({"__name__": key} if key else {})}, "values": values}
        for key, values in matrix.items()
    ]
    engine.answers[RANGE] = Reply({"status": "success", "data": {"resultType": "matrix", "result": rows}})
    totals = [({"of": metrics.JOB_ENERGY.name}, 210_000.0), ({"of": metrics.JOB_EMISSIONS.name}, 17.5)]
    engine.answers[QUERY] = lambda asked: vector(({}, 8.0)) if "gpus" in asked.parameters["query"] else vector(*totals)
    run = read_ended(client, Finished(name, start, start, NOW, 5.0, 10.0, 0.0, "g"))
    assert run is not None
    assert (run.ending, run.epochs_done, run.joules, run.grams, run.gpus) == ("stopped", 5, 105_000, 8.75, 8)
    assert (run.epoch_joules, run.epoch_seconds) == (pytest.approx(20_000), pytest.approx(200))
    assert [asked.path for asked in engine.asked] == [RANGE, QUERY, QUERY]
    asked, *others = (one.parameters["query"] for one in engine.asked)
    assert r'''training_job=~"x\"\\} or vector\\(1\\) or \\{a=\"\\\\\n"''' in asked
    assert r'''training_job="x\"} or vector(1) or {a=\"\\\n"''' in others[0]


def test_a_failure_in_the_middle_keeps_what_was_found(engine, client, run, database):
    History(database).close()
    engine.answers[QUERY] = Reply("", 500)
    with pytest.raises(PromQLError):
        list(find_finished(client, NOW, 1))
    status, out, err = run("rebuild", "--database", database, prometheus_url=engine.url)
    assert status == 1
    assert "0 runs added" in out
    assert "status 500" in err
    assert "start again to go on from there" in err


def test_between_scrapes_nothing_new_is_told_but_a_long_rest_is_one():
    values = [(float(at), 100.0 * min(at // 30, 10)) for at in range(0, 1000, 7)]
    points, totals = _points([Series({"instance": "n1"}, values)], 0.0)
    assert [point.seconds for point in points[:11]] == [0, 35, 63, 91, 126, 154, 182, 210, 245, 273, 301]
    assert [point.joules for point in points[10:]] == [1000] * 3
    assert [after.seconds - before.seconds for before, after in itertools.pairwise(points[10:])] == [301, 301]
    assert totals.joules == 1000
    assert _points([], 0.0)[0] == []


class Fleet:
    """Samples of jobs as nodes and a Pushgateway would have shown them to a Prometheus, every 30 s."""

    def __init__(self):
        self.lines = {}

    def sample(self, metric, seconds, value, **labels):
        text = ",".join(f"{name}={json.dumps(label)}" for name, label in labels.items())
        self.lines.setdefault(metric.name, []).append((text, seconds, f"{metric.name}{{{text}}} {value!r} {seconds}"))

    def job(self, name, start, end, *, planned, epoch_seconds, watts=1000.0, nodes=2, reset=False, until=None):
        for at in range(start - 30, end + 600, 30):
            spent = watts / nodes * (min(at, end) - start + 30)
            for node in range(nodes):
                middle = (start + end) / 2
                lost = watts / nodes * (middle - start + 30) if reset and at > middle else 0.0
                labels = {"training_job": name, "instance": f"node-{node}"}
                self.sample(metrics.JOB_ENERGY, at, spent - lost, component="gpu", **labels)
                self.sample(metrics.JOB_EMISSIONS, at, (spent - lost) / 1e4, component="gpu", **labels)
                if start <= at <= end:
                    self.sample(metrics.JOB_GPUS, at, 4.0, **labels)
        for at in range(start, until or end + 1200, 30):
            epochs = (min(at, end) - start) // epoch_seconds
            values = {
                metrics.TRAINING_START: start,
                metrics.EPOCHS_PLANNED: planned,
                metrics.EPOCHS_COMPLETED: epochs,
                metrics.EPOCH_END: start + epochs * epoch_seconds,
                metrics.PUSH_TIME: at,
            }
            if at >= end:
                values[metrics.TRAINING_FINISHED] = end
            for metric, value in values.items():
                if metric is not metrics.PUSH_TIME:
                    self.sample(metric, at, float(value), training_job=name)
            self.sample(metrics.TRAINING_INFO, at, 1.0, training_job=name, group=f"group of {name}")

    def backfill(self, promtool, directory):
        lines = [line for name in sorted(self.lines) for _, _, line in sorted(self.lines[name])]
        file = directory / "past.om"
        file.write_text("\n".join([*lines, "# EOF\n"]))
        command = [promtool, "tsdb", "create-blocks-from", "openmetrics", str(file), str(directory / "prometheus")]
        subprocess.run(command, check=True, capture_output=True)


@pytest.mark.real
@pytest.mark.slow
def test_the_record_is_rebuilt_from_a_real_prometheus(need, tmp_path, run, database):
    need("prometheus")
    now = int(time.time()) // 30 * 30
    day, fleet = now - 86_400, Fleet()
    fleet.job("whole", day, day + 6000, planned=10, epoch_seconds=600)
    fleet.job("stopped", day, day + 3000, planned=10, epoch_seconds=600)
    fleet.job("nightly", day - 43_200, day - 39_600, planned=6, epoch_seconds=600, until=day)
    fleet.job("nightly", day + 600, day + 4200, planned=6, epoch_seconds=600, watts=2000.0)
    fleet.job('odd "name"\\{}', day, day + 1200, planned=4, epoch_seconds=300)
    fleet.job("reset", day, day + 6000, planned=10, epoch_seconds=600, reset=True)
    fleet.job("long ago", day - 86_400 * 3, day - 86_400 * 3 + 3000, planned=5, epoch_seconds=600)
    fleet.job("running", now - 3000, now + 90_000, planned=99, epoch_seconds=600, until=now)
    fleet.backfill(need("promtool"), tmp_path)
    with prometheus(tmp_path, {}) as server:
        settings = {"prometheus_url": server.url, "history_file": str(database)}
        status, out, err = run("rebuild", "--days", "3", **settings)
        assert (status, err) == (0, "")
        assert out.startswith("6 runs added, 0 known before, 0 left out")
        first = kept(database)
        status, out, err = run("rebuild", "--days", "3", **settings)
        assert (status, err) == (0, "")
        assert out.startswith("0 runs added, 6 known before, 0 left out")
    assert kept(database) == first
    by_end = [(one.training_job, one.ending, one.epochs_done, one.epochs_planned) for one in first]
    assert by_end == [
        ("nightly", "finished", 6, 6),
        ('odd "name"\\{}', "finished", 4, 4),
        ("stopped", "stopped", 5, 10),
        ("nightly", "finished", 6, 6),
        ("reset", "finished", 10, 10),
        ("whole", "finished", 10, 10),
    ]
    reset, whole = first[-2:]
    assert reset.joules == pytest.approx(whole.joules)
    assert reset.grams == pytest.approx(reset.joules / 1e4)
    for one in (run for run in first if run is not reset):
        watts = 2000 if one.started_seconds == day + 600 else 1000
        length = one.ended_seconds - one.started_seconds
        epoch = 300 if one.training_job.startswith("odd") else 600
        assert one.joules == pytest.approx(watts * length, rel=0.01)
        assert one.grams == pytest.approx(one.joules / 1e4)
        assert one.epoch_joules == pytest.approx(watts * epoch, rel=0.002)
        assert one.epoch_seconds == pytest.approx(epoch, rel=1e-6)
        assert one.gpus == 8
        assert one.group == f"group of {one.training_job}"
        assert [score.epochs for score in one.scores] == [k for k in (1, 2, 3, 5) if k < one.epochs_done]
        # The engine is asked in steps of up to 13 s: of epochs of 600 s that is 2 %, where a scrape would be 5 %.
        assert all(abs(score.joules) < 0.02 and abs(score.seconds) < 1e-6 for score in one.scores)
