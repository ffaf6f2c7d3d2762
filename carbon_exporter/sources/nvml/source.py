"""All GPUs of a host: opened, read one by one, opened again when one is lost or the driver is reloaded."""

import contextlib
import logging
import math
from pathlib import Path

import pynvml

from carbon_exporter.model import DeviceReading, Json, SourceReading
from carbon_exporter.sources.nvml.calls import NO_DRIVER, failure, text
from carbon_exporter.sources.nvml.gpu import OpenGpu
from carbon_exporter.sources.nvml.meter import Meter

_log = logging.getLogger(__name__)


class NvmlSource:
    """Implements model.Source. A GPU is known by its UUID: its joules outlive the loss of the GPU or the driver."""

    def __init__(
        self, procfs: Path, *, retry_seconds: float, longest_gap_seconds: float, mig_utilization: bool
    ) -> None:
        self._kernel_gpus = procfs / "driver/nvidia/gpus"
        self._retry_seconds = retry_seconds
        self._longest_gap_seconds = longest_gap_seconds
        self._mig_utilization = mig_utilization
        self._meters: dict[str, Meter] = {}
        self._index_by_uuid: dict[str, int] = {}
        self._initialised = False
        self._gpus: list[OpenGpu] = []
        self._missing: list[str] = []
        self._initialise_at: float | None = -math.inf
        self._delay_seconds = 0.0

    def read(self, now_seconds: float) -> SourceReading:
        """Read every GPU; a failing one is initialised again, together with the others, in later readings."""
        if self._initialise_at is not None and now_seconds >= self._initialise_at:
            self._initialise()
        readings: list[DeviceReading] = []
        failures = list(self._missing)
        healthy = bool(self._gpus) and not failures
        for gpu in self._gpus:
            meter = self._meters.setdefault(gpu.device.uuid, Meter())
            try:
                reading = gpu.read(meter, now_seconds, self._longest_gap_seconds, failures)
            except (pynvml.NVMLError, ValueError) as error:
                failures.append(failure(gpu.device, error))
                healthy = False
            else:
                readings.extend([reading] if reading else [])
        self._plan(now_seconds, healthy=healthy)
        # What fails for every slice of a GPU is one line.
        distinct = tuple(dict.fromkeys(failures))
        return SourceReading(tuple(readings), distinct, present=bool(self._gpus or failures))

    def state(self) -> Json:
        """The joules of every GPU ever seen, with the counter values they were read at."""
        return {"gpus": {uuid: meter.to_json() for uuid, meter in self._meters.items()}}

    def restore(self, state: Json) -> None:
        """Go on from `state()`; a GPU whose entry makes no sense starts anew."""
        gpus = state.get("gpus")
        for uuid, saved in gpus.items() if isinstance(gpus, dict) else ():
            try:
                self._meters[uuid] = Meter.from_json(saved)
            except (KeyError, TypeError, ValueError) as error:  # noqa: PERF203 - each GPU is restored alone
                _log.warning("GPU %s: saved joules are ignored, counting starts anew: %r", uuid, error)

    def describe(self) -> str:
        """What NVML's joules are."""
        return "NVML's energy counter, or its power integrated where a GPU has none"

    def close(self) -> None:
        """Shut NVML down; a later reading would initialise it again."""
        for gpu in self._gpus:
            gpu.close()
        if self._initialised:
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()
        self._initialised = False
        self._gpus = []
        self._initialise_at = -math.inf

    def _plan(self, now_seconds: float, *, healthy: bool) -> None:
        """Set when to initialise again: never, or after a delay that doubles while it does not help."""
        if healthy:
            self._initialise_at, self._delay_seconds = None, 0.0
        elif self._initialise_at is None or now_seconds >= self._initialise_at:
            self._initialise_at = now_seconds + self._delay_seconds
            self._delay_seconds = min(max(1.0, 2 * self._delay_seconds), self._retry_seconds)

    def _initialise(self) -> None:
        """Open every GPU of the host, and note in `_missing`, one line each, what should be there and is not."""
        self.close()
        self._missing = []
        try:
            pynvml.nvmlInit()
            self._initialised = True
            driver = text(pynvml.nvmlSystemGetDriverVersion())
            count = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError as error:
            if error.value not in NO_DRIVER or self._index_by_uuid or _has_entries(self._kernel_gpus):
                self._missing.append(failure("NVML", error))
            return
        unopened: dict[int, object] = {}
        for index in range(count):
            try:
                self._gpus.append(OpenGpu(index, driver, mig_utilization=self._mig_utilization))
            except (pynvml.NVMLError, ValueError) as error:  # noqa: PERF203 - each GPU is opened alone
                unopened[index] = error
        here = {gpu.device.uuid for gpu in self._gpus}
        for uuid, index in self._index_by_uuid.items():
            if uuid not in here:
                why = unopened.pop(index, "no longer there (restart carbon-exporter if it was removed on purpose)")
                self._missing.append(failure(f"GPU {uuid} (index {index})", why))
        self._missing.extend(failure(f"GPU with index {index}", why) for index, why in unopened.items())
        self._index_by_uuid.update((gpu.device.uuid, gpu.device.index) for gpu in self._gpus)


def _has_entries(folder: Path) -> bool:
    try:
        return any(folder.iterdir())
    except OSError:
        return False
