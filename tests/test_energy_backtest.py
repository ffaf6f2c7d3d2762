"""`carbon-exporter backtest energy`: its figures, what it makes of bad files, and how good the forecast must be."""

import json
import random
import re

import pytest

from benchmarks import builtin_scores
from carbon_exporter import cli
from carbon_exporter.forecast import backtest
from carbon_exporter.forecast.backtest import BASES, SIMPLER, ended_runs
from carbon_exporter.forecast.importing import Course, read_courses

HEADER = "run,config,epoch,duration_s,energy_j"


def synthetic(count, configs, seed=5, kind=None):
    """Recorded runs, each `configs`-th of one configuration."""
    if kind is None:
        made = [run.boundaries for run in builtin_scores.runs(count, seed)]
    else:
        chance = random.Random(seed)
        made = [builtin_scores.run(kind, 20, chance) for _ in range(count)]
    return [Course(f"r{i}", f"c{i % configs}", tuple(boundaries)) for i, boundaries in enumerate(made)]


def written(path, courses):
    lines = [HEADER]
    for one in courses:
        for before, after in zip(one.boundaries, one.boundaries[1:], strict=False):
            cells = after.seconds - before.seconds, after.joules - before.joules
            lines.append(f"{one.run},{one.config},{after.epochs:.0f},{cells[0]:.6f},{cells[1]:.6f}")
    path.write_text("\n".join(lines) + "\n")
    return path


# The figures.


def test_the_simpler_rules_are_what_their_names_say():
    values = [8.0, 2.0, 4.0]
    assert SIMPLER["mean x plan"](values, 10).median == pytest.approx(10 * 14 / 3)
    assert SIMPLER["drop first"](values, 10).median == pytest.approx(14 + 7 * 3)
    assert SIMPLER["last epoch"](values, 10).median == pytest.approx(14 + 7 * 4)
    low, median, high = SIMPLER["iid t"](values, 10)
    assert median == pytest.approx(10 * 14 / 3)
    # Standard deviation sqrt(28/3), t of 2 degrees 2.920.
    assert (
        high - median
        == pytest.approx(median - low)
        == pytest.approx(2.920 * (28 / 3) ** 0.5 * (1 / 3 + 1 / 7) ** 0.5 * 7)
    )
    assert SIMPLER["drop first"]([8.0], 10).median == 80


def test_errors_are_ratios_of_what_came():
    errors = backtest.Errors()
    errors.take(110, 100, (90, 120))
    errors.take(80, 100, (70, 90))
    figures = errors.figures()
    assert figures["runs"] == 2
    assert (figures["median"], figures["mean"], figures["p90"]) == pytest.approx((0.15, 0.15, 0.2))
    assert figures["bias"] == pytest.approx(-0.05)
    assert figures["coverage"] == 0.5
    assert figures["width"] == pytest.approx(0.25)
    # Inside: 0.05 x 10 and 0.05 x 20; above the interval: 0.05 x 30 and 0.95 x 10; each half of it, mean of both.
    assert figures["pinball"] == pytest.approx(((0.5 + 1.0) / 2 + (1.5 + 9.5) / 2) / 2 / 100)


def test_a_run_never_learns_from_itself_or_its_repeats():
    """Every configuration is steady but one, whose repeats all double after the third epoch."""
    steady = synthetic(60, 30, kind="steady")
    doubled = [
        Course(f"d{n}", "odd", tuple(b._replace(joules=b.joules * (1 if b.epochs <= 3 else 2)) for b in one.boundaries))
        for n, one in enumerate(steady[:15])
    ]
    report = backtest.backtest([*steady, *doubled])
    fleet, group = (report.energy[basis][3] for basis in ("fleet", "group"))
    assert sum(error < -0.3 for error in fleet.signed) == 15
    assert not any(error < -0.3 for error in group.signed)
    assert len(group.signed) == len(fleet.signed) == 75


def test_every_run_is_forecast_once_at_each_checkpoint_that_it_passes():
    courses = synthetic(40, 20)
    report = backtest.backtest(courses, courses[:5])
    lengths = [len(one.boundaries) - 1 for one in courses]
    assert report.runs == 40
    for epochs in backtest.CHECKPOINTS:
        for name in (*BASES, *SIMPLER):
            assert len(report.energy[name][epochs].signed) == sum(length > epochs for length in lengths)
    half = backtest.backtest(courses, every=2)
    assert half.runs == 20
    assert "other sets" not in half.energy
    assert backtest.backtest(courses, fewest_epochs=100).runs == sum(length >= 100 for length in lengths)


def test_it_gives_the_same_figures_each_time_and_progress_ends_at_one():
    seen = []
    courses = synthetic(20, 10)
    first = backtest.backtest(courses, advance=seen.append)
    assert first == backtest.backtest(courses)
    assert seen == sorted(seen)
    assert seen[-1] == 1
    assert [run.group for run in ended_runs(courses)] == [run.group for run in ended_runs(courses[::-1])]


@pytest.mark.slow
def test_on_a_synthetic_mix_it_beats_what_is_simpler_and_its_intervals_hold():
    report = backtest.backtest(synthetic(400, 400))
    for epochs in (2, 3, 5, 10):
        ours, linear = report.energy["fleet"][epochs].figures(), report.energy["mean x plan"][epochs].figures()
        assert ours["mean"] < linear["mean"]
        assert 0.85 <= ours["coverage"] <= 0.96
        assert ours["pinball"] < report.energy["iid t"][epochs].figures()["pinball"]
    assert report.energy["fleet"][3].figures()["width"] > report.energy["fleet"][10].figures()["width"]


# The command.


def test_the_command_prints_every_figure(tmp_path, capsys):
    one = written(tmp_path / "one.csv", synthetic(24, 12, seed=1))
    two = written(tmp_path / "two.csv", synthetic(12, 12, seed=2))
    assert cli.main(["backtest", "energy", str(one), str(two)]) == 0
    text = capsys.readouterr().out
    assert "one.csv, energy: 24 runs of 12 configurations, %" in text
    assert "two.csv, time: 12 runs of 12 configurations, %" in text
    for name in BASES:
        assert re.search(
            rf"\d?  {name} +\d+ +\d+\.\d\d +\d+\.\d\d +\d+\.\d\d +[+-]\d+\.\d\d +\d+\.\d +\d+\.\d +\d+\.\d\d", text
        )
    for name in SIMPLER:
        assert re.search(rf"\d?  {name} +\d+ +\d+\.\d\d", text)
    assert max(len(line) for line in text.splitlines()) <= 80


def test_json_holds_the_same(tmp_path, capsys):
    path = written(tmp_path / "one.csv", synthetic(20, 20, seed=1))
    assert cli.main(["backtest", "energy", str(path), "--json", "--every", "2", "--history", "10"]) == 0
    document = json.loads(capsys.readouterr().out)
    report = backtest.backtest(read_courses(path), every=2, history_runs=10)
    assert document[str(path)]["runs"] == report.runs == 10
    assert document[str(path)]["energy"]["fleet"]["3"] == pytest.approx(report.energy["fleet"][3].figures())
    assert document[str(path)]["time"]["iid t"]["2"] == pytest.approx(report.time["iid t"][2].figures())


@pytest.mark.parametrize(
    ("lines", "arguments", "message"),
    [
        (["a,c,1,1"], [], r"{path}:2: has 4 cells"),
        (["a,c,1,1,x"], [], r"{path}:2: 'x' is no number"),
        (["a,c,1,1,1", "a,c,3,1,1"], [], r"{path}:3: epoch 3 of run 'a'"),
        ([], [], r"{path}: holds no epoch"),
        (["a,c,1,1,1", "a,c,2,1,1e308"], [], r"{path}:3: '1e308' is beyond what an epoch takes: give 0"),
        (["a,c,1,1,1", "a,c,2,-1,1"], [], r"{path}:3: '-1' is no number from 0 up"),
        (["a,c,1,1e-320,1"], [], r"{path}:2: '1e-320' is beyond"),
        ([f"a,c,{n},1,0" for n in range(1, 13)], [], r"{path}: no run has used energy in any epoch"),
        (["a,c,1,1,1", "a,c,2,1,1"], [], r"{path}: no run has 10 epochs: give a lower --fewest-epochs"),
        (["a,c,1,1,1"], ["--fewest-epochs", "1"], r"{path}: no run has 2 epochs"),
        (["a,c,1,1,1"], ["--every", "0"], r"--every 0: give 1 or more"),
        (["a,c,1,1,1"], ["--history", "0"], r"--history 0: give 1 or more"),
        (["a,c,1,1,1"], ["--fewest-epochs", "-1"], r"--fewest-epochs -1: give 1 or more"),
    ],
)
def test_what_is_no_use_is_one_line(tmp_path, capsys, lines, arguments, message):
    path = tmp_path / "runs.csv"
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    assert cli.main(["backtest", "energy", str(path), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert re.match(r"carbon-exporter backtest: " + message.format(path=re.escape(str(path))), captured.err), (
        captured.err
    )


def test_runs_without_energy_or_alone_end_in_no_crash(tmp_path, capsys):
    runs = (("a", 1, 0), ("b", 0, 5), ("c", 1e-9, 1e15), ("d", 1e15, 1e-9))
    rows = [f"{run},c,{epoch},{seconds},{joules}" for run, seconds, joules in runs for epoch in range(1, 13)]
    path = tmp_path / "runs.csv"
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    assert cli.main(["backtest", "energy", str(path)]) == 0
    out = capsys.readouterr().out
    assert "4 runs of 1 configurations" in out
    assert not re.search(r"\b(nan|inf)\b", out)


# The recorded runs.


@pytest.mark.slow
@pytest.mark.parametrize(("name", "median", "p90"), [("dtjgp", 0.006, 0.018), ("energydl_resumed", 0.025, 0.17)])
def test_on_recorded_runs_it_is_as_good_as_it_must_be(repository, name, median, p90):
    path = repository.parent / "shared/data/epochs" / f"{name}.csv"
    if not path.exists():
        pytest.skip(f"recorded runs are not here: ../shared/data/epochs/{name}.csv")
    courses = read_courses(path)
    report = backtest.backtest(courses)
    after_three = report.energy["fleet"][3].figures()
    assert after_three["median"] <= median
    assert after_three["p90"] <= p90
    for table in (report.energy, report.time):
        for basis in set(table) & {"fleet", "group"}:
            for epochs, errors in table[basis].items():
                assert 0.85 <= errors.figures()["coverage"] <= 0.96, (basis, epochs)
    for epochs in (2, 3, 5, 10):
        ours, linear = report.energy["fleet"][epochs].figures(), report.energy["mean x plan"][epochs].figures()
        assert ours["mean"] < linear["mean"]
    few = backtest.backtest(courses, history_runs=10, every=2).energy["fleet"]
    assert all(0.82 <= errors.figures()["coverage"] <= 0.99 for errors in few.values())
