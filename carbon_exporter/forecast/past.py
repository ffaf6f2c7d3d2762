"""Looks up the past of jobs that the service meets in mid-run: after a restart, or where their energy came late."""

from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

from carbon_exporter.forecast.jobs import Job
from carbon_exporter.forecast.past_query import escape_regex, read_pasts
from carbon_exporter.forecast.promql import Client, PromQLError
from carbon_exporter.forecast.track import Past

_MOST_JOBS: Final = 100
_MOST_NODES: Final = 60
_LONGEST_NAMES: Final = 5000
"""Characters in a URL, of which proxies take 8,192."""
_MOST_TRIES: Final = 5


def look_up(client: Client, jobs: Sequence[Job], now_seconds: float, most_queries: int) -> None:
    """Ask for the past of those of `jobs` that want theirs, up to 100 in a query; those left want it still.

    Raises:
        PromQLError: a query failed; the jobs asked for come last in the next polls, and after five times go on
            without their past.
    """
    for _ in range(most_queries):
        chosen = _of_one_age([job for job in jobs if job.wants_past()], now_seconds)
        if not chosen:
            return
        _ask(client, chosen, now_seconds)


def _ask(client: Client, chosen: Sequence[Job], now_seconds: float) -> None:
    try:
        pasts = read_pasts(client, {job.name: _start(job) for job in chosen}, now_seconds)
    except PromQLError:
        for job in chosen:
            job.past_asked = (job.past_asked or 0) + 1
            if job.past_asked >= _MOST_TRIES:
                job.remember(Past(), now_seconds)
        raise
    for job in chosen:
        job.remember(pasts.get(job.name, Past()), now_seconds)


def _of_one_age(jobs: Sequence[Job], now_seconds: float) -> list[Job]:
    """The oldest of `jobs`, and those at least half as old: one step suits all; as many as one query can name.

    Those whose past was asked for in vain wait for the others: it may have been the fault of one of them.
    """
    ranked = sorted(jobs, key=lambda job: (job.past_asked or 0, _start(job), job.name))[:_MOST_JOBS]
    chosen: list[Job] = []
    length = nodes = 0
    for job in ranked:
        length += len(quote(escape_regex(job.name))) + 3
        nodes += job.totals.nodes
        is_alike = not chosen or _start(chosen[0]) <= _start(job) <= (now_seconds + _start(chosen[0])) / 2
        if chosen and (not is_alike or length > _LONGEST_NAMES or nodes > _MOST_NODES):
            break
        chosen.append(job)
    return chosen


def _start(job: Job) -> float:
    return job.track.began_seconds or 0.0
