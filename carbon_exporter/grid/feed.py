"""One provider for one zone: what it said last, how good that is still, and when it is asked again."""

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from carbon_exporter.answers import in_order
from carbon_exporter.grid.cache import Cached, Forecast
from carbon_exporter.grid.hours import hour_of, hourly_means
from carbon_exporter.grid.outlook import Issued
from carbon_exporter.model import HOUR_SECONDS, ConfigurationError, GridProvider, GridReading, ProviderError, Span, Web

FIRST_WITHIN_SECONDS: Final = 30.0
JITTER: Final = 0.1
"""Of the refresh time, to either side: a thousand nodes that start together must not ask together."""
FIRST_RETRY_SECONDS: Final = 30.0
LONGEST_RETRY_SECONDS: Final = 1800.0
REFUSED_SECONDS: Final = 3600.0
"""After 401 and 403: a token does not get better by asking."""
RATE_LIMIT_SECONDS: Final = 60.0
LONGEST_RETRY_AFTER_SECONDS: Final = 86_400.0
PREDICT_SECONDS: Final = 3600.0
FORECAST_FRESH_SECONDS: Final = 86_400.0
"""What a provider forecast for now, or its own past tells of now, is better than a yearly mean for so long."""
ENOUGH_TO_CONTINUE: Final = 14 * 24
"""Hours of history from which the statistical forecast is made."""
HISTORY_SECONDS: Final = 60 * 86_400.0
ISSUED_EVERY_SECONDS: Final = 6 * 3600.0
SHORTEST_ISSUED_SECONDS: Final = 6 * 3600.0
ISSUED_KEPT: Final = 120
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Schedule:
    """When one question is due, on a monotonic clock."""

    due_seconds: float
    failures: int = 0

    def succeeded(self, now_seconds: float, refresh_seconds: float, chance: float) -> None:
        """Ask again after the refresh time, with jitter; `chance` is from 0 to 1."""
        self.failures = 0
        self.due_seconds = now_seconds + refresh_seconds * (1 + JITTER * (2 * chance - 1))

    def failed(self, now_seconds: float, error: ProviderError, chance: float) -> None:
        """Ask again later: twice as late each time, and not before the service wants it."""
        self.failures += 1
        longest = min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** min(self.failures - 1, 10))
        wait = longest * (0.5 + 0.5 * chance)
        if error.reason in ("auth", "forbidden"):
            wait = REFUSED_SECONDS
        elif error.reason == "rate_limit":
            wait = max(wait, RATE_LIMIT_SECONDS)
        self.due_seconds = now_seconds + max(wait, min(error.retry_after_seconds or 0.0, LONGEST_RETRY_AFTER_SECONDS))


class Feed:
    """Asks one provider for one zone, and keeps what it said.

    Args:
        provider: of this zone.
        grid_zone: its name, for the log.
        started_seconds: monotonic time of now.
        chance: numbers from 0 to 1.

    Attributes:
        reading: the last answer; None before the first.
        forecast: the provider's own, if it gave one.
        fetched_seconds: Unix time of `reading`; None before the first.
        history: hour number -> mean, of the last 60 days, as it was measured.
        recalled: such hours from elsewhere.
        issued: forecasts that the provider made earlier, to be scored.
        failure, forecast_failure: why the last question of each kind failed; None where it did not.
    """

    def __init__(
        self,
        provider: GridProvider,
        grid_zone: str,
        started_seconds: float,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.provider = provider
        self.traits = provider.traits
        self.grid_zone = grid_zone
        self.reading: GridReading | None = None
        self.forecast: Forecast | None = None
        self.fetched_seconds: float | None = None
        self.history: dict[int, float] = {}
        self.recalled: dict[int, float] = {}
        self.issued: list[Issued] = []
        self.failure: ProviderError | None = None
        self.forecast_failure: ProviderError | None = None
        self._chance = chance
        first = started_seconds + FIRST_WITHIN_SECONDS * chance()
        self._observing = Schedule(first)
        self._predicting = Schedule(first if self.traits.horizon_seconds else float("inf"))

    @property
    def due_seconds(self) -> float:
        """When it is to be asked next (monotonic)."""
        return min(self._observing.due_seconds, self._predicting.due_seconds)

    def ask(self, web: Web, now_seconds: float, unix_seconds: float) -> ProviderError | None:
        """Put the question that has been due longest; why it failed, or None. Never raises.

        Args:
            web: the way out.
            now_seconds: monotonic time.
            unix_seconds: the same moment, Unix time.
        """
        if self._observing.due_seconds <= self._predicting.due_seconds:
            return self.ask_values(web, now_seconds, unix_seconds)
        return self.ask_forecast(web, now_seconds, unix_seconds)

    def ask_values(self, web: Web, now_seconds: float, unix_seconds: float) -> ProviderError | None:
        """Ask for what is and was, whether or not it is due; as `ask`."""
        before = self.failure
        self.failure = self._put(lambda: self._observe(web, unix_seconds))
        if self.failure is None:
            self._observing.succeeded(now_seconds, self.traits.refresh_seconds, self._chance())
            if before is not None:
                _log.info("%s answers again for %s", self.traits.provider, self.grid_zone)
            return None
        self._observing.failed(now_seconds, self.failure, self._chance())
        if before is None or before.reason != self.failure.reason:
            _log.warning("%s", self.failure)
        return self.failure

    def ask_forecast(self, web: Web, now_seconds: float, unix_seconds: float) -> ProviderError | None:
        """Ask for the provider's own forecast, whether or not it is due; as `ask`."""
        before = self.forecast_failure
        self.forecast_failure = self._put(lambda: self._predict(web, unix_seconds))
        if self.forecast_failure is None:
            self._predicting.succeeded(now_seconds, PREDICT_SECONDS, self._chance())
            return None
        self._predicting.failed(now_seconds, self.forecast_failure, self._chance())
        if before is None or before.reason != self.forecast_failure.reason:
            # Not every token may have the forecast: that is no trouble.
            say = _log.info if self.forecast_failure.reason == "forbidden" else _log.warning
            say("no forecast of %s for %s: %s", self.traits.provider, self.grid_zone, self.forecast_failure)
        return self.forecast_failure

    def _put(self, question: Callable[[], None]) -> ProviderError | None:
        try:
            question()
        except ProviderError as error:
            return error
        except ConfigurationError as error:  # a token's file that is gone
            return ProviderError("auth", str(error))
        except Exception as error:  # noqa: BLE001 - a provider's bug must not stop the others; its text may hold a secret
            return ProviderError("parse", f"{self.traits.provider}: {type(error).__name__} in reading its answer")
        return None

    def _observe(self, web: Web, unix_seconds: float) -> None:
        reading = self.provider.observe(web, self._since(unix_seconds), unix_seconds)
        if not reading.spans:
            raise ProviderError("empty", f"{self.traits.provider}: no value for {self.grid_zone}: is the zone right?")
        if self.reading is not reading:
            self.reading = reading
            self._remember(reading, unix_seconds)
        self.fetched_seconds = unix_seconds

    def _since(self, unix_seconds: float) -> float:
        """From when on values are asked for: a month at first, later what has not been measured yet."""
        oldest = unix_seconds - HISTORY_SECONDS / 2
        if self.history:
            again = 24 if self.traits.keeps_estimates else 1
            return max(oldest, (max(self.history) - again) * HOUR_SECONDS)
        return oldest if self.reading is None else unix_seconds - 86_400

    def _predict(self, web: Web, unix_seconds: float) -> None:
        reading = self.provider.predict(web, unix_seconds)
        if reading.spans:
            self.forecast = Forecast(unix_seconds, reading.spans)
            self._issue(unix_seconds)

    def _remember(self, reading: GridReading, unix_seconds: float) -> None:
        """Keep the hours that were measured: forecasts are scored by them, and a forecast must not be its own judge."""
        past = [
            span
            for span in reading.spans
            if span.end_seconds <= unix_seconds and (self.traits.keeps_estimates or not span.estimated)
        ]
        oldest = hour_of(unix_seconds - HISTORY_SECONDS)
        hours = {**self.history, **hourly_means(past)}
        self.history = {hour: grams for hour, grams in hours.items() if hour >= oldest}
        if self.traits.horizon_seconds:
            self._issue(unix_seconds)

    def past(self) -> dict[int, float]:
        """The history, and what was read back of the time before what the provider told itself."""
        newest = max(self.history, default=0)
        return {**{hour: grams for hour, grams in self.recalled.items() if hour < newest}, **self.history}

    def _issue(self, unix_seconds: float) -> None:
        """Keep what the provider says of the next hours, to score it when they are over."""
        if self.issued and unix_seconds - self.issued[-1].made_seconds < ISSUED_EVERY_SECONDS:
            return
        means = hourly_means(self.told_spans())
        first = hour_of(unix_seconds)
        coming: list[float] = []
        while first + len(coming) in means:
            coming.append(means[first + len(coming)])
        if len(coming) * HOUR_SECONDS >= min(SHORTEST_ISSUED_SECONDS, self.traits.horizon_seconds / 2):
            self.issued = [*self.issued, Issued(unix_seconds, tuple(coming))][-ISSUED_KEPT:]

    def told_spans(self) -> tuple[Span, ...]:
        """All that the provider says: the answer, and its forecast for what the answer does not cover."""
        spans = self.reading.spans if self.reading is not None else ()
        if self.forecast is None or self.forecast.spans == ():
            return spans
        until = spans[-1].end_seconds if spans else float("-inf")
        later = [
            Span(max(until, s.start_seconds), s.end_seconds, s.grams_per_kilowatt_hour, estimated=True)
            for s in self.forecast.spans
            if s.end_seconds > until
        ]
        return in_order([*spans, *later])

    def level(self, unix_seconds: float, told: Sequence[Span]) -> int | None:
        """0 while what it said is live, 1 while it can still be used, None where it cannot.

        Args:
            unix_seconds: now.
            told: `told_spans()`.
        """
        if self.reading is None or self.fetched_seconds is None:
            return None
        # A clock may be set back: at the latest it was now.
        self.fetched_seconds = min(self.fetched_seconds, unix_seconds)
        age = unix_seconds - min(self.reading.spans[-1].end_seconds, self.fetched_seconds)
        if age <= self.traits.lag_seconds:
            return 0
        made = max(self.fetched_seconds, self.forecast.made_seconds if self.forecast else 0.0)
        covered = told[0].start_seconds <= unix_seconds < told[-1].end_seconds
        forecast_holds = covered and unix_seconds - made <= FORECAST_FRESH_SECONDS
        continued = len(self.history) >= ENOUGH_TO_CONTINUE and age <= self.traits.lag_seconds + FORECAST_FRESH_SECONDS
        return 1 if age <= self.traits.fresh_seconds or forecast_holds or continued else None

    def state(self) -> Cached:
        """What a restart needs."""
        return Cached(self.reading, self.fetched_seconds, self.forecast, self.history, tuple(self.issued))

    def restore(self, cached: Cached, now_seconds: float, unix_seconds: float) -> None:
        """Take up `state()` of an earlier process: nothing is asked before it is due."""
        self.reading, self.fetched_seconds, self.forecast = cached.reading, cached.fetched_seconds, cached.forecast
        self.history, self.issued = dict(cached.history), list(cached.issued)
        if cached.fetched_seconds is not None and cached.fetched_seconds > unix_seconds + 60:
            self.reading = self.fetched_seconds = None  # from a clock that was wrong: nobody knows its age
        if self.fetched_seconds is not None and self.reading is not None:
            left = self.fetched_seconds + self.traits.refresh_seconds - unix_seconds
            wait = min(max(left, 0.0), self.traits.refresh_seconds)
            self._observing.due_seconds = max(self._observing.due_seconds, now_seconds + wait)
        if cached.forecast is not None and self.traits.horizon_seconds:
            left = cached.forecast.made_seconds + PREDICT_SECONDS - unix_seconds
            wait = min(max(left, 0.0), PREDICT_SECONDS)
            self._predicting.due_seconds = max(self._predicting.due_seconds, now_seconds + wait)
