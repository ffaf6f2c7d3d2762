"""A grid provider that says what a test tells it to, and a zone made of such."""

import itertools

from carbon_exporter.grid.cache import AnswerCache
from carbon_exporter.grid.feed import Feed
from carbon_exporter.grid.fetcher import Fetcher
from carbon_exporter.grid.zone import Zone
from carbon_exporter.model import GridReading, ProviderError, Span, Traits

HOUR = 3600
T0 = 1_900_000_800 - 1_900_000_800 % HOUR
"""A full hour."""
STAND_IN = GridReading((Span(0, 1e11, 330, True),), "static", "lifecycle", fallback_level=2, data_timestamp_seconds=7.0)


def hourly(first_seconds, *grams, estimated=False):
    return tuple(
        Span(first_seconds + i * HOUR, first_seconds + (i + 1) * HOUR, g, estimated) for i, g in enumerate(grams)
    )


class ScriptedProvider:
    """Says `spans` and `future` until a test changes them; a ProviderError in their place is raised."""

    def __init__(self, spans=(), future=(), name="somebody", basis="operational", signal="average", **traits):
        self.spans, self.future = spans, future
        self.since = []
        self.predictions = 0
        defaults = {"refresh_seconds": 900, "lag_seconds": 1800, "fresh_seconds": 7200, "pace_seconds": 1}
        self.traits = Traits(name, basis, "all", "licence of " + name, signal=signal, **{**defaults, **traits})

    def observe(self, web, since_seconds, now_seconds):
        self.since.append(since_seconds)
        return self._said(self.spans)

    def predict(self, web, now_seconds):
        self.predictions += 1
        return self._said(self.future)

    def _said(self, spans):
        if isinstance(spans, Exception):
            raise spans
        if isinstance(spans, GridReading):
            return spans
        return GridReading(tuple(spans), self.traits.provider, self.traits.basis, self.traits.signal)


class Clockwork:
    """A zone with its providers, on a clock that a test turns: monotonic time is Unix time less T0."""

    def __init__(self, *providers, stand_in=STAND_IN, folder=None, chance=lambda: 0.5, now=T0):
        self.now = float(now)
        self.chance = chance
        self.feeds = [Feed(provider, "DE", self.now - T0, chance) for provider in providers]
        signal = providers[0].traits.signal if providers else "average"
        cache = AnswerCache(folder)
        self.zone = Zone(
            "DE",
            signal,
            feeds=self.feeds,
            stand_in=stand_in,
            licence="licence of the stand-in",
            started_seconds=self.now,
            cache=cache,
        )
        for feed in self.feeds:
            feed.restore(cache.load(self.zone.key(feed), feed.traits.basis), self.now - T0, self.now)
        self.fetchers = [Fetcher([(self.zone, f)], None, lambda: self.now - T0, lambda: self.now) for f in self.feeds]

    def run(self, seconds):
        """Turn the clock, letting every fetcher ask when it would."""
        end = self.now + seconds
        for _ in itertools.count():
            wait, fetcher = min(((f.wait_seconds(), i) for i, f in enumerate(self.fetchers)), default=(seconds, None))
            if fetcher is None or self.now + wait > end:
                break
            self.now += max(wait, 1e-3) if wait else 0.0  # less would be lost in so large a number
            self.fetchers[fetcher].ask_due()
        self.now = end

    def intensity(self):
        timeline = self.zone.timeline(self.now)
        return None if timeline is None else timeline.intensity

    def grams(self):
        return self.intensity().grams_per_kilowatt_hour


def refused(reason, retry_after=None):
    return ProviderError(reason, f"http://grid.example/x: {reason}: a cure", retry_after)
