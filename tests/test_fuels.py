"""The grams of a mix of fuels, and which mixes are not believed."""

import pytest

from carbon_exporter.fuels import FACTORS, factor, mix_spans

HOUR = 3600.0
FUEL_OF = {"K": "coal", "G": "gas", "W": "wind", "S": "solar"}


def spans(mixes, basis="lifecycle"):
    return list(mix_spans({HOUR * hour: mix for hour, mix in mixes.items()}, HOUR, FUEL_OF, basis))


def hours(mixes):
    return [span.start_seconds / HOUR for span in spans(mixes)]


def test_the_factors_are_the_published_medians():
    assert {fuel: FACTORS[fuel] for fuel in ("coal", "gas", "nuclear", "hydro", "wind", "biomass")} == {
        "coal": (820, 760),
        "gas": (490, 370),
        "nuclear": (12, 0),
        "hydro": (24, 0),
        "wind": (11, 0),
        "biomass": (230, 0),
    }
    for lifecycle, direct in FACTORS.values():
        assert 0 <= direct <= lifecycle <= 1000


def test_a_mix_is_the_mean_of_its_factors_weighted_by_power():
    (span,) = spans({5: {"K": 100.0, "W": 300.0}})
    assert span.grams_per_kilowatt_hour == pytest.approx((100 * 820 + 300 * 11) / 400)
    assert (span.start_seconds, span.end_seconds, span.estimated) == (5 * HOUR, 6 * HOUR, False)


def test_direct_counts_what_leaves_the_chimney():
    (span,) = spans({5: {"K": 100.0, "W": 300.0}}, "direct")
    assert span.grams_per_kilowatt_hour == pytest.approx(190)


def test_a_fuel_that_nobody_knows_counts_as_unknown():
    (span,) = spans({5: {"X": 100.0, "W": 100.0}})
    assert span.grams_per_kilowatt_hour == pytest.approx((700 + 11) / 2)
    assert factor("moonlight", "direct") == 575


def test_a_mix_of_nothing_is_left_out():
    assert hours({1: {"K": 1.0}, 2: {}, 3: {"K": 0.0}, 4: {"K": 1.0}}) == [1, 4]


def test_an_hour_that_lacks_a_fuel_of_weight_is_left_out():
    full = {"K": 50.0, "G": 44.0, "W": 6.0}
    assert hours({1: full, 2: full, 3: {"K": 50.0, "G": 44.0}}) == [1, 2]
    assert hours({1: full, 2: {"W": 6.0}, 3: full}) == [1, 3]


def test_a_fuel_of_little_weight_may_be_missing():
    assert hours({1: {"K": 95.0, "W": 5.0}, 2: {"K": 95.0}}) == [1, 2]


def test_a_fuel_that_faded_out_is_not_missed():
    evening = {1: {"K": 50.0, "S": 50.0}, 2: {"K": 90.0, "S": 10.0}, 3: {"K": 98.0, "S": 2.0}, 4: {"K": 99.0}}
    assert hours(evening) == [1, 2, 3, 4]


def test_a_fuel_told_as_nothing_is_told():
    assert hours({1: {"K": 50.0, "G": 50.0}, 2: {"K": 50.0, "G": 0.0}}) == [1, 2]


def test_a_fuel_that_is_gone_for_a_day_is_no_longer_waited_for():
    mixes = {0: {"K": 50.0, "G": 50.0}} | {hour: {"K": 50.0} for hour in range(1, 30)}
    assert hours(mixes) == [0, 25, 26, 27, 28, 29]


def test_mixes_are_put_in_order_of_time():
    assert hours({7: {"K": 1.0}, 3: {"K": 1.0}}) == [3, 7]
