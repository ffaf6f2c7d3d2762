"""All zones that a process wants the intensity of, and the threads that ask for them."""

import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from carbon_exporter.config import IntensitySettings
from carbon_exporter.grid.cache import AnswerCache
from carbon_exporter.grid.feed import Feed
from carbon_exporter.grid.fetcher import Fetcher
from carbon_exporter.grid.web import BoundedWeb
from carbon_exporter.grid.zone import Zone
from carbon_exporter.model import ConfigurationError, GridProvider, Traits
from carbon_exporter.plugins import open_provider

_LEAVING_SECONDS: Final = 2.0


class Grid:
    """The zones, by name and signal; nothing is asked before `start`."""

    def __init__(self, zones: Iterable[Zone], fetchers: Iterable[Fetcher]) -> None:
        self.zones: Mapping[tuple[str, str], Zone] = {(zone.name, zone.signal): zone for zone in zones}
        self.fetchers = tuple(fetchers)
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to ask, in the background."""
        for fetcher in self.fetchers:
            name = f"intensity-{fetcher.provider}"
            thread = threading.Thread(target=fetcher.run, args=(self._stop,), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """Ask no more. A question that is being asked is not waited for long: its thread ends with the process."""
        self._stop.set()
        for thread in self._threads:
            thread.join(_LEAVING_SECONDS)


def open_grid(
    settings: IntensitySettings,
    environment: Mapping[str, str] = os.environ,
    *,
    chains: Mapping[str, tuple[str, ...]] | None = None,
    clock: Callable[[], float] = time.monotonic,
    wall_clock: Callable[[], float] = time.time,
    chance: Callable[[], float] = random.random,
) -> Grid:
    """The grid that `settings` describe: with `chains` (zone -> providers) only of those, else of all their zones.

    Args:
        settings: see IntensitySettings.
        environment: where secrets are that stand in no file.
        chains: see above.
        clock: monotonic seconds.
        wall_clock: Unix seconds.
        chance: numbers from 0 to 1, by which questions are spread.

    Raises:
        ConfigurationError: a provider, a zone or a secret is no use; one line that names the key.
    """
    if chains is None:
        chains = settings.chains()
        if not chains and settings.provider != ("static",):
            raise ConfigurationError(f"intensity.zones: name the zones that {settings.provider[0]} is to be asked for")
        asking_itself = sorted(zone for zone, chain in chains.items() if "cluster" in chain)
        if asking_itself:
            raise ConfigurationError(
                f"intensity.zones.{asking_itself[0]}: cluster asks the forecast service, which cannot ask itself: "
                "name another provider there"
            )
    means = _Means(
        settings.sections,
        environment,
        AnswerCache(settings.cache_dir),
        BoundedWeb(settings.ca_file),
        clock,
        wall_clock,
        chance,
    )
    zones: list[Zone] = []
    for name, chain in chains.items():
        zones.append(_open_zone(name, "average", chain, means))
        if settings.marginal is not None:
            zones.append(_open_zone(name, "marginal", (settings.marginal,), means))
    return Grid(zones, _fetchers(zones, means))


@dataclass(frozen=True, slots=True)
class _Means:
    """What all zones of a grid share."""

    sections: Mapping[str, Any]
    environment: Mapping[str, str]
    cache: AnswerCache
    web: BoundedWeb
    clock: Callable[[], float]
    wall_clock: Callable[[], float]
    chance: Callable[[], float]


def _open_zone(name: str, signal: str, chain: Sequence[str], means: _Means) -> Zone:
    feeds: list[Feed] = []
    for provider_name in chain:
        if chain.count(provider_name) > 1:
            raise ConfigurationError(f"intensity.provider: {provider_name} stands twice in the list for {name!r}")
        provider = open_provider(provider_name, means.sections, name, means.environment)
        _check_signal(provider.traits, signal)
        if provider_name == "static":
            break  # it never fails: nobody after it would be asked
        feeds.append(Feed(provider, name, means.clock(), means.chance))
    stand_in, licence = None, ""
    if signal == "average":
        static = _open_static(name, means, wanted="static" in chain)
        stand_in, licence = static.observe(means.web, 0.0, 0.0), static.traits.licence
        if feeds:  # however it is set, it is not what was asked for first
            stand_in = replace(stand_in, fallback_level=max(2, stand_in.fallback_level))
    zone = Zone(
        name,
        signal,
        feeds=feeds,
        stand_in=stand_in,
        licence=licence,
        started_seconds=means.wall_clock(),
        cache=means.cache,
    )
    for feed in feeds:
        feed.restore(means.cache.load(zone.key(feed), feed.traits.basis), means.clock(), means.wall_clock())
    return zone


def _check_signal(traits: Traits, signal: str) -> None:
    key, other = ("provider", "marginal") if signal == "average" else ("marginal", "provider")
    if traits.signal != signal:
        raise ConfigurationError(
            f"intensity.{key}: {traits.provider} tells the {traits.signal} intensity: name it in intensity.{other}"
        )


def _open_static(name: str, means: _Means, *, wanted: bool) -> GridProvider:
    """The static value of a zone; of a country that the table lacks the world's, unless static itself was asked for."""
    try:
        return open_provider("static", means.sections, name)
    except ConfigurationError:
        if wanted:
            raise
    return open_provider("static", means.sections, "")


def _fetchers(zones: Iterable[Zone], means: _Means) -> list[Fetcher]:
    asked: dict[str, list[tuple[Zone, Feed]]] = {}
    for zone in zones:
        for feed in zone.feeds:
            asked.setdefault(feed.traits.provider, []).append((zone, feed))
    return [Fetcher(pairs, means.web, means.clock, means.wall_clock) for pairs in asked.values()]
