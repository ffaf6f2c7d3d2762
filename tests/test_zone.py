"""The best that is known of a zone: live, last good, yearly mean, world; and what is said of it."""

import json
import logging

import pytest
from grid_scripts import HOUR, STAND_IN, T0, Clockwork, ScriptedProvider, hourly, refused

from carbon_exporter.grid.hours import hour_of
from carbon_exporter.model import GridReading, Span


def test_before_the_first_answer_there_is_no_number_and_after_a_minute_the_yearly_mean():
    clockwork = Clockwork(ScriptedProvider(refused("server")))
    assert clockwork.intensity() is None
    clockwork.run(59)
    assert clockwork.intensity() is None
    assert clockwork.zone.outlook(clockwork.now) is None
    clockwork.run(1)
    now = clockwork.intensity()
    assert (now.grams_per_kilowatt_hour, now.provider, now.basis, now.fallback_level) == (330, "static", "lifecycle", 2)
    assert (now.estimated, now.data_timestamp_seconds, now.grid_zone) == (True, 7.0, "DE")
    assert clockwork.zone.licence(clockwork.now) == "licence of the stand-in"


def test_a_live_value_says_what_it_is():
    clockwork = Clockwork(ScriptedProvider(hourly(T0 - HOUR, 90, 100)))
    clockwork.run(60)
    now = clockwork.intensity()
    assert (now.grams_per_kilowatt_hour, now.provider, now.basis, now.fallback_level) == (
        100,
        "somebody",
        "operational",
        0,
    )
    assert (now.estimated, now.data_timestamp_seconds) == (False, T0)
    assert clockwork.zone.licence(clockwork.now) == "licence of somebody"


def test_the_timeline_stays_the_same_object_while_nothing_changes():
    provider = ScriptedProvider(hourly(T0, 100, 200))
    clockwork = Clockwork(provider)
    clockwork.run(60)
    first = clockwork.zone.timeline(clockwork.now)
    clockwork.run(60)
    assert clockwork.zone.timeline(clockwork.now) is first
    clockwork.run(HOUR)
    assert clockwork.zone.timeline(clockwork.now) is not first
    assert clockwork.grams() == 200


def test_after_the_last_answer_it_is_good_for_a_while_then_the_yearly_mean_stands_in(caplog):
    caplog.set_level(logging.INFO)
    provider = ScriptedProvider(hourly(T0 - HOUR, 90, 100))  # known until T0 + 1 h; lag half an hour, fresh two hours
    clockwork = Clockwork(provider)
    clockwork.run(60)
    provider.spans = refused("timeout")
    levels = {}
    for minutes in range(0, 300, 10):
        clockwork.run(T0 + minutes * 60 - clockwork.now) if T0 + minutes * 60 > clockwork.now else None
        now = clockwork.intensity()
        levels[minutes] = (now.fallback_level, now.provider)
    fetched = 15 / 60  # minutes after T0: from then on nothing new
    assert levels[20] == (0, "somebody")
    assert levels[40] == (1, "somebody")
    assert levels[110] == (1, "somebody")
    assert levels[130] == (2, "static")
    assert fetched < 1
    provider.spans = hourly(T0, *[70] * 10)
    clockwork.run(HOUR)
    assert (clockwork.grams(), clockwork.intensity().fallback_level) == (70, 0)
    said = [r for r in caplog.records if r.name.endswith("zone")]
    assert [r.levelname for r in said] == ["INFO", "WARNING", "WARNING", "INFO"]


def test_what_the_provider_forecast_for_now_counts_for_a_day():
    provider = ScriptedProvider(hourly(T0, 100), hourly(T0 + HOUR, *[80] * 47), horizon_seconds=48 * HOUR)
    clockwork = Clockwork(provider)
    clockwork.run(60)
    provider.spans = provider.future = refused("unreachable")
    clockwork.run(20 * HOUR)
    now = clockwork.intensity()
    assert (now.grams_per_kilowatt_hour, now.fallback_level, now.estimated) == (80, 1, True)
    clockwork.run(5 * HOUR)
    assert (clockwork.grams(), clockwork.intensity().fallback_level) == (330, 2)


def test_a_value_that_comes_with_a_delay_is_continued_and_called_estimated():
    """A provider a day behind: its history says what to expect of now."""
    past = hourly(T0 - 30 * 24 * HOUR, *[100 + 50 * (h % 24 >= 12) for h in range(29 * 24)])
    clockwork = Clockwork(ScriptedProvider(past, lag_seconds=30 * HOUR, fresh_seconds=60 * HOUR))
    clockwork.run(60)
    now = clockwork.intensity()
    assert now.fallback_level == 0
    assert now.estimated
    assert now.data_timestamp_seconds == past[-1].start_seconds
    for hours, expected in ((3, 100), (15, 150)):
        clockwork.now = T0 + hours * HOUR
        assert clockwork.grams() == pytest.approx(expected, rel=0.05)
    timeline = clockwork.zone.timeline(clockwork.now)
    assert timeline.told_until_seconds == past[-1].end_seconds
    assert not timeline.tells(clockwork.now - 60, clockwork.now)


def test_several_providers_only_where_listed_and_live_before_stale():
    first = ScriptedProvider(hourly(T0, 100), name="first", basis="lifecycle")
    second = ScriptedProvider(hourly(T0, *[200] * 9), name="second")
    clockwork = Clockwork(first, second)
    clockwork.run(60)
    assert clockwork.intensity().provider == "first"
    first.spans = refused("server")
    clockwork.run(HOUR)
    now = clockwork.intensity()
    assert (now.provider, now.basis, now.grams_per_kilowatt_hour, now.fallback_level) == (
        "second",
        "operational",
        200,
        0,
    )
    second.spans = refused("server")
    clockwork.run(HOUR)
    assert clockwork.intensity().fallback_level == 1
    clockwork.run(12 * HOUR)
    assert clockwork.intensity().provider == "static"


def test_what_another_service_says_of_its_own_fallback_is_passed_on():
    reading = GridReading(hourly(T0, 330, 330), "static", "lifecycle", fallback_level=2)
    clockwork = Clockwork(ScriptedProvider(reading, name="cluster"))
    clockwork.run(60)
    now = clockwork.intensity()
    assert (now.provider, now.basis, now.fallback_level) == ("static", "lifecycle", 2)


def test_marginal_has_no_stand_in():
    clockwork = Clockwork(ScriptedProvider(refused("server"), signal="marginal"), stand_in=None)
    clockwork.run(HOUR)
    assert clockwork.intensity() is None
    assert clockwork.zone.outlook(clockwork.now) is None


def test_a_fixed_value_is_for_no_particular_time():
    clockwork = Clockwork(stand_in=GridReading((Span(0, 1e11, 50),), "static", "direct"))
    now = clockwork.intensity()
    assert (now.grams_per_kilowatt_hour, now.fallback_level, now.estimated, now.data_timestamp_seconds) == (
        50,
        0,
        False,
        None,
    )
    outlook = clockwork.zone.outlook(clockwork.now)
    assert set(outlook.grams) == {50}


def test_the_outlook_is_made_once_an_hour_and_after_an_answer():
    provider = ScriptedProvider(hourly(T0 - 20 * 24 * HOUR, *[100] * (20 * 24 + 2)))
    clockwork = Clockwork(provider)
    clockwork.run(60)
    first = clockwork.zone.outlook(clockwork.now)
    assert first.first_hour == hour_of(T0)
    clockwork.run(60)
    assert clockwork.zone.outlook(clockwork.now) is first
    clockwork.now = T0 + HOUR + 1
    assert clockwork.zone.outlook(clockwork.now).first_hour == hour_of(T0) + 1


def test_history_from_elsewhere_reaches_up_to_the_providers_own_words_and_no_further():
    provider = ScriptedProvider(hourly(T0 - 22 * HOUR, 1, 2), lag_seconds=30 * HOUR, fresh_seconds=60 * HOUR)
    clockwork = Clockwork(provider)
    zone, hour = clockwork.zone, hour_of(T0)
    assert zone.wants_history() == []  # it has not been asked yet, and may know all itself
    clockwork.run(60)
    assert zone.wants_history() == [("somebody", "operational")]
    zone.take_history({hour - 1: 77, hour - 30: 9}, "somebody", "lifecycle")
    assert clockwork.feeds[0].past() == {hour - 22: 1, hour - 21: 2}
    zone.take_history(dict.fromkeys(range(hour - 800, hour), 77), "somebody", "operational")
    past = clockwork.feeds[0].past()
    assert (max(past), past[hour - 21], past[hour - 22], past[hour - 23]) == (hour - 21, 2, 1, 77)
    clockwork.run(HOUR)
    assert provider.since[-1] == (hour - 22) * HOUR  # what was read back is no answer of the provider
    provider.spans = hourly(T0 - 700 * HOUR, *[5] * 690)
    clockwork.run(HOUR)
    assert zone.wants_history() == []


def test_the_hours_between_the_last_word_and_now_are_bridged_by_the_forecast():
    """A day of 100 g and one hour of 500 g at its end: hours later the timeline must not hold 500 g over them."""
    told = [100 + h % 24 for h in range(20 * 24)]
    past = hourly(T0 - (20 + 1) * 24 * HOUR, *told)
    provider = ScriptedProvider(past, lag_seconds=36 * HOUR, fresh_seconds=48 * HOUR)
    clockwork = Clockwork(provider)
    clockwork.run(60)
    clockwork.now = T0 + 3 * HOUR + 60
    clockwork.zone.outlook(clockwork.now)
    timeline = clockwork.zone.timeline(clockwork.now)
    for hours in range(-23, 4):
        begin = T0 + hours * HOUR
        assert timeline.mean(begin, begin + HOUR) == pytest.approx(100 + hours % 24, abs=3), hours


def test_after_an_answer_the_outlook_before_it_serves_until_the_next_is_made():
    past = hourly(T0 - 20 * 24 * HOUR, *[100 + h % 24 for h in range(19 * 24)])
    provider = ScriptedProvider(past, lag_seconds=36 * HOUR, fresh_seconds=48 * HOUR)
    clockwork = Clockwork(provider)
    clockwork.run(60)
    before = clockwork.grams()
    (feed,) = clockwork.feeds
    provider.spans = past[5:]
    feed.ask_values(None, clockwork.now - T0, clockwork.now)  # and nobody has told the zone yet
    assert clockwork.grams() == pytest.approx(before)
    assert before != past[-1].grams_per_kilowatt_hour


def test_with_two_weeks_of_history_a_silent_provider_is_continued_for_a_day():
    past = hourly(T0 - 20 * 24 * HOUR, *[100 + h % 24 for h in range(20 * 24 + 1)])
    provider = ScriptedProvider(past)
    clockwork = Clockwork(provider)
    clockwork.run(60)
    provider.spans = refused("server")
    clockwork.run(20 * HOUR)
    now = clockwork.intensity()
    assert (now.fallback_level, now.provider, now.estimated) == (1, "somebody", True)
    assert now.grams_per_kilowatt_hour == pytest.approx(100 + 20, abs=3)
    timeline = clockwork.zone.timeline(clockwork.now)
    for hours in range(2, 20):
        assert timeline.mean(T0 + hours * HOUR, T0 + (hours + 1) * HOUR) == pytest.approx(100 + hours, abs=4)
    assert clockwork.zone.outlook(clockwork.now).forecaster == "statistical"
    clockwork.run(8 * HOUR)
    assert clockwork.intensity().provider == "static"


def test_the_outlook_of_one_provider_never_continues_another():
    lagging = hourly(T0 - 20 * 24 * HOUR, *[100] * (20 * 24))
    first = ScriptedProvider(lagging, name="first", lag_seconds=2 * HOUR, fresh_seconds=3 * HOUR)
    second = ScriptedProvider(hourly(T0 - HOUR, 700, 700), name="second", basis="direct", fresh_seconds=50 * HOUR)
    clockwork = Clockwork(first, second)
    clockwork.run(60)
    assert clockwork.grams() == pytest.approx(100)
    first.spans = refused("server")
    second.spans = hourly(T0 + 2 * HOUR, 800)
    clockwork.now += 3 * HOUR
    clockwork.feeds[1].ask_values(None, clockwork.now - T0, clockwork.now)
    now = clockwork.intensity()
    assert (now.provider, now.grams_per_kilowatt_hour) == ("second", 800)


def test_a_clock_that_is_set_back_neither_holds_up_the_stand_in_nor_makes_old_values_live():
    clockwork = Clockwork(ScriptedProvider(refused("server")))
    clockwork.now -= 86_400
    assert clockwork.intensity() is None
    clockwork.now += 61
    assert clockwork.intensity().provider == "static"
    ahead = Clockwork(ScriptedProvider(hourly(T0 + 86_400 - HOUR, 100, 100)), now=T0 + 86_400)
    ahead.run(60)
    ahead.feeds[0].provider.spans = refused("server")
    ahead.now = T0
    assert ahead.intensity().fallback_level == 0
    ahead.now = T0 + 4 * HOUR
    assert ahead.intensity().fallback_level == 2


def test_a_restart_asks_nothing_before_it_is_due_and_loses_nothing(tmp_path):
    provider = ScriptedProvider(hourly(T0 - HOUR, 90, 100, 110), hourly(T0, *range(48)), horizon_seconds=48 * HOUR)
    before = Clockwork(provider, folder=tmp_path)
    before.run(120)
    (asked,) = {len(provider.since), provider.predictions}
    after = Clockwork(provider, folder=tmp_path, now=before.now + 30)
    assert after.grams() == 100
    assert after.zone.timeline(after.now).spans == before.zone.timeline(before.now).spans
    after.run(600)
    assert (len(provider.since), provider.predictions) == (asked, asked)
    after.run(400)
    assert len(provider.since) == asked + 1
    assert after.feeds[0].history == before.feeds[0].history
    assert after.feeds[0].issued == before.feeds[0].issued


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["body"]["reading"]["spans"].clear(),
        lambda d: d["body"]["reading"]["spans"][0].update(grams_per_kilowatt_hour=-1e9),
        lambda d: d["body"]["reading"]["spans"][0].update(end_seconds=0),
        lambda d: d["body"]["reading"]["spans"].reverse(),
        lambda d: d["body"]["history"].update({"5": 1e12}),
        lambda d: d["body"].update(issued=[{"made_seconds": 1, "grams": [-1]}]),
        lambda d: d.update(key="FR-average-somebody"),
    ],
)
def test_a_cache_file_that_no_provider_can_have_said_is_started_without(tmp_path, change, caplog):
    Clockwork(ScriptedProvider(hourly(T0 - HOUR, 90, 100)), folder=tmp_path).run(60)
    file = tmp_path / "DE-average-somebody.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    clockwork = Clockwork(ScriptedProvider(refused("server")), folder=tmp_path)
    assert clockwork.intensity() is None
    assert caplog.text.count("starting without it") == 1


def test_a_cache_from_the_future_is_of_an_unknown_age(tmp_path):
    Clockwork(ScriptedProvider(hourly(T0 - HOUR, 90, 100)), folder=tmp_path).run(60)
    clockwork = Clockwork(ScriptedProvider(refused("server")), folder=tmp_path, now=T0 - 86_400)
    assert clockwork.feeds[0].reading is None
    clockwork.run(61)
    assert clockwork.intensity().provider == "static"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"schema": 1}', '{"schema": 1, "basis": "operational", "body": {"reading": 5}}']
)
def test_a_torn_or_foreign_cache_file_is_said_and_started_without(tmp_path, text, caplog):
    (tmp_path / "DE-average-somebody.json").write_text(text)
    clockwork = Clockwork(ScriptedProvider(hourly(T0, 100)), folder=tmp_path)
    assert clockwork.feeds[0].history == {}
    assert caplog.text.count("starting without it") == 1
    clockwork.run(60)
    document = json.loads((tmp_path / "DE-average-somebody.json").read_text())
    assert document["body"]["reading"]["spans"][0]["grams_per_kilowatt_hour"] == 100


def test_the_cache_of_another_basis_is_not_taken(tmp_path, caplog):
    Clockwork(ScriptedProvider(hourly(T0, 100)), folder=tmp_path).run(60)
    other = Clockwork(ScriptedProvider(hourly(T0, 100), basis="direct"), folder=tmp_path)
    assert other.feeds[0].reading is None
    assert caplog.text == ""


def test_a_cache_folder_that_cannot_be_written_is_said_once(tmp_path, caplog):
    file = tmp_path / "file"
    file.write_text("")
    clockwork = Clockwork(ScriptedProvider(hourly(T0, *[100] * 9)), folder=file / "cache")
    clockwork.run(2 * HOUR)
    assert clockwork.grams() == 100
    assert caplog.text.count("intensity.cache_dir") == 1


def test_the_stand_in_is_not_changed_by_what_was_said():
    assert STAND_IN.spans[0].grams_per_kilowatt_hour == 330
