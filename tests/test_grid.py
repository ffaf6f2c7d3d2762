"""All zones of a process, opened from a configuration and asked over real sockets by their own threads."""

import threading
import time

import pytest
import yaml
from fake_grid import FakeGrid, Reply
from grid_scripts import HOUR, T0, Clockwork, ScriptedProvider, hourly

from carbon_exporter.config import load_config
from carbon_exporter.grid.exposition import grid_families
from carbon_exporter.grid.grid import Grid, open_grid
from carbon_exporter.metrics import Renderer
from carbon_exporter.model import ConfigurationError


def grid_of(tmp_path, intensity, environment=None, **more):
    path = tmp_path / "carbon.yaml"
    path.write_text(yaml.safe_dump({"intensity": {"cache_dir": str(tmp_path / "cache"), **intensity}}))
    return open_grid(load_config(path).intensity, environment or {}, **more)


def energy_charts(now, grams, hours=48):
    """What Energy-Charts would say: quarter hours, measured until now, forecast for a day."""
    first = int(now // 900 * 900) - hours * 4 * 900
    seconds = [first + 900 * i for i in range(hours * 4 + 96)]
    return {
        "unix_seconds": seconds,
        "co2eq": [grams if s <= now else None for s in seconds],
        "co2eq_forecast": [grams + 10 if s > now else None for s in seconds],
        "deprecated": False,
    }


def page(grid, now):
    return Renderer().render(grid_families(grid, now)).decode()


def lines(text, name):
    return sorted(line for line in text.splitlines() if line.startswith((name + "{", name + " ")))


def wait_for(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("intensity", "environment", "message"),
    [
        ({"provider": "energy_charts"}, {}, r"intensity\.zones: name the zones that energy_charts"),
        ({"provider": "energy_charts", "grid_zone": "US-CAL-CISO"}, {}, r"intensity\.grid_zone: energy_charts does"),
        ({"provider": "cluster", "zones": {"DE": None}}, {}, r"intensity\.zones\.DE: cluster asks"),
        ({"provider": "magic", "grid_zone": "DE"}, {}, r"intensity\.provider: 'magic' is unknown; known: .*watttime"),
        ({"provider": ["energy_charts", "energy_charts"], "grid_zone": "DE"}, {}, r"energy_charts stands twice"),
        ({"provider": "electricity_maps", "grid_zone": "DE"}, {}, r"CARBON_ELECTRICITY_MAPS_TOKEN"),
        ({"provider": "static", "grid_zone": "ZZ"}, {}, r"intensity\.grid_zone: no yearly mean is known for 'ZZ'"),
        ({"provider": "static", "grid_zone": "DE", "marginal": "energy_charts"}, {}, r"marginal: energy_charts tells"),
        ({"provider": "static", "grid_zone": "DE", "marginal": "static"}, {}, r"marginal: static tells the average"),
        ({"provider": "static", "ca_file": "/nowhere.pem"}, {}, r"intensity\.ca_file: /nowhere\.pem: is no file"),
        (
            {"provider": "watttime", "grid_zone": "US-CAL-CISO", "watttime": {"username": "u"}},
            {"CARBON_WATTTIME_PASSWORD": "s3cret"},
            r"intensity\.provider: watttime tells the marginal intensity: name it in intensity\.marginal",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_one_line_that_names_the_key(tmp_path, intensity, environment, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        grid_of(tmp_path, intensity, environment)
    assert "\n" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("provider", ["energy_charts", "electricity_maps", "cluster"])
def test_a_zone_is_never_guessed(tmp_path, provider):
    with pytest.raises(ConfigurationError, match=rf"intensity\.grid_zone: {provider} needs the zone .*never guessed"):
        grid_of(tmp_path, {"provider": provider}, chains={"": (provider,)})


def test_static_is_there_at_once_and_starts_no_thread(tmp_path):
    before = threading.active_count()
    grid = grid_of(tmp_path, {"grid_zone": "DK", "zones": {"DE": None}})
    grid.start()
    assert threading.active_count() == before
    text = page(grid, time.time())
    grid.close()
    labels = 'provider="static",signal="average",basis="lifecycle"'
    assert lines(text, "carbon_intensity_grams_per_kilowatt_hour") == [
        f'carbon_intensity_grams_per_kilowatt_hour{{grid_zone="DE",{labels}}} 329.65',
        f'carbon_intensity_grams_per_kilowatt_hour{{grid_zone="DK",{labels}}} 114.41',
    ]
    assert lines(text, "carbon_intensity_fallback_level") == [
        'carbon_intensity_fallback_level{grid_zone="DE"} 2.0',
        'carbon_intensity_fallback_level{grid_zone="DK"} 2.0',
    ]
    horizons = lines(text, "carbon_intensity_forecast_grams_per_kilowatt_hour")
    assert len(horizons) == 16
    assert all('provider="static"' in line for line in horizons)
    assert "carbon_intensity_fetch_errors_total" not in text
    assert not (tmp_path / "cache").exists()


def test_two_zones_live_over_real_sockets_and_again_after_a_restart(tmp_path):
    now = time.time()
    with FakeGrid() as server:
        server.answers["/co2eq"] = lambda asked: Reply(
            energy_charts(now, {"de": 300, "fr": 40}[asked.parameters["country"]])
        )
        server.answers["/co2eq_forecast"] = server.answers["/co2eq"]
        settings = {
            "provider": "energy_charts",
            "zones": {"DE": None, "FR": None},
            "energy_charts": {"url": server.url},
        }
        grid = grid_of(tmp_path, settings, chance=lambda: 0.0)
        grid.start()
        try:
            wait_for(lambda: all(z.timeline(time.time()) is not None for z in grid.zones.values()))
        finally:
            grid.close()
        text = page(grid, time.time())
        values = lines(text, "carbon_intensity_grams_per_kilowatt_hour")
        assert [line.partition("} ")[2] for line in values] == ["300.0", "40.0"]
        assert lines(text, "carbon_intensity_fallback_level") == [
            'carbon_intensity_fallback_level{grid_zone="DE"} 0.0',
            'carbon_intensity_fallback_level{grid_zone="FR"} 0.0',
        ]
        assert len(lines(text, "carbon_intensity_last_success_timestamp_seconds")) == 2
        errors = lines(text, "carbon_intensity_fetch_errors_total")
        assert len(errors) == 9
        assert all(line.endswith(" 0.0") for line in errors)
        asked = len(server.asked)
        again = grid_of(tmp_path, settings)
        again.start()
        time.sleep(0.3)
        again.close()
        assert len(server.asked) == asked
        assert again.zones["DE", "average"].timeline(time.time()).intensity.grams_per_kilowatt_hour == 300
    assert not [t.name for t in threading.enumerate() if t.name.startswith("intensity-")]


def test_closing_does_not_wait_for_an_answer_that_hangs(tmp_path):
    with FakeGrid({"/co2eq": Reply({}, delay_seconds=30)}) as server:
        settings = {"provider": "energy_charts", "grid_zone": "DE", "energy_charts": {"url": server.url}}
        grid = grid_of(tmp_path, settings, chance=lambda: 0.0)
        grid.start()
        wait_for(lambda: server.asked)
        began = time.monotonic()
        grid.close()
        assert time.monotonic() - began < 5


def test_average_and_marginal_of_a_zone_stand_beside_each_other(tmp_path):
    average, marginal = (
        ScriptedProvider(hourly(T0, *[100] * 4)),
        ScriptedProvider(hourly(T0, *[500] * 4), signal="marginal"),
    )
    zones = [Clockwork(average), Clockwork(marginal, stand_in=None)]
    for one in zones:
        one.run(60)

    both = Grid([one.zone for one in zones], [fetcher for one in zones for fetcher in one.fetchers])
    text = Renderer().render(grid_families(both, T0 + 60)).decode()
    assert [line.partition("} ")[2] for line in lines(text, "carbon_intensity_grams_per_kilowatt_hour")] == [
        "100",
        "500",
    ]
    assert lines(text, "carbon_intensity_fallback_level") == ['carbon_intensity_fallback_level{grid_zone="DE"} 0.0']
    forecast = lines(text, "carbon_intensity_forecast_grams_per_kilowatt_hour")
    assert sum('signal="marginal"' in line for line in forecast) == 8


def test_a_zone_that_the_table_lacks_falls_back_to_the_world(tmp_path):
    grid = grid_of(
        tmp_path, {"provider": "entsoe", "grid_zone": "ZZ", "entsoe": {"eic": {"ZZ": "10YDE-VE-------2"}}},
        {"CARBON_ENTSOE_TOKEN": "s3cret"},
    )  # fmt: skip
    intensity = grid.zones["ZZ", "average"].timeline(time.time() + 61).intensity
    assert (intensity.provider, intensity.fallback_level, intensity.grid_zone) == ("static", 3, "ZZ")


def test_a_users_own_value_stands_in_with_a_level_of_its_own(tmp_path):
    static = {"grams_per_kilowatt_hour": 25, "basis": "direct"}
    grid = grid_of(tmp_path, {"provider": ["energy_charts", "static"], "grid_zone": "DE", "static": static})
    zone = grid.zones["DE", "average"]
    assert zone.timeline(time.time()) is None
    intensity = zone.timeline(time.time() + 61).intensity
    assert (intensity.grams_per_kilowatt_hour, intensity.basis, intensity.fallback_level) == (25, "direct", 2)
    assert zone.timeline(time.time() + 61 + HOUR).intensity.grams_per_kilowatt_hour == 25


def test_nothing_is_asked_before_the_start(tmp_path):
    with FakeGrid() as server:
        grid_of(tmp_path, {"provider": "energy_charts", "grid_zone": "DE", "energy_charts": {"url": server.url}})
        assert server.asked == []
    assert [path.name for path in tmp_path.iterdir()] == ["carbon.yaml"]
