"""What the service knows of one job at one moment, for its JSON API and its page. Pure."""

from dataclasses import dataclass

from carbon_exporter.forecast.energy import Forecast, Quantiles
from carbon_exporter.forecast.progress import Outcome


@dataclass(frozen=True, slots=True)
class JobView:
    """One job; times in Unix seconds, None where it is not known.

    Attributes:
        outcome: whether there is a forecast, or why not.
        joules, grams: so far.
        emissions_basis: what the grams count; "mixed" where they are of several bases, "" without grams.
        budget_grams: that the job pushed.
        forecast: at its planned end.
        forecast_grams: at its planned end.
        expected_joules, expected_grams: where the record of its group says that it may stop early; else as planned.
        epochs: (epochs done, seconds, joules) at each known boundary, in order.
        made_seconds: when the forecast was made.
        warnings: what a reader should know, one sentence each.
    """

    training_job: str
    group: str
    outcome: Outcome
    epochs_completed: float | None
    epochs_planned: float | None
    started_seconds: float | None
    ended_seconds: float | None
    joules: float | None
    grams: float | None
    emissions_basis: str
    budget_grams: float | None
    forecast: Forecast | None
    forecast_grams: Quantiles | None
    expected_joules: Quantiles | None
    expected_grams: Quantiles | None
    epochs: tuple[tuple[float, float, float], ...]
    made_seconds: float | None
    warnings: tuple[str, ...]
