"""What a job will have used at its planned end, from its own epochs and ended runs. Pure: the same every time.

Total = spent at the last boundary + remaining epochs x level x learnt correction; time likewise.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias

from carbon_exporter.forecast.bands import Band
from carbon_exporter.forecast.conformal import BUILTIN
from carbon_exporter.forecast.group_calibration import TOO_FAR, GroupCalibration, Quantity
from carbon_exporter.forecast.level import (
    Boundary,
    Level,
    after_last_change,
    joule_steps,
    level,
    second_steps,
    unit_of,
    whole_units,
)
from carbon_exporter.forecast.start import start_of
from carbon_exporter.forecast.stopping import Expected, Survival, expected

__all__ = ["BUILTIN", "QUANTILES", "Boundary", "Forecast", "Quantiles", "Warn", "forecast", "measured"]

QUANTILES: Final = ("0.05", "0.5", "0.95")
_FEWEST_UNITS: Final = 0.1
_WIDEST: Final = 5.0
_SAME: Final = 1e-9

Warn: TypeAlias = Literal["no_epoch_seen", "one_epoch_seen", "kind_never_seen", "change_not_seen", "unlike_ended_runs"]
"""Why a forecast deserves less trust: less than one epoch, or than two, seen; no run of its group has ended; GPUs or
power limit changed, and no epoch has been seen since; its epochs, or how it went on after
the first, are unlike those of all ended runs."""


class Quantiles(NamedTuple):
    """The 5 %, 50 % and 95 % quantiles of one quantity: a 90 % interval and its middle."""

    low: float
    median: float
    high: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """A job at its planned end.

    Attributes:
        joules: in total, from its start.
        end_timestamp_seconds: Unix time.
        epoch_joules, epoch_seconds: what each further epoch takes, correction included.
        epochs_observed: epochs that this rests on.
        basis: what the interval rests on most: "group", "fleet", "builtin"; "measured", the job has ended.
        correction: ln of what was learnt to multiply the level of the energy with.
        calibration_runs: ended runs that the interval rests on.
        warnings: why it deserves less trust.
        expected_joules, expected_end_timestamp_seconds: with early stopping counted in; None where the group has no
            record of it, so that the planned end is the expected one.
    """

    joules: Quantiles
    end_timestamp_seconds: Quantiles
    epoch_joules: float
    epochs_observed: float
    basis: str
    epoch_seconds: float = 0.0
    correction: float = 0.0
    calibration_runs: int = 0
    warnings: tuple[Warn, ...] = ()
    expected_joules: Expected | None = None
    expected_end_timestamp_seconds: Expected | None = None


@dataclass(frozen=True, slots=True)
class _Course:
    """How one quantity, joules or seconds, goes on: `reached` after `epochs`, then `rate` an epoch, off by `band`."""

    reached: float
    epochs: float
    rate: float
    band: Band

    def quantiles(self, epochs_planned: float, floor: float) -> Quantiles:
        remaining = max(0.0, epochs_planned - self.epochs) * self.rate
        ends = (self.reached + remaining * math.exp(max(-_WIDEST, min(end, _WIDEST))) for end in self.band[:3])
        return Quantiles(*(max(end, floor) for end in ends))

    def expected(self, survival: Survival | None, epochs_planned: float, floor: float) -> Expected | None:
        if survival is None:
            return None
        found = expected(
            survival,
            reached=self.reached,
            epochs_done=self.epochs,
            epochs_planned=epochs_planned,
            rate=self.rate,
            band=self.band,
        )
        return Expected(*(max(value, floor) for value in found))


def forecast(
    boundaries: Sequence[Boundary],
    epochs_planned: float,
    joules_now: float,
    now_seconds: float,
    calibration: GroupCalibration = BUILTIN,
    *,
    change_seconds: Sequence[float] = (),
    gpus: float | None = None,
) -> Forecast | None:
    """The forecast of a running job, or None where neither its epochs nor its group say enough.

    Args:
        boundaries: in order, epochs rising.
        epochs_planned: greater than 0.
        joules_now: measured so far; no quantile lies below it.
        now_seconds: Unix time; no end lies before it.
        calibration: what ended runs say of the job's group.
        change_seconds: Unix times at which its number of GPUs or their power limit changed.
        gpus: that it holds; None where nobody knows. Needed only before its first epoch.
    """
    unit = unit_of(epochs_planned)
    observed = boundaries[-1].epochs - boundaries[0].epochs if len(boundaries) > 1 else 0.0
    courses = _from_group(boundaries, now_seconds, calibration, gpus) if observed < unit * (1 - _SAME) else None
    warnings: list[Warn] = ["no_epoch_seen"] if courses is not None else []
    if courses is None:
        if observed < _FEWEST_UNITS * unit * (1 - _SAME):
            return None
        courses, warnings = _from_epochs(boundaries, epochs_planned, calibration, change_seconds)
    joules, seconds = courses
    if joules.rate <= 0:
        return None
    if not calibration.group_runs:
        warnings.append("kind_never_seen")
    return Forecast(
        joules=joules.quantiles(epochs_planned, joules_now),
        end_timestamp_seconds=seconds.quantiles(epochs_planned, now_seconds),
        epoch_joules=joules.rate * math.exp(joules.band.median),
        epochs_observed=observed,
        basis=joules.band.basis,
        epoch_seconds=seconds.rate * math.exp(seconds.band.median),
        correction=joules.band.median,
        calibration_runs=calibration.runs_behind(joules.band.basis),
        warnings=tuple(warnings),
        expected_joules=joules.expected(calibration.survival, epochs_planned, joules_now),
        expected_end_timestamp_seconds=seconds.expected(calibration.survival, epochs_planned, now_seconds),
    )


def measured(boundaries: Sequence[Boundary], joules: float, end_seconds: float, epochs_completed: float) -> Forecast:
    """The "forecast" of a job that has ended: what it used, without an interval."""
    begun = next((one for one in boundaries[:1] if one.epochs < epochs_completed), Boundary(0.0, end_seconds, 0.0))
    epochs = epochs_completed - begun.epochs
    return Forecast(
        joules=Quantiles(joules, joules, joules),
        end_timestamp_seconds=Quantiles(end_seconds, end_seconds, end_seconds),
        epoch_joules=(joules - begun.joules) / max(epochs, 1.0),
        epochs_observed=epochs,
        basis="measured",
    )


def _from_group(
    boundaries: Sequence[Boundary], now_seconds: float, calibration: GroupCalibration, gpus: float | None
) -> tuple[_Course, _Course] | None:
    """Before the first epoch is done: as the runs of the group went; None where none tells."""
    start = start_of(calibration.runs, gpus)
    if start is None:
        return None
    began = boundaries[0] if boundaries else Boundary(0.0, now_seconds, 0.0)
    return (
        _Course(began.joules, began.epochs, start.epoch_joules, start.joules),
        _Course(began.seconds, began.epochs, start.epoch_seconds, start.seconds),
    )


def _from_epochs(
    boundaries: Sequence[Boundary],
    epochs_planned: float,
    calibration: GroupCalibration,
    change_seconds: Sequence[float],
) -> tuple[tuple[_Course, _Course], list[Warn]]:
    unit = unit_of(epochs_planned)
    units = whole_units(boundaries, unit)
    begin = after_last_change(units, change_seconds)
    kept, changed = units[begin:], begin > 0
    # After a change nothing is left out, so that its first unit counts as the second of a run.
    seen = (kept[-1].epochs - kept[0].epochs) / unit + changed
    far = _is_far(kept, calibration)
    joules, joules_unlike = _course("joules", kept, seen, epochs_planned, calibration, changed=changed, far=far)
    seconds, seconds_unlike = _course("seconds", kept, seen, epochs_planned, calibration, changed=changed, far=far)
    warned: dict[Warn, bool] = {
        "one_epoch_seen": seen < 2 * (1 - _SAME),
        "change_not_seen": not changed and any(units[0].seconds < moment for moment in change_seconds),
        "unlike_ended_runs": joules_unlike or seconds_unlike,
    }
    return (joules, seconds), [warning for warning, holds in warned.items() if holds]


def _course(
    quantity: Quantity,
    units: Sequence[Boundary],
    seen: float,
    epochs_planned: float,
    calibration: GroupCalibration,
    *,
    changed: bool,
    far: bool,
) -> tuple[_Course, bool]:
    """How a quantity goes on after `seen` units, and whether it has gone unlike all ended runs so far."""
    last = units[-1]
    steps = joule_steps(units) if quantity == "joules" else second_steps(units)
    found = level(steps, warm=changed)
    set_aside = changed or len(steps) > 1
    band = calibration.band(quantity, seen, set_aside=set_aside)
    comparable = calibration.fleet_runs > 0 and set_aside and not changed
    unlike = far or (comparable and _is_unlike(steps[0].rate, found.rate, calibration.bands[quantity][0]))
    if unlike:
        band = band.hull(BUILTIN.band(quantity, seen, set_aside=set_aside))
    reached = last.joules if quantity == "joules" else last.seconds
    return _Course(reached, last.epochs, found.rate, _at_least_own(band, found, epochs_planned - last.epochs)), unlike


def _is_far(units: Sequence[Boundary], calibration: GroupCalibration) -> bool:
    """Whether its epochs are shorter or longer, or their power is lower or higher, by far, than in any ended run."""
    seconds, joules = level(second_steps(units)).rate, level(joule_steps(units)).rate
    return calibration.usual is not None and seconds > 0 and calibration.usual.is_far_from(seconds, joules)


def _is_unlike(first: float, rate: float, after_first: Band) -> bool:
    """Whether what followed the first epoch is twice as far from it as ended runs would have it."""
    return min(first, rate) > 0 and not after_first.stretched(TOO_FAR).holds(math.log(rate / first))


def _at_least_own(band: Band, found: Level, remaining: float) -> Band:
    """`band`; where the job's own steps scatter twice as far as that, Student's prediction interval from them.

    For the mean of m further steps after n, on logarithms: t s sqrt(1/n + 1/m). Under 3 steps say nothing.
    """
    rates = [math.log(step.rate) for step in found.steps if step.rate > 0]
    if len(rates) < 3 or remaining <= 0:
        return band
    mean_step = statistics.fmean(step.epochs for step in found.steps)
    mean = statistics.fmean(rates)
    # statistics.stdev counts in fractions: exact, and too slow for thousands of jobs.
    deviation = math.sqrt(sum((rate - mean) ** 2 for rate in rates) / (len(rates) - 1))
    own = _student_95(len(rates) - 1) * deviation * math.sqrt(1 / len(rates) + mean_step / remaining)
    if own <= TOO_FAR * max(band.high - band.median, band.median - band.low):
        return band
    return band.hull(Band(band.median - own, band.median, band.median + own))


def _student_95(degrees: int) -> float:
    """The 95 % quantile of Student's t, by Cornish and Fisher: 6 % low at 2 degrees, within 1 % from 4 on."""
    z = 1.6449
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
