"""How far a job's clock is off, by the times at which its pushes arrive. Pure.

A push arrives after what it tells of: by the slowness of its pusher, and by the error of its clock. The least delay of
many pushes is mostly the latter (the clock filter of NTP, RFC 5905, section 10).
"""

import math
from dataclasses import dataclass
from typing import Final

_AHEAD_SECONDS: Final = 2.0
_BEHIND_SECONDS: Final = 15.0
_MOST_DOUBT_SECONDS: Final = 30 * 86_400.0


@dataclass(slots=True)
class JobClock:
    """The clock of the host that a job pushes from.

    Attributes:
        behind_seconds: to be added to the times that it tells; negative where it is ahead, 0 while it may be right.
    """

    behind_seconds: float = 0.0
    _least_delay: float = math.inf
    _sure_delay: float = -math.inf

    def take(self, delay_seconds: float, doubt_seconds: float) -> None:
        """Take the time from what a push tells of to its arrival.

        A pusher that is always late is taken for a clock behind; that moves all of its epochs alike, and no slope.

        Args:
            delay_seconds: negative where the clock is ahead.
            doubt_seconds: how much of it may be due to the push being looked at late.
        """
        self._least_delay = min(self._least_delay, delay_seconds)
        sure = [self._sure_delay, delay_seconds - min(doubt_seconds, _MOST_DOUBT_SECONDS)]
        # What the least delay contradicts was a late push.
        self._sure_delay = max((one for one in sure if one <= self._least_delay), default=-math.inf)
        is_off = self._least_delay < -_AHEAD_SECONDS or self._sure_delay > _BEHIND_SECONDS
        self.behind_seconds = self._least_delay if is_off else 0.0
