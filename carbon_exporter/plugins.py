"""Finds sources, resolvers and providers by the names of their files: sources/rapl.py is `rapl` in the configuration.

A module offers a class `Settings` and one function: open_source(settings, roots), open_resolver(settings, roots)
or open_provider(settings, grid_zone, environment). A source may name another one as STANDS_IN_FOR: then it is read
only while that one has no hardware to read. A resolver has a RANK: what one of lower rank claims, a later one leaves
out. Both may say in ABSENT why what they read may be missing and what to do, for `check`. A provider that needs no grid
zone says WITHOUT_ZONE.
"""

import importlib
import os
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

from carbon_exporter.model import ConfigurationError, GridProvider, Resolver, Roots, Source
from carbon_exporter.settings import Settings, validated


def open_sources(sections: Mapping[str, Any], roots: Roots) -> dict[str, Source]:
    """Every source that is not switched off, by name; stand-ins last. One whose original is switched off is, too.

    Raises:
        ConfigurationError: a section that is no source, or a bad setting in it.
    """
    chosen = {name: (module, settings) for name, module, settings in _chosen("sources", sections)}
    originals = {name: _original(module) for name, (module, _) in chosen.items()}
    names = [name for name, original in originals.items() if original is None or original in chosen]
    names.sort(key=lambda name: originals[name] is not None)
    return {name: chosen[name][0].open_source(chosen[name][1], roots) for name in names}


def stand_ins(sources: Iterable[str]) -> dict[str, str]:
    """Of these sources, those that are read only while another one's hardware is not there, with that one's name."""
    originals = {name: _original(importlib.import_module(f"carbon_exporter.sources.{name}")) for name in sources}
    return {name: original for name, original in originals.items() if original is not None}


def _original(module: ModuleType) -> str | None:
    return getattr(module, "STANDS_IN_FOR", None)


def open_resolvers(sections: Mapping[str, Any], roots: Roots) -> dict[str, Resolver]:
    """Every job resolver that is not switched off, by name, in the order of their ranks; raises as open_sources."""
    chosen = sorted(_chosen("jobs", sections), key=lambda found: found[1].RANK)
    return {name: module.open_resolver(settings, roots) for name, module, settings in chosen}


def open_provider(
    name: str, sections: Mapping[str, Any], grid_zone: str, environment: Mapping[str, str] = os.environ
) -> GridProvider:
    """The intensity provider `name` for one zone, its secrets from files or `environment`; raises as open_sources."""
    # A section of another provider is checked too: a slip in it should not wait for its day.
    providers = {found: (module, settings) for found, module, settings in _chosen("intensity", sections)}
    if name not in providers:
        raise ConfigurationError(f"intensity.provider: {name!r} is unknown; known: {', '.join(sorted(providers))}")
    module, settings = providers[name]
    if not grid_zone and not getattr(module, "WITHOUT_ZONE", False):
        raise ConfigurationError(
            f"intensity.grid_zone: {name} needs the zone that the power comes from, such as DE; it is never guessed"
        )
    provider: GridProvider = module.open_provider(settings, grid_zone, environment)
    return provider


def zone_hint(sections: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> str | None:
    """What the schedulers whose jobs are looked for know of this node's grid zone, in words; may take some seconds."""
    for _, module, settings in _chosen("jobs", sections):
        hint: str | None = module.region_hint(settings, environment) if hasattr(module, "region_hint") else None
        if hint is not None:
            return hint
    return None


def absence_of(room: str, name: str) -> str:
    """Why what this source or resolver reads may be missing, and what to do; "" where it does not say."""
    module = importlib.import_module(f"carbon_exporter.{room}.{name}")
    return str(getattr(module, "ABSENT", ""))


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
