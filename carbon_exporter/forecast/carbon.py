"""From joules still to come to grams of CO2eq: at what a joule of the job costs now. Pure."""

from collections.abc import Sequence

from carbon_exporter.forecast.energy import Quantiles
from carbon_exporter.forecast.progress import Point
from carbon_exporter.model import JOULES_PER_KILOWATT_HOUR


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


def forecast(joules: Quantiles, joules_now: float, grams_now: float, grams_per_joule: float) -> Quantiles:
    """Grams in total at the planned end: those so far, and each joule to come at `grams_per_joule`.

    Args:
        joules: the energy forecast, in total.
        joules_now: measured so far.
        grams_now: emitted so far.
        grams_per_joule: held constant until the end, so the interval is that of the energy alone.
    """
    low, median, high = (grams_now + max(0.0, total - joules_now) * grams_per_joule for total in joules)
    return Quantiles(low, median, high)
