"""The way out to providers, over real sockets: bounds of time and size, TLS, proxies, redirects, and no secret told."""

import logging
import ssl
import threading
import time
from base64 import b64decode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import ProxyHandler, build_opener

import pytest
from authority import Authority
from fake_grid import FakeGrid, Reply

from carbon_exporter.answers import checked_json, grams, in_order, retry_after_seconds, utc_seconds
from carbon_exporter.grid.web import LARGEST_ANSWER, BoundedWeb
from carbon_exporter.model import ConfigurationError, ProviderError, Span

KEY = "s3cret-key"
NOW = 1_900_000_000.0


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in (
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "REQUESTS_CA_BUNDLE",
    ):
        monkeypatch.delenv(name, raising=False)


def failure(url, **more):
    with pytest.raises(ProviderError) as caught:
        checked_json(BoundedWeb(**more).get(url, {"key": KEY}, {"auth-token": KEY}), NOW)
    error = caught.value
    assert KEY not in str(error)
    assert "\n" not in str(error)
    return error


@pytest.mark.parametrize("gzipped", [False, True])
def test_an_answer_comes_whole_and_what_is_sent_arrives(gzipped):
    with FakeGrid({"/a": Reply({"x": 1}, gzipped=gzipped)}) as grid:
        answer = BoundedWeb().get(f"{grid.url}/a", {"key": KEY}, {"auth-token": KEY})
        assert checked_json(answer, NOW) == {"x": 1}
        assert answer.url == f"{grid.url}/a"
        (asked,) = grid.asked
    assert asked.parameters == {"key": KEY}
    assert asked.headers["auth-token"] == KEY
    assert asked.headers["user-agent"].startswith("carbon-exporter/")


@pytest.mark.parametrize(
    ("reply", "reason", "words"),
    [
        (Reply({"x": 1}, cut=2), "parse", "cut off"),
        (Reply({"x": 1}, cut=4, gzipped=True), "parse", "cut off"),
        (Reply(b"no gzip", headers={"Content-Encoding": "gzip"}), "parse", "no gzip"),
        (Reply("<html>"), "parse", "no JSON"),
        (Reply(""), "parse", "no JSON"),
        (Reply("x" * (LARGEST_ANSWER + 1)), "parse", "more than 8 MiB"),
        (Reply("x" * (LARGEST_ANSWER + 1), gzipped=True), "parse", "more than 8 MiB"),
        (Reply({}, 301, {"Location": f"https://elsewhere.example/x?key={KEY}"}), "server", "redirect to 'https://elsewhere"),
        (Reply({"error": "Invalid auth-token"}, 401), "auth", "Invalid auth-token"),
        (Reply({"message": "not yours"}, 403), "forbidden", "not yours"),
        (Reply({"error": {"code": "429", "message": "slow down"}}, 429), "rate_limit", "slow down"),
        (Reply("<h1>Bad gateway</h1>", 502), "server", "status 502"),
        (Reply({"message": "no Route matched"}, 404), "server", "no Route matched"),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_one_line_with_the_reason(reply, reason, words):
    with FakeGrid({"/a": reply}) as grid:
        error = failure(f"{grid.url}/a")
    assert (error.reason, words in str(error)) == (reason, True), str(error)
    assert f"{grid.url}/a" in str(error)


@pytest.mark.parametrize("text", ["x" * 200, "x" * 40_000])
def test_a_slow_drip_ends_at_the_deadline(text):
    with FakeGrid({"/a": Reply(text, drip_seconds=0.05)}) as grid:
        began = time.monotonic()
        error = failure(f"{grid.url}/a", answer_seconds=0.4)
        assert time.monotonic() - began < 5
    assert (error.reason, "0.4 s" in str(error)) == ("timeout", True)


def test_silence_is_a_timeout_and_nobody_there_is_unreachable():
    with FakeGrid({"/a": Reply({}, delay_seconds=20)}) as grid:
        assert failure(f"{grid.url}/a", answer_seconds=0.3).reason == "timeout"
        url = grid.url
    assert failure(f"{url}/a").reason == "unreachable"


def test_a_certificate_is_checked_and_an_own_ca_can_be_given(tmp_path):
    authority = Authority(tmp_path, "authority")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("server"))
    with FakeGrid({"/a": Reply({"x": 1})}, tls=context) as grid:
        error = failure(f"{grid.url}/a")
        assert (error.reason, "intensity.ca_file" in str(error)) == ("unreachable", True)
        answer = BoundedWeb(authority.file).get(f"{grid.url}/a")
        assert checked_json(answer, NOW) == {"x": 1}
    with pytest.raises(ConfigurationError, match=r"intensity\.ca_file: .*is no file"):
        BoundedWeb(tmp_path / "none.pem")


def test_a_file_without_certificates_and_the_flag_that_named_it_are_told(tmp_path):
    authority = Authority(tmp_path, "authority")
    for content in ("", "-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n", "text"):
        file = tmp_path / "text.pem"
        file.write_text(content)
        with pytest.raises(ConfigurationError, match=r"^--ca-file: .*/text\.pem: holds no PEM certificates: "):
            BoundedWeb(file, ca_key="--ca-file")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("server"))
    with FakeGrid({"/a": Reply({})}, tls=context) as grid:
        assert "(--ca-file)" in str(failure(f"{grid.url}/a", ca_key="--ca-file"))


def test_a_password_is_sent_in_utf_8():
    with FakeGrid({"/a": Reply({})}) as grid:
        BoundedWeb().get(f"{grid.url}/a", auth=("ålï", "pä: ß €"))
        assert b64decode(grid.asked[0].headers["authorization"].removeprefix("Basic ")).decode() == "ålï:pä: ß €"


class Proxy(BaseHTTPRequestHandler):
    """A forward proxy for plain HTTP: the request line holds the whole URL."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.seen.append(self.path)
        with build_opener(ProxyHandler({})).open(self.path) as answer:
            body = answer.read()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_the_proxy_of_the_environment_is_used(monkeypatch):
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    proxy.seen = []
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        with FakeGrid({"/a": Reply({"x": 1})}) as grid:
            monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.server_address[1]}")
            monkeypatch.setenv("no_proxy", "")
            web = BoundedWeb()
            answer = web.get(f"{grid.url}/a")
            assert checked_json(answer, NOW) == {"x": 1}
            assert proxy.seen == [f"{grid.url}/a"]
            monkeypatch.setenv("NO_PROXY", "127.0.0.1")
            monkeypatch.setenv("no_proxy", "127.0.0.1")
            web.get(f"{grid.url}/a")
            assert len(proxy.seen) == 1
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.server_address[1]}")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    assert "HTTPS_PROXY" in str(failure("http://127.0.0.1:9/a"))


def test_no_password_is_taken_from_netrc(tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password hidden\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with FakeGrid({"/a": Reply({})}) as grid:
        BoundedWeb().get(f"{grid.url}/a")
        BoundedWeb().get(f"{grid.url}/a", auth=("you", "password"))
        assert "authorization" not in grid.asked[0].headers
        assert grid.asked[1].headers["authorization"].startswith("Basic ")


def test_no_log_at_any_level_holds_a_key_of_the_query(caplog):
    caplog.set_level(logging.DEBUG)
    with FakeGrid({"/a": Reply({"x": 1}), "/b": Reply({}, 500)}) as grid:
        BoundedWeb().get(f"{grid.url}/a", {"key": KEY}, {"auth-token": KEY})
        failure(f"{grid.url}/b")
    assert KEY not in caplog.text


def test_retry_after_is_seconds_or_a_date():
    assert retry_after_seconds({"retry-after": "120"}, NOW) == 120
    assert retry_after_seconds({"retry-after": "Sun, 17 Mar 2030 17:47:40 GMT"}, NOW) == pytest.approx(
        1_900_000_060 - NOW
    )
    assert retry_after_seconds({"retry-after": "Sat, 16 Mar 2030 17:47:40 GMT"}, NOW) == 0
    for text in ("", "soon", "-5", "1e9", "²"):
        assert retry_after_seconds({"retry-after": text}, NOW) is None
    with FakeGrid({"/a": Reply({}, 429, {"Retry-After": "7"})}) as grid:
        assert failure(f"{grid.url}/a").retry_after_seconds == 7


def test_numbers_and_times_are_believed_only_when_they_are_some():
    assert (grams(None), grams(0), grams(12), grams(1000, 0.45)) == (None, 0, 12, 450)
    for value in (True, "12", float("nan"), float("inf"), -1, 2001, [], {}):
        with pytest.raises(ValueError, match=r"is no|out of range|Invalid|invalid"):
            grams(value)
    assert utc_seconds("2030-03-17T17:46:40Z") == NOW
    assert utc_seconds("2030-03-17T18:46:40+01:00") == NOW
    assert utc_seconds("2030-03-17T17:46:40.000Z") == NOW
    assert utc_seconds("2030-03-17T17:46") == NOW - 40
    for value in ("yesterday", None, 5, ""):
        with pytest.raises(ValueError, match=r"is no|out of range|Invalid|invalid"):
            utc_seconds(value)


def test_spans_come_into_order_and_do_not_overlap():
    given = [Span(10, 20, 2), Span(0, 15, 1), Span(10, 30, 3), Span(25, 26, 4)]
    assert in_order(given) == (Span(0, 10, 1), Span(10, 25, 3), Span(25, 26, 4))
    assert in_order([]) == ()
