"""Electricity Maps: flow-traced intensity of about 350 zones, with a token; its estimates for the running hour.

API reference: https://portal.electricitymaps.com/docs (v4; v3 answers alike). A free token gives fewer questions than
a paid one: the forecast, and sometimes the history, is refused where the token does not cover it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from carbon_exporter import settings
from carbon_exporter.answers import (
    ascending,
    checked_json,
    grams,
    in_order,
    json_list,
    json_object,
    refusal,
    utc_seconds,
    well_formed,
)
from carbon_exporter.model import (
    HOUR_SECONDS,
    ConfigurationError,
    FetchFailure,
    GridReading,
    ProviderError,
    Span,
    Traits,
    Web,
    WebAnswer,
)
from carbon_exporter.secret import Secret, concealing

TOKEN_VARIABLE: Final = "CARBON_ELECTRICITY_MAPS_TOKEN"  # noqa: S105 - the name of one
HORIZON_HOURS: Final = 72
_STEPS_SECONDS: Final = {"hourly": 3600.0, "15_minutes": 900.0, "5_minutes": 300.0}
_REASONS_OF_401: Final[tuple[tuple[bytes, FetchFailure], ...]] = (
    (b"you do not have access", "forbidden"),
    (b"invalid auth-token", "auth"),
)


class Settings(settings.Settings):
    """Settings of the provider `electricity_maps`; the token stands in a file or in the environment.

    emission_factor_type: lifecycle, or direct (combustion alone).
    """

    url: settings.PlainUrl = "https://api.electricitymaps.com/v4"
    token_file: Path | None = None
    emission_factor_type: Literal["lifecycle", "direct"] = "lifecycle"


def open_provider(chosen: Settings, grid_zone: str, environment: Mapping[str, str]) -> "ElectricityMaps":
    """The provider for `grid_zone`, a key of Electricity Maps.

    Raises:
        ConfigurationError: there is no zone or no token, or the token's file cannot be read.
    """
    if not grid_zone:
        raise ConfigurationError("intensity.grid_zone: electricity_maps needs a zone: DE, DK-DK1, US-CAL-CISO")
    token = Secret(chosen.token_file, TOKEN_VARIABLE, environment, "intensity.electricity_maps.token_file")
    if not token:
        raise ConfigurationError(
            f"intensity.electricity_maps: has no token: set token_file or the environment variable {TOKEN_VARIABLE}"
        )
    token.read()
    return ElectricityMaps(chosen, grid_zone.upper(), token)


class ElectricityMaps:
    """Implements model.GridProvider for one zone."""

    def __init__(self, chosen: Settings, zone: str, token: Secret) -> None:
        self._url = chosen.url
        self._zone = zone
        self._token = token
        self._basis = chosen.emission_factor_type
        self.traits = Traits(
            provider="electricity_maps",
            basis=self._basis,
            zones="about 350 of the world, by its own keys (DE, DK-DK1, US-CAL-CISO)",
            licence="Electricity Maps, electricitymaps.com; the free plan is for non-commercial use",
            resolution_seconds=HOUR_SECONDS,
            refresh_seconds=900.0,
            lag_seconds=3600.0,
            fresh_seconds=10_800.0,
            keeps_estimates=True,
            horizon_seconds=HORIZON_HOURS * HOUR_SECONDS,
            pace_seconds=1.0,
        )

    def observe(self, web: Web, since_seconds: float, now_seconds: float) -> GridReading:
        """The last 24 hours where they are asked for and the token covers them, and the running hour."""
        past: tuple[Span, ...] = ()
        if since_seconds < now_seconds - now_seconds % HOUR_SECONDS:
            try:
                past = self._ask(web, "history", now_seconds)
            except ProviderError as error:
                if error.reason not in ("forbidden", "empty"):
                    raise
        if past and past[-1].end_seconds > now_seconds:
            return self._reading(past)
        try:
            latest = self._ask(web, "latest", now_seconds)
        except ProviderError:
            if not past:
                raise
            latest = ()
        return self._reading(in_order([*past, *latest]))

    def predict(self, web: Web, now_seconds: float) -> GridReading:
        """Its forecast for up to 72 hours; "forbidden" where the token does not cover it."""
        spans = self._ask(web, "forecast", now_seconds, {"horizonHours": str(HORIZON_HOURS)})
        coming = tuple(span for span in spans if span.end_seconds > now_seconds)
        if not coming:
            raise ProviderError("empty", f"{self._url}: the forecast ends before now: it is asked again later")
        return self._reading(coming)

    def _reading(self, spans: tuple[Span, ...]) -> GridReading:
        return GridReading(spans, "electricity_maps", self._basis)

    def _ask(
        self, web: Web, temporality: str, now_seconds: float, parameters: Mapping[str, str] | None = None
    ) -> tuple[Span, ...]:
        token = self._token.read()
        answer = web.get(
            f"{self._url}/carbon-intensity/{temporality}",
            {
                "zone": self._zone,
                # Without it, a zone that is not found is answered with that of the caller's address.
                "disableCallerLookup": "true",
                "emissionFactorType": self._basis,
                **(parameters or {}),
            },
            {"auth-token": token},
        )
        with concealing(token):
            return self._read(answer, temporality, now_seconds)

    def _read(self, answer: WebAnswer, temporality: str, now_seconds: float) -> tuple[Span, ...]:
        if answer.status == 401:
            raise _refused(answer, now_seconds)
        body = checked_json(answer, now_seconds)
        with well_formed(answer):
            spans = self._spans(answer, json_object(body), temporality, now_seconds)
        if not spans:
            raise ProviderError("empty", f"{answer.url}: no carbonIntensity for {self._zone}: it is asked again later")
        return spans

    def _spans(
        self, answer: WebAnswer, body: Mapping[str, Any], temporality: str, now_seconds: float
    ) -> tuple[Span, ...]:
        told = [body] if temporality == "latest" else json_list(body.get(temporality, []))
        rows = [row for row in map(json_object, told) if row.get("carbonIntensity") is not None]
        if "zone" not in body and not rows:
            return ()  # {}, and what the service's predecessor answered without data
        for zone in (body.get("zone"), *(row.get("zone", self._zone) for row in rows)):
            if zone != self._zone:
                said = f"answers for zone {str(zone)[:40]!r}, not {self._zone!r}"
                raise ProviderError("zone_mismatch", f"{answer.url}: {said}: see intensity.grid_zone")
        for row in rows:
            if row.get("emissionFactorType", self._basis) != self._basis:
                raise ValueError(f"emissionFactorType {row['emissionFactorType']!r}, not {self._basis}")
        granularity = str(body.get("temporalGranularity", "hourly"))
        if granularity not in _STEPS_SECONDS:
            raise ValueError(f"temporalGranularity {granularity!r}")
        return _known(rows, _STEPS_SECONDS[granularity], now_seconds)


def _known(rows: Sequence[Mapping[str, Any]], step_seconds: float, now_seconds: float) -> tuple[Span, ...]:
    """Rows that have a value, as spans. One that does not say so (a forecast's) is estimated."""
    starts = ascending([utc_seconds(row["datetime"]) for row in rows], now_seconds)
    spans = []
    for start, row in zip(starts, rows, strict=True):
        estimated = row.get("isEstimated", True)
        if not isinstance(estimated, bool):
            raise ValueError(f"isEstimated {estimated!r}")  # noqa: TRY004 - a bad answer
        value = grams(row["carbonIntensity"])
        if value is not None:
            spans.append(Span(start, start + step_seconds, value, estimated))
    return tuple(spans)


def _refused(answer: WebAnswer, now_seconds: float) -> ProviderError:
    """Its 401 means a bad token, a token that does not cover the question, or too many questions."""
    said = answer.body.lower()
    reasons = (reason for text, reason in _REASONS_OF_401 if text in said)
    return refusal(answer, now_seconds, next(reasons, "rate_limit"))
