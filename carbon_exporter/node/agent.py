"""Puts the node agent together from its settings, and runs it until it is told to stop."""

import gc
import logging
import threading
import time
from collections.abc import Callable, Mapping

from carbon_exporter.config import NODE_VARIABLE, Config
from carbon_exporter.grid.exposition import fetch_families
from carbon_exporter.grid.grid import Grid, open_grid
from carbon_exporter.metrics import Renderer
from carbon_exporter.model import JOULES_PER_KILOWATT_HOUR
from carbon_exporter.node.collectors import Collectors
from carbon_exporter.node.embodied import Embodied, grams_per_second
from carbon_exporter.node.exposition import families, node_info
from carbon_exporter.node.grams import Grams
from carbon_exporter.node.ledger import Ledger
from carbon_exporter.node.sampler import Sampler, Tick
from carbon_exporter.node.state import StateFile, this_host
from carbon_exporter.plugins import open_resolvers, open_sources, stand_ins, zone_hint
from carbon_exporter.procfs import boottime_seconds
from carbon_exporter.regions import pue_of
from carbon_exporter.timeline import Timeline

_log = logging.getLogger(__name__)


def open_node_grid(config: Config) -> Grid:
    """The grid of this node's one zone, by whose average its grams are counted; raises as `sampler_for`."""
    settings = config.intensity.model_copy(update={"marginal": None})
    return open_grid(settings, chains={settings.grid_zone: settings.node_chain()})


def build_sampler(config: Config, publish: Callable[[bytes], None], grid: Grid) -> Sampler:
    """The loop that `config` describes; `publish` gets the exposition of every tick. Raises as `sampler_for`."""
    renderer = Renderer()
    (zone,) = grid.zones.values()
    name = node_info(config.node.name)

    def render(tick: Tick) -> None:
        publish(renderer.render((*families(tick), name, *fetch_families(grid.fetchers))))

    return sampler_for(config, render, zone.timeline)


def sampler_for(
    config: Config, publish: Callable[[Tick], None], timeline: Callable[[float], Timeline | None]
) -> Sampler:
    """The loop that `config` describes; `publish` gets every tick, `timeline` as in Sampler.

    Raises:
        ConfigurationError: a setting is no use; one line that names it.
    """
    node = config.node
    roots = node.roots()
    sources = open_sources(config.sources, roots)
    pue = pue_of(config.pue, config.cloud_region)
    return Sampler(
        sources=sources,
        stand_ins=stand_ins(sources),
        resolvers=open_resolvers(config.jobs, roots),
        timeline=timeline,
        ledger=_ledger(config, pue),
        state_file=StateFile(node.state_file, this_host(roots)) if node.state_file is not None else None,
        proc=node.procfs,
        pue=pue,
        interval_seconds=node.interval_seconds,
        clock=boottime_seconds,
        wall_clock=time.time,
        collectors=Collectors(time.time),
        publish=publish,
    )


def _ledger(config: Config, pue: float) -> Ledger:
    market, embodied = config.intensity.market_grams_per_kilowatt_hour, config.embodied
    return Ledger(
        config.node.linger_seconds,
        config.node.idle_watts,
        Grams(
            market_grams_per_joule=pue * market / JOULES_PER_KILOWATT_HOUR if market is not None else None,
            embodied=Embodied(
                grams_per_second(embodied.gpu_kilograms, embodied.gpu_years),
                grams_per_second(embodied.host_kilograms, embodied.host_years),
            ),
        ),
    )


def run(sampler: Sampler, grid: Grid, stop: threading.Event) -> None:
    """Go on from the state file, tick until `stop` is set, save once more and close."""
    grid.start()
    try:
        sampler.restore()
        # What is loaded by now stays, and a tick makes no cycles: looking for them took a tenth of its time.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000)
        sampler.run(stop)
    finally:
        sampler.close()
        grid.close()
    _log.info("stopped")


def warn_of_a_passing_name(config: Config, environment: Mapping[str, str]) -> None:
    """Say in the log where the node's name is that of a pod: rules would take each new pod for another node."""
    in_a_pod = "KUBERNETES_SERVICE_HOST" in environment
    if in_a_pod and not environment.get(NODE_VARIABLE) and "name" not in config.node.model_fields_set:
        _log.warning(
            "node.name: this pod's host name, %s, stands for the node and may change with the pod: "
            "set %s from spec.nodeName",
            config.node.name,
            NODE_VARIABLE,
        )


def hint_at_zone(config: Config) -> None:
    """Where no grid zone is configured, say in the log what the scheduler knows of one; in the background."""
    if config.intensity.grid_zone:
        return

    def ask() -> None:
        hint = zone_hint(config.jobs)
        if hint is not None:
            _log.info("%s", hint)

    threading.Thread(target=ask, name="zone-hint", daemon=True).start()
