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
from carbon_exporter.forecast.fleet import Fleet
from carbon_exporter.forecast.grams import Curves
from carbon_exporter.forecast.grid_history import GridHistory
from carbon_exporter.forecast.jobs import Knowledge
from carbon_exporter.forecast.learning import Learning
from carbon_exporter.forecast.past import look_up
from carbon_exporter.forecast.progress import Outcome, Pushed, keep_most_telling
from carbon_exporter.forecast.promql import Client, PromQLError
from carbon_exporter.forecast.readings import Readings, read
from carbon_exporter.forecast.scores import Accuracy
from carbon_exporter.forecast.settings import Settings, open_session
from carbon_exporter.forecast.view import JobView, view_of
from carbon_exporter.grid.exposition import grid_families
from carbon_exporter.grid.grid import Grid

_log: Final = logging.getLogger("carbon_exporter.forecast")
_MOST_LOOK_UPS: Final = 1
"""In a poll: one brings some megabytes."""
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
        self._learning = Learning(settings.history_file)
        self._fleet = Fleet(self._learning, settings.ended_jobs_kept_seconds)
        self._curves = Curves(grid, clock())
        self._views: tuple[JobView, ...] = ()
        self._accuracy: tuple[Accuracy, ...] = ()
        self._outcomes: Counter[Outcome] = Counter()
        self._last_poll_seconds: float | None = None
        self._asked_before = 0
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
        self._fleet.open()
        try:
            self._poll_until(stop, after_poll)
        finally:
            self._fleet.close(self._clock())

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
        self._asked_before = self._client.asked
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
            self._read_grid_history(now_seconds)
        self._families = self._make_families(now_seconds)
        self._page = self._renderer.render(self._families)
        self._views = tuple(map(view_of, self._fleet.jobs()))
        self._accuracy = self._learning.accuracy()
        return self._families

    def _follow(self, readings: Readings, now_seconds: float) -> None:
        self._fleet.open()
        seen = self._choose(readings)
        longest = self._settings.push_max_age_seconds
        for name in seen:
            job = self._fleet.current_run(name, readings.pushed.get(name, Pushed()))
            job.observe(readings, now_seconds, longest, self._last_poll_seconds)
        try:
            look_up(
                self._client,
                [self._fleet[name] for name in seen],
                now_seconds,
                min(_MOST_LOOK_UPS, self._queries_left()),
            )
        except PromQLError as error:
            self._note_failure(error)
        self._curves = Curves(self._grid, now_seconds, self._curves)
        knowledge = Knowledge(longest, self._learning.for_group, self._curves)
        for name in seen:
            self._outcomes[self._fleet[name].follow(readings, now_seconds, knowledge)] += 1
        self._fleet.close_ended(set(seen), now_seconds)
        self._fleet.save(now_seconds)

    def _choose(self, readings: Readings) -> list[str]:
        names, left_out = {*readings.pushed, *readings.nodes}, readings.names_left_out
        if left_out:
            # The engine was asked for the newest pushes only: what has ended stays what it was.
            ended = {job.name for job in self._fleet.jobs() if job.ending in ("finished", "stopped")}
            kept = {name for name in ended - names if self._fleet[name].track.points}
            left_out = max(0, left_out - len(kept))
            names |= kept
        most = self._settings.most_jobs
        chosen = keep_most_telling(names, self._fleet, readings.nodes, most)
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
        self._fleet.forget_dark(set(chosen))
        return chosen

    def _queries_left(self) -> int:
        return _MOST_QUERIES - (self._client.asked - self._asked_before)

    def _read_grid_history(self, now_seconds: float) -> None:
        try:
            self._grid_history.read_back(now_seconds, self._queries_left())
        except PromQLError as error:
            self._note_failure(error)

    def _note_failure(self, error: PromQLError) -> None:
        if self._failing != error.reason:
            _log.warning("%s; the forecasts before stay, with their age", error)
        self._failing = error.reason

    def _make_families(self, now_seconds: float) -> list[metrics.Family]:
        jobs = self._fleet.jobs()
        warnings = Counter(warning for job in jobs for warning in job.warnings())
        return [
            metrics.build_info(),
            *job_families([job.prediction for job in jobs if job.prediction is not None]),
            *self._learning.families(),
            *service_families(self._outcomes, warnings, self._client.errors, self._last_poll_seconds),
            *(grid_families(self._grid, now_seconds) if self._grid is not None else ()),
        ]
