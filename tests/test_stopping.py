"""Early stopping: Kaplan and Meier's estimate, and the totals that are expected with it."""

import math
from itertools import accumulate
from operator import mul

import pytest

from carbon_exporter.forecast.bands import Band
from carbon_exporter.forecast.record import EndedRun
from carbon_exporter.forecast.stopping import Survival, expected, survival_of

SURE = Band(0.0, 0.0, 0.0)


def ended(done, ending="stopped", planned=100.0, begun=0.0):
    return EndedRun("job", "group", ending, 0.0, 1.0, planned, done, 1.0, None, 1.0, 1.0, None, (), begun)


def test_it_is_kaplan_and_meiers_estimate():
    # Times to relapse under 6-mercaptopurine (Freireich and others, 1963), the usual example.
    relapsed, lost = [6, 6, 6, 7, 10, 13, 16, 22, 23], [6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
    runs = [*(ended(week) for week in relapsed), *(ended(week, "lost") for week in lost)]
    survival = survival_of(runs)
    assert survival.fractions == pytest.approx((0.06, 0.07, 0.10, 0.13, 0.16, 0.22, 0.23))
    assert tuple(accumulate(survival.going_on, mul)) == pytest.approx(
        (0.857, 0.807, 0.753, 0.690, 0.627, 0.538, 0.448), abs=6e-4
    )


def test_without_a_record_of_stopping_early_there_is_no_estimate():
    assert survival_of([ended(100, "finished")] * 50) is None
    assert survival_of([ended(50)] * 4) is None
    assert survival_of([ended(50, "lost")] * 50) is None
    assert survival_of([ended(100)] * 50) is None
    assert survival_of([*[ended(100, "finished")] * 4, ended(50)]) is not None
    assert survival_of([]) is None


def test_a_run_that_went_on_from_a_checkpoint_was_no_candidate_before_it():
    whole = [ended(20), *[ended(100, "finished")] * 3]
    resumed = [*[ended(100, "finished", begun=50)] * 5, ended(60, begun=50)]
    # At 20 % there were four, of which one stopped; at 60 % nine, of which one did.
    assert survival_of([*whole, *resumed]) == Survival((0.2, 0.6), (pytest.approx(3 / 4), pytest.approx(8 / 9)))
    # That all of the few that were there early stopped says nothing of those that went on from beyond.
    ends = survival_of([ended(20), *resumed]).ends_after(0.5)
    assert ends == [(0.6, pytest.approx(1 / 6)), (1.0, pytest.approx(5 / 6))]
    assert survival_of([*whole, ended(50, begun=50)]) is None


def test_a_run_that_came_further_ends_where_those_did_that_came_as_far():
    survival = Survival((0.2, 0.5), (0.75, 1 / 3))
    assert survival.ends_after(0.0) == [(0.2, 0.25), (0.5, pytest.approx(0.5)), (1.0, 0.25)]
    assert survival.ends_after(0.2) == [(0.5, pytest.approx(2 / 3)), (1.0, pytest.approx(1 / 3))]
    assert survival.ends_after(0.6) == [(1.0, 1.0)]
    assert Survival((0.5,), (0.0,)).ends_after(0.7) == [(1.0, 1.0)]


def test_the_expected_total_counts_each_end_as_often_as_it_came():
    survival = Survival((0.2, 0.5), (0.75, 1 / 3))
    found = expected(survival, reached=1000, epochs_done=10, epochs_planned=100, rate=10, band=SURE)
    totals = (1100, 1400, 1900)
    assert found.mean == pytest.approx(0.25 * totals[0] + 0.5 * totals[1] + 0.25 * totals[2])
    assert (found.low, found.median, found.high) == totals


def test_the_mean_is_the_sum_over_epochs_of_the_share_that_goes_on():
    """The textbook form: rate x the sum over the epochs to come of S(i/N) / S(k/N)."""
    survival = Survival((0.30, 0.60, 0.90), (0.8, 0.625, 0.8))

    def share(epoch):
        return math.prod(s for f, s in zip(survival.fractions, survival.going_on, strict=True) if f * 100 < epoch)

    found = expected(survival, reached=0, epochs_done=40, epochs_planned=100, rate=2, band=SURE)
    assert found.mean == pytest.approx(2 * sum(share(epoch) / share(41) for epoch in range(41, 101)))


def test_what_an_epoch_takes_is_drawn_beside_where_the_run_ends():
    never = Survival((0.05,), (0.9,))
    band = Band(-0.2, 0.0, 0.1)
    found = expected(never, reached=0, epochs_done=10, epochs_planned=100, rate=1, band=band)
    assert 90 * math.exp(-0.25) < found.low < 90 * math.exp(-0.15)
    assert found.median == pytest.approx(90, rel=0.02)
    assert 90 * math.exp(0.08) < found.high < 90 * math.exp(0.15)
    assert found == expected(never, reached=0, epochs_done=10, epochs_planned=100, rate=1, band=band)
