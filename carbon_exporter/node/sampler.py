"""The loop of the node agent: read everything at one instant, share it, save it, publish it.

Against the custom that exporters keep no timers: RAPL wraps in minutes, attribution integrates over time, and two
scrapers must not define the interval. A scrape serves the finished page.
"""

import logging
import random
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

from carbon_exporter.model import (
    DeviceReading,
    Intensity,
    JobUse,
    Json,
    Resolver,
    ResolverReading,
    Source,
    SourceReading,
)
from carbon_exporter.node.accounts import amount
from carbon_exporter.node.collectors import Collectors, Record
from carbon_exporter.node.ledger import Ledger
from carbon_exporter.node.recount import Factors
from carbon_exporter.node.state import StateFile
from carbon_exporter.procfs import read_host_cpu
from carbon_exporter.timeline import Timeline

SCATTER: Final = 0.2
"""Of the interval, to either side."""
_CLOCK_SLIP: Final = 1.0
"""Seconds; the two clocks are read one after the other, and are corrected a little all the time."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tick:
    """What one turn of the loop leaves to be shown; `intensity` is None while it is not known."""

    devices: tuple[DeviceReading, ...]
    ledger: Ledger
    records: Mapping[str, Record]
    intensity: Intensity | None
    pue: float
    gap_seconds: float


class Sampler:
    """One node's loop.

    Args:
        sources, resolvers: by name, as plugins.py opens them: stand-ins after their originals, resolvers by rank.
        stand_ins: sources that are read only while another one's hardware is not there, with that one's name.
        timeline: the intensity over time as it is known at a Unix time; None: not yet. Asked once at every tick.
        ledger: takes the readings.
        state_file: where the accounts go at every tick, before they are published; None: nowhere.
        proc: the host's /proc.
        pue: power usage effectiveness.
        interval_seconds: from tick to tick.
        clock: seconds since boot (CLOCK_BOOTTIME), which process start times are in too.
        wall_clock: Unix time.
        collectors: takes the record of every collector.
        publish: gets every finished tick.
        random: numbers from 0 to 1.
    """

    def __init__(
        self,
        *,
        sources: Mapping[str, Source],
        resolvers: Mapping[str, Resolver],
        timeline: Callable[[float], Timeline | None],
        ledger: Ledger,
        state_file: StateFile | None,
        proc: Path,
        pue: float,
        interval_seconds: float,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        collectors: Collectors,
        publish: Callable[[Tick], None],
        stand_ins: Mapping[str, str] = MappingProxyType({}),
        random: Callable[[], float] = random.random,
    ) -> None:
        self._sources = dict(sources)
        self._stand_ins = dict(stand_ins)
        self._resolvers = dict(resolvers)
        self._timeline = timeline
        self._ledger = ledger
        self._state_file = state_file
        self._proc = proc
        self._pue = pue
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._wall_clock = wall_clock
        self._collectors = collectors
        self._publish = publish
        self._random = random
        self._claims: dict[str, frozenset[str]] = {}
        self._last_tick: float | None = None
        self._gap_seconds = 0.0
        self._factors: Factors | None = None

    def run(self, stop: threading.Event) -> None:
        """Tick until `stop` is set, and once more then. A turn that takes too long leaves out the ticks it missed.

        The ticks are scattered about their times, or a power that swings in step with them would be seen at its top
        only, where a GPU gives power and no energy.
        """
        due = self._clock()
        while not stop.is_set():
            self.tick()
            now = self._clock()
            due = max(due, now) + self._interval_seconds
            scatter = self._interval_seconds * SCATTER * (2 * self._random() - 1)
            stop.wait(max(0.0, due - now + scatter))
        self.tick()

    def tick(self) -> None:
        """One turn: read, share, save, publish. Whatever fails is recorded and the rest goes on."""
        now = self._clock()
        factors = self._factors_at(now, self._wall_clock())
        devices = self._read_devices(now)
        host = self._collectors.run("host_cpu", lambda: read_host_cpu(self._proc), lambda _: ())
        jobs = self._read_jobs(now, _gpu_pids(devices))
        if host is not None:
            share = partial(self._ledger.post, devices, jobs, host, now, factors)
            self._collectors.run("ledger", share, lambda failures: failures)
        self._note_gap(now)
        if self._state_file is not None:
            # Before publishing: what a scraper has seen must not be forgotten by a crash.
            state_file, state = self._state_file, self._state(now)
            self._collectors.run("state", lambda: state_file.save(state), lambda _: ())
        intensity = factors.timeline.intensity if factors.timeline is not None else None
        self._publish(Tick(devices, self._ledger, self._collectors.records, intensity, self._pue, self._gap_seconds))

    def _factors_at(self, now: float, unix_seconds: float) -> Factors:
        """What a joule costs; the same object until the timeline is another one or the wall clock was set."""
        timeline = self._collectors.run("intensity", lambda: self._timeline(unix_seconds), lambda _: ())
        offset, last = unix_seconds - now, self._factors
        if last is None or timeline is not last.timeline or abs(offset - last.unix_offset_seconds) > _CLOCK_SLIP:
            self._factors = last = Factors(timeline, self._pue, offset)
        return last

    def _read_devices(self, now: float) -> tuple[DeviceReading, ...]:
        devices: list[DeviceReading] = []
        for name, source in list(self._sources.items()):
            original = self._stand_ins.get(name)
            if original in self._collectors.records:
                # Its hardware is there now, be it well or not: an estimate beside it would count joules twice.
                self._retire(name)
                continue
            reading = self._collectors.run(name, partial(source.read, now), _failures)
            if reading is None:
                continue
            devices += reading.devices
            if not reading.present:
                self._collectors.forget(name)
        return tuple(devices)

    def _retire(self, name: str) -> None:
        """Close a stand-in for good."""
        _log.info("%s is there: %s stands in for it no longer", self._stand_ins[name], name)
        self._sources.pop(name).close()
        self._collectors.forget(name)

    def _read_jobs(self, now: float, gpu_pids: frozenset[int]) -> tuple[JobUse, ...]:
        """The pieces of jobs that all resolvers find; what one has found, those after it leave out."""
        jobs: list[JobUse] = []
        claimed: frozenset[str] = frozenset()
        for name, resolver in self._resolvers.items():
            reading = self._collectors.run(name, partial(resolver.read, now, gpu_pids, claimed), _failures)
            if reading is None:
                claimed |= self._claims.get(name, frozenset())  # what it counts is still its own
                continue
            jobs += reading.jobs
            self._claims[name] = reading.claimed.union(use.unit for use in reading.jobs)
            claimed |= self._claims[name]
            if not reading.present:
                self._collectors.forget(name)
        return tuple(jobs)

    def _note_gap(self, now: float) -> None:
        if self._last_tick is not None and now - self._last_tick > 2 * self._interval_seconds:
            self._gap_seconds += now - self._last_tick
        self._last_tick = now

    def _state(self, now: float) -> Json:
        return {
            "seconds": now,
            "gap_seconds": self._gap_seconds,
            "ledger": self._ledger.state(),
            "sources": {name: source.state() for name, source in self._sources.items()},
            "resolvers": {name: resolver.state() for name, resolver in self._resolvers.items()},
        }

    def restore(self) -> None:
        """Go on from the state file: after a restart in the same boot, the time between is one long interval.

        Raises:
            ConfigurationError: another process works with it.
        """
        if self._state_file is None:
            return
        self._state_file.lock()
        loaded = self._state_file.load()
        if loaded is None:
            return
        body, same_boot = loaded
        try:
            sources, resolvers = dict(body["sources"]), dict(body["resolvers"])
            seconds, gap_seconds = amount(body["seconds"]), amount(body["gap_seconds"])
            self._ledger.restore(body["ledger"], self._clock(), same_boot=same_boot)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            self._state_file.set_aside(f"lacks what this program needs ({error!r})")
            return
        if not same_boot:
            _log.info("the host was rebooted: jobs keep their totals, counting goes on from now")
            return
        for name in sources.keys() & self._sources.keys():
            self._sources[name].restore(sources[name])
        for name in resolvers.keys() & self._resolvers.keys():
            self._resolvers[name].restore(resolvers[name])
        self._last_tick, self._gap_seconds = seconds, gap_seconds

    def close(self) -> None:
        """Give back what the sources, the resolvers and the state file hold."""
        if self._state_file is not None:
            self._state_file.unlock()
        for source in self._sources.values():
            source.close()
        for resolver in self._resolvers.values():
            resolver.close()


def _gpu_pids(devices: Iterable[DeviceReading]) -> frozenset[int]:
    return frozenset().union(*(device.gpu.pids for device in devices if device.gpu is not None))


def _failures(reading: SourceReading | ResolverReading) -> Iterable[str]:
    return reading.failures
