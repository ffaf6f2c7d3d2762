"""When to start a job so that the fewest grams are accounted to it, and what that saves. Pure.

The grams are accounted at the average intensity. What the grid as a whole emits need not change by as much, or at all.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Final

from carbon_exporter.grid.outlook import OUTLOOK_HOURS, Outlook
from carbon_exporter.grid.replay import Replay, between, log_ratio, score_band
from carbon_exporter.model import HOUR_SECONDS, Json

SLACK_SECONDS: Final = 24 * 3600.0
"""How long a job waits at most where no deadline is given."""
MOST_KILOWATTS: Final = 1e6
MOST_PUE: Final = 10.0
GRACE_SECONDS: Final = 60.0
"""By so much a job may miss its deadline: asking takes time, and clocks differ."""
NOTHING_AHEAD: Final = "static"
"""The forecaster of an outlook that is flat because nothing is known of the hours ahead."""


@dataclass(frozen=True)
class Advice:
    """The best start of a job, against starting now. Times are Unix seconds, grams are those of the whole job.

    Attributes:
        now_seconds, deadline_seconds: the job starts at the earliest, and must have ended, then.
        start_seconds: the start with the fewest expected grams; now_seconds where none is better.
        grams_now, grams_then: expected with a start now, and then.
        saving_grams, saving_ratio: grams_now - grams_then, and that of grams_now. Where past choices can be replayed,
            less what such choices were disappointed by: the hour that looks best is one whose forecast is likely
            too low.
        saving_ratio_low, saving_ratio_high: nine such choices in ten saved that much; None while too few are known,
            and where nothing is known of the hours ahead.
        worthwhile: saving_ratio_low is above 0.
        forecaster: as of the outlook.
        first_hour_seconds, grams_per_kilowatt_hour: the outlook, hour by hour, up to the deadline.
    """

    hours: float
    kilowatts: float
    pue: float
    now_seconds: float
    deadline_seconds: float
    start_seconds: float
    grams_now: float
    grams_then: float
    saving_grams: float
    saving_ratio: float
    saving_ratio_low: float | None
    saving_ratio_high: float | None
    worthwhile: bool
    forecaster: str
    first_hour_seconds: int
    grams_per_kilowatt_hour: tuple[float, ...]

    def to_json(self) -> Json:
        """Every attribute under its name."""
        return {**asdict(self), "grams_per_kilowatt_hour": [round(grams, 2) for grams in self.grams_per_kilowatt_hour]}


def advise(  # noqa: PLR0917 - as its callers read best
    outlook: Outlook,
    hours: float,
    kilowatts: float,
    deadline_seconds: float | None,
    now_seconds: float,
    pue: float,
) -> Advice:
    """The best start among now and every full hour after it.

    Args:
        outlook: of the job's zone.
        hours: how long it runs, at most 96.
        kilowatts: its mean power, as measured (PUE not included).
        deadline_seconds: when it must have ended (Unix time); None for a day later than it ends if started now. Later
            than the outlook's end is taken as that.
        now_seconds: Unix time.
        pue: the grams are multiplied by it.

    Raises:
        ValueError: an argument makes no sense; one line that says which.
    """
    check_job(hours, kilowatts, pue)
    deadline = _checked_deadline(outlook, hours, deadline_seconds, now_seconds)
    starts = _starts(outlook.hours_ahead(now_seconds), hours, outlook.hours_ahead(deadline))
    best = _cheapest(outlook.sums, starts, hours)
    ratio, low, high = _saving(outlook, starts, best, hours)
    if ratio <= 0:
        best, ratio, low, high = starts[0], 0.0, 0.0, 0.0
    if outlook.forecaster == NOTHING_AHEAD:
        low = high = None
    mean_now = outlook.mean(now_seconds, now_seconds + hours * HOUR_SECONDS)
    grams_now = mean_now * kilowatts * hours * pue
    return Advice(
        hours=hours,
        kilowatts=kilowatts,
        pue=pue,
        now_seconds=now_seconds,
        deadline_seconds=deadline,
        start_seconds=now_seconds if best == starts[0] else (outlook.first_hour + best) * HOUR_SECONDS,
        grams_now=grams_now,
        grams_then=grams_now * (1 - ratio),
        saving_grams=grams_now * ratio,
        saving_ratio=ratio,
        saving_ratio_low=low,
        saving_ratio_high=high,
        worthwhile=low is not None and low > 0,
        forecaster=outlook.forecaster,
        first_hour_seconds=outlook.first_hour * HOUR_SECONDS,
        grams_per_kilowatt_hour=outlook.grams[: max(1, math.ceil(outlook.hours_ahead(deadline)))],
    )


def check_job(hours: float, kilowatts: float, pue: float) -> None:
    """Arguments as of `advise`.

    Raises:
        ValueError: one makes no sense; one line that begins with its name.
    """
    if not 0 < hours <= OUTLOOK_HOURS:
        raise ValueError(f"hours is {hours:g}: must be above 0 and at most {OUTLOOK_HOURS}")
    if not 0 < kilowatts <= MOST_KILOWATTS:
        raise ValueError(f"kilowatts is {kilowatts:g}: must be above 0 and at most {MOST_KILOWATTS:g}")
    if not 1 <= pue <= MOST_PUE:
        raise ValueError(f"pue is {pue:g}: must be 1 to {MOST_PUE:g}")


def _checked_deadline(outlook: Outlook, hours: float, deadline_seconds: float | None, now_seconds: float) -> float:
    earliest_end = now_seconds + hours * HOUR_SECONDS
    deadline = earliest_end + SLACK_SECONDS if deadline_seconds is None else deadline_seconds
    if not deadline >= earliest_end - GRACE_SECONDS:
        raise ValueError(f"deadline_seconds is before now and the job's {hours:g} hours: give a later one")
    # A job that is as long as the outlook may end some minutes after it.
    return max(earliest_end, min(deadline, outlook.end_seconds))


def _starts(now: float, hours: float, deadline: float) -> list[float]:
    """Now, and every full hour after it from which the job ends in time; hours since the begin of the outlook."""
    latest = math.floor(deadline - hours + 1e-9)
    return [now, *(float(start) for start in range(math.floor(now) + 1, latest + 1))]


def _cheapest(sums: Sequence[float], starts: Sequence[float], hours: float) -> float:
    """The earliest of those starts with the lowest mean; `sums` as of `between`."""
    if len(starts) == 1:  # a job as long as the outlook may end after it
        return starts[0]
    # Rounded, so that no wait is advised for the noise of sums.
    return min(starts, key=lambda start: round(between(sums, start, start + hours), 6))


def _saving(
    outlook: Outlook, starts: Sequence[float], best: float, hours: float
) -> tuple[float, float | None, float | None]:
    """The expected saving of `best` against now as a ratio, and its 90 % band, which needs 30 such choices."""
    if best == starts[0]:
        return 0.0, 0.0, 0.0
    now, then = (between(outlook.sums, start, start + hours) for start in (starts[0], best))
    promised = log_ratio(now, then)
    disappointments = _disappointments(outlook.replays, starts, hours)
    band = score_band(disappointments)
    if band is None:
        return -math.expm1(-promised), None, None
    kept = (promised + score for score in (fmean(disappointments), *band))
    expected, low, high = (-math.expm1(-logarithm) for logarithm in kept)
    return expected, low, high


def _disappointments(replays: Sequence[Replay], starts: Sequence[float], hours: float) -> list[float]:
    """What past choices among the same starts really saved against what they promised, as logarithms.

    Only those that were to wait: a start now saves nothing and promises nothing.
    """
    scores = []
    for replay in replays:
        best = _cheapest(replay.forecast_sums, starts, hours)
        if best == starts[0]:
            continue
        now, then = replay.means(starts[0], starts[0] + hours), replay.means(best, best + hours)
        if now is not None and then is not None:
            scores.append(log_ratio(now[1], then[1]) - log_ratio(now[0], then[0]))
    return scores
