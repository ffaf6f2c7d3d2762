"""The families of the forecast service's page. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from carbon_exporter import metrics
from carbon_exporter.forecast.energy import QUANTILES, Forecast, Quantiles
from carbon_exporter.forecast.progress import Outcome
from carbon_exporter.forecast.promql import Reason
from carbon_exporter.metrics import Family

Rows: TypeAlias = list[tuple[tuple[str, ...], float]]


@dataclass(frozen=True, slots=True)
class Prediction:
    """One job's row: its energy forecast, its grams and their basis where known, and when it was made (Unix time).

    Attributes:
        expected_grams: with early stopping counted in; None where energy.expected_joules is, or grams are not known.
    """

    training_job: str
    group: str
    energy: Forecast
    grams: Quantiles | None
    emissions_basis: str
    made_seconds: float
    expected_grams: Quantiles | None = None


def job_families(predictions: Sequence[Prediction]) -> list[Family]:
    """Every carbon_forecast_* metric that is about one job."""
    energy: Rows = []
    emissions: Rows = []
    expected_energy: Rows = []
    expected_emissions: Rows = []
    end: Rows = []
    info: Rows = []
    for one in predictions:
        energy += _quantiles(one.training_job, one.energy.joules)
        end += _quantiles(one.training_job, one.energy.end_timestamp_seconds)
        info.append(((one.training_job, one.energy.basis, one.group, one.emissions_basis), 1.0))
        if one.grams is not None:
            emissions += _quantiles(one.training_job, one.grams)
        if one.energy.expected_joules is not None:
            expected_energy += _quantiles(one.training_job, one.energy.expected_joules[:3])
        if one.expected_grams is not None:
            expected_emissions += _quantiles(one.training_job, one.expected_grams)
    return [
        Family(metrics.FORECAST_ENERGY, energy),
        Family(metrics.FORECAST_EMISSIONS, emissions),
        Family(metrics.FORECAST_EXPECTED_ENERGY, expected_energy),
        Family(metrics.FORECAST_EXPECTED_EMISSIONS, expected_emissions),
        Family(metrics.FORECAST_END, end),
        Family(metrics.FORECAST_EPOCH_ENERGY, [((one.training_job,), one.energy.epoch_joules) for one in predictions]),
        Family(metrics.FORECAST_INFO, info),
        Family(metrics.FORECAST_EPOCHS, [((one.training_job,), one.energy.epochs_observed) for one in predictions]),
        Family(metrics.FORECAST_TIMESTAMP, [((one.training_job,), one.made_seconds) for one in predictions]),
    ]


def service_families(
    outcomes: Mapping[Outcome, int],
    warnings: Mapping[str, int],
    errors: Mapping[Reason, int],
    last_poll_seconds: float | None,
) -> list[Family]:
    """What the service says about itself: jobs by outcome and warning, failed queries by reason, its last full poll."""
    last_poll: Rows = [] if last_poll_seconds is None else [((), last_poll_seconds)]
    return [
        Family(metrics.FORECAST_JOBS, [((outcome,), float(jobs)) for outcome, jobs in outcomes.items()]),
        Family(metrics.FORECAST_WARNINGS, [((warning,), float(jobs)) for warning, jobs in sorted(warnings.items())]),
        Family(metrics.FORECAST_QUERY_ERRORS, [((reason,), float(count)) for reason, count in errors.items()]),
        Family(metrics.FORECAST_LAST_POLL, last_poll),
    ]


def _quantiles(training_job: str, values: tuple[float, ...]) -> Rows:
    return [((training_job, name), value) for name, value in zip(QUANTILES, values, strict=True)]
