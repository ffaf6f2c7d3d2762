"""A run that has ended, summed up from its boundaries for the record. Pure."""

import math
from collections.abc import Sequence
from typing import Final

from carbon_exporter.forecast.energy import Boundary
from carbon_exporter.forecast.record import EndedRun, Ending
from carbon_exporter.forecast.scoring import scores_of

_SAME: Final = 1e-6
_LEAST_EPOCHS: Final = 0.5
"""A slope over less is mostly the jitter of the scrapes."""
_PAID_FOR: Final = 0.5


def ending_of(epochs_done: float, epochs_planned: float) -> Ending:
    """How a run went that ended as intended."""
    return "finished" if epochs_done >= epochs_planned * (1 - _SAME) else "stopped"


def ended_run(
    boundaries: Sequence[Boundary],
    *,
    training_job: str,
    group: str,
    ending: Ending,
    ended_seconds: float,
    epochs_planned: float,
    joules: float,
    grams: float | None,
    gpus: float | None,
) -> EndedRun | None:
    """The record of a run; None where its boundaries do not say what an epoch used.

    `boundaries` are in order, epochs rising, from the start of the run to its end. From `joules` and `grams` what was
    used under the job's name before the start is taken off. All else is as EndedRun says.
    """
    per_epoch = _per_epoch(boundaries)
    if per_epoch is None:
        return None
    epoch_joules, epoch_seconds = per_epoch
    begun = _begun(boundaries[0], epoch_joules)
    own = joules - (boundaries[0].joules if begun == boundaries[0].epochs else 0.0)
    return EndedRun(
        training_job=training_job,
        group=group,
        ending=ending,
        started_seconds=boundaries[0].seconds,
        ended_seconds=max(ended_seconds, boundaries[0].seconds),
        epochs_planned=epochs_planned,
        epochs_done=boundaries[-1].epochs,
        joules=own,
        grams=None if grams is None or joules <= 0 else grams * own / joules,
        epoch_joules=epoch_joules,
        epoch_seconds=epoch_seconds,
        gpus=gpus,
        scores=() if ending == "lost" else scores_of(boundaries, epochs_planned),
        epochs_begun=begun,
    )


def _begun(first: Boundary, epoch_joules: float) -> float:
    """The epochs that an earlier run has paid for.

    0 where the joules until the first boundary are those of its epochs: their ends were not seen, that is all.
    """
    return 0.0 if first.joules >= _PAID_FOR * first.epochs * epoch_joules else first.epochs


def _per_epoch(boundaries: Sequence[Boundary]) -> tuple[float, float] | None:
    """Mean joules and seconds of the epochs after the first; of all, where hardly any come after it."""
    if len(boundaries) < 2:
        return None
    first, last = boundaries[0], boundaries[-1]
    after_first = (one for one in boundaries if one.epochs >= first.epochs + 1 - _SAME)
    base = next((one for one in after_first if last.epochs - one.epochs >= _LEAST_EPOCHS), first)
    epochs = last.epochs - base.epochs
    joules, seconds = last.joules - base.joules, last.seconds - base.seconds
    if not (epochs > 0 and joules > 0 and seconds >= 0 and math.isfinite(joules + seconds)):
        return None
    return joules / epochs, seconds / epochs
