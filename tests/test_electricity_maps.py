"""Electricity Maps, played by a local server; the recorded answers are read where they are at hand."""

import json
from dataclasses import replace

import pytest
from fake_grid import FakeGrid, Reply, iso

from carbon_exporter.grid.web import BoundedWeb
from carbon_exporter.intensity.electricity_maps import TOKEN_VARIABLE, Settings, open_provider
from carbon_exporter.model import ConfigurationError, ProviderError, Span
from carbon_exporter.plugins import open_provider as open_by_name

HOUR = 3600.0
NOW = 1_893_554_640.0  # 2030-01-02 03:24
THIS_HOUR = NOW - NOW % HOUR
DAY_AGO = NOW - 24 * HOUR
TOKEN = "tok-5ecret"
LATEST = "/carbon-intensity/latest"
HISTORY = "/carbon-intensity/history"
FORECAST = "/carbon-intensity/forecast"
REFUSED_QUESTION = {
    "error": "Request unauthorized for zoneKey=DK-DK1,requestType=forecast,dataType=carbon-intensity.",
    "message": "You do not have access to this endpoint.",
}


def stamp(seconds):
    return iso(seconds, "%Y-%m-%dT%H:%M:%S.000Z")


def row(start, grams, estimated=False, **more):
    return {
        "zone": "DK-DK1",
        "carbonIntensity": grams,
        "datetime": stamp(start),
        "updatedAt": stamp(start + 1260),
        "createdAt": stamp(start - 86_400),
        "emissionFactorType": "lifecycle",
        "flowTraced": True,
        "isEstimated": estimated,
        "estimationMethod": "SOME_METHOD" if estimated else None,
        **more,
    }


def latest(start=THIS_HOUR, grams=211, **more):
    return Reply({**row(start, grams, estimated=True), "temporalGranularity": "hourly", **more})


def history(*rows, **more):
    return Reply({"zone": "DK-DK1", "history": list(rows), "temporalGranularity": "hourly", **more})


def forecast(*values, start=THIS_HOUR):
    rows = [{"carbonIntensity": v, "datetime": stamp(start + n * HOUR)} for n, v in enumerate(values)]
    return Reply({"zone": "DK-DK1", "forecast": rows, "updatedAt": stamp(NOW), "temporalGranularity": "hourly"})


def provider(url, **more):
    return open_provider(Settings(url=url, **more), "DK-DK1", {TOKEN_VARIABLE: TOKEN})


def observe(answers, since=DAY_AGO, **more):
    with FakeGrid(answers) as grid:
        return provider(grid.url, **more).observe(BoundedWeb(), since, NOW), grid.asked


def failure(answers, since=DAY_AGO, now=NOW):
    with FakeGrid(answers) as grid, pytest.raises(ProviderError) as caught:
        provider(grid.url).observe(BoundedWeb(), since, now)
    assert "\n" not in str(caught.value)
    assert TOKEN not in str(caught.value)
    return caught.value


def test_the_history_with_the_running_hour_is_one_question():
    told = history(row(THIS_HOUR - HOUR, 205), row(THIS_HOUR, 211, estimated=True))
    reading, asked = observe({HISTORY: told})
    assert reading.spans == (
        Span(THIS_HOUR - HOUR, THIS_HOUR, 205.0, estimated=False),
        Span(THIS_HOUR, THIS_HOUR + HOUR, 211.0, estimated=True),
    )
    assert (reading.provider, reading.basis, reading.signal) == ("electricity_maps", "lifecycle", "average")
    assert [one.path for one in asked] == [HISTORY]


def test_every_question_names_the_zone_and_forbids_to_guess_it_and_the_token_is_a_header_alone():
    _, (asked,) = observe({LATEST: latest()}, since=NOW)
    assert asked.parameters == {"zone": "DK-DK1", "disableCallerLookup": "true", "emissionFactorType": "lifecycle"}
    assert asked.headers["auth-token"] == TOKEN
    assert TOKEN not in asked.url


def test_only_the_running_hour_is_asked_for_where_nothing_older_is_wanted():
    reading, asked = observe({LATEST: latest()}, since=THIS_HOUR + 60)
    assert reading.spans == (Span(THIS_HOUR, THIS_HOUR + HOUR, 211.0, estimated=True),)
    assert [one.path for one in asked] == [LATEST]


def test_the_running_hour_comes_from_latest_where_the_history_ends_before():
    reading, asked = observe({HISTORY: history(row(THIS_HOUR - HOUR, 205)), LATEST: latest()})
    assert [span.grams_per_kilowatt_hour for span in reading.spans] == [205.0, 211.0]
    assert [one.path for one in asked] == [HISTORY, LATEST]


@pytest.mark.parametrize("late", [Reply({}, 503), latest(grams=None), Reply(REFUSED_QUESTION, 401)])
def test_the_history_is_kept_where_latest_fails(late):
    reading, _ = observe({HISTORY: history(row(THIS_HOUR - HOUR, 205)), LATEST: late})
    assert [span.grams_per_kilowatt_hour for span in reading.spans] == [205.0]


def test_a_token_without_the_history_still_gives_the_running_hour():
    reading, _ = observe({HISTORY: Reply(REFUSED_QUESTION, 401), LATEST: latest()})
    assert [span.grams_per_kilowatt_hour for span in reading.spans] == [211.0]


def test_a_bad_token_is_not_tried_twice():
    with FakeGrid({HISTORY: Reply({"error": "Invalid auth-token"}, 401)}) as grid:
        with pytest.raises(ProviderError):
            provider(grid.url).observe(BoundedWeb(), DAY_AGO, NOW)
        assert grid.paths() == [HISTORY]


def test_null_hours_are_left_out_and_never_zero():
    rows = [row(THIS_HOUR - 2 * HOUR, 205), row(THIS_HOUR - HOUR, None), row(THIS_HOUR, 0)]
    reading, _ = observe({HISTORY: history(*rows)})
    assert [(s.start_seconds, s.grams_per_kilowatt_hour) for s in reading.spans] == [
        (THIS_HOUR - 2 * HOUR, 205.0),
        (THIS_HOUR, 0.0),
    ]


def test_direct_factors_are_asked_for_by_name_and_said():
    reading, (asked,) = observe({LATEST: latest(emissionFactorType="direct")}, since=NOW, emission_factor_type="direct")
    assert asked.parameters["emissionFactorType"] == "direct"
    assert reading.basis == "direct"


def test_the_length_of_a_span_is_what_the_answer_says():
    reading, _ = observe({LATEST: latest(temporalGranularity="15_minutes")}, since=NOW)
    assert reading.spans[0].end_seconds - reading.spans[0].start_seconds == 900.0


def test_an_answer_of_version_3_is_read_too():
    body = {k: v for k, v in row(THIS_HOUR, 689, estimated=True).items() if k != "flowTraced"}
    reading, _ = observe({LATEST: Reply(body)}, since=NOW)
    assert reading.spans == (Span(THIS_HOUR, THIS_HOUR + HOUR, 689.0, estimated=True),)


def test_the_forecast_is_estimated_and_begins_now():
    with FakeGrid({FORECAST: forecast(50, 60, None, 70, start=THIS_HOUR - HOUR)}) as grid:
        reading = provider(grid.url).predict(BoundedWeb(), NOW)
        (asked,) = grid.asked
    assert reading.spans == (
        Span(THIS_HOUR, THIS_HOUR + HOUR, 60.0, estimated=True),
        Span(THIS_HOUR + 2 * HOUR, THIS_HOUR + 3 * HOUR, 70.0, estimated=True),
    )
    assert asked.parameters["horizonHours"] == "72"
    assert asked.parameters["disableCallerLookup"] == "true"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(REFUSED_QUESTION, 401), "forbidden"),
        (forecast(50, start=THIS_HOUR - HOUR), "empty"),
        (Reply({"zone": "DK-DK1", "forecast": []}), "empty"),
    ],
)
def test_no_forecast_has_a_reason(reply, reason):
    with FakeGrid({FORECAST: reply}) as grid, pytest.raises(ProviderError) as caught:
        provider(grid.url).predict(BoundedWeb(), NOW)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"error": "Invalid auth-token"}, "auth"),
        (REFUSED_QUESTION, "forbidden"),
        ({"message": "Too many of them today"}, "rate_limit"),
        ("", "rate_limit"),
        ([1], "rate_limit"),
    ],
)
def test_401_means_three_things(body, reason):
    assert failure({LATEST: Reply(body, 401)}, since=NOW).reason == reason


def test_429_passes_on_how_long_to_wait():
    assert failure({LATEST: Reply({}, 429, {"Retry-After": "90"})}, since=NOW).retry_after_seconds == 90
    date = iso(NOW + 120, "%a, %d %b %Y %H:%M:%S GMT")
    error = failure({LATEST: Reply({}, 429, {"Retry-After": date})}, since=NOW)
    assert (error.reason, error.retry_after_seconds) == ("rate_limit", 120)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (latest(grams=None), "empty"),
        (Reply({}), "empty"),
        (Reply({"_disclaimer": "..", "status": "no-data", "countryCode": "DK", "data": {}, "units": {}}), "empty"),
        (Reply({"zone": "DK-DK1", "status": "no-data"}), "empty"),
        (latest(zone="NO-NO2"), "zone_mismatch"),
        (latest(zone=None), "zone_mismatch"),
        (Reply([row(THIS_HOUR, 211)]), "parse"),
        (latest(grams="211"), "parse"),
        (latest(grams=True), "parse"),
        (latest(grams=-1), "parse"),
        (latest(grams=2001), "parse"),
        (latest(datetime="today"), "parse"),
        (latest(datetime=1_893_553_200), "parse"),
        (latest(start=THIS_HOUR + 400 * 86_400), "parse"),
        (latest(isEstimated="yes"), "parse"),
        (latest(emissionFactorType="direct"), "parse"),
        (latest(temporalGranularity=["hourly"]), "parse"),
        (Reply("<html>"), "parse"),
        (replace(latest(), cut=9), "parse"),
        (Reply({"message": "no such route"}, 404), "server"),
        (Reply("upstream", 503), "server"),
        (Reply("", 302, {"Location": "https://elsewhere.invalid/?token=x"}), "server"),
        (Reply({"error": f"bad: {TOKEN}"}, 403), "forbidden"),
    ],
)
def test_a_bad_answer_has_a_reason(reply, reason):
    assert failure({LATEST: reply}, since=NOW).reason == reason


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (history(row(THIS_HOUR, 211), row(THIS_HOUR - HOUR, 205)), "parse"),
        (history(row(THIS_HOUR, 211), row(THIS_HOUR, 205)), "parse"),
        (history(row(THIS_HOUR, 211, zone="DE")), "zone_mismatch"),
        (history(row(THIS_HOUR, 211), zone="DE"), "zone_mismatch"),
        (history(row(THIS_HOUR, 211, emissionFactorType="direct")), "parse"),
        (history(7), "parse"),
        (Reply({"zone": "DK-DK1", "history": {"carbonIntensity": 211}}), "parse"),
    ],
)
def test_a_bad_history_has_a_reason(reply, reason):
    assert failure({HISTORY: reply, LATEST: latest()}).reason == reason


def test_a_gzipped_answer_is_read():
    reading, _ = observe({LATEST: replace(latest(), gzipped=True)}, since=NOW)
    assert len(reading.spans) == 1


def test_the_token_is_read_anew_for_each_question_and_shows_nowhere(tmp_path):
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    with FakeGrid({LATEST: latest()}) as grid:
        opened = open_by_name(
            "electricity_maps", {"electricity_maps": {"url": grid.url, "token_file": file}}, "dk-dk1", {}
        )
        opened.observe(BoundedWeb(), NOW, NOW)
        file.write_text("tok-new")
        opened.observe(BoundedWeb(), NOW, NOW)
        assert [asked.headers["auth-token"] for asked in grid.asked] == [TOKEN, "tok-new"]
    shown = f"{opened!r} {vars(opened)!r} {opened.traits!r}"
    assert "tok-" not in shown


def test_without_a_token_both_ways_to_give_one_are_named():
    with pytest.raises(ConfigurationError, match=rf"intensity\.electricity_maps: .*token_file.*{TOKEN_VARIABLE}"):
        open_provider(Settings(), "DK-DK1", {})


def test_a_token_file_that_cannot_be_read_is_found_at_the_start(tmp_path):
    with pytest.raises(ConfigurationError, match=r"^intensity\.electricity_maps\.token_file: .*/nowhere: "):
        open_provider(Settings(token_file=tmp_path / "nowhere"), "DK-DK1", {})


@pytest.mark.parametrize(
    "reply",
    [
        Reply("", 302, {"Location": f"https://x.example/{TOKEN}/"}),
        Reply({"error": f"token {TOKEN}"}, 401),
        latest(zone=TOKEN),
        latest(temporalGranularity=TOKEN),
        latest(emissionFactorType=TOKEN),
        latest(datetime=TOKEN),
    ],
)
def test_a_token_that_an_answer_repeats_is_not_told(reply):
    assert "(the secret)" in str(failure({LATEST: reply}, since=NOW))


def test_without_a_zone_it_does_not_start():
    with pytest.raises(ConfigurationError, match=r"intensity\.grid_zone"):
        open_provider(Settings(), "", {TOKEN_VARIABLE: TOKEN})


@pytest.mark.parametrize("url", ["ftp://host", "https://host/v4?zone=DE", "https://user:pw@host", "host"])
def test_only_a_plain_url_will_do(url):
    with pytest.raises(ConfigurationError, match=r"intensity\.electricity_maps\.url"):
        open_by_name("electricity_maps", {"electricity_maps": {"url": url}}, "DE", {TOKEN_VARIABLE: TOKEN})


SAMPLES = [
    # file, zone, question, how many spans, first and last grams or the reason of the failure
    ("v4_carbon_intensity_latest.json", 200, "DK-DK2", "latest", [75.0]),
    ("v4_carbon_intensity_history_last4of24.json", 200, "DK-DK2", "history", [78.0, 72.0, 70.0, 75.0]),
    ("v3_latest_carbon_intensity.json", 200, "US-CAR-DUK", "latest", [216.0]),
    ("v3_response.json", 200, "DE", "latest", "empty"),
    ("v3_latest_power_breakdown.json", 200, "DE", "latest", "empty"),
    ("v4_carbon_intensity_latest.json", 200, "DE", "latest", "zone_mismatch"),
    ("v3_error_401_invalid_token.json", 401, "DE", "latest", "auth"),
    ("v4_error_401_no_access.json", 401, "DK-DK2", "history", "forbidden"),
    ("error_404_dead_gateway_2024-01-31.json", 404, "DE", "latest", "server"),
]


@pytest.fixture
def samples(repository):
    folder = repository.parent / "shared" / "data" / "api_samples" / "electricity_maps"
    if not folder.is_dir():
        pytest.skip(f"no recorded answers in {folder}")
    return folder


@pytest.mark.parametrize(("name", "status", "zone", "question", "expected"), SAMPLES)
def test_recorded_answers(samples, name, status, zone, question, expected):
    body = json.loads((samples / name).read_text())
    now = 1_787_419_440.0 if name.startswith("v4") else NOW  # 2026-08-22 17:24
    since = now - 86_400 if question == "history" else now
    with FakeGrid({f"/carbon-intensity/{question}": Reply(body, status)}) as grid:
        opened = open_provider(Settings(url=grid.url), zone, {TOKEN_VARIABLE: TOKEN})
        if isinstance(expected, list):
            reading = opened.observe(BoundedWeb(), since, now)
            assert [span.grams_per_kilowatt_hour for span in reading.spans] == expected
        else:
            with pytest.raises(ProviderError) as caught:
                opened._ask(BoundedWeb(), question, now)
            assert caught.value.reason == expected


def test_the_recorded_forecast(samples):
    body = json.loads((samples / "v4_carbon_intensity_forecast.json").read_text())
    now = 1_787_420_064.0
    with FakeGrid({FORECAST: Reply(body)}) as grid:
        reading = open_provider(Settings(url=grid.url), "DK-DK2", {TOKEN_VARIABLE: TOKEN}).predict(BoundedWeb(), now)
    assert len(reading.spans) == 25
    assert (reading.spans[0].grams_per_kilowatt_hour, reading.spans[-1].grams_per_kilowatt_hour) == (77.0, 135.0)
    assert all(span.estimated for span in reading.spans)
