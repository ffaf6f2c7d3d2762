"""The next 96 hours: which word counts, how the curve is read, and whether the bands are right as often as they say."""

import math
import random
import time
from statistics import fmean

import pytest

from carbon_exporter.grid.outlook import Issued, Outlook, issued_replays, make_outlook, past_replays
from carbon_exporter.grid.replay import Replay, around, score_band
from carbon_exporter.grid.statistical import curve
from carbon_exporter.model import HOUR_SECONDS, Span

HOUR = 500_000
BEGIN = float(HOUR * HOUR_SECONDS)
NOW = BEGIN + 900
EVER = (0.0, 253_402_300_800.0)


def noisy(days=60, until=HOUR, seed=1, scatter=15.0):
    chance = random.Random(seed)
    wind, series = 0.0, {}
    for hour in range(until - days * 24, until):
        wind = 0.95 * wind + chance.gauss(0, scatter)
        series[hour] = max(20.0, 300 + 80 * math.sin(hour / 24 * 2 * math.pi) + wind)
    return series


def told(*grams, begin=BEGIN, step=HOUR_SECONDS):
    return [Span(begin + i * step, begin + (i + 1) * step, g) for i, g in enumerate(grams)]


def outlook(history=(), spans=(), *, forecaster="someone", issued=(), fallback=None, now=NOW):
    return make_outlook(dict(history), spans, forecaster, issued, fallback, now)


def curve_of(*grams):
    return Outlook(HOUR, (*grams, *[grams[-1]] * (96 - len(grams))), (), (), "someone", ())


# Reading the curve.


def test_the_mean_is_weighted_by_time_and_cuts_hours_exactly():
    curve = curve_of(100.0, 200.0, 400.0)
    assert curve.mean(BEGIN, BEGIN + 3 * 3600) == pytest.approx(700 / 3)
    assert curve.mean(BEGIN + 2700, BEGIN + 2 * 3600 + 900) == pytest.approx(
        (900 * 100 + 3600 * 200 + 900 * 400) / 5400
    )
    assert curve.mean(BEGIN + 600, BEGIN + 700) == pytest.approx(100)


def test_at_one_instant_the_mean_is_the_value_there():
    curve = curve_of(100.0, 200.0, 400.0)
    assert [curve.mean(BEGIN + s, BEGIN + s) for s in (0, 3599, 3600, 7200)] == [100, 100, 200, 400]
    assert curve.mean(BEGIN + 4000, BEGIN) == 100


def test_beyond_the_end_the_mean_of_the_last_day_holds():
    grams = (*[100.0] * 72, *[200.0] * 12, *[300.0] * 12)
    curve = Outlook(HOUR, grams, (), (), "someone", ())
    end = BEGIN + 96 * 3600
    assert curve.mean(end, end + 10) == pytest.approx(250)
    assert curve.mean(end + 86400, end + 7 * 86400) == pytest.approx(250)
    assert curve.mean(BEGIN, end + 96 * 3600) == pytest.approx((72 * 100 + 12 * 200 + 12 * 300 + 96 * 250) / 192)
    assert curve.mean(end, end) == pytest.approx(250)


def test_before_the_begin_the_first_hour_holds():
    assert curve_of(100.0, 200.0).mean(BEGIN - 3600, BEGIN + 7200) == pytest.approx(400 / 3)
    assert curve_of(100.0, 200.0).mean(BEGIN - 7200, BEGIN - 3600) == pytest.approx(100)


# Whose word counts.


def test_what_a_provider_tells_is_the_forecast_and_the_statistical_curve_follows_without_a_step():
    series = dict.fromkeys(range(HOUR - 20 * 24, HOUR), 300.0)
    result = outlook(series, told(*[500.0] * 48))
    assert result.forecaster == "someone"
    assert (result.first_hour, len(result.grams)) == (HOUR, 96)
    assert result.grams[:48] == (500.0,) * 48
    steps = [abs(b - a) for a, b in zip(result.grams[47:], result.grams[48:], strict=False)]
    assert max(steps) < 20
    assert 300 < result.grams[95] < result.grams[60] < result.grams[48] < 500


def test_a_value_for_the_current_hour_alone_is_no_forecast_but_counts():
    series = dict.fromkeys(range(HOUR - 20 * 24, HOUR), 300.0)
    result = outlook(series, told(400.0))
    assert result.forecaster == "statistical"
    assert result.grams[0] == 400
    assert 300 < result.grams[10] < result.grams[1] < 400


def test_half_hours_are_averaged_and_history_wins_over_told_for_the_past():
    series = dict.fromkeys(range(HOUR - 20 * 24, HOUR), 300.0)
    spans = told(*[900.0] * 4, begin=BEGIN - 4 * 3600) + told(100.0, 200.0, 300.0, 400.0, step=1800)
    result = outlook(series, spans)
    assert result.grams[:2] == pytest.approx((150, 350))
    assert result.grams[95] == pytest.approx(300, rel=0.05)


def test_a_short_hole_in_what_is_told_is_bridged_and_a_long_one_ends_it():
    spans = told(100.0) + told(400.0, begin=BEGIN + 3 * 3600)
    assert outlook({}, spans, fallback=1.0).grams[:4] == pytest.approx((100, 200, 300, 400))
    far = told(100.0, 100.0) + told(900.0, begin=BEGIN + 9 * 3600)
    assert outlook({}, far).grams == (100.0,) * 96


def test_a_forecast_that_begins_with_the_next_hour_counts():
    series = dict.fromkeys(range(HOUR - 20 * 24, HOUR), 300.0)
    result = outlook(series, told(*[500.0] * 24, begin=BEGIN + 3600))
    assert result.forecaster == "someone"
    assert result.grams[:2] == pytest.approx((400, 500))


def test_a_yearly_mean_told_for_ever_is_flat_and_has_no_band():
    started = time.perf_counter()
    result = outlook({}, [Span(*EVER, 330.0)], forecaster="static")
    assert time.perf_counter() - started < 0.5
    assert (result.grams, result.forecaster, result.low, result.replays) == ((330.0,) * 96, "static", (), ())
    assert result.mean_band(NOW, NOW + 86400) is None


def test_the_order_of_what_stands_in():
    day = {hour: 200.0 + hour % 24 for hour in range(HOUR - 24, HOUR)}
    assert outlook(day, fallback=9.0).forecaster == "statistical"
    assert outlook(day, fallback=9.0).grams == pytest.approx([200.0 + (HOUR + i) % 24 for i in range(96)])
    few = outlook({HOUR - 2: 100.0, HOUR - 1: 150.0}, fallback=9.0)
    assert (few.forecaster, few.grams) == ("static", (150.0,) * 96)
    flat = outlook(fallback=9.0)
    assert (flat.forecaster, flat.grams, flat.high) == ("static", (9.0,) * 96, ())
    assert outlook() is None


def test_some_told_hours_without_history_are_followed_by_their_mean():
    result = outlook({}, told(100.0, 300.0))
    assert result.forecaster == "someone"
    assert result.grams == pytest.approx((100, 300, *[200] * 94))


def test_hours_of_the_future_in_the_history_are_not_believed():
    series = noisy()
    wrong = {**series, **{HOUR + i: 1e4 for i in range(1, 50)}}
    assert outlook(wrong).grams == outlook(series).grams
    assert outlook(wrong).low == outlook(series).low


# Bands.


def test_the_band_is_made_from_about_180_past_forecasts_each_of_which_saw_only_its_past():
    series = noisy()
    result = outlook(series)
    assert 150 <= len(result.replays) <= 200
    assert len(result.low) == len(result.high) == 96
    assert all(low < value < high for low, value, high in zip(result.low, result.grams, result.high, strict=True))
    newest = result.replays[-1]
    origin = max(hour for hour in range(HOUR - 8, HOUR) if hour % 7 == 0)
    assert newest.forecast == curve(series, origin, origin, 96)
    assert newest.actual[: HOUR - origin] == tuple(series[hour] for hour in range(origin, HOUR))
    assert newest.actual[HOUR - origin :] == (None,) * (96 - HOUR + origin)
    assert outlook(series) == result


def test_a_band_spans_the_ranks_of_the_scores():
    scores = [i / 1000 for i in range(-50, 50)]
    random.Random(1).shuffle(scores)
    assert score_band(scores) == (-0.047, 0.046)
    assert score_band(scores[:30]) == (min(scores[:30]), max(scores[:30]))
    assert score_band(scores[:29]) is None


def test_a_band_never_claims_certainty():
    assert around(200.0, (0.0, 0.0)) == pytest.approx((198, 202))
    result = outlook(dict.fromkeys(range(HOUR - 60 * 24, HOUR), 300.0))
    assert set(zip(result.low, result.high, strict=True)) == {(297.0, 303.0)}
    assert result.mean_band(NOW, NOW + 86400) == pytest.approx((297, 303))


def test_without_thirty_forecasts_that_are_over_there_is_no_band():
    result = outlook(noisy(days=19))
    assert result.forecaster == "statistical"
    assert (result.low, result.high) == ((), ())
    assert result.mean_band(NOW, NOW + 96 * 3600) is None
    assert result.mean_band(NOW, NOW + 12 * 3600) is not None
    assert len(outlook(noisy(days=21)).low) == 96


def test_a_delay_of_the_history_is_replayed_and_widens_the_band():
    prompt, late = outlook(noisy(until=HOUR)), outlook(noisy(until=HOUR - 24))
    assert late.forecaster == "statistical"
    widths = [math.log(result.high[2] / result.low[2]) for result in (prompt, late)]
    assert widths[1] > 1.5 * widths[0]
    series = noisy(until=HOUR - 24)
    origin = max(hour for hour in range(HOUR - 7, HOUR) if hour % 7 == 0)
    assert late.replays[-1].forecast == curve(series, origin - 24, origin, 96)


def test_the_band_of_a_mean_is_narrower_than_those_of_its_hours_and_contains_it():
    result = outlook(noisy())
    low, high = result.mean_band(BEGIN, BEGIN + 24 * 3600)
    assert low < result.mean(BEGIN, BEGIN + 24 * 3600) < high
    assert high - low < fmean(top - bottom for top, bottom in zip(result.high[:24], result.low[:24], strict=True))


def test_the_band_of_one_whole_hour_is_that_of_the_hour():
    result = outlook(noisy())
    for hour in (0, 23, 95):
        begin = BEGIN + hour * 3600
        assert result.mean_band(begin, begin + 3600) == pytest.approx((result.low[hour], result.high[hour]))


def test_beyond_the_end_the_band_stays_as_wide():
    result = outlook(noisy())
    end = BEGIN + 96 * 3600
    low, high = result.mean_band(end + 86400, end + 2 * 86400)
    last_low, last_high = result.mean_band(end - 86400, end)
    assert high / low == pytest.approx(last_high / last_low)
    assert low < result.mean(end + 86400, end + 2 * 86400) < high
    assert result.mean_band(NOW, end + 86400)[0] > 0


def test_a_window_with_holes_is_scored_on_the_hours_that_are_known():
    replay = Replay((100.0,) * 4, (110.0, None, 120.0, 130.0))
    assert replay.means(0, 4) == pytest.approx((100, 120))
    assert replay.means(0, 2) is None  # its end is not known
    assert Replay((100.0,) * 4, (None, None, 120.0, 130.0)).means(0, 4) is None
    assert replay.means(2.5, 3.5) == pytest.approx((100, 125))
    assert Replay((100.0,) * 2, (1.0, 1.0)).means(1, 3) is None


def test_zero_grams_are_scored_without_failing():
    assert Replay((0.0, 0.1), (0.0, 0.0)).scores == (0.0, 0.0)


@pytest.mark.parametrize("seed", [3, 4])
def test_bands_hold_what_comes_nine_times_in_ten(seed):
    """A whole year of a grid that is known to be as the forecast thinks it is."""
    series = noisy(days=420, seed=seed)
    begin = HOUR - 360 * 24
    kept, inside = {}, []
    for origin in range(begin, HOUR - 96, 7):
        grams = curve(series, origin, origin, 96)
        replays = past_replays(series, origin, 0, kept)
        band = score_band(score for replay in replays if (score := replay.scores[23]) is not None)
        low, high = around(grams[23], band)
        inside.append(low <= series[origin + 23] <= high)
    assert len(inside) > 1000
    assert 0.87 < fmean(inside) < 0.95


# The provider's own forecasts.


def issue(series, made_hour, hours=48, factor=1.0):
    return Issued(
        made_hour * HOUR_SECONDS + 60.0, tuple(series.get(made_hour + i, 300.0) * factor for i in range(hours))
    )


def test_thirty_finished_forecasts_of_the_provider_make_its_band():
    series = noisy()
    chance = random.Random(5)
    good = [issue(series, HOUR - 6 * i, factor=chance.uniform(0.98, 1.02)) for i in range(60, 0, -1)]
    result = outlook(series, told(*[300.0] * 48), issued=good)
    assert len(result.replays) == 60
    assert result.high[20] / result.low[20] < 1.05
    assert result.high[80] / result.low[80] > 1.2  # after its 48 hours the statistical curve goes on, and its errors
    few = outlook(series, told(*[300.0] * 48), issued=good[-44:])
    assert few.high[20] / few.low[20] > 1.2
    assert few.forecaster == "someone"


def test_forecasts_that_follow_each_other_closely_count_once():
    series = noisy()
    hourly = [issue(series, HOUR - i) for i in range(400, 0, -1)]
    assert len(issued_replays(series, HOUR, 0, hourly)) == 400 // 6 + 1
    assert issued_replays(series, HOUR, 0, hourly[200:]) == []


def test_a_replayed_forecast_of_the_provider_is_continued_from_what_was_known_then():
    series = noisy()
    issued = [issue(series, HOUR - 6 * i) for i in range(60, 0, -1)]
    first = issued_replays(series, HOUR, 0, issued)[0]
    made = HOUR - 360
    seen = {hour: grams for hour, grams in series.items() if hour < made} | dict(enumerate(issued[0].grams, made))
    assert first.forecast == issued[0].grams + curve(seen, made + 48, made + 48, 48)
    later = {hour: (1e3 if hour >= made + 48 else grams) for hour, grams in series.items()}
    assert issued_replays(later, HOUR, 0, issued)[0].forecast == first.forecast


def test_forecasts_from_the_future_or_without_hours_are_left_out():
    series = noisy()
    odd = [Issued(BEGIN - 400 * 3600, ()), *(issue(series, HOUR - 6 * i) for i in range(60, -2, -1))]
    replays = issued_replays(series, HOUR, 0, odd)
    assert len(replays) in (60, 61)
    assert all(replay.actual[0] is not None for replay in replays)


@pytest.mark.parametrize("with_issued", [False, True])
def test_an_outlook_takes_little_time(with_issued):
    series = noisy()
    issued = [issue(series, HOUR - 6 * i) for i in range(120, 0, -1)] if with_issued else ()
    spans = told(*[300.0] * 48) if with_issued else ()
    took = []
    for _ in range(3):
        started = time.process_time()
        outlook(series, spans, issued=issued)
        took.append(time.process_time() - started)
    assert min(took) < 0.15
