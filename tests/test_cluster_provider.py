"""The provider `cluster`: what a node makes of the forecast service's answer."""

import base64

import pytest
from fake_grid import FakeGrid, Reply

from carbon_exporter.grid.web import BoundedWeb
from carbon_exporter.intensity.cluster import AHEAD_SECONDS, Settings, open_provider
from carbon_exporter.model import ConfigurationError, ProviderError, Span
from carbon_exporter.settings import validated

NOW = 1_800_000_000.0
PATH = "/api/v1/intensity"


def told(**changes):
    """An answer of the service: an hour of quarters measured, one told for the time to come, then hours to come."""
    spans = [[NOW - 3600 + 900 * i, NOW - 2700 + 900 * i, 200.0 + i, 0] for i in range(4)]
    spans += [[NOW, NOW + 900, 210.5, 1], [NOW + 900, NOW + 7800, 230, 1], [NOW + 7800, NOW + 12_000, 240, 1]]
    return {
        "zone": "DE",
        "signal": "average",
        "provider": "energy_charts",
        "basis": "unspecified",
        "fallback_level": 1,
        "estimated": True,
        "grams_per_kilowatt_hour": 210.5,
        "data_timestamp_seconds": NOW - 900,
        "licence": "a licence",
        "told_until_seconds": NOW + 900,
        "spans": spans,
        "outlook": None,
        **changes,
    }


def open_for(grid, environment=None, **settings):
    return open_provider(Settings(url=grid.url, **settings), "DE", environment or {})


def observe(provider, since=0.0, now=NOW):
    return provider.observe(BoundedWeb(answer_seconds=2), since, now)


def failing(grid, provider=None, **arguments):
    with pytest.raises(ProviderError) as caught:
        observe(provider or open_for(grid), **arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return caught.value.reason, message


def test_the_services_answer_is_taken_as_it_is():
    with FakeGrid({PATH: Reply(told())}) as grid:
        reading = observe(open_for(grid))
    assert (reading.provider, reading.basis, reading.signal, reading.fallback_level) == (
        "energy_charts",
        "unspecified",
        "average",
        1,
    )
    assert reading.data_timestamp_seconds == NOW - 900
    assert reading.spans[0] == Span(NOW - 3600, NOW - 2700, 200.0)
    assert reading.spans[4] == Span(NOW, NOW + 900, 210.5, estimated=True)


def test_it_asks_for_its_zone_and_holds_no_connection():
    with FakeGrid({PATH: Reply(told())}) as grid:
        observe(open_for(grid))
        (asked,) = grid.asked
    assert asked.parameters == {"zone": "DE"}
    assert asked.headers["connection"] == "close"
    assert "authorization" not in asked.headers
    assert "if-none-match" not in asked.headers


def test_it_keeps_what_was_asked_for_and_two_hours_ahead():
    with FakeGrid({PATH: Reply(told())}) as grid:
        provider = open_for(grid)
        reading = observe(provider, since=NOW - 1800)
        assert reading.spans[0].end_seconds == NOW - 900
        assert reading.spans[-1].start_seconds == NOW + 900
        later = observe(provider, since=NOW - 1800, now=NOW + 7800 - AHEAD_SECONDS)
        assert later.spans[-1].start_seconds == NOW + 7800


def conditional(tag):
    def answer(asked):
        if asked.headers.get("if-none-match") == tag:
            return Reply(b"", 304, {"ETag": tag})
        return Reply(told(), headers={"ETag": tag})

    return answer


def test_an_unchanged_answer_comes_as_304_and_is_the_same_reading():
    with FakeGrid({PATH: conditional('"a"')}) as grid:
        provider = open_for(grid)
        first = observe(provider)
        assert observe(provider) is first
        assert [asked.headers.get("if-none-match") for asked in grid.asked] == [None, '"a"']
        assert observe(provider, now=NOW + 1800).spans[-1].start_seconds == NOW + 7800
        grid.answers[PATH] = Reply(told(provider="static"), headers={"ETag": '"b"'})
        changed = observe(provider)
        assert (changed.provider, changed is first) == ("static", False)
        observe(provider)
        assert grid.asked[-1].headers["if-none-match"] == '"b"'


def test_a_304_that_nobody_asked_for_is_no_answer():
    with FakeGrid({PATH: Reply(b"", 304)}) as grid:
        assert failing(grid)[0] == "server"


def test_a_failure_between_keeps_the_condition():
    with FakeGrid({PATH: conditional('"a"')}) as grid:
        provider = open_for(grid)
        first = observe(provider)
        grid.answers[PATH] = Reply({"error": "nothing is known"}, 503)
        assert failing(grid, provider)[0] == "empty"
        grid.answers[PATH] = conditional('"a"')
        assert observe(provider) is first


@pytest.mark.parametrize(
    ("reply", "reason", "words"),
    [
        (Reply({"error": "zone 'DE' is not served here; served: DK"}, 404), "zone_mismatch", "served: DK"),
        (Reply("Not Found", 404), "server", "is the URL right"),
        (Reply("Unauthorized\n", 401), "auth", "status 401"),
        (Reply({"error": "nothing is known of zone 'DE' yet"}, 503), "empty", "nothing is known"),
        (Reply("", 500), "server", "status 500"),
        (Reply("", 302, {"Location": "http://elsewhere/?key=hush"}), "server", "a redirect"),
        (Reply("<html>"), "parse", "no JSON"),
        (Reply(told(), cut=20), "parse", "cut off"),
        (Reply(told(zone="DK")), "zone_mismatch", "'DK'"),
        (Reply(told(zone=None)), "zone_mismatch", "not for 'DE'"),
        (Reply(told(signal="marginal")), "zone_mismatch", "'marginal'"),
        (Reply([told()]), "parse", "list where an object"),
        (Reply(told(spans=[])), "empty", "clock"),
        (Reply(told(spans=[[NOW - 60, NOW - 30, 100, 0]])), "empty", "clock"),
    ],
)
def test_each_refusal_has_its_reason(reply, reason, words):
    with FakeGrid({PATH: reply}) as grid:
        found, message = failing(grid, since=NOW - 10)
    assert found == reason
    assert words in message
    assert f"{grid.url}{PATH}: " in message
    assert "hush" not in message


@pytest.mark.parametrize("seconds", ["7", "Fri, 15 Jan 2027 08:00:07 GMT"])
def test_retry_after_is_passed_on(seconds):
    with FakeGrid({PATH: Reply("", 503, {"Retry-After": seconds})}) as grid, pytest.raises(ProviderError) as caught:
        observe(open_for(grid))
    assert caught.value.retry_after_seconds == 7


BAD_SPANS = [
    None,
    {},
    [None],
    [[NOW, NOW + 1, 5]],
    [[NOW, NOW + 1, None, 0]],
    [[NOW, NOW + 1, "5", 0]],
    [[NOW, NOW + 1, True, 0]],
    [[NOW, NOW + 1, -1, 0]],
    [[NOW, NOW + 1, 2001, 0]],
    [[NOW, NOW + 1, 5, 2]],
    [[NOW, NOW + 1, 5, None]],
    [[NOW, NOW, 5, 0]],
    [[str(NOW), NOW + 1, 5, 0]],
    [[-1, NOW + 1, 5, 0]],
    [[NOW, 1e300, 5, 0]],
    [[NOW, NOW + 2, 5, 0], [NOW + 1, NOW + 3, 5, 0]],
    [[NOW + 2, NOW + 3, 5, 0], [NOW, NOW + 1, 5, 0]],
]


@pytest.mark.parametrize(
    "changes",
    [
        *({"spans": spans} for spans in BAD_SPANS),
        *({"provider": provider} for provider in (None, "", 5, 'a"b', "a\nb", "a" * 60)),
        *({"basis": basis} for basis in (None, "", "consumption", 1, ["direct"])),
        *({"fallback_level": level} for level in (None, -1, 4, 1.5, True, "1")),
        *({"data_timestamp_seconds": stamp} for stamp in ("now", -1, True, 1e300)),
    ],
)
def test_what_is_no_answer_is_refused_as_a_whole(changes):
    with FakeGrid({PATH: Reply(told(**changes))}) as grid:
        reason, message = failing(grid)
    assert reason == "parse"
    assert "unreadable" in message


def test_who_it_is(tmp_path):
    file = tmp_path / "password"
    file.write_text("pässwört: one\n", "utf-8")
    expected = "Basic " + base64.b64encode("node:pässwört: one".encode()).decode()
    with FakeGrid({PATH: Reply(told())}) as grid:
        for provider in (
            open_for(grid, username="node", password_file=file),
            open_for(grid, {"CARBON_INTENSITY_PASSWORD": "pässwört: one"}, username="node"),
        ):
            observe(provider)
            assert grid.asked[-1].headers["authorization"] == expected
        opened = open_for(grid, username="node", password_file=file)
        file.unlink()
        reason, message = failing(grid, opened)
        assert (reason, str(file) in message) == ("auth", True)
        with pytest.raises(ConfigurationError, match=r"^intensity\.cluster\.password_file: .*/password: FileNotFound"):
            open_for(grid, username="node", password_file=file)


def test_a_password_is_never_shown():
    with FakeGrid({PATH: Reply("", 401)}) as grid:
        provider = open_for(grid, {"CARBON_INTENSITY_PASSWORD": "hush"}, username="node")
        _, message = failing(grid, provider)
        assert "hush" not in f"{message} {provider!r} {vars(provider)!r} {grid.asked[0].url}"


@pytest.mark.parametrize(
    "reply",
    [
        Reply("", 302, {"Location": "http://elsewhere/hush-hush/bm9kZTpodXNoLWh1c2g=/"}),
        Reply({"error": "hush-hush or bm9kZTpodXNoLWh1c2g="}, 401),
        Reply(told(zone="hush-hush")),
        Reply(told(data_timestamp_seconds="hush-hush")),
    ],
)
def test_a_password_that_an_answer_repeats_is_not_told(reply):
    with FakeGrid({PATH: reply}) as grid:
        _, message = failing(grid, open_for(grid, {"CARBON_INTENSITY_PASSWORD": "hush-hush"}, username="node"))
    assert "(the secret)" in message
    assert "hush" not in message
    assert "bm9kZT" not in message


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"url": "carbon:10091"}, r"intensity\.cluster\.url"),
        ({"url": "http://user:hush@host"}, r"intensity\.cluster\.url"),
        ({"url": "http://host/?token=hush"}, r"intensity\.cluster\.url"),
        ({"password_file": "a"}, "password_file needs username"),
        ({"password": "hush"}, "unknown key"),
    ],
)
def test_bad_settings_name_the_key_and_hide_the_value(values, key):
    with pytest.raises(ConfigurationError, match=key) as caught:
        validated(Settings, values, "intensity.cluster")
    assert "hush" not in str(caught.value)


def test_it_needs_a_zone_and_a_password_where_there_is_a_name():
    with pytest.raises(ConfigurationError, match=r"intensity\.grid_zone: .*set it"):
        open_provider(Settings(), "", {})
    with pytest.raises(ConfigurationError, match=r"intensity\.cluster\.username: .*CARBON_INTENSITY_PASSWORD"):
        open_provider(Settings(username="node"), "DE", {})
