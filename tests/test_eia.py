"""EIA: hourly fuels of a respondent into grams, against a server that answers as the API does."""

import math

import pytest
from fake_grid import FakeGrid, Reply, iso

from carbon_exporter.grid.web import BoundedWeb
from carbon_exporter.intensity.eia import FUELS, STORAGE, Settings, open_provider
from carbon_exporter.model import ConfigurationError, ProviderError
from carbon_exporter.plugins import open_provider as open_by_name

PATH = "/electricity/rto/fuel-type-data/data/"
KEY = "k3y-of-a-test"
HOUR = 3600
NOW_HOUR = 526_000
NOW = NOW_HOUR * HOUR + 1800.0
DAY = {"NG": 300, "WND": 100}


def row(hour, fuel, value, respondent="CISO"):
    """One row of the hour that begins at `hour`: its period is named by its end."""
    return {
        "period": iso((hour + 1) * HOUR, "%Y-%m-%dT%H"),
        "respondent": respondent,
        "respondent-name": "A respondent",
        "fueltype": fuel,
        "type-name": "A fuel",
        "value": value,
        "value-units": "megawatthours",
    }


def envelope(rows):
    response = {"total": str(len(rows)), "dateFormat": 'YYYY-MM-DD"T"HH24', "frequency": "hourly", "data": rows}
    return {"response": response, "request": {"command": PATH, "params": {"api_key": KEY}}, "apiVersion": "2.1.8"}


def archive(mixes, respondent="CISO"):
    """A server's answer: the rows between start and end, the newest first, at most `length`."""
    rows = [row(hour, fuel, value, respondent) for hour, mix in mixes.items() for fuel, value in mix.items()]

    def answer(asked):
        start, end = asked.parameters["start"], asked.parameters["end"]
        found = sorted((r for r in rows if start <= r["period"] <= end), key=lambda r: r["period"], reverse=True)
        return Reply(envelope(found[: int(asked.parameters["length"])]))

    return answer


@pytest.fixture
def grid():
    with FakeGrid() as grid:
        yield grid


def provider(grid, zone="US-CAL-CISO", **settings):
    return open_provider(Settings(url=grid.url, **settings), zone, {"CARBON_EIA_KEY": KEY})


def observe(grid, since=NOW - 10 * HOUR, **settings):
    return provider(grid, **settings).observe(BoundedWeb(), since, NOW)


def failure(grid, reply):
    grid.answers[PATH] = reply
    with pytest.raises(ProviderError) as error:
        observe(grid)
    assert KEY not in str(error.value)
    assert "?" not in str(error.value).split(": ")[0]
    return error.value


def test_hours_become_grams_and_begin_an_hour_before_their_name(grid):
    grid.answers[PATH] = archive({NOW_HOUR - 3: DAY, NOW_HOUR - 2: {"NG": 0, "WND": 100}})
    reading = observe(grid)
    first, second = reading.spans
    assert first.start_seconds == (NOW_HOUR - 3) * HOUR
    assert first.end_seconds == second.start_seconds == (NOW_HOUR - 2) * HOUR
    assert first.grams_per_kilowatt_hour == pytest.approx((300 * 490 + 100 * 11) / 400)
    assert second.grams_per_kilowatt_hour == pytest.approx(11)
    assert (reading.provider, reading.basis, reading.signal, first.estimated) == ("eia", "lifecycle", "average", False)


def test_the_basis_is_chosen(grid):
    grid.answers[PATH] = archive({NOW_HOUR - 3: DAY})
    reading = observe(grid, basis="direct")
    assert reading.basis == provider(grid, basis="direct").traits.basis == "direct"
    assert reading.spans[0].grams_per_kilowatt_hour == pytest.approx(300 * 370 / 400)


def test_what_is_asked(grid):
    grid.answers[PATH] = archive({NOW_HOUR - 3: DAY})
    observe(grid)
    (asked,) = grid.asked
    assert asked.parameters["api_key"] == KEY
    assert asked.parameters["facets[respondent][]"] == "CISO"
    assert asked.parameters["frequency"] == "hourly"
    assert asked.parameters["data[]"] == "value"
    assert asked.parameters["start"] == iso((NOW_HOUR - 10 + 1 - 24) * HOUR, "%Y-%m-%dT%H")
    assert asked.parameters["end"] == iso((NOW_HOUR + 1) * HOUR, "%Y-%m-%dT%H")


def test_a_month_takes_two_requests_and_has_every_hour_once(grid):
    mix = dict.fromkeys(("COL", "NG", "NUC", "OIL", "WAT", "SUN", "WND", "OTH", "GEO", "BAT", "PS"), 10)
    grid.answers[PATH] = archive({NOW_HOUR - back: mix for back in range(1, 900)})
    spans = observe(grid, since=NOW - 60 * 86_400).spans
    assert len(grid.asked) == 2
    assert [span.start_seconds for span in spans] == [hour * HOUR for hour in range(NOW_HOUR - 719, NOW_HOUR)]
    assert len({span.grams_per_kilowatt_hour for span in spans}) == 1


def test_an_answer_cut_at_the_limit_loses_its_oldest_hour(grid):
    fuels = ("COL", "NG", "NUC", "OIL", "WAT", "SUN", "WND", "OTH", "GEO", "BAT", "PS", "SNB", "UES", "UNK")
    mix = {fuel: 10 * number for number, fuel in enumerate(fuels)}
    grid.answers[PATH] = archive({NOW_HOUR - back: mix for back in range(1, 900)})
    spans = observe(grid, since=NOW - 60 * 86_400).spans
    assert len({span.grams_per_kilowatt_hour for span in spans}) == 1
    assert len(spans) == 2 * (5000 // 14)


def test_storage_and_own_use_have_no_part(grid):
    grid.answers[PATH] = archive({NOW_HOUR - 3: {**DAY, "SUN": -5, "BAT": 500, "PS": -200, "UES": 9, "OES": 9}})
    assert observe(grid).spans[0].grams_per_kilowatt_hour == pytest.approx((300 * 490 + 100 * 11) / 400)


def test_a_number_in_quotes_is_a_number_and_null_is_none(grid):
    grid.answers[PATH] = archive({NOW_HOUR - 3: {"NG": "300", "WND": "100.0", "OIL": None}})
    assert observe(grid).spans[0].grams_per_kilowatt_hour == pytest.approx((300 * 490 + 100 * 11) / 400)


def test_a_fuel_that_nobody_knows_counts_as_unknown(grid):
    grid.answers[PATH] = archive({NOW_HOUR - 3: {"XYZ": 100, "WND": 100}})
    assert observe(grid).spans[0].grams_per_kilowatt_hour == pytest.approx((700 + 11) / 2)


def test_the_newest_hour_is_not_believed_while_it_is_half_there(grid):
    grid.answers[PATH] = archive({NOW_HOUR - 4: DAY, NOW_HOUR - 3: {"WND": 100}, NOW_HOUR - 2: {"NG": None, "WND": 90}})
    # Also when only that hour is new.
    for since in (NOW - 10 * HOUR, (NOW_HOUR - 4) * HOUR):
        assert [span.start_seconds for span in observe(grid, since).spans] == [(NOW_HOUR - 4) * HOUR]


def test_a_gap_stays_a_gap_and_an_hour_of_nothing_is_one(grid):
    grid.answers[PATH] = archive({NOW_HOUR - 6: DAY, NOW_HOUR - 4: {"NG": 0, "WND": 0}, NOW_HOUR - 2: DAY})
    hours = [span.start_seconds / HOUR for span in observe(grid).spans]
    assert hours == [NOW_HOUR - 6, NOW_HOUR - 2]


def test_an_hour_that_is_not_over_is_not_taken(grid):
    grid.answers[PATH] = Reply(
        envelope([row(NOW_HOUR - 2, "NG", 1), row(NOW_HOUR, "NG", 1), row(2 * NOW_HOUR, "NG", 1)])
    )
    assert [span.start_seconds for span in observe(grid).spans] == [(NOW_HOUR - 2) * HOUR]


def test_no_rows_is_empty(grid):
    for body in (envelope([]), {}, {"response": {}}):
        error = failure(grid, Reply(body))
        assert error.reason == "empty"
        assert "CISO" in str(error)


def test_another_respondent_is_a_mismatch(grid):
    error = failure(grid, Reply(envelope([row(NOW_HOUR - 2, "NG", 1), row(NOW_HOUR - 2, "NG", 1, "PJM")])))
    assert error.reason == "zone_mismatch"
    assert "'PJM', not for 'CISO'" in str(error)


@pytest.mark.parametrize(
    "body",
    [
        [],
        "text",
        {"response": []},
        {"response": {"data": {}}},
        envelope([7]),
        envelope([{}]),
        envelope([row(NOW_HOUR, "NG", "many")]),
        envelope([row(NOW_HOUR, "NG", "nan")]),
        envelope([row(NOW_HOUR, "NG", True)]),
        envelope([row(NOW_HOUR, "NG", [1])]),
        envelope([{**row(NOW_HOUR, "NG", 1), "period": "yesterday"}]),
        envelope([{**row(NOW_HOUR, "NG", 1), "period": None}]),
        b"<html>",
    ],
)
def test_an_answer_of_another_shape_is_unreadable(grid, body):
    error = failure(grid, Reply(body))
    assert error.reason == "parse"
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (403, "API_KEY_INVALID", "auth"),
        (403, "API_KEY_MISSING", "auth"),
        (403, "FORBIDDEN", "forbidden"),
        (401, "UNAUTHORIZED", "auth"),
        (429, "OVER_RATE_LIMIT", "rate_limit"),
        (503, "DOWN", "server"),
        (302, "MOVED", "server"),
    ],
)
def test_a_refusal_tells_why_and_never_the_key(grid, status, code, reason):
    body = {"error": {"code": code, "message": f"The api_key {KEY} is not to be used"}}
    error = failure(grid, Reply(body, status, {"Retry-After": "77", "Location": f"/x?api_key={KEY}"}))
    assert (error.reason, error.retry_after_seconds) == (reason, 77)
    assert str(error).startswith(grid.url + PATH)


def test_the_key_is_in_no_repr(grid, tmp_path):
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    grid.answers[PATH] = archive({NOW_HOUR - 3: DAY})
    opened = open_provider(Settings(url=grid.url, key_file=file), "US-CAL-CISO", {})
    opened.observe(BoundedWeb(), NOW - HOUR * 9, NOW)
    assert grid.asked[0].parameters["api_key"] == KEY
    assert KEY not in repr(vars(opened)) + repr(opened)


@pytest.mark.parametrize(
    ("zone", "respondent"),
    [("US", "US48"), ("US-CAL", "CAL"), ("US-CAL-CISO", "CISO"), ("US-MIDA-PJM", "PJM"), ("US-TEX-ERCO", "ERCO")],
)
def test_a_zone_is_a_respondent(grid, zone, respondent):
    grid.answers[PATH] = archive({NOW_HOUR - 3: DAY}, respondent)
    assert provider(grid, zone).observe(BoundedWeb(), NOW - 9 * HOUR, NOW).spans
    assert grid.asked[0].parameters["facets[respondent][]"] == respondent


@pytest.mark.parametrize("zone", ["", "DE", "US-CA", "US-CAL-XXXX", "US-CISO", "US-XX-CISO", "US-CAL-CISO-X", "us-cal"])
def test_a_zone_that_it_does_not_know_is_a_clear_error(zone):
    with pytest.raises(ConfigurationError, match=rf"intensity\.grid_zone: eia does not know '{zone}'; it knows US,"):
        open_provider(Settings(), zone, {"CARBON_EIA_KEY": KEY})


def test_without_a_key_both_ways_are_named():
    with pytest.raises(ConfigurationError, match=r"set intensity\.eia\.key_file or .*CARBON_EIA_KEY"):
        open_by_name("eia", {}, "US", {})


@pytest.mark.parametrize("url", ["ftp://host", "http://user:word@host", "https://host/v2?api_key=1", "api.eia.gov"])
def test_a_url_that_is_none_is_refused(url):
    with pytest.raises(ConfigurationError, match=r"intensity\.eia\.url: must be http"):
        open_by_name("eia", {"eia": {"url": url}}, "US", {"CARBON_EIA_KEY": KEY})


def test_it_has_no_forecast_and_says_how_late_it_is(grid):
    traits = provider(grid).traits
    assert traits.horizon_seconds == 0
    assert 86_400 <= traits.lag_seconds <= traits.fresh_seconds < math.inf
    with pytest.raises(ProviderError, match="no forecast"):
        provider(grid).predict(BoundedWeb(), NOW)


def test_no_fuel_is_storage():
    assert not FUELS.keys() & STORAGE


@pytest.mark.parametrize("column", ["period", "respondent", "value"])
def test_a_key_that_an_answer_repeats_is_not_told(grid, column):
    bad = {**row(NOW_HOUR - 3, "NG", 100, "CISO"), column: KEY}
    assert "(the secret)" in str(failure(grid, Reply(envelope([bad]))))


def test_a_key_that_a_redirect_repeats_is_not_told(grid):
    assert "(the secret)" in str(failure(grid, Reply("", 302, {"Location": f"https://x.example/{KEY}/"})))


def test_a_key_file_that_is_missing_is_found_at_the_start(tmp_path):
    with pytest.raises(ConfigurationError, match=r"^intensity\.eia\.key_file: .*/nowhere: FileNotFoundError"):
        open_provider(Settings(key_file=tmp_path / "nowhere"), "US", {})
