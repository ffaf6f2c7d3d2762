"""ENTSO-E: generation documents into grams, against a server that answers as the platform does."""

import pytest
from fake_grid import FakeGrid, Reply, iso

from carbon_exporter.grid.web import BoundedWeb
from carbon_exporter.intensity.entsoe import Settings, open_provider
from carbon_exporter.intensity.entsoe.areas import AREAS
from carbon_exporter.intensity.entsoe.document import FUELS, STORAGE
from carbon_exporter.model import ConfigurationError, ProviderError
from carbon_exporter.plugins import open_provider as open_by_name

TOKEN = "0b5f9a6e-70ken-of-a-test"
FRANCE = "10YFR-RTE------C"
HOUR = 3600
NOON = 500_000 * HOUR
NOW = NOON + 6.5 * HOUR
GENERATION = "urn:iec62325.351:tc57wg16:451-6:generationloaddocument:3:0"
ACKNOWLEDGEMENT = "urn:iec62325.351:tc57wg16:451-1:acknowledgementdocument:7:0"
STEPS = {"PT15M": 900, "PT30M": 1800, "PT60M": 3600}


def period(points, resolution="PT60M", start=NOON, count=None):
    """`points`: quantities by position, or all of them in a list."""
    points = points if isinstance(points, dict) else dict(enumerate(points, 1))
    end = start + STEPS.get(resolution, HOUR) * (count or max(points, default=1))
    lines = "".join(f"<Point><position>{p}</position><quantity>{q}</quantity></Point>" for p, q in points.items())
    interval = f"<start>{iso(start, '%Y-%m-%dT%H:%MZ')}</start><end>{iso(end, '%Y-%m-%dT%H:%MZ')}</end>"
    return f"<Period><timeInterval>{interval}</timeInterval><resolution>{resolution}</resolution>{lines}</Period>"


def series(code, *periods, curve="A01", area=FRANCE, side="in"):
    return (
        f"<TimeSeries><mRID>1</mRID><businessType>A01</businessType><objectAggregation>A08</objectAggregation>"
        f'<{side}BiddingZone_Domain.mRID codingScheme="A01">{area}</{side}BiddingZone_Domain.mRID>'
        f"<quantity_Measure_Unit.name>MAW</quantity_Measure_Unit.name><curveType>{curve}</curveType>"
        f"<MktPSRType><psrType>{code}</psrType></MktPSRType>{''.join(periods)}</TimeSeries>"
    )


def document(*parts, head=""):
    body = f"<mRID>a</mRID><type>A75</type><process.processType>A16</process.processType>{''.join(parts)}"
    xml = f'<?xml version="1.0" encoding="UTF-8"?>\n{head}<GL_MarketDocument xmlns="{GENERATION}">{body}'
    return xml + "</GL_MarketDocument>"


def acknowledgement(text, code="999"):
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><Acknowledgement_MarketDocument xmlns="{ACKNOWLEDGEMENT}">'
        f"<mRID>a</mRID><Reason><code>{code}</code><text>{text}</text></Reason></Acknowledgement_MarketDocument>"
    )


NO_DATA = acknowledgement(
    "No matching data found for Data item AGGREGATED_GENERATION_PER_TYPE_R3 [16.1.B and C] and interval ..."
)


@pytest.fixture
def grid():
    with FakeGrid() as grid:
        yield grid


def provider(grid, zone="FR", **settings):
    return open_provider(Settings(url=f"{grid.url}/api", **settings), zone, {"CARBON_ENTSOE_TOKEN": TOKEN})


def observe(grid, *parts, since=NOON, **settings):
    if parts:
        grid.answers["/api"] = Reply(document(*parts), headers={"Content-Type": "text/xml"})
    return provider(grid, **settings).observe(BoundedWeb(), since, NOW)


def rows(reading):
    return [((span.start_seconds - NOON) / HOUR, round(span.grams_per_kilowatt_hour, 3)) for span in reading.spans]


def failure(grid, reply):
    grid.answers["/api"] = reply
    with pytest.raises(ProviderError) as error:
        observe(grid)
    assert TOKEN not in str(error.value)
    assert str(error.value).startswith(f"{grid.url}/api: ")
    assert "\n" not in str(error.value)
    return error.value


def test_generation_becomes_grams(grid):
    reading = observe(grid, series("B14", period([300, 400])), series("B04", period([100, 0])))
    assert rows(reading) == [(0, round((300 * 12 + 100 * 490) / 400, 3)), (1, 12)]
    assert {span.end_seconds - span.start_seconds for span in reading.spans} == {HOUR}
    assert (reading.provider, reading.basis, reading.spans[0].estimated) == ("entsoe", "lifecycle", False)


def test_the_basis_is_chosen(grid):
    reading = observe(grid, series("B14", period([300])), series("B04", period([100])), basis="direct")
    assert rows(reading) == [(0, 92.5)]
    assert reading.basis == provider(grid, basis="direct").traits.basis == "direct"


def test_what_is_asked(grid):
    observe(grid, series("B14", period([300])))
    (asked,) = grid.asked
    assert asked.parameters == {
        "securityToken": TOKEN,
        "documentType": "A75",
        "processType": "A16",
        "in_Domain": FRANCE,
        "periodStart": iso(NOON - 24 * HOUR, "%Y%m%d%H%M"),
        "periodEnd": iso(NOON + 7 * HOUR, "%Y%m%d%H%M"),
    }


def test_a_month_takes_two_requests_and_a_window_without_data_is_no_failure(grid):
    answers = {iso(NOON + 7 * HOUR, "%Y%m%d%H%M"): document(series("B14", period([300])))}
    grid.answers["/api"] = lambda asked: Reply(answers.get(asked.parameters["periodEnd"], NO_DATA))
    assert rows(observe(grid, since=NOON - 90 * 86_400)) == [(0, 12)]
    first, second = (asked.parameters for asked in grid.asked)
    assert first["periodEnd"] == second["periodStart"] == iso(NOON + 7 * HOUR - 15 * 86_400, "%Y%m%d%H%M")
    assert first["periodStart"] == iso(NOON + 7 * HOUR - 30 * 86_400, "%Y%m%d%H%M")


def test_quarter_hours_beside_hours(grid):
    reading = observe(grid, series("B14", period([300])), series("B18", period([100, 300, 0, 300], "PT15M")))
    expected = [(300 * 12 + 11 * wind) / (300 + wind) for wind in (100, 300, 0, 300)]
    assert rows(reading) == [(index / 4, round(grams, 3)) for index, grams in enumerate(expected)]
    assert {span.end_seconds - span.start_seconds for span in reading.spans} == {900}


def test_half_hours(grid):
    reading = observe(grid, series("B14", period([300, 300], "PT30M")))
    assert rows(reading) == [(0, 12), (0.5, 12)]


def test_in_curve_a03_a_point_left_out_is_as_the_one_before(grid):
    gas = series("B04", period([100, 100, 100, 100, 100]))
    wind = series("B19", period({1: 100, 4: 300}, count=5), curve="A03")
    high, low = round((490 + 11) / 2, 3), round((490 + 3 * 11) / 4, 3)
    assert rows(observe(grid, gas, wind)) == [(0, high), (1, high), (2, high), (3, low), (4, low)]


def test_in_another_curve_a_point_left_out_is_unknown(grid):
    gas = series("B04", period([100, 100, 100]))
    assert rows(observe(grid, gas, series("B19", period({1: 100, 3: 100}, count=3)))) == [(0, 250.5), (2, 250.5)]


def test_a_series_in_several_periods_and_several_series_of_one_type(grid):
    later = period([200], start=NOON + 2 * HOUR)
    assert rows(observe(grid, series("B04", period([100]), later), series("B04", period([7], start=NOON + HOUR)))) == [
        (0, 490),
        (1, 490),
        (2, 490),
    ]


def test_consumption_and_storage_are_no_generation(grid):
    reading = observe(
        grid,
        series("B14", period([300])),
        series("B10", period([900])),
        series("B25", period([900])),
        series("B10", period([900]), side="out"),
        series("B16", period([900]), side="out"),
        series("B05", period([-5])),
    )
    assert rows(reading) == [(0, 12)]


def test_a_type_that_nobody_knows_counts_as_unknown(grid):
    reading = observe(grid, series("B14", period([100])), series("B99", period([100])))
    assert rows(reading) == [(0, (12 + 700) / 2)]


def test_the_newest_time_is_not_believed_while_it_is_half_there(grid):
    solar = period([80] * 6, "PT15M")
    reading = observe(grid, series("B14", period([100, 100])), series("B16", solar))
    assert len(reading.spans) == 6


def test_what_was_before_and_what_is_to_come_is_left_out(grid):
    long = period([100] * 48, start=NOON - 24 * HOUR)
    starts = [hour for hour, _ in rows(observe(grid, series("B14", long), since=NOON))]
    assert starts == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("status", [200, 400])
def test_no_matching_data_is_empty(grid, status):
    error = failure(grid, Reply(NO_DATA, status))
    assert error.reason == "empty"
    assert FRANCE in str(error)


def test_a_document_without_generation_is_empty(grid):
    assert failure(grid, Reply(document())).reason == "empty"
    assert failure(grid, Reply(document(series("B14", period([300]), side="out")))).reason == "empty"


@pytest.mark.parametrize(
    ("status", "text", "reason"),
    [
        (401, f"Authentication failed: {TOKEN}", "auth"),
        (200, f"Security token {TOKEN} is not valid", "auth"),
        (400, "Missing or invalid\n security token", "auth"),
        (429, "Too many requests", "rate_limit"),
        (400, "The requested period exceeds one year", "server"),
        (503, "Maintenance", "server"),
    ],
)
def test_an_acknowledgement_tells_why_and_never_the_token(grid, status, text, reason):
    error = failure(grid, Reply(acknowledgement(text), status, {"Retry-After": "600"}))
    assert (error.reason, error.retry_after_seconds) == (reason, 600)
    assert text.split()[0] in str(error)


@pytest.mark.parametrize(
    ("status", "reason"), [(401, "auth"), (403, "forbidden"), (429, "rate_limit"), (500, "server"), (302, "server")]
)
@pytest.mark.parametrize("body", [{"error": f"token {TOKEN}"}, "<html><p>down</p></html>", ""])
def test_another_refusal_tells_why_and_never_the_token(grid, status, reason, body):
    reply = Reply(body, status, {"Location": f"/login?securityToken={TOKEN}"})
    assert failure(grid, reply).reason == reason


def test_another_area_is_a_mismatch(grid):
    error = failure(grid, Reply(document(series("B14", period([1]), area="10YBE----------2"))))
    assert error.reason == "zone_mismatch"
    assert "'10YBE----------2', not '10YFR-RTE------C'" in str(error)


def one(point="<position>1</position><quantity>1</quantity>", resolution="PT60M", start=None, end=None):
    start = start or iso(NOON, "%Y-%m-%dT%H:%MZ")
    end = end or iso(NOON + HOUR, "%Y-%m-%dT%H:%MZ")
    return document(
        series(
            "B14",
            f"<Period><timeInterval><start>{start}</start><end>{end}</end></timeInterval>"
            f"<resolution>{resolution}</resolution><Point>{point}</Point></Period>",
        )
    )


@pytest.mark.parametrize(
    "body",
    [
        {},
        "",
        "<html></html>",
        "<GL_MarketDocument",
        b"\xff\xfe<\x00",
        one("<position>1</position>"),
        one("<quantity>1</quantity>"),
        one("<position>1</position><quantity>much</quantity>"),
        one("<position>1</position><quantity>inf</quantity>"),
        one("<position>2</position><quantity>1</quantity>"),
        one("<position>0</position><quantity>1</quantity>"),
        one("<position>one</position><quantity>1</quantity>"),
        one(resolution="P1D"),
        one(start="yesterday"),
        one(end=iso(NOON, "%Y-%m-%dT%H:%MZ")),
        one(end="9999-01-01T00:00Z"),
        document(f"<TimeSeries><inBiddingZone_Domain.mRID>{FRANCE}</inBiddingZone_Domain.mRID></TimeSeries>"),
    ],
)
def test_an_answer_of_another_shape_is_unreadable(grid, body):
    assert failure(grid, Reply(body)).reason == "parse"


LAUGHS = "<!DOCTYPE a [<!ENTITY a 'ha'>" + "".join(
    f"<!ENTITY {name} '{f'&{before};' * 10}'>" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "head",
    [
        "<!DOCTYPE a [<!ENTITY x 'B14'>]>",
        "<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/hostname'>]>",
        LAUGHS + "<!ENTITY x '&i;'>]>",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_never_expanded(grid, head, encoding):
    xml = document(series("&x;", period([300])), head=head)
    body = xml.replace("UTF-8", encoding.upper()).encode(encoding)
    assert failure(grid, Reply(body)).reason == "parse"


def test_the_token_is_in_no_repr(grid, tmp_path):
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    grid.answers["/api"] = Reply(document(series("B14", period([300]))))
    opened = open_provider(Settings(url=f"{grid.url}/api", token_file=file), "FR", {})
    opened.observe(BoundedWeb(), NOON, NOW)
    assert grid.asked[0].parameters["securityToken"] == TOKEN
    assert TOKEN not in repr(vars(opened)) + repr(opened)


def test_a_code_of_ones_own_adds_a_zone_or_replaces_one(grid):
    for zone in ("XX", "FR"):
        opened = provider(grid, zone, eic={zone: "10Y1001A1001A92E"})
        grid.answers["/api"] = Reply(document(series("B14", period([300]), area="10Y1001A1001A92E")))
        assert opened.observe(BoundedWeb(), NOON, NOW).spans


def test_a_zone_that_it_does_not_know_is_a_clear_error():
    with pytest.raises(
        ConfigurationError, match=r"intensity\.grid_zone: entsoe does not know 'US'; it knows AL, .*eic"
    ):
        open_provider(Settings(), "US", {"CARBON_ENTSOE_TOKEN": TOKEN})


def test_without_a_token_both_ways_are_named():
    with pytest.raises(ConfigurationError, match=r"set intensity\.entsoe\.token_file or .*CARBON_ENTSOE_TOKEN"):
        open_by_name("entsoe", {}, "FR", {})


@pytest.mark.parametrize(
    "section", [{"eic": {"XX": "10YFR"}}, {"url": "https://a/api?securityToken=1"}, {"basis": "x"}]
)
def test_a_bad_setting_is_named(section):
    with pytest.raises(ConfigurationError, match=rf"intensity\.entsoe\.{next(iter(section))}"):
        open_by_name("entsoe", {"entsoe": section}, "FR", {"CARBON_ENTSOE_TOKEN": TOKEN})


@pytest.mark.parametrize("code", AREAS.values())
def test_every_code_has_the_right_check_character(code):
    """EIC reference manual: weights 16 to 2, and 37 less the remainder."""
    alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ-"
    total = sum(alphabet.index(letter) * weight for letter, weight in zip(code, range(16, 1, -1), strict=False))
    assert len(code) == 16
    assert alphabet[36 - (total - 1) % 37] == code[15]


def test_no_two_zones_have_one_code():
    assert len(set(AREAS.values())) == len(AREAS)
    assert not FUELS.keys() & STORAGE


def test_it_has_no_forecast(grid):
    assert provider(grid).traits.horizon_seconds == 0
    with pytest.raises(ProviderError, match="no forecast"):
        provider(grid).predict(BoundedWeb(), NOW)


@pytest.mark.parametrize(
    "reply",
    [
        Reply("", 302, {"Location": f"https://x.example/{TOKEN}/"}),
        Reply(document(series("B04", period([1]), area=TOKEN[:18]))),
        Reply(document(series("B04", period([1]).replace("PT60M", TOKEN[:18])))),
        Reply(document(series("B04", period([TOKEN])))),
        Reply(acknowledgement("x" * 190 + TOKEN), 400),
    ],
)
def test_a_token_that_an_answer_repeats_is_not_told(grid, reply):
    message = str(failure(grid, reply))
    assert "(the secret)" in message
    assert TOKEN[:8] not in message


def test_a_token_file_that_is_missing_is_found_at_the_start(tmp_path):
    with pytest.raises(ConfigurationError, match=r"^intensity\.entsoe\.token_file: .*/nowhere: FileNotFoundError"):
        open_provider(Settings(token_file=tmp_path / "nowhere"), "FR", {})
