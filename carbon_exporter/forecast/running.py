"""The state of a running job from one process of the service to the next, as JSON. Pure.

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
    """Whether the state of `job` is to be saved: it runs, can be known again by its start, and has gone on."""
    if job.track.start_seconds is None or job.ending is not None:
        return False
    return job.saved_epochs != _epochs(job) or not 0 <= now_seconds - job.saved_seconds < _MOST_AGE_SECONDS


def save(job: Job, now_seconds: float) -> str:
    """The state of `job`, which is no longer due then."""
    job.saved_epochs, job.saved_seconds = _epochs(job), now_seconds
    state = {
        "version": _VERSION,
        "name": job.name,
        "alive_seconds": job.alive_seconds,
        "past_asked": job.past_asked,
        "last_pushed": asdict(job.last_pushed),
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
            last_pushed=Pushed(**state["last_pushed"]),
            said=set(state["said"]),
            past_asked=state["past_asked"],
            alive_seconds=float(state["alive_seconds"]),
        )
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return None


def _epochs(job: Job) -> float:
    return job.track.boundaries[-1].epochs if job.track.boundaries else -1.0
