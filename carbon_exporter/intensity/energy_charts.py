"""Energy-Charts (Fraunhofer ISE): intensity of European countries, no key; its forecast where nothing is measured yet.

API reference: https://api.energy-charts.info. Two parallel columns: `co2eq` measured, `co2eq_forecast` forecast; null
where there is none. The answer does not name its country.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from carbon_exporter import settings
from carbon_exporter.answers import ascending, checked_json, grams, json_list, json_object, utc_minute, well_formed
from carbon_exporter.model import (
    HOUR_SECONDS,
    ConfigurationError,
    GridReading,
    ProviderError,
    Span,
    Traits,
    Web,
    WebAnswer,
)

# fmt: off
COUNTRIES: Final = (
    "AL", "AT", "BA", "BE", "BG", "CH", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GB", "GE", "GR", "HR", "HU",
    "IE", "IT", "LT", "LU", "LV", "MD", "ME", "MK", "NL", "NO", "PL", "PT", "RO", "RS", "SE", "SI", "SK", "UA", "XK",
)
# fmt: on
_OWN_CODES: Final = {"GB": "uk"}
_QUARTER_SECONDS: Final = 900.0
_REVISED_SECONDS: Final = 7200.0
"""So far back it is asked at least: a newer start may lie behind the newest value."""


class Settings(settings.Settings):
    """Settings of the provider `energy_charts`."""

    url: settings.PlainUrl = "https://api.energy-charts.info"


def open_provider(
    chosen: Settings,
    grid_zone: str,
    environment: Mapping[str, str],  # noqa: ARG001
) -> "EnergyCharts":
    """The provider for `grid_zone`, a whole country.

    Raises:
        ConfigurationError: it is none that Energy-Charts knows.
    """
    country = grid_zone.upper()
    if country not in COUNTRIES:
        raise ConfigurationError(
            f"intensity.grid_zone: energy_charts does not know {grid_zone!r}; it knows {', '.join(COUNTRIES)}"
        )
    return EnergyCharts(chosen.url, _OWN_CODES.get(country, country.lower()))


class EnergyCharts:
    """Implements model.GridProvider for one country."""

    def __init__(self, url: str, country: str) -> None:
        self._url = url
        self._country = country
        self.traits = Traits(
            provider="energy_charts",
            basis="unspecified",
            zones=f"countries: {', '.join(COUNTRIES)}",
            licence="Energy-Charts, Fraunhofer ISE, energy-charts.info, CC BY 4.0",
            resolution_seconds=_QUARTER_SECONDS,
            refresh_seconds=900.0,
            lag_seconds=5400.0,
            fresh_seconds=7200.0,
            horizon_seconds=24 * HOUR_SECONDS,
            pace_seconds=0.5,
        )

    def observe(self, web: Web, since_seconds: float, now_seconds: float) -> GridReading:
        """All quarter-hours since then to the next hour's, forecast ones where none is measured."""
        begin = min(since_seconds, now_seconds - _REVISED_SECONDS)
        return self._ask(
            web, "co2eq", {"start": utc_minute(begin), "end": utc_minute(now_seconds + HOUR_SECONDS)}, now_seconds
        )

    def predict(self, web: Web, now_seconds: float) -> GridReading:
        """Its forecast, to the end of the next day at most."""
        told = self._ask(web, "co2eq_forecast", {}, now_seconds)
        spans = tuple(span for span in told.spans if span.end_seconds > now_seconds)
        if not spans:
            raise ProviderError("empty", f"{self._url}/co2eq_forecast: ends before now: it is asked again later")
        return GridReading(spans, told.provider, told.basis)

    def _ask(self, web: Web, path: str, parameters: Mapping[str, str], now_seconds: float) -> GridReading:
        answer = web.get(f"{self._url}/{path}", {"country": self._country, **parameters})
        body = checked_json(answer, now_seconds)
        with well_formed(answer):
            spans = _spans(answer, json_object(body), path, now_seconds)
        if not spans:
            raise ProviderError("empty", f"{answer.url}: no value for {self._country!r}: it is asked again later")
        return GridReading(spans, "energy_charts", "unspecified")


def _spans(answer: WebAnswer, body: Mapping[str, Any], path: str, now_seconds: float) -> tuple[Span, ...]:
    """The periods with a value: of both columns of `co2eq`, of the one of `co2eq_forecast`."""
    if "unix_seconds" not in body:
        raise ProviderError("empty", f"{answer.url}: no values: it is asked again later")
    starts = ascending([_whole(value) for value in json_list(body["unix_seconds"])], now_seconds)
    forecast = _column(body.get("co2eq_forecast"), len(starts))
    measured = _column(body["co2eq"] if path == "co2eq" else None, len(starts))
    if not len(starts) == len(forecast) == len(measured):
        raise ValueError(f"{len(starts)} times for {len(measured)} and {len(forecast)} values")
    spans = []
    for start, end, told, foretold in zip(starts, _ends(starts), measured, forecast, strict=True):
        value = told if told is not None else foretold
        if value is not None:
            spans.append(Span(start, end, value, estimated=told is None))
    return tuple(spans)


def _ends(starts: Sequence[float]) -> list[float]:
    """Each period lasts to the next, but no longer than an hour; the last one as long as the one before."""
    steps = [min(later - earlier, HOUR_SECONDS) for earlier, later in pairwise(starts)]
    steps.append(steps[-1] if steps else _QUARTER_SECONDS)
    return [start + step for start, step in zip(starts, steps[: len(starts)], strict=True)]


def _column(value: Any, length: int) -> list[float | None]:
    """The values of a column; one that is null has none."""
    return [None] * length if value is None else [grams(cell) for cell in json_list(value)]


def _whole(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r} is no time")  # noqa: TRY004 - a bad answer
    return float(value)
