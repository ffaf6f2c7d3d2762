"""The intensity of one zone: the best that its providers say, and an honest stand-in while they say nothing.

live -> the last good value while it is fresh -> the country's yearly mean -> the world's.
"""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from carbon_exporter.grid.cache import AnswerCache
from carbon_exporter.grid.feed import Feed
from carbon_exporter.grid.hours import Hours, hour_of
from carbon_exporter.grid.outlook import Outlook, make_outlook
from carbon_exporter.model import HOUR_SECONDS, GridReading, Intensity, Span
from carbon_exporter.timeline import Timeline, span_at

PATIENCE_SECONDS: Final = 60.0
"""After the start, before anything stands in: the first answer may be on its way."""
ENOUGH_HISTORY_HOURS: Final = 25 * 24
"""The bands of the outlook are made from how it would have done in the past weeks."""
_LEVELS: Final = ("live", "its last good value", "the country's yearly mean stands in", "the world's mean stands in")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Source:
    """Whose word counts now: a feed's, or (None) that of the stand-in."""

    reading: GridReading
    level: int
    told: tuple[Span, ...]
    feed: Feed | None = None


class Zone:
    """One zone and signal.

    Args:
        name: of the zone; "" where none is configured.
        signal: "average" or "marginal".
        feeds: its providers, the first choice first.
        stand_in: a yearly mean or a fixed value; None where nothing may stand in.
        licence: of the stand-in.
        started_seconds: Unix time of now.
        cache: where answers are kept.
    """

    def __init__(
        self,
        name: str,
        signal: str,
        *,
        feeds: Sequence[Feed],
        stand_in: GridReading | None,
        licence: str,
        started_seconds: float,
        cache: AnswerCache,
    ) -> None:
        self.name = name
        self.signal = signal
        self.feeds = tuple(feeds)
        self._stand_in = stand_in
        self._licence = licence
        self._patience_until = started_seconds + (PATIENCE_SECONDS if feeds else 0.0)
        self._cache = cache
        self._lock = threading.RLock()
        self._told: dict[str, tuple[object, object, tuple[Span, ...]]] = {}
        self._timeline: Timeline | None = None
        self._timeline_of: tuple[int, Span] | None = None
        self._outlook: Outlook | None = None
        self._outlook_of: tuple[tuple[Span, ...], int] | None = None
        self._outlook_feed: Feed | None = None
        self._extended: tuple[tuple[Span, ...], Outlook, tuple[Span, ...]] | None = None
        self._said: tuple[str, int] | None = None

    def timeline(self, now_seconds: float) -> Timeline | None:
        """What was, is and will be (Unix time); the same object as long as nothing changes. From memory, in no time.

        None: nothing is known yet, and it is too early for a stand-in; or nothing may stand in.
        """
        with self._lock:
            # A clock that was set back must not make the wait longer.
            self._patience_until = min(self._patience_until, now_seconds + PATIENCE_SECONDS)
            source = self._source(now_seconds)
            if source is None:
                return None
            spans = self._spans(source, now_seconds)
            last = self._timeline
            if last is not None and last.spans is spans and self._timeline_of == (source.level, last.at(now_seconds)):
                return last
            span = span_at(spans, now_seconds)
            intensity = self._intensity(source, span, now_seconds)
            self._timeline = Timeline(intensity, spans, source.told[-1].end_seconds)
            self._timeline_of = (source.level, span)
            self._speak(source.reading.provider, source.level)
            return self._timeline

    def outlook(self, now_seconds: float) -> Outlook | None:
        """The next 96 hours, made anew where an hour has begun or the provider has spoken; None as for `timeline`."""
        with self._lock:
            source = self._source(now_seconds)
            if source is None:
                return None
            hour = hour_of(now_seconds)
            if self._outlook_of is None or self._outlook_of[0] is not source.told or self._outlook_of[1] != hour:
                self._outlook = _make_outlook(source, self._stand_in, now_seconds)
                self._outlook_of, self._outlook_feed = (source.told, hour), source.feed
            return self._outlook

    def licence(self, now_seconds: float) -> str:
        """What the terms of whoever's word counts now ask to be shown."""
        with self._lock:
            source = self._source(now_seconds)
        return source.feed.traits.licence if source is not None and source.feed is not None else self._licence

    def asked(self, feed: Feed, now_seconds: float, *, answered: bool) -> None:
        """Called when `feed` was asked: keep an answer on disk, and make ready what `timeline` will want."""
        if answered:
            self._cache.save(self.key(feed), feed.traits.basis, feed.state())
        with self._lock:
            told = self._told_by(feed)
            if told and told[-1].end_seconds < now_seconds + 2 * HOUR_SECONDS:
                self.outlook(now_seconds)

    def key(self, feed: Feed) -> str:
        """Under which the cache keeps what `feed` said."""
        return f"{self.name}-{self.signal}-{feed.traits.provider}"

    def wants_history(self) -> list[tuple[str, str]]:
        """The providers, with their basis, that have told what they can and yet less than a forecast needs."""
        return [
            (feed.traits.provider, feed.traits.basis)
            for feed in self.feeds
            if feed.fetched_seconds is not None and len(feed.history) < ENOUGH_HISTORY_HOURS
        ]

    def take_history(self, hours: Hours, provider: str, basis: str) -> None:
        """Hourly means of the past from elsewhere, for the time before the provider's own words."""
        with self._lock:
            for feed in self.feeds:
                if (feed.traits.provider, feed.traits.basis) == (provider, basis):
                    feed.recalled = {**feed.recalled, **hours}
                    self._outlook_of = None

    def _source(self, now_seconds: float) -> _Source | None:
        best: _Source | None = None
        for feed in self.feeds:
            told = self._told_by(feed)
            level = feed.level(now_seconds, told) if told else None
            if feed.reading is None or level is None:
                continue
            level = max(level, feed.reading.fallback_level)
            if best is None or level < best.level:
                best = _Source(feed.reading, level, told, feed)
        if best is not None or self._stand_in is None or now_seconds < self._patience_until:
            return best
        return _Source(self._stand_in, self._stand_in.fallback_level, self._stand_in.spans)

    def _told_by(self, feed: Feed) -> tuple[Span, ...]:
        known = self._told.get(feed.traits.provider)
        if known is None or known[0] is not feed.reading or known[1] is not feed.forecast:
            known = self._told[feed.traits.provider] = (feed.reading, feed.forecast, feed.told_spans())
        return known[2]

    def _spans(self, source: _Source, now_seconds: float) -> tuple[Span, ...]:
        """What is told; with the outlook after it where that ends within the hour."""
        told, outlook = source.told, self._outlook
        covered = told[-1].end_seconds > now_seconds + HOUR_SECONDS
        # After an answer the outlook before it serves until the next one is made, a moment later.
        if covered or source.feed is None or source.feed is not self._outlook_feed or outlook is None:
            return told
        if self._extended is None or self._extended[0] is not told or self._extended[1] is not outlook:
            self._extended = (told, outlook, (*told, *_coming(outlook, told[-1].end_seconds)))
        return self._extended[2]

    def _intensity(self, source: _Source, span: Span, now_seconds: float) -> Intensity:
        reading, told = source.reading, source.told
        held = not told[0].start_seconds <= now_seconds < told[-1].end_seconds
        said_for = span_at(told, now_seconds).start_seconds
        stamp = reading.data_timestamp_seconds
        fixed = source.feed is None and stamp is None
        return Intensity(
            grams_per_kilowatt_hour=span.grams_per_kilowatt_hour,
            grid_zone=self.name or ("WORLD" if source.level == 3 else "unknown"),
            provider=reading.provider,
            basis=reading.basis,
            signal=reading.signal,
            estimated=span.estimated or held,
            fallback_level=source.level,
            data_timestamp_seconds=None if fixed else (stamp if stamp is not None else said_for),
        )

    def _speak(self, provider: str, level: int) -> None:
        if (provider, level) != self._said:
            said_before, self._said = self._said, (provider, level)
            say = _log.warning if level and said_before is not None else _log.info
            say("intensity of %s (%s): %s, %s", self.name or "the grid", self.signal, provider, _LEVELS[level])


def _make_outlook(source: _Source, stand_in: GridReading | None, now_seconds: float) -> Outlook | None:
    flat = stand_in.spans[0].grams_per_kilowatt_hour if stand_in is not None else None
    if source.feed is None:
        return make_outlook({}, (), "static", (), flat, now_seconds)
    feed = source.feed
    return make_outlook(feed.past(), source.told, source.reading.provider, feed.issued, flat, now_seconds)


def _coming(outlook: Outlook, after_seconds: float) -> list[Span]:
    """The hours of the outlook, and those that bridge to it, that end after `after_seconds`; the first one cut."""
    hours = (*outlook.bridge, *outlook.grams)
    first = outlook.first_hour - len(outlook.bridge)
    starts = [(first + index) * HOUR_SECONDS for index in range(len(hours))]
    return [
        Span(max(after_seconds, start), start + HOUR_SECONDS, grams, estimated=True)
        for start, grams in zip(starts, hours, strict=True)
        if start + HOUR_SECONDS > after_seconds
    ]
