"""What a training job tells about itself, as numbers and as the text that is pushed. Pure."""

import math
from dataclasses import dataclass

from carbon_exporter import metrics
from carbon_exporter.metrics import Family, Metric


@dataclass(frozen=True, slots=True)
class Training:
    """The progress of one job at one instant; None is "not known" and is not pushed. Times are Unix seconds.

    `started_seconds` also tells this run from another one of the same name.
    """

    name: str
    group: str = ""
    epochs_completed: float | None = None
    epochs_planned: float | None = None
    epoch_end_seconds: float | None = None
    started_seconds: float | None = None
    finished_seconds: float | None = None
    budget_grams: float | None = None
    epochs_resumed: float | None = None

    def exposition(self) -> bytes:
        """Everything known, in the Prometheus text format."""
        values: tuple[tuple[Metric, float | None], ...] = (
            (metrics.EPOCHS_COMPLETED, self.epochs_completed),
            (metrics.EPOCHS_PLANNED, self.epochs_planned),
            (metrics.EPOCHS_RESUMED, self.epochs_resumed),
            (metrics.EPOCH_END, self.epoch_end_seconds),
            (metrics.TRAINING_START, self.started_seconds),
            (metrics.TRAINING_FINISHED, self.finished_seconds),
            (metrics.EMISSIONS_BUDGET, self.budget_grams),
        )
        families = [Family(metric, [((self.name,), value)]) for metric, value in values if value is not None]
        families.append(Family(metrics.TRAINING_INFO, [((self.name, self.group), 1.0)]))
        return metrics.Renderer().render(families)


def amount(value: object) -> float | None:
    """`value` as a finite number of at least 0 (numpy's and torch's scalars too), or None where it is none."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001 - foreign number types raise what they like
        return None
    return number if math.isfinite(number) and number >= 0 else None
