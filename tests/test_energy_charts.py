"""Energy-Charts, played by a local server; the recorded answer is read where it is at hand."""

import json
from dataclasses import replace

import pytest
from fake_grid import FakeGrid, Reply, iso

from carbon_exporter.grid.web import BoundedWeb
from carbon_exporter.intensity.energy_charts import COUNTRIES, Settings, open_provider
from carbon_exporter.model import ConfigurationError, ProviderError, Span
from carbon_exporter.plugins import open_provider as open_by_name

NOW = 1_893_467_400.0 + 240  # four minutes into a quarter-hour
QUARTER = 900.0
RUNNING = NOW - NOW % QUARTER
DAY = 86_400.0


def columns(measured, forecast, start=RUNNING - 2 * QUARTER, step=QUARTER, **more):
    times = [int(start + step * n) for n in range(len(forecast))]
    return {"unix_seconds": times, "co2eq": measured, "co2eq_forecast": forecast, "deprecated": False, **more}


def observe(body, since=NOW - DAY, zone="DE"):
    with FakeGrid({"/co2eq": body if isinstance(body, Reply) else Reply(body)}) as grid:
        reading = open_provider(Settings(url=grid.url + "/"), zone, {}).observe(BoundedWeb(), since, NOW)
        (asked,) = grid.asked
    return reading, asked


def failure(reply, path="/co2eq"):
    with FakeGrid({path: reply}) as grid:
        opened = open_provider(Settings(url=grid.url), "DE", {})
        with pytest.raises(ProviderError) as caught:
            opened.observe(BoundedWeb(), NOW, NOW) if path == "/co2eq" else opened.predict(BoundedWeb(), NOW)
    assert "\n" not in str(caught.value)
    assert path in str(caught.value)
    return caught.value


def test_measured_values_win_and_the_forecast_stands_where_there_is_none():
    reading, _ = observe(columns([301.5, 0, None, None], [290.0, 291.0, None, 310.0]))
    assert reading.spans == (
        Span(RUNNING - 2 * QUARTER, RUNNING - QUARTER, 301.5, estimated=False),
        Span(RUNNING - QUARTER, RUNNING, 0.0, estimated=False),
        Span(RUNNING + QUARTER, RUNNING + 2 * QUARTER, 310.0, estimated=True),
    )
    assert (reading.provider, reading.basis, reading.signal) == ("energy_charts", "unspecified", "average")


def test_it_asks_for_the_time_since_then_to_beyond_now():
    _, asked = observe(columns([300.0], [None]), since=NOW - 30 * DAY)
    minute = "%Y-%m-%dT%H:%MZ"
    assert asked.parameters == {
        "country": "de",
        "start": iso(NOW - 30 * DAY, minute),
        "end": iso(NOW + 3600, minute),
    }


def test_it_asks_two_hours_back_at_least_for_values_come_late():
    _, asked = observe(columns([300.0], [None]), since=NOW)
    assert asked.parameters["start"] == iso(NOW - 7200, "%Y-%m-%dT%H:%MZ")


def test_hourly_countries_have_hourly_spans_and_a_hole_is_not_filled_for_long():
    reading, _ = observe(columns([30.0, 31.0], [None, None], start=RUNNING - 7200, step=3600.0))
    assert [s.end_seconds - s.start_seconds for s in reading.spans] == [3600.0, 3600.0]
    holes = {**columns([1.0, 2.0, 3.0], [None] * 3)}
    holes["unix_seconds"] = [int(RUNNING - 9 * 3600), int(RUNNING - QUARTER), int(RUNNING)]
    reading, _ = observe(holes)
    assert [s.end_seconds - s.start_seconds for s in reading.spans] == [3600.0, QUARTER, QUARTER]


def test_a_single_value_lasts_a_quarter_hour():
    reading, _ = observe(columns([300.0], [None]))
    assert reading.spans[0].end_seconds - reading.spans[0].start_seconds == QUARTER


def test_a_country_without_a_forecast_is_read():
    reading, _ = observe(columns([300.0, 301.0], [None, None], co2eq_forecast=None))
    assert [s.grams_per_kilowatt_hour for s in reading.spans] == [300.0, 301.0]


def test_the_forecast_begins_now_and_is_estimated():
    body = columns([], [280.0, 281.0, 282.0, None, 284.0])
    del body["co2eq"]
    with FakeGrid({"/co2eq_forecast": Reply(body)}) as grid:
        reading = open_provider(Settings(url=grid.url), "FR", {}).predict(BoundedWeb(), NOW)
        assert grid.asked[0].parameters == {"country": "fr"}
    assert reading.spans == (
        Span(RUNNING, RUNNING + QUARTER, 282.0, estimated=True),
        Span(RUNNING + 2 * QUARTER, RUNNING + 3 * QUARTER, 284.0, estimated=True),
    )


def test_a_forecast_of_the_past_is_none():
    assert failure(Reply(columns([], [280.0, 281.0])), "/co2eq_forecast").reason == "empty"


GOOD = columns([301.5, 298.0], [None, None])


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply({}), "empty"),
        (Reply({"unix_seconds": [], "co2eq": [], "co2eq_forecast": []}), "empty"),
        (Reply(columns([None, None], [None, None])), "empty"),
        (Reply([GOOD]), "parse"),
        (Reply({**GOOD, "co2eq": [301.5]}), "parse"),
        (Reply({**GOOD, "co2eq_forecast": [None]}), "parse"),
        (Reply({**GOOD, "unix_seconds": GOOD["unix_seconds"][:1]}), "parse"),
        (Reply({"unix_seconds": GOOD["unix_seconds"]}), "parse"),
        (Reply({**GOOD, "unix_seconds": GOOD["unix_seconds"][::-1]}), "parse"),
        (Reply({**GOOD, "unix_seconds": [1000 * t for t in GOOD["unix_seconds"]]}), "parse"),
        (Reply({**GOOD, "unix_seconds": [str(t) for t in GOOD["unix_seconds"]]}), "parse"),
        (Reply({**GOOD, "unix_seconds": {"0": 1}}), "parse"),
        (Reply({**GOOD, "co2eq": "301.5"}), "parse"),
        (Reply({**GOOD, "co2eq": ["301.5", 298.0]}), "parse"),
        (Reply({**GOOD, "co2eq": [301.5, True]}), "parse"),
        (Reply({**GOOD, "co2eq": [301.5, -4]}), "parse"),
        (Reply({**GOOD, "co2eq": [301.5, 298_000.0]}), "parse"),
        (Reply("maintenance"), "parse"),
        (Reply(GOOD, cut=3), "parse"),
        (Reply("", 302, {"Location": "https://elsewhere.invalid/"}), "server"),
        (Reply({"detail": "no such country"}, 404), "server"),
        (Reply("", 502), "server"),
    ],
)
def test_a_bad_answer_has_a_reason(reply, reason):
    assert failure(reply).reason == reason


def test_columns_of_unequal_length_are_counted_in_the_message():
    assert "2 times for 1 and 2 values" in str(failure(Reply({**GOOD, "co2eq": [301.5]})))


def test_429_passes_on_how_long_to_wait():
    error = failure(Reply({}, 429, {"Retry-After": "17"}))
    assert (error.reason, error.retry_after_seconds) == ("rate_limit", 17)
    error = failure(Reply({}, 429, {"Retry-After": iso(NOW + 60, "%a, %d %b %Y %H:%M:%S GMT")}))
    assert error.retry_after_seconds == 60


def test_a_gzipped_answer_is_read():
    reading, _ = observe(replace(Reply(GOOD), gzipped=True))
    assert len(reading.spans) == 2


@pytest.mark.parametrize(("zone", "country"), [("GB", "uk"), ("fr", "fr"), ("GR", "gr")])
def test_countries_have_its_own_codes(zone, country):
    _, asked = observe(GOOD, zone=zone)
    assert asked.parameters["country"] == country


@pytest.mark.parametrize("zone", ["US-CAL-CISO", "DK-DK1", "", "XX"])
def test_only_whole_european_countries_are_known(zone):
    with pytest.raises(ConfigurationError) as caught:
        open_provider(Settings(), zone, {})
    assert str(caught.value).startswith(f"intensity.grid_zone: energy_charts does not know {zone!r}; it knows AL, AT")


def test_it_is_found_by_its_name_and_keeps_its_pace():
    traits = open_by_name("energy_charts", {}, "DE", {}).traits
    assert traits.pace_seconds >= 0.5
    assert traits.fresh_seconds == 7200
    assert len(COUNTRIES) == len(set(COUNTRIES)) > 30


def test_the_recorded_answer(repository):
    file = repository.parent / "shared" / "data" / "api_samples" / "energy_charts" / "co2eq_de_sample.json"
    if not file.is_file():
        pytest.skip(f"no recorded answer {file}")
    reading, _ = observe(json.loads(file.read_text()))
    assert [(s.grams_per_kilowatt_hour, s.estimated) for s in reading.spans] == [
        (491.5, False),
        (497.4, False),
        (502.6, False),
        (505.0, True),
        (508.0, True),
    ]
    assert reading.spans[0].start_seconds == 1_783_893_600
