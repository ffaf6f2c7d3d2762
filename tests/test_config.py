"""The configuration file: every bad key is one line that names it."""

import os

import pytest

from carbon_exporter.config import Config, load_config
from carbon_exporter.model import ConfigurationError, Roots
from carbon_exporter.node.agent import warn_of_a_passing_name
from carbon_exporter.plugins import open_provider, open_resolvers, open_sources


def load(tmp_path, text):
    path = tmp_path / "carbon.yaml"
    path.write_text(text)
    return load_config(path)


def test_without_a_file_all_is_default():
    assert load_config(None) == Config()


def test_an_empty_file_is_all_default(tmp_path):
    assert load(tmp_path, "# nothing yet\n") == Config()


def test_a_full_file(tmp_path):
    config = load(
        tmp_path,
        "node: {interval_seconds: 1, state_file: null}\n"
        "sources: {nvml: false, rapl: {domains: [package]}}\n"
        "jobs: {process: {full_scan_seconds: 5}}\n"
        "intensity: {provider: static, grid_zone: DK, static: {grams_per_kilowatt_hour: 120}}\n"
        "pue: 1.3\n"
        "forecast: {poll_seconds: 5}\n",
    )
    assert config.node.interval_seconds == 1
    assert config.node.state_file is None
    assert config.pue == 1.3
    assert config.intensity.chains() == {"DK": ("static",)}
    provider = open_provider("static", config.intensity.sections, "DK", {})
    (span,) = provider.observe(None, 0, 0).spans
    assert span.grams_per_kilowatt_hour == 120
    assert "nvml" not in open_sources(config.sources, Roots(tmp_path, tmp_path))


def test_zones_have_their_own_providers_or_the_common_one(tmp_path):
    text = (
        "intensity:\n  provider: [electricity_maps, energy_charts]\n  grid_zone: FR\n"
        "  zones:\n    DE:\n    GB: gb_carbon_intensity\n    US-CAL-CISO: [eia, static]\n"
    )
    assert load(tmp_path, text).intensity.chains() == {
        "DE": ("electricity_maps", "energy_charts"),
        "GB": ("gb_carbon_intensity",),
        "US-CAL-CISO": ("eia", "static"),
        "FR": ("electricity_maps", "energy_charts"),
    }
    assert load(tmp_path, "pue: 1\n").intensity.chains() == {}
    assert load(tmp_path, "intensity: {zones: {DE: }}").intensity.chains() == {"DE": ("static",)}


def test_a_node_asks_its_provider_and_not_those_of_the_service(tmp_path):
    shared = "intensity: {provider: cluster, grid_zone: FR, zones: {FR: energy_charts, DE: [entsoe]}}"
    config = load(tmp_path, shared).intensity
    assert (config.node_chain(), config.chains()["FR"]) == (("cluster",), ("energy_charts",))
    alone = load(tmp_path, "intensity: {grid_zone: FR, zones: {FR: energy_charts}}").intensity
    assert alone.node_chain() == ("energy_charts",)
    assert load(tmp_path, "intensity: {grid_zone: FR}").intensity.node_chain() == ("static",)


def test_the_zone_may_come_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("CARBON_GRID_ZONE", "DK-DK1")
    assert load(tmp_path, "pue: 1\n").intensity.grid_zone == "DK-DK1"
    assert load(tmp_path, "intensity: {grid_zone: DE}").intensity.grid_zone == "DE"
    monkeypatch.setenv("CARBON_GRID_ZONE", "Denmark, west")
    with pytest.raises(ConfigurationError, match=r"intensity\.grid_zone: "):
        load(tmp_path, "intensity: {provider: static}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nodes: {}", r"nodes: unknown key; known keys here: .*node"),
        ("node: {intervall: 2}", r"node\.intervall: unknown key; known keys here: .*interval_seconds"),
        ("intensity: {grid_zone: NO}", r"intensity\.grid_zone: input should be a valid string; write it in quotes"),
        ("node: {interval_seconds: soon}", r"node\.interval_seconds: input should be a valid number"),
        ("node: {interval_seconds: 0}", r"node\.interval_seconds: .*greater than or equal"),
        ("node: {idle_watts: {cpu: -1}}", r"node\.idle_watts\.cpu: .*greater than or equal to 0"),
        ("node: {idle_watts: {fpga: 5}}", r"node\.idle_watts\.fpga: input should be 'cpu', 'dram' or 'gpu'"),
        ("node: {idle_watts: {cpu: .inf}}", r"node\.idle_watts\.cpu: input should be a finite number"),
        ("node: {interval_seconds: .inf}", r"node\.interval_seconds: "),
        ("node: 3", r"node: "),
        ("pue: 0.5", r"pue: give a number from 1 to 10"),
        ("pue: .nan", r"pue: "),
        ("pue: true", r"pue: give a number"),
        ("pue: region", r"pue: give a number from 1 to 10, or the word cloud_region"),
        ("intensity: {provider: 5}", r"intensity\.provider: give the name of a provider, or a list of them"),
        ("intensity: {provider: [energy_charts, 5]}", r"intensity\.provider: give the name"),
        ("intensity: {grid_zone: Germany}", r"intensity\.grid_zone: "),
        ("intensity: {zones: [DE, FR]}", r"intensity\.zones: "),
        ("intensity: {zones: {Germany: }}", r"intensity\.zones\.Germany: a grid zone is a country's two letters"),
        ("intensity: {zones: {DE: 5}}", r"intensity\.zones\.DE: give the name of a provider"),
        ("intensity: {provider: []}", r"intensity\.provider: give the name of a provider"),
        ("intensity: {market_grams_per_kilowatt_hour: -1}", r"intensity\.market_grams_per_kilowatt_hour: "),
        ("embodied: {gpu_years: 0}", r"embodied\.gpu_years: "),
        ("embodied: {gpu_kilos: 5}", r"embodied\.gpu_kilos: unknown key; known keys here: .*gpu_kilograms"),
        ("- a\n- b", r"must be a mapping"),
        ("a: [", r"is no YAML: .*line"),
    ],
)
def test_a_bad_key_is_one_line_that_names_it(tmp_path, text, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        load(tmp_path, text)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "carbon.yaml") in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"No such file.*--config"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("opened", "message"),
    [
        (
            lambda roots: open_sources({"rappl": {}}, roots),
            r"sources\.rappl: unknown key; known keys here: .*rapl",
        ),
        (lambda roots: open_sources({"rapl": True}, roots), r"sources\.rapl: must be a mapping of keys to values"),
        (lambda roots: open_sources({"rapl": {"x": 1}}, roots), r"sources\.rapl\.x: unknown key"),
        (lambda roots: open_resolvers({"process": {"full_scan_seconds": -1}}, roots), r"jobs\.process\.full_scan_s"),
        (
            lambda _: open_provider("statik", {}, ""),
            r"intensity\.provider: 'statik' is unknown; known: cluster, .*static",
        ),
        (lambda _: open_provider("static", {"static": {"grams_per_kilowatt_hour": 1e9}}, ""), r"intensity\.static\."),
        (lambda _: open_provider("static", {}, "XX"), r"intensity\.grid_zone: .*'XX'"),
    ],
)
def test_a_bad_plugin_section_is_one_line_that_names_it(tmp_path, opened, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        opened(Roots(tmp_path, tmp_path))
    assert "\n" not in str(caught.value)


def test_a_secret_typed_at_the_wrong_place_is_not_repeated(tmp_path):
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, "node: {interval_seconds: hunter2}")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("environment", "file", "name", "warned"),
    [
        ({"NODE_NAME": "gpu-7", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "{}", "gpu-7", False),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "node: {name: gpu-8}", "gpu-8", False),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "{}", os.uname().nodename, True),
        ({}, "{}", os.uname().nodename, False),
    ],
)
def test_a_node_has_a_name_that_stays(tmp_path, monkeypatch, caplog, environment, file, name, warned):
    monkeypatch.delenv("NODE_NAME", raising=False)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    config = load(tmp_path, file)
    assert config.node.name == name
    warn_of_a_passing_name(config, environment)
    told = [record.getMessage() for record in caplog.records]
    assert any("set NODE_NAME from spec.nodeName" in line for line in told) == warned
    assert len(told) == warned
