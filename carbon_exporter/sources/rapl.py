"""Joules out of RAPL, the energy counters that Intel and AMD processors keep themselves.

    carbon_rapl_energy_joules_total{package="0",domain="package"} 81234.567891
    carbon_rapl_energy_joules_total{package="0",domain="dram"} 9876.543210

Linux shows each counter as a zone, a directory below SYSFS/class/powercap with the files `name`, `energy_uj` and
`max_energy_range_uj`, all in microjoules (kernel: power/powercap/powercap.rst, ABI/testing/sysfs-class-powercap).
Only control type intel-rapl is read: intel-rapl-mmio shows the same joules once more.
"""

import errno
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from carbon_exporter.counter import Counter
from carbon_exporter.model import Component, DeviceReading, Json, Roots, SourceReading
from carbon_exporter.procfs import read_bytes
from carbon_exporter.settings import Settings as BaseSettings

ABSENT: Final = (
    "no intel-rapl zones: a virtual machine, or a kernel module that is not loaded (modprobe intel_rapl_msr); "
    "the CPU's energy is estimated instead"
)
Domain = Literal["package", "dram", "core", "uncore", "psys"]

_MICROJOULES_PER_JOULE: Final = 1e6
# Core and uncore lie inside package, and package inside psys: sharing them would count joules twice.
_COMPONENTS: Final[Mapping[Domain, Component]] = {"package": "cpu", "dram": "dram"}
_DIRECTORY: Final = re.compile(r"intel-rapl:\d+(:\d+)?", re.ASCII)
_PACKAGE: Final = re.compile(r"package-(\d+)(?:-die-(\d+))?", re.ASCII)
# The platform zone of the first package goes without a number.
_PSYS: Final = re.compile(r"psys(?:-(\d+))?", re.ASCII)
_INSIDE_PACKAGE: Final[Mapping[str, Domain]] = {"dram": "dram", "core": "core", "uncore": "uncore"}
_MOST_DIGITS: Final = 20  # of an unsigned 64-bit number
_CURES: Final[Mapping[int, str]] = {
    errno.EACCES: "run the node agent as root (it may drop all capabilities)",
    errno.ENOENT: "in a container, mount the host's /sys at a path of its own: runtimes mask powercap below /sys",
}


class Settings(BaseSettings):
    """Settings of `sources.rapl`."""

    domains: tuple[Domain, ...] = ("package", "dram")
    fastest_watts: float = Field(default=10_000, gt=0, allow_inf_nan=False)
    """A zone whose counter rises faster was reset or slipped: that interval is left out."""


class _ZoneError(Exception):
    """A zone, or one of its files, cannot be used; the message is one line with the path and the cure."""


@dataclass(frozen=True, slots=True)
class _Zone:
    """A zone by what it measures. `die` is "" where the package is not split into dies."""

    directory: Path
    domain: Domain
    package: str
    die: str

    @property
    def device(self) -> str:
        die = f"-die-{self.die}" if self.die else ""
        return f"{self.domain}-{self.package}{die}"


def open_source(settings: Settings, roots: Roots) -> "Rapl":
    """The RAPL zones below `roots.sysfs`; nothing is read yet."""
    return Rapl(settings, roots.sysfs / "class" / "powercap")


class Rapl:
    """All selected zones of one host: a model.Source.

    A counter outlives its zone: one that is unreadable or gone for a while loses no joules, unless it wraps twice
    meanwhile, which nobody can see (at 500 W a usual range of 262 kJ lasts nearly nine minutes). Joules are added up
    in whole microjoules, which a float holds exactly up to 2**53 (nine gigajoules).
    """

    def __init__(self, settings: Settings, powercap: Path) -> None:
        self._settings = settings
        self._powercap = powercap
        self._counters: dict[str, Counter] = {}
        self._present = False

    def read(self, now_seconds: float) -> SourceReading:
        """Every zone of the selected domains; the energy of each starts at 0 with its first reading."""
        failures: list[str] = []
        zones = self._zones(failures)
        devices = []
        for device, zone in zones.items():
            counter = self._counters.setdefault(device, Counter())
            try:
                self._advance(counter, zone, now_seconds)
            except _ZoneError as error:
                failures.append(str(error))
            else:
                devices.append(_reading(zone, counter))
        failures += [
            f"{device}: no readable zone of this name under {self._powercap} any more; its joules continue with the "
            "zone (is the kernel module intel_rapl_msr loaded?)"
            for device in self._counters
            if device not in zones
        ]
        return SourceReading(tuple(devices), tuple(failures), present=self._present or bool(failures))

    def state(self) -> Json:
        """The counter of every zone ever seen, by device, in microjoules."""
        return {"zones": {device: counter.to_json() for device, counter in self._counters.items()}}

    def restore(self, state: Json) -> None:
        """Take up the counters; those of domains that are no longer selected, and what is no counter, are left."""
        zones = state.get("zones") if isinstance(state, dict) else None
        if not isinstance(zones, dict):
            return
        for device, saved in zones.items():
            try:
                counter = Counter.from_json(saved)
            except (KeyError, TypeError, ValueError, OverflowError):
                continue
            numbers = (counter.raw or 0.0, counter.total, counter.seconds)
            sound = all(math.isfinite(number) and number >= 0 for number in numbers)
            if sound and str(device).split("-")[0] in self._settings.domains:
                self._counters[device] = counter

    def close(self) -> None:
        """Nothing is held open."""

    def describe(self) -> str:
        """Where the counters stand."""
        return f"counters under {self._powercap}"

    def _zones(self, failures: list[str]) -> dict[str, _Zone]:
        zones: dict[str, _Zone] = {}
        packages: dict[str, _Zone] = {}
        for directory in self._directories(failures):
            self._present = True
            try:
                zone = _identify(directory, packages)
            except _ZoneError as error:
                failures.append(str(error))
                continue
            if zone.domain == "package":
                packages[directory.name] = zone
            if zone.domain not in self._settings.domains:
                continue
            first = zones.setdefault(zone.device, zone)
            if first is not zone:
                failures.append(f"{directory}: calls itself {zone.device} as {first.directory} does; only that counts")
        return zones

    def _directories(self, failures: list[str]) -> list[Path]:
        """The directory of every zone, parents first. Sub-zones lie beside their parents, inside them, or both."""
        names = _zone_names(self._powercap, failures)
        found: dict[str, Path] = {}
        for name in names:
            inside = self._powercap / name
            found.update((inner, inside / inner) for inner in _zone_names(inside, failures))
        found.update((name, self._powercap / name) for name in names)
        return [found[name] for name in sorted(found, key=_numbers)]

    def _advance(self, counter: Counter, zone: _Zone, now_seconds: float) -> None:
        path = zone.directory / "energy_uj"
        raw = _read_microjoules(path)
        try:
            wraps_at = _read_microjoules(zone.directory / "max_energy_range_uj") or None
        except _ZoneError:
            wraps_at = None  # needed, and missed, only when the counter goes back
        if wraps_at is not None and raw > wraps_at:
            raise _ZoneError(f"{path}: {raw} is more than its max_energy_range_uj, {wraps_at}; not counted")
        last = counter.raw
        fastest_watts = self._settings.fastest_watts
        fastest = fastest_watts * _MICROJOULES_PER_JOULE
        if counter.advance(raw, now_seconds, wraps_at=wraps_at, fastest=fastest) or last is None:
            return
        if raw < last and (wraps_at is None or last > wraps_at):
            why = "and max_energy_range_uj does not tell where it wraps"
        else:
            why = f"faster than sources.rapl.fastest_watts allows ({fastest_watts:g}): a reset, or raise that key"
        raise _ZoneError(f"{path}: went from {last:.0f} to {raw} {why}; the interval is not counted")


def _reading(zone: _Zone, counter: Counter) -> DeviceReading:
    return DeviceReading(
        device=zone.device,
        component=_COMPONENTS.get(zone.domain),
        energy_joules=counter.total / _MICROJOULES_PER_JOULE,
        method="rapl",
        labels={"package": zone.package, "die": zone.die, "domain": zone.domain},
    )


def _zone_names(directory: Path, failures: list[str]) -> list[str]:
    try:
        return [path.name for path in directory.iterdir() if _DIRECTORY.fullmatch(path.name)]
    except (FileNotFoundError, NotADirectoryError):
        pass  # no RAPL here, or a zone that is just going: reading its name says so
    except OSError as error:
        failures.append(_explain(error, directory))
    return []


def _numbers(directory_name: str) -> tuple[int, ...]:
    return tuple(int(number) for number in directory_name.split(":")[1:])


def _identify(directory: Path, packages: Mapping[str, _Zone]) -> _Zone:
    path = directory / "name"
    name = _read(path).decode("ascii", "replace")
    if match := _PACKAGE.fullmatch(name):
        return _Zone(directory, "package", match[1], match[2] or "")
    if match := _PSYS.fullmatch(name):
        return _Zone(directory, "psys", match[1] or "0", "")
    domain = _INSIDE_PACKAGE.get(name)
    if domain is None:
        known = "package-N, package-N-die-M, dram, core, uncore, psys"
        raise _ZoneError(f"{path}: {name[:40]!r} is no RAPL domain ({known}); the zone is left out")
    package = packages.get(directory.name.rpartition(":")[0])
    if package is None:
        raise _ZoneError(f"{directory}: the package that this {domain} belongs to cannot be read; it is left out")
    return _Zone(directory, domain, package.package, package.die)


def _read_microjoules(path: Path) -> int:
    text = _read(path)
    if not text.isdigit() or len(text) > _MOST_DIGITS:
        raise _ZoneError(f"{path}: {text[:40].decode('ascii', 'replace')!r} is no number of microjoules; not counted")
    return int(text)


def _read(path: Path) -> bytes:
    try:
        return read_bytes(path).strip()
    except OSError as error:
        raise _ZoneError(_explain(error, path)) from error


def _explain(error: OSError, path: Path | str) -> str:
    cure = _CURES.get(error.errno or 0, "the next reading tries again")
    return f"{path}: {error.strerror or error}; {cure}"
