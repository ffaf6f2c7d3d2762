"""What is kept of a run that has ended: how it went, and how right earlier forecasts of it would have been. Pure."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

Ending = Literal["finished", "stopped", "lost"]
"""finished: all its planned epochs; stopped: ended as intended, before them; lost: killed or vanished, end unknown."""


class Score(NamedTuple):
    """How far the level seen after some epochs was from what followed, as ln(actual / level) per epoch.

    Attributes:
        epochs: observed when it was made: 1, 2, 3, 5, 10, 20, 50, ...; tenths of a plan of 2 epochs or less.
        joules: of the energy of the epochs that followed.
        seconds: of their duration.
    """

    epochs: float
    joules: float
    seconds: float


@dataclass(frozen=True, slots=True)
class EndedRun:
    """One run of a training job; times in Unix seconds, energies of all its nodes together.

    Attributes:
        group: jobs alike; "" where the job named none.
        gpus: that it held; None where nobody knows.
        epochs_done: where it ended, counted like the plan.
        joules: in total, from its start.
        grams: in total; None where nobody knows.
        epoch_joules, epoch_seconds: the mean of the epochs after the first.
        scores: empty for a run that was lost, or too short to be scored.
        epochs_begun: of epochs_done, those that an earlier run has paid for, whose checkpoint this one went on from.
    """

    training_job: str
    group: str
    ending: Ending
    started_seconds: float
    ended_seconds: float
    epochs_planned: float
    epochs_done: float
    joules: float
    grams: float | None
    epoch_joules: float
    epoch_seconds: float
    gpus: float | None
    scores: tuple[Score, ...]
    epochs_begun: float = 0.0
