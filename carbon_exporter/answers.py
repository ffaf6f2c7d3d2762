"""What a grid provider's answer must be before its numbers are believed: checks that every provider shares."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from itertools import pairwise
from typing import Any, Final

import orjson

from carbon_exporter.model import FetchFailure, ProviderError, Span, WebAnswer

MOST_GRAMS: Final = 2000.0
"""Per kilowatt-hour: no grid has more."""
FARTHEST_SECONDS: Final = 10 * 86_400.0
"""From now: nobody forecasts farther; milliseconds taken for seconds are."""


def checked_json(answer: WebAnswer, now_seconds: float) -> Any:
    """The JSON of a successful answer.

    Raises:
        ProviderError: the status is not 2xx (see `refusal`), or the body is no JSON.
    """
    if not 200 <= answer.status < 300:
        raise refusal(answer, now_seconds)
    try:
        return orjson.loads(answer.body)
    except ValueError:
        raise ProviderError("parse", f"{answer.url}: answered with no JSON: is the URL right?") from None


def refusal(answer: WebAnswer, now_seconds: float, reason: FetchFailure | None = None) -> ProviderError:
    """The error that a status other than 2xx stands for, with what the service says of it.

    Args:
        answer: what came.
        now_seconds: Unix time, to read a Retry-After that is a date.
        reason: where the provider knows better than the status tells.
    """
    status = answer.status
    reason = reason or _REASONS.get(status, "server")
    place = answer.headers.get("location", "").partition("?")[0]
    said = f"a redirect to {place[:200]!r}" if 300 <= status < 400 else f"status {status} {_said(answer.body)!r}"
    return ProviderError(
        reason, f"{answer.url}: {said}: {_CURES[reason]}", retry_after_seconds(answer.headers, now_seconds)
    )


_REASONS: Final[dict[int, FetchFailure]] = {401: "auth", 403: "forbidden", 408: "timeout", 429: "rate_limit"}
_CURES: Final[dict[str, str]] = {
    "auth": "see to the token",
    "forbidden": "see what the token may do",
    "rate_limit": "it is asked again later; do others ask from this address?",
    "timeout": "it is asked again later",
    "server": "is the URL right, and the service up?",
    "empty": "it is asked again later",
    "zone_mismatch": "is intensity.grid_zone right?",
}


def _said(body: bytes) -> str:
    """The message in an error's body, as short as a log line wants it."""
    try:
        document = orjson.loads(body)
    except ValueError:
        return ""
    words = _texts(document)
    return " ".join(" ".join(words).split())[:200]


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for key in ("error", "message", "detail", "code") for text in _texts(value.get(key))]
    return []


def retry_after_seconds(headers: Any, now_seconds: float) -> float | None:
    """Retry-After (RFC 9110, section 10.2.3): seconds or a date; None where there is none that can be read."""
    text = str(headers.get("retry-after", "")).strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError):
        return None
    return max(0.0, when.replace(tzinfo=when.tzinfo or timezone.utc).timestamp() - now_seconds)


@contextmanager
def well_formed(answer: WebAnswer) -> Iterator[None]:
    """Inside it an answer is taken apart: a key that is missing and a ValueError mean that it has another shape.

    Raises:
        ProviderError: "parse", with what was found.
    """
    try:
        yield
    except (KeyError, ValueError) as error:
        found = f"no {error}" if isinstance(error, KeyError) else str(error)
        short = " ".join(found.split())[:200]
        raise ProviderError("parse", f"{answer.url}: unreadable ({short}): is the URL right?") from None


def json_object(value: Any) -> Mapping[str, Any]:
    """`value`, which is to be a JSON object.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{type(value).__name__} where an object should be")  # noqa: TRY004 - as utc_seconds
    return value


def json_list(value: Any) -> Sequence[Any]:
    """`value`, which is to be a JSON list.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, list):
        raise ValueError(f"{type(value).__name__} where a list should be")  # noqa: TRY004 - as utc_seconds
    return value


def ascending(times_seconds: Sequence[float], now_seconds: float) -> Sequence[float]:
    """`times_seconds` (Unix), each of which is to be later than the one before, and none far in the future.

    Raises:
        ValueError: one is not.
    """
    if any(later <= earlier for earlier, later in pairwise(times_seconds)):
        raise ValueError("times that do not ascend")
    if times_seconds and times_seconds[-1] > now_seconds + FARTHEST_SECONDS:
        raise ValueError(f"a time {(times_seconds[-1] - now_seconds) / 86_400:.0f} days from now")
    return times_seconds


def grams(value: Any, scale: float = 1.0) -> float | None:
    """A number of grams per kilowatt-hour, times `scale`; None for null.

    Raises:
        ValueError: it is no number, or not from 0 to 2000.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    result = float(value) * scale
    if not 0 <= result <= MOST_GRAMS:
        raise ValueError(f"{result:g} g/kWh is out of range")
    return result


def utc_seconds(text: Any) -> float:
    """Unix time of an ISO 8601 time; one without a zone is UTC.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is no time")  # noqa: TRY004 - one kind of error for a bad answer
    when = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return when.replace(tzinfo=when.tzinfo or timezone.utc).timestamp()


def utc_minute(seconds: float) -> str:
    """A Unix time as services take it: 2030-01-02T03:04Z."""
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%dT%H:%MZ}"


def in_order(spans: Iterable[Span]) -> tuple[Span, ...]:
    """`spans` sorted by time; of several that begin together the last one given, and none reaches into the next."""
    by_start = {span.start_seconds: span for span in spans}
    ordered: list[Span] = []
    for start, following in pairwise([*sorted(by_start), math.inf]):
        span = by_start[start]
        end = min(span.end_seconds, following)
        if end > start:
            ordered.append(Span(start, end, span.grams_per_kilowatt_hour, span.estimated))
    return tuple(ordered)
