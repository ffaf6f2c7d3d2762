"""`carbon-exporter advise` against a server on loopback: what it asks, what it prints, and what can go wrong."""

import base64
import json
import ssl
import time

import pytest
from authority import Authority
from fake_grid import FakeGrid, Reply

from carbon_exporter import cli
from carbon_exporter.grid.advice import advise
from carbon_exporter.grid.advise import HONESTY, deadline_seconds
from carbon_exporter.grid.outlook import Outlook
from carbon_exporter.grid.replay import Replay
from carbon_exporter.model import HOUR_SECONDS, ConfigurationError

HOUR = 525_960  # Wed 01 Jan 2030 00:00 UTC
BEGIN = HOUR * HOUR_SECONDS
GRAMS = (400.0,) * 5 + (100.0,) * 3 + (300.0,) * 88
SOURCE = {"zone": "XX", "signal": "average", "provider": "someone", "basis": "direct", "licence": "Ours, free"}


def answer(*, hours=3.0, came=None, grams=GRAMS, now=BEGIN + 1800, **extra):
    replays = [Replay(GRAMS, tuple(value or 1.0 for value in line)) for line in came or []]
    outlook = Outlook(HOUR, grams, (), (), "statistical", tuple(replays))
    return {**advise(outlook, hours, 2.0, None, now, 1.1).to_json(), **SOURCE, **extra}


def static_answer():
    outlook = Outlook(HOUR, (330.0,) * 96, (), (), "static", ())
    return {**advise(outlook, 3.0, 2.0, None, BEGIN, 1.1).to_json(), **SOURCE}


def came(then):
    """What came of a forecast: `then` in the hours of the best start."""
    return (400.0,) * 5 + (then,) * 3 + (300.0,) * 88


ZONES = {"zones": [{"zone": "XX", "signal": "average", "url": "/"}, {"zone": "XX", "signal": "marginal", "url": "/"}]}


def run(grid, *arguments, capsys):
    status = cli.main(["advise", "--hours", "3", "--kilowatts", "2", "--url", grid.url, *arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def served(reply, zones=ZONES):
    return FakeGrid({"/api/v1/advice": reply, "/api/v1/intensity": Reply(zones)})


def test_it_shows_the_start_now_the_best_start_the_saving_and_the_hours(capsys):
    document = answer(came=[came(100.0 + i / 2) for i in range(100)])
    with served(Reply(document)) as grid:
        status, out, err = run(grid, "--zone", "XX", capsys=capsys)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == "start now Tue 01 Jan 00:30 UTC 2.64 kg CO2eq".replace("Tue", weekday(BEGIN)).split()
    assert f"{weekday(BEGIN)} 01 Jan 05:00 UTC" in lines[1]
    assert lines[1].endswith("in 4 h 30 min")
    assert f"{100 * document['saving_ratio']:.0f} % (90 %: " in lines[2]
    assert lines[3] == "worth the wait: nine such choices in ten save something"
    assert HONESTY in out
    assert "XX, someone (direct), forecast: statistical. Ours, free" in out
    bars = next(line for line in lines if "█" in line)
    marks = lines[lines.index(bars) + 1]
    assert bars[-24:] == "█" * 5 + "▂" * 3 + "▆" * 16
    assert marks == " " * (len(bars) - 24 + 5) + "^^^"
    assert max(len(line) for line in lines) <= 90
    asked = grid.asked[0]
    assert (asked.path, asked.parameters) == ("/api/v1/advice", {"zone": "XX", "hours": "3.0", "kilowatts": "2.0"})
    assert "authorization" not in asked.headers


def weekday(seconds):
    return time.strftime("%a", time.gmtime(seconds))


@pytest.mark.parametrize(
    ("document", "verdict"),
    [
        (answer(grams=(300.0,) * 96), "start now: no later start before the deadline is expected to be better"),
        (static_answer(), "nothing is known of the hours ahead but one mean for all"),
        (answer(), "too little is known of earlier forecasts to say how sure that is"),
        (
            answer(came=[came(100.0)] * 80 + [came(500.0)] * 20),
            "not sure: the wait may as well save nothing",
        ),
    ],
)
def test_the_verdict_is_no_surer_than_the_interval(capsys, document, verdict):
    with served(Reply(document)) as grid:
        status, out, _ = run(grid, "--zone", "XX", capsys=capsys)
    assert status == 0
    assert verdict in out
    assert (HONESTY in out) == ("best start" in out)
    assert ("best start" in out) == (document["start_seconds"] > document["now_seconds"])


def test_json_prints_the_answer_as_it_is(capsys):
    document = answer()
    with served(Reply(document)) as grid:
        status, out, _ = run(grid, "--zone", "XX", "--json", capsys=capsys)
    assert (status, json.loads(out)) == (0, document)


def test_without_a_zone_the_only_one_is_taken(capsys):
    with served(Reply(answer())) as grid:
        assert run(grid, capsys=capsys)[0] == 0
    assert grid.paths() == ["/api/v1/intensity", "/api/v1/advice"]
    assert grid.asked[1].parameters["zone"] == "XX"


@pytest.mark.parametrize(
    ("zones", "named"),
    [
        ({"zones": [{"zone": zone, "signal": "average"} for zone in ("XX", "YY")]}, "XX, YY"),
        ({"zones": []}, "none"),
        ({"zones": None}, "none"),
        ({}, "none"),
    ],
)
def test_without_a_zone_and_with_several_they_are_named(capsys, zones, named):
    with served(Reply(answer()), zones) as grid:
        status, out, err = run(grid, capsys=capsys)
    assert (status, out) == (2, "")
    assert err == f"carbon-exporter advise: --zone: name one of those served: {named}\n"


@pytest.mark.parametrize(("text", "ahead"), [("36h", 129_600), ("90m", 5400), ("2d", 172_800), (" 1.5h ", 5400)])
def test_a_deadline_from_now_on(text, ahead):
    assert deadline_seconds(text, BEGIN) == BEGIN + ahead


def test_a_deadline_as_a_time():
    assert deadline_seconds("2030-01-02T03:00:00Z", 0) == deadline_seconds("2030-01-02T04:00:00+01:00", 0)
    assert deadline_seconds("2030-01-02T03:00", 0) == deadline_seconds("2030-01-02T03:00:00Z", 0)


@pytest.mark.parametrize("text", ["", "soon", "h", "-3h", "3", "3w", "2030-13-01"])
def test_no_deadline_is_one_line(text):
    with pytest.raises(ConfigurationError, match=r"--deadline .*: give 36h"):
        deadline_seconds(text, BEGIN)


def test_the_deadline_is_sent_in_unix_seconds(capsys):
    with served(Reply(answer())) as grid:
        before = time.time()
        assert run(grid, "--zone", "XX", "--deadline", "24h", capsys=capsys)[0] == 0
    sent = float(grid.asked[0].parameters["deadline_seconds"])
    assert before + 86_399 <= sent <= time.time() + 86_401


def test_the_password_comes_from_a_file_or_the_environment_and_is_not_shown(tmp_path, capsys, monkeypatch):
    password = tmp_path / "password"
    password.write_text("open sesame\n")
    with served(Reply({"error": "no"}, 401)) as grid:
        flags = ("--zone", "XX", "--username", "ali")
        by_file = run(grid, *flags, "--password-file", str(password), capsys=capsys)
        monkeypatch.setenv("CARBON_INTENSITY_PASSWORD", "open sesame")
        by_environment = run(grid, *flags, capsys=capsys)
    assert by_file == by_environment
    assert by_file[:2] == (1, "")
    assert "sesame" not in by_file[2]
    sent = {asked.headers["authorization"] for asked in grid.asked}
    assert sent == {"Basic YWxpOm9wZW4gc2VzYW1l"}


@pytest.mark.parametrize(
    ("reply", "status", "message"),
    [
        (Reply({"error": "hours is 97: must be above 0 and at most 96"}, 400), 2, "hours is 97"),
        (Reply({"error": "zone 'XX' is not served here"}, 404), 2, "zone 'XX' is not served here"),
        (Reply({"error": "nothing is known of zone 'XX' yet"}, 503), 1, "/api/v1/advice: nothing is known"),
        (Reply("<html>", 404), 1, "/api/v1/advice: status 404"),
        (Reply("<html>", 200), 1, "answered with no JSON"),
        (Reply([], 200), 1, "answered with no JSON object"),
        (Reply({}, 200), 1, "the answer is no advice (hours, kilowatts, pue)"),
        (Reply(answer(start_seconds="soon")), 1, "the answer is no advice (start_seconds)"),
        (Reply(answer(grams_per_kilowatt_hour=[])), 1, "the answer is no advice (no hours, or times or grams"),
        (Reply(answer(start_seconds=1e20)), 1, "times or grams out of range"),
        (Reply(answer(grams_per_kilowatt_hour=[-1.0])), 1, "times or grams out of range"),
        (Reply({"error": "two\nlines\x1b[2J"}, 400), 2, "twolines[2J"),
        (Reply({}, 302, {"Location": "http://127.0.0.1:1/"}), 1, "a redirect to"),
    ],
)
def test_what_goes_wrong_is_one_line(capsys, reply, status, message):
    with served(reply) as grid:
        found, out, err = run(grid, "--zone", "XX", capsys=capsys)
    assert (found, out) == (status, "")
    assert err.count("\n") == 1
    assert err.startswith("carbon-exporter advise: ")
    assert message in err


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--url", "http://127.0.0.1:1"], 1, "http://127.0.0.1:1/api/v1/advice: "),
        (["--url", "ftp://127.0.0.1"], 2, "url: must be http"),
        (["--url", "http://a:secret@127.0.0.1"], 2, "url: must be http"),
        (["--deadline", "soon"], 2, "--deadline 'soon'"),
        (["--password-file", "/nowhere"], 2, "--password-file needs --username"),
        (["--username", "a", "--password-file", "/nowhere"], 2, "/nowhere: FileNotFoundError"),
        (["--ca-file", "/nowhere"], 2, "--ca-file: /nowhere: is no file"),
        (["--ca-file", __file__], 2, f"--ca-file: {__file__}: holds no PEM certificates"),
        (["--username", "ali"], 2, "--username ali: has no password: give --password-file or set CARBON_INTENSITY_"),
        (["--hours", "0"], 2, "--hours is 0: must be above 0 and at most 96"),
        (["--hours", "nan"], 2, "--hours is nan"),
        (["--hours", "96.1"], 2, "--hours is 96.1"),
        (["--kilowatts", "-1"], 2, "--kilowatts is -1"),
        (["--kilowatts", "inf"], 2, "--kilowatts is inf"),
        (["--pue", "0.9"], 2, "--pue is 0.9: must be 1 to 10"),
    ],
)
def test_a_bad_flag_is_one_line(capsys, flags, status, message):
    # Nobody answers there: what is refused is refused before anybody is asked.
    start = ["advise", "--hours", "3", "--kilowatts", "2", "--zone", "XX", "--url", "http://127.0.0.1:1"]
    assert cli.main([*start, *flags]) == status
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message in err
    assert "secret" not in err


def test_control_characters_of_the_service_do_not_reach_the_terminal(capsys):
    with served(Reply(answer(licence="free\x1b[2J", zone="XX\r"))) as grid:
        _, out, _ = run(grid, "--zone", "XX", capsys=capsys)
    assert "\x1b" not in out
    assert "\r" not in out


def test_a_grid_without_carbon_is_drawn_too(capsys):
    with served(Reply(answer(grams=(0.0,) * 96))) as grid:
        status, out, _ = run(grid, "--zone", "XX", capsys=capsys)
    assert status == 0
    assert "0 to 0" in out


def test_numbers_are_sent_as_they_were_given(capsys):
    flags = ["--hours", "1.2345678", "--kilowatts", "0.000123456789", "--pue", "1.123456789"]
    with served(Reply(answer())) as grid:
        assert run(grid, "--zone", "XX", *flags, capsys=capsys)[0] == 0
    sent = grid.asked[0].parameters
    assert [float(sent[name]) for name in ("hours", "kilowatts", "pue")] == [1.2345678, 0.000123456789, 1.123456789]


@pytest.mark.parametrize("by_file", [True, False])
def test_a_password_of_any_letters_is_sent_in_utf_8(tmp_path, capsys, monkeypatch, by_file):
    monkeypatch.setenv("CARBON_INTENSITY_PASSWORD", "pässwört: €")
    password = tmp_path / "password"
    password.write_text("pässwört: €\n", "utf-8")
    with served(Reply(answer())) as grid:
        flags = ["--password-file", str(password)] if by_file else []
        assert run(grid, "--username", "ålï", *flags, capsys=capsys)[0] == 0
    assert len(grid.asked) == 2
    for asked in grid.asked:
        sent = asked.headers["authorization"].removeprefix("Basic ")
        assert base64.b64decode(sent).decode() == "ålï:pässwört: €"


@pytest.mark.parametrize("status", [400, 500, 302])
def test_a_password_that_the_service_repeats_is_not_shown(capsys, monkeypatch, status):
    monkeypatch.setenv("CARBON_INTENSITY_PASSWORD", "open-sesame")
    reply = Reply({"error": "open-sesame is wrong"}, status, {"Location": "http://x.example/open-sesame/"})
    with served(reply) as grid:
        _, _, err = run(grid, "--zone", "XX", "--username", "ali", capsys=capsys)
    assert "(the secret)" in err
    assert "sesame" not in err


def test_what_trusts_nobody_names_the_flag(tmp_path, capsys):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority = Authority(tmp_path, "authority")
    context.load_cert_chain(*authority.issue("server"))
    with FakeGrid({"/api/v1/advice": Reply(answer())}, tls=context) as grid:
        status, _, err = run(grid, "--zone", "XX", capsys=capsys)
        assert (status, "(--ca-file)" in err, "intensity." in err) == (1, True, False)
        assert run(grid, "--zone", "XX", "--ca-file", str(authority.file), capsys=capsys)[0] == 0
