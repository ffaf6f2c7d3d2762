"""What the JSON APIs have in common: parameters that are checked, errors of one line, answers sent but once."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Final
from urllib.parse import unquote_to_bytes

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import Receive, Scope, Send

from carbon_exporter.web.site import Page, accepts_gzip

RETRY_SECONDS: Final = 10
JSON_TYPE: Final = "application/json"
_BAD_PERCENT: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class ApiError(Exception):
    """An answer other than 200; the message is one line for who asked."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    def response(self) -> Response:
        """As it is sent."""
        headers = {"Cache-Control": "no-store"}
        if self.status == 503:
            headers["Retry-After"] = str(RETRY_SECONDS)
        if self.status == 405:
            headers["Allow"] = "GET, HEAD"
        return Response(orjson.dumps({"error": str(self)}), self.status, headers, JSON_TYPE)


def checked(answer: Callable[[Request], Response]) -> Callable[[Request], Response]:
    """`answer` as a route's endpoint: its ApiErrors are sent."""

    @wraps(answer)
    def endpoint(request: Request) -> Response:
        try:
            return answer(request)
        except ApiError as error:
            return error.response()

    return endpoint


def refusing(known: Sequence[BaseRoute]) -> Mount:
    """Answers what none of `known` does below /api, in JSON as who asks there reads it; it comes after them."""

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        whole = {**scope, "root_path": scope["root_path"].removesuffix("/api")}
        if any(route.matches(whole)[0] is Match.PARTIAL for route in known):
            error = ApiError(405, f"{scope['method']} is not answered here: ask with GET or HEAD")
        else:
            paths = ", ".join(route.path for route in known if isinstance(route, Route))
            error = ApiError(404, f"nothing is answered here; there are {paths}")
        await error.response()(scope, receive, send)

    return Mount("/api", app=refuse)


def parameters(request: Request, *known: str) -> dict[str, str]:
    """Those of the query, each one of `known` and given once.

    Raises:
        ApiError: 400 otherwise, and where the path or the query is not percent-encoded UTF-8.
    """
    _check_encoding(request.scope.get("raw_path", b"") + b"?" + request.scope["query_string"])
    pairs = request.query_params.multi_items()
    for name, _ in pairs:
        if name not in known:
            raise ApiError(400, f"{name[:50]!r} is no parameter here; known: {', '.join(known) or 'none'}")
    if len(dict(pairs)) < len(pairs):
        raise ApiError(400, "a parameter is given twice: give it once")
    return dict(pairs)


def _check_encoding(raw: bytes) -> None:
    try:
        unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise ApiError(400, "the address is not UTF-8: percent-encode its bytes as UTF-8") from None
    if _BAD_PERCENT.search(raw):
        raise ApiError(400, "the address has a % without two hexadecimal digits: write %25 for it")


def number(asked: Mapping[str, str], name: str) -> float:
    """The parameter `name` as a number.

    Raises:
        ApiError: 400 where it is missing or none.
    """
    if name not in asked:
        raise ApiError(400, f"{name} is missing: give a number")
    try:
        return float(asked[name])
    except ValueError:
        raise ApiError(400, f"{name} is {asked[name][:50]!r}: give a number") from None


def whole_number(asked: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    """The parameter `name` as a whole number from `least` to `most`; `default` where it is not given.

    Raises:
        ApiError: 400 where it is none.
    """
    text = asked.get(name, str(default))
    if text.isascii() and text.isdigit() and len(text) < 16 and least <= int(text) <= most:
        return int(text)
    raise ApiError(400, f"{name} is {text[:50]!r}: give a whole number from {least} to {most}")


def tag_of(body: bytes) -> str:
    """What an ETag is made from: the same for the same body, whatever the process."""
    return hashlib.blake2b(body, digest_size=12).hexdigest()


def sent(request: Request, page: Page, tag: str = "", media_type: str = JSON_TYPE) -> Response:
    """`page`, compressed where that is taken; nothing but its tag where the client has it already (RFC 9110, 13.1.2).

    The compressed body is another representation, so it has a tag of its own.
    """
    compressed = accepts_gzip(",".join(request.headers.getlist("accept-encoding")))
    headers = {"Vary": "Accept-Encoding", "Cache-Control": "no-cache"}
    if tag:
        headers["ETag"] = f'"{tag}-gzip"' if compressed else f'"{tag}"'
        if _has(",".join(request.headers.getlist("if-none-match")), tag):
            return Response(None, 304, headers)
    if compressed:
        headers["Content-Encoding"] = "gzip"
    return Response(page.gzipped if compressed else page.plain, 200, headers, media_type)


def _has(if_none_match: str, tag: str) -> bool:
    known = {item.strip().removeprefix("W/") for item in if_none_match.split(",")}
    return bool(known & {"*", f'"{tag}"', f'"{tag}-gzip"'})
