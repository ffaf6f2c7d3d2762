"""What a process answers over HTTP: the finished page of metrics, a landing page, its health.

Nothing is read or rendered for a scrape: the producer renders a `Page` once, the first scraper that takes gzip has it
compressed, and any number of scrapers get the same bytes. `server` puts this application on a socket, `auth` asks for
passwords, and `config` reads the file of `--web.config.file`.
"""

import gzip
import html
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from carbon_exporter import __version__
from carbon_exporter.metrics import CONTENT_TYPE
from carbon_exporter.model import ConfigurationError
from carbon_exporter.web.auth import BasicAuth

MOST_REQUESTS: Final = 40
_METRICS_PATH: Final = re.compile(r"/(?!/|-/)[A-Za-z0-9._~/-]*")


class Page:
    """A finished exposition, as it is and compressed."""

    def __init__(self, plain: bytes) -> None:
        self.plain = plain

    @cached_property
    def gzipped(self) -> bytes:
        """`plain`, compressed for the first client that takes it so; most pages of a node agent are never scraped.

        Level 1: level 6 takes twice the CPU time to save an eighth of a metrics page's bytes.
        """
        return gzip.compress(self.plain, compresslevel=1, mtime=0)


@dataclass(frozen=True)
class Site:
    """What one process shows.

    Attributes:
        title: the heading of the landing page.
        description: one sentence below it.
        links: further (text, URL) pairs of the landing page.
        metrics: the page to serve now, from memory; None before the first one is finished.
        ready: whether the process does its work. A source that fails does not make it unready.
        metrics_path: "/" leaves no landing page.
        routes: what else is answered, behind the same authentication and limits.
    """

    title: str
    description: str
    metrics: Callable[[], Page | None]
    ready: Callable[[], bool]
    links: Sequence[tuple[str, str]] = ()
    metrics_path: str = "/metrics"
    routes: Sequence[BaseRoute] = ()


def build_app(site: Site, users: Mapping[str, str]) -> ASGIApp:
    """The ASGI application of `site`, open to everybody where `users` (name -> bcrypt hash) is empty.

    Raises:
        ConfigurationError: `site.metrics_path` is no plain absolute path.
    """
    if not _METRICS_PATH.fullmatch(site.metrics_path):
        raise ConfigurationError(
            f"{site.metrics_path!r} cannot be the path of the metrics: --web.telemetry-path takes one such as /metrics"
        )
    landing = landing_page(site)

    async def metrics(request: Request) -> Response:
        page = site.metrics()
        if page is None:
            return _text("No page yet: the first one is still being made.", 503)
        headers = {"Vary": "Accept-Encoding"}
        content = page.plain
        if accepts_gzip(request.headers.get("accept-encoding", "")):
            content = page.gzipped
            headers["Content-Encoding"] = "gzip"
        return Response(content, headers=headers, media_type=CONTENT_TYPE)

    async def home(_request: Request) -> Response:
        return HTMLResponse(landing)

    async def healthy(_request: Request) -> Response:
        return _text("carbon-exporter is healthy.", 200)

    async def ready(_request: Request) -> Response:
        return _text("carbon-exporter is ready.", 200) if site.ready() else _text("carbon-exporter is starting.", 503)

    routes: list[BaseRoute] = [
        Route(site.metrics_path, metrics),
        Route("/-/healthy", healthy),
        Route("/-/ready", ready),
        *site.routes,
        Route("/", home),
    ]
    app = Starlette(routes=routes)
    app.router.redirect_slashes = False
    limited = LimitRequests(app)
    return BasicAuth(limited, users) if users else limited


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether a client that sent this header takes gzip (RFC 9110, section 12.5.3); a name of its own beats "*"."""
    accepted: dict[str, bool] = {}
    for item in accept_encoding.split(","):
        coding, _, parameters = item.partition(";")
        accepted[coding.strip().lower()] = not re.fullmatch(r"\s*[qQ]\s*=\s*0(\.0*)?\s*", parameters)
    return accepted.get("gzip", accepted.get("*", False))


class LimitRequests:
    """Answers 503 to what comes while `most` requests are being answered, so that a flood costs little."""

    def __init__(self, app: ASGIApp, most: int = MOST_REQUESTS) -> None:
        self._app = app
        self._most = most
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if self._running >= self._most:
            response = _text("Too many requests at once: try again.", 503)
            response.headers["Retry-After"] = "1"
            await response(scope, receive, send)
            return
        self._running += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._running -= 1


def _text(line: str, status: int) -> Response:
    return PlainTextResponse(line + "\n", status)


def landing_page(site: Site) -> str:
    """The HTML of `/`: what this is, and where to go. It loads nothing and runs no script."""
    links = [
        ("Metrics", site.metrics_path),
        *site.links,
        ("Health", "/-/healthy"),
        ("Readiness", "/-/ready"),
    ]
    items = "\n".join(f'<li><a href="{html.escape(url)}">{html.escape(text)}</a></li>' for text, url in links)
    return _LANDING.format(
        title=html.escape(site.title),
        description=html.escape(site.description),
        items=items,
        version=html.escape(__version__),
    )


_LANDING: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 1.05rem/1.6 system-ui, sans-serif; max-width: 38rem; margin: 3rem auto; padding: 0 1.25rem; }}
h1 {{ font-size: 1.6rem; line-height: 1.25; margin-bottom: .25rem; }}
ul {{ list-style: none; padding: 0; }}
li a {{ display: block; padding: .65rem .9rem; margin: .5rem 0; border: 1px solid #8886; border-radius: .5rem;
  color: inherit; text-decoration: none; }}
li a:hover, li a:focus {{ border-color: #2a8f5b; }}
footer {{ opacity: .65; font-size: .9rem; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{description}</p>
<ul>
{items}
</ul>
<footer>carbon-exporter {version}</footer>
</body>
</html>
"""
