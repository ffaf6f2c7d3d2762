"""One thread for each provider: asks it for every zone in turn, never faster than it allows, never inside a scrape."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from carbon_exporter.grid.feed import Feed
from carbon_exporter.grid.zone import Zone
from carbon_exporter.model import FetchFailure, ProviderError, Web

_LONGEST_SLEEP_SECONDS: Final = 600.0
_SLOW_PACE_SECONDS: Final = 10.0


class Fetcher:
    """Asks one provider.

    Args:
        asked: its feeds, each with its zone.
        web: the way out.
        clock: monotonic seconds.
        wall_clock: Unix seconds.

    Attributes:
        errors: questions without a usable answer, by reason.
    """

    def __init__(
        self,
        asked: Sequence[tuple[Zone, Feed]],
        web: Web,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._asked = tuple(asked)
        self._web = web
        self._clock = clock
        self._wall_clock = wall_clock
        self._free_seconds = 0.0
        self.provider = asked[0][1].traits.provider
        self.errors: Counter[FetchFailure] = Counter()

    def feeds(self) -> list[Feed]:
        """Those that it asks for."""
        return [feed for _, feed in self._asked]

    def run(self, stop: threading.Event) -> None:
        """Ask whenever a question is due, until `stop` is set."""
        while not stop.wait(min(self.wait_seconds(), _LONGEST_SLEEP_SECONDS)):
            self.ask_due()

    def wait_seconds(self) -> float:
        """Until the next question, its pace kept."""
        due = max(self._free_seconds, min(feed.due_seconds for _, feed in self._asked))
        return max(0.0, due - self._clock())

    def ask_due(self) -> None:
        """Put the one question that has been due longest, if its time has come."""
        if self.wait_seconds() > 0:
            return
        zone, feed = min(self._asked, key=lambda pair: pair[1].due_seconds)
        self._note(zone, feed, feed.ask(self._web, self._clock(), self._wall_clock()))
        # Counted from the end: a slow answer must not be followed at once by the next question.
        self._free_seconds = self._clock() + feed.traits.pace_seconds

    def ask_now(self) -> None:
        """Put every question once, due or not, for somebody who waits for the answers."""
        for zone, feed in self._asked:
            self._note(zone, feed, feed.ask_values(self._web, self._clock(), self._wall_clock()))
            # Nobody wants to wait a minute here: one that is so slow is asked for its forecast by those who run on.
            if feed.traits.horizon_seconds and feed.traits.pace_seconds < _SLOW_PACE_SECONDS:
                self._note(zone, feed, feed.ask_forecast(self._web, self._clock(), self._wall_clock()))

    def _note(self, zone: Zone, feed: Feed, failure: ProviderError | None) -> None:
        if failure is not None:
            self.errors[failure.reason] += 1
        zone.asked(feed, self._wall_clock(), answered=failure is None)
