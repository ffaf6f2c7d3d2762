"""Grams of joules whose intensity comes late: counted again, exactly, by what is told of the time of the joules."""

import json
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import constant, told

from carbon_exporter.model import DeviceReading, HostCpu, Intensity, JobUse, Span
from carbon_exporter.node.ledger import Ledger
from carbon_exporter.node.recount import BUCKET_SECONDS, WINDOW_SECONDS, Factors
from carbon_exporter.timeline import Timeline

OFFSET = 1.7e9 + 4.4
"""Unix time when the clock of the readings was 0: no whole half minute."""
UNTOLD = Factors(None, 1.0, OFFSET)
PUE = 1.25
PER_JOULE = PUE / 3.6e6


def factors(spans, until, **more):
    """Spans and the end of what is told, on the clock of the readings."""
    return Factors(told([(start + OFFSET, grams) for start, grams in spans], until + OFFSET, **more), PUE, OFFSET)


class Node:
    """A package whose joules go to two jobs by their CPU time, 3 to 1, the host always busy."""

    def __init__(self, linger=1e12):
        self.ledger = Ledger(linger)
        self.now = 0.0
        self.joules = 0.0
        self.alive = True

    def post(self, seconds, watts, known, *, dark=False):
        self.now += seconds
        self.joules += watts * seconds
        uses = (JobUse(name, "process", name, share * self.now) for name, share in (("a", 3.0), ("b", 1.0)))
        devices = [] if dark else [DeviceReading("package-0", "cpu", self.joules, "rapl")]
        host = HostCpu(4 * self.now, 4 * self.now, 4)
        self.ledger.post(devices, list(uses) if self.alive else [], host, self.now, known)

    def restart(self):
        state = json.loads(json.dumps(self.ledger.state()))
        self.ledger = Ledger(1e12)
        self.ledger.restore(state, self.now, same_boot=True)

    def grams(self, job="a", basis="lifecycle"):
        return self.ledger.accounts[job].emissions_grams.get(basis, {}).get("cpu", 0.0)

    def owed(self, job="a", basis="lifecycle"):
        return self.ledger.accounts[job].owed_grams.get(basis, {}).get("cpu", 0.0)

    def waiting(self, job="a"):
        return self.ledger.accounts[job].waiting_joules.get("cpu", 0.0)


def run(node, seconds, watts, known, step=2.0):
    for _ in range(round(seconds / step)):
        node.post(step, watts, known)


class World:
    """An intensity that steps, of which each step is told late; in the meantime the value before holds."""

    def __init__(self, steps, late):
        self.steps = [(-1e6, 300.0), *steps]
        self.late = late
        self._known = (0, None)

    def known(self, now):
        """What is told at `now`: the same object until a step more is known."""
        count = sum(start + self.late <= now for start, _ in self.steps)
        if self._known[0] != count:
            until = self.steps[count][0] if count < len(self.steps) else 1e6
            self._known = (count, factors(self.steps[:count], until))
        return self._known[1]

    def integral(self, powers):
        """Grams of (begin, end, watts) at the true intensity."""
        ends = [start for start, _ in self.steps[1:]] + [1e9]
        return sum(
            watts * grams * max(0.0, min(end, until) - max(begin, start))
            for begin, end, watts in powers
            for (start, grams), until in zip(self.steps, ends, strict=True)
        )


def simulate(world, rng, until):
    """Grams of job a, counted and true; ticks are scattered, some are missed, and the power is another at each."""
    node, powers = Node(), []
    node.post(0.0, 0.0, world.known(0.0))
    while node.now < until:
        seconds, watts = rng.uniform(1.6, 2.4) * (1 if rng.random() > 0.03 else 4), rng.uniform(50.0, 700.0)
        begin, before = node.now, node.grams()
        node.post(seconds, watts, world.known(node.now + seconds))
        powers.append((begin, node.now, watts * 3 / 4))
        assert node.grams() >= before
    return node.grams() - node.owed(), PER_JOULE * world.integral(powers), max(w for _, _, w in powers)


def half_minute(seconds):
    """The next whole half minute of Unix time, on the clock of the readings."""
    return (seconds + OFFSET) // BUCKET_SECONDS * BUCKET_SECONDS + BUCKET_SECONDS - OFFSET


@pytest.mark.parametrize("late", [-3600.0, 0.0, 1.0, 17.0, 60.0, 600.0])
@pytest.mark.parametrize("seed", range(3))
def test_grams_are_the_integral_of_power_times_intensity_however_late_it_is_told(late, seed):
    """Steps at whole half minutes, as all providers have them."""
    rng = random.Random(seed)
    steps = [(half_minute(start), rng.uniform(20.0, 800.0)) for start in sorted(rng.sample(range(60, 3600, 60), 12))]
    counted, true, _ = simulate(World(steps, late), rng, 4500.0)
    assert counted == pytest.approx(true, rel=1e-6)


@pytest.mark.parametrize("late", [30.0, 600.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_step_in_the_midst_of_a_bucket_that_comes_late_costs_a_part_of_the_bucket_at_most(late, seed):
    rng = random.Random(seed)
    steps = [(start + rng.random() * 30, rng.uniform(20.0, 800.0)) for start in range(300, 3600, 300)]
    world = World(steps, late)
    counted, true, most_watts = simulate(world, rng, 4500.0)
    heights = [abs(after - before) for (_, before), (_, after) in zip(world.steps, world.steps[1:], strict=False)]
    # Joules on either side of the step, of power that differs by no more than all there is.
    bound = PER_JOULE * sum(heights) * most_watts * BUCKET_SECONDS / 4
    assert abs(counted - true) <= bound
    assert counted == pytest.approx(true, rel=2e-3)


def test_the_long_interval_after_a_restart_is_counted_at_its_mean():
    known = factors([(-1e6, 100.0), (1800.0, 500.0)], 1e6)
    node = Node()
    node.post(0.0, 0.0, known)
    node.restart()
    node.post(3600.0, 80.0, known)
    assert node.grams() == pytest.approx(60.0 * 3600 * 300 * PER_JOULE, rel=1e-9)


def test_a_late_value_puts_right_the_last_quarter_of_an_hour_of_a_long_interval_alone():
    node = Node()
    node.post(0.0, 0.0, UNTOLD)
    before = factors([(-1e6, 100.0)], 0.0)
    node.post(3600.0, 80.0, before)
    after = factors([(-1e6, 100.0), (0.0, 500.0)], 1e6)
    node.post(2.0, 0.0, after)
    joules = 60.0 * 3600
    extra = 60.0 * WINDOW_SECONDS * 400
    assert node.grams() == pytest.approx((joules * 100 + extra) * PER_JOULE, rel=1e-2)
    assert node.grams() > (joules * 100 + 0.95 * extra) * PER_JOULE


def test_a_device_that_was_away_is_counted_with_what_is_known_when_it_is_back():
    world = World([(half_minute(100.0), 700.0)], 60.0)
    node = Node()
    for _ in range(20):
        node.post(2.0, 80.0, world.known(node.now + 2.0))
    for _ in range(100):
        node.post(2.0, 80.0, world.known(node.now + 2.0), dark=True)
    node.post(2.0, 80.0, world.known(node.now + 2.0))
    counted_from = 2.0
    assert node.grams() == pytest.approx(PER_JOULE * world.integral([(counted_from, node.now, 60.0)]), rel=1e-9)


def test_what_was_counted_too_much_is_taken_off_what_follows_and_no_counter_goes_back():
    node = Node()
    node.post(0.0, 0.0, UNTOLD)
    run(node, 300.0, 80.0, factors([(-1e6, 600.0)], 0.0))
    high = node.grams()
    lower = factors([(-1e6, 600.0), (0.0, 200.0)], 1e6)
    node.post(2.0, 80.0, lower)
    assert node.grams() == pytest.approx(high)
    assert node.owed() == pytest.approx((300 * 400 - 2 * 200) * 60 * PER_JOULE, rel=1e-2)
    run(node, 900.0, 80.0, lower)
    assert node.owed() == 0.0
    assert node.ledger.accounts["a"].owed_grams == {}
    # The first bucket began before what is told, and stays as it was counted.
    true = (node.now - 2) * 200 * 60 * PER_JOULE
    assert true <= node.grams() <= true + 30 * 400 * 60 * PER_JOULE


def test_what_is_owed_is_owed_after_a_restart_and_after_a_reboot():
    node = Node()
    node.post(0.0, 0.0, UNTOLD)
    run(node, 300.0, 80.0, factors([(-1e6, 600.0)], 0.0))
    lower = factors([(-1e6, 600.0), (-100.0, 200.0)], 1e6)
    node.post(2.0, 0.0, lower)
    counted, owed = node.grams(), node.owed()
    assert owed > 0.0
    node.restart()
    assert (node.grams(), node.owed()) == (counted, owed)
    node.post(2.0, 80.0, lower)
    assert node.grams() == counted
    assert node.owed() == pytest.approx(owed - 2 * 200 * 60 * PER_JOULE)
    run(node, 900.0, 80.0, lower)
    assert node.grams() == pytest.approx((node.now - 2) * 200 * 60 * PER_JOULE, rel=1e-9)


@pytest.mark.parametrize("minutes", [1, 10])
def test_joules_before_any_intensity_is_known_wait_and_are_counted_at_that_of_their_time(minutes):
    world = World([(half_minute(20.0), 700.0), (half_minute(150.0), 100.0)], -1e6)
    node = Node()
    node.post(0.0, 0.0, UNTOLD)
    run(node, 60.0 * minutes, 80.0, UNTOLD)
    assert node.ledger.accounts["a"].emissions_grams == {}
    assert node.waiting() == pytest.approx(60.0 * 60 * minutes)
    node.post(2.0, 80.0, world.known(node.now))
    assert node.ledger.accounts["a"].waiting_joules == {}
    assert node.grams() == pytest.approx(PER_JOULE * world.integral([(0.0, node.now, 60.0)]), rel=1e-9)


def test_joules_that_wait_for_longer_are_counted_at_the_value_of_15_minutes_ago():
    node = Node()
    node.post(0.0, 0.0, UNTOLD)
    run(node, 1500.0, 80.0, UNTOLD, step=30.0)
    border = half_minute(node.now - WINDOW_SECONDS + 60.0)
    known = factors([(-1e6, 100.0), (border, 500.0)], 1e6)
    node.post(2.0, 80.0, known)
    seconds_before, seconds_after = border, node.now - border
    assert node.grams() == pytest.approx((seconds_before * 100 + seconds_after * 500) * 60 * PER_JOULE, rel=1e-9)
    assert node.ledger.accounts["a"].waiting_joules == {}


def test_no_joule_stays_without_grams_over_a_restart():
    """The buckets are not in the state file: what waited is counted as if it were longer ago than they go back."""
    node = Node()
    node.post(0.0, 0.0, UNTOLD)
    run(node, 60.0, 80.0, UNTOLD)
    node.restart()
    assert node.waiting() == pytest.approx(60.0 * 60)
    run(node, 30.0, 80.0, UNTOLD)
    node.post(2.0, 80.0, factors([(-1e6, 100.0)], 1e6))
    assert node.grams() == pytest.approx(node.now * 60 * 100 * PER_JOULE, rel=1e-9)


def test_a_fall_back_to_another_basis_opens_a_second_series_and_moves_nothing():
    node = Node()
    node.post(0.0, 0.0, UNTOLD)
    live = factors([(-1e6, 300.0)], 10.0, basis="operational")
    run(node, 100.0, 80.0, live)
    operational = node.grams(basis="operational")
    mean = Factors(constant(400), PUE, OFFSET)
    run(node, 100.0, 80.0, mean)
    assert node.grams(basis="operational") == operational
    assert node.grams(basis="unspecified") == pytest.approx(100 * 60 * 400 * PER_JOULE)
    back = factors([(-1e6, 600.0)], 1e6, basis="operational")
    node.post(2.0, 0.0, back)
    assert node.grams(basis="operational") == pytest.approx(2 * operational)
    assert node.grams(basis="unspecified") == pytest.approx(100 * 60 * 400 * PER_JOULE)


def test_a_yearly_mean_of_the_same_basis_corrects_no_word_of_a_provider_but_is_corrected_by_it():
    yearly = Timeline(
        Intensity(700.0, "DK", "static", "lifecycle", fallback_level=2),
        (Span(0.0, 1e12, 700.0),),
        told_until_seconds=1e12,
    )
    node = Node()
    node.post(0.0, 0.0, UNTOLD)
    live = factors([(-1e6, 300.0)], 1e6, level=1)
    run(node, 100.0, 80.0, live)
    counted = node.grams()
    node.post(2.0, 0.0, Factors(yearly, PUE, OFFSET))
    assert node.grams() == counted
    run(node, 100.0, 80.0, Factors(yearly, PUE, OFFSET))
    assert node.grams() == pytest.approx(counted * (1 + 7 / 3))
    node.post(2.0, 0.0, factors([(-1e6, 300.0)], 1e6))
    assert node.grams() - node.owed() == pytest.approx(2 * counted)


def test_a_job_that_has_ended_is_put_right_while_its_account_stays():
    node = Node(linger=600.0)
    node.post(0.0, 0.0, UNTOLD)
    run(node, 100.0, 80.0, factors([(-1e6, 300.0)], -100.0))
    counted, node.alive = node.grams(), False
    run(node, 100.0, 0.0, factors([(-1e6, 300.0)], -100.0))
    node.post(2.0, 0.0, factors([(-1e6, 600.0)], 1e6))
    assert node.grams() == pytest.approx(2 * counted)


def test_a_new_job_of_an_old_name_has_nothing_of_the_old_one():
    node = Node(linger=60.0)
    early = factors([(-1e6, 300.0)], -100.0)
    node.post(0.0, 0.0, early)
    run(node, 100.0, 80.0, early)
    node.alive = False
    run(node, 100.0, 0.0, early)
    assert node.ledger.accounts == {}
    node.alive = True
    node.post(2.0, 0.0, early)
    node.post(2.0, 0.0, factors([(-1e6, 600.0)], 1e6))
    assert node.ledger.accounts["a"].emissions_grams.get("lifecycle", {}).get("cpu", 0.0) == 0.0


def test_a_wall_clock_that_is_set_right_later_brings_the_right_intensity():
    """A node that boots in 1970: what it counted then is put right by what the time really was."""
    spans = [(OFFSET - 1e6, 100.0), (OFFSET, 500.0)]
    timeline = told(spans, OFFSET + 1e6)
    wrong, right = Factors(timeline, PUE, OFFSET - 5000.0), Factors(timeline, PUE, OFFSET)
    node = Node()
    node.post(1.0, 0.0, wrong)
    run(node, 100.0, 80.0, wrong)
    assert node.grams() == pytest.approx(100 * 60 * 100 * PER_JOULE)
    node.post(2.0, 80.0, right)
    assert node.grams() == pytest.approx(102 * 60 * 500 * PER_JOULE)


def test_what_is_remembered_is_bounded_by_the_window_however_often_the_timeline_changes():
    node = Node()
    node.post(0.0, 0.0, UNTOLD)
    for number in range(600):
        node.post(2.0, 80.0, factors([(-1e6, 300.0 + number % 7)], node.now))
    buckets = node.ledger.grams._recount._buckets
    assert len(buckets) <= WINDOW_SECONDS / 2.0 + BUCKET_SECONDS
    node.alive = False
    run(node, WINDOW_SECONDS + 60.0, 80.0, factors([(-1e6, 300.0)], 0.0))
    assert not any(column for bucket in node.ledger.grams._recount._buckets for column in bucket.joules.values())


LOW, HIGH = 50.0, 900.0
PLAN = st.lists(
    st.tuples(
        st.sampled_from([0.5, 2.0, 7.0, 40.0, 1000.0]),
        st.floats(0, 1000),
        st.sampled_from(["untold", "lifecycle", "direct", "same", "restart"]),
        st.floats(LOW, HIGH),
    ),
    max_size=25,
)


@settings(max_examples=200, deadline=None)
@given(PLAN)
def test_no_counter_goes_back_no_debt_is_negative_and_every_joule_gets_grams(plan):
    """Whatever is told, of whichever basis and time: at the end nothing waits."""
    node, known = Node(), UNTOLD
    node.post(0.0, 0.0, known)
    highest = {}
    for seconds, watts, event, grams in [*plan, (2.0, 1.0, "lifecycle", 100.0)]:
        if event == "untold":
            known = replace(UNTOLD)
        elif event in ("lifecycle", "direct"):
            known = factors([(-1e6, 100.0), (node.now - 60.0, grams)], node.now, basis=event)
        elif event == "restart":
            node.restart()
        node.post(seconds, watts, known)
        for name, account in node.ledger.accounts.items():
            for basis, counted in account.emissions_grams.items():
                assert counted["cpu"] >= highest.get((name, basis), 0.0)
                highest[name, basis] = counted["cpu"]
            assert all(grams > 0 for owed in account.owed_grams.values() for grams in owed.values())
            assert all(joules >= 0 for joules in account.waiting_joules.values())
    for account in node.ledger.accounts.values():
        assert account.waiting_joules == {}
        owed = sum(grams for by_component in account.owed_grams.values() for grams in by_component.values())
        counted = sum(grams["cpu"] for grams in account.emissions_grams.values())
        least, most = (account.energy_joules["cpu"] * grams * PER_JOULE for grams in (LOW, HIGH))
        assert least * (1 - 1e-9) <= counted - owed <= most * (1 + 1e-9)
