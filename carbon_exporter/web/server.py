"""Puts a `Site` on a socket: uvicorn in a background thread, with bounds on what a client may hold or send.

A client that opens connections, sends slowly, sends without end or never reads must cost neither scrapes nor samples.
uvicorn's own limit_concurrency counts idle keep-alive connections too and would turn known scrapers away, so
connections are counted here and running requests in `web`.
"""

import asyncio
import contextlib
import errno
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from carbon_exporter.model import ConfigurationError
from carbon_exporter.web.config import TlsContext, WebConfig
from carbon_exporter.web.site import Site, build_app

MOST_CONNECTIONS: Final = 256
MOST_REQUEST_BYTES: Final = 64 * 1024
REQUEST_SECONDS: Final = 10.0
"""A request must be there, whole, so long after the connection or its first byte."""
IDLE_SECONDS: Final = 120
"""Longer than any usual scrape interval, so that a scraper keeps its connection."""
STALLED_SECONDS: Final = 30
"""A client that takes nothing of what was sent to it is cut off after this."""
START_SECONDS: Final = 10.0
GRACE_SECONDS: Final = 1
_ADDRESS: Final = re.compile(r"(?:\[(?P<ipv6>[^]]+)]|(?P<host>[^:\[\]]*)):(?P<port>[0-9]{1,5})")
_FULL: Final = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class WebServer:
    """Serves `site` at `listen_address` ("HOST:PORT", ":10090" for every address, "[::1]:10090"; port 0: a free one).

    Raises:
        ConfigurationError: the site's path, the configured certificates or, by `start`, the address cannot be used.
    """

    def __init__(self, site: Site, listen_address: str, config: WebConfig | None = None) -> None:
        config = config or WebConfig()
        self.address = listen_address
        """Where it listens; once started with the real port: "127.0.0.1:10090", "[::1]:10090"."""
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        settings = uvicorn.Config(
            build_app(site, config.basic_auth_users),
            interface="asgi3",
            http=BoundedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",  # its warnings are what port scanners send
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,  # BoundedProtocol makes it
            headers=config.headers,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        settings.load()
        if config.tls_server_config is not None:
            settings.ssl = TlsContext(config.tls_server_config).context
        self._scheme = "https" if settings.ssl else "http"
        self._server = QuietServer(settings)

    @property
    def url(self) -> str:
        """The address with its scheme, "http://127.0.0.1:10090"."""
        return f"{self._scheme}://{self.address}"

    def start(self) -> None:
        """Listen, and return once requests are answered. A server starts once."""
        listener = self._listener = listen(self.address)
        host, port = listener.getsockname()[:2]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(listener)), name="web", daemon=True)
        self._thread.start()
        deadline = time.monotonic() + START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError(f"the web server did not start at {self.address}")
            time.sleep(0.005)

    async def _serve(self, listener: socket.socket) -> None:
        await self._server.serve(sockets=[listener])
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)

    def stop(self) -> None:
        """Free the port, let running requests end for a second, cut off the rest. Harmless where nothing runs."""
        self._server.leave()
        if self._thread is not None:
            self._thread.join(GRACE_SECONDS + 2)
        if self._listener is not None:
            self._listener.close()


class QuietServer(uvicorn.Server):
    """uvicorn looks ten times a second whether it is to end, a fifth of the node agent's CPU time; this one sleeps."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._wake: Callable[[], object] | None = None

    async def main_loop(self) -> None:
        """Wait until the server is to end."""
        loop, told = asyncio.get_running_loop(), asyncio.Event()
        self._wake = lambda: loop.call_soon_threadsafe(told.set)
        if not await self.on_tick(0):
            await told.wait()

    def leave(self) -> None:
        """End the server, from any thread and at any time."""
        self.should_exit = True
        if self._wake is not None:
            with contextlib.suppress(RuntimeError):  # its loop has ended already
                self._wake()


def listen(listen_address: str) -> socket.socket:
    """A socket that listens there.

    Raises:
        ConfigurationError: the address cannot be read or used.
    """
    match = _ADDRESS.fullmatch(listen_address)
    if match is None or int(match["port"]) > 65535:
        raise ConfigurationError(
            f"{listen_address!r} is no address to listen on: "
            "--web.listen-address takes HOST:PORT, :10090 or [::1]:10090"
        )
    host, port = match["ipv6"] or match["host"], int(match["port"])
    try:
        if not host and socket.has_dualstack_ipv6():
            listener = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)
        else:
            found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            # "localhost" has two addresses: like Go's exporters, take IPv4.
            family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
            listener = socket.create_server(address[:2], family=family, backlog=128)
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {listen_address}: {_reason_and_cure(error)}") from None
    # Connections inherit both. uvicorn writes head and body apart, which without NODELAY costs 44 ms; asyncio sets it
    # only on sockets whose protocol number is given. And the kernel would keep a client that never reads for ever.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALLED_SECONDS * 1000)
    return listener


def _reason_and_cure(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "the host name is not known; give an address of this host with --web.listen-address"
    if error.errno == errno.EADDRINUSE:
        return "the port is taken; stop what listens there or choose another with --web.listen-address"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "not allowed; choose a port above 1023 with --web.listen-address or grant CAP_NET_BIND_SERVICE"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this host has no such address; give one that it has with --web.listen-address"
    return f"{os.strerror(error.errno or 0)}; choose another with --web.listen-address"


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, which by itself waits for ever for a request and takes one of any size."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._request_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, or turn it away where there are too many."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.write(_FULL)
            transport.close()
        else:
            self._expect_request()

    def data_received(self, data: bytes) -> None:
        """Feed the parser while the request keeps within its bounds."""
        self._request_bytes += len(data)
        if self._request_bytes > MOST_REQUEST_BYTES:
            self.transport.abort()
            return
        if self._deadline is None:
            self._expect_request()
        super().data_received(data)

    def on_message_begin(self) -> None:
        """The parser's callback: a request begins. Its answer's Date is made now, by no timer."""
        date = formatdate(usegmt=True).encode()
        self.server_state.default_headers = [(b"date", date), *self.config.encoded_headers]
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """The parser's callback: the request is there."""
        super().on_message_complete()
        self._request_bytes = 0
        self._forget_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the timer."""
        super().connection_lost(exc)
        self._forget_deadline()

    def _expect_request(self) -> None:
        self._deadline = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
