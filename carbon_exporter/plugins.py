"""Finds sources, resolvers and providers by the names of their files: sources/rapl.py is `rapl` in the configuration.

A module offers a class `Settings` and one function: open_source(settings, roots), open_resolver(settings, roots)
or open_provider(settings, grid_zone).
"""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from carbon_exporter.model import ConfigurationError, IntensityProvider, Resolver, Roots, Source
from carbon_exporter.settings import Settings, validated


def open_sources(sections: Mapping[str, Any], roots: Roots) -> dict[str, Source]:
    """Every source that is not switched off, by name.

    Raises:
        ConfigurationError: a section that is no source, or a bad setting in it.
    """
    chosen = _chosen("sources", sections)
    return {name: module.open_source(settings, roots) for name, module, settings in chosen}


def open_resolvers(sections: Mapping[str, Any], roots: Roots) -> dict[str, Resolver]:
    """Every job resolver that is not switched off, by name; raises as open_sources."""
    chosen = _chosen("jobs", sections)
    return {name: module.open_resolver(settings, roots) for name, module, settings in chosen}


def open_provider(name: str, sections: Mapping[str, Any], grid_zone: str) -> IntensityProvider:
    """The intensity provider `name`; raises as open_sources."""
    providers = {found: (module, settings) for found, module, settings in _chosen("intensity", sections)}
    if name not in providers:
        raise ConfigurationError(f"intensity.provider: {name!r} is unknown; known: {', '.join(sorted(providers))}")
    module, settings = providers[name]
    provider: IntensityProvider = module.open_provider(settings, grid_zone)
    return provider


def _chosen(room: str, sections: Mapping[str, Any]) -> Iterator[tuple[str, ModuleType, Settings]]:
    package = importlib.import_module(f"carbon_exporter.{room}")
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    for key in sections:
        if key not in names:
            raise ConfigurationError(f"{room}.{key}: unknown key; known keys here: {', '.join(names)}")
    for name in names:
        section = sections.get(name)
        if section is False:
            continue
        module = importlib.import_module(f"{package.__name__}.{name}")
        yield name, module, validated(module.Settings, section, f"{room}.{name}")
