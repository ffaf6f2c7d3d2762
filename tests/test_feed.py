"""When a provider is asked, what is kept of its answers, and how its silence is borne."""

import logging
from itertools import pairwise

import pytest
from grid_scripts import HOUR, T0, Clockwork, ScriptedProvider, hourly, refused

from carbon_exporter.grid.feed import Schedule
from carbon_exporter.grid.hours import hour_of
from carbon_exporter.model import ConfigurationError, GridReading


def asked_at(clockwork, provider, seconds, step=1.0):
    """The times, from now, at which the provider is asked within `seconds`."""
    began, times = clockwork.now, []
    while clockwork.now < began + seconds:
        before = len(provider.since)
        clockwork.run(step)
        times += [clockwork.now - began] * (len(provider.since) - before)
    return times


def test_the_first_question_is_spread_over_half_a_minute_and_the_next_over_the_refresh_time():
    for chance, first, gap in ((0.0, 1, 810), (0.5, 15, 900), (1.0, 30, 990)):
        provider = ScriptedProvider(hourly(T0, 100, 100, 100))
        times = asked_at(Clockwork(provider, chance=lambda chance=chance: chance), provider, 2000)
        assert times[0] == pytest.approx(first, abs=1)
        assert times[1] - times[0] == pytest.approx(gap, abs=2)


def test_failures_are_asked_again_twice_as_late_each_time_up_to_half_an_hour():
    provider = ScriptedProvider(refused("server"))
    times = asked_at(Clockwork(provider, chance=lambda: 1.0), provider, 4 * HOUR, step=5)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps[:7] == pytest.approx([30, 60, 120, 240, 480, 960, 1800], abs=6)
    assert max(gaps) <= 1806
    assert len(gaps) > 10


@pytest.mark.parametrize(
    ("error", "least", "most"),
    [
        (refused("auth"), 3600, 3601),
        (refused("forbidden"), 3600, 3601),
        (refused("auth", 7200), 7200, 7201),
        (refused("rate_limit"), 60, 61),
        (refused("rate_limit", 600), 600, 601),
        (refused("server", 5), 15, 30),
        (refused("server", 1e12), 86_400, 86_401),
    ],
)
def test_a_refusal_is_left_alone_for_as_long_as_it_wants(error, least, most):
    schedule = Schedule(0.0)
    for chance in (0.0, 1.0):
        schedule.failures = 0
        schedule.failed(0.0, error, chance)
        assert least <= schedule.due_seconds <= most


def test_success_ends_the_back_off():
    provider = ScriptedProvider(refused("server"))
    clockwork = Clockwork(provider)
    clockwork.run(HOUR)
    provider.spans = hourly(T0, 100, 100, 100)
    clockwork.run(HOUR)
    provider.spans = refused("server")
    times = asked_at(clockwork, provider, 1200)
    assert times[1] - times[0] < 31


def test_the_history_holds_whole_past_hours_and_asks_only_for_what_is_new():
    provider = ScriptedProvider(hourly(T0 - 3 * HOUR, 1, 2, 3, 4))
    clockwork = Clockwork(provider)
    clockwork.run(60)
    (feed,) = clockwork.feeds
    first = hour_of(T0)
    assert feed.history == {first - 3: 1, first - 2: 2, first - 1: 3}
    assert provider.since[0] == pytest.approx(T0 - 30 * 86_400, abs=60)
    clockwork.run(900)
    assert provider.since[1] == (first - 2) * HOUR
    provider.spans = hourly(T0 - HOUR, 30, 40, 5)
    clockwork.run(HOUR)
    assert feed.history == {first - 3: 1, first - 2: 2, first - 1: 30, first: 40}  # revised, and gone on
    clockwork.now += 61 * 86_400
    provider.spans = hourly(T0 + 61 * 86_400, 9, 9)
    clockwork.run(HOUR)
    assert set(feed.history) == {first + 61 * 24, first + 61 * 24 + 1}  # the rest is too old


def test_what_is_only_estimated_yet_is_no_history_and_is_asked_again():
    past = hourly(T0 - 30 * HOUR, *[400] * 28)
    provider = ScriptedProvider((*past, *hourly(T0 - 2 * HOUR, 200, 200, 200, estimated=True)))
    clockwork = Clockwork(provider)
    clockwork.run(60)
    (feed,) = clockwork.feeds
    first = hour_of(T0)
    assert max(feed.history) == first - 3
    clockwork.run(3 * HOUR)  # two hours more are over, and still only forecast
    assert max(feed.history) == first - 3
    assert set(provider.since[1:]) == {(first - 4) * HOUR}
    provider.spans = hourly(T0 - 5 * HOUR, *[400] * 8)
    clockwork.run(HOUR)
    assert [feed.history[hour] for hour in range(first - 3, first + 3)] == [400] * 6


def test_a_provider_that_never_measures_has_no_history_and_is_asked_for_a_day():
    provider = ScriptedProvider(hourly(T0 - 24 * HOUR, *[200] * 48, estimated=True))
    clockwork = Clockwork(provider)
    clockwork.run(HOUR)
    assert clockwork.feeds[0].history == {}
    assert provider.since[1] == pytest.approx(T0 - 24 * HOUR, abs=HOUR)
    assert clockwork.grams() == 200
    lasting = ScriptedProvider(hourly(T0 - 24 * HOUR, *[200] * 48, estimated=True), keeps_estimates=True)
    clockwork = Clockwork(lasting)
    clockwork.run(HOUR)
    assert len(clockwork.feeds[0].history) == 24
    assert lasting.since[1] == (hour_of(T0) - 1 - 24) * HOUR


def test_its_own_forecast_continues_what_it_told():
    provider = ScriptedProvider(hourly(T0, 100), hourly(T0 - HOUR, 1, 2, 3, 4, 5), horizon_seconds=4 * HOUR)
    clockwork = Clockwork(provider)
    clockwork.run(60)
    told = clockwork.feeds[0].told_spans()
    assert [span.grams_per_kilowatt_hour for span in told] == [100, 3, 4, 5]
    assert [span.estimated for span in told] == [False, True, True, True]
    assert provider.predictions == 1
    clockwork.run(3 * HOUR)
    assert provider.predictions == 4
    assert len(clockwork.feeds[0].issued) == 1
    assert clockwork.feeds[0].issued[0].grams == (100, 3, 4, 5)


def test_a_forecast_that_the_token_may_not_have_is_no_failure(caplog):
    caplog.set_level(logging.INFO)
    provider = ScriptedProvider(hourly(T0, 1, 2, 3, 4), refused("forbidden"), horizon_seconds=72 * HOUR)
    clockwork = Clockwork(provider)
    clockwork.run(2 * HOUR)
    assert (clockwork.feeds[0].failure, clockwork.fetchers[0].errors["forbidden"]) == (None, 2)
    assert clockwork.intensity().fallback_level == 0
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "no forecast of somebody for DE" in caplog.text


def test_each_failure_is_said_once_and_its_end_too(caplog):
    caplog.set_level(logging.INFO)
    provider = ScriptedProvider(refused("server"))
    clockwork = Clockwork(provider)
    clockwork.run(2 * HOUR)
    assert caplog.text.count("http://grid.example/x: server: a cure") == 1
    assert clockwork.fetchers[0].errors["server"] > 3
    provider.spans = refused("timeout")
    clockwork.run(HOUR)
    assert caplog.text.count("timeout") == 1
    provider.spans = hourly(T0, *range(100, 110))
    clockwork.run(HOUR)
    assert caplog.text.count("somebody answers again for DE") == 1


def test_a_bug_in_a_provider_is_a_failure_like_others_and_its_text_is_kept_back(caplog):
    provider = ScriptedProvider(RuntimeError("token=s3cret"))
    clockwork = Clockwork(provider)
    clockwork.run(60)
    assert clockwork.fetchers[0].errors["parse"] == 2
    assert "RuntimeError" in caplog.text
    assert "s3cret" not in caplog.text
    provider.spans = ConfigurationError("/run/token: is empty: write the secret into it")
    clockwork.run(HOUR)
    assert clockwork.fetchers[0].errors["auth"] == 1
    assert "/run/token: is empty" in caplog.text
    provider.spans = GridReading((), "somebody", "operational")
    clockwork.run(HOUR)
    assert clockwork.fetchers[0].errors["empty"] >= 1


def test_one_provider_is_never_asked_faster_than_it_allows():
    from carbon_exporter.grid.fetcher import Fetcher  # noqa: PLC0415

    providers = [ScriptedProvider(hourly(T0, *[100] * 50), pace_seconds=60) for _ in range(5)]
    clocks = [Clockwork(provider, chance=lambda: 0.0) for provider in providers]
    now, times = [0.0], []
    fetcher = Fetcher([(c.zone, c.feeds[0]) for c in clocks], None, lambda: now[0], lambda: T0 + now[0])
    while now[0] < 1200:
        before = sum(len(p.since) for p in providers)
        fetcher.ask_due()
        if sum(len(p.since) for p in providers) > before:
            times.append(now[0])
        now[0] += 1
    assert all(later - earlier >= 60 for earlier, later in pairwise(times))
    assert all(provider.since for provider in providers)
    assert len(times) >= 9
