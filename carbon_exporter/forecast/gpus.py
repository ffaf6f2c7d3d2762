"""The number of GPUs that a job holds, and when it changed: from then on an epoch takes other joules. Pure."""

from dataclasses import dataclass, field
from typing import Final

_ARRIVING_SECONDS: Final = 120.0
"""The nodes of a job are scraped one after the other, so that at its begin the number rises without a change."""
_MOST_CHANGES: Final = 16


@dataclass(slots=True)
class Gpus:
    """What one run holds.

    Attributes:
        held: GPUs, of all its nodes together; None where nobody knows.
        change_seconds: Unix times at which the number was seen to have changed; the newest 16.
    """

    held: float | None = None
    change_seconds: list[float] = field(default_factory=list)
    _first_seconds: float = 0.0

    def see(self, gpus: float | None, now_seconds: float) -> None:
        """Take the number of one poll; None says nothing."""
        if gpus is None:
            return
        if self.held is None:
            self._first_seconds = now_seconds
        elif gpus != self.held and now_seconds - self._first_seconds > _ARRIVING_SECONDS:
            self.change_seconds = [*self.change_seconds, now_seconds][-_MOST_CHANGES:]
        self.held = gpus
