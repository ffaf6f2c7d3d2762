"""`carbon-exporter check`: what can be measured on this host, what cannot, why, and what to do about it."""

import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import requests
from rich.console import Console
from rich.table import Table
from rich.text import Text

from carbon_exporter.config import Config
from carbon_exporter.grid.feed import Feed
from carbon_exporter.grid.grid import open_grid
from carbon_exporter.grid.zone import PATIENCE_SECONDS
from carbon_exporter.model import (
    ConfigurationError,
    DeviceReading,
    Intensity,
    Resolver,
    ResolverReading,
    Roots,
    Source,
    SourceReading,
)
from carbon_exporter.node.state import StateFile, this_host
from carbon_exporter.plugins import absence_of, open_resolvers, open_sources, stand_ins
from carbon_exporter.procfs import HALF_BLIND, boottime_seconds, may_look_into_processes
from carbon_exporter.regions import pue_of
from carbon_exporter.web.server import listen

Status = Literal["ok", "estimated", "absent", "broken"]
_STYLES: dict[Status, str] = {"ok": "green", "estimated": "yellow", "absent": "dim", "broken": "bold red"}
WATCH_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; only "broken" makes the check fail."""

    subject: str
    status: Status
    text: str


def run(config: Config, listen_address: str, console: Console | None = None) -> int:
    """Print the report. The exit status: 0, or 1 where something is there but broken.

    Raises:
        ConfigurationError: a setting is no use.
    """
    console = console or Console(soft_wrap=False)
    with console.status(f"watching this host for {WATCH_SECONDS:g} s ..."):
        findings = list(find(config, listen_address))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("what", "status", "found"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        table.add_row(finding.subject, Text(finding.status, _STYLES[finding.status]), Text(finding.text))
    console.print(table)
    broken = list(dict.fromkeys(finding.subject for finding in findings if finding.status == "broken"))
    if broken:
        console.print(f"\nbroken: {', '.join(broken)}", style="bold red")
    return 1 if broken else 0


def find(
    config: Config,
    listen_address: str,
    clock: Callable[[], float] = boottime_seconds,
    wait: Callable[[float], None] = time.sleep,
) -> Iterator[Finding]:
    """The findings on this host, energy sources first."""
    roots = config.node.roots()
    sources = open_sources(config.sources, roots)
    originals = stand_ins(sources)
    resolvers = open_resolvers(config.jobs, roots)
    before = {name: source.read(clock()) for name, source in sources.items()}
    _read_jobs(resolvers, clock())  # the first reading starts what asks in the background
    wait(WATCH_SECONDS)
    for name, source in sources.items():
        if name not in originals or not before[originals[name]].present:
            yield from _check_source(name, source, _devices(before[name]), clock())
        source.close()
    for name, reading in _read_jobs(resolvers, clock()).items():
        yield from _check_jobs(name, reading)
        resolvers[name].close()
    yield from _check_intensity(config)
    yield _check_state(config, roots)
    yield _check_address(listen_address)


def _devices(reading: SourceReading) -> dict[str, DeviceReading]:
    return {device.device: device for device in reading.devices}


def _check_source(name: str, source: Source, before: dict[str, DeviceReading], now: float) -> Iterator[Finding]:
    reading = source.read(now)
    if not reading.present:
        yield Finding(name, "absent", absence_of("sources", name))
    for device in reading.devices:
        last = before.get(device.device)
        watts = (device.energy_joules - last.energy_joules) / WATCH_SECONDS if last else None
        power = f"{watts:.1f} W" if watts is not None else "power not known yet"
        how = f"{device.method}: {source.describe()}" if device.method == "estimate" else device.method
        model = f", {device.gpu.model}" if device.gpu else ""
        slices = f", {len(device.gpu.mig)} MIG devices" if device.gpu and device.gpu.mig else ""
        status: Status = "estimated" if device.method == "estimate" else "ok"
        yield Finding(name, status, f"{device.device}{model}: {power} ({how}){slices}")
    for failure in reading.failures:
        yield Finding(name, "broken", failure)


def _read_jobs(resolvers: Mapping[str, Resolver], now: float) -> dict[str, ResolverReading]:
    readings: dict[str, ResolverReading] = {}
    claimed: frozenset[str] = frozenset()
    for name, resolver in resolvers.items():
        readings[name] = reading = resolver.read(now, frozenset(), claimed)
        claimed |= reading.claimed.union(use.unit for use in reading.jobs)
    return readings


def _check_jobs(name: str, reading: ResolverReading) -> Iterator[Finding]:
    if not reading.present:
        yield Finding(f"jobs.{name}", "absent", absence_of("jobs", name))
        return
    jobs = {use.training_job for use in reading.jobs} - {""}
    names = ", ".join(sorted(map(repr, jobs))[:5])
    yield Finding(f"jobs.{name}", "ok", f"{len(jobs)} running: {names}" if jobs else "none running now")
    if name != "kubernetes" and not may_look_into_processes():
        # Broken for the node agent, which runs for all users; nothing unusual for somebody who is not root.
        yield Finding(f"jobs.{name}", "broken" if os.geteuid() == 0 else "absent", HALF_BLIND)
    for failure in reading.failures:
        yield Finding(f"jobs.{name}", "broken", failure)


def _check_intensity(config: Config) -> Iterator[Finding]:
    """Ask every provider of this node's zone, and of those that a forecast service would serve, once."""
    settings = config.intensity.model_copy(update={"cache_dir": None})
    own, chain = settings.grid_zone, settings.node_chain()
    served = {} if chain == ("cluster",) else settings.chains()
    pue = pue_of(config.pue, config.cloud_region)
    grid = open_grid(settings, chains={**served, own: chain} if own or not served else served)
    for fetcher in grid.fetchers:
        fetcher.ask_now()
        for feed in fetcher.feeds():
            yield _check_provider(feed)
    now = time.time() + PATIENCE_SECONDS  # long enough for a stand-in to stand in
    for zone in grid.zones.values():
        timeline = zone.timeline(now)
        if timeline is not None:
            yield _in_use(timeline.intensity, pue, zone.name)


def _check_provider(feed: Feed) -> Finding:
    subject = f"intensity.{feed.traits.provider}"
    if feed.failure is not None:
        return Finding(subject, "broken", str(feed.failure))
    told, traits = feed.told_spans(), feed.traits
    forecast = f"forecast to {(told[-1].end_seconds - time.time()) / 3600:.0f} h ahead"
    if feed.forecast_failure is not None:
        forecast = f"no forecast of its own ({feed.forecast_failure})"
    elif not traits.horizon_seconds:
        forecast = "no forecast of its own"
    steps = f"steps of {traits.resolution_seconds / 60:g} min"
    what = f"{traits.signal}, {traits.basis}, {steps}, {len(feed.history)} h of the past, {forecast}"
    return Finding(subject, "ok", f"answers for {feed.grid_zone}: {what}; {traits.licence}")


def _in_use(now: Intensity, pue: float, zone: str) -> Finding:
    what = f"{now.provider}, {now.basis}" if now.signal == "average" else f"{now.provider}, {now.signal}, {now.basis}"
    text = f"{now.grams_per_kilowatt_hour:g} g/kWh for {now.grid_zone} ({what}), PUE {pue:g}"
    if now.fallback_level == 3:
        cure = "no country's is known" if zone else "set intensity.grid_zone"
        return Finding("intensity", "estimated", f"{text}: the world's mean; {cure}")
    if now.fallback_level == 2:
        return Finding("intensity", "estimated", f"{text}: a yearly mean")
    return Finding("intensity", "estimated" if now.estimated else "ok", text)


def _check_state(config: Config, roots: Roots) -> Finding:
    path = config.node.state_file
    if path is None:
        return Finding("state", "absent", "node.state_file is null: a restart begins every job at 0")
    try:
        host = this_host(roots)
    except ConfigurationError as error:
        return Finding("state", "broken", str(error))
    try:
        StateFile(path, host)
        probe = StateFile(path.with_name(path.name + ".check"), host)
        probe.save({})
        probe.path.unlink()
    except ConfigurationError as error:
        return Finding("state", "broken", str(error))
    except OSError as error:
        cure = "make the folder writable, or set node.state_file"
        return Finding("state", "broken", f"{path}: {error.strerror}; {cure}")
    return Finding("state", "ok", f"{path} can be written")


def _check_address(listen_address: str) -> Finding:
    try:
        listen(listen_address).close()
    except ConfigurationError as error:
        if _is_ours(listen_address):
            return Finding("web", "ok", f"a carbon-exporter is serving on {listen_address}")
        return Finding("web", "broken", str(error))
    return Finding("web", "ok", f"{listen_address} is free to listen on")


def _is_ours(listen_address: str) -> bool:
    """Whether what listens there already is a carbon-exporter: by its health page, or by its name where it asks who."""
    address = f"127.0.0.1{listen_address}" if listen_address.startswith(":") else listen_address
    for scheme in ("http", "https"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # only its name is asked for: no certificate need be trusted for that
                answer = requests.get(f"{scheme}://{address}/-/healthy", timeout=2, verify=False)  # noqa: S501
        except requests.RequestException:
            continue
        if "carbon-exporter" in answer.text + answer.headers.get("WWW-Authenticate", ""):
            return True
    return False
