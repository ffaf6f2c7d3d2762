"""What a job pushed, and whether that allows a forecast. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

Outcome = Literal[
    "forecast",
    "finished",
    "no_epochs",
    "planned_missing",
    "invalid_value",
    "stale_push",
    "no_energy",
    "epochs_above_planned",
    "epochs_went_back",
    "unit_mismatch",
    "too_many_jobs",
]
_MOST_EPOCHS: Final = 1e9
_SAME: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a job pushed; None where it did not. Times are Unix seconds, push_seconds by the Pushgateway's clock."""

    epochs_completed: float | None = None
    epochs_planned: float | None = None
    epoch_end_seconds: float | None = None
    start_seconds: float | None = None
    finished_seconds: float | None = None
    push_seconds: float | None = None
    budget_grams: float | None = None
    epochs_resumed: float | None = None
    group: str = ""


def judge(pushed: Pushed, joules: float | None, now_seconds: float, push_max_age_seconds: float) -> Outcome:
    """Whether the values at hand allow a forecast, or the first reason why they do not."""
    completed, planned = pushed.epochs_completed, pushed.epochs_planned
    if pushed.finished_seconds is not None:
        return "finished"
    if completed is None or planned is None:
        return "no_epochs" if completed is None else "planned_missing"
    if not (0 <= completed <= _MOST_EPOCHS and 0 < planned <= _MOST_EPOCHS and (joules is None or joules >= 0)):
        return "invalid_value"
    if pushed.push_seconds is None or now_seconds - pushed.push_seconds > push_max_age_seconds:
        return "stale_push"
    if joules is None:
        return "no_energy"
    return "forecast" if completed <= planned * (1 + _SAME) else "epochs_above_planned"


def keep_most_telling(names: Iterable[str], known: Iterable[str], measured: Iterable[str], most: int) -> list[str]:
    """At most `most` of `names`: those with energy first, which nobody can push, and of them those known before."""
    old, spending = set(known), set(measured)
    return sorted(names, key=lambda name: (name not in spending, name not in old, name))[:most]
