"""The JSON API of the intensity: over a real socket, with Energy-Charts played by a local server."""

import gzip
import itertools
import json
import sys

import bcrypt
import pytest
import requests
from fake_grid import FakeGrid, Reply

from carbon_exporter.config import IntensitySettings
from carbon_exporter.demo.servers import Server, free_port
from carbon_exporter.grid import api
from carbon_exporter.grid.grid import open_grid
from carbon_exporter.grid.web import BoundedWeb
from carbon_exporter.intensity import cluster
from carbon_exporter.web.config import WebConfig
from carbon_exporter.web.json_api import refusing
from carbon_exporter.web.server import WebServer
from carbon_exporter.web.site import Page, Site

NOW = 1_800_000_000.0 + 600
QUARTER = 900
PAST_QUARTERS = 4 * 24 * 15


def energy_charts(now, ahead=8, grams=200.0):
    """Measured quarters of 15 days up to `now`, then `ahead` forecast ones."""
    first = int(now // QUARTER) - PAST_QUARTERS
    starts = [QUARTER * (first + i) for i in range(PAST_QUARTERS + ahead)]
    values = [grams + start // QUARTER % 96 for start in starts]
    measured = [value if i < PAST_QUARTERS else None for i, value in enumerate(values)]
    return {"unix_seconds": starts, "co2eq": measured, "co2eq_forecast": values}


class Service:
    """A forecast service as nodes see it, on a clock that is set by hand."""

    def __init__(self, outside, config=None, **settings):
        self.now = NOW
        chosen = {"zones": {"DE": "energy_charts"}, "sections": {"energy_charts": {"url": outside.url}}, **settings}
        self.grid = open_grid(
            IntensitySettings(**{"cache_dir": None, **chosen}),
            {},
            clock=lambda: self.now,
            wall_clock=lambda: self.now,
        )
        known = api.routes(self.grid, 1.25, lambda: self.now)
        site = Site(
            title="t",
            description="d",
            metrics=lambda: Page(b""),
            ready=lambda: True,
            routes=[*known, refusing(known)],
        )
        self.server = WebServer(site, "127.0.0.1:0", config)

    def __enter__(self):
        self.server.start()
        return self

    def __exit__(self, *_):
        self.server.stop()

    def pass_seconds(self, seconds):
        """Let the time pass, and every question be put that is due."""
        until = self.now + seconds
        while True:
            fetcher = min(self.grid.fetchers, key=lambda one: one.wait_seconds(), default=None)
            if fetcher is None or self.now + fetcher.wait_seconds() > until:
                break
            self.now += fetcher.wait_seconds()
            fetcher.ask_due()
        self.now = until

    def get(self, path, method="GET", **headers):
        headers.setdefault("Accept-Encoding", "identity")
        return requests.request(method, self.server.url + path, headers=headers, timeout=10, allow_redirects=False)


@pytest.fixture
def provider():
    with FakeGrid({"/co2eq": Reply(energy_charts(NOW)), "/co2eq_forecast": Reply("", 404)}) as grid:
        yield grid


@pytest.fixture
def service(provider):
    with Service(provider) as running:
        running.pass_seconds(40)
        yield running


DE = f"{api.INTENSITY_PATH}?zone=DE"


class TestIntensity:
    def test_it_tells_what_is_counted_with_now(self, service):
        answer = service.get(DE)
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
        told = answer.json()
        timeline = service.grid.zones["DE", "average"].timeline(service.now)
        assert told["grams_per_kilowatt_hour"] == timeline.intensity.grams_per_kilowatt_hour
        expected = {
            "zone": "DE",
            "signal": "average",
            "provider": "energy_charts",
            "basis": "unspecified",
            "fallback_level": 0,
            "estimated": True,  # the quarter that now lies in is not measured yet
            "told_until_seconds": timeline.told_until_seconds,
            "data_timestamp_seconds": NOW // QUARTER * QUARTER,
        }
        assert {key: told[key] for key in expected} == expected
        assert "Energy-Charts" in told["licence"]

    def test_its_spans_reach_from_six_hours_ago_to_the_end_of_the_outlook(self, service):
        told = service.get(DE).json()
        spans = told["spans"]
        assert all(before[1] == after[0] for before, after in itertools.pairwise(spans))
        assert spans[0][1] > service.now - api.PAST_SECONDS >= spans[0][0]
        assert spans[-1][1] == told["outlook"]["first_hour_seconds"] + 96 * 3600
        for start, end, grams, estimated in spans:
            assert grams >= 0
            assert estimated == (start >= NOW // QUARTER * QUARTER)
            if end > told["told_until_seconds"]:
                assert end % 3600 == 0
                hour = (end - told["outlook"]["first_hour_seconds"]) // 3600 - 1
                assert grams == pytest.approx(told["outlook"]["grams"][int(hour)], abs=0.01)

    def test_the_outlook_is_a_curve_and_its_means(self, service):
        outlook = service.get(DE).json()["outlook"]
        assert outlook["first_hour_seconds"] == NOW // 3600 * 3600
        assert len(outlook["grams"]) == 96
        assert len(outlook["low"]) == len(outlook["high"])
        assert [mean["horizon_hours"] for mean in outlook["means"]] == [1, 3, 6, 12, 24, 48, 72, 96]
        zone = service.grid.zones["DE", "average"]
        day = next(mean for mean in outlook["means"] if mean["horizon_hours"] == 24)
        expected = zone.outlook(service.now).mean(service.now, service.now + 86_400)
        assert day["grams"] == pytest.approx(expected, abs=1)
        assert outlook["forecaster"] == zone.outlook(service.now).forecaster

    def test_a_node_reads_it_back_as_it_was(self, service):
        node = cluster.open_provider(cluster.Settings(url=service.server.url), "DE", {})
        reading = node.observe(BoundedWeb(), 0.0, service.now)
        timeline = service.grid.zones["DE", "average"].timeline(service.now)
        assert (reading.provider, reading.basis, reading.fallback_level) == ("energy_charts", "unspecified", 0)
        for seconds in range(-3 * 3600, 6600, 300):
            covering = [s for s in reading.spans if s.start_seconds <= service.now + seconds < s.end_seconds]
            expected = timeline.at(service.now + seconds).grams_per_kilowatt_hour
            assert [span.grams_per_kilowatt_hour for span in covering] == [expected]
        assert node.observe(BoundedWeb(), 0.0, service.now) is reading

    def test_before_the_first_answer_it_says_when_to_ask_again(self, provider):
        with Service(provider) as service:
            answer = service.get(DE)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
            assert "nothing is known of zone 'DE' yet" in answer.json()["error"]

    def test_a_provider_that_is_silent_is_told_honestly(self, provider, service):
        provider.answers["/co2eq"] = Reply("", 500)
        service.pass_seconds(27 * 3600)  # longer than its past can be continued
        told = service.get(DE).json()
        assert (told["provider"], told["basis"], told["fallback_level"]) == ("static", "lifecycle", 2)
        assert "Ember" in told["licence"]
        node = cluster.open_provider(cluster.Settings(url=service.server.url), "DE", {})
        reading = node.observe(BoundedWeb(), 0.0, service.now)
        assert (reading.provider, reading.fallback_level) == ("static", 2)
        assert reading.data_timestamp_seconds == told["data_timestamp_seconds"]

    def test_a_yearly_mean_is_served_too(self, provider):
        with Service(provider, zones={"DE": "static"}, sections={}) as service:
            (zone,) = service.get(api.INTENSITY_PATH).json()["zones"]
            told = service.get(zone["url"]).json()
            assert (told["zone"], told["provider"], told["fallback_level"]) == ("DE", "static", 2)
            assert told["spans"][0][:2] == [0, 253_402_300_800]
            assert len(told["outlook"]["grams"]) == 96
            service.now += 3600  # only the outlook has changed
            later = service.get(zone["url"]).json()
            assert later["outlook"]["first_hour_seconds"] == told["outlook"]["first_hour_seconds"] + 3600


class TestConditions:
    def test_an_unchanged_body_is_made_once_and_sent_once(self, service):
        first = service.get(DE)
        tag = first.headers["ETag"]
        assert tag.startswith('"')
        assert first.headers["Cache-Control"] == "no-cache"
        again = service.get(DE, **{"If-None-Match": tag})
        assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
        assert again.headers["Vary"] == "Accept-Encoding"

    @pytest.mark.parametrize("form", ["W/{}", '"x", {}', '"x",W/{}', "*"])
    def test_every_form_of_the_condition_counts(self, service, form):
        tag = service.get(DE).headers["ETag"]
        assert service.get(DE, **{"If-None-Match": form.format(tag)}).status_code == 304

    @pytest.mark.parametrize("tag", ['"x"', "", "x", '""'])
    def test_another_tag_gets_the_body(self, service, tag):
        assert service.get(DE, **{"If-None-Match": tag}).json()["zone"] == "DE"

    def test_compressed_is_another_representation_of_the_same(self, service):
        plain = service.get(DE)
        packed = service.get(DE, **{"Accept-Encoding": "gzip"})
        assert packed.headers["Content-Encoding"] == "gzip"
        assert packed.content == plain.content
        assert packed.headers["ETag"] != plain.headers["ETag"]
        for tag in (packed.headers["ETag"], plain.headers["ETag"]):
            for encoding in ("gzip", "identity"):
                answer = service.get(DE, **{"If-None-Match": tag, "Accept-Encoding": encoding})
                assert answer.status_code == 304
        page = Page(plain.content)
        assert gzip.decompress(page.gzipped) == plain.content

    def test_what_changes_changes_the_tag(self, provider, service):
        before = service.get(DE)
        provider.answers["/co2eq"] = Reply(energy_charts(NOW, grams=300.0))
        service.pass_seconds(1100)
        after = service.get(DE, **{"If-None-Match": before.headers["ETag"]})
        assert after.status_code == 200
        assert after.headers["ETag"] != before.headers["ETag"]
        assert after.json()["grams_per_kilowatt_hour"] > before.json()["grams_per_kilowatt_hour"] + 90

    def test_the_next_span_changes_what_is_in_force(self, service):
        before = service.get(DE)
        service.now += QUARTER
        after = service.get(DE, **{"If-None-Match": before.headers["ETag"]})
        assert after.json()["data_timestamp_seconds"] == before.json()["data_timestamp_seconds"] + QUARTER


class TestRefusals:
    @pytest.mark.parametrize(
        ("path", "status", "words"),
        [
            (
                f"{api.INTENSITY_PATH}?zone=XX",
                404,
                "zone 'XX' is not served here; served: DE; add it to intensity.zones",
            ),
            (f"{api.INTENSITY_PATH}?zone=de", 404, "served: DE;"),
            (f"{api.INTENSITY_PATH}?zone=", 404, "zone ''"),
            (
                f"{DE}&signal=marginal",
                404,
                "the marginal intensity of zone 'DE' is not served here; served: none",
            ),
            (f"{DE}&signal=both", 400, "signal is 'both'"),
            (f"{DE}&zone=FR", 400, "given twice"),
            (f"{DE}&when=now", 400, "'when' is no parameter here; known: zone, signal"),
            (f"{api.ADVICE_PATH}?hours=2&kilowatts=3", 400, "zone is missing"),
            (f"{api.ADVICE_PATH}?zone=XX&hours=2&kilowatts=3", 404, "not served"),
            (f"{api.ADVICE_PATH}?zone=DE&kilowatts=3", 400, "hours is missing"),
            (f"{api.ADVICE_PATH}?zone=DE&hours=2", 400, "kilowatts is missing"),
            (f"{api.ADVICE_PATH}?zone=DE&hours=two&kilowatts=3", 400, "hours is 'two'"),
            (f"{api.ADVICE_PATH}?zone=DE&hours=-2&kilowatts=3", 400, "hours"),
            (f"{api.ADVICE_PATH}?zone=DE&hours=nan&kilowatts=3", 400, "hours"),
            (f"{api.ADVICE_PATH}?zone=DE&hours=2&kilowatts=3&deadline_seconds=soon", 400, "deadline_seconds"),
            (f"{api.ADVICE_PATH}?zone=DE&hours=2&kilowatts=3&pue=0.5", 400, "pue is 0.5: must be 1 to 10"),
            (f"{api.ADVICE_PATH}?zone=DE&hours=2&kilowatts=3&pue=low", 400, "pue is 'low'"),
            (f"{api.ADVICE_PATH}?zone=DE&hours=2&kilowatts=3&deadline=1", 400, "'deadline' is no parameter"),
        ],
    )
    def test_each_says_why_in_one_line(self, service, path, status, words):
        answer = service.get(path)
        assert answer.status_code == status
        (error,) = answer.json().values()
        assert words in error
        assert "\n" not in error
        assert len(error) < 300
        assert answer.headers["Cache-Control"] == "no-store"

    def test_a_long_name_is_not_repeated_whole(self, service):
        assert len(service.get(f"{api.INTENSITY_PATH}?zone={'X' * 5000}").content) < 300

    @pytest.mark.parametrize("path", [DE, api.INTENSITY_PATH, f"{api.ADVICE_PATH}?zone=DE&hours=2&kilowatts=3"])
    def test_head_is_get_without_body_and_other_methods_are_405(self, service, path):
        head = service.get(path, "HEAD")
        whole = service.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["Content-Length"] == str(len(whole.content))
        for method in ("POST", "PUT", "DELETE"):
            answer = service.get(path, method)
            assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD")
            assert answer.json() == {"error": f"{method} is not answered here: ask with GET or HEAD"}

    @pytest.mark.parametrize("path", ["/api/v1/intensities", "/api/v1/intensity/", "/api/v2/advice", "/api/"])
    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_a_path_that_is_not_there_is_said_in_json_too(self, service, path, method):
        answer = service.get(path, method)
        assert (answer.status_code, answer.headers["Content-Type"]) == (404, "application/json")
        assert api.INTENSITY_PATH in answer.json()["error"]

    def test_what_is_not_below_api_is_none_of_its_business(self, service):
        for path in ("/apiary", "/nothing"):
            answer = service.get(path)
            assert (answer.status_code, "error" in answer.text) == (404, False)

    def test_a_password_is_asked_for_as_everywhere(self, provider):
        hashed = bcrypt.hashpw(b"hush", bcrypt.gensalt(4)).decode()
        with Service(provider, WebConfig(basic_auth_users={"node": hashed})) as service:
            service.pass_seconds(40)
            assert service.get(DE).status_code == 401
            settings = cluster.Settings(url=service.server.url, username="node")
            node = cluster.open_provider(settings, "DE", {cluster.PASSWORD_VARIABLE: "hush"})
            assert node.observe(BoundedWeb(), 0.0, service.now).provider == "energy_charts"


def test_without_a_zone_it_lists_those_served(provider):
    zones = {"DE": "energy_charts", "FR": "energy_charts", "DK-DK1": "static"}
    with Service(provider, zones=zones, grid_zone="") as service:
        listed = service.get(api.INTENSITY_PATH).json()
        assert [(zone["zone"], zone["signal"]) for zone in listed["zones"]] == [
            ("DE", "average"),
            ("DK-DK1", "average"),
            ("FR", "average"),
        ]
        assert service.get(listed["zones"][1]["url"]).json()["zone"] == "DK-DK1"


def test_the_forecast_command_serves_it_without_a_configuration_or_a_network(tmp_path):
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "carbon_exporter", "forecast", "--web.listen-address", url.split("//")[1]]
    with Server(command, url, tmp_path / "forecast.log", ready_path="/-/healthy"):
        assert f'href="{api.INTENSITY_PATH}"' in requests.get(url, timeout=10).text
        assert requests.get(url + api.INTENSITY_PATH, timeout=10).json() == {"zones": []}
        refused = requests.get(f"{url}{api.INTENSITY_PATH}?zone=DE", timeout=10)
        assert (refused.status_code, "add it to intensity.zones" in refused.json()["error"]) == (404, True)


class TestAdvice:
    PATH = f"{api.ADVICE_PATH}?zone=DE&hours=2&kilowatts=3"

    def test_it_is_the_advice_with_its_source(self, service):
        told = service.get(self.PATH).json()
        zone = service.grid.zones["DE", "average"]
        own = json.loads(json.dumps(api.advise(zone.outlook(service.now), 2, 3, None, service.now, 1.25).to_json()))
        assert {key: told[key] for key in own} == own
        assert {key: told[key] for key in set(told) - set(own)} == {
            "zone": "DE",
            "signal": "average",
            "provider": "energy_charts",
            "basis": "unspecified",
            "licence": zone.licence(service.now),
        }

    def test_a_deadline_is_passed_on(self, service):
        deadline = service.now + 4 * 3600
        told = service.get(f"{self.PATH}&deadline_seconds={deadline}").json()
        zone = service.grid.zones["DE", "average"]
        own = api.advise(zone.outlook(service.now), 2, 3, deadline, service.now, 1.25).to_json()
        assert {key: told[key] for key in own} == json.loads(json.dumps(own))

    def test_a_zone_may_have_another_pue(self, service):
        own, other = service.get(self.PATH).json(), service.get(f"{self.PATH}&pue=2.5").json()
        assert (own["pue"], other["pue"]) == (1.25, 2.5)
        assert other["grams_now"] == pytest.approx(2 * own["grams_now"])

    def test_a_deadline_just_when_the_job_ends_is_met_by_starting_now(self, service):
        deadline = service.now + 2 * 3600
        service.now += 3
        told = service.get(f"{self.PATH}&deadline_seconds={deadline}").json()
        assert told["start_seconds"] == service.now

    def test_of_a_yearly_mean_nothing_is_claimed(self, provider):
        with Service(provider, zones={"DE": "static"}, sections={}) as service:
            told = service.get(self.PATH).json()
        assert (told["forecaster"], told["saving_grams"], told["worthwhile"]) == ("static", 0, False)
        assert (told["saving_ratio_low"], told["saving_ratio_high"]) == (None, None)

    def test_before_the_first_answer(self, provider):
        with Service(provider) as service:
            assert service.get(self.PATH).status_code == 503
