"""Finds sources, resolvers and providers by the names of their files: sources/rapl.py is `rapl` in the configuration.

A module offers a class `Settings` and one function: open_source(settings, roots), open_resolver(settings, roots)
or open_provider(settings, grid_zone). A source may name another one as STANDS_IN_FOR: then it is left out where that
one has hardware to read. It may say in ABSENT why its hardware may be missing and what to do, for `check`.
"""

import importlib
import logging
import pkgutil
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from carbon_exporter.model import ConfigurationError, IntensityProvider, Resolver, Roots, Source
from carbon_exporter.settings import Settings, validated

_log = logging.getLogger(__name__)


def open_sources(sections: Mapping[str, Any], roots: Roots, now_seconds: float) -> dict[str, Source]:
    """Every source that is not switched off and not stood in for, by name.

    Raises:
        ConfigurationError: a section that is no source, or a bad setting in it.
    """
    chosen = list(_chosen("sources", sections))
    sources: dict[str, Source] = {name: module.open_source(settings, roots) for name, module, settings in chosen}
    by_name = {name: (module, settings) for name, module, settings in chosen}
    for name, module, _ in chosen:
        real = getattr(module, "STANDS_IN_FOR", None)
        if real in by_name and _is_present(*by_name[real], roots, now_seconds):
            sources.pop(name).close()
        elif real is not None:
            _log.info("%s stands in for %s: %s", name, real, sources[name].describe())
    return sources


def _is_present(module: ModuleType, settings: Settings, roots: Roots, now_seconds: float) -> bool:
    """Whether a source has hardware; asked of one of its own, so that no counter starts before the first tick."""
    probe: Source = module.open_source(settings, roots)
    try:
        return probe.read(now_seconds).present
    finally:
        probe.close()


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


def absence_of(source: str) -> str:
    """Why the hardware of a source may be missing, and what to do; "" where the source does not say."""
    module = importlib.import_module(f"carbon_exporter.sources.{source}")
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
