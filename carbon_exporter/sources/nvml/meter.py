"""The joules of one GPU, as far as NVML has told."""

import math
from dataclasses import dataclass, field
from typing import Final

from carbon_exporter.counter import Counter
from carbon_exporter.model import Json

MOST_WATTS: Final = 5000.0
"""What no GPU reaches: beyond it lie blank values and garbage."""


@dataclass(slots=True)
class Meter:
    """The joules of one GPU (`counter.total`), counted by NVML or integrated from `watts`, its power when last read."""

    counter: Counter = field(default_factory=Counter)
    watts: float | None = None

    def count(self, joules: float, now_seconds: float) -> bool:
        """Take NVML's counter; False where it was reset, with nothing added."""
        self.watts = None
        return self.counter.advance(joules, now_seconds, fastest=MOST_WATTS)

    def integrate(self, watts: float, now_seconds: float, longest_gap_seconds: float) -> None:
        """Add the trapezoid between the last power and this one, or nothing after a longer gap."""
        elapsed = now_seconds - self.counter.seconds
        if self.watts is not None and 0 < elapsed <= longest_gap_seconds:
            self.counter.total += (self.watts + watts) / 2 * elapsed
        self.watts, self.counter.raw, self.counter.seconds = watts, None, now_seconds

    def to_json(self) -> Json:
        """The state for `from_json`."""
        return {**self.counter.to_json(), "watts": self.watts}

    @classmethod
    def from_json(cls, state: Json) -> "Meter":
        """The meter that `to_json` described.

        Raises:
            KeyError, TypeError, ValueError: the state is not one.
        """
        watts = state["watts"]
        meter = cls(Counter.from_json(state), None if watts is None else float(watts))
        numbers = (meter.counter.raw, meter.counter.total, meter.counter.seconds, meter.watts)
        if not all(number is None or (math.isfinite(number) and number >= 0) for number in numbers):
            raise ValueError(f"not a number of joules, seconds or watts: {state}")
        return meter
