"""The forecast from history alone: against the formula written out, and against what it must not do."""

import math
import random
from itertools import pairwise
from statistics import fmean

import pytest

from carbon_exporter.grid.statistical import LEAST_GRAMS, curve

NOW = 500_000
DAY = [300 + 100 * math.sin(hour / 24 * 2 * math.pi) for hour in range(24)]


def noisy(hours=14 * 24, seed=1):
    """A day that repeats, with wind: hours up to NOW (excluded)."""
    chance = random.Random(seed)
    wind, series = 0.0, {}
    for hour in range(NOW - hours, NOW):
        wind = 0.9 * wind + chance.gauss(0, 20)
        series[hour] = DAY[hour % 24] + wind
    return series


def by_hand(series, hours):
    """The formula of docs/intensity.md, written down a second time and in another way."""
    newest = NOW - 1
    window = range(NOW - 14 * 24, NOW)

    def profile(hour):
        pairs = [(0.9 ** ((newest - h) // 24), series[h]) for h in window if h % 24 == hour % 24]
        return sum(w * g for w, g in pairs) / sum(w for w, _ in pairs)

    differences = [series[h] - profile(h) for h in window]
    correlation = sum(a * b for a, b in pairwise(differences)) / sum(d * d for d in differences)
    level, last = fmean(differences[-24:]), differences[-1]
    return [
        profile(NOW + i)
        + 0.5 * last * correlation ** (i + 1)
        + 0.5 * (level * 0.98 ** (i + 1) + (last - level) * 0.95 ** (i + 1))
        for i in range(hours)
    ]


def test_it_is_the_formula():
    series = noisy()
    assert curve(series, NOW, NOW, 96) == pytest.approx(by_hand(series, 96), rel=1e-9)


def test_a_day_that_always_repeats_is_forecast_exactly():
    series = {hour: DAY[hour % 24] for hour in range(NOW - 20 * 24, NOW)}
    assert curve(series, NOW, NOW, 96) == pytest.approx([DAY[(NOW + i) % 24] for i in range(96)])


def test_what_differs_now_fades_toward_the_mean_day():
    series = dict.fromkeys(range(NOW - 14 * 24, NOW), 300.0) | {NOW - 1: 400.0}
    forecast = curve(series, NOW, NOW, 96)
    assert forecast[0] > forecast[1] > forecast[5] > forecast[20] > 300
    assert forecast[90] == pytest.approx(300, abs=12)  # the spike is in the mean of its own hour, no more


def test_nothing_at_or_after_known_until_is_seen():
    series = noisy()
    longer = {**series, **{NOW + i: 1e3 for i in range(200)}}
    assert curve(longer, NOW, NOW, 96) == curve(series, NOW, NOW, 96)


def test_a_later_begin_is_the_same_curve_from_there_on():
    series = noisy()
    assert curve(series, NOW, NOW + 24, 72) == curve(series, NOW, NOW, 96)[24:]


def test_what_is_older_than_two_weeks_does_not_count():
    series = noisy()
    assert curve({**series, NOW - 14 * 24 - 1: 1e3}, NOW, NOW, 96) == curve(series, NOW, NOW, 96)


def test_holes_take_little_away():
    series = noisy()
    whole = curve(series, NOW, NOW, 96)
    chance = random.Random(2)
    holed = {hour: grams for hour, grams in series.items() if chance.random() > 0.2 or hour == NOW - 1}
    assert len(holed) < 300
    assert curve(holed, NOW, NOW, 96) == pytest.approx(whole, rel=0.15)


def test_an_hour_of_the_day_that_is_never_known_takes_the_mean_of_the_others():
    series = {hour: DAY[hour % 24] for hour in range(NOW - 14 * 24, NOW) if hour % 24 != 6}
    forecast = curve(series, NOW, NOW, 24)
    at_six = forecast[(6 - NOW) % 24]
    assert at_six == pytest.approx(fmean(grams for hour, grams in enumerate(DAY) if hour != 6), rel=0.01)


def test_one_day_of_history_is_that_day_again():
    series = {hour: DAY[hour % 24] + 7 for hour in range(NOW - 24, NOW)}
    assert curve(series, NOW, NOW, 48) == pytest.approx([series[NOW - 24 + i % 24] for i in range(48)])


def test_a_history_that_ends_days_ago_still_tells_the_mean_day():
    series = {hour: DAY[hour % 24] for hour in range(NOW - 40 * 24, NOW - 50)}
    assert curve(series, NOW - 50, NOW, 24) == pytest.approx([DAY[(NOW + i) % 24] for i in range(24)])


@pytest.mark.parametrize("hours", [0, 1, 17])
def test_less_than_most_of_a_day_is_no_forecast(hours):
    assert curve({NOW - 1 - i: 300.0 for i in range(hours)}, NOW, NOW, 96) is None


def test_eighteen_hours_of_the_day_are():
    assert curve({NOW - 1 - i: 300.0 for i in range(18)}, NOW, NOW, 3) == pytest.approx([300] * 3)


def test_it_never_goes_to_zero_or_below():
    series = dict.fromkeys(range(NOW - 14 * 24, NOW - 12), 50.0) | dict.fromkeys(range(NOW - 12, NOW), 0.0)
    series |= {hour: 0.0 for hour in range(NOW - 14 * 24, NOW) if hour % 24 < 12}
    forecast = curve(series, NOW, NOW, 96)
    assert min(forecast) == LEAST_GRAMS
    assert max(forecast) > 10
