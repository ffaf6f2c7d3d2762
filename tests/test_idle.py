"""What idle power is believed to be, from quiet and busy intervals."""

import pytest

from carbon_exporter.node.idle import SUSTAINED_SECONDS, IdlePower


def watched(*intervals, configured=None):
    """An IdlePower that saw (joules, seconds, unused) of GPU-0 one after the other."""
    idle = IdlePower(configured or {})
    for joules, seconds, unused in intervals:
        idle.watch("GPU-0", joules, seconds, unused=unused)
    return idle


@pytest.mark.parametrize(
    ("intervals", "watts"),
    [
        ([], None),
        ([(600.0, 10.0, True)] * 2, None),  # 20 s are no sustained power
        ([(600.0, 10.0, True)] * 3, 60.0),
        ([(1800.0, 30.0, True)], 60.0),
        ([(36000.0, 600.0, True)], 60.0),  # one long interval
        ([(1800.0, 30.0, False)], None),
        ([(600.0, 10.0, True)] * 2 + [(5000.0, 10.0, False)] + [(600.0, 10.0, True)], None),  # use begins it anew
        ([(600.0, 10.0, True)] * 2 + [(0.0, 10.0, True)] + [(600.0, 10.0, True)], None),  # so does a standstill
        ([(600.0, 10.0, True)] * 2 + [(0.0, 0.0, True)] + [(600.0, 10.0, True)], None),
        ([(0.0, 100.0, True)], None),  # never 0
        ([(500.0, 10.0, True), (700.0, 10.0, True), (900.0, 10.0, True)], 70.0),  # the mean, not the least
        ([(1800.0, 30.0, True), (1500.0, 30.0, True), (2400.0, 30.0, True)], 50.0),  # the least of the means
        ([(1800.0, 30.0, True), (100.0, 10.0, True)], 60.0),  # not for 10 s of less
    ],
)
def test_learned_is_the_lowest_power_that_lasted_while_nobody_used_the_device(intervals, watts):
    assert watched(*intervals).watts("GPU-0", "gpu") == watts


def test_each_device_learns_for_itself():
    idle = watched((1800.0, 30.0, True))
    idle.watch("GPU-1", 900.0, 30.0, unused=True)
    assert idle.watts("GPU-0", "gpu") == 60.0
    assert idle.watts("GPU-1", "gpu") == 30.0
    assert idle.watts("GPU-2", "gpu") is None


def test_a_configured_power_stands_whatever_was_seen():
    idle = watched((600.0, 30.0, True), configured={"gpu": 55.0})
    assert idle.watts("GPU-0", "gpu") == 55.0
    assert idle.watts("package-0", "cpu") is None


def test_configured_watts_are_not_told_as_learned():
    assert watched(configured={"gpu": 55.0}).state() == {}


@pytest.mark.parametrize(
    ("joules", "seconds", "ratio"),
    [(2400.0, 10.0, 0.25), (600.0, 10.0, 1.0), (300.0, 10.0, 1.0), (0.0, 10.0, None), (600.0, 0.0, 0.0)],
)
def test_the_idle_ratio_is_never_above_one(joules, seconds, ratio):
    assert watched((1800.0, 30.0, True)).ratio("GPU-0", "gpu", joules, seconds) == ratio


def test_the_idle_ratio_is_unknown_before_anything_was_learned():
    assert watched((600.0, 10.0, True)).ratio("GPU-0", "gpu", 600.0, 10.0) is None


def test_what_was_learned_goes_on_and_what_was_half_seen_begins_anew():
    before = watched((1800.0, 30.0, True), (400.0, SUSTAINED_SECONDS - 5, True))
    after = IdlePower({})
    after.restore(before.state())
    assert after.watts("GPU-0", "gpu") == 60.0
    after.watch("GPU-0", 50.0, 5.0, unused=True)
    assert after.watts("GPU-0", "gpu") == 60.0
