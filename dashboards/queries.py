"""Expressions that several dashboards share.

Whatever is asked of the whole cluster over a range is a recorded series. Joins are `on (cluster, ...)`, and the side
that gives labels is a maximum by them, so that two scrapes of one thing never match twice.
"""

from typing import Final

from dashboards.panels import JOULES_PER_KWH
from dashboards.variables import CLUSTER, NAMESPACE, TEAM, select

GRAMS_PER_KM: Final = 106.6
"""Average of all new passenger cars registered in 2023 in the EU, Iceland and Norway, by WLTP (EEA, provisional)."""

OWNER: Final = (
    "max by (cluster, training_job, namespace, team, user) "
    f"({select('training_job:carbon_job_info:team', CLUSTER, NAMESPACE, TEAM)})"
)
"""1 for each job of the namespaces and teams selected, with whose it is."""


def over_range(rate: str) -> str:
    """What a recorded rate per second adds up to over the range shown.

    Each rate is of 5 minutes and there is one taken every 5 minutes: they tile the time. Hours without data count
    nothing.
    """
    return f"sum_over_time({rate}[$__range:5m]) * 300"


def last_of_range(per_job: str) -> str:
    """The last value over the range shown of a series by job, ended jobs included.

    They stay at it for 15 minutes: looking every 10 minutes sees it, at a twentieth of the cost of every sample.
    """
    return f"last_over_time({per_job}[$__range:10m])"


def now_or_last(per_job: str) -> str:
    """A series of one value for each job: now, or the last of the range shown where the job has ended."""
    return f"({per_job} or on (cluster, training_job) topk by (cluster, training_job) (1, {last_of_range(per_job)}))"


def kwh(joules: str) -> str:
    """Joules as kilowatt-hours."""
    return f"({joules}) / {JOULES_PER_KWH}"


def owned(per_job: str) -> str:
    """A series of one value for each job, for the jobs selected, with whose they are."""
    return f"{per_job} * on (cluster, training_job) group_left (namespace, team, user) {OWNER}"


def of_some(per_job: str, some: str) -> str:
    """A series by job, for the jobs of `some` only."""
    return f"{per_job} and on (cluster, training_job) {some}"


def named(expr: str, *labels: str) -> str:
    """Those of `labels` that are empty say so in words."""
    for label in labels:
        expr = f'label_replace({expr}, "{label}", "no {label}", "{label}", "")'
    return expr


def intensity(*matchers: str) -> str:
    """Grams per kilowatt-hour by zone, provider, signal and basis."""
    return select("grid_zone_provider_signal_basis:carbon_intensity_grams_per_kilowatt_hour:max", CLUSTER, *matchers)


HOURS_AHEAD: Final = ((0, 1), (1, 3), (3, 6), (6, 12), (12, 24), (24, 48), (48, 72), (72, 96))
"""Between the horizons that the exporter gives the mean intensity up to."""


def ahead(start_hours: int, end_hours: int, *matchers: str) -> str:
    """Mean intensity expected between two horizons, by zone: both means are from now, and their hours subtract."""
    end = _until(end_hours, *matchers)
    if start_hours == 0:
        return end
    span = end_hours - start_hours
    both = f"{end_hours} * {end} - on (cluster, grid_zone) {start_hours} * {_until(start_hours, *matchers)}"
    return f"({both}) / {span}"


def _until(hours: int, *matchers: str) -> str:
    horizon = f'horizon="{hours}h"'
    name = "carbon_intensity_forecast_grams_per_kilowatt_hour"
    found = select(name, CLUSTER, 'signal="average"', horizon, *matchers)
    return f"max by (cluster, grid_zone) ({found})"
