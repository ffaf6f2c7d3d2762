"""The cluster's one source: asks the forecast service what its zone's intensity is (docs/forecast.md, "API").

A node asks once a minute. The question is conditional (RFC 9110, section 13.1.2), so that the answer is empty unless
something has changed, and the connection is closed after it: a thousand nodes hold none open.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pydantic import model_validator

from carbon_exporter import settings
from carbon_exporter.answers import checked_json, grams, json_list, json_object, refusal, well_formed
from carbon_exporter.forecast_api import INTENSITY_PATH, PASSWORD_VARIABLE
from carbon_exporter.model import (
    LAST_SECONDS,
    ConfigurationError,
    GridReading,
    ProviderError,
    Span,
    Traits,
    Web,
    WebAnswer,
)
from carbon_exporter.secret import Secret, basic_credentials, concealing

AHEAD_SECONDS: Final = 7200.0
"""So much of what is to come is kept, in case the service goes silent; with less a node makes an outlook of its own."""
_BASES: Final = ("lifecycle", "direct", "operational", "unspecified")
_WORST_LEVEL: Final = 3
_TRAITS: Final = Traits(
    provider="cluster",
    basis="unspecified",
    zones="those that the forecast service is set to serve",
    licence="that of the provider whom the forecast service asks",
    resolution_seconds=60.0,
    refresh_seconds=60.0,
    lag_seconds=180.0,
    fresh_seconds=3600.0,
    pace_seconds=0.0,
)


class Settings(settings.Settings):
    """Settings of the provider `cluster`. The password comes from the file named, or CARBON_INTENSITY_PASSWORD.

    url: of the forecast service, without path or query.
    """

    url: settings.PlainUrl = "http://carbon-exporter-forecast:10091"
    username: str = ""
    password_file: Path | None = None

    @model_validator(mode="after")
    def _have_a_name_with_the_password(self) -> "Settings":
        if self.password_file and not self.username:
            raise ValueError("password_file needs username")
        return self


def open_provider(chosen: Settings, grid_zone: str, environment: Mapping[str, str]) -> "ClusterProvider":
    """The provider for `grid_zone`, under the name that the forecast service knows it by.

    Raises:
        ConfigurationError: there is no zone, or a user name without a password that can be read.
    """
    if not grid_zone:
        raise ConfigurationError("intensity.grid_zone: cluster asks for one zone by its name: set it, such as DE")
    password = Secret(chosen.password_file, PASSWORD_VARIABLE, environment, "intensity.cluster.password_file")
    if chosen.username and not password:
        raise ConfigurationError(
            f"intensity.cluster.username: has no password: set intensity.cluster.password_file or {PASSWORD_VARIABLE}"
        )
    password.read(one_word=False)
    return ClusterProvider(chosen, grid_zone, password)


class ClusterProvider:
    """Implements model.GridProvider; keeps the last answer, which a 304 stands for."""

    traits = _TRAITS

    def __init__(self, chosen: Settings, grid_zone: str, password: Secret) -> None:
        self._url = chosen.url + INTENSITY_PATH
        self._zone = grid_zone
        self._username = chosen.username
        self._password = password
        self._etag = ""
        self._answered: GridReading | None = None
        self._said: GridReading | None = None

    def observe(self, web: Web, since_seconds: float, now_seconds: float) -> GridReading:
        """What the service counts with: its spans of the last hours, extrapolated ones included, and two ahead."""
        auth = self._auth()
        answer = web.get(self._url, {"zone": self._zone}, self._headers(), auth)
        if answer.status != 304 or self._answered is None:
            with concealing(*((basic_credentials(*auth), auth[1]) if auth is not None else ())):
                self._answered = self._read(answer, now_seconds)
            self._etag = answer.headers.get("etag", "")
            self._said = None
        said = self._answered
        until = now_seconds + AHEAD_SECONDS
        spans = tuple(span for span in said.spans if span.end_seconds > since_seconds and span.start_seconds <= until)
        if not spans:
            raise ProviderError("empty", f"{answer.url}: says nothing of now: is the clock of either host wrong?")
        if self._said is None or self._said.spans != spans:  # else the same object: nothing has changed
            self._said = replace(said, spans=spans)
        return self._said

    def predict(self, web: Web, now_seconds: float) -> GridReading:
        """As `observe`; nobody asks, for nodes count only with what is now."""
        return self.observe(web, now_seconds, now_seconds)

    def _headers(self) -> dict[str, str]:
        headers = {"Connection": "close"}
        if self._etag:
            headers["If-None-Match"] = self._etag
        return headers

    def _auth(self) -> tuple[str, str] | None:
        if not self._username:
            return None
        try:
            return self._username, self._password.read(one_word=False)
        except ConfigurationError as error:
            raise ProviderError("auth", str(error)) from None

    def _read(self, answer: WebAnswer, now_seconds: float) -> GridReading:
        if answer.status == 404 and answer.body.startswith(b"{"):
            raise refusal(answer, now_seconds, "zone_mismatch")
        if answer.status == 503:
            raise refusal(answer, now_seconds, "empty")
        with well_formed(answer):
            document = json_object(checked_json(answer, now_seconds))
        if (document.get("zone"), document.get("signal")) != (self._zone, "average"):
            zone, signal = str(document.get("zone"))[:50], str(document.get("signal"))[:50]
            raise ProviderError(
                "zone_mismatch",
                f"{answer.url}: answered for zone {zone!r}, signal {signal!r}, not for {self._zone!r}, 'average': "
                "is intensity.cluster.url that of the forecast service?",
            )
        with well_formed(answer):
            return _reading(document)


def _reading(document: Mapping[str, Any]) -> GridReading:
    """The answer's numbers.

    Raises:
        ValueError: one is not what it must be.
    """
    provider, basis, level = (document[key] for key in ("provider", "basis", "fallback_level"))
    if not isinstance(provider, str) or not re.fullmatch(r"[a-z0-9_]{1,50}", provider):
        raise ValueError("provider is no name")
    if basis not in _BASES:
        raise ValueError(f"basis is none of {', '.join(_BASES)}")
    if type(level) is not int or not 0 <= level <= _WORST_LEVEL:
        raise ValueError("fallback_level is not 0 to 3")
    told = document["data_timestamp_seconds"]
    timestamp = None if told is None else _seconds(told)
    spans = _spans(json_list(document["spans"]))
    return GridReading(spans, provider, basis, "average", level, timestamp)


def _spans(rows: Sequence[Any]) -> tuple[Span, ...]:
    spans: list[Span] = []
    for row in rows:
        if not isinstance(row, list) or len(row) != 4:
            raise ValueError("a span is not [start, end, grams, estimated]")
        start, end, value, estimated = _seconds(row[0]), _seconds(row[1]), grams(row[2]), row[3]
        if value is None or estimated not in (0, 1):
            raise ValueError("a span has no grams, or estimated is not 0 or 1")
        if end <= start or (spans and start < spans[-1].end_seconds):
            raise ValueError("the spans are not in order of time")
        spans.append(Span(start, end, value, bool(estimated)))
    return tuple(spans)


def _seconds(value: Any) -> float:
    number = not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
    if not number or not 0 <= value <= LAST_SECONDS:
        raise ValueError(f"{str(value)[:50]!r} is no Unix time")
    return float(value)
