"""Which intensity a job's grams are forecast with: the outlooks of its zones, or what its joules have cost of late."""

from collections.abc import Mapping

from carbon_exporter.forecast import carbon
from carbon_exporter.forecast.carbon import Curve, Draw
from carbon_exporter.forecast.energy import Quantiles
from carbon_exporter.forecast.readings import Readings
from carbon_exporter.forecast.totals import MIXED
from carbon_exporter.forecast.track import Track
from carbon_exporter.grid.grid import Grid


class Curves:
    """The outlooks of the grid of this process as they are at one moment, each asked for once.

    Attributes:
        now_seconds: that moment, Unix time.
        known: zone -> its curve and what its grams count, of those asked for.

    Args:
        grid: None where the process has none.
        now_seconds: Unix time.
        before: those of the moment before, whose bands are taken over where the outlook is still the same.
    """

    def __init__(self, grid: Grid | None, now_seconds: float, before: "Curves | None" = None) -> None:
        self._grid = grid
        self.now_seconds = now_seconds
        self._before: Mapping[str, tuple[Curve, str] | None] = before.known if before is not None else {}
        self.known: dict[str, tuple[Curve, str] | None] = {}

    def of(self, zone: str, emissions_basis: str) -> Curve | None:
        """The curve of a zone; None where it is not served, or counts other grams than `emissions_basis`."""
        if zone not in self.known:
            self.known[zone] = self._open(zone)
        known = self.known[zone]
        if known is None or emissions_basis not in ("", MIXED, known[1]):
            return None
        return known[0]

    def _open(self, name: str) -> tuple[Curve, str] | None:
        zone = self._grid.zones.get((name, "average")) if self._grid is not None else None
        if zone is None:
            return None
        outlook, timeline = zone.outlook(self.now_seconds), zone.timeline(self.now_seconds)
        if outlook is None or timeline is None:
            return None
        before = self._before.get(name)
        curve = before[0] if before is not None and before[0].outlook is outlook else Curve(outlook)
        return curve, timeline.intensity.basis


def grams_at_end(
    name: str, track: Track, joules: Quantiles, ends_seconds: Quantiles, *, readings: Readings, curves: Curves
) -> Quantiles | None:
    """Grams in total at the end of a job; None where those so far, or the cost of a joule, are not known.

    Args:
        name: of the job.
        track: its course.
        joules: its energy forecast, in total.
        ends_seconds: the forecast of its end, Unix time.
        readings: of this poll.
        curves: of this poll; where one of the job's zones has none, the rate of late holds until the end.
    """
    newest = track.points[-1]
    if newest.grams is None:
        return None
    draws = draws_of(readings.zones.get(name, {}), newest.emissions_basis, curves)
    if draws:
        return carbon.along_outlook(
            joules,
            ends_seconds,
            joules_now=newest.joules,
            grams_now=newest.grams,
            now_seconds=curves.now_seconds,
            draws=draws,
        )
    rate = carbon.job_grams_per_joule(track.points)
    if rate is None:
        rate = carbon.grid_grams_per_joule(readings.grams_per_kilowatt_hour, readings.pue_ratio)
    return None if rate is None else carbon.at_rate(joules, newest.joules, newest.grams, rate)


def draws_of(zones: Mapping[str, float], emissions_basis: str, curves: Curves) -> list[Draw]:
    """Where the power is drawn; empty unless every zone has a curve."""
    draws = []
    for zone, weight in zones.items():
        curve = curves.of(zone, emissions_basis)
        if curve is None:
            return []
        draws.append(Draw(weight, curve))
    return draws
