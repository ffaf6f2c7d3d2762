"""Grams at the end: along the outlook of the job's zones, against a direct integral of drawn futures."""

import math
import random
import statistics

import pytest

from carbon_exporter.forecast import carbon
from carbon_exporter.forecast.carbon import Curve, Draw
from carbon_exporter.forecast.energy import Quantiles
from carbon_exporter.grid.outlook import OUTLOOK_HOURS, Outlook
from carbon_exporter.grid.replay import Replay

T0 = 1_900_000_800 - 1_900_000_800 % 3600
KWH = 3.6e6
DAILY = tuple(300 + 150 * math.sin(2 * math.pi * hour / 24) for hour in range(OUTLOOK_HOURS))


def curve_of(grams, log_ratios=()):
    """An outlook whose past forecasts were off by these factors (logarithms), the same in each hour."""
    replays = tuple(Replay(grams, tuple(g * math.exp(ratio) for g in grams)) for ratio in log_ratios)
    return Curve(Outlook(T0 // 3600, grams, (), (), "statistical", replays))


def forecast(joules, ends, *draws, joules_now=0.0, grams_now=0.0):
    return carbon.along_outlook(
        Quantiles(*joules),
        Quantiles(*ends),
        joules_now=joules_now,
        grams_now=grams_now,
        now_seconds=T0,
        draws=[Draw(*draw) for draw in draws],
    )


def test_a_certain_job_on_a_certain_grid_is_the_integral_of_the_curve():
    # Day and night in 6 hours each: 100 and 500 g. 12 hours at 1 kW, PUE 1.2: 1.2 x (6 x 0.1 + 6 x 0.5) kg.
    grams = ((100.0,) * 6 + (500.0,) * 6) * 8
    end = T0 + 12 * 3600
    found = forecast([13 * KWH] * 3, [end] * 3, (1.2, curve_of(grams)), joules_now=KWH, grams_now=50.0)
    assert found == pytest.approx((50 + 1.2 * 3600,) * 3)
    by_night = forecast([13 * KWH] * 3, [T0 + 6 * 3600] * 3, (1.2, curve_of(grams)), joules_now=KWH, grams_now=50.0)
    assert by_night == pytest.approx((50 + 1.2 * 1200,) * 3)


def test_a_job_in_two_zones_pays_each_by_its_share_of_power_and_its_pue():
    clean, dirty = curve_of((20.0,) * 96), curve_of((600.0,) * 96)
    weights = carbon.power_by_zone(
        {"job": {"a": 750.0, "b": 250.0}, "idle": {"a": 0.0}}, {"a": "SE", "b": "PL"}, {"b": 1.5}
    )
    assert weights == {"job": {"SE": 0.75, "PL": 0.375}}
    end = T0 + 3600
    found = forecast([KWH] * 3, [end] * 3, (weights["job"]["SE"], clean), (weights["job"]["PL"], dirty))
    assert found.median == pytest.approx(0.75 * 20 + 0.25 * 1.5 * 600)


def test_a_node_whose_zone_is_not_known_is_named_so():
    assert carbon.power_by_zone({"job": {"a": 1.0, "b": 1.0}}, {"a": "SE"}, {}) == {"job": {"SE": 0.5, "": 0.5}}


def test_without_a_band_of_the_grid_the_interval_is_that_of_the_energy():
    found = forecast([2 * KWH, 3 * KWH, 5 * KWH], [T0 + 3600] * 3, (1.0, curve_of((100.0,) * 96)))
    assert found == pytest.approx((200, 300, 500), rel=0.01)


def test_nothing_left_to_do_costs_nothing_more():
    found = forecast([KWH] * 3, [T0 - 60] * 3, (1.0, curve_of(DAILY)), joules_now=2 * KWH, grams_now=7.0)
    assert found == (7.0, 7.0, 7.0)


def split_normal(quantiles, score):
    low, median, high = quantiles
    return median + score / 1.6449 * (high - median if score > 0 else median - low)


def drawn(joules, ends, log_ratios, seed):
    """Grams of futures drawn one by one: constant power, each hour at the drawn intensity of that hour."""
    random_numbers = random.Random(seed)
    totals = []
    for _ in range(20_000):
        score = random_numbers.gauss(0, 1)
        kilowatt_hours, hours = split_normal(joules, score) / KWH, (split_normal(ends, score) - T0) / 3600
        ratio = math.exp(random_numbers.choice(log_ratios))
        whole = int(hours)
        area = sum(DAILY[:whole]) + (hours - whole) * DAILY[min(whole, 95)]
        totals.append(kilowatt_hours / hours * area * ratio)
    twentieths = statistics.quantiles(totals, n=20)
    return twentieths[0], statistics.median(totals), twentieths[-1]


@pytest.mark.parametrize(
    ("joules", "hours", "spread"),
    [
        ((90, 100, 120), (19, 20, 23), 0.2),
        ((60, 100, 150), (30, 50, 75), 0.2),
        ((99, 100, 101), (47, 48, 49), 0.3),
        ((70, 100, 150), (40, 48, 60), 0.01),
    ],
    ids=["both", "energy and end far", "grid alone", "energy alone"],
)
def test_the_interval_is_that_of_drawn_futures(joules, hours, spread):
    joules, ends = [value * KWH for value in joules], [T0 + value * 3600 for value in hours]
    normal = statistics.NormalDist(0, spread)
    log_ratios = [normal.inv_cdf((i + 0.5) / 200) for i in range(200)]
    found = forecast(joules, ends, (1.0, curve_of(DAILY, log_ratios)))
    # The grid's own bands hold 92 in 100, and a normal curve's half is not quite a logarithm's.
    assert found == pytest.approx(drawn(joules, ends, log_ratios, 7), rel=0.05)


def test_energy_and_grid_together_are_less_than_the_sum_of_both_and_more_than_each():
    log_ratios = [(i - 100) / 500 for i in range(201)]
    ends = [T0 + 24 * 3600] * 3
    sure, unsure = [100 * KWH] * 3, [80 * KWH, 100 * KWH, 120 * KWH]

    def width(joules, ratios):
        found = forecast(joules, ends, (1.0, curve_of(DAILY, ratios)))
        return found.high - found.low

    energy, grid, both = width(unsure, ()), width(sure, log_ratios), width(unsure, log_ratios)
    assert max(energy, grid) < both < 0.85 * (energy + grid)
    assert both == pytest.approx(math.hypot(energy, grid), rel=0.05)


def test_the_band_of_a_horizon_is_asked_for_once(monkeypatch):
    curve = curve_of(DAILY, [0.1] * 40)
    asked = []
    real = Outlook.mean_band
    monkeypatch.setattr(Outlook, "mean_band", lambda self, *span: asked.append(span) or real(self, *span))
    for minutes in (61, 90, 119):
        curve.band(T0, T0 + minutes * 60)
    assert asked == [(T0, T0 + 2 * 3600)]
    assert curve.band(T0, T0 + 300 * 3600) == curve.band(T0, T0 + 96 * 3600)
