"""What the service knows of one job at one moment, for its JSON API and its page. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from carbon_exporter.forecast.energy import Forecast, Quantiles
from carbon_exporter.forecast.jobs import CURES, Job
from carbon_exporter.forecast.progress import Outcome

_WARNINGS: Final[Mapping[str, str]] = {
    "no_epoch_seen": "Its first epoch is not done yet: this is how the ended runs of its group went.",
    "one_epoch_seen": "Less than two epochs have been seen: the first is often dearer or cheaper than the others.",
    "kind_never_seen": "No run of its group has ended yet: how wrong its forecast can be is not known.",
    "change_not_seen": "Its GPUs or their power limit changed, and no epoch has been seen since.",
    "unlike_ended_runs": "Its epochs, or how they went on after the first, are unlike those of all ended runs.",
}


@dataclass(frozen=True, slots=True)
class JobView:
    """One job; times in Unix seconds, None where it is not known.

    Attributes:
        outcome: whether there is a forecast, or why not.
        epochs_completed, epochs_planned: as pushed; None, too, for less than 0 and for what is no number.
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


def view_of(job: Job) -> JobView:
    """`job` as the last poll left it."""
    pushed, prediction = job.pushed, job.prediction
    newest = job.track.points[-1] if job.track.points else None
    forecast = None if prediction is None else prediction.energy
    likely = None if forecast is None else forecast.expected_joules
    return JobView(
        training_job=job.name,
        group=pushed.group,
        outcome=job.outcome,
        epochs_completed=_count(pushed.epochs_completed),
        epochs_planned=_count(pushed.epochs_planned),
        started_seconds=job.track.start_seconds,
        ended_seconds=job.ended_seconds,
        joules=None if newest is None else newest.joules,
        grams=None if newest is None else newest.grams,
        emissions_basis="" if newest is None or newest.grams is None else newest.emissions_basis,
        budget_grams=pushed.budget_grams,
        forecast=forecast,
        forecast_grams=None if prediction is None else prediction.grams,
        expected_joules=None if likely is None else Quantiles(*likely[:3]),
        expected_grams=None if prediction is None else prediction.expected_grams,
        epochs=tuple(job.track.boundaries),
        made_seconds=None if prediction is None else prediction.made_seconds,
        warnings=tuple(_warnings(job)),
    )


def _count(epochs: float | None) -> float | None:
    """None for what is no count; its outcome says why."""
    return None if epochs is None or epochs < 0 else epochs


def _warnings(job: Job) -> Iterator[str]:
    if job.outcome in CURES:
        yield f"{job.outcome}: {CURES[job.outcome]}."
    for warning in job.warnings():
        yield _WARNINGS[warning] if warning in _WARNINGS else f"{warning}: {CURES[warning]}."
