"""Hourly means: what the outlook is made from and what it is made of. An hour is numbered by Unix time // 3600."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeAlias

from carbon_exporter.model import HOUR_SECONDS, Span

Hours: TypeAlias = Mapping[int, float]
"""Hour number -> mean grams per kilowatt-hour; an hour that nobody knows is not in it."""
HORIZONS_HOURS: Final = (1, 3, 6, 12, 24, 48, 72, 96)
"""Up to which the mean intensity ahead is told."""
_MOST_MISSING: Final = 0.5
"""Of an hour's time: with less than the rest told, its mean is not known."""


def hour_of(seconds: float) -> int:
    """The number of the hour that a Unix time lies in."""
    return int(seconds // HOUR_SECONDS)


def hourly_means(spans: Iterable[Span]) -> dict[int, float]:
    """The mean of every hour of which at least half is told, weighted by time."""
    seconds: dict[int, float] = {}
    weighted: dict[int, float] = {}
    for span in spans:
        for hour, part in _parts(span):
            seconds[hour] = seconds.get(hour, 0.0) + part
            weighted[hour] = weighted.get(hour, 0.0) + part * span.grams_per_kilowatt_hour
    enough = HOUR_SECONDS * (1 - _MOST_MISSING)
    return {hour: weighted[hour] / told for hour, told in seconds.items() if told >= enough}


def _parts(span: Span) -> Iterator[tuple[int, float]]:
    begin = span.start_seconds
    while begin < span.end_seconds:
        hour = hour_of(begin)
        end = min(span.end_seconds, float((hour + 1) * HOUR_SECONDS))
        yield hour, end - begin
        begin = end
