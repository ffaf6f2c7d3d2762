"""ENTSO-E Transparency Platform: generation by type of every European zone, times our factors.

"Actual generation per production type" (16.1.B and C, document A75) of the RESTful API,
https://transparencyplatform.zendesk.com/hc/en-us/sections/12783116987028
"""

from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

from carbon_exporter import settings
from carbon_exporter.answers import refusal, retry_after_seconds, well_formed
from carbon_exporter.fuels import FuelBasis, mix_spans
from carbon_exporter.intensity.entsoe.areas import AREAS
from carbon_exporter.intensity.entsoe.document import FUELS, Quantity, kind, mixes, parsed, quantities
from carbon_exporter.model import (
    HOUR_SECONDS,
    ConfigurationError,
    FetchFailure,
    GridReading,
    ProviderError,
    Traits,
    Web,
    WebAnswer,
)
from carbon_exporter.secret import Secret, concealing

VARIABLE: Final = "CARBON_ENTSOE_TOKEN"
WINDOW_HOURS: Final = 15 * 24
"""Asked for at once: a month of quarter hours comes near to the largest answer that is read."""
FARTHEST_HOURS: Final = 2 * WINDOW_HOURS
OVERLAP_HOURS: Final = 24
"""Before the time asked for: a half-told hour is known by the hours before it."""


class Settings(settings.Settings):
    """Settings of the provider `entsoe`. The token comes from the file named, or CARBON_ENTSOE_TOKEN.

    basis: which factors make grams of fuels.
    eic: zone -> energy identification code, where the table has none or another one.
    """

    url: settings.PlainUrl = "https://web-api.tp.entsoe.eu/api"
    token_file: Path | None = None
    basis: FuelBasis = "lifecycle"
    eic: Mapping[str, Annotated[str, Field(pattern=r"^[0-9A-Z-]{15}[0-9A-Z]$")]] = Field(default_factory=dict)


def open_provider(chosen: Settings, grid_zone: str, environment: Mapping[str, str]) -> "EntsoeProvider":
    """The provider for `grid_zone`, such as FR or DK-DK1.

    Raises:
        ConfigurationError: nobody knows its code, or there is no token that can be read.
    """
    areas = {**AREAS, **chosen.eic}
    if grid_zone not in areas:
        raise ConfigurationError(
            f"intensity.grid_zone: entsoe does not know {grid_zone!r}; it knows {', '.join(sorted(areas))}, "
            "and what you add under intensity.entsoe.eic"
        )
    token = Secret(chosen.token_file, VARIABLE, environment, "intensity.entsoe.token_file")
    if not token:
        raise ConfigurationError(
            f"intensity.entsoe: has no token: set intensity.entsoe.token_file or the environment variable {VARIABLE}"
        )
    token.read()
    return EntsoeProvider(chosen, areas[grid_zone], token)


class EntsoeProvider:
    """Implements model.GridProvider for one area."""

    def __init__(self, chosen: Settings, area: str, token: Secret) -> None:
        self._url = chosen.url
        self._area = area
        self._token = token
        self._basis = chosen.basis
        self.traits = Traits(
            provider="entsoe",
            basis=chosen.basis,
            zones="European countries and bidding zones (FR, DK-DK1)",
            licence="ENTSO-E Transparency Platform, CC BY 4.0",
            lag_seconds=10_800.0,
            fresh_seconds=14_400.0,
        )

    def observe(self, web: Web, since_seconds: float, now_seconds: float) -> GridReading:
        """Quarter hours or hours, as the zone tells them, since then, at most 30 days back."""
        end = int(now_seconds // HOUR_SECONDS) + 1
        begin = max(int(since_seconds // HOUR_SECONDS) - OVERLAP_HOURS, end - FARTHEST_HOURS)
        told: list[Quantity] = []
        for first in range(begin, end, WINDOW_HOURS):
            told += self._ask(web, first, min(first + WINDOW_HOURS, end), now_seconds)
        step = min((quantity.step_seconds for quantity in told), default=HOUR_SECONDS)
        found = mix_spans(mixes(told, step), step, FUELS, self._basis)
        spans = tuple(span for span in found if since_seconds < span.end_seconds and span.start_seconds <= now_seconds)
        if not spans:
            raise ProviderError("empty", f"{self._url}: no generation of {self._area}: it is asked again later")
        return GridReading(spans, "entsoe", self._basis)

    def predict(self, web: Web, now_seconds: float) -> GridReading:  # noqa: ARG002
        """There is none: only wind, solar and the total are forecast."""
        raise ProviderError("empty", f"{self._url}: has no forecast")

    def _ask(self, web: Web, first: int, end: int, now_seconds: float) -> list[Quantity]:
        """What was generated in the hours from `first` to before `end`; nothing where nothing is known of them."""
        token = self._token.read()
        parameters = {
            "securityToken": token,
            "documentType": "A75",
            "processType": "A16",
            "in_Domain": self._area,
            "periodStart": _minute(first),
            "periodEnd": _minute(end),
        }
        answer = web.get(self._url, parameters)
        with concealing(token):
            return self._read(answer, now_seconds)

    def _read(self, answer: WebAnswer, now_seconds: float) -> list[Quantity]:
        document = parsed(answer.body)
        if document is not None and kind(document) == "Acknowledgement_MarketDocument":
            reason = document.findtext(".//{*}Reason/{*}text") or ""
            if "no matching data" in reason.lower():
                return []
            raise _refused(answer, " ".join(reason.split())[:200], now_seconds)
        if answer.status != 200:
            raise refusal(answer, now_seconds)
        if document is None or kind(document) != "GL_MarketDocument":
            raise ProviderError("parse", f"{answer.url}: answers no generation document: is the URL right?")
        with well_formed(answer):
            told = list(quantities(document))
        other = {area for area, _ in told} - {self._area}
        if other:
            raise ProviderError("zone_mismatch", f"{answer.url}: answered for {min(other)!r}, not {self._area!r}")
        return [quantity for _, quantity in told]


def _refused(answer: WebAnswer, said: str, now_seconds: float) -> ProviderError:
    """An acknowledgement that is not about missing data."""
    reason: FetchFailure = "server"
    cure = "is the URL right?"
    if answer.status == 429:
        reason, cure = "rate_limit", "it is asked again later; do others ask with this token?"
    elif answer.status in (401, 403) or "token" in said.lower() or "authenti" in said.lower():
        reason, cure = "auth", "see to the token"
    wait = retry_after_seconds(answer.headers, now_seconds)
    return ProviderError(reason, f"{answer.url}: status {answer.status} {said!r}: {cure}", wait)


def _minute(hour: int) -> str:
    return datetime.fromtimestamp(hour * HOUR_SECONDS, timezone.utc).strftime("%Y%m%d%H%M")
