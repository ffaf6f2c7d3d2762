"""The intensity of the next hours from that of the last two weeks: no weather, no training, no package. Pure.

The mean day of the last 14 days, younger days weighing more, plus what now differs from it and fades. How fast that
fades is answered in two ways whose mean is taken: by the correlation of such differences from one hour to the next
(right where wind rules), and by fixed rates, slow for the level of the last day, fast for the rest (right where the sun
rules). Either alone is worse on some grids; docs/accuracy.md has the figures.
"""

from collections.abc import Sequence
from operator import mul
from typing import Final

from carbon_exporter.grid.hours import Hours

PROFILE_HOURS: Final = 14 * 24
LEAST_GRAMS: Final = 0.1
"""Per kilowatt-hour: no forecast goes below; of smaller numbers the ratios mean nothing."""
_DAY_WEIGHTS: Final = tuple(0.9**age for age in reversed(range(PROFILE_HOURS // 24)))
_LEVEL_FADE: Final = 0.98
_REST_FADE: Final = 0.95
_LEAST_HOURS_OF_DAY: Final = 18
"""Of 24: with fewer known there is no mean day."""


def curve(history: Hours, known_until: int, first_hour: int, hours: int) -> tuple[float, ...] | None:
    """The grams of `hours` hours from `first_hour` on, as forecast from the hours before `known_until`.

    With less history than two weeks it is what there is; with one day, that day again. None where no mean day is known.
    """
    newest = next(
        (hour for hour in range(known_until - 1, known_until - 1 - PROFILE_HOURS, -1) if hour in history), None
    )
    if newest is None:
        return None
    window = [history.get(hour) for hour in range(newest + 1 - PROFILE_HOURS, newest + 1)]
    day = _mean_day(window)
    if day is None:
        return None
    differences = [None if grams is None else grams - day[index % 24] for index, grams in enumerate(window)]
    last = differences[-1] or 0.0
    last_day = [difference for difference in differences[-24:] if difference is not None]
    level = sum(last_day) / len(last_day)
    correlation = _correlation(differences)
    grams = []
    for ahead in range(first_hour - newest, first_hour - newest + hours):
        measured = last * correlation**ahead
        fixed = level * _LEVEL_FADE**ahead + (last - level) * _REST_FADE**ahead
        grams.append(max(LEAST_GRAMS, day[(ahead - 1) % 24] + (measured + fixed) / 2))
    return tuple(grams)


def _mean_day(window: Sequence[float | None]) -> list[float] | None:
    """The weighted mean at each hour of the day; index 0 is the one that the window begins with."""
    means: list[float | None] = []
    for slot in range(24):
        at_this_hour = window[slot::24]
        known = [weight for weight, grams in zip(_DAY_WEIGHTS, at_this_hour, strict=True) if grams is not None]
        total = sum(map(mul, known, (grams for grams in at_this_hour if grams is not None)))
        means.append(total / sum(known) if known else None)
    told = [mean for mean in means if mean is not None]
    if len(told) < _LEAST_HOURS_OF_DAY:
        return None
    middle = sum(told) / len(told)
    return [middle if mean is None else mean for mean in means]


def _correlation(differences: Sequence[float | None]) -> float:
    """Of each hour with the one before it, from 0 to 1."""
    both = squares = 0.0
    before: float | None = None
    for difference in differences:
        if difference is not None:
            squares += difference * difference
            if before is not None:
                both += difference * before
        before = difference
    return min(1.0, max(0.0, both / squares)) if squares else 0.0
