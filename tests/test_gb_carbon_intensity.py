"""GB Carbon Intensity, played by a local server; the recorded answers are read where they are at hand."""

import json
from dataclasses import replace

import pytest
from fake_grid import FakeGrid, Reply, iso

from carbon_exporter.grid.web import BoundedWeb
from carbon_exporter.intensity.gb_carbon_intensity import Settings, open_provider
from carbon_exporter.model import ConfigurationError, ProviderError, Span
from carbon_exporter.plugins import open_provider as open_by_name

NOW = 1_893_554_640.0  # 2030-01-02 03:24
HALF = 1800.0
RUNNING = NOW - NOW % HALF
DAY = 86_400.0


def stamp(seconds):
    return iso(seconds, "%Y-%m-%dT%H:%MZ")


def row(start, forecast, actual="none", length=HALF):
    intensity = {"forecast": forecast, "actual": actual, "index": "moderate"}
    if actual == "none":
        del intensity["actual"]  # as in a region's answer
    return {"from": stamp(start), "to": stamp(start + length), "intensity": intensity}


def region(number, *rows):
    return {"regionid": number, "dnoregion": "Some Networks", "shortname": "Somewhere", "data": list(rows)}


def serve(reply, question, zone="GB", since=NOW - 3600):
    """Whatever the path, `reply`; the reading and the path that was asked for."""

    class Everywhere(dict):
        def get(self, path, default=None):
            return reply

    with FakeGrid() as grid:
        grid.answers = Everywhere()
        opened = open_provider(Settings(url=grid.url), zone, {})
        told = opened.observe(BoundedWeb(), since, NOW) if question == "observe" else opened.predict(BoundedWeb(), NOW)
        (path,) = grid.paths()
    return told, path


def failure(reply, question="observe", zone="GB"):
    with pytest.raises(ProviderError) as caught:
        serve(reply, question, zone)
    assert "\n" not in str(caught.value)
    return caught.value


def test_actual_values_win_and_the_forecast_stands_where_there_is_none():
    rows = [row(RUNNING - HALF, 150, 144), row(RUNNING, 160, None), row(RUNNING + HALF, None, None)]
    reading, path = serve(Reply({"data": rows}), "observe")
    assert reading.spans == (
        Span(RUNNING - HALF, RUNNING, 144.0, estimated=False),
        Span(RUNNING, RUNNING + HALF, 160.0, estimated=True),
    )
    assert (reading.provider, reading.basis, reading.signal) == ("gb_carbon_intensity", "operational", "average")
    assert path == f"/intensity/{stamp(RUNNING - 2 * 3600)}/{stamp(RUNNING + 2 * 3600)}"


def test_an_actual_zero_is_a_value():
    reading, _ = serve(Reply({"data": [row(RUNNING, 12, 0)]}), "observe")
    assert reading.spans == (Span(RUNNING, RUNNING + HALF, 0.0, estimated=False),)


def test_a_long_past_is_asked_for_in_one_range_of_fourteen_days():
    _, path = serve(Reply({"data": [row(RUNNING, 160, None)]}), "observe", since=NOW - 30 * DAY)
    end = RUNNING + 2 * 3600
    assert path == f"/intensity/{stamp(end - 14 * DAY)}/{stamp(end)}"


@pytest.mark.parametrize("listed", [True, False], ids=["list", "object"])
def test_a_region_comes_as_a_list_or_as_an_object(listed):
    told = region(5, row(RUNNING - HALF, 90), row(RUNNING, 95))
    reading, path = serve(Reply({"data": [told] if listed else told}), "observe", "GB-5")
    assert reading.spans == (
        Span(RUNNING - HALF, RUNNING, 90.0, estimated=True),
        Span(RUNNING, RUNNING + HALF, 95.0, estimated=True),
    )
    assert path == f"/regional/intensity/{stamp(RUNNING - 2 * 3600)}/{stamp(RUNNING + 2 * 3600)}/regionid/5"


@pytest.mark.parametrize(
    ("zone", "path"),
    [("GB", "/intensity/{now}/fw48h"), ("gb-17", "/regional/intensity/{now}/fw48h/regionid/17")],
)
def test_the_forecast_begins_now(zone, path):
    rows = [row(RUNNING - HALF, 140), row(RUNNING, 141), row(RUNNING + HALF, None), row(RUNNING + 2 * HALF, 143)]
    body = {"data": rows} if zone == "GB" else {"data": region(17, *rows)}
    reading, asked = serve(Reply(body), "predict", zone)
    assert [(s.start_seconds, s.grams_per_kilowatt_hour, s.estimated) for s in reading.spans] == [
        (RUNNING, 141.0, True),
        (RUNNING + 2 * HALF, 143.0, True),
    ]
    assert asked == path.format(now=stamp(RUNNING))


def test_a_forecast_that_ends_before_now_is_none():
    assert failure(Reply({"data": [row(RUNNING - HALF, 140)]}), "predict").reason == "empty"


ROW = row(RUNNING, 160, None)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply({}), "empty"),
        (Reply({"data": []}), "empty"),
        (Reply({"data": None}), "empty"),
        (Reply({"data": [row(RUNNING, None, None)]}), "empty"),
        (Reply({"data": ROW}), "parse"),
        (Reply([ROW]), "parse"),
        (Reply({"data": [[ROW]]}), "parse"),
        (Reply({"data": [{**ROW, "intensity": None}]}), "parse"),
        (Reply({"data": [{"from": ROW["from"], "intensity": {}}]}), "parse"),
        (Reply({"data": [row(RUNNING, 160, "150")]}), "parse"),
        (Reply({"data": [row(RUNNING, False, None)]}), "parse"),
        (Reply({"data": [row(RUNNING, -160, None)]}), "parse"),
        (Reply({"data": [row(RUNNING, 16_000, None)]}), "parse"),
        (Reply({"data": [row(RUNNING, 160, None, length=0)]}), "parse"),
        (Reply({"data": [row(RUNNING, 160, None, length=-HALF)]}), "parse"),
        (Reply({"data": [row(RUNNING, 160, None, length=DAY)]}), "parse"),
        (Reply({"data": [row(RUNNING, 160), row(RUNNING - HALF, 150)]}), "parse"),
        (Reply({"data": [{**ROW, "from": "03:00"}]}), "parse"),
        (Reply({"data": [ROW]}, cut=9), "parse"),
        (Reply("<html>"), "parse"),
        (Reply({"error": {"code": "400 Bad Request", "message": "no such period"}}, 400), "server"),
        (Reply({"error": {"code": "500 Internal Server Error", "message": "not found"}}, 500), "server"),
        (Reply("", 301, {"Location": "https://elsewhere.invalid/"}), "server"),
        (Reply("", 403), "forbidden"),
    ],
)
def test_a_bad_answer_has_a_reason(reply, reason):
    assert failure(reply).reason == reason


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply({}), "empty"),
        (Reply({"data": {}}), "empty"),
        (Reply({"data": region(5)}), "empty"),
        (Reply({"data": region(6, row(RUNNING, 90))}), "zone_mismatch"),
        (Reply({"data": [region(5, row(RUNNING, 90)), region(6, row(RUNNING, 80))]}), "zone_mismatch"),
        (Reply({"data": region("5", row(RUNNING, 90))}), "zone_mismatch"),
        (Reply({"data": [row(RUNNING, 90)]}), "parse"),
        (Reply({"data": {**region(5), "data": row(RUNNING, 90)}}), "parse"),
    ],
)
def test_a_bad_answer_for_a_region_has_a_reason(reply, reason):
    assert failure(reply, zone="GB-5").reason == reason


def test_what_the_service_says_is_in_the_message():
    error = failure(Reply({"error": {"code": "400 Bad Request", "message": "Use a period of 14 days"}}, 400))
    assert "Use a period of 14 days" in str(error)


def test_429_passes_on_how_long_to_wait():
    assert failure(Reply({}, 429, {"Retry-After": "600"})).retry_after_seconds == 600
    date = iso(NOW + 30, "%a, %d %b %Y %H:%M:%S GMT")
    assert failure(Reply({}, 429, {"Retry-After": date})).retry_after_seconds == 30


def test_a_gzipped_answer_is_read():
    reading, _ = serve(replace(Reply({"data": [ROW]}), gzipped=True), "observe")
    assert len(reading.spans) == 1


@pytest.mark.parametrize("zone", ["GB-0", "GB-18", "GB-NIR", "FR", "", "GB-05"])
def test_only_great_britain_and_its_regions_are_known(zone):
    with pytest.raises(ConfigurationError) as caught:
        open_provider(Settings(), zone, {})
    assert str(caught.value) == (
        f"intensity.grid_zone: gb_carbon_intensity does not know {zone!r}; it knows GB and GB-1 to GB-17"
    )


def test_it_is_found_by_its_name():
    traits = open_by_name("gb_carbon_intensity", {}, "GB-1", {}).traits
    assert (traits.basis, traits.fresh_seconds, traits.horizon_seconds) == ("operational", 3600, 172_800)
    assert traits.lag_seconds > traits.refresh_seconds


@pytest.fixture
def samples(repository):
    folder = repository.parent / "shared" / "data" / "api_samples" / "uk_carbon_intensity"
    if not folder.is_dir():
        pytest.skip(f"no recorded answers in {folder}")
    return folder


@pytest.mark.parametrize(
    ("name", "status", "zone", "expected"),
    [
        ("intensity_from_to.json", 200, "GB", [(263.0, False)]),
        ("intensity_from_fw48h.json", 200, "GB", [(263.0, False)]),
        ("real_intensity_fw24h_2020_emoncms_demandshaper.json", 200, "GB", [(146.0, True), (148.0, True)]),
        ("regional_intensity_from_to_regionid_regionid.json", 200, "GB-3", [(266.0, True)]),
        ("regional_regionid_regionid.json", 200, "GB-3", [(266.0, True)]),
        ("regional_regionid_regionid.json", 200, "GB-4", "zone_mismatch"),
        ("real_regional_range_postcode_shape_issue8.json", 200, "GB-13", "empty"),
        ("regional_england.json", 200, "GB-15", "parse"),
        ("intensity_stats_from_to.json", 200, "GB", "empty"),
        ("error_400_postcode.json", 400, "GB", "server"),
        ("error_500.json", 500, "GB", "server"),
    ],
)
def test_recorded_answers(samples, name, status, zone, expected):
    reply = Reply(json.loads((samples / name).read_text()), status)
    if isinstance(expected, str):
        assert failure(reply, zone=zone).reason == expected
    else:
        reading, _ = serve(reply, "observe", zone)
        assert [(s.grams_per_kilowatt_hour, s.estimated) for s in reading.spans] == expected
