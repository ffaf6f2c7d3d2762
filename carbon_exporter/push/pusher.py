"""One background thread with one slot: whatever is in the slot is pushed, and nothing ever queues up."""

import logging
import threading
import time
from typing import Final

from carbon_exporter.push.gateway import Gateway, GatewayError
from carbon_exporter.push.training import Training

TICK_SECONDS: Final = 1.0
"""How often the thread looks for news: none waits longer, and no flood of updates is pushed more often."""
_log = logging.getLogger("carbon_exporter.push")


class Pusher:
    """Pushes `latest` when it has changed, the same again at heartbeats, and after failures ever more seldom.

    Set `latest` from any thread. `confirmed` is whether the gateway has taken a push yet.
    """

    def __init__(self, gateway: Gateway, latest: Training, heartbeat_seconds: float) -> None:
        self.gateway = gateway
        self.latest = latest
        self.confirmed = False
        self._heartbeat_seconds = heartbeat_seconds
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="carbon-push", daemon=True)

    def start(self) -> None:
        """Start the thread.

        Raises:
            RuntimeError: the system gives no thread.
        """
        self._thread.start()

    def close(self, timeout_seconds: float) -> bool:
        """Push `latest` a last time and end; whether the thread has ended in `timeout_seconds`."""
        self._closing.set()
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        failures, due, pushed = 0, 0.0, None
        while True:
            closing, latest, now = self._closing.is_set(), self.latest, time.monotonic()
            if closing or now >= due or (latest is not pushed and not failures):
                if self._push(latest, failing=failures > 0):
                    failures, due, pushed = 0, now + self._heartbeat_seconds, latest
                else:
                    failures += 1
                    due = now + min(2.0 ** min(failures, 10), self._heartbeat_seconds)
            if closing:
                return
            self._closing.wait(min(TICK_SECONDS, self._heartbeat_seconds))

    def _push(self, training: Training, *, failing: bool) -> bool:
        try:
            self.gateway.push(training)
        except GatewayError as error:
            if not failing:
                _log.warning("progress cannot be pushed, training goes on: %s", error)
            return False
        if failing:
            _log.info("progress is pushed again to %s", self.gateway.url)
        self.confirmed = True
        return True
