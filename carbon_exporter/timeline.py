"""The intensity of one zone over time: what was, what is, what is to come. Pure."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from carbon_exporter.model import Intensity, Span


@dataclass(frozen=True)
class Timeline:
    """The spans of one zone, and the intensity to count with at the moment that it was made for.

    Attributes:
        intensity: in use now.
        spans: in order of time, disjoint, at least one; before the first and after each the nearest value before holds
            (before the first: the first).
        told_until_seconds: up to where the provider itself told the spans; what follows is extrapolated.
    """

    intensity: Intensity
    spans: tuple[Span, ...]
    told_until_seconds: float

    @cached_property
    def _starts(self) -> list[float]:
        return [span.start_seconds for span in self.spans]

    def at(self, seconds: float) -> Span:
        """The span in force at a Unix time."""
        return self.spans[max(0, bisect_right(self._starts, seconds) - 1)]

    def mean(self, begin_seconds: float, end_seconds: float) -> float:
        """Mean grams per kilowatt-hour from begin to end, weighted by time; at `end` where they are no time apart."""
        if end_seconds <= begin_seconds:
            return self.at(end_seconds).grams_per_kilowatt_hour
        total = sum(seconds * grams for seconds, grams in self._pieces(begin_seconds, end_seconds))
        return total / (end_seconds - begin_seconds)

    def tells(self, begin_seconds: float, end_seconds: float) -> bool:
        """Whether the provider itself told what was from begin to end, without a gap."""
        if begin_seconds < self._starts[0] or end_seconds > self.told_until_seconds:
            return False
        first = max(0, bisect_right(self._starts, begin_seconds) - 1)
        reached = begin_seconds
        for span in self.spans[first:]:
            if span.start_seconds > reached or reached >= end_seconds:
                break
            reached = max(reached, span.end_seconds)
        return reached >= end_seconds

    def _pieces(self, begin: float, end: float) -> Iterator[tuple[float, float]]:
        """Seconds and grams per kilowatt-hour of each piece between begin and end."""
        index = max(0, bisect_right(self._starts, begin) - 1)
        while begin < end:
            following = self._starts[index + 1] if index + 1 < len(self.spans) else end
            until = min(end, max(following, begin))
            if until > begin:
                yield until - begin, self.spans[index].grams_per_kilowatt_hour
            begin = max(begin, until)
            index += 1


def span_at(spans: Sequence[Span], seconds: float) -> Span:
    """The span in force at a Unix time: of `spans`, in order, the last that has begun, or the first."""
    return spans[max(0, bisect_right([span.start_seconds for span in spans], seconds) - 1)]
