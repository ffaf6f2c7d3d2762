"""Deletes a job's group some time after its last push, in a process that outlives the training run.

A Pushgateway never forgets a group, and it does not count its scrapes, so that nobody can ask it whether the last push
has been seen. So the group stays a while, reckoned from the moment it is found on the gateway as the run left it.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Final, TypeVar

from carbon_exporter.model import ConfigurationError
from carbon_exporter.naming import GROUP, JOB
from carbon_exporter.push.gateway import URL, Gateway, GatewayError, from_environment
from carbon_exporter.push.training import Training

GIVE_UP_SECONDS: Final = 900.0
RETRY_SECONDS: Final = 5.0
DETACH_SECONDS: Final = 5.0
# With these the node agent would count the process as part of the job, and the job as still running.
_NOT_INHERITED: Final = (JOB, GROUP)
_PROGRAM: Final = "from carbon_exporter.push.deletion import main; main()"
_T = TypeVar("_T")


def start(gateway_url: str, training: Training, wait_seconds: float) -> None:
    """Start the process, and return when it stands on its own: no child of this one, in a session of its own.

    Raises:
        OSError: it cannot be started.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    environment[URL] = gateway_url
    environment["PYTHONPATH"] = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)  # noqa: PTH100
    # ASCII, so that every locale can hand it over.
    job = json.dumps([training.name, training.started_seconds, wait_seconds])
    process = subprocess.Popen(
        [sys.executable or "python3", "-c", _PROGRAM, job],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=environment,
        start_new_session=True,
    )
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(DETACH_SECONDS)


def main() -> None:
    """The process that `start` starts: leaves its parent, waits, deletes."""
    name, started_seconds, wait_seconds = json.loads(sys.argv[1])
    if os.fork():
        os._exit(0)
    with contextlib.suppress(ConfigurationError):
        gateway = from_environment(os.environ)
        if gateway is not None:
            delete_later(gateway, name, started_seconds, wait_seconds)


def delete_later(
    gateway: Gateway,
    name: str,
    started_seconds: float,
    wait_seconds: float,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Delete the group of `name` once it has stood for `wait_seconds`; whether it was deleted.

    It is left alone where another run, with another start, has pushed to it meanwhile, and where the gateway does not
    answer for 15 minutes.
    """

    def is_ours() -> bool:
        return gateway.started_seconds(name) == started_seconds

    def delete() -> bool:
        gateway.delete(name)
        return True

    if not _insist(is_ours, sleep):
        return False
    sleep(wait_seconds)
    if not _insist(is_ours, sleep):
        return False
    return _insist(delete, sleep) is not None


def _insist(ask: Callable[[], _T], sleep: Callable[[float], None]) -> _T | None:
    """The answer to `ask`, asked again while the gateway does not answer; None after GIVE_UP_SECONDS."""
    for _ in range(int(GIVE_UP_SECONDS / RETRY_SECONDS)):
        with contextlib.suppress(GatewayError):
            return ask()
        sleep(RETRY_SECONDS)
    return None
