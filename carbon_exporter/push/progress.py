"""The epochs of a training run, pushed in the background."""

import atexit
import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Final, Literal, SupportsFloat

from carbon_exporter.model import ConfigurationError
from carbon_exporter.naming import JOB, group_in, name_in, training_job_name
from carbon_exporter.push import deletion
from carbon_exporter.push.gateway import URL, Gateway, from_environment
from carbon_exporter.push.pusher import Pusher
from carbon_exporter.push.training import Training, amount

RANKS: Final = (
    "RANK",  # torchrun; first, because it is right also under another launcher
    "SLURM_PROCID",
    "OMPI_COMM_WORLD_RANK",
    "PMIX_RANK",
    "PMI_RANK",
    "MV2_COMM_WORLD_RANK",
    "HOROVOD_RANK",
)
_log = logging.getLogger("carbon_exporter.push")


def rank(environment: Mapping[str, str]) -> int:
    """This process's place in a distributed run, from the first of RANKS that holds a number; 0 without any."""
    for variable in RANKS:
        with contextlib.suppress(KeyError, ValueError):
            return int(environment[variable])
    return 0


class Progress:
    """Pushes how far a training run is. Nothing in here raises because of a gateway, or because of a value.

    Used as a context manager, or by `start()` and `close()`. Left open, it is closed at the end of the process without
    a finished timestamp: whether the run ended as intended is then not known. In a forked child (a DataLoader worker)
    and on every rank but 0 it does nothing; `epochs()` counts there all the same.

    Args:
        name: the job, used as it stands; without it $CARBON_TRAINING_JOB (after "$CARBON_POD_NAMESPACE/" in
            Kubernetes), or in Slurm slurm-$SLURM_JOB_ID: the name by which the node agent knows it.
        epochs: how many the run is set to do in all.
        group: jobs alike, which forecasts learn from together; without it $CARBON_TRAINING_GROUP.
        epochs_completed: done already, where a run resumes from a checkpoint.
        budget_grams: CO2eq that the job may cause in all.
        gateway_url: the Pushgateway; without it $CARBON_PUSHGATEWAY_URL. Without either nothing is pushed.
        heartbeat_seconds: without news the same values are pushed again so often.
        close_timeout_seconds: the longest that the end waits for the last push.
        delete_after_seconds: how long the group stays after the end; None keeps it for ever.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        epochs: SupportsFloat | None = None,
        group: str | None = None,
        epochs_completed: SupportsFloat = 0,
        budget_grams: SupportsFloat | None = None,
        gateway_url: str | None = None,
        heartbeat_seconds: float = 60.0,
        close_timeout_seconds: float = 5.0,
        delete_after_seconds: float | None = 180.0,
    ) -> None:
        self._warned: set[str] = set()
        done = self._positive("epochs_completed", epochs_completed) or 0.0
        self._training = Training(
            name=training_job_name(str(name)) if name else name_in(os.environ),
            group=training_job_name(str(group)) if group else group_in(os.environ),
            epochs_completed=done,
            epochs_planned=self._positive("epochs", epochs),
            budget_grams=self._positive("budget_grams", budget_grams),
            epochs_resumed=done or None,
        )
        planned = amount(epochs)
        whole = planned is not None and planned.is_integer()
        self._range = range(int(done), int(planned)) if planned is not None and whole else None
        self._gateway_url = gateway_url
        self._heartbeat_seconds = self._positive("heartbeat_seconds", heartbeat_seconds) or 60.0
        self._close_timeout_seconds = amount(close_timeout_seconds) or 0.0
        self._delete_after_seconds = amount(delete_after_seconds)
        # A signal handler may call update() or close() in the midst of either.
        self._lock = threading.RLock()
        self._pusher: Pusher | None = None
        self._closed = False
        self._pid = os.getpid()

    def __enter__(self) -> "Progress":
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        self.close(finished=kind is None)
        return False

    def start(self) -> "Progress":
        """Push from now on. Does no I/O itself."""
        if self._pusher is not None or self._closed:
            return self
        self._pid = os.getpid()
        now = time.time()
        self._training = replace(self._training, started_seconds=now, epoch_end_seconds=now)
        gateway = self._find_gateway()
        if gateway is None:
            return self
        pusher = Pusher(gateway, self._training, self._heartbeat_seconds)
        try:
            pusher.start()
        except RuntimeError as error:
            _log.warning("no progress is pushed: %s", error)
            return self
        self._pusher = pusher
        atexit.register(self._close_at_exit)
        return self

    def update(self, epochs_completed: SupportsFloat) -> None:
        """`epochs_completed` epochs are done in all, 2.35 for part of the third. Only stores the number.

        A number that went back, or is none, is not taken over; one above the plan is. Each is warned of once.
        """
        if self._pid != os.getpid():
            return
        value = amount(epochs_completed)
        if value is None:
            self._warn("number", f"epochs_completed must be a number of at least 0, not {_shown(epochs_completed)}")
            return
        with self._lock:
            known = self._training
            if value > (known.epochs_completed or 0.0):
                self._set(replace(known, epochs_completed=value, epoch_end_seconds=time.time()))
        if value < (known.epochs_completed or 0.0):
            self._warn(
                "back", f"epochs_completed went back from {known.epochs_completed:g} to {value:g}: not taken over"
            )
        if known.epochs_planned is not None and value > known.epochs_planned:
            self._warn("above", f"epochs_completed is {value:g} of {known.epochs_planned:g} planned")

    def epochs(self) -> Iterator[int]:
        """The epochs still to do, counted from 0 as range() does; each is completed when the next one is asked for.

        Raises:
            ValueError: `epochs` was not given as a whole number, so that there is nothing to count.
        """
        if self._range is None:
            raise ValueError("Progress.epochs() needs a whole number: Progress(..., epochs=90)")
        return self._count(self._range)

    def _count(self, epochs: range) -> Iterator[int]:
        for epoch in epochs:
            yield epoch
            self.update(epoch + 1)

    def close(self, *, finished: bool = True) -> None:
        """Push a last time, then leave the deletion of the group to a process of its own.

        Waits for the push no longer than `close_timeout_seconds`. `finished` is whether the run ended as intended.
        """
        pusher = self._pusher
        if pusher is None or self._closed or self._pid != os.getpid():
            return
        self._closed = True
        atexit.unregister(self._close_at_exit)
        if finished:
            with self._lock:
                self._set(replace(self._training, finished_seconds=time.time()))
        if not pusher.close(self._close_timeout_seconds):
            self._warn("last", f"the last push was not confirmed in {self._close_timeout_seconds:g} s")
        if pusher.confirmed and self._delete_after_seconds is not None:
            try:
                deletion.start(pusher.gateway.url, self._training, self._delete_after_seconds)
            except OSError as error:
                self._warn("delete", f"nobody deletes the group from {pusher.gateway.url}: {error.strerror}")

    def _set(self, training: Training) -> None:
        self._training = training
        if self._pusher is not None:
            self._pusher.latest = training

    def _close_at_exit(self) -> None:
        self.close(finished=False)

    def _find_gateway(self) -> Gateway | None:
        """The gateway to push to; without one, or without a job to push, None, and the log says why."""
        if rank(os.environ) > 0:
            return None
        try:
            gateway = from_environment(os.environ, self._gateway_url)
        except ConfigurationError as error:
            self._warn("gateway", f"no progress is pushed: {error}")
            return None
        if gateway is None:
            _log.info("no progress is pushed: set %s to the URL of a Pushgateway", URL)
            return None
        if not self._training.name:
            self._warn("name", f"no progress is pushed: name the job by Progress(NAME) or {JOB}")
            return None
        return gateway

    def _positive(self, argument: str, value: object) -> float | None:
        """`value` as a number above 0, or None, with a warning unless it is None or (epochs_completed) 0."""
        number = amount(value)
        if value is None or number or (number == 0 and argument == "epochs_completed"):
            return number
        self._warn(argument, f"Progress({argument}=...) must be a number above 0, not {_shown(value)}: left out")
        return None

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            _log.warning("%s", message)


def _shown(value: object) -> str:
    try:
        return f"{float(value):g}"  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001 - as in amount()
        return type(value).__name__
