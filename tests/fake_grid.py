"""A local HTTP(S) server that plays any provider: each path has the answers that a test puts there.

It stands where the outside service would; the program under test speaks to it over real sockets and, if asked for, TLS.
"""

import gzip
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit


@dataclass
class Reply:
    """One answer. `body` is JSON unless it is bytes or str; `drip_seconds` waits before each byte; `cut` leaves off the
    last bytes that Content-Length promised."""

    body: object = field(default_factory=dict)
    status: int = 200
    headers: dict = field(default_factory=dict)
    gzipped: bool = False
    drip_seconds: float = 0.0
    cut: int = 0
    delay_seconds: float = 0.0

    def content(self):
        body = self.body
        if isinstance(body, str):
            body = body.encode()
        elif not isinstance(body, bytes):
            body = json.dumps(body).encode()
        return gzip.compress(body) if self.gzipped else body


@dataclass
class Asked:
    """One request as it came."""

    path: str
    parameters: dict
    headers: dict
    url: str


class FakeGrid:
    """Serves `answers`: path -> Reply, or a function of Asked that returns one; what comes is kept in `asked`.

    Use it as a context manager. `tls`: an ssl.SSLContext of the server's side.
    """

    def __init__(self, answers=None, tls=None):
        self.answers = dict(answers or {})
        self.asked = []
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                outer._answer(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        scheme = "https" if tls is not None else "http"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._stopping = threading.Event()

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def paths(self):
        with self._lock:
            return [asked.path for asked in self.asked]

    def _answer(self, handler):
        parts = urlsplit(handler.path)
        # Header names are in lower case. A parameter given twice keeps its last value.
        headers = {name.lower(): value for name, value in handler.headers.items()}
        asked = Asked(parts.path, dict(parse_qsl(parts.query, keep_blank_values=True)), headers, handler.path)
        with self._lock:
            self.asked.append(asked)
        reply = self.answers.get(parts.path, Reply({"error": "no such path"}, 404))
        if callable(reply):
            reply = reply(asked)
        if reply.delay_seconds:
            self._stopping.wait(reply.delay_seconds)
        content = reply.content()
        try:
            handler.send_response(reply.status)
            names = {"Content-Type": "application/json", "Content-Length": str(len(content)), **reply.headers}
            if reply.gzipped:
                names["Content-Encoding"] = "gzip"
            for name, value in names.items():
                handler.send_header(name, value)
            handler.end_headers()
            content = content[: len(content) - reply.cut]
            if reply.drip_seconds:
                for index in range(len(content)):
                    handler.wfile.write(content[index : index + 1])
                    handler.wfile.flush()
                    if self._stopping.wait(reply.drip_seconds):
                        break
            else:
                handler.wfile.write(content)
            if reply.cut:
                handler.close_connection = True
        except OSError:
            handler.close_connection = True  # the client has had enough


def iso(seconds, form="%Y-%m-%dT%H:%M:%SZ"):
    """Unix time as a provider writes it."""
    return time.strftime(form, time.gmtime(seconds))
