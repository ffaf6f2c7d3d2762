"""What the intensity of one zone will be in the next 96 hours, with bands from how earlier forecasts turned out. Pure.

The forecast is what the provider tells, and after that the statistical curve. The bands are those of split conformal
prediction on a rolling window: the logarithms of actual over forecast, of past forecasts for the same hours ahead.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, repeat
from typing import Final

from carbon_exporter.grid.hours import Hours, hour_of, hourly_means
from carbon_exporter.grid.replay import LEAST_SCORES, Replay, around, between, log_ratio, score_band
from carbon_exporter.grid.statistical import PROFILE_HOURS, curve
from carbon_exporter.model import HOUR_SECONDS, Span

OUTLOOK_HOURS: Final = 96
HISTORY_HOURS: Final = 60 * 24
REPLAY_EVERY_HOURS: Final = 7
"""No divisor of 24, so that all hours of the day have their turn."""
_FIRST_REPLAY_AFTER_HOURS: Final = 7 * 24
_LONGEST_FILLED_HOURS: Final = 6
_ISSUED_APART_SECONDS: Final = 6 * 3600.0 - 600.0
"""Forecasts that follow each other closely share their fate; a clock may be some minutes early."""


@dataclass(frozen=True)
class Issued:
    """A forecast that a provider made earlier, kept to be scored: `grams[i]` is for hour_of(made_seconds) + i."""

    made_seconds: float
    grams: tuple[float, ...]


@dataclass(frozen=True)
class Outlook:
    """Grams per kilowatt-hour, hour by hour.

    Attributes:
        first_hour: number (Unix time // 3600) of the hour that now lies in.
        grams: 96 hourly means.
        low, high: the band that each hour falls into nine times in ten; empty while that is not calibrated.
        forecaster: the provider's name, "statistical", or "static" (flat: nothing better is known).
        replays: what the bands were made from.
        bridge: the hours before `first_hour` that nobody has told yet, as the same curve sees them.
    """

    first_hour: int
    grams: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    forecaster: str
    replays: tuple[Replay, ...]
    bridge: tuple[float, ...] = ()

    @property
    def end_seconds(self) -> float:
        """Where the curve ends (Unix time)."""
        return float((self.first_hour + len(self.grams)) * HOUR_SECONDS)

    def hours_ahead(self, seconds: float) -> float:
        """From the begin of the curve to a Unix time, in hours."""
        return seconds / HOUR_SECONDS - self.first_hour

    def mean(self, begin_seconds: float, end_seconds: float) -> float:
        """Of the curve, weighted by time. Beyond its end the mean of its last day holds, before it the first hour.

        Where begin and end are no time apart, it is the value at that time.
        """
        begin, end = self.hours_ahead(begin_seconds), self.hours_ahead(end_seconds)
        if end <= begin:
            begin, end = math.floor(end), math.floor(end) + 1.0
        length = len(self.grams)
        last_day = self.grams[-24:]
        before = max(0.0, min(end, 0.0) - begin) * self.grams[0]
        inside = between(self.sums, min(max(begin, 0.0), length), min(max(end, 0.0), length))
        beyond = max(0.0, end - max(begin, length)) * sum(last_day) / len(last_day)
        return (before + inside + beyond) / (end - begin)

    def mean_band(self, begin_seconds: float, end_seconds: float) -> tuple[float, float] | None:
        """The 90 % band of that mean; None while too few past forecasts are known to the end of such a window.

        What reaches beyond the curve is taken to be off by as much as its part on the curve, or as the last day.
        """
        begin, end = self.hours_ahead(begin_seconds), self.hours_ahead(end_seconds)
        if end <= begin:
            begin, end = math.floor(end), math.floor(end) + 1.0
        begin, end = max(begin, 0.0), max(end, 1.0)
        if end > OUTLOOK_HOURS:
            begin, end = min(begin, OUTLOOK_HOURS - 24.0), float(OUTLOOK_HOURS)
        pairs = (replay.means(begin, end) for replay in self.replays)
        band = score_band(log_ratio(actual, forecast) for forecast, actual in filter(None, pairs))
        return None if band is None else around(self.mean(begin_seconds, end_seconds), band)

    @cached_property
    def sums(self) -> list[float]:
        """The grams summed up to the begin of each hour."""
        return [0.0, *accumulate(self.grams)]


def make_outlook(  # noqa: PLR0917 - as its callers read best
    history: Hours,
    told: Sequence[Span],
    forecaster: str,
    issued: Sequence[Issued],
    fallback_grams: float | None,
    now_seconds: float,
) -> Outlook | None:
    """The next 96 hours as seen from `now_seconds` (Unix); None where nothing at all is known.

    Args:
        history: what the provider measured, not what stood in for it; up to 60 days of it are used. It may have holes,
            and may end hours or a day ago: past forecasts are replayed with the same delay, and nothing else is what
            they are compared with.
        told: what the provider itself says, its estimates included, of which the curve goes on. Where that covers the
            hours to come without a hole, it is the forecast.
        forecaster: its name.
        issued: such forecasts of earlier times. From 30 on that are over, and made at least 6 hours apart, the bands
            come from them; until then from the statistical forecast's errors, which are wider.
        fallback_grams: stands for all hours where neither history nor told say anything.
        now_seconds: Unix time.
    """
    first_hour = hour_of(now_seconds)
    known = _known(history, told, first_hour)
    coming = _coming(known, first_hour)
    newest = max((hour for hour in known if hour < first_hour), default=None)
    gap = 0 if newest is None else first_hour - 1 - newest
    measured = {hour: grams for hour, grams in history.items() if hour < first_hour}
    delay = first_hour - 1 - max(measured, default=first_hour - 1)
    grams = _continued(known, gap, first_hour, coming)
    if forecaster != "static" and (grams is not None or len(coming) > 1):
        name = forecaster if len(coming) > 1 else "statistical"
        own = issued_replays(measured, first_hour, delay, issued) if len(coming) > 1 else []
        replays = own or past_replays(measured, first_hour, delay, {})
    else:
        name, replays = "static", []
    if grams is None:
        last = sum(coming) / len(coming) if coming else fallback_grams if newest is None else known[newest]
        if last is None:
            return None
        grams = (*coming, *[last] * (OUTLOOK_HOURS - len(coming)))
    bridge = (curve(known, first_hour - gap, first_hour - gap, gap) or ()) if gap and newest is not None else ()
    return replace(banded(first_hour, grams, name, replays), bridge=bridge)


def past_replays(history: Hours, first_hour: int, gap_hours: int, kept: dict[int, Replay]) -> list[Replay]:
    """The statistical forecasts that the last 60 days would have seen, beside what came before `first_hour`.

    Args:
        history: as for `make_outlook`; hours from `first_hour` on are not looked at.
        first_hour: of the outlook that is to be banded.
        gap_hours: how many hours before a forecast nothing is known yet.
        kept: origin -> replay, filled here; spares recomputing in a backtest.
    """
    begin = first_hour - HISTORY_HOURS
    oldest = next((hour for hour in range(begin, first_hour) if hour in history), first_hour)
    earliest = oldest + _FIRST_REPLAY_AFTER_HOURS + gap_hours
    replays = []
    for origin in range(earliest + -earliest % REPLAY_EVERY_HOURS, first_hour, REPLAY_EVERY_HOURS):
        replay = kept.get(origin)
        if replay is None or None in replay.actual:
            forecast = replay.forecast if replay else curve(history, origin - gap_hours, origin, OUTLOOK_HOURS)
            if forecast is None:
                continue
            replay = kept[origin] = Replay(forecast, _came(history, origin, first_hour))
        replays.append(replay)
    return replays


def issued_replays(history: Hours, first_hour: int, gap_hours: int, issued: Sequence[Issued]) -> list[Replay]:
    """The provider's forecasts, continued as `make_outlook` does; none at all where fewer than 30 are over."""
    replays = []
    made_before = -math.inf
    for forecast in issued:
        origin = hour_of(forecast.made_seconds)
        if origin >= first_hour or forecast.made_seconds - made_before < _ISSUED_APART_SECONDS:
            continue
        grams = _continued(history, gap_hours, origin, forecast.grams)
        if grams is not None:
            replays.append(Replay(grams, _came(history, origin, first_hour)))
            made_before = forecast.made_seconds
    over = sum(replay.actual[-1] is not None for replay in replays)
    return replays if over >= LEAST_SCORES else []


def banded(first_hour: int, grams: tuple[float, ...], forecaster: str, replays: Sequence[Replay]) -> Outlook:
    """The outlook with the band of each hour, if that of every hour is known."""
    bands = [band for band in hour_bands(grams, replays) if band is not None]
    if len(bands) < len(grams):
        bands = []
    low, high = tuple(low for low, _ in bands), tuple(high for _, high in bands)
    return Outlook(first_hour, grams, low, high, forecaster, tuple(replays))


def hour_bands(grams: Sequence[float], replays: Sequence[Replay]) -> Iterator[tuple[float, float] | None]:
    """The 90 % band of each hour; None where fewer than 30 past forecasts are known for it."""
    of_hours = zip(*(replay.scores for replay in replays), strict=True) if replays else repeat(())
    for value, scores in zip(grams, of_hours, strict=False):
        band = score_band([score for score in scores if score is not None])
        yield None if band is None else around(value, band)


def _known(history: Hours, told: Sequence[Span], first_hour: int) -> dict[int, float]:
    """What is known of each hour, past and to come: of the past the history's word counts, else what is told."""
    begin, end = (first_hour - PROFILE_HOURS) * HOUR_SECONDS, (first_hour + OUTLOOK_HOURS) * HOUR_SECONDS
    # A yearly mean may be told for thousands of years.
    near = hourly_means(
        Span(max(span.start_seconds, begin), min(span.end_seconds, end), span.grams_per_kilowatt_hour)
        for span in told
        if span.end_seconds > begin and span.start_seconds < end
    )
    current = {first_hour: history[first_hour]} if first_hour in history else {}
    return {**current, **near, **{hour: grams for hour, grams in history.items() if hour < first_hour}}


def _coming(known: Hours, first_hour: int) -> tuple[float, ...]:
    """What is told of the hours to come, up to the first hole of more than 6 hours; smaller ones are bridged."""
    coming: list[float] = []
    while len(coming) < OUTLOOK_HOURS:
        hour = first_hour + len(coming)
        following = next((ahead for ahead in range(_LONGEST_FILLED_HOURS + 1) if hour + ahead in known), None)
        if following is None:
            break
        end = known[hour + following]
        begin = coming[-1] if coming else known.get(hour - 1, end)
        steps = following + 1
        coming += [begin + (end - begin) * step / steps for step in range(1, steps)] + [end]
    return tuple(coming[:OUTLOOK_HOURS])


def _continued(known: Hours, gap_hours: int, first_hour: int, coming: Sequence[float]) -> tuple[float, ...] | None:
    """`coming`, from `first_hour` on, and after it the statistical curve, which starts from it without a step."""
    coming = coming[:OUTLOOK_HOURS]
    left = OUTLOOK_HOURS - len(coming)
    if not left:
        return tuple(coming)
    until = first_hour + len(coming)
    if not coming:
        return curve(known, first_hour - gap_hours, first_hour, left)
    before = range(first_hour - PROFILE_HOURS, first_hour - gap_hours)
    seen = {hour: known[hour] for hour in before if hour in known} | dict(enumerate(coming, first_hour))
    rest = curve(seen, until, until, left)
    return None if rest is None else (*coming, *rest)


def _came(history: Hours, origin: int, first_hour: int) -> tuple[float | None, ...]:
    return tuple(history.get(hour) if hour < first_hour else None for hour in range(origin, origin + OUTLOOK_HOURS))
