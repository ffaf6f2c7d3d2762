"""How right forecasts have been, from the record of ended runs."""

import math
import random
import time

import pytest

from carbon_exporter.forecast import learning as learning_module
from carbon_exporter.forecast.conformal import Calibration
from carbon_exporter.forecast.history import MOST_RUNS, History
from carbon_exporter.forecast.learning import Learning
from carbon_exporter.forecast.record import EndedRun, Score
from carbon_exporter.forecast.scores import Accuracy, Scores
from carbon_exporter.forecast.scoring import CHECKPOINTS
from carbon_exporter.model import ConfigurationError


def ended(number, scores, ending="finished", group="g", done=10.0):
    """A run of 10 planned epochs of 100 J each; `scores`: epochs observed -> ln(actual / level)."""
    kept = tuple(Score(epochs, score, score) for epochs, score in scores.items())
    return EndedRun(
        f"job-{number}", group, ending, float(number), number + 1.0, 10.0, done, 1000.0, None, 100.0, 60.0, 8.0, kept
    )


def history_of(path):
    history = History(path)
    runs = history.newest(10**6)
    history.close()
    return runs


def test_a_finished_run_is_scored_by_what_ended_before_it():
    scores = Scores()
    calibration = Calibration().for_group("g")
    median, high = calibration.bands["joules"][2].median, calibration.bands["joules"][2].high
    scores.add(ended(1, {3.0: high + 0.01}), calibration)
    (row,) = scores.accuracy()
    # 7 of its 10 epochs were still to come, each by that much dearer.
    expected = 0.7 * (1 - math.exp(median - high - 0.01))
    assert row == Accuracy("builtin", 3.0, 1, 0.0, pytest.approx(expected))
    scores.add(ended(2, {3.0: median}), calibration)
    assert scores.accuracy() == (Accuracy("builtin", 3.0, 2, 0.5, pytest.approx(expected / 2)),)


def test_all_checkpoints_make_one_metric_for_each_basis():
    scores = Scores()
    scores.add(ended(1, {1.0: 0.0, 2.0: 3.0, 20.0: 0.0}), Calibration().for_group("g"))
    coverage, error = scores.families()
    assert list(coverage.samples) == [(("builtin",), 0.5)]
    assert 0 < error.samples[0][1] < 1
    assert [row.epochs for row in scores.accuracy()] == [1.0, 2.0]


@pytest.mark.parametrize("ending", ["stopped", "lost"])
def test_what_did_not_finish_is_never_scored(ending):
    scores = Scores()
    scores.add(ended(1, {1.0: 0.0}, ending), Calibration().for_group("g"))
    assert scores.accuracy() == ()


def test_what_was_learnt_is_there_again_after_a_restart(tmp_path):
    path = tmp_path / "history.sqlite"
    learning = Learning(path)
    for number in range(1, 31):
        learning.add(ended(number, {1.0: 0.2 + number / 1000, 3.0: 0.1}))
    learning.add(ended(31, {}, "lost"))
    learning.add(ended(1, {1.0: 9.0}))  # recorded already
    assert learning.knows("job-1", 1.0)
    assert not learning.knows("job-1", 2.0)
    assert learning.for_group("g").bands["joules"][0].basis == "group"
    assert {row.basis for row in learning.accuracy()} == {"builtin", "group", "fleet"} - {"fleet"}
    learning.close()

    again = Learning(path)
    again.open()
    assert again.accuracy() == learning.accuracy()
    assert again.for_group("g") == learning.for_group("g")
    assert [family.samples for family in again.families()] == [family.samples for family in learning.families()]
    again.close()


def test_groups_that_ended_long_ago_are_known_after_a_restart(tmp_path, monkeypatch):
    monkeypatch.setattr(learning_module, "SCORED_RUNS", 100)
    path = tmp_path / "history.sqlite"
    history = History(path)
    rare = [ended(number, {3.0: 0.2 + number / 1000}, group="rare") for number in range(30)]
    for run in [*rare, *(ended(number, {3.0: 0.0}) for number in range(100, 700))]:
        history.add(run)
    history.close()
    learning = Learning(path)
    learning.open()
    assert learning.for_group("rare").runs == tuple(rare)
    assert learning.for_group("rare").bands["joules"][2].basis == "group"
    assert (learning.for_group("g").group_runs, learning.for_group("g").fleet_runs) == (200, 200)
    assert sum(row.runs for row in learning.accuracy()) == 100
    # Older runs count in full, but move no miss rate.
    slow = Calibration()
    for run in history_of(path)[:-100]:
        slow.remember(run)
    assert slow.miss_rate("joules", "group", seen=True) == 0.10
    for run in history_of(path)[-100:]:
        slow.add(run)
    assert slow.miss_rate("joules", "group", seen=True) > 0.10
    assert learning.for_group("g") == slow.for_group("g")
    learning.close()


@pytest.mark.slow
def test_a_full_record_is_read_in_a_few_seconds(tmp_path):
    path = tmp_path / "history.sqlite"
    history, chance = History(path), random.Random(1)
    for number in range(MOST_RUNS):
        scores = {k: chance.gauss(0, 0.05) for k in CHECKPOINTS[:6]}
        history.add(ended(number, scores, group=f"group-{number % 1000}"))
    history.close()
    learning = Learning(path)
    began = time.process_time()
    learning.open()
    assert time.process_time() - began < 5
    assert learning.for_group("group-0").group_runs == MOST_RUNS / 1000
    learning.close()


def test_a_record_that_is_no_use_is_said_at_once(tmp_path):
    with pytest.raises(ConfigurationError, match="is a folder: name a file"):
        Learning(tmp_path).open()


def test_a_run_with_a_number_that_is_not_finite_is_left_out(caplog):
    learning = Learning(None)
    learning.add(ended(1, {1.0: math.inf}))
    assert [record.getMessage() for record in caplog.records] == [
        "the run of 'job-1' has a number that is not finite: it is not recorded"
    ]
    assert learning.families()[2].samples == []
    learning.close()
