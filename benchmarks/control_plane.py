"""An API server and a kubelet in a process of their own, so that their CPU time is not the agent's.

    python -m benchmarks.control_plane SOCKET

It writes the server's address in its first line. Then each line it reads is a change, {"start": [POD...], "end":
[NUMBER...]}, where a POD is [number, training job, UUID of its MIG slice], "" for none; it answers each with a line
when the change has been told. It ends with its input.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fake_kubernetes import NODE, ApiServer, Kubelet, pod, pod_resources

LABEL = "carbon-exporter.io/training-job"
RESOURCES = {"requests": {"cpu": "250m", "memory": "1Gi"}}
SLICE_RESOURCE = "nvidia.com/mig-1g.10gb"
PodToStart = tuple[int, str, str]
__all__ = ["NODE", "ControlPlane", "PodToStart", "control_plane"]


class ControlPlane:
    """The running process, as its parent sees it."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.url = self._answer()

    def change(self, start: Sequence[PodToStart] = (), end: Sequence[int] = ()) -> None:
        """Start and end pods; returns when the API server has told all watches."""
        if not start and not end:
            return
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"start": start, "end": end}) + "\n")
        self._process.stdin.flush()
        self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise OSError("the fake API server has ended")
        return line


@contextlib.contextmanager
def control_plane(socket: Path) -> Iterator[ControlPlane]:
    """Run one until the block ends; its kubelet listens on `socket`."""
    command = [sys.executable, "-m", "benchmarks.control_plane", str(socket)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield ControlPlane(process)
        finally:
            process.kill()


def main(socket: str) -> None:
    """Serve until the input ends."""
    server, kubelet = ApiServer(), Kubelet(socket)
    resources: dict[int, bytes] = {}
    print(server.url, flush=True)
    for line in sys.stdin:
        change: dict[str, Any] = json.loads(line)
        for number, job, uuid in change["start"]:
            labels = {LABEL: job} if job else {}
            server.put(pod(number, labels=labels, resources=RESOURCES))
            resources[number] = pod_resources(f"pod-{number}", [(SLICE_RESOURCE, [uuid])] if uuid else [])
        for number in change["end"]:
            server.delete(number)
            del resources[number]
        kubelet.reply = b"".join(resources.values())
        print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
