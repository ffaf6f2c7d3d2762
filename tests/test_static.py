"""The intensity that needs no network."""

from datetime import datetime, timezone

import pytest

from carbon_exporter.intensity.static import Settings, open_provider
from carbon_exporter.model import ConfigurationError


def reading(zone, **settings):
    provider = open_provider(Settings(**settings), zone, {})
    said = provider.observe(None, 0, 0)
    assert said == provider.predict(None, 0)
    (span,) = said.spans
    assert (span.start_seconds, span.end_seconds > 4e9) == (0, True)
    return said, span


@pytest.mark.parametrize("zone", ["DK", "dk", "DK-DK1"])
def test_a_zone_takes_its_countrys_mean_and_says_so(zone):
    said, span = reading(zone)
    assert span.grams_per_kilowatt_hour == pytest.approx(114, abs=1)
    assert (said.provider, said.basis, said.fallback_level, span.estimated) == ("static", "lifecycle", 2, True)
    year = datetime.fromtimestamp(said.data_timestamp_seconds, timezone.utc).year
    assert year == 2026  # the end of 2025


def test_without_a_zone_it_is_the_world_and_says_so():
    said, span = reading("")
    assert (span.grams_per_kilowatt_hour, said.fallback_level) == (458.3, 3)


def test_a_fixed_value_wins_and_counts_as_asked_for():
    said, span = reading("DK", grams_per_kilowatt_hour=50, basis="direct")
    assert (span.grams_per_kilowatt_hour, said.basis, said.fallback_level, span.estimated) == (50, "direct", 0, False)
    assert said.data_timestamp_seconds is None


@pytest.mark.parametrize("zone", ["XX", "Denmark", "-", "US CAL"])
def test_an_unknown_zone_is_a_clear_error(zone):
    with pytest.raises(ConfigurationError, match=r"intensity\.grid_zone.*two letters"):
        open_provider(Settings(), zone, {})
