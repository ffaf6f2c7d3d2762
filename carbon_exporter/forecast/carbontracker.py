"""A run from the two logs that Carbontracker wrote of it, versions 1 and 2. Pure.

NAME_carbontracker.log tells the components, and of each epoch the duration and the mean power; it is what the energy
comes from. NAME_carbontracker_output.log tells the epochs planned, and CO2eq and kWh with the PUE in them.
Format: carbontracker/loggerutil.py and tracker.py of github.com/saintslab/carbontracker, 1.2.5 and 2.4.7.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from typing import Final, NamedTuple

from carbon_exporter.forecast.energy import Boundary
from carbon_exporter.forecast.record import EndedRun, Ending
from carbon_exporter.forecast.summary import ended_run, ending_of
from carbon_exporter.model import JOULES_PER_KILOWATT_HOUR, ConfigurationError

_RECORD: Final = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) - (.*)")
_VERSION: Final = re.compile(r"carbontracker version ")
_PUE: Final = re.compile(r"PUE coefficient of (\d+(?:\.\d+)?)")
_COMPONENT: Final = re.compile(r"(\w+) with device\(s\) (.+?)\.(?= \w+ with device\(s\)|\s*$)")
_EPOCH: Final = re.compile(r"Epoch (\d+):$")
_DURATION: Final = re.compile(r"Duration: (.*)")
_CLOCK: Final = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")
_POWER: Final = re.compile(r"Average power usage \(W\) for (\w+): (.*)")
_INTERRUPTED: Final = re.compile(r"Training was interrupted before all (\d+) epochs")
_PREDICTED: Final = re.compile(r"Predicted consumption for (\d+) epoch")
_ACTUAL: Final = re.compile(r"Actual consumption\b.*?Energy:\s*(\S+)\s+kWh\s+CO2eq:\s*(\S+)\s+g")


_MOST_EPOCHS: Final = 1e9
_MOST_SECONDS: Final = 1e9
_MOST_WATTS: Final = 1e12


class _Record(NamedTuple):
    """What was logged at one moment; lines that it was wrapped into are joined again."""

    line: int
    time: str
    text: str


@dataclass(slots=True)
class _Epoch:
    """One epoch; watts of each component, None without a sample."""

    line: int
    time: str
    seconds: float | None = None
    watts: dict[str, float | None] = field(default_factory=dict)


@dataclass(slots=True)
class _Log:
    """What the standard log says; devices are a number for each component."""

    devices: dict[str, int] = field(default_factory=dict)
    epochs: list[_Epoch] = field(default_factory=list)
    pue: float | None = None
    interrupted_before: float | None = None


def parse_log_pair(
    standard: Sequence[str],
    output: Sequence[str],
    *,
    source: str,
    name: str,
    group: str,
    zone: tzinfo | None = None,
) -> EndedRun:
    """The run that the lines of a standard log and of its output log tell of.

    Version 1 logs a number for each device, version 2 their mean. An epoch without a sample counts at the power of the
    next that has one, as Carbontracker counts it. A run that neither did all its epochs nor was stopped is lost.

    Args:
        standard: the lines of NAME_carbontracker.log.
        output: the lines of NAME_carbontracker_output.log.
        source: where the first are from, for messages.
        name: of the run.
        group: of the run.
        zone: of the logs' times; None for this machine's.

    Raises:
        ConfigurationError: one line with `source`, the number of the line where there is one, and what is wrong.
    """
    try:
        log = _read_standard(_records(standard))
        _complete(log)
        told = " ".join(record.text for record in _records(output))
        return _ended(log, told, name, group, zone)
    except ValueError as error:
        raise ConfigurationError(f"{source}{error}") from None


def _records(lines: Iterable[str]) -> list[_Record]:
    records: list[_Record] = []
    for number, line in enumerate(lines, start=1):
        begins = _RECORD.match(line)
        if begins:
            records.append(_Record(number, *begins.groups()))
        elif records:
            records[-1] = records[-1]._replace(text=f"{records[-1].text} {line.strip()}")
        elif line.strip():
            raise ValueError(f":{number}: begins with no time, as a log of Carbontracker would")
    return records


def _read_standard(records: Sequence[_Record]) -> _Log:
    log = _Log()
    for number, record in enumerate(records):
        if number and _VERSION.match(record.text):
            break  # version 1 logs the next run of the same process into this file too
        try:
            _take(record, log)
        except ValueError as error:
            raise ValueError(f":{record.line}: {error}") from None
    return log


def _take(record: _Record, log: _Log) -> None:
    text = record.text
    if "components were found:" in text:
        log.devices = {found[1].lower(): len(found[2].split(",")) for found in _COMPONENT.finditer(text)}
    elif match := _PUE.search(text):
        log.pue = float(match[1])
    elif match := _EPOCH.match(text):
        if float(match[1]) != len(log.epochs) + 1:
            raise ValueError(f"epoch {match[1][:50]} stands where epoch {len(log.epochs) + 1} belongs")
        log.epochs.append(_Epoch(record.line, record.time))
    elif match := _DURATION.match(text):
        _current(log).seconds = _seconds(match[1])
    elif match := _POWER.match(text):
        component = match[1].lower()
        _current(log).watts[component] = _watts(match[2], log.devices.get(component))
    elif match := _INTERRUPTED.match(text):
        log.interrupted_before = float(match[1])


def _current(log: _Log) -> _Epoch:
    if not log.epochs:
        raise ValueError("belongs to no epoch")
    return log.epochs[-1]


def _seconds(text: str) -> float:
    clock = _CLOCK.fullmatch(text.strip())
    seconds = math.inf if clock is None else float(clock[1]) * 3600 + float(clock[2]) * 60 + float(clock[3])
    if seconds > _MOST_SECONDS:
        raise ValueError(f"{text[:50]!r} is no duration such as 0:01:02.50")
    return seconds


def _watts(text: str, devices: int | None) -> float | None:
    """Power of all devices of a component; None without a sample."""
    if devices is None:
        raise ValueError("is of a component that was not found before")
    if text.strip() == "None":
        return None
    try:
        watts = [float(number) for number in text.strip().strip("[]").split()]
    except ValueError:
        watts = []
    if not watts or not all(0 <= value <= _MOST_WATTS or math.isnan(value) for value in watts):
        raise ValueError(f"{text[:50]!r} is no power in watts")
    total = math.fsum(watts) if text.startswith("[") else watts[0] * devices
    return None if math.isnan(total) else total


def _complete(log: _Log) -> None:
    """Drop a last epoch that a kill left half logged, and fill in the power of epochs without a sample."""
    incomplete = [epoch for epoch in log.epochs if epoch.seconds is None or set(epoch.watts) != set(log.devices)]
    if incomplete and incomplete[0] is log.epochs[-1]:
        log.epochs.pop()
    elif incomplete:
        raise ValueError(f":{incomplete[0].line}: the epoch lacks its duration or the power of a component")
    if not log.epochs or not log.devices:
        raise ValueError(": holds no epoch" if log.devices else ": names no components")
    for component in log.devices:
        watts = [epoch.watts[component] for epoch in log.epochs]
        sampled = [value for value in watts if value is not None]
        if not sampled:
            raise ValueError(f": no epoch has a sample of the power of {component}")
        following = sampled[-1]
        for epoch in reversed(log.epochs):
            own = epoch.watts[component]
            following = following if own is None else own
            epoch.watts[component] = following


def _ended(log: _Log, told: str, name: str, group: str, zone: tzinfo | None) -> EndedRun:
    first, last = log.epochs[0], log.epochs[-1]
    boundaries = [Boundary(0.0, _unix(first.time, zone) - (first.seconds or 0.0), 0.0)]
    for epoch in log.epochs:
        before, seconds = boundaries[-1], epoch.seconds or 0.0
        joules = seconds * math.fsum(watts or 0.0 for watts in epoch.watts.values())
        boundaries.append(Boundary(before.epochs + 1, before.seconds + seconds, before.joules + joules))
    joules, planned = boundaries[-1].joules, _planned(log, told)
    run = ended_run(
        boundaries,
        training_job=name,
        group=group,
        ending=_ending(log, planned),
        ended_seconds=_unix(last.time, zone),
        epochs_planned=planned,
        joules=joules,
        grams=_grams(told, joules, log.pue),
        gpus=float(log.devices["gpu"]) if "gpu" in log.devices else None,
    )
    if run is None:
        raise ValueError(": the power of all its epochs is 0 W: Carbontracker could not read it")
    return run


def _unix(time: str, zone: tzinfo | None) -> float:
    try:
        return datetime.strptime(time, "%Y-%m-%d %H:%M:%S").replace(tzinfo=zone).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(f": {time!r} is no time") from None


def _planned(log: _Log, told: str) -> float:
    done = len(log.epochs)
    predicted = _PREDICTED.search(told)
    if predicted:
        planned = float(predicted[1])
    elif log.interrupted_before is not None:
        planned = log.interrupted_before
    elif "Actual consumption" in told:
        planned = float(done)
    else:
        raise ValueError(": neither log says how many epochs were planned")
    if not done <= planned <= _MOST_EPOCHS:
        raise ValueError(f": {done} epochs were done, {planned:g} planned")
    return planned


def _ending(log: _Log, planned: float) -> Ending:
    done = len(log.epochs)
    return ending_of(done, planned) if done >= planned or log.interrupted_before is not None else "lost"


def _grams(told: str, joules: float, pue: float | None) -> float | None:
    """CO2eq of `joules`, PUE included, at the intensity that the actual consumption was counted with; None if unknown.

    Not the logged grams: version 2 counts the mean of the devices instead of their sum.
    """
    actual = _ACTUAL.search(told)
    if actual is None or pue is None:
        return None
    try:
        kilowatt_hours, grams = float(actual[1]), float(actual[2])
    except ValueError:
        return None
    if not (kilowatt_hours > 0 and grams >= 0 and math.isfinite(kilowatt_hours + grams)):
        return None
    counted = grams / kilowatt_hours * pue * joules / JOULES_PER_KILOWATT_HOUR
    return counted if math.isfinite(counted) else None
