"""One YAML file -> validated settings. Without a file everything has its default.

node: {interval_seconds: 2, linger_seconds: 600, state_file: /var/lib/carbon-exporter/node.json}
sources: {rapl: {}, nvml: {}, cpu_estimate: {tdp_watts: 280}}   # a source set to `false` is switched off
jobs: {process: {}}
intensity: {provider: static, grid_zone: DK}
pue: 1.2
forecast: {prometheus_url: "http://prometheus:9090"}
rules: {budgets: {default_grams: 50000}}
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeFloat, PositiveFloat, field_validator

from carbon_exporter.model import Component, ConfigurationError, Roots
from carbon_exporter.settings import Settings, validated

ZONE_VARIABLE: Final = "CARBON_GRID_ZONE"
NODE_VARIABLE: Final = "NODE_NAME"


def _is_a_zone(name: str) -> str:
    if not re.fullmatch(r"([A-Za-z]{2}(-[A-Za-z0-9]+)*)?", name):
        example = f"such as DE or US-CAL-CISO (in the file, or in {ZONE_VARIABLE})"
        raise ValueError(f"a grid zone is a country's two letters, and parts of it after dashes, {example}")
    return name


Zone = Annotated[str, AfterValidator(_is_a_zone)]
"""A grid zone; "" for none."""


def _listed(value: Any) -> Any:
    """One name, or a list of names, as a tuple of names."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError("give the name of a provider, or a list of them")
    return tuple(names)


def _listed_or_none(value: Any) -> Any:
    return () if value is None else _listed(value)


Providers = Annotated[tuple[str, ...], BeforeValidator(_listed)]
"""Names of intensity providers, in the order in which they are to be asked."""
Section = Any
"""Settings of a plug-in, which it checks itself; `false` switches it off, nothing leaves its defaults."""


class NodeSettings(Settings):
    """Settings of the node agent.

    name: what the node is called, whatever address its exporter has.
    state_file: where the accounts survive a restart; None keeps them in memory only.
    sysfs, procfs: where the host's trees are mounted (/host/sys in a container).
    idle_watts: idle power of each device, by component; what is not given is learned.
    """

    name: str = Field(default_factory=lambda: os.environ.get(NODE_VARIABLE, "") or os.uname().nodename)
    interval_seconds: float = Field(default=2.0, ge=0.05, le=300)
    linger_seconds: float = Field(default=600.0, ge=0, le=86400)
    state_file: Path | None = Path("/var/lib/carbon-exporter/node.json")
    sysfs: Path = Path("/sys")
    procfs: Path = Path("/proc")
    idle_watts: dict[Component, NonNegativeFloat] = Field(default_factory=dict)

    def roots(self) -> Roots:
        """The two trees as sources and resolvers take them."""
        return Roots(self.sysfs, self.procfs)


class IntensitySettings(Settings):
    """Who tells the intensity of which zone; the other keys are the providers' own sections.

    provider: one, or several to be asked in this order.
    grid_zone: where this node draws its power from; by default what CARBON_GRID_ZONE says.
    zones: of the whole cluster (forecast service), with their own provider or providers where they differ.
    marginal: who tells the marginal intensity, which no grams are counted with.
    market_grams_per_kilowatt_hour: of the power that is bought, for a second count of grams.
    cache_dir: where the last answers survive a restart; None keeps them in memory only.
    ca_file: PEM certificates that sign the providers' (a proxy's) own; None for those of the system.
    """

    provider: Providers = ("static",)
    grid_zone: Zone = Field(default_factory=lambda: os.environ.get(ZONE_VARIABLE, ""), validate_default=True)
    zones: dict[Zone, Annotated[tuple[str, ...], BeforeValidator(_listed_or_none)]] = Field(default_factory=dict)
    marginal: str | None = None
    market_grams_per_kilowatt_hour: float | None = Field(default=None, ge=0, le=2000)
    cache_dir: Path | None = Path("/var/lib/carbon-exporter/intensity")
    ca_file: Path | None = None
    sections: dict[str, Section] = Field(default_factory=dict)

    def node_chain(self) -> tuple[str, ...]:
        """The providers of a node, in the order in which they are to be asked: `zones` is for the forecast service.

        Only a node whose configuration names no provider takes that of its zone there.
        """
        return self.provider if "provider" in self.model_fields_set else self._chain_of(self.grid_zone)

    def _chain_of(self, zone: str) -> tuple[str, ...]:
        return self.zones.get(zone) or self.provider

    def chains(self) -> dict[str, tuple[str, ...]]:
        """The providers of every zone that is named: those of `zones`, and `grid_zone` too."""
        zones = [*self.zones, *([self.grid_zone] if self.grid_zone else [])]
        return {zone: self._chain_of(zone) for zone in zones}


class EmbodiedSettings(Settings):
    """What it took to make the hardware, in kilograms of CO2eq, and the years it serves; 0 kilograms: not counted."""

    gpu_kilograms: NonNegativeFloat = 0.0
    gpu_years: PositiveFloat = 5.0
    host_kilograms: NonNegativeFloat = 0.0
    host_years: PositiveFloat = 5.0


class Config(Settings):
    """The whole file."""

    node: NodeSettings = Field(default_factory=NodeSettings)
    sources: dict[str, Section] = Field(default_factory=dict)
    jobs: dict[str, Section] = Field(default_factory=dict)
    intensity: IntensitySettings = Field(default_factory=IntensitySettings)
    pue: float | Literal["cloud_region"] = 1.0
    cloud_region: str = ""
    embodied: EmbodiedSettings = EmbodiedSettings()
    forecast: dict[str, Any] = Field(default_factory=dict)
    rules: dict[str, Any] = Field(default_factory=dict)

    @field_validator("pue", mode="before")
    @classmethod
    def _is_a_pue(cls, value: Any) -> Any:
        number = isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value <= 10
        if not number and value != "cloud_region":
            raise ValueError("give a number from 1 to 10, or the word cloud_region")
        return value


def load_config(path: Path | None) -> Config:
    """The settings in the file at `path`; the defaults without one.

    Raises:
        ConfigurationError: the file cannot be read, is no YAML, or has a bad key; one line that names it.
    """
    if path is None:
        return Config()
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}; give a readable file with --config") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: is not UTF-8 text") from None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path}: is no YAML: {' '.join(str(error).split())}") from None
    if values is not None and not isinstance(values, dict):
        raise ConfigurationError(f"{path}: must be a mapping of keys to values")
    try:
        return validated(Config, _gather_providers(values or {}), "")
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None


def _gather_providers(values: dict[str, Any]) -> dict[str, Any]:
    """Move the providers' own sections under intensity.sections, where their names are checked later."""
    intensity = values.get("intensity")
    if not isinstance(intensity, dict):
        return values
    own = IntensitySettings.model_fields.keys() - {"sections"}
    sections = {key: section for key, section in intensity.items() if key not in own}
    return {**values, "intensity": {**{k: v for k, v in intensity.items() if k in own}, "sections": sections}}
