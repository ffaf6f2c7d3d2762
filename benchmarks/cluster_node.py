"""A node of a cluster for measurements: pods, MIG slices, processes and a clock that is stepped from tick to tick.

Its /proc, /sys and control groups are folders of plain files, its NVML is the shim, its API server and kubelet are
real servers in a process of their own. Besides the pods that stay, short jobs come and go: pods with a MIG slice and
labelled processes without a pod, in turn.
"""

import contextlib
import ctypes
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pynvml
import yaml
from nvml_shim import Process, Shim
from powercap import two_sockets
from scripted import ScriptedProc

from benchmarks.control_plane import NODE, ControlPlane, PodToStart, control_plane
from carbon_exporter.config import load_config
from carbon_exporter.node.agent import build_sampler, open_node_grid
from carbon_exporter.node.sampler import Sampler

TICK_SECONDS = 2.0
SHORT_JOBS_PER_HOUR = 1000
SHORT_JOB_SECONDS = 25.0
SLICES_PER_GPU = 7
CPUS = 128


@dataclass(frozen=True)
class NodeSize:
    """What is on the node besides the short jobs, which use the last GPU."""

    pods: int
    jobs: int
    """So many of the pods are labelled, each as a job of its own."""
    gpus: int
    linger_seconds: float


@dataclass
class Piece:
    """A pod, or a short job that is a process."""

    number: int
    job: str
    slice_index: int | None
    end_seconds: float
    pids: tuple[int, ...]
    cpu_seconds: float = 0.0
    folder: Path | None = None


class ClusterNode:
    """The node; `now` is its clock."""

    def __init__(self, directory: Path, size: NodeSize, cluster: ControlPlane, shim: Shim) -> None:
        self.now = 1000.0
        self._begin = self.now
        self._cluster = cluster
        self._gpus = [shim.gpus[index] for index in range(size.gpus)]
        self._tree = two_sockets(directory / "sys")
        self._proc = ScriptedProc(directory / "proc", CPUS)
        self._pods = directory / "sys/fs/cgroup/kubepods/burstable"
        self._pods.mkdir(parents=True)
        (directory / "sys/fs/cgroup/cgroup.controllers").touch()
        self._pieces: dict[int, Piece] = {}
        self._short = 0
        self._next_pid = 1000
        self._plug()
        kept = SLICES_PER_GPU * (size.gpus - 1)
        jobs = [f"job-{number:03d}" if number < size.jobs else "" for number in range(size.pods)]
        pods = [self._pod(n, job, n if n < kept else None, float("inf")) for n, job in enumerate(jobs)]
        cluster.change(start=pods)
        self._set_processes()

    def step(self) -> None:
        """Two seconds pass: jobs come and go, each uses its CPU time, and the devices their joules."""
        self.now += TICK_SECONDS
        ended = [piece for piece in self._pieces.values() if piece.end_seconds <= self.now]
        for piece in ended:
            self._end(piece)
        started = []
        while self._short < (self.now - self._begin) * SHORT_JOBS_PER_HOUR / 3600:
            started += self._start_short(self._short)
            self._short += 1
        self._cluster.change(started, [piece.number for piece in ended if piece.folder])
        if started or ended:
            self._set_processes()
        for piece in self._pieces.values():
            if piece.job:
                self._work(piece)
        for zone in self._tree.zones.values():
            zone.spend(round(zone.watts * TICK_SECONDS * 1e6))  # type: ignore[operator]
        for gpu in self._gpus:
            for instance in range(1, SLICES_PER_GPU + 1):
                gpu.run_instance(instance, TICK_SECONDS, 0.7)
        self._proc.spend(0.5 * CPUS * TICK_SECONDS, 0.5 * CPUS * TICK_SECONDS)

    def _plug(self) -> None:
        for index, gpu in enumerate(self._gpus):
            gpu.plug(f"GPU-{index:08d}-1111-2222-3333-444444444444", watts=400.0 + index)
            gpu.gpm_supported = 1
            slices = range(SLICES_PER_GPU)
            gpu.set_slices({i: (_slice_uuid(index * SLICES_PER_GPU + i), i + 1, 0) for i in slices})

    def _start_short(self, short: int) -> list[PodToStart]:
        number, job, end = 100_000 + short, f"short-{short:06d}", self.now + SHORT_JOB_SECONDS
        if short % 2:
            return [self._pod(number, job, SLICES_PER_GPU * (len(self._gpus) - 1) + short // 2 % SLICES_PER_GPU, end)]
        (pid,) = self._pids(1)
        self._proc.put(pid, start=self.now, CARBON_TRAINING_JOB=job)
        self._pieces[number] = Piece(number, job, None, end, (pid,))
        return []

    def _pod(self, number: int, job: str, slice_index: int | None, end_seconds: float) -> PodToStart:
        """Two processes and a control group."""
        uid = f"{number:08x}-1111-4222-8333-444455556666"
        folder = self._pods / f"pod{uid}"
        folder.mkdir()
        pids = self._pids(2)
        for pid in pids:
            self._proc.put(pid, start=self.now)
            (self._proc.root / str(pid) / "cgroup").write_text(f"0::/kubepods/burstable/pod{uid}/container\n")
        piece = self._pieces[number] = Piece(number, job, slice_index, end_seconds, pids, folder=folder)
        self._work(piece)
        return number, job, "" if slice_index is None else _slice_uuid(slice_index)

    def _pids(self, count: int) -> tuple[int, ...]:
        first = self._next_pid
        self._next_pid = first + count if first < 30_000 else 5000
        return tuple(range(first, first + count))

    def _work(self, piece: Piece) -> None:
        piece.cpu_seconds += 0.2 * TICK_SECONDS
        if piece.folder is not None:
            microseconds = round(piece.cpu_seconds * 1e6)
            (piece.folder / "cpu.stat").write_text(f"usage_usec {microseconds}\nuser_usec {microseconds}\n")
        else:
            (pid,) = piece.pids
            start = piece.end_seconds - SHORT_JOB_SECONDS
            self._proc.put(pid, start=start, own=piece.cpu_seconds, CARBON_TRAINING_JOB=piece.job)

    def _end(self, piece: Piece) -> None:
        del self._pieces[piece.number]
        for pid in piece.pids:
            self._proc.drop(pid)
        if piece.folder is not None:
            (piece.folder / "cpu.stat").unlink()
            piece.folder.rmdir()

    def _set_processes(self) -> None:
        """One process of each pod with a slice is on it."""
        on: dict[int, list[Process]] = {index: [] for index in range(len(self._gpus))}
        for piece in self._pieces.values():
            if piece.slice_index is not None:
                gpu, position = divmod(piece.slice_index, SLICES_PER_GPU)
                on[gpu].append(Process(piece.pids[-1], 0, position, 40))
        for gpu, processes in on.items():
            self._gpus[gpu].set_processes(processes)


def _slice_uuid(index: int) -> str:
    return f"MIG-{index:08d}-1111-5222-8333-444455556666"


@contextlib.contextmanager
def cluster_node(
    size: NodeSize, library: Path, state_file: Path, publish: Callable[[bytes], object]
) -> Iterator[tuple[ClusterNode, Sampler]]:
    """The node, and the sampler that `carbon-exporter node` runs on it, by the node's own clock.

    Args:
        size: of the node.
        library: the shim's, as nvml_shim.build made it.
        state_file: the agent's.
        publish: gets the page of every tick.
    """
    # As the kernel's own trees, those of the node lie in memory.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="carbon-node-", dir=memory if memory.is_dir() else None) as directory:
        yield from _run(Path(directory), size, library, state_file, publish)


def _run(
    directory: Path, size: NodeSize, library: Path, state_file: Path, publish: Callable[[bytes], object]
) -> Iterator[tuple[ClusterNode, Sampler]]:
    socket = directory / "kubelet.sock"
    shim = Shim(directory / "gpus", library)
    os.environ["NVML_SHIM"] = str(shim.control)
    pynvml.nvmlLib = ctypes.CDLL(str(shim.lib))
    pynvml._nvmlGetFunctionPointer_cache.clear()  # noqa: SLF001 - it holds the functions of the last node's shim
    with control_plane(socket) as cluster:
        node = ClusterNode(directory, size, cluster, shim)
        config = load_config(_configuration(directory, size, state_file, cluster.url))
        sampler: Any = build_sampler(config, publish, open_node_grid(config))
        booted = time.time() - node.now
        sampler._clock = lambda: node.now  # noqa: SLF001 - the agent's own clocks cannot be stepped
        sampler._wall_clock = lambda: booted + node.now  # noqa: SLF001
        try:
            yield node, sampler
        finally:
            sampler.close()


def _configuration(directory: Path, size: NodeSize, state_file: Path, url: str) -> Path:
    """A tick takes some hundredths of a second here instead of two seconds, so the kubelet is asked as much more often:
    about once in five ticks, as it is while no pod with a GPU comes or goes."""
    kubernetes = {
        "node_name": NODE,
        "api_url": url,
        "token_file": "",
        "ca_file": "",
        "pod_resources_socket": str(directory / "kubelet.sock"),
        "pod_resources_seconds": 0.2,
    }
    node = {
        "interval_seconds": TICK_SECONDS,
        "linger_seconds": size.linger_seconds,
        "state_file": str(state_file),
        "sysfs": str(directory / "sys"),
        "procfs": str(directory / "proc"),
    }
    path = directory / "node.yaml"
    jobs = {"kubernetes": kubernetes, "slurm": False}
    path.write_text(yaml.safe_dump({"node": node, "jobs": jobs, "intensity": {"grid_zone": "DK"}}))
    return path
