"""Starts the real servers around this project on free loopback ports, and ends every one of them.

The demo and the tests run on these. A server is a context manager: entered, it answers; left, its process is gone.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

import requests
import yaml

START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 10.0


class ServerError(Exception):
    """A server is missing, did not start or died; the message is one line with the cure or the end of its log."""


def free_port() -> int:
    """A loopback port that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A program that answers on a loopback port.

    Args:
        command: the program and its arguments.
        url: where it answers, such as "http://127.0.0.1:29090".
        log: the file that takes its output.
        ready_path: the path that answers 200 once it is ready.
        environment: variables on top of this process's own; the value None removes one.
    """

    def __init__(
        self,
        command: Sequence[str],
        url: str,
        log: Path,
        *,
        ready_path: str = "/-/ready",
        environment: Mapping[str, str | None] | None = None,
    ) -> None:
        self.command = list(command)
        self.url = url
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None
        self._ready_path = ready_path
        self._environment = environment or {}

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """Host and port, "127.0.0.1:29090"."""
        return self.url.split("//", 1)[1]

    def start(self) -> None:
        """Start the program and wait until it is ready.

        Raises:
            ServerError: it is not installed, died, or was not ready in 30 s.
        """
        if shutil.which(self.command[0]) is None:
            raise ServerError(f"{self.command[0]} is not on the PATH: apt-get install {self.command[0]}")
        environment = {**os.environ, **self._environment}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={name: value for name, value in environment.items() if value is not None},
            )
        try:
            self._wait_until_ready(self.process)
        except BaseException:
            self.stop()
            raise

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise ServerError(f"{self.command[0]} ended with status {process.returncode}: {self._last_words()}")
            with contextlib.suppress(requests.RequestException):
                if requests.get(self.url + self._ready_path, timeout=2).ok:
                    return
            time.sleep(0.05)
        raise ServerError(
            f"{self.command[0]} was not ready at {self.url} in {START_SECONDS:.0f} s: {self._last_words()}"
        )

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return lines[-1] if lines else "it wrote nothing"

    def stop(self) -> None:
        """End the program with SIGTERM, with SIGKILL where that is not enough, and wait until it is gone."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        self.process = None

    def kill(self) -> None:
        """End the program with SIGKILL, as a crash would."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()


def pushgateway(directory: Path) -> Server:
    """A Pushgateway that keeps nothing on disk (Debian's own default would bring back groups of earlier runs)."""
    url = f"http://127.0.0.1:{free_port()}"
    command = ["prometheus-pushgateway", "--persistence.file=", f"--web.listen-address={url.split('//')[1]}"]
    return Server(command, url, directory / "pushgateway.log")


def alertmanager(directory: Path, webhook_url: str | None = None) -> Server:
    """An Alertmanager that groups by alert and job, and posts to `webhook_url` where one is given."""
    url = f"http://127.0.0.1:{free_port()}"
    receiver = {"name": "demo", "webhook_configs": [{"url": webhook_url}] if webhook_url else []}
    configuration = directory / "alertmanager.yml"
    route = {
        "receiver": "demo",
        "group_by": ["alertname", "training_job"],
        "group_wait": "1s",
        "group_interval": "1s",
        "repeat_interval": "1h",
    }
    configuration.write_text(yaml.safe_dump({"route": route, "receivers": [receiver]}))
    command = [
        "prometheus-alertmanager",
        f"--config.file={configuration}",
        f"--storage.path={directory / 'alertmanager'}",
        f"--web.listen-address={url.split('//')[1]}",
        "--cluster.listen-address=",  # or it opens a gossip port on every address
    ]
    return Server(command, url, directory / "alertmanager.log")


def prometheus(
    directory: Path,
    targets: Mapping[str, str],
    *,
    rules: Sequence[Path] = (),
    alertmanager_url: str | None = None,
    interval_seconds: float = 1,
    honor_labels: Sequence[str] = ("pushgateway",),
) -> Server:
    """A Prometheus that scrapes `targets` (scrape job -> URL) and evaluates `rules`.

    The scrape jobs in `honor_labels` keep the labels that they serve, as a Pushgateway's must.
    """
    url = f"http://127.0.0.1:{free_port()}"
    interval = f"{round(interval_seconds * 1000)}ms"
    scrapes = [
        {
            "job_name": name,
            "honor_labels": name in honor_labels,
            "static_configs": [{"targets": [target.split("//")[1]]}],
        }
        for name, target in targets.items()
    ]
    settings: dict[str, object] = {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": [str(path) for path in rules],
        "scrape_configs": scrapes,
    }
    if alertmanager_url is not None:
        settings["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [alertmanager_url.split("//")[1]]}]}]}
    configuration = directory / "prometheus.yml"
    configuration.write_text(yaml.safe_dump(settings))
    command = [
        "prometheus",
        f"--config.file={configuration}",
        f"--storage.tsdb.path={directory / 'prometheus'}",
        f"--web.listen-address={url.split('//')[1]}",
        "--web.enable-lifecycle",
        "--log.level=warn",
    ]
    return Server(command, url, directory / "prometheus.log")


@contextlib.contextmanager
def running(*servers: Server) -> Iterator[None]:
    """Start the servers in their order; stop them in the opposite one, whatever happens."""
    with contextlib.ExitStack() as stack:
        for server in servers:
            stack.enter_context(server)
        yield
