"""Puts the node agent together from its settings, and runs it until it is told to stop."""

import gc
import logging
import threading
import time
from collections.abc import Callable

from carbon_exporter.config import Config
from carbon_exporter.metrics import Renderer
from carbon_exporter.node.collectors import Collectors
from carbon_exporter.node.exposition import families
from carbon_exporter.node.ledger import Ledger
from carbon_exporter.node.sampler import Sampler, Tick
from carbon_exporter.node.state import StateFile, this_host
from carbon_exporter.plugins import open_provider, open_resolvers, open_sources, stand_ins
from carbon_exporter.procfs import boottime_seconds

_log = logging.getLogger(__name__)


def build_sampler(config: Config, publish: Callable[[bytes], None]) -> Sampler:
    """The loop that `config` describes; `publish` gets the exposition of every tick. Raises as `sampler_for`."""
    renderer = Renderer()

    def render(tick: Tick) -> None:
        publish(renderer.render(families(tick)))

    return sampler_for(config, render)


def sampler_for(config: Config, publish: Callable[[Tick], None]) -> Sampler:
    """The loop that `config` describes; `publish` gets every tick.

    Raises:
        ConfigurationError: a setting is no use; one line that names it.
    """
    node = config.node
    roots = node.roots()
    sources = open_sources(config.sources, roots)
    return Sampler(
        sources=sources,
        stand_ins=stand_ins(sources),
        resolvers=open_resolvers(config.jobs, roots),
        provider=open_provider(config.intensity.provider, config.intensity.sections, config.intensity.grid_zone),
        ledger=Ledger(node.linger_seconds, node.idle_watts),
        state_file=StateFile(node.state_file, this_host(roots)) if node.state_file is not None else None,
        proc=node.procfs,
        pue=config.pue,
        interval_seconds=node.interval_seconds,
        clock=boottime_seconds,
        collectors=Collectors(time.time),
        publish=publish,
    )


def run(sampler: Sampler, stop: threading.Event) -> None:
    """Go on from the state file, tick until `stop` is set, save once more and close."""
    try:
        sampler.restore()
        # What is loaded by now stays, and a tick makes no cycles: looking for them took a tenth of its time.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000)
        sampler.run(stop)
    finally:
        sampler.close()
    _log.info("stopped")
