"""Scores a run that has ended: what the forecasts made on its way would have had to be multiplied by. Pure."""

import math
from collections.abc import Sequence
from typing import Final

from carbon_exporter.forecast.level import Boundary, joule_steps, level, second_steps, unit_of, whole_units
from carbon_exporter.forecast.record import Score

CHECKPOINTS: Final = (1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0)
"""Units of work seen: epochs, or tenths of a plan of two epochs or less."""
_SAME: Final = 1e-9


def scores_of(boundaries: Sequence[Boundary], epochs_planned: float | None = None) -> tuple[Score, ...]:
    """One score for each checkpoint that the run passed with at least one unit of work after it.

    Args:
        boundaries: of the whole run, in order, epochs rising; the last is its end.
        epochs_planned: of a run that was stopped early; of any other, what it did.

    Returns:
        Scores in order. Where steps are coarse, one is made at the first boundary that has reached its checkpoint and
        not yet the next. Empty where the run is too short, or has steps without energy or time.
    """
    if len(boundaries) < 3:
        return ()
    first, last = boundaries[0], boundaries[-1]
    unit = unit_of(epochs_planned if epochs_planned is not None else last.epochs)
    scores: dict[float, Score] = {}
    for count, boundary in enumerate(boundaries[1:], start=2):
        if last.epochs - boundary.epochs < unit * (1 - _SAME):
            break
        seen = (boundary.epochs - first.epochs) / unit * (1 + _SAME)
        checkpoint = max((passed for passed in CHECKPOINTS if passed <= seen), default=None)
        if checkpoint is not None and checkpoint not in scores:
            score = _score(checkpoint, whole_units(boundaries[:count], unit), last)
            if score is not None:
                scores[checkpoint] = score
    return tuple(scores.values())


def _score(checkpoint: float, seen: Sequence[Boundary], end: Boundary) -> Score | None:
    epochs = end.epochs - seen[-1].epochs
    joules = (end.joules - seen[-1].joules) / epochs, level(joule_steps(seen)).rate
    seconds = (end.seconds - seen[-1].seconds) / epochs, level(second_steps(seen)).rate
    if min(*joules, *seconds) <= 0:
        return None
    later, before = (math.log(joules[0]), math.log(seconds[0])), (math.log(joules[1]), math.log(seconds[1]))
    return Score(checkpoint, later[0] - before[0], later[1] - before[1])
