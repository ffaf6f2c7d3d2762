"""Energi Data Service (Energinet): the two Danish price areas in steps of five minutes, no key, with a prognosis.

API reference: https://www.energidataservice.dk/guides/api-guides; datasets CO2Emis (measured) and CO2EmisProg. One
question a minute to each dataset is allowed from one address.
"""

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, Final

import orjson

from carbon_exporter import settings
from carbon_exporter.answers import (
    ascending,
    checked_json,
    grams,
    in_order,
    json_list,
    json_object,
    utc_seconds,
    well_formed,
)
from carbon_exporter.model import ConfigurationError, GridReading, ProviderError, Span, Traits, Web, WebAnswer

AREAS: Final = {"DK-DK1": "DK1", "DK-DK2": "DK2"}
_STEP_SECONDS: Final = 300.0
_FRESH_SECONDS: Final = 1800.0
_REVISED_SECONDS: Final = 7200.0
"""So far back it is asked at least: a newer start may lie behind the newest value."""


class Settings(settings.Settings):
    """Settings of the provider `energi_data_service`."""

    url: settings.PlainUrl = "https://api.energidataservice.dk"


def open_provider(
    chosen: Settings,
    grid_zone: str,
    environment: Mapping[str, str],  # noqa: ARG001
) -> "EnergiDataService":
    """The provider for `grid_zone`: DK-DK1 (west) or DK-DK2 (east).

    Raises:
        ConfigurationError: it is neither.
    """
    area = AREAS.get(grid_zone.upper())
    if area is None:
        raise ConfigurationError(
            f"intensity.grid_zone: energi_data_service does not know {grid_zone!r}; it knows {', '.join(AREAS)}"
        )
    return EnergiDataService(chosen.url, area)


class EnergiDataService:
    """Implements model.GridProvider for one price area."""

    def __init__(self, url: str, area: str) -> None:
        self._url = url
        self._area = area
        self.traits = Traits(
            provider="energi_data_service",
            basis="operational",
            zones="DK-DK1 (west of the Great Belt) and DK-DK2 (east)",
            licence="Energinet, energidataservice.dk",
            resolution_seconds=_STEP_SECONDS,
            refresh_seconds=_STEP_SECONDS,
            lag_seconds=1200.0,
            fresh_seconds=_FRESH_SECONDS,
            horizon_seconds=9 * 3600.0,
            pace_seconds=60.0,
        )

    def observe(self, web: Web, since_seconds: float, now_seconds: float) -> GridReading:
        """The measured steps since then; the prognosis after them where the newest is not fresh any more."""
        begin = min(since_seconds, now_seconds - _REVISED_SECONDS)
        measured: tuple[Span, ...] = ()
        try:
            measured = self._ask(web, "CO2Emis", begin, now_seconds)
        except ProviderError as error:
            if error.reason != "empty":
                raise
        if measured and measured[-1].end_seconds >= now_seconds - _FRESH_SECONDS:
            return self._reading(measured)
        try:
            foretold = self._ask(web, "CO2EmisProg", now_seconds - _FRESH_SECONDS, now_seconds)
        except ProviderError:
            if not measured:
                raise
            foretold = ()
        return self._reading(in_order([*foretold, *measured]))

    def predict(self, web: Web, now_seconds: float) -> GridReading:
        """The prognosis, for 9 hours at least."""
        spans = self._ask(web, "CO2EmisProg", now_seconds - _STEP_SECONDS, now_seconds)
        coming = tuple(span for span in spans if span.end_seconds > now_seconds)
        if not coming:
            raise ProviderError("empty", f"{self._url}: the prognosis ends before now: it is asked again later")
        return self._reading(coming)

    def _reading(self, spans: tuple[Span, ...]) -> GridReading:
        return GridReading(spans, "energi_data_service", "operational")

    def _ask(self, web: Web, dataset: str, begin_seconds: float, now_seconds: float) -> tuple[Span, ...]:
        answer = web.get(
            f"{self._url}/dataset/{dataset}",
            {
                # Read as Danish time, should the next parameter be ignored, it is an hour or two earlier: no harm.
                "start": f"{datetime.fromtimestamp(begin_seconds, timezone.utc):%Y-%m-%dT%H:%M}",
                "timezone": "UTC",
                "filter": orjson.dumps({"PriceArea": [self._area]}).decode(),
                "columns": "Minutes5UTC,PriceArea,CO2Emission",
                "sort": "Minutes5UTC asc",
                "limit": "0",
            },
        )
        body = checked_json(answer, now_seconds)
        with well_formed(answer):
            spans = self._spans(answer, json_object(body), now_seconds, estimated=dataset == "CO2EmisProg")
        if not spans:
            raise ProviderError("empty", f"{answer.url}: no value for {self._area}: it is asked again later")
        return spans

    def _spans(
        self, answer: WebAnswer, body: Mapping[str, Any], now_seconds: float, *, estimated: bool
    ) -> tuple[Span, ...]:
        rows = [json_object(row) for row in json_list(body.get("records", []))]
        for row in rows:
            if row["PriceArea"] != self._area:
                found = str(row["PriceArea"])[:40]
                raise ProviderError(
                    "zone_mismatch", f"{answer.url}: answers for {found!r}, not {self._area!r}: is the URL right?"
                )
        starts = ascending([utc_seconds(row["Minutes5UTC"]) for row in rows], now_seconds)
        values = [grams(row["CO2Emission"]) for row in rows]
        return tuple(
            Span(start, start + _STEP_SECONDS, value, estimated)
            for start, value in zip(starts, values, strict=True)
            if value is not None
        )
