"""Before a job's first epoch is done: what an epoch took in the ended runs of its group. Pure."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from carbon_exporter.forecast import builtin
from carbon_exporter.forecast.bands import Band, weighted_band
from carbon_exporter.forecast.conformal import BUILTIN_WEIGHT, MISS_RATE
from carbon_exporter.forecast.record import EndedRun


class Start(NamedTuple):
    """Rates of the whole run, its first epoch included, each with the band of ln(actual / rate)."""

    epoch_joules: float
    epoch_seconds: float
    joules: Band
    seconds: Band


def start_of(runs: Sequence[EndedRun], gpus: float | None) -> Start | None:
    """The medians of a group's runs, of those with as many GPUs where there are any; None where no run tells.

    An epoch is the same work on any number of GPUs: it takes about as many joules, and time in inverse proportion.
    """
    telling = [run for run in runs if run.ending != "lost" and min(_epochs(run), run.joules, run.epoch_seconds) > 0]
    alike = [run for run in telling if gpus is not None and run.gpus == gpus]
    chosen = alike or telling
    if not chosen:
        return None
    joules = [run.joules / _epochs(run) for run in chosen]
    seconds = [run.epoch_seconds * (run.gpus / gpus if run.gpus and gpus else 1.0) for run in chosen]
    return Start(statistics.median(joules), statistics.median(seconds), _band(joules), _band(seconds))


def _epochs(run: EndedRun) -> float:
    """That it has done itself."""
    return run.epochs_done - run.epochs_begun


def _band(rates: Sequence[float]) -> Band:
    """Of the runs, each of weight 1, and beside them as much uncertainty, either way, as one epoch leaves."""
    middle = statistics.median(rates)
    table = builtin.JOULES[1.0]
    weight = BUILTIN_WEIGHT / (2 * len(table))
    doubt = [(sign * value, weight) for value in table for sign in (-1, 1)]
    return weighted_band(sorted([*doubt, *((math.log(rate / middle), 1.0) for rate in rates)]), MISS_RATE, "group")
