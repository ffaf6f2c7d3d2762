"""The level: energy, or time, of each epoch still to come, as far as the epochs seen tell it. Pure.

The first epoch is counted but never averaged: compilation, caches and a cold GPU make it dearer or cheaper than all
that follow. Of more epochs, as many are left out at the beginning as make the mean of the rest most certain (MSER:
White, Simulation 69(6), 1997). Where every so many epochs one validates, only whole cycles are averaged.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

_FEWEST_STEPS_FOR_MSER: Final = 5
_LONGEST_PERIOD: Final = 20
_PERIOD_EXPLAINS: Final = 0.85
_SAME: Final = 1e-9


class Boundary(NamedTuple):
    """A moment whose progress and energy are both known; the first of a run is its start, at 0 epochs."""

    epochs: float
    seconds: float
    joules: float


class Step(NamedTuple):
    """From one boundary to a later one: the epochs done, and what each of them took (joules or seconds)."""

    epochs: float
    rate: float


@dataclass(frozen=True, slots=True)
class Level:
    """What an epoch takes.

    Attributes:
        rate: joules or seconds an epoch.
        steps: what it is the mean of; whole cycles, where a period was found.
        period: in steps; None where there is none.
    """

    rate: float
    steps: tuple[Step, ...]
    period: int | None = None


def unit_of(epochs_planned: float) -> float:
    """The unit of work, in epochs: one, or where the plan is two epochs or less, a tenth of the plan."""
    return 1.0 if epochs_planned > 2 else epochs_planned / 10


def whole_units(boundaries: Sequence[Boundary], unit: float) -> list[Boundary]:
    """The first boundary, those that end a unit or several, and the last.

    A remainder of less than half a unit joins the unit before it: a slope over less is mostly the jitter of scrapes.
    """
    kept = list(boundaries[:1])
    for boundary in boundaries[1:]:
        if boundary.epochs - kept[-1].epochs >= unit * (1 - _SAME):
            kept.append(boundary)
    last = boundaries[-1]
    if last is not kept[-1]:
        if len(kept) > 1 and last.epochs - kept[-1].epochs < unit / 2:
            kept.pop()
        kept.append(last)
    return kept


def after_last_change(units: Sequence[Boundary], change_seconds: Sequence[float]) -> int:
    """Where the units begin that lie wholly after the last change of what an epoch costs (GPUs, power limit).

    0 where nothing changed within the run, and where nothing lies after the change yet.
    """
    last_change = max(change_seconds, default=float("-inf"))
    return next((index for index, boundary in enumerate(units[:-1]) if boundary.seconds >= last_change), 0)


def joule_steps(boundaries: Sequence[Boundary]) -> list[Step]:
    """The energy from each boundary to the next, in joules an epoch."""
    return [
        Step(after.epochs - before.epochs, (after.joules - before.joules) / (after.epochs - before.epochs))
        for before, after in itertools.pairwise(boundaries)
    ]


def second_steps(boundaries: Sequence[Boundary]) -> list[Step]:
    """The time from each boundary to the next, in seconds an epoch."""
    return [
        Step(after.epochs - before.epochs, (after.seconds - before.seconds) / (after.epochs - before.epochs))
        for before, after in itertools.pairwise(boundaries)
    ]


def level(steps: Sequence[Step], *, warm: bool = False) -> Level:
    """The level after these steps, of which there is at least one.

    Args:
        steps: in order; epochs greater than 0.
        warm: nothing warms up in the first step, so it counts like all others.
    """
    skipped = 0 if warm or len(steps) == 1 else 1
    period = _period(steps[skipped:])
    if period is not None:
        return _mean(_cycles(steps[skipped:], period), period)
    if len(steps) >= _FEWEST_STEPS_FOR_MSER:
        skipped = _most_certain_start(steps, skipped)
    return _mean(steps[skipped:])


def _mean(steps: Sequence[Step], period: int | None = None) -> Level:
    epochs = sum(step.epochs for step in steps)
    return Level(sum(step.epochs * step.rate for step in steps) / epochs, tuple(steps), period)


def _most_certain_start(steps: Sequence[Step], fewest: int) -> int:
    """How many steps to leave out, from `fewest` to half of all: where squared error over squared size is least."""
    best, best_start = float("inf"), fewest
    epochs = total = squares = 0.0
    shift = steps[-1].rate
    for start in range(len(steps) - 1, fewest - 1, -1):
        size, rate = steps[start].epochs, steps[start].rate - shift
        epochs, total, squares = epochs + size, total + size * rate, squares + size * rate * rate
        statistic = max(0.0, squares - total * total / epochs) / (epochs * epochs)
        if start <= len(steps) // 2 and statistic <= best:
            best, best_start = statistic, start
    return best_start


def _period(steps: Sequence[Step]) -> int | None:
    """The shortest period, of at least two whole cycles, that explains 85 % of the variance of equal steps."""
    rates = _equal_rates(steps)
    for period in range(2, min(_LONGEST_PERIOD, len(rates) // 2) + 1):
        cycles = len(rates) // period
        whole = rates[-cycles * period :]
        mean = sum(whole) / len(whole)
        variance = sum((rate - mean) * (rate - mean) for rate in whole)
        of_phases = [sum(whole[phase::period]) / cycles - mean for phase in range(period)]
        between = cycles * sum(off * off for off in of_phases)
        if between > _PERIOD_EXPLAINS * variance > 1e-12 * mean * mean:
            return period
    return None


def _equal_rates(steps: Sequence[Step]) -> list[float]:
    """The rates of steps of one size, without a last one that is not yet whole; empty where the sizes differ."""
    if len(steps) < 4:
        return []
    size = steps[0].epochs
    whole = steps if abs(steps[-1].epochs - size) <= _SAME * size else steps[:-1]
    return [step.rate for step in whole] if all(abs(step.epochs - size) <= _SAME * size for step in whole) else []


def _cycles(steps: Sequence[Step], period: int) -> list[Step]:
    """The newest whole cycles, each as one step."""
    rates = _equal_rates(steps)
    first = len(rates) % period
    size = steps[0].epochs * period
    return [Step(size, sum(rates[start : start + period]) / period) for start in range(first, len(rates), period)]
