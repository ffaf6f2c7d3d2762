"""The PromQL client against an HTTP server that answers as told."""

import contextlib
import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from authority import Authority
from fake_grid import FakeGrid, Reply

from carbon_exporter.demo.servers import free_port
from carbon_exporter.forecast.promql import Client, PromQLError, Sample
from carbon_exporter.forecast.settings import Settings, open_session
from carbon_exporter.model import ConfigurationError
from carbon_exporter.settings import validated


class Engine:
    """Answers every request with `status` and `body`, and remembers what it was asked."""

    def __init__(self):
        self.status = 200
        self.body = b""
        self.delay_seconds = 0.0
        self.requests = []
        engine = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                engine.requests.append((self.path, dict(self.headers)))
                time.sleep(engine.delay_seconds)
                with contextlib.suppress(ConnectionError):
                    self.send_response(engine.status)
                    self.send_header("Content-Length", str(len(engine.body)))
                    if engine.status == 302:
                        self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                    self.end_headers()
                    self.wfile.write(engine.body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, result, kind="vector", **more):
        self.body = json.dumps({"status": "success", "data": {"resultType": kind, "result": result}, **more}).encode()


@pytest.fixture
def engine():
    engine = Engine()
    thread = threading.Thread(target=engine.server.serve_forever, args=(0.01,))
    thread.start()
    yield engine
    engine.server.shutdown()
    engine.server.server_close()
    thread.join()


@pytest.fixture
def client(engine):
    with requests.Session() as session:
        yield Client(engine.url, session, timeout_seconds=5, largest_answer_bytes=4096)


def test_an_instant_query(engine, client):
    engine.answer([{"metric": {"training_job": 'a "b"'}, "value": [12, "3.5"]}])
    assert client.query('up{x="ü"} + 1', 1700000000.1234) == [Sample({"training_job": 'a "b"'}, 3.5)]
    path = urlsplit(engine.requests[0][0])
    assert path.path == "/api/v1/query"
    assert parse_qs(path.query) == {"query": ['up{x="ü"} + 1'], "time": ["1700000000.123"]}
    assert set(client.errors.values()) == {0}


def test_a_range_query(engine, client):
    engine.answer([{"metric": {}, "values": [[1, "2"], [3.5, "NaN"], [4, "5"]]}], "matrix")
    (series,) = client.query_range("up", 1, 4, 1.5)
    assert series.points == [(1, 2), (4, 5)]
    query = parse_qs(urlsplit(engine.requests[0][0]).query)
    assert query == {"query": ["up"], "start": ["1.000"], "end": ["4.000"], "step": ["1.500"]}


def test_values_that_are_not_finite_are_dropped_and_counted(engine, client):
    rows = [{"metric": {"n": str(i)}, "value": [0, text]} for i, text in enumerate(["NaN", "+Inf", "-Inf", "1e308"])]
    engine.answer(rows)
    assert client.query("up", 0) == [Sample({"n": "3"}, 1e308)]
    assert client.errors["not_finite"] == 1


ABSURD = [
    b"",
    b"<html>",
    b"[]",
    b"null",
    b"\xff\xfe",
    b"[" * 3000,
    b'{"status": "success"}',
    b'{"status": "success", "data": []}',
    b'{"status": "success", "data": {"resultType": "matrix", "result": []}}',
    b'{"status": "success", "data": {"resultType": "vector", "result": {}}}',
    b'{"status": "success", "data": {"resultType": "vector", "result": [1]}}',
    b'{"status": "success", "data": {"resultType": "vector", "result": [{"metric": 1, "value": [1, "1"]}]}}',
    b'{"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": [1]}]}}',
    b'{"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": [1, "x"]}]}}',
    b'{"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}}]}}',
    b'{"status": "success", "data": "' + b"x" * 5000 + b'"}',
]


@pytest.mark.parametrize("body", ABSURD)
def test_absurd_answers_are_malformed(engine, client, body):
    engine.body = body
    with pytest.raises(PromQLError) as caught:
        client.query("up", 0)
    assert caught.value.reason == "malformed"
    assert engine.url in str(caught.value)
    assert "\n" not in str(caught.value)
    assert client.errors["malformed"] == 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"warnings": ["store-2 is away"]}, "store-2 is away"),
        ({"isPartial": True}, "isPartial"),
        ({"warnings": 7}, "7"),
    ],
)
def test_partial_answers_are_errors(engine, client, more, said):
    engine.answer([{"metric": {}, "value": [0, "1"]}], **more)
    with pytest.raises(PromQLError, match=said) as caught:
        client.query("up", 0)
    assert caught.value.reason == "partial"
    assert client.errors["partial"] == 1


@pytest.mark.parametrize("more", [{"warnings": []}, {"warnings": ["PromQL info: a name"]}, {"infos": ["a name"]}])
def test_advice_on_the_expression_is_no_error(engine, client, more):
    engine.answer([], **more)
    assert client.query("up", 0) == []


@pytest.mark.parametrize("status", [302, 400, 401, 404, 422, 500, 503])
def test_refusals_name_the_status_and_the_engines_words(engine, client, status):
    engine.status, engine.body = status, b'{"status": "error", "error": "too many\\nsamples"}'
    with pytest.raises(PromQLError, match=rf"status {status}, 'too many\\nsamples'") as caught:
        client.query("up", 0)
    assert caught.value.reason == "rejected"
    assert len(engine.requests) == 1


def test_an_engine_that_is_away():
    with requests.Session() as session:
        client = Client(f"http://127.0.0.1:{free_port()}", session)
        with pytest.raises(PromQLError, match="is the engine running") as caught:
            client.query("up", 0)
    assert caught.value.reason == "unreachable"


def test_an_engine_that_is_slow(engine):
    engine.delay_seconds = 0.5
    with requests.Session() as session:
        client = Client(engine.url, session, timeout_seconds=0.05)
        with pytest.raises(PromQLError, match=r"no answer in 0\.05 s") as caught:
            client.query("up", 0)
    assert caught.value.reason == "timeout"


def test_an_answer_that_drips(engine):
    clock = iter([0.0, 11.0])
    engine.answer([])
    with requests.Session() as session:
        client = Client(engine.url, session, timeout_seconds=10, clock=lambda: next(clock))
        with pytest.raises(PromQLError) as caught:
            client.query("up", 0)
    assert caught.value.reason == "timeout"


def asked_with(engine, environment=None, **settings):
    """The headers that reach an engine for these settings."""
    engine.answer([])
    chosen = Settings(prometheus_url=engine.url, **settings)
    with open_session(chosen, environment or {}) as session:
        Client(chosen.prometheus_url, session).query("up", 0)
    return engine.requests[-1][1]


def test_a_token_file_is_read_for_each_request(engine, tmp_path):
    token = tmp_path / "token"
    token.write_text("first\n")
    assert asked_with(engine, bearer_token_file=token)["Authorization"] == "Bearer first"
    token.write_text("second\n")
    assert asked_with(engine, bearer_token_file=token)["Authorization"] == "Bearer second"


def test_the_other_identities(engine, tmp_path):
    (tmp_path / "password").write_text("pässword")
    basic = asked_with(engine, username="u", password_file=tmp_path / "password")
    assert basic["Authorization"] == "Basic dTpww6Rzc3dvcmQ="
    environment = {"CARBON_PROMETHEUS_PASSWORD": "pw", "CARBON_PROMETHEUS_BEARER_TOKEN": "tk"}
    assert asked_with(engine, environment, username="u")["Authorization"] == "Basic dTpwdw=="
    assert asked_with(engine, environment)["Authorization"] == "Bearer tk"
    tenant = asked_with(engine, headers={"X-Scope-OrgID": "tenant"})
    assert tenant["X-Scope-OrgID"] == "tenant"
    assert "Authorization" not in tenant


@pytest.mark.parametrize("content", [None, "", "hush\nhush", "hush\x00"], ids=["missing", "empty", "lines", "control"])
def test_a_secret_that_cannot_be_used_is_never_shown(engine, tmp_path, content):
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    session = open_session(Settings(prometheus_url=engine.url, bearer_token_file=file), {})
    with session, pytest.raises(PromQLError, match=str(file)) as caught:
        Client(engine.url, session).query("up", 0)
    assert caught.value.reason == "rejected"
    assert "hush" not in f"{caught.value!r} {caught.value.__cause__!r} {session.auth!r}"
    assert engine.requests == []


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"prometheus_url": "http://user:hush@host"}, "prometheus_url"),
        ({"prometheus_url": "host:9090"}, "prometheus_url"),
        ({"headers": {"authorization": "Bearer hush"}}, "headers"),
        ({"bearer_token_file": "a", "username": "u"}, "bearer_token_file and username"),
        ({"password_file": "a"}, "password_file needs username"),
        ({"poll_seconds": 0}, "poll_seconds"),
        ({"token": "hush"}, "forecast.token: unknown key"),
    ],
)
def test_bad_settings_name_the_key_and_hide_the_value(values, key):
    with pytest.raises(ConfigurationError, match=key) as caught:
        validated(Settings, values, "forecast")
    assert "hush" not in str(caught.value)


def test_a_missing_certificate_file_is_told_at_the_start(tmp_path):
    with pytest.raises(ConfigurationError, match=r"forecast\.ca_file"):
        open_session(Settings(ca_file=tmp_path / "ca.pem"), {})


def test_its_own_certificates_come_before_those_of_the_environment(tmp_path, monkeypatch):
    authority, stranger = Authority(tmp_path, "authority"), Authority(tmp_path, "stranger")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("server"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(stranger.file))
    answer = {"status": "success", "data": {"resultType": "vector", "result": []}}
    with FakeGrid({"/api/v1/query": Reply(answer)}, tls=context) as server:
        session = open_session(Settings(ca_file=authority.file), {})
        assert Client(server.url, session).query("up", 0) == []
        with pytest.raises(PromQLError, match="SSLError"):
            Client(server.url, open_session(Settings(ca_file=stranger.file), {})).query("up", 0)
