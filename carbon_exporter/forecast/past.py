"""Looks up the past of jobs that the service meets in mid-run: after a restart, or where their energy came late."""

from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

from carbon_exporter.forecast.jobs import Job
from carbon_exporter.forecast.progress import History
from carbon_exporter.forecast.promql import Client
from carbon_exporter.forecast.readings import read_histories

_MOST_JOBS: Final = 100
_LONGEST_NAMES: Final = 5000
"""Characters in a URL, of which proxies take 8,192."""


def look_up(client: Client, jobs: Sequence[Job], now_seconds: float) -> None:
    """Ask for the past of up to 100 of `jobs` that want theirs, in two queries at most; what is left wants it still.

    Raises:
        PromQLError: a query failed; the jobs asked for go on without their past, and it is not asked for again.
    """
    chosen = _of_one_age([job for job in jobs if job.wants_history()], now_seconds)
    if not chosen:
        return
    histories: dict[str, History] = {}
    try:
        histories = read_histories(client, {job.name: _start(job) for job in chosen}, now_seconds)
    finally:
        for job in chosen:
            job.history_read = True
            job.remember(histories.get(job.name, History((), ())))


def _of_one_age(jobs: Sequence[Job], now_seconds: float) -> list[Job]:
    """The oldest of `jobs`, and those at least half as old: one step suits all; as many as one query can name."""
    ranked = sorted(jobs, key=lambda job: (_start(job), job.name))[:_MOST_JOBS]
    chosen: list[Job] = []
    length = 0
    for job in ranked:
        length += len(quote(job.name))
        if chosen and (_start(job) > (now_seconds + _start(chosen[0])) / 2 or length > _LONGEST_NAMES):
            break
        chosen.append(job)
    return chosen


def _start(job: Job) -> float:
    return job.track.start_seconds or 0.0
