"""The forecast service: asks the PromQL engine at every poll, follows each job, keeps one finished page in memory."""

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final, get_args

from carbon_exporter import metrics
from carbon_exporter.forecast.exposition import job_families, service_families
from carbon_exporter.forecast.grams import Curves
from carbon_exporter.forecast.grid_history import GridHistory
from carbon_exporter.forecast.jobs import Job, Knowledge
from carbon_exporter.forecast.learning import Learning
from carbon_exporter.forecast.past import look_up
from carbon_exporter.forecast.progress import Outcome, Pushed, Track, keep_most_telling
from carbon_exporter.forecast.promql import Client, PromQLError
from carbon_exporter.forecast.readings import Readings, read
from carbon_exporter.forecast.scores import Accuracy
from carbon_exporter.forecast.settings import Settings, open_session
from carbon_exporter.forecast.view import JobView, view_of
from carbon_exporter.grid.exposition import grid_families
from carbon_exporter.grid.grid import Grid

_log: Final = logging.getLogger("carbon_exporter.forecast")
_FORGOTTEN_AFTER_SECONDS: Final = 3600.0
_MOST_QUERIES: Final = 10
"""Of one poll."""


def build(settings: Settings, environment: Mapping[str, str] = os.environ, grid: Grid | None = None) -> "Service":
    """The service that `settings` describe, with its secrets from files or `environment`; asks nothing yet."""
    client = Client(
        settings.prometheus_url,
        open_session(settings, environment),
        timeout_seconds=settings.timeout_seconds,
        largest_answer_bytes=settings.largest_answer_bytes,
    )
    return Service(settings, client, grid=grid)


class Service:
    """Forecasts for every job that an engine knows.

    A poll whose queries fail changes no forecast: the old ones stay on the page, and their timestamps show their age.

    Args:
        settings: see Settings.
        client: the engine.
        clock: Unix seconds.
        grid: whose outlooks the grams are forecast with; its intensities stand on the page, whatever the engine does.
    """

    def __init__(
        self,
        settings: Settings,
        client: Client,
        clock: Callable[[], float] = time.time,
        grid: Grid | None = None,
    ) -> None:
        self._settings = settings
        self._client = client
        self._clock = clock
        self._grid = grid
        self._grid_history = GridHistory(client, grid.zones.values() if grid is not None else ())
        self._jobs: dict[str, Job] = {}
        self._learning = Learning(settings.history_file)
        self._curves = Curves(grid, clock())
        self._views: tuple[JobView, ...] = ()
        self._accuracy: tuple[Accuracy, ...] = ()
        self._outcomes: Counter[Outcome] = Counter()
        self._last_poll_seconds: float | None = None
        self._failing = ""
        self._too_many = False
        self._renderer = metrics.Renderer()
        self._families = self._make_families(clock())
        self._page = self._renderer.render(self._families)

    def run(self, stop: threading.Event, after_poll: Callable[[bytes], None] = lambda _page: None) -> None:
        """Poll until `stop` is set; `after_poll` gets each finished page.

        Raises:
            ConfigurationError: the record of ended runs is no use.
        """
        self._learning.open()
        try:
            self._poll_until(stop, after_poll)
        finally:
            self._learning.close()

    def _poll_until(self, stop: threading.Event, after_poll: Callable[[bytes], None]) -> None:
        while not stop.is_set():
            began = self._clock()
            try:
                self.poll(began)
                after_poll(self._page)
            except Exception:  # noqa: BLE001 - one bad poll must not end all later ones
                _log.exception("a poll failed; the forecasts before it stay")
            # A stepped clock may say anything: never wait longer than one poll.
            elapsed = max(0.0, self._clock() - began)
            stop.wait(max(0.0, self._settings.poll_seconds - elapsed))

    def families(self) -> list[metrics.Family]:
        """What the last poll made."""
        return self._families

    def page(self) -> bytes:
        """`families()` as Prometheus text, rendered once per poll."""
        return self._page

    def views(self) -> tuple[JobView, ...]:
        """Every job as the last poll left it, by name; the same object until the next poll."""
        return self._views

    def accuracy(self) -> tuple[Accuracy, ...]:
        """How right forecasts have been, by basis and epochs observed."""
        return self._accuracy

    def ready(self) -> bool:
        """Whether one poll has been complete."""
        return self._last_poll_seconds is not None

    def poll(self, now_seconds: float) -> list[metrics.Family]:
        """Ask, follow every job, and finish the page. Raises nothing for an engine that fails."""
        asked_before = self._client.asked
        try:
            readings = read(self._client, now_seconds)
        except PromQLError as error:
            self._note_failure(error)
        else:
            if self._failing:
                _log.warning("%s answers again", self._client.url)
            self._failing = ""
            self._follow(readings, now_seconds)
            self._last_poll_seconds = now_seconds
            self._read_grid_history(now_seconds, _MOST_QUERIES - (self._client.asked - asked_before))
        self._families = self._make_families(now_seconds)
        self._page = self._renderer.render(self._families)
        self._views = tuple(view_of(job) for _, job in sorted(self._jobs.items()))
        self._accuracy = self._learning.accuracy()
        return self._families

    def _follow(self, readings: Readings, now_seconds: float) -> None:
        self._learning.open()
        seen = self._choose(readings)
        longest = self._settings.push_max_age_seconds
        for name in seen:
            self._current_run(name, readings).observe(readings, now_seconds, longest)
        try:
            look_up(self._client, [self._jobs[name] for name in seen], now_seconds)
        except PromQLError as error:
            self._note_failure(error)
        self._curves = Curves(self._grid, now_seconds, self._curves)
        knowledge = Knowledge(longest, self._learning.for_group, self._curves)
        for name in seen:
            self._outcomes[self._jobs[name].follow(readings, now_seconds, knowledge)] += 1
        self._close_ended(set(seen), now_seconds)

    def _choose(self, readings: Readings) -> list[str]:
        names, left_out = {*readings.pushed, *readings.joules}, readings.names_left_out
        if left_out:
            # The engine was asked for the newest pushes only: what has ended stays what it was.
            ended = {name for name, job in self._jobs.items() if job.ending in ("finished", "stopped")}
            kept = {name for name in ended - names if self._jobs[name].track.points}
            left_out = max(0, left_out - len(kept))
            names |= kept
        most = self._settings.most_jobs
        chosen = keep_most_telling(names, self._jobs, readings.joules, most)
        too_many = len(names) + left_out - len(chosen)
        self._outcomes = Counter(dict.fromkeys(get_args(Outcome), 0))
        self._outcomes["too_many_jobs"] = too_many
        if too_many and not self._too_many:
            _log.warning(
                "%d training jobs, most_jobs is %d: %d get no forecast, those without energy first; raise it, or find "
                "who pushes so many or so long names",
                len(names) + left_out,
                most,
                too_many,
            )
        self._too_many = too_many > 0
        self._forget_dark(set(chosen))
        return chosen

    def _forget_dark(self, chosen: set[str]) -> None:
        """Names without energy leave nothing to record, and ever new ones must not fill the memory."""
        for name in [name for name, job in self._jobs.items() if name not in chosen and not job.track.points]:
            del self._jobs[name]

    def _current_run(self, name: str, readings: Readings) -> Job:
        """The job under `name`; a new one where it was started again since."""
        job = self._jobs.get(name)
        pushed = readings.pushed.get(name, Pushed())
        if job is not None and job.is_succeeded_by(pushed):
            self._record(job)
            job = None
        if job is None:
            job = self._jobs[name] = Job(name, Track())
            start, finished = pushed.start_seconds, pushed.finished_seconds
            job.recorded = start is not None and finished is not None and self._learning.knows(name, start)
        if pushed.start_seconds is not None:
            job.track.start_seconds = pushed.start_seconds
        return job

    def _read_grid_history(self, now_seconds: float, most_queries: int) -> None:
        try:
            self._grid_history.read_back(now_seconds, most_queries)
        except PromQLError as error:
            self._note_failure(error)

    def _close_ended(self, seen: set[str], now_seconds: float) -> None:
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
            if is_gone or (ended is not None and now_seconds - ended > self._settings.ended_jobs_kept_seconds):
                self._record(job)
                job.prediction = None
            if is_gone and name not in seen:
                del self._jobs[name]

    def _record(self, job: Job) -> None:
        run = None if job.recorded else job.ended_run()
        if run is not None:
            self._learning.add(run)
        job.recorded = job.recorded or job.ending is not None

    def _note_failure(self, error: PromQLError) -> None:
        if self._failing != error.reason:
            _log.warning("%s; the forecasts before stay, with their age", error)
        self._failing = error.reason

    def _make_families(self, now_seconds: float) -> list[metrics.Family]:
        predictions = [job.prediction for _, job in sorted(self._jobs.items()) if job.prediction is not None]
        return [
            *job_families(predictions),
            *self._learning.families(),
            *service_families(self._outcomes, self._client.errors, self._last_poll_seconds),
            *(grid_families(self._grid, now_seconds) if self._grid is not None else ()),
        ]
