"""Energi Data Service, played by a local server; the sample of the shape is read where it is at hand."""

import json
from dataclasses import replace

import pytest
from fake_grid import FakeGrid, Reply, iso

from carbon_exporter.grid.web import BoundedWeb
from carbon_exporter.intensity.energi_data_service import Settings, open_provider
from carbon_exporter.model import ConfigurationError, ProviderError, Span
from carbon_exporter.plugins import open_provider as open_by_name

STEP = 300.0
NOW = 1_893_554_640.0  # 2030-01-02 03:24
RUNNING = NOW - NOW % STEP
DAY = 86_400.0
MEASURED = "/dataset/CO2Emis"
PROGNOSIS = "/dataset/CO2EmisProg"
MINUTE = "%Y-%m-%dT%H:%M"


def row(start, grams, area="DK1"):
    return {
        "Minutes5UTC": iso(start, "%Y-%m-%dT%H:%M:%S"),
        "Minutes5DK": iso(start + 3600, "%Y-%m-%dT%H:%M:%S"),
        "PriceArea": area,
        "CO2Emission": grams,
    }


def records(*rows):
    return Reply({"total": len(rows), "limit": 0, "dataset": "CO2Emis", "records": list(rows)})


def ask(answers, question="observe", zone="DK-DK1", since=NOW - 3600):
    with FakeGrid(answers) as grid:
        opened = open_provider(Settings(url=grid.url), zone, {})
        told = opened.observe(BoundedWeb(), since, NOW) if question == "observe" else opened.predict(BoundedWeb(), NOW)
    return told, grid.asked


def failure(answers, question="observe"):
    with pytest.raises(ProviderError) as caught:
        ask(answers, question)
    assert "\n" not in str(caught.value)
    return caught.value


def test_the_measured_steps_in_utc():
    reading, (asked,) = ask({MEASURED: records(row(RUNNING - 2 * STEP, 101), row(RUNNING - STEP, 0.0))})
    assert reading.spans == (
        Span(RUNNING - 2 * STEP, RUNNING - STEP, 101.0, estimated=False),
        Span(RUNNING - STEP, RUNNING, 0.0, estimated=False),
    )
    assert (reading.provider, reading.basis, reading.signal) == ("energi_data_service", "operational", "average")
    assert asked.parameters == {
        "start": iso(NOW - 7200, MINUTE),
        "timezone": "UTC",
        "filter": '{"PriceArea":["DK1"]}',
        "columns": "Minutes5UTC,PriceArea,CO2Emission",
        "sort": "Minutes5UTC asc",
        "limit": "0",
    }


def test_the_whole_past_that_is_wanted_is_one_question():
    _, (asked,) = ask({MEASURED: records(row(RUNNING, 101))}, since=NOW - 30 * DAY)
    assert asked.parameters["start"] == iso(NOW - 30 * DAY, MINUTE)


def test_a_null_is_left_out():
    rows = [row(RUNNING - 2 * STEP, 101), row(RUNNING - STEP, None), row(RUNNING, 103)]
    reading, _ = ask({MEASURED: records(*rows)})
    assert [s.grams_per_kilowatt_hour for s in reading.spans] == [101.0, 103.0]


@pytest.mark.parametrize("zone", ["DK-DK2", "dk-dk2"])
def test_the_other_area(zone):
    reading, (asked,) = ask({MEASURED: records(row(RUNNING, 80, "DK2"))}, zone=zone)
    assert [s.grams_per_kilowatt_hour for s in reading.spans] == [80.0]
    assert asked.parameters["filter"] == '{"PriceArea":["DK2"]}'


def test_the_prognosis_follows_where_nothing_fresh_is_measured():
    old = row(RUNNING - 12 * STEP, 101)
    coming = [row(RUNNING - 12 * STEP, 90), row(RUNNING, 95), row(RUNNING + STEP, 96)]
    reading, asked = ask({MEASURED: records(old), PROGNOSIS: records(*coming)})
    assert [(s.grams_per_kilowatt_hour, s.estimated) for s in reading.spans] == [
        (101.0, False),
        (95.0, True),
        (96.0, True),
    ]
    assert [one.path for one in asked] == [MEASURED, PROGNOSIS]
    assert asked[1].parameters["start"] == iso(NOW - 1800, MINUTE)


def test_the_prognosis_alone_will_do():
    reading, _ = ask({MEASURED: records(), PROGNOSIS: records(row(RUNNING, 95))})
    assert reading.spans == (Span(RUNNING, RUNNING + STEP, 95.0, estimated=True),)


def test_old_measured_steps_are_kept_where_the_prognosis_fails():
    reading, _ = ask({MEASURED: records(row(RUNNING - 12 * STEP, 101)), PROGNOSIS: Reply({}, 429)})
    assert [s.grams_per_kilowatt_hour for s in reading.spans] == [101.0]


def test_nothing_at_all_is_an_error():
    assert failure({MEASURED: records(), PROGNOSIS: records()}).reason == "empty"


def test_a_refused_question_is_not_followed_by_another():
    with FakeGrid({MEASURED: Reply({}, 429, {"Retry-After": "60"})}) as grid:
        with pytest.raises(ProviderError) as caught:
            open_provider(Settings(url=grid.url), "DK-DK1", {}).observe(BoundedWeb(), NOW, NOW)
        assert grid.paths() == [MEASURED]
    assert (caught.value.reason, caught.value.retry_after_seconds) == ("rate_limit", 60)


def test_the_prognosis_from_now_on():
    rows = [row(RUNNING - STEP, 90), row(RUNNING, 91), row(RUNNING + STEP, None), row(RUNNING + 2 * STEP, 93)]
    reading, (asked,) = ask({PROGNOSIS: records(*rows)}, "predict")
    assert reading.spans == (
        Span(RUNNING, RUNNING + STEP, 91.0, estimated=True),
        Span(RUNNING + 2 * STEP, RUNNING + 3 * STEP, 93.0, estimated=True),
    )
    assert asked.parameters["start"] == iso(NOW - STEP, MINUTE)
    assert asked.parameters["sort"] == "Minutes5UTC asc"


def test_a_prognosis_of_the_past_is_none():
    assert failure({PROGNOSIS: records(row(RUNNING - STEP, 90))}, "predict").reason == "empty"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply({}), "empty"),
        (records(), "empty"),
        (records(row(RUNNING, None)), "empty"),
        (records(row(RUNNING, 91), row(RUNNING + STEP, 80, "DK2")), "zone_mismatch"),
        (Reply([row(RUNNING, 91)]), "parse"),
        (Reply({"records": row(RUNNING, 91)}), "parse"),
        (records("91"), "parse"),
        (records({"PriceArea": "DK1", "CO2Emission": 91}), "parse"),
        (records({"Minutes5UTC": "2030-01-02T03:20:00", "CO2Emission": 91}), "parse"),
        (records(row(RUNNING, "91")), "parse"),
        (records(row(RUNNING, True)), "parse"),
        (records(row(RUNNING, -0.5)), "parse"),
        (records(row(RUNNING, 2000.5)), "parse"),
        (records({**row(RUNNING, 91), "Minutes5UTC": 1_893_554_400}), "parse"),
        (records(row(RUNNING + STEP, 91), row(RUNNING, 92)), "parse"),
        (records(row(RUNNING, 91), row(RUNNING, 92)), "parse"),
        (Reply("<html>"), "parse"),
        (replace(records(row(RUNNING, 91)), cut=5), "parse"),
        (Reply("", 307, {"Location": "https://elsewhere.invalid/"}), "server"),
        (Reply({"message": "no such dataset"}, 404), "server"),
        (Reply({}, 429), "rate_limit"),
    ],
)
@pytest.mark.parametrize("question", ["observe", "predict"])
def test_a_bad_answer_has_a_reason(reply, reason, question):
    assert failure({MEASURED: reply, PROGNOSIS: reply}, question).reason == reason


def test_429_with_a_date():
    error = failure({MEASURED: Reply({}, 429, {"Retry-After": iso(NOW + 45, "%a, %d %b %Y %H:%M:%S GMT")})})
    assert error.retry_after_seconds == 45


def test_a_gzipped_answer_is_read():
    reading, _ = ask({MEASURED: replace(records(row(RUNNING, 91)), gzipped=True)})
    assert len(reading.spans) == 1


@pytest.mark.parametrize("zone", ["DK", "DK-DK3", "SE", ""])
def test_only_the_two_areas_are_known(zone):
    with pytest.raises(ConfigurationError) as caught:
        open_provider(Settings(), zone, {})
    assert str(caught.value) == (
        f"intensity.grid_zone: energi_data_service does not know {zone!r}; it knows DK-DK1, DK-DK2"
    )


def test_it_is_found_by_its_name_and_asks_once_a_minute():
    traits = open_by_name("energi_data_service", {}, "DK-DK1", {}).traits
    assert (traits.pace_seconds, traits.fresh_seconds) == (60, 1800)
    assert traits.lag_seconds > traits.refresh_seconds


@pytest.mark.parametrize(("rows", "expected"), [(1, [90.0]), (2, "zone_mismatch")])
def test_the_sample_of_the_shape(repository, rows, expected):
    name = "energidataservice_CO2EmisProg_synthetic_shape.json"
    file = repository.parent / "shared" / "data" / "api_samples" / name
    if not file.is_file():
        pytest.skip(f"no sample {file}")
    body = json.loads(file.read_text())
    body["records"] = body["records"][:rows]
    with FakeGrid({PROGNOSIS: Reply(body)}) as grid:
        opened = open_provider(Settings(url=grid.url), "DK-DK1", {})
        if isinstance(expected, list):
            reading = opened.predict(BoundedWeb(), 1_740_165_060.0)  # 2025-02-21 19:11
            assert [s.grams_per_kilowatt_hour for s in reading.spans] == expected
            assert reading.spans[0].start_seconds == 1_740_165_000.0
        else:
            with pytest.raises(ProviderError) as caught:
                opened.predict(BoundedWeb(), 1_740_165_060.0)
            assert caught.value.reason == expected
