"""How busy MIG instances were, by GPU performance monitoring (NVML API reference, "GPM Functions").

Documented for Hopper and later, from driver 525 on; an A100 tells nothing of the kind. Written by that reference and
tried on no such GPU. Only the GPU's own handle is asked: samples of an instance are taken through its number.
"""

import contextlib
import math
from typing import Any, Final, NamedTuple

import pynvml

from carbon_exporter.sources.nvml.calls import Device, ask

# Counters that are not read in the very same moment may give a little more than 100.
_MOST_PERCENT: Final = 101.0


class Instance(NamedTuple):
    """A GPU instance: its number, and the MIG devices in it, by which a later one of that number is told apart."""

    number: int
    uuids: frozenset[str]


class _Samples:
    """The two sample buffers of an instance, given to it when first needed: the newest sample, and the one to fill."""

    __slots__ = ("newest", "spare")

    def __init__(self) -> None:
        self.newest: Any = None
        self.spare: Any = None

    def free(self) -> None:
        for sample in (self.newest, self.spare):
            if sample is not None:
                with contextlib.suppress(pynvml.NVMLError):
                    pynvml.nvmlGpmSampleFree(sample)
        self.newest = self.spare = None


class InstanceUse:
    """SM utilisation of the GPU instances of one GPU, each from reading to reading (which lie over 0.1 s apart).

    SM utilisation is the share of SMs that were busy. The other choice, graphics utilisation, is the share of time in
    which any kernel ran: it is full with one busy SM already, and power follows the number of them.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._supported: bool | None = None
        self._samples: dict[Instance, _Samples] = {}
        self._request: Any = None

    def read(self, instances: set[Instance], failures: list[str]) -> dict[Instance, float]:
        """SM utilisation (0 to 1) of each of `instances` since the last reading; no entry where it is unknown.

        Raises:
            NVMLError: the handle is of no more use.
        """
        for gone in self._samples.keys() - instances:
            self._samples.pop(gone).free()
        if not instances or not self._is_supported(failures):
            return {}
        ratios = {instance: self._read_instance(instance, failures) for instance in instances}
        return {instance: ratio for instance, ratio in ratios.items() if ratio is not None}

    def close(self) -> None:
        """Free all samples; a later reading would begin anew."""
        for samples in self._samples.values():
            samples.free()
        self._samples = {}

    def _is_supported(self, failures: list[str]) -> bool:
        if self._supported is None:
            before = len(failures)
            support = ask(failures, self._device, pynvml.nvmlGpmQueryDeviceSupport, self._device.handle)
            if len(failures) == before:
                self._supported = support is not None and bool(support.isSupportedDevice)
        return bool(self._supported)

    def _read_instance(self, instance: Instance, failures: list[str]) -> float | None:
        """Take a sample; the use since the one before, or None without one."""
        samples = self._samples.setdefault(instance, _Samples())
        if samples.spare is None:
            samples.spare = ask(failures, self._device, pynvml.nvmlGpmSampleAlloc)
        if samples.spare is None or self._take(instance.number, samples.spare, failures) is None:
            samples.free()  # else the next one would reach back beyond the last reading
            return None
        samples.newest, samples.spare = samples.spare, samples.newest
        return None if samples.spare is None else self._between(samples.spare, samples.newest, failures)

    def _take(self, number: int, sample: Any, failures: list[str]) -> Any:
        return ask(failures, self._device, pynvml.nvmlGpmMigSampleGet, self._device.handle, number, sample)

    def _between(self, first: Any, second: Any, failures: list[str]) -> float | None:
        if self._request is None:
            self._request = pynvml.c_nvmlGpmMetricsGet_t()
            self._request.version = pynvml.NVML_GPM_METRICS_GET_VERSION
            self._request.numMetrics = 1
            self._request.metrics[0].metricId = pynvml.NVML_GPM_METRIC_SM_UTIL
        self._request.sample1, self._request.sample2 = first, second
        percent = ask(failures, self._device, _sm_percent, self._request)
        if percent is None or not 0 <= percent <= _MOST_PERCENT:
            return None
        return min(1.0, float(percent) / 100)


def _sm_percent(request: Any) -> Any:
    metric = request.metrics[0]
    metric.value = math.nan
    pynvml.nvmlGpmMetricsGet(request)
    if metric.nvmlReturn != pynvml.NVML_SUCCESS:
        raise pynvml.NVMLError(metric.nvmlReturn)
    return metric.value
