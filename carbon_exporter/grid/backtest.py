"""How good the statistical forecast of the intensity is on a recorded series, beside what is simpler.

Every forecast sees only the hours before it, and its bands only the errors of forecasts that were over by then. It is
the code that makes the outlook of a running service.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Final

from carbon_exporter.grid.advice import advise
from carbon_exporter.grid.hours import Hours
from carbon_exporter.grid.outlook import OUTLOOK_HOURS, Outlook, hour_bands, past_replays
from carbon_exporter.grid.replay import Replay
from carbon_exporter.grid.statistical import LEAST_GRAMS, PROFILE_HOURS, curve
from carbon_exporter.model import HOUR_SECONDS

HORIZONS: Final = (1, 24, 96)
WINDOWS: Final = (24, 96)
FORECAST: Final = "this forecast"
EVERY_HOURS: Final = 7
JOB_HOURS: Final = 8
"""Of the job whose best start is looked for, with a day of slack."""
_WEEK_HOURS: Final = 168
_ADVICE_EVERY: Final = 7
"""It takes longer than the rest; 7 times 7 hours still come round to every hour of the day."""


@dataclass
class Errors:
    """Of one way to forecast, each a ratio of what came.

    Attributes:
        hourly: first hours of the forecast -> mean absolute error over them, of each forecast.
        means: first hours of the forecast -> absolute error of the mean over them.
    """

    hourly: dict[int, list[float]] = field(default_factory=lambda: {hours: [] for hours in HORIZONS})
    means: dict[int, list[float]] = field(default_factory=lambda: {hours: [] for hours in WINDOWS})

    def take(self, forecast: Sequence[float], actual: Sequence[float]) -> None:
        """Score one forecast; no hour of it, or of what came, is below LEAST_GRAMS."""
        pairs = zip(forecast, actual, strict=True)
        errors = [abs(said - came) / came for said, came in pairs]
        for hours, of_hours in self.hourly.items():
            of_hours.append(fmean(errors[:hours]))
        for hours, of_mean in self.means.items():
            of_mean.append(abs(fmean(forecast[:hours]) / fmean(actual[:hours]) - 1))


@dataclass
class Band:
    """How often 90 % bands held what came, and how wide they were as a ratio of the forecast."""

    inside: list[bool] = field(default_factory=list)
    widths: list[float] = field(default_factory=list)

    def take(self, low: float, high: float, actual: float, scale: float) -> None:
        """Score one band."""
        self.inside.append(low <= actual <= high)
        self.widths.append((high - low) / scale)

    @property
    def coverage(self) -> float | None:
        """None before the first band, as is `width`."""
        return fmean(self.inside) if self.inside else None

    @property
    def width(self) -> float | None:
        """The median."""
        return median(self.widths) if self.widths else None


@dataclass
class Savings:
    """Of the advised starts: what was expected and what came, ratios of the grams of a start at once.

    Attributes:
        expected, realised, best: of every advice; `best` is what the cheapest start would have saved.
        band: of the advised waits.
        worthwhile: what came of each advice that was called worthwhile.
    """

    expected: list[float] = field(default_factory=list)
    realised: list[float] = field(default_factory=list)
    best: list[float] = field(default_factory=list)
    band: Band = field(default_factory=Band)
    worthwhile: list[float] = field(default_factory=list)


@dataclass
class Report:
    """The scores of one series."""

    grams_mean: float
    origins: int = 0
    errors: dict[str, Errors] = field(default_factory=dict)
    hourly_band: Band = field(default_factory=Band)
    """Of each of the first 24 hours."""
    mean_bands: dict[int, Band] = field(default_factory=lambda: {hours: Band() for hours in WINDOWS})
    savings: Savings = field(default_factory=Savings)


def backtest(series: Hours, every_hours: int = EVERY_HOURS, advance: Callable[[float], None] | None = None) -> Report:
    """Forecast at every `every_hours`-th hour that has two known weeks behind it and the 96 hours after it known.

    Args:
        series: the whole record.
        every_hours: from one forecast to the next.
        advance: told of progress, from 0 to 1.
    """
    first, end = min(series) + PROFILE_HOURS, max(series) + 2 - OUTLOOK_HOURS
    report = Report(fmean(series.values()))
    kept: dict[int, Replay] = {}
    for count, origin in enumerate(range(first, end, every_hours)):
        _take(report, series, origin, kept, with_advice=count % _ADVICE_EVERY == 0)
        if advance is not None:
            advance((origin - first + 1) / (end - first))
    return report


def _take(report: Report, series: Hours, origin: int, kept: dict[int, Replay], *, with_advice: bool) -> None:
    actual = _known(series, origin, origin + OUTLOOK_HOURS)
    week = _known(series, origin - _WEEK_HOURS, origin)
    grams = curve(series, origin, origin, OUTLOOK_HOURS)
    if actual is None or week is None or grams is None:
        return
    report.origins += 1
    for name, forecast in {FORECAST: grams, **_baselines(week)}.items():
        report.errors.setdefault(name, Errors()).take(forecast, actual)
    replays = past_replays(series, origin, 0, kept)
    for band_of_hour, came, said in zip(hour_bands(grams[:24], replays), actual, grams, strict=False):
        if band_of_hour is not None:
            report.hourly_band.take(*band_of_hour, came, said)
    outlook = Outlook(origin, grams, (), (), FORECAST, tuple(replays))
    begin = float(origin * HOUR_SECONDS)
    for hours, band in report.mean_bands.items():
        ends = outlook.mean_band(begin, begin + hours * HOUR_SECONDS)
        if ends is not None:
            band.take(*ends, fmean(actual[:hours]), fmean(grams[:hours]))
    if with_advice:
        _take_advice(report.savings, outlook, actual, begin)


def _take_advice(savings: Savings, outlook: Outlook, actual: Sequence[float], now_seconds: float) -> None:
    advice = advise(outlook, JOB_HOURS, 1.0, None, now_seconds, 1.0)
    if advice.saving_ratio_low is None or advice.saving_ratio_high is None:
        return
    latest = round(outlook.hours_ahead(advice.deadline_seconds)) - JOB_HOURS
    costs = [sum(actual[start : start + JOB_HOURS]) for start in range(latest + 1)]
    came = 1 - costs[round(outlook.hours_ahead(advice.start_seconds))] / costs[0]
    savings.expected.append(advice.saving_ratio)
    savings.realised.append(came)
    savings.best.append(1 - min(costs) / costs[0])
    if advice.start_seconds > now_seconds:
        savings.band.take(advice.saving_ratio_low, advice.saving_ratio_high, came, 1.0)
    if advice.worthwhile:
        savings.worthwhile.append(came)


def _known(series: Hours, begin: int, end: int) -> tuple[float, ...] | None:
    """All hours from begin to end; None where one is not known.

    None is below LEAST_GRAMS, as no forecast is: a perfect forecast of nothing is to have no error.
    """
    hours = tuple(max(series[hour], LEAST_GRAMS) for hour in range(begin, end) if hour in series)
    return hours if len(hours) == end - begin else None


def _baselines(week: tuple[float, ...]) -> Mapping[str, tuple[float, ...]]:
    return {
        "persistence": week[-1:] * OUTLOOK_HOURS,
        "same hour yesterday": week[-24:] * (OUTLOOK_HOURS // 24),
        "same hour last week": week[:OUTLOOK_HOURS],
    }
