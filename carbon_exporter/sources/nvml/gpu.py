"""One GPU as it was opened by the last initialisation: its joules, and all that is told beside them."""

import logging
import math
from typing import Final

import pynvml

from carbon_exporter.model import DeviceReading, Gpu
from carbon_exporter.sources.nvml.calls import answer, ask, open_device
from carbon_exporter.sources.nvml.meter import MOST_WATTS, Meter
from carbon_exporter.sources.nvml.mig import Slices
from carbon_exporter.sources.nvml.processes import ProcessUse, pids_on

_log = logging.getLogger(__name__)
_MOST_JOULES: Final = 1e12
_LARGEST_MINOR: Final = 2**20 - 1
_LIMIT_SECONDS: Final = 60.0
"""How long a power limit is taken for what it was: it seldom changes."""


class OpenGpu:
    """Reads one GPU; its meter is the caller's, since joules outlive the handle.

    Raises:
        NVMLError: it cannot be opened.
    """

    def __init__(self, index: int, driver: str, *, mig_utilization: bool) -> None:
        self.device = open_device(index)
        self._driver = driver
        self._minor: int | None = None
        self._limit_watts: float | None = None
        self._ask_limit_at = -math.inf
        self._slices = Slices(self.device, utilization=mig_utilization)
        self._process_use = ProcessUse(self.device)
        self._warned = False

    def read(
        self, meter: Meter, now_seconds: float, longest_gap_seconds: float, failures: list[str]
    ) -> DeviceReading | None:
        """What it tells, or None if it can tell neither energy nor power.

        Raises:
            NVMLError, ValueError: no joules are to be had now.
        """
        device = self.device
        millijoules = answer(pynvml.nvmlDeviceGetTotalEnergyConsumption, device.handle)
        if millijoules is not None:
            method = "nvml counter"
            joules = _in_range(millijoules / 1000, _MOST_JOULES, "energy counter in joules")
            if not meter.count(joules, now_seconds):
                _log.warning("%s: its energy counter was reset; what it used since the last reading is unknown", device)
            milliwatts = ask(failures, device, pynvml.nvmlDeviceGetPowerUsage, device.handle)
            watts = milliwatts / 1000 if milliwatts is not None and milliwatts <= 1000 * MOST_WATTS else None
        else:
            method = "nvml integrated"
            milliwatts = answer(pynvml.nvmlDeviceGetPowerUsage, device.handle)
            if milliwatts is None:
                if not self._warned:
                    _log.warning("%s (%s) tells neither its energy nor its power: left out", device, device.model)
                self._warned = True
                return None
            watts = _in_range(milliwatts / 1000, MOST_WATTS, "power in watts")
            meter.integrate(watts, now_seconds, longest_gap_seconds)
        return DeviceReading(
            device=device.uuid,
            component="gpu",
            energy_joules=meter.counter.total,
            method=method,
            labels={"uuid": device.uuid},
            gpu=self._describe(watts, now_seconds, failures),
        )

    def close(self) -> None:
        """Give back what it holds; to be called before NVML is shut down."""
        self._slices.close()

    def _describe(self, watts: float | None, now_seconds: float, failures: list[str]) -> Gpu:
        device = self.device
        rates = ask(failures, device, pynvml.nvmlDeviceGetUtilizationRates, device.handle)
        slices = self._slices.read(failures)
        # A GPU in MIG mode lists the processes of its slices only to the privileged; each slice lists its own.
        of_slices = frozenset().union(*(mig.pids for mig in slices))
        pids = of_slices if slices else pids_on(device, device.handle, failures)
        return Gpu(
            index=device.index,
            model=device.model,
            driver=self._driver,
            power_watts=watts,
            utilization_ratio=rates.gpu / 100 if rates is not None and rates.gpu <= 100 else None,
            pids=pids,
            sm_share_by_pid={} if slices else self._process_use.read(pids, failures),
            mig=slices,
            minor=self._read_minor(failures),
            power_limit_watts=self._read_limit(now_seconds, failures),
        )

    def _read_minor(self, failures: list[str]) -> int | None:
        if self._minor is None:
            minor = ask(failures, self.device, pynvml.nvmlDeviceGetMinorNumber, self.device.handle)
            self._minor = minor if minor is not None and minor <= _LARGEST_MINOR else None
        return self._minor

    def _read_limit(self, now_seconds: float, failures: list[str]) -> float | None:
        """The enforced power limit, asked for once a minute; where that fails, again at every reading."""
        if now_seconds >= self._ask_limit_at:
            before = len(failures)
            milliwatts = ask(failures, self.device, pynvml.nvmlDeviceGetEnforcedPowerLimit, self.device.handle)
            known = milliwatts is not None and 0 < milliwatts <= 1000 * MOST_WATTS
            self._limit_watts = milliwatts / 1000 if known else None
            if len(failures) == before:
                self._ask_limit_at = now_seconds + _LIMIT_SECONDS
        return self._limit_watts


def _in_range(value: float, most: float, what: str) -> float:
    if not 0 <= value <= most:
        raise ValueError(f"{what} reads {value:g}, which no GPU reaches")
    return value
