"""The state of a job that is not on record yet, from one process of the service to the next, as JSON. Pure.

What the engine can tell of a job's past is coarser than what was seen of it, and does not hold all of it.
"""

import json
from dataclasses import asdict
from typing import Final

from carbon_exporter.forecast.gpus import Gpus
from carbon_exporter.forecast.jobs import Job
from carbon_exporter.forecast.progress import Pushed
from carbon_exporter.forecast.totals import Totals
from carbon_exporter.forecast.track import Track

_VERSION: Final = 1
_MOST_AGE_SECONDS: Final = 300.0
"""The state of a job is saved after each of its epochs, and at least this often, for the joules of nodes that go."""


def is_due(job: Job, now_seconds: float) -> bool:
    """Whether to save the state of `job`: it can be known again by its start, is not on record, and has gone on."""
    if job.track.start_seconds is None or job.recorded:
        return False
    return job.saved_as != _progress(job) or not 0 <= now_seconds - job.saved_seconds < _MOST_AGE_SECONDS


def save(job: Job, now_seconds: float) -> str:
    """The state of `job`, which is no longer due then."""
    job.saved_as, job.saved_seconds = _progress(job), now_seconds
    state = {
        "version": _VERSION,
        "name": job.name,
        "alive_seconds": job.alive_seconds,
        "past_asked": job.past_asked,
        "pushed": asdict(job.pushed),
        "last_pushed": asdict(job.last_pushed),
        "ending": job.ending,
        "ended_seconds": job.ended_seconds,
        "said": sorted(job.said),
        "gpus": asdict(job.gpus),
        "totals": job.totals.state(),
        "track": job.track.state(),
    }
    return json.dumps(state)


def restore(text: str) -> Job | None:
    """The job that `text` was made of; None where it is of another version, or damaged."""
    try:
        state = json.loads(text)
        if state["version"] != _VERSION:
            return None
        return Job(
            name=str(state["name"]),
            track=Track.restored(state["track"]),
            totals=Totals.restored(state["totals"]),
            gpus=Gpus.restored(state["gpus"]),
            pushed=Pushed(**state["pushed"]),
            last_pushed=Pushed(**state["last_pushed"]),
            ending=state["ending"],
            ended_seconds=state["ended_seconds"],
            said=set(state["said"]),
            past_asked=state["past_asked"],
            alive_seconds=float(state["alive_seconds"]),
        )
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return None


def _progress(job: Job) -> tuple[float, str]:
    """What of it is saved at once."""
    return (job.track.boundaries[-1].epochs if job.track.boundaries else -1.0), job.ending or ""
