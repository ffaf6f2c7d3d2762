"""The JSON API of the jobs, over a real socket, from scripted jobs; and its description, held to what is answered."""

import dataclasses
import gzip
import http.client
import json
import math
import sys
import time
from urllib.parse import quote, urlsplit

import bcrypt
import pytest
import requests
import test_grid_api
from fake_grid import FakeGrid, Reply
from scripted_jobs import NOW, ScriptedForecasts, serve, stopping_early, view
from starlette.routing import Route
from test_forecast_service import Cluster, run_epochs, serving

from carbon_exporter import __version__, metrics
from carbon_exporter.demo.servers import Server, free_port
from carbon_exporter.forecast import api
from carbon_exporter.forecast.energy import Quantiles
from carbon_exporter.forecast.scores import Accuracy
from carbon_exporter.forecast.service import build
from carbon_exporter.forecast.settings import Settings
from carbon_exporter.grid import api as grid_api
from carbon_exporter.web.config import WebConfig

NAMES = (
    "plain",
    "team/resnet",
    "a/b/forecast",
    "quo\"te's",
    "<b>&amp;",
    "new\nline",
    "ünï?#%2F",
    "sp ace",
    "{job}",
    "\\",
)
ROWS = (Accuracy("builtin", 1.0, 4, 0.75, 0.2), Accuracy("group", 3.0, 40, 0.9, 0.01))


def forecast_less(name):
    none = dict.fromkeys(("joules", "grams", "forecast", "forecast_grams", "budget_grams", "made_seconds"))
    return dataclasses.replace(view(name, outcome="no_epochs", epochs=(), group="", emissions_basis=""), **none)


@pytest.fixture
def forecasts():
    return ScriptedForecasts((view(), stopping_early(), forecast_less("idle")), ROWS)


@pytest.fixture
def get(forecasts):
    server = serve(forecasts)
    server.start()

    def ask(path, method="GET", **headers):
        headers.setdefault("Accept-Encoding", "identity")
        return requests.request(method, server.url + path, headers=headers, timeout=10)

    yield ask
    server.stop()


def raw(forecasts, path, headers=()):
    """Status, headers and body for an address that is sent as it is, and headers that may repeat."""
    server = serve(forecasts)
    server.start()
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=10)
    try:
        connection.putrequest("GET", path, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()
        server.stop()


def names(answer):
    return [job["name"] for job in answer.json()["jobs"]]


class TestJobs:
    def test_a_job_is_told_with_its_forecast(self, get):
        told = get(api.JOBS_PATH).json()
        assert {key: told[key] for key in ("total", "matching", "offset", "limit")} == {
            "total": 3, "matching": 3, "offset": 0, "limit": 200
        }  # fmt: skip
        assert told["jobs"][0] == {
            "name": "team/resnet",
            "url": "/api/v1/jobs/team%2Fresnet/forecast",
            "group": "vision",
            "outcome": "forecast",
            "epochs_completed": 3.0,
            "epochs_planned": 10.0,
            "started_seconds": NOW - 1500,
            "ended_seconds": None,
            "joules": 3.2e6,
            "grams": 320.0,
            "emissions_basis": "lifecycle",
            "budget_grams": 1100.0,
            "forecast": {
                "joules": {"low": 9e6, "median": 1e7, "high": 1.15e7},
                "grams": {"low": 900.0, "median": 1000.0, "high": 1150.0},
                "end_seconds": {"low": NOW + 3000, "median": NOW + 3600, "high": NOW + 4500},
            },
            "expected": None,
            "basis": "group",
            "epochs_observed": 3.0,
            "calibration_runs": 12,
            "made_seconds": NOW,
            "warnings": [],
        }

    def test_one_that_may_stop_early_has_a_second_forecast(self, get):
        expected = get(api.JOBS_PATH).json()["jobs"][1]["expected"]
        assert expected == {
            "joules": {"low": 4e6, "median": 6e6, "high": 9e6},
            "grams": {"low": 400.0, "median": 600.0, "high": 890.0},
            "end_seconds": {"low": NOW + 1000, "median": NOW + 2000, "high": NOW + 3000},
        }

    def test_what_is_not_known_is_null(self, get):
        told = get(api.JOBS_PATH).json()["jobs"][2]
        nulls = ("joules", "grams", "forecast", "expected", "basis", "epochs_observed", "made_seconds", "budget_grams")
        assert [told[key] for key in nulls] == [None] * len(nulls)

    @pytest.mark.parametrize("absurd", [math.nan, math.inf])
    def test_what_is_no_number_is_null(self, get, forecasts, absurd):
        sane = view()
        wild = dataclasses.replace(sane.forecast, joules=Quantiles(1.0, absurd, absurd))
        grams = Quantiles(absurd, absurd, absurd)
        forecasts.held = (dataclasses.replace(sane, joules=absurd, forecast=wild, forecast_grams=grams),)
        (job,) = get(api.JOBS_PATH).json()["jobs"]
        assert (job["joules"], job["forecast"], job["grams"]) == (None, None, 320.0)

    def test_the_most_grams_come_first_then_the_most_joules_then_by_name(self, get, forecasts):
        forecasts.held = (
            forecast_less("z"),
            view("no-grams", grams=None, joules=(1, 2, 3)),
            view("little", grams=(1, 2, 3)),
            forecast_less("a"),
            view("more-joules", grams=None, joules=(1, 9, 10)),
            view("zero", grams=(0, 0, 0)),
            view("much", grams=(1, 2000, 3000)),
        )
        assert names(get(api.JOBS_PATH)) == ["much", "little", "zero", "more-joules", "no-grams", "a", "z"]

    def test_it_is_cut_and_searched(self, get, forecasts):
        forecasts.held = tuple(view(f"job-{i}", grams=(i, i, i), group="Even" if i % 2 == 0 else "") for i in range(20))
        assert names(get(f"{api.JOBS_PATH}?limit=2&offset=3")) == ["job-16", "job-15"]
        assert names(get(f"{api.JOBS_PATH}?offset=20")) == []
        found = get(f"{api.JOBS_PATH}?search=eVEN&limit=3").json()
        assert (found["total"], found["matching"]) == (20, 10)
        assert [job["name"] for job in found["jobs"]] == ["job-18", "job-16", "job-14"]
        assert names(get(f"{api.JOBS_PATH}?search=job-19")) == ["job-19"]

    def test_before_the_first_poll_the_list_is_empty(self, get, forecasts):
        forecasts.held = ()
        assert get(api.JOBS_PATH).json() == {"total": 0, "matching": 0, "offset": 0, "limit": 200, "jobs": []}


class TestOneJob:
    @pytest.mark.parametrize("name", NAMES)
    def test_it_is_found_whatever_it_is_called(self, get, forecasts, name):
        forecasts.held = tuple(view(other) for other in NAMES)
        told = get(f"/api/v1/jobs/{quote(name, safe='')}/forecast").json()
        assert told["name"] == name
        assert get(told["url"]).json() == told

    def test_it_holds_the_list_s_keys_and_more(self, get):
        (listed, *_) = get(api.JOBS_PATH).json()["jobs"]
        told = get("/api/v1/jobs/team/resnet/forecast").json()
        assert {key: told[key] for key in listed} == listed
        assert (told["epoch_joules"], told["epoch_seconds"]) == (1e6, 500.0)
        assert told["correction_ratio"] == pytest.approx(1.01005, abs=1e-5)
        assert told["epochs"] == [[0.0, NOW - 1500, 0.0], [1.0, NOW - 1000, 1.1e6], [3.0, NOW - 10, 3.1e6]]

    def test_the_curve_goes_from_the_last_boundary_to_the_planned_end(self, get):
        curve = get("/api/v1/jobs/team/resnet/forecast").json()["curve"]
        assert curve[0] == [3.0, NOW - 10, 3.1e6, 3.1e6, 3.1e6]
        assert curve[-1] == pytest.approx([10.0, NOW + 3600, 9e6, 1e7, 1.15e7])
        middle = curve[len(curve) // 2]
        assert middle == pytest.approx([6.5, NOW + 1795, 6.05e6, 6.55e6, 7.3e6])
        assert len(curve) == 11

    @pytest.mark.parametrize(
        "changes",
        [{"ended_seconds": NOW}, {"epochs": ()}, {"epochs_planned": 3.0}, {"epochs_planned": None}, {"forecast": None}],
    )
    def test_where_nothing_is_to_come_there_is_no_curve(self, get, forecasts, changes):
        forecasts.held = (dataclasses.replace(view("x"), **changes),)
        assert get("/api/v1/jobs/x/forecast").json()["curve"] == []


class TestAccuracy:
    def test_it_is_told_by_basis_and_epochs(self, get):
        assert get(api.ACCURACY_PATH).json() == {
            "accuracy": [
                {"basis": "builtin", "epochs": 1.0, "runs": 4, "coverage_ratio": 0.75, "median_relative_error": 0.2},
                {"basis": "group", "epochs": 3.0, "runs": 40, "coverage_ratio": 0.9, "median_relative_error": 0.01},
            ]
        }


PATHS = (api.JOBS_PATH, "/api/v1/jobs/team/resnet/forecast", api.ACCURACY_PATH, api.OPENAPI_PATH)


class TestManners:
    @pytest.mark.parametrize(
        ("path", "status", "words"),
        [
            ("/api/v1/jobs/team%2Fnone/forecast", 404, "no training job 'team/none' is known; /api/v1/jobs lists"),
            ("/api/v1/jobs/a%0Ab/forecast", 404, "no training job 'a\\nb' is known"),
            (f"/api/v1/jobs/{'x' * 5000}/forecast", 404, "no training job"),
            (f"{api.JOBS_PATH}?limit=0", 400, "limit is '0': give a whole number from 1 to 10000"),
            (f"{api.JOBS_PATH}?limit=10001", 400, "limit is '10001'"),
            (f"{api.JOBS_PATH}?limit=all", 400, "limit is 'all'"),
            (f"{api.JOBS_PATH}?limit=1&limit=2", 400, "given twice"),
            (f"{api.JOBS_PATH}?offset=-1", 400, "offset is '-1': give a whole number from 0"),
            (f"{api.JOBS_PATH}?offset={'9' * 5000}", 400, "offset is"),
            (f"{api.JOBS_PATH}?offset=%C2%B2", 400, "offset is"),
            (f"{api.JOBS_PATH}?search={'x' * 501}", 400, "search is 501 characters long"),
        ],
    )
    def test_each_refusal_says_why_in_one_line(self, get, path, status, words):
        answer = get(path)
        assert answer.status_code == status
        (error,) = answer.json().values()
        assert words in error
        assert "\n" not in error
        assert len(error) < 300
        assert answer.headers["Cache-Control"] == "no-store"

    @pytest.mark.parametrize(
        ("path", "words"),
        [
            (f"{api.JOBS_PATH}?search=%zz", "a % without two hexadecimal digits"),
            (f"{api.JOBS_PATH}?limit=10%", "a % without two hexadecimal digits"),
            (f"{api.JOBS_PATH}?search=%ff%fe", "is not UTF-8"),
            (f"{api.JOBS_PATH}?search=%ED%A0%80", "is not UTF-8"),
            (f"{api.JOBS_PATH}/%ff/forecast", "is not UTF-8"),
            (f"{api.JOBS_PATH}/100%/forecast", "a % without two hexadecimal digits"),
        ],
    )
    def test_an_address_that_is_badly_encoded_is_not_guessed_at(self, forecasts, path, words):
        status, _, body = raw(forecasts, path)
        assert status == 400
        assert words in json.loads(body)["error"]

    @pytest.mark.parametrize("name", ["a\0b", "x" * 8000, "100%", "\ufffd", "..", "a?b=c&d#e"])
    def test_an_odd_name_is_found_under_its_url(self, forecasts, name):
        forecasts.held = (view(name),)
        status, _, body = raw(forecasts, f"{api.JOBS_PATH}/{quote(name, safe='')}/forecast")
        assert (status, json.loads(body)["name"]) == (200, name)

    def test_a_list_of_tags_may_come_in_several_lines(self, forecasts):
        _, headers, body = raw(forecasts, api.JOBS_PATH)
        known = [("If-None-Match", '"a,b", "c"'), ("If-None-Match", f"W/{headers['ETag']}")]
        assert raw(forecasts, api.JOBS_PATH, known)[0] == 304
        assert raw(forecasts, api.JOBS_PATH, known[:1])[0] == 200
        packed = raw(forecasts, api.JOBS_PATH, [("Accept-Encoding", "br"), ("Accept-Encoding", "gzip")])
        assert gzip.decompress(packed[2]) == body

    @pytest.mark.parametrize("path", ["/api/v1/jobs/", "/api/v1/jobs//forecast", "/api/v1/jobs/team/resnet", "/api/v1"])
    def test_other_paths_are_404(self, get, path):
        assert get(path).status_code == 404

    @pytest.mark.parametrize("path", PATHS)
    def test_what_is_unchanged_is_not_sent_again(self, get, path):
        first = get(path)
        again = get(path, **{"If-None-Match": first.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")
        packed = get(path, **{"Accept-Encoding": "gzip"})
        assert packed.headers["Content-Encoding"] == "gzip"
        assert packed.json() == first.json()
        assert first.headers["Content-Type"] == "application/json"

    @pytest.mark.parametrize("path", PATHS)
    def test_head_is_get_without_body_and_other_methods_are_405(self, get, path):
        head = get(path, "HEAD")
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["Content-Length"] == str(len(get(path).content))
        for method in ("POST", "PUT", "DELETE"):
            assert get(path, method).status_code == 405

    def test_a_new_poll_changes_the_answer(self, get, forecasts):
        tag = get(api.JOBS_PATH).headers["ETag"]
        forecasts.held = (view("new"),)
        after = get(api.JOBS_PATH, **{"If-None-Match": tag})
        assert names(after) == ["new"]
        assert get("/api/v1/jobs/team/resnet/forecast").status_code == 404

    def test_a_password_is_asked_for_as_everywhere(self, forecasts):
        hashed = bcrypt.hashpw(b"hush", bcrypt.gensalt(4)).decode()
        server = serve(forecasts, config=WebConfig(basic_auth_users={"team": hashed}))
        server.start()
        try:
            for path in (*PATHS, "/jobs", "/jobs/jobs.js"):
                assert requests.get(server.url + path, timeout=10).status_code == 401
                assert requests.get(server.url + path, auth=("team", "hush"), timeout=10).status_code == 200
        finally:
            server.stop()


class TestMany:
    def test_five_thousand_jobs_are_rendered_once_per_poll(self, get, forecasts, monkeypatch):
        rendered = []
        monkeypatch.setattr(api, "summary", lambda job, real=api.summary: rendered.append(job) or real(job))
        forecasts.held = tuple(view(f"team/job-{i}", grams=(i, i, i)) for i in range(5000))
        everything = f"{api.JOBS_PATH}?limit=10000"
        first = get(everything, **{"Accept-Encoding": "gzip"})
        assert len(first.json()["jobs"]) == 5000
        began = time.perf_counter()
        for _ in range(5):
            assert get(everything, **{"Accept-Encoding": "gzip"}).content == first.content
            get(f"{api.JOBS_PATH}?search=job-77")
        assert (time.perf_counter() - began) / 10 < 0.25
        assert len(rendered) == 5000

    def test_what_is_kept_of_a_poll_is_bounded(self, forecasts):
        rendered = api._List(forecasts.held)
        for search in map(str, range(1000)):
            rendered.answer(1, 0, search)
        assert len(rendered._answers) == api._MOST_LISTS_KEPT
        assert rendered.answer(1, 0, "resnet")[0].plain != rendered.answer(1, 0, "idle")[0].plain


KINDS = {
    "object": dict, "array": list, "string": str, "number": (int, float), "integer": int, "boolean": bool,
    "null": type(None),
}  # fmt: skip
KNOWN = {
    "$ref", "anyOf", "type", "enum", "properties", "required", "additionalProperties", "items", "minItems", "maxItems",
    "description", "default", "minimum", "maximum", "exclusiveMinimum", "maxLength",
}  # fmt: skip


def problems(value, schema, whole, where="$"):
    """What is wrong with `value`; the part of JSON Schema 2020-12 that the description uses."""
    assert set(schema) <= KNOWN, set(schema) - KNOWN
    if "$ref" in schema:
        target = whole
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return problems(value, target, whole, where)
    if "anyOf" in schema:
        tried = [problems(value, option, whole, where) for option in schema["anyOf"]]
        return [] if [] in tried else [f"{where}: none of {tried}"]
    kinds = schema.get("type", list(KINDS))
    kinds = kinds if isinstance(kinds, list) else [kinds]
    is_one = "boolean" in kinds if isinstance(value, bool) else any(isinstance(value, KINDS[kind]) for kind in kinds)
    if not is_one:
        return [f"{where}: {value!r} is no {kinds}"]
    found = [f"{where}: {value!r} is none of the enum"] if "enum" in schema and value not in schema["enum"] else []
    if isinstance(value, dict):
        found += problems_inside(value, schema, whole, where)
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", math.inf):
            found.append(f"{where}: {len(value)} items")
        for index, item in enumerate(value):
            found += problems(item, schema.get("items", {}), whole, f"{where}[{index}]")
    return found


def problems_inside(value, schema, whole, where):
    """Those of an object's keys."""
    known = schema.get("properties", {})
    found = [f"{where}: {key} is missing" for key in schema.get("required", ()) if key not in value]
    if schema.get("additionalProperties") is False:
        found += [f"{where}: {key} is not described" for key in value if key not in known]
    for key in known.keys() & value.keys():
        found += problems(value[key], known[key], whole, f"{where}.{key}")
    return found


@pytest.fixture
def grid_service():
    outside = {"/co2eq": Reply(test_grid_api.energy_charts(test_grid_api.NOW)), "/co2eq_forecast": Reply("", 404)}
    with FakeGrid(outside) as provider:
        yield test_grid_api.Service(provider)


class TestDescription:
    def test_it_names_every_route_and_no_other(self, forecasts, grid_service):
        described = api.openapi()
        routes = [*api.routes(forecasts), *grid_api.routes(grid_service.grid, 1.0, time.time)]
        assert set(described["paths"]) == {
            route.path.replace(":path", "") for route in routes if isinstance(route, Route)
        }
        assert described["openapi"].startswith("3.1")
        assert described["info"]["version"] == __version__

    def test_it_names_every_parameter_and_no_other(self, forecasts, grid_service):
        server = serve(forecasts, grid_api.routes(grid_service.grid, 1.0, time.time))
        server.start()
        try:
            for path, methods in api.openapi()["paths"].items():
                url = server.url + path.replace("{name}", "team%2Fresnet")
                error = requests.get(url, {"unknown": "1"}, timeout=10).json()["error"]
                known = set(error.split("known: ")[1].split(", ")) - {"none"}
                parameters = methods["get"].get("parameters", [])
                assert {one["name"] for one in parameters if one["in"] == "query"} == known, path
        finally:
            server.stop()

    def test_every_answer_is_as_described(self, forecasts, grid_service):
        whole = api.openapi()
        forecasts.held = (*forecasts.held, *map(view, NAMES))
        server = serve(forecasts, grid_api.routes(grid_service.grid, 1.0, lambda: grid_service.now))
        server.start()
        asked = {
            "/api/v1/jobs": ["", "?limit=1", "?limit=-1"],
            "/api/v1/jobs/{name}/forecast": ["team%2Fresnet", "team%2Fearly", "idle", "none"],
            "/api/v1/accuracy": ["", "?x=1"],
            "/api/v1/intensity": ["", "?zone=DE", "?zone=FR", "?signal=x&zone=DE"],
            "/api/v1/advice": ["?zone=DE&hours=2&kilowatts=3", "?zone=DE", "?zone=FR&hours=2&kilowatts=3"],
            "/api/v1/openapi.json": ["", "?x=1"],
        }
        assert set(asked) == set(whole["paths"])
        statuses = set()
        try:
            for warm in (False, True):
                for path, variants in asked.items():
                    for variant in variants:
                        full = path.replace("{name}", variant) if "{name}" in path else path + variant
                        answer = requests.get(server.url + full, timeout=10)
                        response = whole["paths"][path]["get"]["responses"][str(answer.status_code)]
                        if "$ref" in response:
                            response = whole["components"]["responses"][response["$ref"].rsplit("/", 1)[1]]
                        schema = response["content"]["application/json"]["schema"]
                        assert problems(answer.json(), schema, whole) == [], full
                        statuses.add((path, answer.status_code))
                if not warm:
                    grid_service.pass_seconds(40)
        finally:
            server.stop()
        described = {
            (path, int(status))
            for path, methods in whole["paths"].items()
            for status in methods["get"]["responses"]
            if status != "304"
        }
        untried = described - statuses
        assert untried == {("/api/v1/jobs/{name}/forecast", 400)}

    def test_the_checker_finds_what_is_wrong(self, get):
        whole = api.openapi()
        schema = whole["components"]["schemas"]["Jobs"]
        told = get(api.JOBS_PATH).json()
        assert problems(told, schema, whole) == []
        for change in (
            {"total": "3"}, {"total": True}, {"extra": 1}, {"jobs": [{**told["jobs"][0], "basis": "guess"}]},
            {"jobs": [{**told["jobs"][0], "forecast": {"joules": None, "grams": None, "end_seconds": None}}]},
        ):  # fmt: skip
            assert problems({**told, **change}, schema, whole) != [], change
        assert problems({key: told[key] for key in told if key != "offset"}, schema, whole) != []

    def test_it_is_served(self, get):
        assert get(api.OPENAPI_PATH).json() == json.loads(json.dumps(api.openapi()))


def answers_of(forecasts, *paths):
    """What a server says of each path, once."""
    server = serve(forecasts)
    server.start()
    try:
        return [requests.get(server.url + path, timeout=10).json() for path in paths]
    finally:
        server.stop()


@pytest.fixture
def engine():
    cluster = Cluster()
    with serving(cluster.answer) as url:
        service = build(Settings(prometheus_url=url, history_file=None), {})
        yield cluster, service
        service._client._session.close()


def test_what_the_real_service_follows_is_told_as_described(engine):
    cluster, service = engine
    run_epochs(cluster, service, 4)
    detail, listed = "/api/v1/jobs/bert/forecast", api.JOBS_PATH
    running, jobs = answers_of(service, detail, listed)
    assert running["forecast"]["joules"]["median"] == pytest.approx(60_000, rel=2e-3)
    assert (running["outcome"], running["basis"], running["epochs_completed"]) == ("forecast", "builtin", 4)
    assert running["warnings"]
    assert running["curve"][0][:3] == pytest.approx([4, 1240, 24_000])
    assert running["curve"][-1][3] == running["forecast"]["joules"]["median"]
    cluster.step(1605, joules=60_000.0, epochs=10.0, end=1600.0, **{metrics.TRAINING_FINISHED.name: 1600.0})
    service.poll(1605)
    (ended,) = answers_of(service, detail)
    assert (ended["outcome"], ended["ended_seconds"], ended["curve"]) == ("finished", 1600.0, [])
    cluster.pushed.clear()
    service.poll(1901)
    (accuracy,) = answers_of(service, api.ACCURACY_PATH)
    assert accuracy["accuracy"]
    schemas = {"JobDetails": (running, ended), "Jobs": (jobs,), "Accuracy": (accuracy,)}
    whole = api.openapi()
    for name, told in schemas.items():
        for one in told:
            assert problems(one, whole["components"]["schemas"][name], whole) == []


def test_the_forecast_command_serves_it_all(tmp_path):
    url = f"http://127.0.0.1:{free_port()}"
    config = tmp_path / "config.yaml"
    config.write_text("forecast: {history_file: null, prometheus_url: 'http://127.0.0.1:9'}\n")
    command = [sys.executable, "-m", "carbon_exporter", "forecast", "--config", str(config)]
    command += ["--web.listen-address", url.split("//")[1]]
    with Server(command, url, tmp_path / "forecast.log", ready_path="/-/healthy"):
        assert 'href="/jobs"' in requests.get(url, timeout=10).text
        assert "<h1>Training jobs</h1>" in requests.get(f"{url}/jobs", timeout=10).text
        assert requests.get(url + api.JOBS_PATH, timeout=10).json()["jobs"] == []
        assert requests.get(url + api.ACCURACY_PATH, timeout=10).json() == {"accuracy": []}
        described = requests.get(url + api.OPENAPI_PATH, timeout=10).json()["paths"]
        assert all(requests.get(url + path, timeout=10).status_code != 500 for path in described)
