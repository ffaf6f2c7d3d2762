"""Intensity without a network: a fixed value, or the yearly mean of a country, or the world's.

country_year.csv: lifecycle grams of CO2eq per kilowatt-hour of electricity by country, the newest year of each.
Ember (2026), processed by Our World in Data, CC BY 4.0, https://ourworldindata.org/grapher/carbon-intensity-electricity
"""

import csv
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from importlib.resources import files
from math import inf
from typing import Final, Literal

from pydantic import Field

from carbon_exporter import settings
from carbon_exporter.model import LAST_SECONDS, ConfigurationError, GridReading, Span, Traits, Web

WITHOUT_ZONE: Final = True
WORLD: Final = "WORLD"
EVER: Final = (0.0, LAST_SECONDS)
"""The years 1970 to 9999: a yearly mean stands for any time."""
Basis = Literal["lifecycle", "direct", "operational", "unspecified"]


class Settings(settings.Settings):
    """Settings of the provider `static`: grams_per_kilowatt_hour wins over the table."""

    grams_per_kilowatt_hour: float | None = Field(default=None, ge=0, le=2000)
    basis: Basis = "unspecified"


def open_provider(
    chosen: Settings,
    grid_zone: str,
    environment: Mapping[str, str],  # noqa: ARG001
) -> "StaticProvider":
    """The provider for `grid_zone`: "DK", "DK-DK1" and "US-CAL-CISO" take their country's mean, "" the world's.

    Raises:
        ConfigurationError: the zone's country is not in the table and no fixed value is set.
    """
    if chosen.grams_per_kilowatt_hour is not None:
        span = Span(*EVER, chosen.grams_per_kilowatt_hour)
        return StaticProvider(GridReading((span,), "static", chosen.basis))
    return StaticProvider(_from_table(grid_zone))


class StaticProvider:
    """Implements model.GridProvider with one value for ever."""

    def __init__(self, reading: GridReading) -> None:
        self._reading = reading
        self.traits = Traits(
            provider="static",
            basis=reading.basis,
            zones="every country, by its two letters",
            licence="Ember (2026), processed by Our World in Data, CC BY 4.0",
            refresh_seconds=inf,
            lag_seconds=inf,
            fresh_seconds=inf,
        )

    def observe(self, web: Web, since_seconds: float, now_seconds: float) -> GridReading:  # noqa: ARG002
        """The one value."""
        return self._reading

    def predict(self, web: Web, now_seconds: float) -> GridReading:  # noqa: ARG002
        """The one value."""
        return self._reading


def _from_table(grid_zone: str) -> GridReading:
    country = grid_zone.partition("-")[0].upper() if grid_zone else WORLD
    for code, grams, year in _rows():
        if code == country:
            return GridReading(
                spans=(Span(*EVER, grams, estimated=True),),
                provider="static",
                basis="lifecycle",
                fallback_level=3 if country == WORLD else 2,
                data_timestamp_seconds=datetime(year + 1, 1, 1, tzinfo=timezone.utc).timestamp(),
            )
    raise ConfigurationError(
        f"intensity.grid_zone: no yearly mean is known for {grid_zone!r}; "
        "begin with a country's two letters (DK, US-CAL-CISO) or set intensity.static.grams_per_kilowatt_hour"
    )


def _rows() -> Iterator[tuple[str, float, int]]:
    with (files(__package__) / "country_year.csv").open(encoding="utf-8") as table:
        for row in csv.DictReader(line for line in table if not line.startswith("#")):
            yield row["country"], float(row["grams_per_kilowatt_hour"]), int(row["year"])
