"""The web server over real sockets: pages, limits, passwords, TLS."""

import base64
import contextlib
import gzip
import logging
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path

import anyio
import bcrypt
import pytest
import requests
from authority import Authority
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from carbon_exporter.metrics import CONTENT_TYPE, Family, Metric, Renderer
from carbon_exporter.model import ConfigurationError
from carbon_exporter.web import server as web_server
from carbon_exporter.web.config import TlsSettings, WebConfig, load_web_config
from carbon_exporter.web.server import WebServer, listen
from carbon_exporter.web.site import Page, Site, accepts_gzip, build_app, landing_page

JOULES = Metric("carbon_job_energy_joules_total", "counter", "node", "Energy.", ("training_job", "component"))
TEXT = Renderer().render([Family(JOULES, [((f"job-{i}", "cpu"), float(i)) for i in range(500)])])
PAGE = Page(TEXT)
SECRET = "correct horse: battery"  # a password may have colons
HASH = bcrypt.hashpw(SECRET.encode(), bcrypt.gensalt(4)).decode()
TIMEOUT = 10


def site(**changes: object) -> Site:
    settings = {
        "title": "carbon-exporter",
        "description": "Joules and grams.",
        "metrics": lambda: PAGE,
        "ready": lambda: True,
    }
    return Site(**{**settings, **changes})


@contextlib.contextmanager
def serving(shown: Site | None = None, config: WebConfig | None = None) -> Iterator[WebServer]:
    server = WebServer(shown or site(), "127.0.0.1:0", config)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def plain() -> Iterator[WebServer]:
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def guarded() -> Iterator[WebServer]:
    with serving(config=WebConfig(basic_auth_users={"prometheus": HASH})) as server:
        yield server


def get(server: WebServer, path: str = "/metrics", **arguments: object) -> requests.Response:
    return requests.get(server.url + path, timeout=TIMEOUT, **arguments)


def connect(server: WebServer) -> socket.socket:
    host, port = server.address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=TIMEOUT)


def everything(connection: socket.socket) -> bytes:
    """What comes until the server closes; a reset counts as the end."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while chunk := connection.recv(65536):
            received += chunk
    return received


def ask(server: WebServer, raw: bytes) -> bytes:
    with connect(server) as connection:
        connection.sendall(raw)
        return everything(connection)


class TestPages:
    def test_metrics_are_the_bytes_of_the_page(self, plain: WebServer) -> None:
        answer = get(plain, headers={"Accept-Encoding": "identity"})
        assert answer.status_code == 200
        assert answer.content == TEXT
        assert answer.headers["Content-Type"] == CONTENT_TYPE
        assert "Content-Encoding" not in answer.headers
        assert answer.headers["Vary"] == "Accept-Encoding"
        assert "Server" not in answer.headers

    def test_metrics_are_compressed_for_who_takes_it(self, plain: WebServer) -> None:
        answer = ask(plain, b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n")
        head, body = answer.split(b"\r\n\r\n", 1)
        assert b"content-encoding: gzip" in head
        assert f"content-length: {len(PAGE.gzipped)}".encode() in head
        assert body == PAGE.gzipped
        assert gzip.decompress(body) == TEXT

    def test_a_page_is_small_when_compressed(self) -> None:
        assert len(PAGE.gzipped) < len(PAGE.plain) / 4
        assert Page(b"").plain == b""

    @pytest.mark.real
    def test_promtool_accepts_what_is_served(self, plain: WebServer, need: Callable[[str], str]) -> None:
        check = subprocess.run(
            [need("promtool"), "check", "metrics"], input=get(plain).content, capture_output=True, check=False
        )
        assert check.returncode == 0, check.stderr

    def test_before_the_first_page(self) -> None:
        with serving(site(metrics=lambda: None, ready=lambda: False)) as server:
            answer = get(server)
            assert (answer.status_code, answer.text) == (503, "No page yet: the first one is still being made.\n")
            assert get(server, "/-/ready").status_code == 503
            assert get(server, "/-/healthy").status_code == 200

    def test_health_and_readiness(self, plain: WebServer) -> None:
        assert get(plain, "/-/healthy").text == "carbon-exporter is healthy.\n"
        assert get(plain, "/-/ready").status_code == 200

    @pytest.mark.parametrize("path", ["/metrics", "/", "/-/healthy", "/-/ready"])
    def test_head_is_get_without_body(self, plain: WebServer, path: str) -> None:
        answer = requests.head(plain.url + path, timeout=TIMEOUT, headers={"Accept-Encoding": "identity"})
        whole = get(plain, path, headers={"Accept-Encoding": "identity"})
        assert answer.status_code == 200
        assert answer.content == b""
        assert answer.headers["Content-Length"] == str(len(whole.content))

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
    @pytest.mark.parametrize("path", ["/metrics", "/", "/-/ready"])
    def test_other_methods_are_405(self, plain: WebServer, method: str, path: str) -> None:
        answer = requests.request(method, plain.url + path, timeout=TIMEOUT)
        assert answer.status_code == 405
        assert sorted(answer.headers["Allow"].split(", ")) == ["GET", "HEAD"]

    @pytest.mark.parametrize("path", ["/nothing", "/metrics/", "/metrics/x", "//metrics", "/-/"])
    def test_other_paths_are_404(self, plain: WebServer, path: str) -> None:
        assert get(plain, path, allow_redirects=False).status_code == 404

    def test_another_metrics_path(self) -> None:
        with serving(site(metrics_path="/carbon")) as server:
            assert get(server, "/carbon").content == TEXT
            assert get(server, "/metrics").status_code == 404
            assert 'href="/carbon"' in get(server, "/").text

    def test_metrics_at_the_root_leave_no_landing_page(self) -> None:
        with serving(site(metrics_path="/")) as server:
            assert get(server, "/").content == TEXT

    @pytest.mark.parametrize("path", ["metrics", "", "/{x}", "/a b", "/a?b", "http://host/metrics"])
    def test_an_impossible_metrics_path_is_an_error(self, path: str) -> None:
        with pytest.raises(ConfigurationError, match=r"--web\.telemetry-path"):
            build_app(site(metrics_path=path), {})

    def test_further_routes(self) -> None:
        def answer(request: object) -> PlainTextResponse:
            return PlainTextResponse("a room")

        with serving(site(routes=[Route("/api/room", answer)])) as server:
            assert get(server, "/api/room").text == "a room"

    def test_a_route_that_fails_is_a_500_and_leaves_the_rest(self, caplog: pytest.LogCaptureFixture) -> None:
        def fail(request: object) -> PlainTextResponse:
            raise ZeroDivisionError

        with serving(site(routes=[Route("/fail", fail)])) as server:
            assert get(server, "/fail").status_code == 500
            assert get(server).status_code == 200
        assert "ZeroDivisionError" in caplog.text


class TestLandingPage:
    def test_it_links_to_everything(self, plain: WebServer) -> None:
        page = get(plain, "/")
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        found: list[str] = []

        class Links(HTMLParser):
            def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
                found.extend(value or "" for name, value in attrs if name == "href")
                assert "src" not in dict(attrs)

        Links().feed(page.text)
        assert found == ["/metrics", "/-/healthy", "/-/ready"]
        assert all(get(plain, path).status_code == 200 for path in found)
        assert 'name="viewport"' in page.text

    def test_text_is_escaped(self) -> None:
        page = landing_page(
            site(title="<b>&", description='"{x}"<script>', links=[("<i>", 'https://example.org/?a="&b')])
        )
        assert "<script>" not in page
        assert "<h1>&lt;b&gt;&amp;</h1>" in page
        assert '<a href="https://example.org/?a=&quot;&amp;b">&lt;i&gt;</a>' in page


class TestAcceptEncoding:
    @pytest.mark.parametrize(
        "header",
        [
            "gzip",
            "GZIP",
            "gzip, deflate, br",
            "br;q=1.0, gzip;q=0.8",
            "*",
            "gzip ; q=0.001",
            "identity;q=0, *",
            "a,,gzip",
        ],
    )
    def test_taken(self, header: str) -> None:
        assert accepts_gzip(header)

    @pytest.mark.parametrize(
        "header", ["", "identity", "br", "gzip;q=0", "gzip; Q = 0.000", "*;q=0", "gzip;q=0, *", "*, gzip;q=0", "xgzip"]
    )
    def test_not_taken(self, header: str) -> None:
        assert not accepts_gzip(header)

    @given(st.text())
    def test_any_text_has_an_answer(self, header: str) -> None:
        assert accepts_gzip(header) in (True, False)
        assert accepts_gzip(header.replace("*", "").replace("z", "")) is False


class TestBounds:
    def test_a_hundred_scrapers_at_once(self, plain: WebServer) -> None:
        together = threading.Barrier(100)

        def scrape(_: int) -> list[int]:
            with requests.Session() as session:
                session.get(plain.url + "/-/healthy", timeout=TIMEOUT)
                together.wait(TIMEOUT)
                answers = [session.get(plain.url + "/metrics", timeout=TIMEOUT) for _ in range(3)]
            return [answer.status_code for answer in answers if answer.content == TEXT]

        with ThreadPoolExecutor(100) as pool:
            assert list(pool.map(scrape, range(100))) == [[200, 200, 200]] * 100

    def test_requests_beyond_forty_are_turned_away(self) -> None:
        release = threading.Event()
        running = threading.Semaphore(0)

        async def slow(request: object) -> PlainTextResponse:
            running.release()
            await anyio.to_thread.run_sync(release.wait, TIMEOUT, limiter=anyio.CapacityLimiter(1))
            return PlainTextResponse("done")

        with serving(site(routes=[Route("/slow", slow)])) as server, ThreadPoolExecutor(40) as pool:
            waiting = [pool.submit(get, server, "/slow") for _ in range(40)]
            try:
                for _ in range(40):
                    assert running.acquire(timeout=TIMEOUT)
                refused = get(server)
            finally:
                release.set()
            assert refused.status_code == 503
            assert refused.headers["Retry-After"] == "1"
            assert [answer.result().text for answer in waiting] == ["done"] * 40
            assert get(server).status_code == 200

    def test_connections_beyond_the_bound_are_turned_away(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(web_server, "MOST_CONNECTIONS", 5)
        with serving() as server, contextlib.ExitStack() as stack:
            sessions = [stack.enter_context(requests.Session()) for _ in range(5)]
            for session in sessions:
                assert session.get(server.url + "/metrics", timeout=TIMEOUT).status_code == 200
            with connect(server) as sixth:
                assert everything(sixth).startswith(b"HTTP/1.1 503 ")
            # Who has a connection keeps it.
            assert sessions[0].get(server.url + "/metrics", timeout=TIMEOUT).status_code == 200

    def test_a_slow_sender_blocks_nobody_and_is_cut_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(web_server, "REQUEST_SECONDS", 0.4)
        with serving() as server, connect(server) as silent, connect(server) as slow:
            slow.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n")
            assert get(server).content == TEXT
            with contextlib.suppress(ConnectionError):
                for _ in range(200):  # each byte in time, the whole never
                    slow.sendall(b"a")
                    time.sleep(0.01)
                pytest.fail("the slow sender was never cut off")
            assert everything(silent) == b""

    def test_a_kept_connection_has_no_deadline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(web_server, "REQUEST_SECONDS", 0.1)
        with serving() as server, connect(server) as connection:
            for _ in range(2):
                connection.sendall(b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
                assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
                time.sleep(0.3)

    def test_an_idle_connection_is_closed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(web_server, "IDLE_SECONDS", 0.2)
        with serving() as server:
            answer = ask(server, b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.endswith(b"carbon-exporter is healthy.\n")

    @pytest.mark.parametrize(
        "start",
        [b"GET /metrics HTTP/1.1\r\nX: ", b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", b"GET /"],
        ids=["header", "body", "path"],
    )
    def test_a_request_without_end_is_cut_off(self, plain: WebServer, start: bytes) -> None:
        sent = 0
        with connect(plain) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(start)
            while sent < 64 * 1024 * 1024:
                sent += connection.send(b"a" * 65536)
        assert sent < 64 * 1024 * 1024
        assert get(plain).status_code == 200

    def test_a_small_body_is_ignored(self, plain: WebServer) -> None:
        answer = get(plain, data=b"x" * 1000, headers={"Accept-Encoding": "identity"})
        assert (answer.status_code, answer.content) == (200, TEXT)

    @pytest.mark.parametrize(
        "garbage",
        [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"GET /m\xc3\xa9trics HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /metrics HTTP/9.9\r\n\r\n",
            b"NONSENSE / HTTP/1.1\r\n\r\n",
            b"GET /metrics HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        ],
    )
    def test_garbage_is_a_400(self, plain: WebServer, garbage: bytes) -> None:
        assert ask(plain, garbage).startswith(b"HTTP/1.1 400 Bad Request\r\n")

    def test_a_client_that_never_reads_is_the_kernels_business(self, plain: WebServer) -> None:
        listener = listen("127.0.0.1:0")
        with listener, socket.create_connection(listener.getsockname()):
            connection, _ = listener.accept()
            with connection:
                assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
                assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


class TestListening:
    def test_a_taken_port(self, plain: WebServer) -> None:
        second = WebServer(site(), plain.address)
        with pytest.raises(ConfigurationError) as error:
            second.start()
        second.stop()
        assert str(error.value) == (
            f"cannot listen on {plain.address}: the port is taken; stop what listens there or choose another with "
            "--web.listen-address"
        )

    @pytest.mark.parametrize(
        "address",
        [
            "",
            "10090",
            "localhost",
            "127.0.0.1:",
            "127.0.0.1:http",
            "127.0.0.1:65536",
            "::1:10090",
            "[::1]",
            "a:1:2",
            "[]:1",
        ],
    )
    def test_an_address_that_is_none(self, address: str) -> None:
        with pytest.raises(ConfigurationError, match=r"--web\.listen-address takes HOST:PORT"):
            listen(address)

    @pytest.mark.parametrize(("address", "reason"), [("192.0.2.1:0", "no such address"), ("x.invalid:0", "not known")])
    def test_an_address_of_elsewhere(self, address: str, reason: str) -> None:
        with pytest.raises(ConfigurationError, match=f"^cannot listen on {re.escape(address)}: .*{reason}"):
            listen(address)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
    def test_a_port_that_is_not_allowed(self) -> None:
        if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 79:
            pytest.skip("this host allows everybody every port")
        # It listens once before, as root: afterwards Python's own files may be out of reach.
        code = """
import os
from carbon_exporter.model import ConfigurationError
from carbon_exporter.web.server import listen
listen("127.0.0.1:0").close()
os.setuid(65534)
try:
    listen("127.0.0.1:79")
except ConfigurationError as error:
    print(error)
"""
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert "not allowed" in result.stdout

    def test_every_address(self) -> None:
        with listen(":0") as listener:
            port = listener.getsockname()[1]
            socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT).close()
            if socket.has_ipv6:
                socket.create_connection(("::1", port), timeout=TIMEOUT).close()

    def test_ipv6(self) -> None:
        server = WebServer(site(), "[::1]:0")
        server.start()
        try:
            assert re.fullmatch(r"http://\[::1]:[1-9][0-9]*", server.url)
            assert get(server).status_code == 200
        finally:
            server.stop()

    def test_localhost_is_ipv4(self) -> None:
        with listen("localhost:0") as listener:
            assert listener.getsockname()[0] == "127.0.0.1"

    def test_stop_frees_the_port_and_ends_the_thread(self) -> None:
        more_than_the_kernel_buffers = Page(b"x" * 30_000_000)
        with serving(site(metrics=lambda: more_than_the_kernel_buffers)) as server, requests.Session() as session:
            session.get(server.url, timeout=TIMEOUT)
            with connect(server) as silent, connect(server) as unread:
                unread.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
                assert unread.recv(15) == b"HTTP/1.1 200 OK"
                server.stop()
                assert everything(silent) == b""
                assert len(everything(unread)) < 30_000_000
                assert not [thread for thread in threading.enumerate() if thread is server._thread]
            listen(server.address).close()
            server.stop()  # once more does no harm

    def test_stop_lets_a_running_request_end(self) -> None:
        started = threading.Event()

        async def slow(request: object) -> PlainTextResponse:
            started.set()
            await anyio.sleep(0.5)
            return PlainTextResponse("done")

        with serving(site(routes=[Route("/slow", slow)])) as server, ThreadPoolExecutor(1) as pool:
            answer = pool.submit(get, server, "/slow")
            assert started.wait(TIMEOUT)
            server.stop()
            assert answer.result().text == "done"

    def test_stop_before_start_does_nothing(self) -> None:
        server = WebServer(site(), "127.0.0.1:0")
        server.stop()
        assert server.address == "127.0.0.1:0"


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class TestBasicAuth:
    @pytest.mark.parametrize("path", ["/metrics", "/", "/-/healthy", "/-/ready", "/nothing"])
    def test_every_path_asks(self, guarded: WebServer, path: str) -> None:
        answer = get(guarded, path)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == 'Basic realm="carbon-exporter", charset="UTF-8"'
        assert "carbon_job" not in answer.text

    def test_the_right_password_again_and_again(self, guarded: WebServer) -> None:
        for _ in range(3):
            assert get(guarded, auth=("prometheus", SECRET)).content == TEXT

    def test_a_known_password_is_not_checked_again(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        checked: list[bytes] = []
        really = bcrypt.checkpw

        def count(password: bytes, bcrypt_hash: bytes) -> bool:
            checked.append(bcrypt_hash)
            return really(password, bcrypt_hash)

        monkeypatch.setattr(bcrypt, "checkpw", count)
        app = build_app(site(), {"prometheus": HASH})
        with serving(config=WebConfig(basic_auth_users={"prometheus": HASH})) as server:
            codes = [get(server, auth=("prometheus", SECRET)).status_code for _ in range(5)]
            codes += [get(server, auth=("prometheus", "wrong")).status_code for _ in range(2)]
            codes += [get(server, auth=("nobody", SECRET)).status_code for _ in range(2)]
            codes += [get(server, auth=("prometheus", SECRET)).status_code]
        assert codes == [200] * 5 + [401] * 4 + [200]
        assert checked == [HASH.encode()] * 5  # unknown users are checked too, against a hash of the same cost
        assert SECRET not in repr(vars(app))
        assert SECRET not in caplog.text

    @pytest.mark.parametrize(
        ("user", "password"),
        [
            ("prometheus", ""),
            ("prometheus", SECRET + "x"),
            ("prometheus", SECRET[:-1]),
            ("prometheus", SECRET.upper()),
            ("Prometheus", SECRET),
            ("", SECRET),
            ("prometheus", "x" * 5000),
            ("prometheus", "a\x00b"),
            ("prometheus", "naïve ☃"),
            ("☃", SECRET),
        ],
    )
    def test_wrong_ones(self, guarded: WebServer, user: str, password: str) -> None:
        assert get(guarded, headers={"Authorization": basic(user, password)}).status_code == 401

    @pytest.mark.parametrize(
        "header",
        [
            b"",
            b"Basic",
            b"Basic ",
            b"Basic !!!",
            b"Basic \xff\xfe\x80",
            b"Basic " + base64.b64encode(b"no-colon"),
            b"Basic " + base64.b64encode(b":"),
            b"Basic " + base64.b64encode(b"\xff\xfe:\x80"),
            b"Basic " + base64.b64encode(f"prometheus:{SECRET}".encode())[:-3],
            b"Basic !" + base64.b64encode(f"prometheus:{SECRET}".encode()),
            b"Bearer " + base64.b64encode(f"prometheus:{SECRET}".encode()),
            b"basic" + b" " * 50,
            b"Basic " + b"A" * 40_000,
        ],
    )
    def test_garbage_is_401(self, guarded: WebServer, header: bytes) -> None:
        raw = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: " + header + b"\r\n\r\n"
        assert ask(guarded, raw).startswith(b"HTTP/1.1 401 Unauthorized\r\n")

    def test_the_scheme_has_any_case(self, guarded: WebServer) -> None:
        header = basic("prometheus", SECRET).replace("Basic", "bAsIc")
        assert get(guarded, headers={"Authorization": header}).status_code == 200

    def test_a_long_password_counts_up_to_72_bytes_as_bcrypt_does(self) -> None:
        long = "p" * 72
        users = {"long": bcrypt.hashpw(long.encode(), bcrypt.gensalt(4)).decode()}
        with serving(config=WebConfig(basic_auth_users=users)) as server:
            assert get(server, auth=("long", long + "anything")).status_code == 200
            assert get(server, auth=("long", long[:-1])).status_code == 401

    def test_hashes_of_apache(self) -> None:
        users = {"prometheus": HASH.replace("$2b$", "$2y$")}
        with serving(config=WebConfig(basic_auth_users=users)) as server:
            assert get(server, auth=("prometheus", SECRET)).status_code == 200

    def test_known_scrapers_do_not_wait_for_guesses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        release = threading.Event()
        really = bcrypt.checkpw

        def slow(password: bytes, bcrypt_hash: bytes) -> bool:
            return really(password, bcrypt_hash) or not release.wait(TIMEOUT)

        monkeypatch.setattr(bcrypt, "checkpw", slow)
        config = WebConfig(basic_auth_users={"prometheus": HASH})
        with serving(config=config) as server, ThreadPoolExecutor(30) as pool:
            assert get(server, auth=("prometheus", SECRET)).status_code == 200
            guesses = [pool.submit(get, server, auth=("prometheus", f"guess {i}")) for i in range(30)]
            try:
                deadline = time.monotonic() + TIMEOUT
                while sum(guess.done() for guess in guesses) < 20 and time.monotonic() < deadline:
                    time.sleep(0.01)
                known = get(server, auth=("prometheus", SECRET)).status_code
            finally:
                release.set()
            assert known == 200
            assert sorted(guess.result().status_code for guess in guesses) == [401] * 10 + [503] * 20


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "authority")


def tls_config(authority: Authority, **changes: object) -> WebConfig:
    certificate, key = authority.issue("server")
    return WebConfig(tls_server_config=TlsSettings(cert_file=certificate, key_file=key, **changes))


def served_certificate(server: WebServer, name: str | None = None) -> bytes:
    """The certificate that a new connection gets, as DER; `name` is the host that the client asks for, if any."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with connect(server) as raw, context.wrap_socket(raw, server_hostname=name) as connection:
        return connection.getpeercert(binary_form=True) or b""


@pytest.mark.filterwarnings(
    # asyncio of Python 3.10 leaves the transport of a failed handshake to the garbage collector, and says so.
    *(["ignore::pytest.PytestUnraisableExceptionWarning"] if sys.version_info < (3, 11) else [])
)
class TestTls:
    def test_a_scrape(self, authority: Authority) -> None:
        with serving(config=tls_config(authority)) as server:
            assert server.url.startswith("https://127.0.0.1:")
            assert get(server, verify=str(authority.file)).content == TEXT
            assert not ask(server, b"GET /metrics HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")

    def test_a_certificate_that_the_client_does_not_know(self, authority: Authority) -> None:
        with serving(config=tls_config(authority)) as server, pytest.raises(requests.exceptions.SSLError):
            get(server)

    def test_client_certificates(self, authority: Authority, tmp_path: Path) -> None:
        config = tls_config(authority, client_ca_file=authority.file, client_auth_type="RequireAndVerifyClientCert")
        stranger = Authority(tmp_path, "stranger").issue("client")
        known = authority.issue("client")
        with serving(config=config) as server:
            assert get(server, verify=str(authority.file), cert=known).status_code == 200
            with pytest.raises(requests.exceptions.ConnectionError):
                get(server, verify=str(authority.file))
            with pytest.raises(requests.exceptions.ConnectionError):
                get(server, verify=str(authority.file), cert=stranger)
            assert get(server, verify=str(authority.file), cert=known).status_code == 200

    def test_a_client_certificate_if_given(self, authority: Authority, tmp_path: Path) -> None:
        config = tls_config(authority, client_ca_file=authority.file, client_auth_type="VerifyClientCertIfGiven")
        stranger = Authority(tmp_path, "stranger").issue("client")
        with serving(config=config) as server:
            assert get(server, verify=str(authority.file)).status_code == 200
            with pytest.raises(requests.exceptions.ConnectionError):
                get(server, verify=str(authority.file), cert=stranger)

    @pytest.mark.parametrize(
        ("changes", "offered", "taken"),
        [
            ({}, ssl.TLSVersion.TLSv1_2, "TLSv1.2"),
            ({}, ssl.TLSVersion.TLSv1_3, "TLSv1.3"),
            ({"min_version": "TLS13"}, ssl.TLSVersion.TLSv1_2, None),
            ({"max_version": "TLS12"}, ssl.TLSVersion.TLSv1_3, None),
        ],
    )
    def test_versions(
        self, authority: Authority, changes: dict[str, str], offered: ssl.TLSVersion, taken: str | None
    ) -> None:
        context = ssl.create_default_context(cafile=str(authority.file))
        context.set_alpn_protocols(["h2", "http/1.1"])
        context.minimum_version = context.maximum_version = offered
        with serving(config=tls_config(authority, **changes)) as server, connect(server) as raw:
            if taken is None:
                with pytest.raises(ssl.SSLError):
                    context.wrap_socket(raw, server_hostname="localhost")
                return
            with context.wrap_socket(raw, server_hostname="localhost") as connection:
                assert connection.version() == taken
                assert connection.selected_alpn_protocol() == "http/1.1"

    @pytest.mark.parametrize("server_name", [None, "localhost"])
    def test_a_renewed_certificate_holds_from_the_next_connection(
        self, authority: Authority, server_name: str | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "carbon_exporter.web")
        with serving(config=tls_config(authority)) as server, requests.Session() as session:
            session.verify, session.trust_env = str(authority.file), False
            assert session.get(server.url + "/metrics", timeout=TIMEOUT).status_code == 200
            before = served_certificate(server, server_name)
            assert served_certificate(server, server_name) == before
            file, _ = authority.issue("server")
            new = x509.load_pem_x509_certificate(file.read_bytes()).public_bytes(serialization.Encoding.DER)
            assert before != new
            assert served_certificate(server, server_name) == new
            assert session.get(server.url + "/metrics", timeout=TIMEOUT).status_code == 200
        assert caplog.text.count("new connections use them") == 1

    def test_a_bad_renewal_leaves_the_old_certificate_and_is_said_once(
        self, authority: Authority, caplog: pytest.LogCaptureFixture
    ) -> None:
        config = tls_config(authority)
        with serving(config=config) as server:
            before = served_certificate(server)
            tls = config.tls_server_config
            assert tls is not None
            assert tls.cert_file is not None
            tls.cert_file.write_text("half a certi")
            assert [served_certificate(server) for _ in range(3)] == [before] * 3
            assert caplog.text.count("the old ones stay in use") == 1
            tls.cert_file.unlink()
            assert [served_certificate(server) for _ in range(3)] == [before] * 3
            assert caplog.text.count(f"TLS file {tls.cert_file} cannot be read: No such file") == 1
            authority.issue("server")
            assert served_certificate(server) != before

    def test_a_new_client_authority_is_taken_up(self, authority: Authority, tmp_path: Path) -> None:
        other = Authority(tmp_path, "other")
        trusted = tmp_path / "trusted.pem"
        trusted.write_bytes(authority.file.read_bytes())
        config = tls_config(authority, client_ca_file=trusted, client_auth_type="RequireAndVerifyClientCert")
        with serving(config=config) as server:
            with pytest.raises(requests.exceptions.ConnectionError):
                get(server, verify=str(authority.file), cert=other.issue("client"))
            trusted.write_bytes(other.file.read_bytes())
            assert get(server, verify=str(authority.file), cert=other.issue("client")).status_code == 200

    def test_files_that_are_no_use_are_named(self, authority: Authority, tmp_path: Path) -> None:
        certificate, key = authority.issue("server")
        other_certificate, _ = authority.issue("other")
        text = tmp_path / "text"
        text.write_text("hello")
        locked = tmp_path / "locked.key"
        private = serialization.load_pem_private_key(key.read_bytes(), None)
        locked.write_bytes(
            private.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"x"),
            )
        )
        absent = tmp_path / "absent"
        verify = {"client_auth_type": "RequireAndVerifyClientCert"}
        for tls, named in [
            (TlsSettings(cert_file=absent, key_file=key), absent),
            (TlsSettings(cert_file=certificate, key_file=absent), absent),
            (TlsSettings(cert_file=tmp_path, key_file=key), tmp_path),
            (TlsSettings(cert_file=text, key_file=key), text),
            (TlsSettings(cert_file=other_certificate, key_file=key), other_certificate),
            (TlsSettings(cert_file=certificate, key_file=locked), locked),
            (TlsSettings(cert_file=certificate, key_file=key, client_ca_file=text, **verify), text),
            (TlsSettings(cert_file=certificate, key_file=key, client_ca_file=absent, **verify), absent),
        ]:
            with pytest.raises(ConfigurationError) as error:
                WebServer(site(), "127.0.0.1:0", WebConfig(tls_server_config=tls))
            assert str(named) in str(error.value)
            assert "\n" not in str(error.value)


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "web.yml"
    file.write_text(text)
    return file


class TestConfigFile:
    def test_everything(self, tmp_path: Path) -> None:
        config = load_web_config(
            written(
                tmp_path,
                f"""
tls_server_config:
  cert_file: tls/server.crt
  key_file: /etc/server.key
  client_ca_file: ca.pem
  client_auth_type: RequireAndVerifyClientCert
  min_version: TLS13
  max_version: TLS13
http_server_config:
  http2: false
  headers:
    X-Frame-Options: deny
    X-Content-Type-Options: nosniff
    Strict-Transport-Security: max-age=31536000
    X-XSS-Protection: ''
basic_auth_users:
  prometheus: {HASH}
""",
            )
        )
        tls = config.tls_server_config
        assert tls is not None
        assert (tls.cert_file, tls.key_file) == (tmp_path / "tls/server.crt", Path("/etc/server.key"))
        assert tls.client_ca_file == tmp_path / "ca.pem"
        assert config.basic_auth_users == {"prometheus": HASH}
        assert config.headers == [
            ("X-Frame-Options", "deny"),
            ("X-Content-Type-Options", "nosniff"),
            ("Strict-Transport-Security", "max-age=31536000"),
        ]
        assert HASH not in repr(config)

    @pytest.mark.parametrize("text", ["", "# nothing\n", "{}"])
    def test_an_empty_file_is_plain_http(self, tmp_path: Path, text: str) -> None:
        assert load_web_config(written(tmp_path, text)) == WebConfig()

    def test_headers_are_sent_with_every_answer(self, tmp_path: Path) -> None:
        text = (
            "http_server_config: {headers: {X-Frame-Options: sameorigin, Content-Security-Policy: default-src 'self'}}"
        )
        with serving(config=load_web_config(written(tmp_path, text))) as server:
            for path in ("/metrics", "/", "/nothing"):
                answer = get(server, path)
                assert answer.headers["X-Frame-Options"] == "sameorigin"
                assert answer.headers["Content-Security-Policy"] == "default-src 'self'"

    @pytest.mark.parametrize(
        ("text", "named"),
        [
            ("rate_limit: {burst: 3}", "rate_limit is not supported"),
            ("auth_excluded_paths: [/metrics]", "auth_excluded_paths is not supported"),
            ("basic_auth_user: {}", "basic_auth_user is not supported"),
            ("tls_server_config: {cipher_suites: []}", "tls_server_config.cipher_suites is not supported"),
            ("tls_server_config: {client_allowed_sans: [a]}", "tls_server_config.client_allowed_sans is not supported"),
            ("tls_server_config: {key: s3cr3t}", "tls_server_config.key is not supported"),
            ("tls_server_config: {}", "tls_server_config.cert_file is missing"),
            ("tls_server_config: {cert_file: s3cr3t}", "tls_server_config.key_file is missing"),
            ("tls_server_config: s3cr3t", "tls_server_config: "),
            ("tls_server_config: {client_auth_type: s3cr3t}", "tls_server_config.client_auth_type: "),
            ("tls_server_config: {client_auth_type: RequireAnyClientCert}", "tls_server_config.client_auth_type: "),
            ("tls_server_config: {min_version: TLS10}", "tls_server_config.min_version: "),
            (
                "tls_server_config: {cert_file: a, key_file: b, min_version: TLS13, max_version: TLS12}",
                "tls_server_config.min_version is above",
            ),
            (
                "tls_server_config: {cert_file: a, key_file: b, client_ca_file: c}",
                "tls_server_config.client_ca_file needs client_auth_type",
            ),
            (
                "tls_server_config: {cert_file: a, key_file: b, client_auth_type: RequireAndVerifyClientCert}",
                "tls_server_config.client_ca_file is missing",
            ),
            ("http_server_config: {http2: true}", "http_server_config.http2 may only be false"),
            ("http_server_config: {headers: {Set-Cookie: s3cr3t}}", "http_server_config.headers.Set-Cookie is not"),
            (
                "http_server_config: {headers: {X-Frame-Options: s3cr3t}}",
                "http_server_config.headers.X-Frame-Options: ",
            ),
            (
                'http_server_config: {headers: {X-XSS-Protection: "s3cr3t\\r\\n"}}',
                "http_server_config.headers.X-XSS-Pro",
            ),
            ("basic_auth_users: {alice: s3cr3t}", "basic_auth_users.alice is not a bcrypt hash"),
            ("basic_auth_users: {alice: $2y$10$s3cr3t}", "basic_auth_users.alice is not a bcrypt hash"),
            ("basic_auth_users: {alice: 12345}", "basic_auth_users.alice: "),
            ("basic_auth_users: {'al:ice': s3cr3t}", "'al:ice' is empty or has a colon"),
            ("basic_auth_users: [s3cr3t]", "basic_auth_users: "),
            ("basic_auth_users: {alice: s3cr3t", "is not YAML (line 1)"),
            ("basic_auth_users:\n  alice: *s3cr3t", "is not YAML (line 2)"),
            ("s3cr3t", "holds no mapping"),
        ],
    )
    def test_mistakes_are_named_and_values_are_not(self, tmp_path: Path, text: str, named: str) -> None:
        file = written(tmp_path, text)
        with pytest.raises(ConfigurationError) as error:
            load_web_config(file)
        message = str(error.value)
        assert named in message
        assert message.startswith(f"--web.config.file {file}")
        assert "s3cr3t" not in message
        assert "\n" not in message
        assert error.value.__cause__ is None
        assert error.value.__suppress_context__ or error.value.__context__ is None

    def test_the_documented_example_works(self, tmp_path: Path, repository: Path) -> None:
        documented = (repository / "docs" / "web.md").read_text()
        example = next(
            text for text in re.findall(r"```yaml\n(.*?)```", documented, re.DOTALL) if "basic_auth_users" in text
        )
        config = load_web_config(written(tmp_path, example))
        assert config.tls_server_config is not None
        with serving(config=config.model_copy(update={"tls_server_config": None})) as server:
            assert get(server, auth=("prometheus", "example")).status_code == 200

    def test_files_that_cannot_be_read(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="No such file"):
            load_web_config(tmp_path / "absent.yml")
        with pytest.raises(ConfigurationError, match="directory"):
            load_web_config(tmp_path)
        binary = tmp_path / "binary.yml"
        binary.write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ConfigurationError, match="not UTF-8"):
            load_web_config(binary)


def test_signal_handlers_stay_with_the_caller() -> None:
    handled = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in handled]
    with serving():
        assert [signal.getsignal(number) for number in handled] == before
