"""Joules of NVIDIA GPUs through NVML, and who is on them (NVML API reference; the module pynvml binds the library).

Every driver tells energy or power; processes are told from driver 510 on.
"""

import contextlib
import logging
import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pynvml
from pydantic import PositiveFloat

from carbon_exporter import settings
from carbon_exporter.counter import Counter
from carbon_exporter.model import DeviceReading, Gpu, Json, MigDevice, Roots, SourceReading

_log = logging.getLogger(__name__)

# What no GPU reaches: beyond it lie blank values and garbage.
ABSENT: Final = "no NVIDIA driver (libnvidia-ml.so.1): nothing to do on a host without such GPUs"
_MOST_WATTS: Final = 5000.0
_MOST_JOULES: Final = 1e12
_LARGEST_PID: Final = 2**22

_NO_DRIVER: Final = frozenset({pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED})
# The GPU or its driver has no such thing. pynvml raises NVML_SUCCESS and INSUFFICIENT_SIZE from lists that are empty
# or grow between its two calls.
_UNSUPPORTED: Final = frozenset(
    {
        pynvml.NVML_SUCCESS,
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_NOT_FOUND,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_INSUFFICIENT_SIZE,
    }
)
# The handle is of no more use, whichever field was asked for.
_FATAL: Final = frozenset(
    {
        pynvml.NVML_ERROR_UNINITIALIZED,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_GPU_IS_LOST,
        28,  # NVML_ERROR_GPU_NOT_FOUND: pynvml 12 has no name for it
        pynvml.NVML_ERROR_RESET_REQUIRED,
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
    }
)
_CURE: Final = "compare with nvidia-smi and the kernel's log (dmesg)"
_CURES: Final = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "install the driver's libnvidia-ml.so.1; in a container use the NVIDIA "
    "runtime with NVIDIA_DRIVER_CAPABILITIES=utility",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "load the kernel module (modprobe nvidia); a container needs /dev/nvidia*",
    pynvml.NVML_ERROR_UNINITIALIZED: "the driver was reloaded; it is initialised again at the next reading",
    pynvml.NVML_ERROR_NO_PERMISSION: "let this user read /dev/nvidia*",
    pynvml.NVML_ERROR_GPU_IS_LOST: "it fell off the bus; see Xid lines in dmesg, reset it or reboot",
    pynvml.NVML_ERROR_RESET_REQUIRED: "stop its processes and run nvidia-smi --gpu-reset",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the driver was updated; reload its kernel module or reboot, then "
    "restart carbon-exporter",
}


class Settings(settings.Settings):
    """Settings of sources.nvml.

    `retry_seconds`: a driver or GPU that is absent or fails is initialised again after 0, 1, 2, 4 ... seconds and
    then this often. `longest_gap_seconds`: a GPU without an energy counter has its power integrated over intervals up
    to this long; what it used in a longer one is unknown and not counted.
    """

    retry_seconds: PositiveFloat = 60.0
    longest_gap_seconds: PositiveFloat = 60.0


def open_source(chosen: Settings, roots: Roots) -> "NvmlSource":
    """The source; the library is loaded at the first reading. `roots.procfs` tells no GPU from one without library."""
    return NvmlSource(chosen, roots.procfs)


@dataclass(slots=True)
class _Meter:
    """The joules of one GPU (`counter.total`), counted by NVML or integrated from `watts`, its power when last read."""

    counter: Counter = field(default_factory=Counter)
    watts: float | None = None

    def count(self, joules: float, now_seconds: float) -> bool:
        """Take NVML's counter; False where it was reset, with nothing added."""
        self.watts = None
        return self.counter.advance(joules, now_seconds, fastest=_MOST_WATTS)

    def integrate(self, watts: float, now_seconds: float, longest_gap_seconds: float) -> None:
        """Add the trapezoid between the last power and this one, or nothing after a longer gap."""
        elapsed = now_seconds - self.counter.seconds
        if self.watts is not None and 0 < elapsed <= longest_gap_seconds:
            self.counter.total += (self.watts + watts) / 2 * elapsed
        self.watts, self.counter.raw, self.counter.seconds = watts, None, now_seconds

    def to_json(self) -> Json:
        return {**self.counter.to_json(), "watts": self.watts}

    @classmethod
    def from_json(cls, state: Json) -> "_Meter":
        watts = state["watts"]
        meter = cls(Counter.from_json(state), None if watts is None else float(watts))
        numbers = (meter.counter.raw, meter.counter.total, meter.counter.seconds, meter.watts)
        if not all(number is None or (math.isfinite(number) and number >= 0) for number in numbers):
            raise ValueError(f"not a number of joules, seconds or watts: {state}")
        return meter


@dataclass(slots=True)
class _Device:
    """A GPU as it was found by the last initialisation; its handle is good until the next."""

    index: int
    handle: Any
    uuid: str
    model: str
    sampled_microseconds: int = 0
    """Timestamp of the newest SM utilisation sample that was read."""
    warned: bool = False

    def __str__(self) -> str:
        return f"GPU {self.uuid} (index {self.index})"


class NvmlSource:
    """Implements model.Source. A GPU is known by its UUID: its joules outlive the loss of the GPU or the driver."""

    def __init__(self, chosen: Settings, procfs: Path) -> None:
        self._settings = chosen
        self._kernel_gpus = procfs / "driver/nvidia/gpus"
        self._meters: dict[str, _Meter] = {}
        self._index_by_uuid: dict[str, int] = {}
        self._initialised = False
        self._driver = ""
        self._devices: list[_Device] = []
        self._missing: list[str] = []
        self._initialise_at: float | None = -math.inf
        self._delay_seconds = 0.0

    def read(self, now_seconds: float) -> SourceReading:
        """Read every GPU; a failing one is initialised again, together with the others, in later readings."""
        if self._initialise_at is not None and now_seconds >= self._initialise_at:
            self._initialise()
        readings: list[DeviceReading] = []
        failures = list(self._missing)
        healthy = bool(self._devices) and not failures
        for device in self._devices:
            try:
                reading = self._read_device(device, now_seconds, failures)
            except (pynvml.NVMLError, ValueError) as error:  # noqa: PERF203 - each GPU fails alone
                failures.append(_failure(device, error))
                healthy = False
            else:
                readings.extend([reading] if reading else [])
        self._plan(now_seconds, healthy=healthy)
        return SourceReading(tuple(readings), tuple(failures), present=bool(self._devices or failures))

    def state(self) -> Json:
        """The joules of every GPU ever seen, with the counter values they were read at."""
        return {"gpus": {uuid: meter.to_json() for uuid, meter in self._meters.items()}}

    def restore(self, state: Json) -> None:
        """Go on from `state()`; a GPU whose entry makes no sense starts anew."""
        gpus = state.get("gpus")
        for uuid, saved in gpus.items() if isinstance(gpus, dict) else ():
            try:
                self._meters[uuid] = _Meter.from_json(saved)
            except (KeyError, TypeError, ValueError) as error:  # noqa: PERF203 - each GPU is restored alone
                _log.warning("GPU %s: saved joules are ignored, counting starts anew: %r", uuid, error)

    def describe(self) -> str:
        """What NVML's joules are."""
        return "NVML's energy counter, or its power integrated where a GPU has none"

    def close(self) -> None:
        """Shut NVML down; a later reading would initialise it again."""
        if self._initialised:
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()
        self._initialised = False
        self._devices = []
        self._initialise_at = -math.inf

    def _plan(self, now_seconds: float, *, healthy: bool) -> None:
        """Set when to initialise again: never, or after a delay that doubles while it does not help."""
        if healthy:
            self._initialise_at, self._delay_seconds = None, 0.0
        elif self._initialise_at is None or now_seconds >= self._initialise_at:
            self._initialise_at = now_seconds + self._delay_seconds
            self._delay_seconds = min(max(1.0, 2 * self._delay_seconds), self._settings.retry_seconds)

    def _initialise(self) -> None:
        """Open every GPU of the host, and note in `_missing`, one line each, what should be there and is not."""
        self.close()
        self._missing = []
        try:
            pynvml.nvmlInit()
            self._initialised = True
            self._driver = _text(pynvml.nvmlSystemGetDriverVersion())
            count = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError as error:
            if error.value not in _NO_DRIVER or self._index_by_uuid or _has_entries(self._kernel_gpus):
                self._missing.append(_failure("NVML", error))
            return
        unopened: dict[int, object] = {}
        for index in range(count):
            try:
                self._devices.append(_open_device(index))
            except (pynvml.NVMLError, ValueError) as error:  # noqa: PERF203 - each GPU is opened alone
                unopened[index] = error
        here = {device.uuid for device in self._devices}
        for uuid, index in self._index_by_uuid.items():
            if uuid not in here:
                why = unopened.pop(index, "no longer there (restart carbon-exporter if it was removed on purpose)")
                self._missing.append(_failure(f"GPU {uuid} (index {index})", why))
        self._missing.extend(_failure(f"GPU with index {index}", why) for index, why in unopened.items())
        self._index_by_uuid.update((device.uuid, device.index) for device in self._devices)

    def _read_device(self, device: _Device, now_seconds: float, failures: list[str]) -> DeviceReading | None:
        """One GPU, or None if it can tell neither energy nor power.

        Raises:
            NVMLError, ValueError: no joules are to be had now.
        """
        meter = self._meters.setdefault(device.uuid, _Meter())
        millijoules = _answer(pynvml.nvmlDeviceGetTotalEnergyConsumption, device.handle)
        if millijoules is not None:
            method = "nvml counter"
            joules = _in_range(millijoules / 1000, _MOST_JOULES, "energy counter in joules")
            if not meter.count(joules, now_seconds):
                _log.warning("%s: its energy counter was reset; what it used since the last reading is unknown", device)
            milliwatts = _field(failures, device, pynvml.nvmlDeviceGetPowerUsage)
            watts = milliwatts / 1000 if milliwatts is not None and milliwatts <= 1000 * _MOST_WATTS else None
        else:
            method = "nvml integrated"
            milliwatts = _answer(pynvml.nvmlDeviceGetPowerUsage, device.handle)
            if milliwatts is None:
                if not device.warned:
                    _log.warning("%s (%s) tells neither its energy nor its power: left out", device, device.model)
                device.warned = True
                return None
            watts = _in_range(milliwatts / 1000, _MOST_WATTS, "power in watts")
            meter.integrate(watts, now_seconds, self._settings.longest_gap_seconds)
        return DeviceReading(
            device=device.uuid,
            component="gpu",
            energy_joules=meter.counter.total,
            method=method,
            labels={"uuid": device.uuid},
            gpu=self._describe(device, watts, failures),
        )

    def _describe(self, device: _Device, watts: float | None, failures: list[str]) -> Gpu:
        rates = _field(failures, device, pynvml.nvmlDeviceGetUtilizationRates)
        slices = _mig_devices(device, failures)
        # A GPU in MIG mode lists the processes of its slices only to the privileged; each slice lists its own. The
        # unversioned functions of pynvml raise something else than NVMLError where the driver is older.
        pids: set[int] = set()
        for handle in [handle for handle, _ in slices] or [device.handle]:
            for function in (
                pynvml.nvmlDeviceGetComputeRunningProcesses_v3,
                pynvml.nvmlDeviceGetMPSComputeRunningProcesses_v3,
            ):
                found = _field(failures, device, function, handle=handle) or ()
                pids.update(pid for process in found if 0 < (pid := process.pid) <= _LARGEST_PID)
        return Gpu(
            index=device.index,
            model=device.model,
            driver=self._driver,
            power_watts=watts,
            utilization_ratio=rates.gpu / 100 if rates is not None and rates.gpu <= 100 else None,
            pids=frozenset(pids),
            sm_share_by_pid=_sm_shares(device, pids, failures) if len(pids) > 1 else {},
            mig=tuple(mig for _, mig in slices),
        )


def _open_device(index: int) -> _Device:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    return _Device(index, handle, _text(pynvml.nvmlDeviceGetUUID(handle)), _text(pynvml.nvmlDeviceGetName(handle)))


def _mig_devices(device: _Device, failures: list[str]) -> list[tuple[Any, MigDevice]]:
    """The slices there are now, with their handles; mode and slices may change at any time."""
    mode = _field(failures, device, pynvml.nvmlDeviceGetMigMode)
    if mode is None or mode[0] != pynvml.NVML_DEVICE_MIG_ENABLE:
        return []
    found = []
    for index in range(_field(failures, device, pynvml.nvmlDeviceGetMaxMigDeviceCount) or 0):
        handle = _field(failures, device, pynvml.nvmlDeviceGetMigDeviceHandleByIndex, index)
        if handle is None:
            continue
        uuid = _field(failures, device, pynvml.nvmlDeviceGetUUID, handle=handle)
        gpu_instance = _field(failures, device, pynvml.nvmlDeviceGetGpuInstanceId, handle=handle)
        compute_instance = _field(failures, device, pynvml.nvmlDeviceGetComputeInstanceId, handle=handle)
        if uuid is not None and gpu_instance is not None and compute_instance is not None:
            model = _field(failures, device, pynvml.nvmlDeviceGetName, handle=handle) or device.model
            found.append((handle, MigDevice(_text(uuid), _text(model), f"gi{gpu_instance}/ci{compute_instance}")))
    return found


def _sm_shares(device: _Device, pids: set[int], failures: list[str]) -> dict[int, float]:
    """Mean SM utilisation (0 to 1) of each of `pids` over the samples taken since the last call."""
    percents = defaultdict(list)
    samples = _field(failures, device, pynvml.nvmlDeviceGetProcessUtilization, device.sampled_microseconds)
    for sample in samples or ():
        pid, percent = sample.pid, sample.smUtil
        if pid in pids and percent <= 100:
            percents[pid].append(percent)
            device.sampled_microseconds = max(device.sampled_microseconds, sample.timeStamp)
    return {pid: sum(values) / len(values) / 100 for pid, values in percents.items()}


def _answer(function: Callable[..., Any], *arguments: Any) -> Any:
    """What `function` answers, or None where GPU or driver has no such thing.

    Raises:
        NVMLError: every other error.
    """
    try:
        return function(*arguments)
    except pynvml.NVMLError as error:
        if error.value in _UNSUPPORTED:
            return None
        raise


def _field(
    failures: list[str], device: _Device, function: Callable[..., Any], *arguments: Any, handle: Any = None
) -> Any:
    """As `_answer` for something without which the joules still count: its error is noted and None returned.

    Raises:
        NVMLError: the handle is of no more use.
    """
    try:
        return _answer(function, device.handle if handle is None else handle, *arguments)
    except pynvml.NVMLError as error:
        if error.value in _FATAL:
            raise
        failures.append(_failure(f"{device}: {function.__name__}", error))
        return None


def _failure(what: object, error: object) -> str:
    return f"{what}: {error}: {_CURES.get(getattr(error, 'value', None), _CURE)}"


def _in_range(value: float, most: float, what: str) -> float:
    if not 0 <= value <= most:
        raise ValueError(f"{what} reads {value:g}, which no GPU reaches")
    return value


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _has_entries(folder: Path) -> bool:
    try:
        return any(folder.iterdir())
    except OSError:
        return False
