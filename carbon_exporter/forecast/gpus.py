"""The GPUs that a job holds, their power limit, and when either changed: an epoch then takes other joules. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

_ARRIVING_SECONDS: Final = 120.0
"""The nodes of a job are scraped one after the other, so that at its begin the number rises without a change."""
_PASSING_SECONDS: Final = 360.0
"""A node that a job has left still counts for the five minutes of the query, so that a job that moves holds twice as
many GPUs for that long."""
_SAME_WATTS: Final = 1.0
_MOST_CHANGES: Final = 16


class Held(NamedTuple):
    """What was held at a time, and the change that ended it."""

    gpus: float
    limit_watts: float | None
    until_seconds: float

    def is_like(self, gpus: float, limit_watts: float | None) -> bool:
        """Whether an epoch takes the same joules."""
        known = self.limit_watts is not None and limit_watts is not None
        return self.gpus == gpus and not (known and abs((self.limit_watts or 0) - (limit_watts or 0)) > _SAME_WATTS)


@dataclass(slots=True)
class Gpus:
    """What one run holds.

    Attributes:
        held: GPUs, of all its nodes together; None where nobody knows.
        limit_watts: power limit of each, on average; None where nobody knows.
        before: what it held before, oldest first.
    """

    held: float | None = None
    limit_watts: float | None = None
    before: list[Held] = field(default_factory=list)
    first_seconds: float = 0.0

    @property
    def change_seconds(self) -> list[float]:
        """Unix times at which a change was seen; the newest 16."""
        return [one.until_seconds for one in self.before]

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> "Gpus":
        """What `state`, its attributes as JSON holds them, was made of."""
        return cls(**{**state, "before": [Held(*one) for one in state["before"]]})

    def see(self, gpus: float | None, limit_watts: float | None, now_seconds: float) -> None:
        """Take what is told at one poll; None says nothing. What is soon as it was before has not changed."""
        if gpus is None:
            return
        limit = self.limit_watts if limit_watts is None else limit_watts
        if self.held is None:
            self.first_seconds = now_seconds
        elif now_seconds - self.first_seconds > _ARRIVING_SECONDS:
            now = Held(self.held, self.limit_watts, now_seconds)
            if now.is_like(gpus, limit):
                limit = self.limit_watts if self.limit_watts is not None else limit
            else:
                recent = (i for i, old in enumerate(self.before) if now_seconds - old.until_seconds <= _PASSING_SECONDS)
                back = next((i for i in recent if self.before[i].is_like(gpus, limit)), None)
                self.before = [*self.before, now][-_MOST_CHANGES:] if back is None else self.before[:back]
        self.held, self.limit_watts = gpus, limit
