"""Scores of ended runs: what the forecasts on their way would have had to be multiplied by."""

import math
from itertools import accumulate

import pytest

from carbon_exporter.forecast.level import Boundary
from carbon_exporter.forecast.record import Score
from carbon_exporter.forecast.scoring import CHECKPOINTS, scores_of


def run_of(joules, seconds=None):
    seconds = seconds or [10.0] * len(joules)
    sums = zip(accumulate(seconds, initial=500.0), accumulate(joules, initial=70.0), strict=True)
    return [Boundary(float(k), t, j) for k, (t, j) in enumerate(sums)]


def test_a_score_compares_the_level_with_the_mean_of_what_followed():
    scores = scores_of(run_of([8, 2, 4, 3, 3, 6], [4, 1, 1, 2, 2, 2]))
    assert [score.epochs for score in scores] == [1, 2, 3, 5]
    expected_joules = [(18 / 5) / 8, 4 / 2, 4 / 3]
    assert [score.joules for score in scores[:3]] == pytest.approx([math.log(ratio) for ratio in expected_joules])
    assert [score.seconds for score in scores[:3]] == pytest.approx([math.log(r) for r in ((8 / 5) / 4, 7 / 4, 2)])


def test_a_run_is_scored_while_an_epoch_is_left():
    assert [score.epochs for score in scores_of(run_of([1] * 5))] == [1, 2, 3]
    assert [score.epochs for score in scores_of(run_of([1] * 6))] == [1, 2, 3, 5]
    assert [score.epochs for score in scores_of(run_of([1] * 101))] == list(CHECKPOINTS)
    assert all(score == Score(score.epochs, 0, 0) for score in scores_of(run_of([1] * 101)))
    assert scores_of(run_of([1])) == ()
    assert scores_of([]) == ()


def test_steps_of_several_epochs_are_scored_at_the_first_that_reached_a_checkpoint():
    boundaries = run_of([8, 2, 2, 2, 2, 2, 2, 2, 2, 2])[::2]
    scores = scores_of(boundaries)
    assert [score.epochs for score in scores] == [2, 3, 5]
    assert scores[0].joules == pytest.approx(math.log(2 / 5))
    assert scores[1].joules == pytest.approx(0)


def test_a_short_plan_is_scored_in_tenths():
    boundaries = [Boundary(i / 10, 10.0 * i, 100.0 * i + (50 if i else 0)) for i in range(11)]
    scores = scores_of(boundaries)
    assert [score.epochs for score in scores] == [1, 2, 3, 5]
    assert scores[0].joules == pytest.approx(math.log(100 / 150))
    # Stopped after half an epoch of a plan of twenty: no whole unit was done.
    assert scores_of(boundaries[:6], epochs_planned=20) == ()


def test_a_run_resumed_at_an_epoch_counts_from_there():
    resumed = [boundary._replace(epochs=boundary.epochs + 40) for boundary in run_of([8, 2, 4, 3])]
    assert scores_of(resumed) == scores_of(run_of([8, 2, 4, 3]))


@pytest.mark.parametrize("joules", [[0, 0, 0], [1, 0, 1, 0]])
def test_what_has_no_logarithm_is_not_scored(joules):
    assert all(math.isfinite(score.joules) for score in scores_of(run_of(joules)))
    assert len(scores_of(run_of(joules))) < len(joules) - 1
