"""What a process says of the grid on its page of metrics."""

from collections.abc import Iterable, Iterator
from typing import Final, get_args

from carbon_exporter import metrics
from carbon_exporter.grid.fetcher import Fetcher
from carbon_exporter.grid.grid import Grid
from carbon_exporter.grid.hours import HORIZONS_HOURS
from carbon_exporter.grid.outlook import Outlook
from carbon_exporter.grid.zone import Zone
from carbon_exporter.metrics import Family
from carbon_exporter.model import HOUR_SECONDS, FetchFailure, Intensity

_FAILURES: Final[tuple[FetchFailure, ...]] = get_args(FetchFailure)


def grid_families(grid: Grid, now_seconds: float) -> Iterator[Family]:
    """The intensity of every zone, its outlook, and how the fetching goes."""
    timelines = [zone.timeline(now_seconds) for zone in grid.zones.values()]
    yield from intensity_families([timeline.intensity for timeline in timelines if timeline is not None])
    yield from outlook_families(grid.zones.values(), now_seconds)
    yield from fetch_families(grid.fetchers)


def intensity_families(intensities: Iterable[Intensity]) -> Iterator[Family]:
    """The intensities in use, and how good they are; the fallback level is that of the average, which grams take."""
    found = list(intensities)
    average = [one for one in found if one.signal == "average"]
    yield Family(
        metrics.INTENSITY,
        [((one.grid_zone, one.provider, one.signal, one.basis), one.grams_per_kilowatt_hour) for one in found],
    )
    yield Family(metrics.INTENSITY_ESTIMATED, [((one.grid_zone, one.provider), float(one.estimated)) for one in found])
    yield Family(
        metrics.INTENSITY_DATA_TIMESTAMP,
        [
            ((one.grid_zone, one.provider), one.data_timestamp_seconds)
            for one in found
            if one.data_timestamp_seconds is not None
        ],
    )
    yield Family(metrics.INTENSITY_FALLBACK, [((one.grid_zone,), float(one.fallback_level)) for one in average])


def outlook_families(zones: Iterable[Zone], now_seconds: float) -> Iterator[Family]:
    """The expected mean intensity up to each horizon."""
    samples: list[tuple[tuple[str, ...], float]] = []
    for zone in zones:
        outlook, timeline = zone.outlook(now_seconds), zone.timeline(now_seconds)
        if outlook is not None and timeline is not None:
            name = timeline.intensity.grid_zone
            samples += [
                ((name, outlook.forecaster, zone.signal, f"{hours}h"), _mean(outlook, now_seconds, hours))
                for hours in HORIZONS_HOURS
            ]
    yield Family(metrics.INTENSITY_FORECAST, samples)


def _mean(outlook: Outlook, now_seconds: float, hours: int) -> float:
    return outlook.mean(now_seconds, now_seconds + hours * HOUR_SECONDS)


def fetch_families(fetchers: Iterable[Fetcher]) -> Iterator[Family]:
    """When each provider last answered, and how often it did not; nothing where none is asked."""
    success: list[tuple[tuple[str, ...], float]] = []
    errors: list[tuple[tuple[str, ...], float]] = []
    for fetcher in fetchers:
        errors += [((fetcher.provider, reason), float(fetcher.errors[reason])) for reason in _FAILURES]
        success += [
            ((feed.grid_zone, fetcher.provider), feed.fetched_seconds)
            for feed in fetcher.feeds()
            if feed.fetched_seconds is not None
        ]
    yield Family(metrics.INTENSITY_LAST_SUCCESS, success)
    yield Family(metrics.INTENSITY_FETCH_ERRORS, errors)
