"""Intensity without a network: a fixed value, or the yearly mean of a country, or the world's.

country_year.csv: lifecycle grams of CO2eq per kilowatt-hour of electricity by country, the newest year of each.
Ember (2026), processed by Our World in Data, CC BY 4.0, https://ourworldindata.org/grapher/carbon-intensity-electricity
"""

import csv
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib.resources import files
from typing import Final, Literal

from pydantic import Field

from carbon_exporter import settings
from carbon_exporter.model import ConfigurationError, Intensity

WORLD: Final = "WORLD"
Basis = Literal["lifecycle", "direct", "operational", "unspecified"]


class Settings(settings.Settings):
    """Settings of the provider `static`: grams_per_kilowatt_hour wins over the table."""

    grams_per_kilowatt_hour: float | None = Field(default=None, ge=0, le=2000, allow_inf_nan=False)
    basis: Basis = "unspecified"


def open_provider(chosen: Settings, grid_zone: str) -> "StaticProvider":
    """The provider for `grid_zone`: "DK", "DK-DK1" and "US-CAL-CISO" take their country's mean, "" the world's.

    Raises:
        ConfigurationError: the zone's country is not in the table and no fixed value is set.
    """
    if chosen.grams_per_kilowatt_hour is not None:
        fixed = Intensity(chosen.grams_per_kilowatt_hour, grid_zone or "unknown", "static", chosen.basis)
        return StaticProvider(fixed)
    return StaticProvider(_from_table(grid_zone))


class StaticProvider:
    """Implements model.IntensityProvider with one value for ever."""

    def __init__(self, intensity: Intensity) -> None:
        self._intensity = intensity

    def current(self) -> Intensity:
        """The one value."""
        return self._intensity


def _from_table(grid_zone: str) -> Intensity:
    country = grid_zone.partition("-")[0].upper() if grid_zone else WORLD
    for code, grams, year in _rows():
        if code == country:
            return Intensity(
                grams_per_kilowatt_hour=grams,
                grid_zone=grid_zone or WORLD,
                provider="static",
                basis="lifecycle",
                estimated=True,
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
