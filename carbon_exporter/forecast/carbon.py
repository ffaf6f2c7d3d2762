"""From joules still to come to grams of CO2eq: along the intensity that is expected while they are spent. Pure.

Grams = so far + sum over zones of (remaining joules x share of the power there x PUE there x mean intensity until the
end). How much, how long and how dirty are uncertain together: energy and end lie at the same quantile, for what takes
longer uses more; the intensity lies at its own, the same in all zones, for neighbouring grids share their weather. That
joules and intensity are independent is an assumption, which a carbon-aware scheduler breaks.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Final, NamedTuple

from carbon_exporter.forecast.energy import Quantiles
from carbon_exporter.forecast.track import Point
from carbon_exporter.grid.outlook import OUTLOOK_HOURS, Outlook
from carbon_exporter.model import JOULES_PER_KILOWATT_HOUR

_HOUR_SECONDS: Final = 3600.0
_LEVELS: Final = 10
_Z_95: Final = NormalDist().inv_cdf(0.95)
_DEVIATIONS: Final = tuple(NormalDist().inv_cdf((i + 0.5) / _LEVELS) / _Z_95 for i in range(_LEVELS))
"""Equally likely, in units of a 90 % interval's half."""
_CERTAIN: Final = (0.0, 0.0)


class Curve:
    """One zone's outlook, with the bands of means from now on kept by the hour: they are dear, and jobs are many."""

    def __init__(self, outlook: Outlook) -> None:
        self.outlook = outlook
        self._bands: dict[int, tuple[float, float]] = {}

    def band(self, begin_seconds: float, end_seconds: float) -> tuple[float, float]:
        """How far below and above that mean its 90 % band reaches, as shares of it; 0 where that is not known."""
        hours = min(max(1, math.ceil((end_seconds - begin_seconds) / _HOUR_SECONDS)), OUTLOOK_HOURS)
        if hours not in self._bands:
            until = begin_seconds + hours * _HOUR_SECONDS
            mean, band = self.outlook.mean(begin_seconds, until), self.outlook.mean_band(begin_seconds, until)
            known = band is not None and mean > 0
            self._bands[hours] = (1 - band[0] / mean, band[1] / mean - 1) if band is not None and known else _CERTAIN
        return self._bands[hours]


class Draw(NamedTuple):
    """Where a share of the power is drawn: the share times the PUE there, and the zone's curve."""

    weight: float
    curve: Curve


def power_by_zone(
    watts: Mapping[str, Mapping[str, float]], zones: Mapping[str, str], pue: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """Of each job the share of its power in each zone, times the PUE there; "" is a zone that is not known.

    Args:
        watts: training job -> node -> power. A job without any power is left out.
        zones: node -> zone.
        pue: node -> PUE; one that is not known counts as 1.
    """
    weights: dict[str, dict[str, float]] = {}
    for job, nodes in watts.items():
        total = sum(nodes.values())
        if total > 0:
            of_job = weights[job] = {}
            for node, power in nodes.items():
                zone = zones.get(node, "")
                of_job[zone] = of_job.get(zone, 0.0) + power / total * pue.get(node, 1.0)
    return weights


def job_grams_per_joule(points: Sequence[Point]) -> float | None:
    """What a joule of the job has cost between the first and the last of `points`, intensity and PUE included.

    None where there are no two points with grams, or no joules between them.
    """
    counted = [(point.joules, point.grams) for point in points if point.grams is not None]
    if not counted or counted[-1][0] <= counted[0][0]:
        return None
    (first_joules, first_grams), (last_joules, last_grams) = counted[0], counted[-1]
    return max(0.0, last_grams - first_grams) / (last_joules - first_joules)


def grid_grams_per_joule(grams_per_kilowatt_hour: float | None, pue_ratio: float | None) -> float | None:
    """What a joule costs at the mean intensity; None where that is unknown. An unknown PUE counts as 1."""
    if grams_per_kilowatt_hour is None:
        return None
    return grams_per_kilowatt_hour * (1.0 if pue_ratio is None else pue_ratio) / JOULES_PER_KILOWATT_HOUR


def at_rate(joules: Quantiles, joules_now: float, grams_now: float, grams_per_joule: float) -> Quantiles:
    """Grams in total at the end where no outlook is known: each joule to come costs `grams_per_joule`.

    Args:
        joules: the energy forecast, in total.
        joules_now: measured so far.
        grams_now: emitted so far.
        grams_per_joule: held constant until the end, so the interval is that of the energy alone.
    """
    low, median, high = (grams_now + max(0.0, total - joules_now) * grams_per_joule for total in joules)
    return Quantiles(low, median, high)


def along_outlook(
    joules: Quantiles,
    ends_seconds: Quantiles,
    *,
    joules_now: float,
    grams_now: float,
    now_seconds: float,
    draws: Sequence[Draw],
) -> Quantiles:
    """Grams in total at the end: the interval from the product of ten equally likely energies and ten intensities.

    Args:
        joules: the energy forecast, in total.
        ends_seconds: the forecast of the end, Unix time.
        joules_now: measured so far.
        grams_now: emitted so far.
        now_seconds: Unix time.
        draws: at least one.
    """
    # The mean until then changes slowly with the end: between the three ends it is taken to be straight.
    rates = [_rate(draws, now_seconds, max(now_seconds, end)) for end in ends_seconds]
    rate, below, above = (Quantiles(*values) for values in zip(*rates, strict=True))
    totals = []
    for deviation in _DEVIATIONS:
        remaining = max(0.0, _at(joules, deviation) - joules_now) / JOULES_PER_KILOWATT_HOUR
        middle, less, more = (_at(values, deviation) * remaining for values in (rate, below, above))
        totals += [grams_now + middle + other * (more if other > 0 else less) for other in _DEVIATIONS]
    totals.sort()
    median = grams_now + max(0.0, joules.median - joules_now) / JOULES_PER_KILOWATT_HOUR * rate.median
    return Quantiles(min(_quantile(totals, 0.05), median), median, max(_quantile(totals, 0.95), median))


def _rate(draws: Sequence[Draw], now_seconds: float, end_seconds: float) -> tuple[float, float, float]:
    """Grams per kilowatt-hour of the job from now to an end, PUE included, and how far its band reaches either way."""
    rate = below = above = 0.0
    for weight, curve in draws:
        mean = weight * curve.outlook.mean(now_seconds, end_seconds)
        low, high = curve.band(now_seconds, end_seconds)
        rate, below, above = rate + mean, below + mean * low, above + mean * high
    return rate, below, above


def _at(quantiles: Quantiles, deviation: float) -> float:
    """Of a normal curve whose halves have the interval's widths."""
    low, median, high = quantiles
    return median + deviation * (high - median if deviation > 0 else median - low)


def _quantile(ranked: Sequence[float], share: float) -> float:
    """Straight between the ranks on both sides, each of which stands in the middle of its part."""
    position = share * len(ranked) - 0.5
    before = int(position)
    return ranked[before] + (position - before) * (ranked[before + 1] - ranked[before])
