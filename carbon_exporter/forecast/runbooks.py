"""The pages behind the alerts' runbook_url, `/runbooks/`: docs/runbooks as plain text.

They come with the service, so that whoever is told of an alert can read on where the way out is closed.
"""

from importlib.resources import files
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from carbon_exporter.web.json_api import sent, tag_of
from carbon_exporter.web.site import Page

PATH: Final = "/runbooks/"
_TYPE: Final = "text/plain; charset=utf-8"


def folder() -> Path:
    """Where the pages lie: docs/runbooks of the checkout that this runs from, or as the wheel carries it."""
    package = Path(str(files("carbon_exporter")))
    of_checkout = package.parent / "docs" / "runbooks"
    return of_checkout if of_checkout.is_dir() else package / "forecast" / "assets" / "runbooks"


class Runbooks:
    """All pages, read once. The name "" is the list of them."""

    def __init__(self, directory: Path) -> None:
        texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(directory.glob("Carbon*.md"))}
        lines = [f"{PATH}{name}\n    {_first_line(text)}\n" for name, text in texts.items()]
        self._pages = {name: text.encode() for name, text in {"": "".join(lines), **texts}.items()}

    def answer(self, request: Request) -> Response:
        """`GET /runbooks/` and `GET /runbooks/{name}`."""
        body = self._pages.get(request.path_params["name"])
        if body is None:
            return PlainTextResponse(f"There is no such runbook: {PATH} lists all.\n", 404)
        response = sent(request, Page(body), tag_of(body), _TYPE)
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


def _first_line(text: str) -> str:
    """What stands below the heading."""
    return text.split("\n", 3)[2]


def routes(directory: Path | None = None) -> list[Route]:
    """The routes of the pages, for web.site.Site."""
    return [Route(f"{PATH}{{name:path}}", Runbooks(directory or folder()).answer)]
