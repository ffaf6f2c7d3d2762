"""WattTime: login, marginal intensity and its forecast, against a server that answers as the API does."""

import base64
import json
from urllib.parse import quote

import pytest
from fake_grid import FakeGrid, Reply, iso

from carbon_exporter.grid.web import BoundedWeb
from carbon_exporter.intensity.watttime import Settings, open_provider
from carbon_exporter.model import ConfigurationError, ProviderError
from carbon_exporter.plugins import open_provider as open_by_name

USER = "a-user"
PASSWORD = "pass word: of a test"
NOW = 1_893_466_800.0
POUNDS = 0.45359237
ZONE = "US-CAL-CISO"
HISTORICAL = "/v3/historical"
FORECAST = "/v3/forecast"


def envelope(values, start=NOW - 900, **meta):
    rows = [{"point_time": iso(start + 300 * i, "%Y-%m-%dT%H:%M:%S+00:00"), "value": v} for i, v in enumerate(values)]
    about = {
        "data_point_period_seconds": 300,
        "region": "CAISO_NORTH",
        "signal_type": "co2_moer",
        "units": "lbs_co2_per_mwh",
        "model": {"date": "2030-01-01"},
        "warnings": [],
        **meta,
    }
    return {"data": rows, "meta": about}


class Service:
    """Gives out token-1, token-2, ...; takes the last one only, while `expired` is not set."""

    def __init__(self, grid):
        self.grid = grid
        self.logins = 0
        self.expired = False
        self.accepts = True
        self.values = envelope([1000, 900, 800])
        grid.answers["/login"] = self.login
        grid.answers[HISTORICAL] = grid.answers[FORECAST] = self.data

    def login(self, asked):
        expected = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if asked.headers.get("authorization") != f"Basic {expected}":
            sent = asked.headers["authorization"]
            return Reply({"detail": f"no such user: {sent}, {base64.b64decode(sent.split()[1]).decode()}"}, 401)
        self.logins += 1
        self.expired = False
        return Reply({"token": f"token-{self.logins}"})

    def data(self, asked):
        token = asked.headers.get("authorization", "")
        if not self.accepts or self.expired or token != f"Bearer token-{self.logins}":
            return Reply({"detail": f"{token} is expired"}, 401)
        return Reply(self.values)


@pytest.fixture
def grid():
    with FakeGrid() as grid:
        yield grid


@pytest.fixture
def service(grid):
    return Service(grid)


def provider(grid, zone=ZONE, password=PASSWORD, **settings):
    chosen = Settings(url=grid.url, username=USER, **settings)
    return open_provider(chosen, zone, {"CARBON_WATTTIME_PASSWORD": password})


def observe(grid, now=NOW, opened=None, **settings):
    return (opened or provider(grid, **settings)).observe(BoundedWeb(), now - 3600, now)


def failure(grid, **settings):
    with pytest.raises(ProviderError) as error:
        observe(grid, **settings)
    text = str(error.value)
    assert PASSWORD not in text
    assert "token-" not in text
    assert text.startswith(grid.url)
    assert "\n" not in text
    return error.value


def test_pounds_per_megawatt_hour_become_grams(grid, service):
    reading = observe(grid)
    assert [span.start_seconds for span in reading.spans] == [NOW - 900, NOW - 600, NOW - 300]
    assert {span.end_seconds - span.start_seconds for span in reading.spans} == {300}
    assert reading.spans[0].grams_per_kilowatt_hour == pytest.approx(453.59237)
    assert (reading.provider, reading.signal, reading.basis) == ("watttime", "marginal", "direct")
    assert all(span.estimated for span in reading.spans)


def test_what_is_asked(grid, service):
    observe(grid)
    login, data = grid.asked
    assert (login.path, login.parameters) == ("/login", {})
    assert data.headers["authorization"] == "Bearer token-1"
    assert data.parameters == {
        "region": "CAISO_NORTH",
        "signal_type": "co2_moer",
        "start": iso(NOW - 3600, "%Y-%m-%dT%H:%MZ"),
        "end": iso(NOW, "%Y-%m-%dT%H:%MZ"),
    }


def test_at_most_thirty_days_are_asked(grid, service):
    provider(grid).observe(BoundedWeb(), NOW - 90 * 86_400, NOW)
    assert grid.asked[-1].parameters["start"] == iso(NOW - 30 * 86_400, "%Y-%m-%dT%H:%MZ")


def test_the_forecast_is_of_72_hours(grid, service):
    service.values = envelope([1000] * 864, start=NOW, generated_at=iso(NOW), generated_at_period_seconds=300)
    reading = provider(grid).predict(BoundedWeb(), NOW)
    assert grid.asked[-1].parameters == {"region": "CAISO_NORTH", "signal_type": "co2_moer", "horizon_hours": "72"}
    assert reading.spans[-1].end_seconds - reading.spans[0].start_seconds == 72 * 3600
    assert provider(grid).traits.horizon_seconds == 72 * 3600
    assert all(span.estimated for span in reading.spans)


def test_the_average_signal(grid, service):
    service.values = envelope([600], signal_type="co2_aoer")
    opened = provider(grid, signal_type="co2_aoer")
    reading = opened.observe(BoundedWeb(), NOW - 3600, NOW)
    assert reading.signal == opened.traits.signal == "average"
    assert grid.asked[-1].parameters["signal_type"] == "co2_aoer"


def test_a_region_of_ones_own(grid, service):
    service.values = envelope([600], region="PJM_DC")
    reading = provider(grid, "US-MIDA-PJM", regions={"US-MIDA-PJM": "PJM_DC"}).observe(BoundedWeb(), NOW - 3600, NOW)
    assert reading.spans
    assert grid.asked[-1].parameters["region"] == "PJM_DC"


def test_the_token_is_kept_for_25_minutes(grid, service):
    opened = provider(grid)
    for minutes in (0, 5, 10, 24):
        observe(grid, NOW + 60 * minutes, opened)
    assert service.logins == 1
    observe(grid, NOW + 60 * 26, opened)
    assert service.logins == 2


def test_a_clock_that_goes_back_logs_in_again(grid, service):
    opened = provider(grid)
    observe(grid, NOW, opened)
    observe(grid, NOW - 86_400, opened)
    assert service.logins == 2


def test_a_token_that_expires_early_is_replaced_once(grid, service):
    opened = provider(grid)
    observe(grid, NOW, opened)
    service.expired = True
    assert observe(grid, NOW + 300, opened).spans
    assert service.logins == 2
    assert grid.paths() == ["/login", HISTORICAL, HISTORICAL, "/login", HISTORICAL]


def test_a_token_that_is_never_accepted_is_an_auth_failure(grid, service):
    service.accepts = False
    assert failure(grid).reason == "auth"
    assert grid.paths() == ["/login", HISTORICAL]
    opened = provider(grid)
    service.accepts = True
    observe(grid, NOW, opened)
    service.accepts = False
    grid.asked.clear()
    assert failure(grid, opened=opened).reason == "auth"
    assert grid.paths() == [HISTORICAL, "/login", HISTORICAL]


def test_a_wrong_password_is_an_auth_failure_and_is_not_told(grid, service):
    error = failure(grid, password="something else")
    assert error.reason == "auth"
    assert "something else" not in str(error)
    assert base64.b64encode(f"{USER}:something else".encode()).decode() not in str(error)
    assert str(error).startswith(f"{grid.url}/login: ")
    assert grid.paths() == ["/login"]


@pytest.mark.parametrize(("status", "reason"), [(403, "auth"), (429, "rate_limit"), (500, "server")])
def test_a_login_refused(grid, service, status, reason):
    grid.answers["/login"] = Reply({"error": PASSWORD}, status)
    assert failure(grid).reason == reason


@pytest.mark.parametrize("body", [{}, [], {"token": None}, {"token": ""}, {"token": "two words"}, b"<html>"])
def test_a_login_without_a_token_is_unreadable(grid, service, body):
    grid.answers["/login"] = Reply(body)
    assert failure(grid).reason == "parse"


@pytest.mark.parametrize(
    ("status", "reason"), [(403, "forbidden"), (429, "rate_limit"), (404, "server"), (502, "server")]
)
def test_a_question_refused(grid, service, status, reason):
    grid.answers[HISTORICAL] = Reply({"message": "token-1 may not have this region"}, status, {"Retry-After": "120"})
    error = failure(grid)
    assert (error.reason, error.retry_after_seconds) == (reason, 120)


@pytest.mark.parametrize("values", [{}, envelope([]), envelope([None, None])])
def test_an_answer_without_values_is_empty(grid, service, values):
    service.values = values
    assert failure(grid).reason == "empty"


def test_a_null_among_values_is_left_out(grid, service):
    service.values = envelope([1000, None, 800])
    assert [span.start_seconds for span in observe(grid).spans] == [NOW - 900, NOW - 300]


def test_values_in_any_order_are_put_in_order(grid, service):
    service.values["data"].reverse()
    assert observe(grid).spans[0].grams_per_kilowatt_hour == pytest.approx(1000 * POUNDS)


@pytest.mark.parametrize("meta", [{"region": "ERCOT"}, {"signal_type": "health_damage"}, {"region": None}])
def test_another_region_or_signal_is_a_mismatch(grid, service, meta):
    service.values = envelope([1000], **meta)
    assert failure(grid).reason == "zone_mismatch"


@pytest.mark.parametrize(
    "values",
    [
        [],
        "text",
        {"data": {}},
        {"data": [1]},
        {"data": [{"value": 1}]},
        envelope([1000]) | {"meta": None},
        envelope([1000], units="percentile"),
        envelope([1000], units=None),
        envelope([1000], data_point_period_seconds=0),
        envelope([1000], data_point_period_seconds="300"),
        envelope([1000], data_point_period_seconds=86_400),
        envelope(["1000"]),
        envelope([True]),
        envelope([-1]),
        envelope([5000]),
        {**envelope([]), "data": [{"point_time": "now", "value": 1}]},
        {**envelope([]), "data": [{"point_time": None, "value": 1}]},
        {**envelope([]), "data": [{"point_time": iso(NOW)}]},
        {**envelope([]), "data": [[iso(NOW), 1]]},
    ],
)
def test_an_answer_of_another_shape_is_unreadable(grid, service, values):
    service.values = values
    assert failure(grid).reason == "parse"


def test_no_secret_is_in_a_repr(grid, service, tmp_path):
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    opened = open_provider(Settings(url=grid.url, username=USER, password_file=file), ZONE, {})
    observe(grid, NOW, opened)
    assert service.logins == 1
    assert PASSWORD not in repr(vars(opened)) + repr(opened)
    assert "token-1" not in repr(opened)


def test_a_zone_that_it_does_not_know_is_a_clear_error():
    cure = r"intensity\.grid_zone: watttime does not know 'DE'; it knows US-CAL-CISO, .*intensity\.watttime\.regions"
    with pytest.raises(ConfigurationError, match=cure):
        open_provider(Settings(username=USER), "DE", {"CARBON_WATTTIME_PASSWORD": PASSWORD})


@pytest.mark.parametrize(("username", "environment"), [("", {"CARBON_WATTTIME_PASSWORD": "x"}), (USER, {})])
def test_without_a_login_all_keys_are_named(username, environment):
    section = {"watttime": {"username": username}}
    keys = r"watttime\.username, and intensity\.watttime\.password_file .*CARBON_WATTTIME_PASSWORD"
    with pytest.raises(ConfigurationError, match=keys):
        open_by_name("watttime", section, ZONE, environment)


@pytest.mark.parametrize("section", [{"signal_type": "health_damage"}, {"username": "a:b"}, {"url": "watttime.org"}])
def test_a_bad_setting_is_named(section):
    with pytest.raises(ConfigurationError, match=rf"intensity\.watttime\.{next(iter(section))}: "):
        open_by_name("watttime", {"watttime": section}, ZONE, {"CARBON_WATTTIME_PASSWORD": PASSWORD})


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("v3_forecast_docs_example.json", FORECAST),
        ("watttime-forecast-response-example.json", FORECAST),
        ("watttime-data-response-example.json", HISTORICAL),
    ],
)
def test_the_samples_are_read(grid, service, repository, name, path):
    file = repository.parent / "shared" / "data" / "api_samples" / "watttime" / name
    if not file.is_file():
        pytest.skip(f"no {name} beside the repository")
    service.values = json.loads(file.read_text())
    opened = provider(grid)
    web = BoundedWeb()
    reading = opened.predict(web, NOW) if path == FORECAST else opened.observe(web, NOW - 3600, NOW)
    assert len(reading.spans) == len(service.values["data"])
    told = service.values["data"][0]["value"]
    assert reading.spans[0].grams_per_kilowatt_hour == pytest.approx(told * POUNDS)


@pytest.mark.parametrize("meta", [{"region": "token-1"}, {"signal_type": "token-1"}, {"units": "token-1"}])
def test_a_token_that_an_answer_repeats_is_not_told(grid, service, meta):
    service.values = envelope([1], **meta)
    assert "(the secret)" in str(failure(grid))


@pytest.mark.parametrize("path", [HISTORICAL, "/login"])
def test_what_a_redirect_repeats_is_not_told(grid, service, path):
    login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    place = "https://x.example/token-1/" if path == HISTORICAL else f"https://x.example/{login}/{quote(PASSWORD)}/"
    grid.answers[path] = Reply("", 302, {"Location": place})
    message = str(failure(grid))
    assert message.count("(the secret)") == (1 if path == HISTORICAL else 2)
    assert login[:6] not in message


def test_a_password_file_that_is_missing_is_found_at_the_start(tmp_path):
    chosen = Settings(username=USER, password_file=tmp_path / "nowhere")
    with pytest.raises(ConfigurationError, match=r"^intensity\.watttime\.password_file: .*/nowhere: FileNotFoundError"):
        open_provider(chosen, ZONE, {})
