"""Joules of the CPU where it has no counter: an estimate out of its use and its thermal design power (TDP).

    carbon_estimated_energy_joules_total{component="cpu"} 20715.03

Virtual machines see no RAPL. Here each second in which a logical CPU was busy (kernel: PROC/stat, proc(5)) costs its
part of the processor's TDP, the maker's figure for sustained full load, so a virtual machine with 4 of a processor's
48 threads gets their part and no more. Idle power is not in it. Nothing is measured: it may be off by a factor of two.
"""

import csv
import importlib.resources
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import Field

from carbon_exporter.model import DeviceReading, Json, Roots, SourceReading
from carbon_exporter.procfs import read_bytes, read_host_cpu
from carbon_exporter.settings import Settings as BaseSettings

STANDS_IN_FOR: Final = "rapl"
ABSENT: Final = "no /proc/stat: in a container, mount the host's /proc and set node.procfs"
DEFAULT_WATTS_PER_CPU: Final = 3.5
"""For a processor that the table does not know: near the middle of the table's servers, most of which have 2 to 6 W."""

# The sum over CPUs is not read at one instant and may step back by a few ticks; more than this is a new start.
_SLIP_SECONDS: Final = 1.0
_MARKS: Final = re.compile(r"\((?:r|tm)\)")
_AFTERWORDS: Final = re.compile(r" (?:@|with|w/) .*")
_FILLERS: Final = re.compile(r"cpu|processor|\S+-cores?|\d+th|gen")


class Settings(BaseSettings):
    """Settings of `sources.cpu_estimate`."""

    tdp_watts: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """TDP of all processors of this host together; for a virtual machine, of its part. None: from the table."""


@dataclass(frozen=True, slots=True)
class Tdp:
    """The thermal design power of one processor model, and its hardware threads."""

    model: str
    watts: float
    threads: int


@dataclass(frozen=True, slots=True)
class Power:
    """What a busy CPU costs, and `origin`: where the figure comes from, in words.

    Either `watts_per_cpu` or `watts_per_host` is given.
    """

    origin: str
    watts_per_cpu: float | None = None
    watts_per_host: float = 0.0

    def of_one(self, cpus: int) -> float:
        """Watts of one busy logical CPU on a host that has `cpus` of them."""
        return self.watts_per_host / cpus if self.watts_per_cpu is None else self.watts_per_cpu


def open_source(settings: Settings, roots: Roots) -> "CpuEstimate":
    """The estimate for the host behind `roots.procfs`; reads its cpuinfo, and no failure of that is fatal."""
    return CpuEstimate(_power(settings, roots.procfs), roots.procfs)


class CpuEstimate:
    """The host's CPUs as one device: a model.Source.

    Attributes:
        power: watts of a busy CPU; `power.origin` says where they come from.
    """

    def __init__(self, power: Power, procfs: Path) -> None:
        self.power = power
        self._procfs = procfs
        self._busy_seconds = 0.0
        self._joules = 0.0
        self._present = False

    def read(self, now_seconds: float) -> SourceReading:  # noqa: ARG002 - the kernel's CPU time is the clock here
        """One device, "cpu-estimate", with the energy since boot; absent only where PROC/stat never was."""
        try:
            host = read_host_cpu(self._procfs)
        except (OSError, ValueError) as error:
            if isinstance(error, FileNotFoundError) and not self._present:
                return SourceReading(present=False)
            path = self._procfs / "stat"
            return SourceReading(
                failures=(f"cpu-estimate: {error}; is {path} the host's? The next reading tries again",)
            )
        self._present = True
        self._advance(host.busy_seconds, self.power.of_one(host.cpus))
        device = DeviceReading(
            device="cpu-estimate",
            component="cpu",
            energy_joules=self._joules,
            method="estimate",
            labels={"component": "cpu"},
            includes_idle=False,
        )
        return SourceReading((device,))

    def _advance(self, busy_seconds: float, watts: float) -> None:
        rise = busy_seconds - self._busy_seconds
        if -_SLIP_SECONDS <= rise < 0:
            return
        self._busy_seconds = busy_seconds
        self._joules += max(0.0, rise) * watts

    def state(self) -> Json:
        """CPU time seen and joules so far: other watts after a restart change only what follows."""
        return {"busy_seconds": self._busy_seconds, "joules": self._joules}

    def restore(self, state: Json) -> None:
        """Continue from the saved joules; what is no state is left alone."""
        try:
            busy_seconds, joules = float(state["busy_seconds"]), float(state["joules"])
        except (KeyError, TypeError, ValueError, OverflowError):
            return
        if all(math.isfinite(number) and number >= 0 for number in (busy_seconds, joules)):
            self._busy_seconds, self._joules = busy_seconds, joules

    def close(self) -> None:
        """Nothing is held open."""

    def describe(self) -> str:
        """Where the watts of a busy CPU come from."""
        return self.power.origin


def tdp_table() -> dict[str, Tdp]:
    """cpu_tdp.csv by the model's name in its plain form, see `plain_name`."""
    text = importlib.resources.files("carbon_exporter.sources").joinpath("cpu_tdp.csv").read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    rows = [Tdp(row["model"], float(row["tdp_watts"]), int(row["threads"])) for row in csv.DictReader(lines)]
    return {plain_name(row.model): row for row in rows}


def plain_name(model_name: str) -> str:
    """A "model name" of /proc/cpuinfo without trade marks, clock rate and filling words, in small letters.

    "Intel(R) Xeon(R) Gold 6248 CPU @ 2.50GHz" becomes "intel xeon gold 6248".
    """
    name = _AFTERWORDS.sub("", _MARKS.sub(" ", model_name.lower()))
    return " ".join(word for word in name.split() if not _FILLERS.fullmatch(word))


def _power(settings: Settings, procfs: Path) -> Power:
    if settings.tdp_watts is not None:
        origin = f"configured: sources.cpu_estimate.tdp_watts, {settings.tdp_watts:g} W for the whole host"
        return Power(origin, watts_per_host=settings.tdp_watts)
    name = _model_name(procfs)
    entry = tdp_table().get(plain_name(name))
    if entry is not None:
        origin = f"table: {entry.model}, {entry.watts:g} W, {entry.threads} threads"
        return Power(origin, watts_per_cpu=entry.watts / entry.threads)
    why = f"model '{name}' is not in the table" if name else f"{procfs / 'cpuinfo'} names no model"
    origin = f"default: {DEFAULT_WATTS_PER_CPU} W per logical CPU, {why}; set sources.cpu_estimate.tdp_watts"
    return Power(origin, watts_per_cpu=DEFAULT_WATTS_PER_CPU)


def _model_name(procfs: Path) -> str:
    """The first "model name" of cpuinfo; "" where there is none, as on ARM."""
    try:
        text = read_bytes(procfs / "cpuinfo").decode("utf-8", "replace")
    except OSError:
        return ""
    match = re.search(r"^model name\s*:(.*)$", text, re.MULTILINE)
    return " ".join(match[1].split()) if match else ""
