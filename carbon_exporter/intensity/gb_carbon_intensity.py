"""GB Carbon Intensity (NESO): Great Britain and its 17 regions in half-hours, no key, 48 hours of forecast.

API reference: https://carbon-intensity.github.io/api-definitions. `actual` is null for the running half-hour and those
to come, and regions have none at all: there the forecast stands, as estimated.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from carbon_exporter import settings
from carbon_exporter.answers import (
    ascending,
    checked_json,
    grams,
    json_list,
    json_object,
    utc_minute,
    utc_seconds,
    well_formed,
)
from carbon_exporter.model import ConfigurationError, GridReading, ProviderError, Span, Traits, Web, WebAnswer

NATION: Final = "GB"
REGIONS: Final = {f"GB-{number}": number for number in range(1, 18)}
_HALF_HOUR_SECONDS: Final = 1800.0
_LONGEST_RANGE_SECONDS: Final = 14 * 86_400.0
_AHEAD_SECONDS: Final = 7200.0
"""So far beyond now the range goes: it holds until it is asked again."""
_REVISED_SECONDS: Final = 7200.0
"""So far back it is asked at least: a forecast gives way to the actual value late."""


class Settings(settings.Settings):
    """Settings of the provider `gb_carbon_intensity`."""

    url: settings.PlainUrl = "https://api.carbonintensity.org.uk"


def open_provider(
    chosen: Settings,
    grid_zone: str,
    environment: Mapping[str, str],  # noqa: ARG001
) -> "GbCarbonIntensity":
    """The provider for `grid_zone`: GB, or GB-1 (North Scotland) to GB-17 (Wales).

    Raises:
        ConfigurationError: it is neither.
    """
    zone = grid_zone.upper()
    if zone != NATION and zone not in REGIONS:
        raise ConfigurationError(
            f"intensity.grid_zone: gb_carbon_intensity does not know {grid_zone!r}; it knows GB and GB-1 to GB-17"
        )
    return GbCarbonIntensity(chosen.url, REGIONS.get(zone))


class GbCarbonIntensity:
    """Implements model.GridProvider for Great Britain (region None) or one of its regions."""

    def __init__(self, url: str, region: int | None) -> None:
        self._url = url
        self._region = region
        self.traits = Traits(
            provider="gb_carbon_intensity",
            basis="operational",
            zones="GB, and GB-1 to GB-17: its regions",
            licence="National Energy System Operator, carbonintensity.org.uk, CC BY 4.0",
            resolution_seconds=_HALF_HOUR_SECONDS,
            refresh_seconds=_HALF_HOUR_SECONDS,
            lag_seconds=2700.0,
            fresh_seconds=3600.0,
            horizon_seconds=48 * 3600.0,
            pace_seconds=1.0,
        )

    def observe(self, web: Web, since_seconds: float, now_seconds: float) -> GridReading:
        """The half-hours since then, of the last 14 days at most, and the two hours to come."""
        end = _half_hour(now_seconds) + _AHEAD_SECONDS
        begin = max(_half_hour(min(since_seconds, now_seconds - _REVISED_SECONDS)), end - _LONGEST_RANGE_SECONDS)
        return self._ask(web, f"{utc_minute(begin)}/{utc_minute(end)}", now_seconds)

    def predict(self, web: Web, now_seconds: float) -> GridReading:
        """Its forecast for 48 hours."""
        told = self._ask(web, f"{utc_minute(_half_hour(now_seconds))}/fw48h", now_seconds)
        spans = tuple(span for span in told.spans if span.end_seconds > now_seconds)
        if not spans:
            raise ProviderError("empty", f"{self._url}: the forecast ends before now: it is asked again later")
        return GridReading(spans, told.provider, told.basis)

    def _ask(self, web: Web, period: str, now_seconds: float) -> GridReading:
        path = f"intensity/{period}"
        if self._region is not None:
            path = f"regional/{path}/regionid/{self._region}"
        answer = web.get(f"{self._url}/{path}")
        body = checked_json(answer, now_seconds)
        with well_formed(answer):
            spans = _spans(self._rows(answer, json_object(body)), now_seconds)
        if not spans:
            raise _empty(answer)
        return GridReading(spans, "gb_carbon_intensity", "operational")

    def _rows(self, answer: WebAnswer, body: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        data = body.get("data")
        if not data:
            raise _empty(answer)  # 200 with {} comes at times
        if self._region is None:
            return [json_object(row) for row in json_list(data)]
        # The short regional paths give a list of one region, the ranged ones the region itself.
        regions = [json_object(region) for region in json_list([data] if isinstance(data, dict) else data)]
        for region in regions:
            if region["regionid"] != self._region:
                found = str(region["regionid"])[:40]
                raise ProviderError(
                    "zone_mismatch", f"{answer.url}: answers for region {found}, not {self._region}: is the URL right?"
                )
        return [json_object(row) for region in regions for row in json_list(region["data"])]


def _spans(rows: Sequence[Mapping[str, Any]], now_seconds: float) -> tuple[Span, ...]:
    """The half-hours with a value: the actual one, else the forecast."""
    starts = ascending([utc_seconds(row["from"]) for row in rows], now_seconds)
    spans = []
    for start, row in zip(starts, rows, strict=True):
        end = utc_seconds(row["to"])
        if not 0 < end - start <= 2 * _HALF_HOUR_SECONDS:
            raise ValueError(f"a period from {row['from']} to {row['to']}")
        intensity = json_object(row["intensity"])
        actual, forecast = grams(intensity.get("actual")), grams(intensity.get("forecast"))
        value = actual if actual is not None else forecast
        if value is not None:
            spans.append(Span(start, end, value, estimated=actual is None))
    return tuple(spans)


def _empty(answer: WebAnswer) -> ProviderError:
    return ProviderError("empty", f"{answer.url}: no values: it is asked again later")


def _half_hour(seconds: float) -> float:
    return seconds - seconds % _HALF_HOUR_SECONDS
