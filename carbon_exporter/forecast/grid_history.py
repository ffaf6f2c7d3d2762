"""The past intensity of every zone from the PromQL engine: a service without a cache need not wait for weeks.

What is read back is the series that this service and its nodes published: the value in use at the time, estimates
included. A provider is asked first, and what is read back counts only for the time before its own words.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from carbon_exporter import metrics
from carbon_exporter.answers import MOST_GRAMS
from carbon_exporter.forecast.promql import Client
from carbon_exporter.grid.hours import hour_of
from carbon_exporter.grid.zone import Zone
from carbon_exporter.model import HOUR_SECONDS

HISTORY_HOURS: Final = 30 * 24
SLICE_HOURS: Final = 5 * 24
"""Of one query: over all 30 days, where each of 1,000 nodes has the series too, an engine would need some 15 s."""
FIRST_RETRY_SECONDS: Final = 60.0
LONGEST_RETRY_SECONDS: Final = 3600.0


@dataclass(slots=True)
class _Progress:
    """Of one zone and provider: the hours read back already, and when the next ones may be asked for (Unix time)."""

    hours: int = 0
    due_seconds: float = 0.0
    failures: int = 0


class GridHistory:
    """Asks the engine once for each zone and provider whose past is wanted; a failure is tried again ever later."""

    def __init__(self, client: Client, zones: Iterable[Zone]) -> None:
        self._client = client
        self._zones = tuple(zones)
        self._progress: dict[tuple[str, str, str, str], _Progress] = {}

    def read_back(self, now_seconds: float, most_queries: int) -> None:
        """Give each zone of the past that it wants, the newest first, what so many queries tell.

        Raises:
            PromQLError: a query failed; what is left is asked for at a later call.
        """
        for _ in range(most_queries):
            if not self._read_next(now_seconds):
                break

    def _read_next(self, now_seconds: float) -> bool:
        """Ask once, for the first that wants it and is due; whether there was one."""
        for zone in self._zones:
            for provider, basis in zone.wants_history():
                progress = self._progress.setdefault((zone.name, zone.signal, provider, basis), _Progress())
                if progress.hours < HISTORY_HOURS and progress.due_seconds <= now_seconds:
                    self._continue(zone, provider, basis, progress, now_seconds)
                    return True
        return False

    def _continue(self, zone: Zone, provider: str, basis: str, progress: _Progress, now_seconds: float) -> None:
        wait = min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** min(progress.failures, 10))
        progress.due_seconds, progress.failures = now_seconds + wait, progress.failures + 1
        newest = hour_of(now_seconds) - progress.hours
        zone.take_history(self._hours(_selector(zone, provider, basis), newest), provider, basis)
        progress.due_seconds, progress.failures = 0.0, 0
        progress.hours += SLICE_HOURS

    def _hours(self, selector: str, newest: int) -> dict[int, float]:
        """Hour number -> mean, of the hours before `newest`; of several series (replicas, nodes) the mean of all."""
        # What is averaged over the hour before a full hour is the mean of the hour that ends there.
        end, begin = float(newest * HOUR_SECONDS), float((newest - SLICE_HOURS + 1) * HOUR_SECONDS)
        found = self._client.query_range(f"avg(avg_over_time({selector}[1h]))", begin, end, HOUR_SECONDS)
        points = found[0].points if found else []
        return {hour_of(seconds) - 1: grams for seconds, grams in points if 0 <= grams <= MOST_GRAMS}


def _selector(zone: Zone, provider: str, basis: str) -> str:
    labels = {"grid_zone": zone.name, "provider": provider, "signal": zone.signal, "basis": basis}
    matchers = ",".join(f'{name}="{metrics.escape_label(value)}"' for name, value in labels.items())
    return f"{metrics.INTENSITY.name}{{{matchers}}}"
