"""A host for measurements: RAPL counters that move, 8 GPUs in the shim of NVML, and training jobs as real processes.

The programs measured are real processes on loopback ports, and everything is gone when its block is left.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from nvml_shim import Process, Shim, build
from powercap import two_sockets

from carbon_exporter.demo.servers import Server, ServerError, free_port

GPUS = 8
SAMPLING_SECONDS = 1.0
BUSY_JOBS = 20
"""So many of the jobs use 1 % of a CPU each, enough that their CPU time rises in every second; the others sleep."""
_SLEEP = ["sleep", "infinity"]
_BUSY = """
import time
while True:
    end = time.thread_time() + 0.01
    while time.thread_time() < end:
        pass
    time.sleep(1)
"""


@dataclass(frozen=True)
class Host:
    """The hardware: its tree of /sys, the shim of NVML, and a directory for files."""

    sysfs: Path
    shim: Shim
    directory: Path


@contextlib.contextmanager
def moving_host(directory: Path) -> Iterator[Host]:
    """Two sockets and 8 GPUs, whose energy counters move until the block ends.

    Raises:
        ServerError: there is no C compiler for the shim.
    """
    if shutil.which(os.environ.get("CC", "gcc")) is None:
        raise ServerError("gcc is not on the PATH: apt-get install gcc")
    tree = two_sockets(directory / "sys")
    shim = Shim(directory / "gpus", build(directory))
    for index in range(GPUS):
        gpu = shim.gpus[index].plug(f"GPU-{index:08d}-1111-2222-3333-444444444444", watts=300.0 + index)
        gpu.utilization_percent = 90
    with tree.moving(0.2):
        yield Host(tree.sysfs, shim, directory)


@contextlib.contextmanager
def training_jobs(count: int, host: Host) -> Iterator[None]:
    """`count` processes, each a job of its own; two of them share each GPU."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(count):
            environment = {
                **os.environ,
                "CARBON_TRAINING_JOB": f"benchmark-{number:03d}",
                "CARBON_TRAINING_GROUP": "benchmark",
            }
            command = [sys.executable, "-S", "-c", _BUSY] if number < BUSY_JOBS else _SLEEP
            processes.append(subprocess.Popen(command, env=environment))
        for index in range(GPUS):
            pair = processes[2 * index : 2 * index + 2]
            host.shim.gpus[index].set_processes(Process(job.pid, 0, -1, 40) for job in pair)
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def configuration(host: Host) -> Path:
    """The node agent's settings: the moving hardware and the real /proc, once a second, a state file on the disk."""
    path = host.directory / "node.yaml"
    node = {
        "interval_seconds": SAMPLING_SECONDS,
        "state_file": str(host.directory / "node.json"),
        "sysfs": str(host.sysfs),
    }
    path.write_text(yaml.safe_dump({"node": node, "intensity": {"grid_zone": "DK"}}))
    return path


def node_agent(host: Host) -> Server:
    """`carbon-exporter node`, as a process of its own."""
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "carbon_exporter", "node", "--config", str(configuration(host))]
    command += ["--web.listen-address", url.split("//")[1]]
    return Server(command, url, host.directory / "node.log", environment=host.shim.environment())


def node_exporter(host: Host) -> Server:
    """Debian's prometheus-node-exporter on the same tree, with its rapl collector alone."""
    url = f"http://127.0.0.1:{free_port()}"
    command = [
        "prometheus-node-exporter",
        f"--path.sysfs={host.sysfs}",
        "--collector.disable-defaults",
        "--collector.rapl",
        "--web.disable-exporter-metrics",
        f"--web.listen-address={url.split('//')[1]}",
    ]
    return Server(command, url, host.directory / "node_exporter.log", ready_path="/metrics")
