"""The level of the epochs to come: warm-up, periods, units of work, known changes."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_exporter.forecast.level import (
    Boundary,
    Step,
    after_last_change,
    joule_steps,
    level,
    second_steps,
    unit_of,
    whole_units,
)


def steps(*rates, epochs=1.0):
    return [Step(epochs, float(rate)) for rate in rates]


def at(*epochs):
    return [Boundary(float(e), 10.0 * e, 100.0 * e) for e in epochs]


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ([9], 9),
        ([9, 1], 1),
        ([9, 1, 2], 1.5),
        ([9, 5, 1, 1], 7 / 3),  # below five epochs only the first is left out, however warm the second
        ([9, 5, 1, 1, 1], 1),
        ([9, 5, 3, 1, 1], 5 / 3),  # at most half is left out
        ([1, 1, 1, 1, 9], 3),
    ],
)
def test_the_first_epochs_are_left_out_while_they_warm_up(rates, expected):
    assert level(steps(*rates)).rate == pytest.approx(expected)


def test_what_is_left_out_is_where_the_mean_of_the_rest_is_most_certain():
    chance = random.Random(3)
    rates = [chance.gauss(1, 0.2) for _ in range(12)]

    def certainty(start):
        rest = rates[start:]
        mean = sum(rest) / len(rest)
        return sum((rate - mean) ** 2 for rate in rest) / len(rest) ** 2

    start = min(range(1, 7), key=certainty)
    assert 1 < start < 6
    assert len(level(steps(*rates)).steps) == 12 - start


def test_a_step_of_several_epochs_weighs_as_many():
    assert level([Step(5, 9), Step(5, 1), Step(10, 4)]).rate == pytest.approx(3)


def test_where_nothing_warms_up_the_first_step_counts():
    assert level(steps(3, 1), warm=True).rate == pytest.approx(2)
    assert level(steps(3, 1, 1, 1, 1), warm=True).rate == pytest.approx(1)


@pytest.mark.parametrize("period", [2, 3, 5])
def test_of_a_period_only_whole_cycles_are_averaged(period):
    rates = [9.0, *(2.0 if i % period == period - 1 else 1.0 for i in range(2 * period + 1))]
    found = level(steps(*rates))
    assert found.period == period
    assert found.rate == pytest.approx(1 + 1 / period)
    assert len(found.steps) == 2
    # A last epoch that is not whole yet changes nothing.
    assert level([*steps(*rates), Step(0.6, 1.0)]).rate == pytest.approx(1 + 1 / period)


def test_one_cycle_or_noise_is_no_period():
    assert level(steps(9, 1, 1, 1, 2, 1, 1)).period is None
    chance = random.Random(1)
    assert level(steps(*(chance.gauss(1, 0.1) for _ in range(40)))).period is None
    assert level(steps(*[1.0] * 40)).period is None


def test_steps_of_different_sizes_have_no_period():
    assert level([Step(1 + i % 2, 1.0 + i % 2) for i in range(12)]).period is None


def test_a_unit_is_an_epoch_or_a_tenth_of_a_short_plan():
    assert [unit_of(planned) for planned in (100, 2.5, 2, 1)] == [1, 1, 0.2, 0.1]


@pytest.mark.parametrize(
    ("epochs", "unit", "kept"),
    [
        ([0, 1, 2], 1, [0, 1, 2]),
        ([0, 0.5, 1, 1.5, 2], 1, [0, 1, 2]),
        ([0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.4], 1, [0, 1.2, 2.4]),
        ([0, 1, 1.4], 1, [0, 1.4]),  # a remainder of less than half joins the unit before
        ([0, 1, 1.6], 1, [0, 1, 1.6]),
        ([0, 0.3], 1, [0, 0.3]),
        ([0, 5, 10], 1, [0, 5, 10]),
        ([0, 0.1, 0.2, 0.24], 0.1, [0, 0.1, 0.24]),
    ],
)
def test_boundaries_are_taken_in_whole_units(epochs, unit, kept):
    assert [boundary.epochs for boundary in whole_units(at(*epochs), unit)] == kept


def test_steps_are_rates_of_an_epoch():
    boundaries = [Boundary(0, 0, 50), Boundary(2, 60, 250), Boundary(2.5, 90, 300)]
    assert joule_steps(boundaries) == [Step(2, 100), Step(0.5, 100)]
    assert second_steps(boundaries) == [Step(2, 30), Step(0.5, 60)]


def test_only_epochs_wholly_after_the_last_change_count():
    units = at(0, 1, 2, 3, 4)
    assert after_last_change(units, []) == 0
    assert after_last_change(units, [-5.0]) == 0
    assert after_last_change(units, [3.0, 15.0]) == 2
    assert after_last_change(units, [20.0]) == 2
    assert after_last_change(units, [31.0]) == 0  # nothing lies wholly after it yet


@pytest.mark.parametrize("rates", [[1e308] * 9, [1e160, 1e200] * 9, [0.0, 1e300] * 6, [5e-324, 1e-320] * 8, [0.0] * 9])
def test_absurd_rates_end_in_no_crash(rates):
    assert level(steps(*rates)).steps


@given(st.lists(st.floats(0.01, 1e6), min_size=1, max_size=64), st.booleans())
def test_a_level_lies_within_what_was_seen(rates, warm):
    found = level(steps(*rates), warm=warm)
    assert min(rates) * (1 - 1e-9) <= found.rate <= max(rates) * (1 + 1e-9)
    assert 1 <= len(found.steps) <= len(rates)
