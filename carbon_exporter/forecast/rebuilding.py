"""The record of ended runs from what the PromQL engine still knows: each run that pushed its end, and its energy."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from carbon_exporter import metrics
from carbon_exporter.forecast.past_query import read_past
from carbon_exporter.forecast.progress import Pushed
from carbon_exporter.forecast.promql import Client
from carbon_exporter.forecast.readings import read_pushed
from carbon_exporter.forecast.record import EndedRun
from carbon_exporter.forecast.summary import ended_run, ending_of
from carbon_exporter.forecast.track import Point, Track

PAGE_SECONDS: Final = 6 * 3600
"""Of a job that ended more than once within one page, the last run is found."""
_AFTER_END_SECONDS: Final = 60.0
"""By then every node has been scraped after the end, and still tells the joules of the ended job."""
_STEPS: Final = 500
_CLOCK_OFF_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Finished:
    """A run that pushed its end; Unix seconds.

    Attributes:
        start_seconds: as it was pushed, by which the run is known.
        began_seconds, finished_seconds: by the engine's clock.
        epochs_resumed: done by earlier runs.
    """

    training_job: str
    start_seconds: float
    began_seconds: float
    finished_seconds: float
    epochs_completed: float
    epochs_planned: float
    epochs_resumed: float
    group: str


def find_finished(client: Client, now_seconds: float, days: float) -> Iterator[list[Finished]]:
    """The runs that ended in the last `days`, page by page from the oldest on, each run once; one query for each page.

    Raises:
        PromQLError: a query failed.
    """
    begin = now_seconds - days * 86_400
    known: set[tuple[str, float]] = set()
    for page in range(pages(days), 0, -1):
        pushed = read_pushed(client, now_seconds - (page - 1) * PAGE_SECONDS, PAGE_SECONDS)
        found = [one for one in map(_finished, pushed, pushed.values()) if one and one.finished_seconds >= begin]
        fresh = [one for one in found if (one.training_job, one.start_seconds) not in known]
        known.update((one.training_job, one.start_seconds) for one in fresh)
        yield sorted(fresh, key=lambda one: (one.finished_seconds, one.training_job))


def pages(days: float) -> int:
    """How many pages `find_finished` reads."""
    return math.ceil(days * 86_400 / PAGE_SECONDS)


def _finished(training_job: str, pushed: Pushed) -> Finished | None:
    start, finished = pushed.start_seconds, pushed.finished_seconds
    completed, planned = pushed.epochs_completed, pushed.epochs_planned
    if start is None or finished is None or completed is None or planned is None:
        return None
    # A run that was started again has a new start beside the old end: the page before knows the old run.
    if not (0 < start <= finished and completed > 0 and planned > 0):
        return None
    arrived = pushed.push_seconds
    # Its last push tells of its end, and is sent at once: a clock that is off shows in one.
    delay = 0.0 if arrived is None else arrived - finished
    behind = delay if abs(delay) > _CLOCK_OFF_SECONDS else 0.0
    return Finished(
        training_job=training_job,
        start_seconds=start,
        began_seconds=start + behind,
        finished_seconds=finished + behind,
        epochs_completed=completed,
        epochs_planned=planned,
        epochs_resumed=pushed.epochs_resumed or 0.0,
        group=pushed.group,
    )


def read_ended(client: Client, run: Finished) -> EndedRun | None:
    """What the engine still knows of a run, in one range query and two others; None where that is too little.

    Raises:
        PromQLError: a query failed.
    """
    end = run.finished_seconds + _AFTER_END_SECONDS
    # One step more, so that the last of them lies after the end.
    steps_end = end + (end - run.began_seconds) / _STEPS
    track = Track(start_seconds=run.start_seconds, epochs_resumed=run.epochs_resumed)
    past = read_past(client, run.training_job, run.began_seconds, steps_end)
    if past.totals is None or past.totals.joules is None:
        return None
    track.fill(past)
    track.add_point(Point(max(end, track.points[-1].seconds + 1), past.totals.joules))
    track.place_marks()
    ended = ended_run(
        track.boundaries,
        training_job=run.training_job,
        group=run.group,
        ending=ending_of(run.epochs_completed, run.epochs_planned),
        ended_seconds=run.finished_seconds,
        epochs_planned=run.epochs_planned,
        joules=past.totals.joules,
        grams=_grams(client, run, past.totals.joules),
        gpus=_gpus(client, run),
    )
    return None if ended is None else replace(ended, started_seconds=run.start_seconds)


def _grams(client: Client, run: Finished, joules: float) -> float | None:
    """What `joules` cost, at what each joule of the run did; None where nobody knows."""
    seconds = math.ceil(run.finished_seconds + _AFTER_END_SECONDS - run.began_seconds)
    told = " or ".join(
        f'label_replace(sum(max_over_time({name}{{{_matcher(run.training_job)}}}[{seconds}s])), "of", "{name}", "", "")'
        for name in (metrics.JOB_ENERGY.name, metrics.JOB_EMISSIONS.name)
    )
    samples = client.query(told, run.finished_seconds + _AFTER_END_SECONDS)
    totals = {sample.labels.get("of", ""): sample.value for sample in samples}
    grams, spent = totals.get(metrics.JOB_EMISSIONS.name), totals.get(metrics.JOB_ENERGY.name, 0.0)
    return None if grams is None or spent <= 0 else joules * grams / spent


def _gpus(client: Client, run: Finished) -> float | None:
    """What the job held in the middle of its run; None where nobody knows."""
    middle = (run.began_seconds + run.finished_seconds) / 2
    samples = client.query(f"sum({metrics.JOB_GPUS.name}{{{_matcher(run.training_job)}}})", middle)
    return samples[0].value if samples else None


def _matcher(training_job: str) -> str:
    return f'training_job="{metrics.escape_label(training_job)}"'
