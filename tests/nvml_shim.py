"""A host with NVIDIA GPUs for tests: builds nvml_shim.c, and changes under running programs what it answers.

    shim = Shim(folder / "gpus", build(folder))
    gpu = shim.gpus[0].plug("GPU-0", watts=300)  # its energy counter moves with the monotonic clock
    subprocess.run([...], env={**os.environ, **shim.environment()})  # the program's pynvml finds the shim by name
    gpu.energy_joules(time.monotonic_ns())  # the truth to compare with

A test that reads in its own process puts `ctypes.CDLL(str(shim.lib))` where pynvml keeps its library.
"""

import ctypes
import mmap
import os
import shutil
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

SOURCE = Path(__file__).with_name("nvml_shim.c")
OPEN, ENERGY, POWER, UTILIZATION, COMPUTE, MPS, PROCESS_UTILIZATION, MIG, MINOR, ATTRIBUTES = range(10)
GPM_SUPPORT, GPM_SAMPLE, GPM_METRICS, GPM_VALUE, POWER_LIMIT = range(10, 15)
FUNCTIONS = 15
NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND, INSUFFICIENT_SIZE, TIMEOUT, GPU_IS_LOST, UNKNOWN = 3, 4, 6, 7, 10, 15, 999
NOTHING, OLD_SAMPLES = -1, -2
GPUS, SLICES, INSTANCES, PROCESSES = 16, 8, 16, 64


class Process(ctypes.Structure):
    _fields_ = (
        ("pid", ctypes.c_uint32),
        ("is_mps", ctypes.c_uint32),
        ("slice", ctypes.c_int32),
        ("sm_percent", ctypes.c_uint32),
        ("sampled_microseconds", ctypes.c_uint64),
        ("ended", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
    )


class Slice(ctypes.Structure):
    _fields_ = (
        ("present", ctypes.c_uint32),
        ("gpu_instance", ctypes.c_uint32),
        ("compute_instance", ctypes.c_uint32),
        ("compute_slices", ctypes.c_uint32),
        ("uuid", ctypes.c_char * 96),
        ("name", ctypes.c_char * 96),
    )


class Activity(ctypes.Structure):
    _fields_ = (("elapsed_seconds", ctypes.c_double), ("busy_seconds", ctypes.c_double))


class ShimGpu(ctypes.Structure):
    """One GPU. Plain fields may be set at any time; energy only through the methods."""

    _fields_ = (
        ("sequence", ctypes.c_uint32),
        ("present", ctypes.c_uint32),
        ("lost", ctypes.c_uint32),
        ("power_milliwatts", ctypes.c_uint32),
        ("utilization_percent", ctypes.c_uint32),
        ("mig_enabled", ctypes.c_uint32),
        ("process_count", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
        ("energy_millijoules", ctypes.c_uint64),
        ("energy_since_nanoseconds", ctypes.c_uint64),
        ("energy_milliwatts", ctypes.c_uint64),
        ("errors", ctypes.c_int32 * FUNCTIONS),
        ("minor", ctypes.c_uint32),
        ("most_slices", ctypes.c_uint32),
        ("gpm_supported", ctypes.c_uint32),
        ("power_limit_milliwatts", ctypes.c_uint32),
        ("uuid", ctypes.c_char * 96),
        ("name", ctypes.c_char * 96),
        ("slices", Slice * SLICES),
        ("instances", Activity * INSTANCES),
        ("processes", Process * PROCESSES),
    )

    def plug(self, uuid: str = "GPU-0", *, joules: float = 0, watts: float = 0) -> "ShimGpu":
        """Put the GPU in: its counter stands at `joules` and moves with `watts`, which is also the power it tells."""
        self.uuid, self.name, self.present = uuid.encode(), b"NVIDIA H100 80GB HBM3", 1
        self.power_limit_milliwatts = 700_000
        self.set_energy(joules, watts)
        return self

    def set_energy(self, joules: float, watts: float = 0) -> None:
        """Set the energy counter to `joules`, from where it goes on with `watts`."""
        self._set_energy(round(joules * 1000), watts, time.monotonic_ns())

    def set_watts(self, watts: float) -> None:
        """From now on the counter moves with `watts`; nothing is lost or gained in the change."""
        now = time.monotonic_ns()
        self._set_energy(self._millijoules(now), watts, now)

    def energy_joules(self, monotonic_nanoseconds: int) -> float:
        """What the counter shows at that time, to the millijoule."""
        return self._millijoules(monotonic_nanoseconds) / 1000

    def set_processes(self, processes: Iterable[Process]) -> None:
        """These processes are on the GPU now, and no others."""
        self.process_count = 0
        for count, process in enumerate(processes, 1):
            self.processes[count - 1] = process
            self.process_count = count

    def set_slices(self, slices: dict[int, tuple[str, int, int] | tuple[str, int, int, int]]) -> None:
        """MIG on, with slices at these positions and no others.

        Each is (uuid, GPU instance, compute instance, its compute slices: 1 unless told).
        """
        self.mig_enabled = 1
        for position in range(SLICES):
            uuid, gpu_instance, compute_instance, *more = slices.get(position, ("", 0, 0))
            compute_slices = more[0] if more else 1
            name = f"NVIDIA H100 80GB HBM3 MIG {compute_slices}g.{10 * compute_slices}gb".encode() if uuid else b""
            self.slices[position] = Slice(
                bool(uuid), gpu_instance, compute_instance, compute_slices, uuid.encode(), name
            )

    def run_instance(self, gpu_instance: int, seconds: float, ratio: float) -> None:
        """For that long, this share of the SMs of a GPU instance was busy."""
        self.instances[gpu_instance].elapsed_seconds += seconds
        self.instances[gpu_instance].busy_seconds += seconds * ratio

    def _millijoules(self, now: int) -> int:
        return self.energy_millijoules + self.energy_milliwatts * (now - self.energy_since_nanoseconds) // 10**9

    def _set_energy(self, millijoules: int, watts: float, now: int) -> None:
        self.sequence += 1
        self.energy_millijoules, self.energy_since_nanoseconds = millijoules, now
        self.energy_milliwatts = self.power_milliwatts = round(watts * 1000)
        self.sequence += 1


class _Host(ctypes.Structure):
    _fields_ = (
        ("driver_loaded", ctypes.c_uint32),
        ("generation", ctypes.c_uint32),
        ("calls", ctypes.c_uint32),
        ("inits", ctypes.c_uint32),
        ("allocation_error", ctypes.c_int32),
        ("samples", ctypes.c_int32),
        ("gpus", ShimGpu * GPUS),
    )


def build(folder: Path, *without: str) -> Path:
    """The shim's library, compiled into `folder`; `without` leaves out entry points: "ENERGY", "MPS", "MINOR" ..."""
    library = folder / "-".join(("nvml-shim", *without))
    defines = [f"-DWITHOUT_{name}" for name in without]
    command = [os.environ.get("CC", "gcc"), "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", *defines]
    subprocess.run([*command, "-Wl,-soname,libnvidia-ml.so.1", "-o", str(library), str(SOURCE)], check=True)
    return library


class Shim:
    """A host without GPUs at first, its driver loaded, around its own copy of the library that `build` made."""

    def __init__(self, folder: Path, built: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.lib = folder / "libnvidia-ml.so.1"
        self.control = folder / "host"
        shutil.copyfile(built, self.lib)
        self.control.write_bytes(bytes(ctypes.sizeof(_Host)))
        with self.control.open("r+b") as file:
            self._host = _Host.from_buffer(mmap.mmap(file.fileno(), 0))
        self._host.driver_loaded = 1
        for number, gpu in enumerate(self._host.gpus):
            gpu.minor, gpu.most_slices = number, 7

    @property
    def gpus(self) -> "ctypes.Array[ShimGpu]":
        return self._host.gpus

    @property
    def calls(self) -> int:
        """NVML calls so far, of all programs."""
        return self._host.calls

    @property
    def inits(self) -> int:
        """Attempts so far to initialise."""
        return self._host.inits

    @property
    def samples(self) -> int:
        """GPM samples allocated and not yet freed."""
        return self._host.samples

    def refuse_samples(self, error: int) -> None:
        """From now on no GPM sample is allocated; 0 allows it again."""
        self._host.allocation_error = error

    def environment(self) -> dict[str, str]:
        """What a program needs to find the shim as its NVML."""
        return {"LD_LIBRARY_PATH": str(self.folder), "NVML_SHIM": str(self.control)}

    def unload_driver(self) -> None:
        self._host.driver_loaded = 0

    def load_driver(self) -> None:
        """Every program must initialise again: its handles belong to the driver before."""
        self._host.generation += 1
        self._host.driver_loaded = 1
