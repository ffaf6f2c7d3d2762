"""Settings of the recording and alerting rules: the key `rules` of the configuration file (docs/rules.md)."""

import re
from typing import Annotated, Final

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, field_validator

from carbon_exporter import settings

_OF_THE_RULES: Final = frozenset(
    {
        *("alertname", "basis", "collector", "component", "grid_zone", "group", "instance", "job", "namespace"),
        *("node_name", "provider", "quantile", "reason", "severity", "team", "training_job", "user", "uuid", "warning"),
    }
)


_SECONDS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_LONGEST_SECONDS: Final = 365 * 86400
_LONGEST_INTERVAL_SECONDS: Final = 120


def _is_a_label(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError("is no label name: give letters, digits and _, no digit first")
    return name


def _is_free(name: str) -> str:
    if name in _OF_THE_RULES or name.startswith(("__", "exported_")):
        raise ValueError("the rules use this label themselves: give another name")
    return name


def _is_a_duration(text: str) -> str:
    if _seconds(text) > _LONGEST_SECONDS:
        raise ValueError("give no more than a year: 365d")
    return text


def _is_often(text: str) -> str:
    if _seconds(text) > _LONGEST_INTERVAL_SECONDS:
        raise ValueError("give no more than 2m: a recorded sample of 5 minutes ago counts as gone")
    return text


def _seconds(text: str) -> float:
    found = re.fullmatch(r"0*([1-9][0-9]*)(ms|s|m|h|d|w)", text)
    if found is None:
        raise ValueError("give a number above 0 and a unit, such as 30s, 5m or 1h")
    return int(found[1]) * _SECONDS[found[2]]


LabelName = Annotated[str, AfterValidator(_is_a_label)]
FreeLabelName = Annotated[LabelName, AfterValidator(_is_free)]
"""A label that no rule sets or groups by."""
Duration = Annotated[str, AfterValidator(_is_a_duration)]
"""A time as Prometheus writes it, such as 5m."""
Interval = Annotated[Duration, AfterValidator(_is_often)]
Ratio = Annotated[float, Field(gt=0, le=1)]


class Thresholds(settings.Settings):
    """When an alert speaks. `..._for` is how long its condition has to hold before it does."""

    budget_for: Duration = "5m"
    forecast_growth_ratio: Ratio = 0.2
    stalled_epochs: PositiveFloat = 3
    stalled_seconds: PositiveFloat = 1800
    stalled_first_epoch_seconds: PositiveFloat = 86400
    stalled_watts: PositiveFloat = 20
    idle_gpu_utilization_ratio: Ratio = 0.05
    idle_gpu_for: Duration = "25m"
    epoch_energy_growth_ratio: Ratio = 0.5
    not_pushed_watts: PositiveFloat = 50
    not_pushed_for: Duration = "1h"
    intensity_age_seconds: PositiveFloat = 21600
    fallback_for: Duration = "1h"
    collector_for: Duration = "5m"
    sampling_gap_ratio: Ratio = 0.05
    equally_shared_ratio: Ratio = 0.1
    down_for: Duration = "10m"
    absent_for: Duration = "10m"
    forecast_age_seconds: PositiveFloat = 600
    coverage_ratio: Ratio = 0.8
    coverage_runs: PositiveInt = 20


class Budgets(settings.Settings):
    """What a job may emit, grams of CO2eq, where it pushes no budget of its own: its team's, else the default."""

    default_grams: PositiveFloat | None = None
    team_grams: dict[str, PositiveFloat] = Field(default_factory=dict)

    @field_validator("team_grams")
    @classmethod
    def _name_the_team(cls, grams: dict[str, float]) -> dict[str, float]:
        if "" in grams:
            raise ValueError("a team has no name; use default_grams for jobs without a team")
        return grams


class Settings(settings.Settings):
    """Settings of `carbon-exporter rules`.

    cluster_label: the label that tells clusters apart.
    namespace_label, team_labels: labels of carbon_job_info; the first of team_labels that a job has names its team.
    runbook_url: where the alerts' pages are; the alert's name is appended.
    interval: how often the rules are evaluated; None as often as Prometheus does by itself.
    alert_labels: further labels of every alert, templates as in any alerting rule.
    """

    cluster_label: FreeLabelName = "cluster"
    namespace_label: LabelName = "pod_namespace"
    team_labels: tuple[LabelName, ...] = Field(default=("team", "account", "pod_namespace"), min_length=1)
    runbook_url: settings.PlainUrl = "http://127.0.0.1:10091/runbooks"
    interval: Interval | None = None
    alert_labels: dict[FreeLabelName, str] = Field(default_factory=dict)
    budgets: Budgets = Budgets()
    thresholds: Thresholds = Thresholds()
