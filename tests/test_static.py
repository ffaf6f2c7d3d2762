"""The intensity that needs no network."""

from datetime import datetime, timezone

import pytest

from carbon_exporter.intensity.static import Settings, open_provider
from carbon_exporter.model import ConfigurationError


@pytest.mark.parametrize("zone", ["DK", "dk", "DK-DK1"])
def test_a_zone_takes_its_countrys_mean_and_says_so(zone):
    now = open_provider(Settings(), zone).current()
    assert now.grams_per_kilowatt_hour == pytest.approx(114, abs=1)
    assert (now.grid_zone, now.basis, now.fallback_level, now.estimated) == (zone, "lifecycle", 2, True)
    year = datetime.fromtimestamp(now.data_timestamp_seconds, timezone.utc).year
    assert year == 2026  # the end of 2025


def test_without_a_zone_it_is_the_world_and_says_so():
    now = open_provider(Settings(), "").current()
    assert now.grams_per_kilowatt_hour == 458.3
    assert (now.grid_zone, now.fallback_level) == ("WORLD", 3)


def test_a_fixed_value_wins_and_counts_as_asked_for():
    now = open_provider(Settings(grams_per_kilowatt_hour=50, basis="direct"), "DK").current()
    assert (now.grams_per_kilowatt_hour, now.basis, now.fallback_level, now.estimated) == (50, "direct", 0, False)
    assert now.data_timestamp_seconds is None


@pytest.mark.parametrize("zone", ["XX", "Denmark", "-", "US CAL"])
def test_an_unknown_zone_is_a_clear_error(zone):
    with pytest.raises(ConfigurationError, match=r"intensity\.grid_zone.*two letters"):
        open_provider(Settings(), zone)
