"""The page of the jobs, `/jobs`: files from the folder assets, which read the JSON API from the browser.

They load nothing from elsewhere and hold no inline script or style, so that the policy they are sent with is strict:
whatever a job is called, it is text.
"""

from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from carbon_exporter.web.json_api import sent, tag_of
from carbon_exporter.web.site import Page

PAGE_PATH: Final = "/jobs"
POLICY: Final = "default-src 'self'; base-uri 'none'; form-action 'none'"
_TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class Asset:
    """One file, read once."""

    def __init__(self, name: str) -> None:
        body = (files(__package__) / "assets" / name).read_bytes()
        self._page = Page(body)
        self._tag = tag_of(body)
        self._type = _TYPES[name[name.rindex(".") :]]

    def answer(self, request: Request) -> Response:
        """The file, or 304."""
        response = sent(request, self._page, self._tag, self._type)
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response


def routes() -> list[Route]:
    """The routes of the page, for web.site.Site."""
    beside = ("jobs.css", "jobs.js", "grid.js", "draw.js", "icon.svg")
    return [
        Route(PAGE_PATH, Asset("jobs.html").answer),
        *(Route(f"{PAGE_PATH}/{name}", Asset(name).answer) for name in beside),
    ]
