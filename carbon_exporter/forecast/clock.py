"""How far a job's clock is off, by the times at which its pushes arrive. Pure.

A push arrives after what it tells of: by the slowness of its pusher, and by the error of its clock. The least delay of
many pushes is mostly the latter (the clock filter of NTP, RFC 5905, section 10).
"""

import math
import statistics
from collections.abc import Sequence
from typing import Final, NamedTuple

WINDOW: Final = 5
"""Pushes: one that tells a wrong time moves nothing, and a clock that is set ahead is believed soon."""
_FEWEST: Final = 2
_AHEAD_SECONDS: Final = 2.0
_BEHIND_SECONDS: Final = 15.0
_MOST_DOUBT_SECONDS: Final = 30 * 86_400.0


class Delay(NamedTuple):
    """From what a push tells of to its arrival.

    Attributes:
        seconds: negative where the clock is ahead.
        doubt_seconds: how much of it may be due to the push being looked at late.
    """

    seconds: float
    doubt_seconds: float


class Clock(NamedTuple):
    """What is known of a job's clock.

    Attributes:
        recent: delays of the newest pushes.
        least_seconds: of all delays.
        sure_seconds: by how much the clock is behind at least, if its pusher is not late; -inf where nobody knows.
    """

    recent: tuple[Delay, ...] = ()
    least_seconds: float = math.inf
    sure_seconds: float = -math.inf

    def after(self, delay: Delay) -> "Clock":
        """With one push more."""
        least = min(self.least_seconds, delay.seconds)
        sure = (self.sure_seconds, delay.seconds - min(delay.doubt_seconds, _MOST_DOUBT_SECONDS))
        # What the least delay contradicts was a late push.
        known = max((one for one in sure if one <= least), default=-math.inf)
        return Clock((*self.recent, delay)[-WINDOW:], least, known)

    @property
    def behind_seconds(self) -> float:
        """What is to be added to the times that the job tells; negative where its clock is ahead, 0 where it is right.

        A pusher that is always late is taken for a clock behind; that moves all of its epochs alike, and no slope.
        """
        if len(self.recent) < _FEWEST:
            return 0.0
        if self.sure_seconds > _BEHIND_SECONDS:
            return self.least_seconds
        return _ahead(self.recent)


def clock_of(delays: Sequence[Delay]) -> Clock:
    """What pushes in a row tell."""
    clock = Clock()
    for delay in delays:
        clock = clock.after(delay)
    return clock


def behind_at_each(delays: Sequence[Delay]) -> list[float]:
    """The correction at each push of a whole course: where a clock was ahead for a part of it, only there."""
    whole = clock_of(delays)
    if len(delays) < _FEWEST or whole.sure_seconds > _BEHIND_SECONDS:
        return [whole.behind_seconds] * len(delays)
    half = WINDOW // 2
    return [_ahead(delays[max(0, index - half) : index + half + 1]) for index in range(len(delays))]


def _ahead(delays: Sequence[Delay]) -> float:
    usual = statistics.median_high([delay.seconds for delay in delays])
    return usual if usual < -_AHEAD_SECONDS else 0.0
