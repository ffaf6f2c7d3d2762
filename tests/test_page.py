"""The page of the jobs, in a real Chromium, from scripted jobs."""

import dataclasses
import re
import time

import pytest
import requests
import test_grid_api
from browser import Browser
from fake_grid import FakeGrid, Reply
from scripted_jobs import ScriptedForecasts, serve, stopping_early, view

from carbon_exporter.config import IntensitySettings
from carbon_exporter.forecast import page
from carbon_exporter.forecast.energy import Quantiles
from carbon_exporter.grid import api as grid_api
from carbon_exporter.grid.grid import open_grid

SCRIPT = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
QUOTED = 'it\'s "quoted" & <b>bold</b>\nsecond/line?#%2F'
LONG = "team-nlp/" + "finetune-with-a-very-long-name-" * 6
ROWS = "document.querySelectorAll('#jobs tbody tr')"
DRAWN = f"{ROWS}.length > 0 && document.querySelectorAll('#zones svg.chart').length === 1"
FITS = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"


def one_of_each(now):
    """Jobs in every state that the page tells apart."""
    ends = Quantiles(now + 3000, now + 3600, now + 90_000)
    changes = (
        {"training_job": "vision/resnet50", "forecast_grams": Quantiles(12e3, 12.3e3, 14.1e3), "budget_grams": 11e3},
        {
            "training_job": LONG,
            "group": "y" * 150,
            "warnings": ("Only one epoch has been seen.", "No run of its group has ended."),
        },
        {"training_job": SCRIPT, "group": SCRIPT, "warnings": (SCRIPT,)},
        {"training_job": QUOTED, "budget_grams": 990.0},
        {"training_job": "no-intensity", "forecast_grams": None, "grams": None},
        {"training_job": "old-forecast", "made_seconds": now - 1500, "forecast_grams": Quantiles(1.0, 2.0, 3.0)},
    )
    jobs = [dataclasses.replace(view(), **{"made_seconds": now, **change}) for change in changes]
    jobs.append(dataclasses.replace(stopping_early(), made_seconds=now))
    forecasts = [dataclasses.replace(job.forecast, end_timestamp_seconds=ends) for job in jobs]
    jobs = [dataclasses.replace(job, forecast=forecast) for job, forecast in zip(jobs, forecasts, strict=True)]
    ended = dataclasses.replace(forecasts[0], basis="measured", joules=Quantiles(5e6, 5e6, 5e6))
    grams = Quantiles(500.0, 500.0, 500.0)
    jobs.append(
        dataclasses.replace(
            view("ended", outcome="finished", ended_seconds=now - 60, epochs_completed=10.0),
            forecast=ended,
            forecast_grams=grams,
        )
    )
    nothing = dict.fromkeys(("joules", "grams", "forecast", "forecast_grams", "epochs_completed", "epochs_planned"))
    jobs.append(dataclasses.replace(view("silent", outcome="no_energy"), **nothing))
    jobs.append(
        dataclasses.replace(view("strange", outcome="stale_push", warnings=("stale_push: too old.",)), **nothing)
    )
    return tuple(jobs)


@pytest.fixture
def grid_routes(monkeypatch):
    monkeypatch.setattr(test_grid_api, "PAST_QUARTERS", 4 * 24 * 60)  # enough for a band
    measured = test_grid_api.energy_charts(test_grid_api.NOW)
    with FakeGrid({"/co2eq": Reply(measured), "/co2eq_forecast": Reply(measured)}) as provider:
        service = test_grid_api.Service(provider)
        service.pass_seconds(40)
        yield grid_api.routes(service.grid, 1.25, lambda: service.now)


@pytest.fixture
def forecasts():
    return ScriptedForecasts(one_of_each(time.time()))


@pytest.fixture
def url(forecasts, grid_routes):
    server = serve(forecasts, grid_routes)
    server.start()
    yield server.url
    server.stop()


@pytest.fixture(scope="module")
def chromium(need, tmp_path_factory):
    with Browser(need("chromium"), tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def browser(chromium):
    chromium.requests.clear()
    chromium.complaints.clear()
    return chromium


def text(browser, selector):
    return browser.evaluate(f"document.querySelector({selector!r}).innerText").replace("\u00a0", " ")


def row_of(browser, name):
    """The cells of a job's row, as they read."""
    rows = browser.evaluate(
        f"Object.fromEntries([...{ROWS}].map(r => [r.dataset.job, [...r.cells].map(c => c.innerText)]))"
    )
    return [cell.replace("\u00a0", " ") for cell in rows[name]]


def refresh(browser, until):
    """As when somebody comes back to the page."""
    browser.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    browser.wait(until)


@pytest.mark.real
@pytest.mark.slow
class TestInChromium:
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("width", [360, 1280])
    def test_it_fits_complains_of_nothing_and_asks_nobody_else(self, browser, url, width, scheme, tmp_path):
        browser.open(f"{url}/jobs", width=width, scheme=scheme)
        browser.wait(DRAWN)
        assert browser.evaluate(FITS)
        assert browser.complaints == []
        assert len(browser.requests) >= 8
        assert {one.split("/")[2] for one in browser.requests} == {url.split("/")[2]}
        browser.screenshot(tmp_path / "page.png")
        assert (tmp_path / "page.png").stat().st_size > 50_000

    def test_it_shows_the_numbers_of_each_job(self, browser, url, forecasts):
        browser.open(f"{url}/jobs")
        browser.wait(DRAWN)
        assert text(browser, "#status") == f"{len(forecasts.held)} jobs."
        _, epochs, so_far, end, ends, sure = row_of(browser, "vision/resnet50")
        assert epochs.strip() == "3 of 10"
        assert so_far.split("\n") == ["320 g", "889 Wh"]
        assert "12.3 kg (12.0 to 14.1)" in end
        assert "▲ over the budget of 11.0 kg" in end
        assert "2.78 kWh (2.50 to 3.19)" in end
        assert re.search(r"\w{3} \d+ \w{3}, \d\d:\d\d to ", ends)
        assert sure.split("\n") == ["Learnt from 12 ended runs of its group", "after 3 epochs"]
        assert "◆ may go over the budget of 1.10 kg" in row_of(browser, LONG)[3]
        assert "▲ probably over the budget of 990 g" in row_of(browser, QUOTED)[3]
        early = row_of(browser, "team/early")[3]
        assert "● within the budget" in early
        assert "600 g (400 to 890) expected" in early

    def test_it_says_what_is_not_known_and_why(self, browser, url):
        browser.open(f"{url}/jobs")
        browser.wait(DRAWN)
        assert "This forecast is 25 min old." in row_of(browser, "old-forecast")[0]
        assert "Only one epoch has been seen." in row_of(browser, LONG)[0]
        silent = row_of(browser, "silent")
        assert "no node counts energy for this name" in silent[0]
        assert [cell.strip() for cell in silent[1:]] == ["unknown", "unknown", "budget 1.10 kg", "unknown", "unknown"]
        assert "No forecast.\nstale_push: too old." in row_of(browser, "strange")[0]
        without = row_of(browser, "no-intensity")
        assert without[2].strip() == "889 Wh"
        assert "grams are not known" in without[3]
        assert row_of(browser, "ended")[5].strip() == "Measured: it has ended"

    @pytest.mark.parametrize("width", [360, 1280])
    def test_absurd_values_are_short_or_a_dash_and_their_reason_is_told(self, browser, url, forecasts, width):
        """And a job that has done an epoch more than it planned keeps its energy."""
        reason = ("invalid_value: push epochs from 0 and a plan above 0.",)
        none = {"forecast": None, "forecast_grams": None, "warnings": reason}
        pushed = {
            "huge": {"epochs_completed": 53.0, "epochs_planned": 1e300, "outcome": "invalid_value"},
            "zero": {"epochs_completed": 53.0, "epochs_planned": 0.0, "outcome": "invalid_value"},
            "no-number": {"epochs_completed": None, "epochs_planned": 10.0, "outcome": "invalid_value"},
            "above": {"epochs_completed": 11.0, "epochs_planned": 10.0, "outcome": "epochs_above_planned"},
            "stale": {"epochs_completed": 1e300, "epochs_planned": 0.0, "outcome": "stale_push"},
            "budget": {"budget_grams": 1e300, "outcome": "planned_missing", "epochs_planned": None},
            "tiny": {"budget_grams": 1e-300, "grams": 1e300, "joules": 1e300, "outcome": "no_epochs"},
            ("n<b>\u202e" + "x" * 296): {"group": "y" * 300, "ended_seconds": -1e300, "outcome": "finished"},
        }
        forecasts.held = tuple(
            dataclasses.replace(view(name), **{**none, **changes}) for name, changes in pushed.items()
        )
        browser.open(f"{url}/jobs", width=width)
        browser.wait(DRAWN)
        assert browser.evaluate(FITS)
        assert browser.complaints == []
        shown = {name: [cell.strip() for cell in row_of(browser, name)] for name in pushed}
        dash = "\N{EN DASH}"
        expected = {"huge": f"53 of {dash}", "zero": f"53 of {dash}", "no-number": f"{dash} of 10"}
        expected |= {"above": "11 of 10", "stale": dash}
        assert {name: shown[name][1] for name in expected} == expected
        assert all(reason[0] in cells[0] for cells in shown.values())
        assert shown["above"][2].split("\n") == ["320 g", "889 Wh"]
        assert all(len(cell) < 60 for cells in shown.values() for cell in cells[1:5])
        assert "budget 1e+291 kt" in shown["budget"][3]

    def test_names_are_text_whatever_they_hold(self, browser, url):
        browser.open(f"{url}/jobs")
        browser.wait(DRAWN)
        assert row_of(browser, SCRIPT)[0].count("<script>document.title='taken'</script>") == 3
        assert row_of(browser, QUOTED)[0].startswith('it\'s "quoted" & <b>bold</b>')
        assert browser.evaluate("document.title").startswith("Training jobs")
        assert browser.evaluate("document.querySelectorAll('tbody b, tbody img, tbody script').length") == 0
        for name in (SCRIPT, QUOTED):
            link = f"[...{ROWS}].find(r => r.dataset.job === {name!r}).querySelector('a').href"
            assert requests.get(browser.evaluate(link), timeout=10).json()["name"] == name

    def test_the_bar_is_drawn_to_scale(self, browser, url):
        browser.open(f"{url}/jobs")
        browser.wait(DRAWN)
        band, spent, budget = browser.evaluate(
            f"(() => {{ const row = [...{ROWS}].find(r => r.dataset.job === 'team/early');"
            "const bar = row.cells[3].querySelector('.bar');"
            "const of = kind => bar.querySelector(kind);"
            "return [[of('.band').x.baseVal.value, of('.band').width.baseVal.value],"
            "of('.spent').width.baseVal.value, of('.budget').getBBox().x]; })()"
        )
        scale = 100 / (1100 * 1.04)
        assert band == pytest.approx([700 * scale, 200 * scale], abs=0.2)
        assert spent == pytest.approx(320 * scale, abs=0.1)
        assert budget == pytest.approx(1100 * scale, abs=0.1)

    def test_the_grid_is_drawn_and_told(self, browser, url):
        browser.open(f"{url}/jobs")
        browser.wait(DRAWN)
        told = requests.get(f"{url}/api/v1/intensity?zone=DE", timeout=10).json()
        card = text(browser, "#zones article")
        assert f"Now {told['grams_per_kilowatt_hour']:.0f} g/kWh (energy_charts, estimated)." in card
        day = next(mean for mean in told["outlook"]["means"] if mean["horizon_hours"] == 24)
        assert f"Next 24 h: {day['grams']:.0f} ({day['low']:.0f} to {day['high']:.0f}) g/kWh" in card
        assert told["licence"] in card
        label = browser.evaluate("document.querySelector('svg.chart').getAttribute('aria-label')")
        assert label.startswith("DE: the next 4 days. Next 24 h:")
        line = browser.evaluate("document.querySelector('svg.chart .curve').getAttribute('d')")
        assert line.count("L") == 2 * len(told["outlook"]["grams"]) - 1
        assert browser.evaluate("document.querySelector('svg.chart .band').getBBox().height") > 1

    @pytest.mark.parametrize("width", [360, 1280])
    def test_a_screen_reader_finds_a_table(self, browser, url, width):
        browser.open(f"{url}/jobs", width=width)
        browser.wait(DRAWN)
        nodes = [n for n in browser.call("Accessibility.getFullAXTree")["nodes"] if not n["ignored"]]
        found = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes]
        roles = [role for role, _ in found]
        assert roles.count("table") == 1
        assert roles.count("row") == 11
        assert roles.count("rowheader") == 10
        assert roles.count("cell") == 10 * 5
        assert [name for role, name in found if role == "columnheader"] == [
            "Job", "Epochs", "So far", "At its planned end", "Ends", "How sure"
        ]  # fmt: skip
        assert ("searchbox", "Filter by name or group") in found
        assert any(role in ("image", "img") and name.startswith("DE: the next 4 days") for role, name in found)

    def test_the_keyboard_reaches_the_filter_and_each_job(self, browser, url):
        browser.open(f"{url}/jobs")
        browser.wait(DRAWN)
        reached = []
        for _ in range(12):
            browser.press("Tab", 9)
            reached.append(browser.evaluate("document.activeElement.id || document.activeElement.innerText"))
        assert reached[:3] == ["To the jobs", "search", "vision/resnet50"]
        assert reached[-2:] == ["silent", "strange"]

    def test_a_refresh_touches_only_what_has_changed(self, browser, url, forecasts):
        browser.open(f"{url}/jobs")
        browser.wait(DRAWN)
        browser.evaluate(f"[...{ROWS}].forEach(row => row.marked = true)")
        browser.evaluate("document.querySelector('svg.chart').marked = true")
        link = f"[...{ROWS}].find(r => r.dataset.job === 'team/early').querySelector('a')"
        browser.evaluate(f"{link}.focus()")
        changed = [dataclasses.replace(v, grams=555.0) if v.training_job == "team/early" else v for v in forecasts.held]
        forecasts.held = tuple(v for v in changed if v.training_job != "ended")
        refresh(browser, f"{ROWS}.length === 9 && document.body.innerText.includes('555')")
        kept = browser.evaluate(f"[...{ROWS}].filter(r => r.marked).length")
        assert kept == 8
        assert browser.evaluate("document.querySelector('svg.chart').marked")
        assert browser.evaluate("document.activeElement.innerText") == "team/early"
        assert browser.complaints == []

    def test_when_the_service_goes_away_the_numbers_stay_and_it_is_said(self, browser, forecasts, grid_routes):
        server = serve(forecasts, grid_routes)
        server.start()
        browser.open(f"{server.url}/jobs")
        browser.wait(DRAWN)
        server.stop()
        refresh(browser, "!document.getElementById('problem').hidden")
        assert "The jobs cannot be read" in text(browser, "#problem")
        assert browser.evaluate(f"{ROWS}.length") == 10

    def test_five_thousand_jobs_are_filtered_by_the_service(self, browser, url, forecasts):
        forecasts.held = tuple(view(f"team/job-{number}", made_seconds=time.time()) for number in range(5000))
        browser.open(f"{url}/jobs", width=360)
        browser.wait(f"{ROWS}.length === 200")
        assert text(browser, "#status") == "The first 200 of 5,000 jobs; filter to see others."
        assert browser.evaluate(FITS)
        browser.evaluate("document.getElementById('search').focus()")
        browser.call("Input.insertText", text="JOB-4321")
        browser.wait(f"{ROWS}.length === 1")
        assert row_of(browser, "team/job-4321")[1].strip() == "3 of 10"
        browser.call("Input.insertText", text="x")
        browser.wait("document.getElementById('jobs').hidden")
        assert text(browser, "#no-jobs") == "No job's name or group holds “JOB-4321x”."

    def test_without_jobs_and_zones_it_says_how_they_come(self, browser):
        server = serve(
            ScriptedForecasts(), grid_api.routes(open_grid(IntensitySettings(cache_dir=None), {}), 1.0, time.time)
        )
        server.start()
        browser.open(f"{server.url}/jobs", width=360)
        browser.wait("document.getElementById('zones').innerText !== '' && !document.getElementById('no-jobs').hidden")
        server.stop()
        assert "No training job is known yet" in text(browser, "#no-jobs")
        assert "intensity.zones" in text(browser, "#zones")
        assert browser.evaluate(FITS)
        assert browser.complaints == []


class TestFiles:
    FILES = ("/jobs", "/jobs/jobs.js", "/jobs/grid.js", "/jobs/draw.js", "/jobs/jobs.css", "/jobs/icon.svg")

    def test_each_is_sent_with_a_strict_policy_and_once(self, url):
        for path in self.FILES:
            answer = requests.get(url + path, timeout=10)
            assert answer.status_code == 200, path
            assert answer.headers["Content-Security-Policy"] == page.POLICY
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            again = requests.get(url + path, headers={"If-None-Match": answer.headers["ETag"]}, timeout=10)
            assert (again.status_code, again.content) == (304, b"")
            assert requests.head(url + path, timeout=10).status_code == 200
            assert requests.post(url + path, timeout=10).status_code == 405

    def test_they_say_what_they_are(self, url):
        types = [requests.get(url + path, timeout=10).headers["Content-Type"].split(";")[0] for path in self.FILES]
        assert types == ["text/html", *["text/javascript"] * 3, "text/css", "image/svg+xml"]

    @pytest.mark.parametrize("path", ["/jobs/", "/jobs/page.py", "/jobs/..%2fapi.py", "/jobs/%2e%2e/openapi.yaml"])
    def test_nothing_else_is_there(self, url, path):
        assert requests.get(url + path, timeout=10).status_code == 404

    def test_no_file_names_another_host(self, url):
        for path in self.FILES:
            names = re.findall(r"https?://[^\"' ]+", requests.get(url + path, timeout=10).text)
            assert set(names) <= {"http://www.w3.org/2000/svg"}
