"""How far a job's clock is off, by the times at which its pushes arrive. Pure.

A push arrives after what it tells of: by the slowness of its pusher, and by the error of its clock. The least delay of
several pushes is mostly the latter (the clock filter of NTP, RFC 5905, section 10).
"""

import statistics
from collections.abc import Sequence
from typing import Final, NamedTuple

WINDOW: Final = 5
"""Pushes: one that tells a wrong time moves nothing, and a clock that is set is believed soon."""
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


def behind_seconds(delays: Sequence[Delay]) -> float:
    """What is to be added to the times that a job tells; negative where its clock is ahead, 0 while it may be right.

    A pusher that is always late is taken for a clock behind; that moves all of its epochs alike, and no slope.

    Args:
        delays: of pushes that follow one another, WINDOW of them at most.
    """
    if not delays:
        return 0.0
    least = min(delay.seconds for delay in delays)
    sure = [delay.seconds - min(delay.doubt_seconds, _MOST_DOUBT_SECONDS) for delay in delays]
    # What the least delay contradicts was a late push.
    if max((one for one in sure if one <= least), default=0.0) > _BEHIND_SECONDS:
        return least
    usual = statistics.median_low([delay.seconds for delay in delays])
    return usual if usual < -_AHEAD_SECONDS else 0.0


def behind_at_each(delays: Sequence[Delay]) -> list[float]:
    """The same for each push of a whole course, by those around it."""
    half = WINDOW // 2
    return [behind_seconds(delays[max(0, index - half) : index + half + 1]) for index in range(len(delays))]
