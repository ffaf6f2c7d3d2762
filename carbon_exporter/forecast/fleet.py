"""The jobs that the service follows, from the first poll that sees them until they are on record; over restarts too."""

from collections.abc import Iterator
from typing import Final

from carbon_exporter.forecast import running
from carbon_exporter.forecast.jobs import Job
from carbon_exporter.forecast.learning import Learning
from carbon_exporter.forecast.progress import Pushed
from carbon_exporter.forecast.track import Track

_FORGOTTEN_AFTER_SECONDS: Final = 3600.0
_SAVED_AT_ONCE: Final = 1000


class Fleet:
    """The followed jobs by name.

    Args:
        learning: who keeps the record of ended runs, and the state of running ones.
        ended_jobs_kept_seconds: how long an ended job is shown before it goes on record.
    """

    def __init__(self, learning: Learning, ended_jobs_kept_seconds: float) -> None:
        self._learning = learning
        self._ended_jobs_kept_seconds = ended_jobs_kept_seconds
        self._jobs: dict[str, Job] = {}
        self._restored = False

    def open(self) -> None:
        """Take up, once, the jobs that another process of the service has followed.

        Raises:
            ConfigurationError: the record's file is no use.
        """
        history = self._learning.open()
        if not self._restored:
            restored = filter(None, map(running.restore, history.running()))
            self._jobs = {job.name: job for job in restored} | self._jobs
            self._restored = True

    def close(self, now_seconds: float) -> None:
        """Save all states, and close the record's file."""
        for job in self._jobs.values():
            job.saved_as = None
        self.save(now_seconds, len(self._jobs))
        self._learning.close()

    def __getitem__(self, name: str) -> Job:
        return self._jobs[name]

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[str]:
        return iter(self._jobs)

    def jobs(self) -> list[Job]:
        """All of them, by name."""
        return [job for _, job in sorted(self._jobs.items())]

    def current_run(self, name: str, pushed: Pushed) -> Job:
        """The job under `name`; a new one where it was started again since."""
        job = self._jobs.get(name)
        if job is not None and job.is_succeeded_by(pushed):
            job.lose()
            self._record(job)
            job = None
        if job is None:
            job = self._jobs[name] = Job(name, Track())
            start, finished = pushed.start_seconds, pushed.finished_seconds
            job.recorded = start is not None and finished is not None and self._learning.knows(name, start)
        if pushed.start_seconds is not None:
            job.track.start_seconds = pushed.start_seconds
        return job

    def forget_dark(self, chosen: set[str]) -> None:
        """Forget names without energy that are not `chosen`: they leave nothing to record, and may be ever new ones."""
        for name in [name for name, job in self._jobs.items() if name not in chosen and not job.track.points]:
            del self._jobs[name]

    def close_ended(self, seen: set[str], now_seconds: float) -> None:
        """Record what has ended or was lost, and forget what is gone.

        How long a job is gone counts from the first poll that missed it: while the engine is away, nothing is lost.
        """
        for name, job in list(self._jobs.items()):
            if job.alive_seconds < now_seconds and job.gone_since is None:
                job.gone_since = now_seconds
            if name not in seen and job.ended_seconds is None:
                job.prediction = None
            is_gone = job.gone_since is not None and now_seconds - job.gone_since > _FORGOTTEN_AFTER_SECONDS
            if is_gone:
                job.lose()
            ended = job.ended_seconds
            if is_gone or (ended is not None and now_seconds - ended > self._ended_jobs_kept_seconds):
                self._record(job)
                job.prediction = None
            if is_gone and name not in seen:
                del self._jobs[name]

    def save(self, now_seconds: float, most: int = _SAVED_AT_ONCE) -> None:
        """Save the states of `most` jobs that have gone on, and drop those of jobs on record."""
        due = [job for job in self._jobs.values() if running.is_due(job, now_seconds)]
        due = sorted(due, key=lambda job: job.saved_seconds)[:most]
        self._learning.open().keep_running(
            {job.name: running.save(job, now_seconds) for job in due},
            {job.name for job in self._jobs.values() if not job.recorded},
        )

    def _record(self, job: Job) -> None:
        run = None if job.recorded else job.ended_run()
        if run is not None:
            self._learning.add(run)
        job.recorded = job.recorded or job.ending is not None
