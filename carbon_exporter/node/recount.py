"""Grams of joules whose intensity is told late: counted again, or counted once it is known at all. Pure.

The joules of the last 15 minutes are remembered in buckets of at most 30 s that begin at whole half minutes of Unix
time, as the spans of all providers do: within a bucket the intensity does not change, and counting it again is exact.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import floor
from typing import Final

from carbon_exporter.model import JOULES_PER_KILOWATT_HOUR, Component
from carbon_exporter.node.accounts import Account
from carbon_exporter.timeline import Timeline

WINDOW_SECONDS: Final = 900.0
BUCKET_SECONDS: Final = 30.0
_HAIR_SECONDS: Final = 1e-3
"""By which the two clocks may differ from one reading to the next."""
_YEARLY_MEAN_LEVEL: Final = 2
"""model.Intensity.fallback_level from which on a value is no provider's word on this very time."""


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """Grams per joule over time: PUE times intensity, on the clock of the readings.

    Attributes:
        timeline: None while no intensity is known.
        pue: power usage effectiveness.
        unix_offset_seconds: Unix time less the time on the clock of the readings.
    """

    timeline: Timeline | None
    pue: float
    unix_offset_seconds: float

    @property
    def basis(self) -> str | None:
        """What the grams count; None while no intensity is known."""
        return self.timeline.intensity.basis if self.timeline is not None else None

    def mean(self, begin_seconds: float, end_seconds: float) -> float | None:
        """Mean grams per joule between two moments, weighted by time; None while no intensity is known."""
        if self.timeline is None:
            return None
        offset = self.unix_offset_seconds
        grams = self.timeline.mean(begin_seconds + offset, end_seconds + offset)
        return self.pue * grams / JOULES_PER_KILOWATT_HOUR

    def corrects(self, before: "Factors", begin_seconds: float, end_seconds: float) -> bool:
        """Whether joules of that time, counted with `before`, are to be counted again with this.

        They are where the provider itself now says what was, on the same basis; a yearly mean replaces no word of a
        provider, and where nothing was known anything is better.
        """
        if self.timeline is None or before.timeline is None:
            return self.timeline is not None
        now, then = self.timeline.intensity, before.timeline.intensity
        if now.basis != then.basis or now.fallback_level >= max(_YEARLY_MEAN_LEVEL, then.fallback_level + 1):
            return False
        offset = self.unix_offset_seconds
        return self.timeline.tells(begin_seconds + offset + _HAIR_SECONDS, end_seconds + offset - _HAIR_SECONDS)


Column = dict[str, float]
"""Joules by job."""


@dataclass(slots=True, eq=False)
class _Bucket:
    """The joules of jobs over a stretch of time, and with what they were counted."""

    begin_seconds: float
    end_seconds: float
    factors: Factors
    joules: dict[Component, Column] = field(default_factory=lambda: defaultdict(dict))


class Recount:
    """The joules of the last 15 minutes, by bucket, component and job."""

    def __init__(self) -> None:
        self._buckets: list[_Bucket] = []
        self._open: dict[int, _Bucket] = {}
        self._factors: Factors | None = None

    def take(self, factors: Factors, accounts: Mapping[str, Account], now_seconds: float) -> None:
        """Go on with `factors`; if they are new, put right the grams of the joules that they tell more about."""
        begin = now_seconds - WINDOW_SECONDS
        self._buckets = [bucket for bucket in self._buckets if bucket.end_seconds > begin]
        self._open = {cell: bucket for cell, bucket in self._open.items() if bucket.end_seconds > begin}
        if factors is self._factors:
            return
        self._factors, self._open = factors, {}
        if factors.basis is not None:
            self._correct(factors, factors.basis, accounts)
            self._count_rest(factors, factors.basis, accounts.values(), begin)

    def _correct(self, factors: Factors, basis: str, accounts: Mapping[str, Account]) -> None:
        changes: dict[tuple[str, Component], float] = defaultdict(float)
        for bucket in self._buckets:
            begin, end, before = bucket.begin_seconds, bucket.end_seconds, bucket.factors
            if not factors.corrects(before, begin, end):
                continue
            bucket.factors = factors
            waited = before.timeline is None
            difference = (factors.mean(begin, end) or 0.0) - (before.mean(begin, end) or 0.0)
            if not difference and not waited:
                continue
            for component, column in bucket.joules.items():
                for name, joules in column.items():
                    changes[name, component] += joules * difference
                    if waited:
                        accounts[name].waiting_joules[component] -= joules
        for (name, component), grams in changes.items():
            accounts[name].count(component, basis, grams)

    def _count_rest(self, factors: Factors, basis: str, accounts: Iterable[Account], begin_seconds: float) -> None:
        """Count what has waited for longer than the buckets go back, as of their beginning."""
        grams_per_joule = factors.mean(begin_seconds, begin_seconds) or 0.0
        for account in accounts:
            for component, joules in account.waiting_joules.items():
                account.count(component, basis, max(0.0, joules) * grams_per_joule)
            account.waiting_joules.clear()

    def columns(self, component: Component, begin_seconds: float, end_seconds: float) -> list[tuple[Column, float]]:
        """Where the joules that jobs used between two moments are to be noted, and what part of them in each.

        What is longer ago than the window is in none.
        """
        factors = self._factors
        if factors is None:
            raise RuntimeError("take comes before columns")
        columns, length, offset = [], end_seconds - begin_seconds, factors.unix_offset_seconds
        at = max(begin_seconds, end_seconds - WINDOW_SECONDS)
        cell = floor((at + offset) / BUCKET_SECONDS)
        while at < end_seconds:
            until = min(end_seconds, (cell + 1) * BUCKET_SECONDS - offset)
            if until > at:
                columns.append((self._bucket(cell, at, until, factors).joules[component], (until - at) / length))
                at = until
            cell += 1
        return columns

    def _bucket(self, cell: int, begin: float, end: float, factors: Factors) -> _Bucket:
        bucket = self._open.get(cell)
        if bucket is None:
            bucket = self._open[cell] = _Bucket(begin, end, factors)
            self._buckets.append(bucket)
        bucket.begin_seconds, bucket.end_seconds = min(bucket.begin_seconds, begin), max(bucket.end_seconds, end)
        return bucket

    def forget(self, names: Iterable[str]) -> None:
        """Drop jobs whose accounts are closed: one of the same name later is another."""
        for name in names:
            for bucket in self._buckets:
                for column in bucket.joules.values():
                    column.pop(name, None)
