"""The processes on a GPU or MIG slice, and what each used of the GPU."""

from collections import defaultdict
from typing import Any, Final

import pynvml

from carbon_exporter.sources.nvml.calls import Device, ask

_LARGEST_PID: Final = 2**22


def pids_on(device: Device, handle: Any, failures: list[str]) -> frozenset[int]:
    """The processes that compute on `handle`, the GPU or one of its slices, MPS clients included.

    Processes that only draw are left out: they train nothing.

    Raises:
        NVMLError: the handle is of no more use.
    """
    pids: set[int] = set()
    # The unversioned functions of pynvml raise something else than NVMLError where the driver is older.
    for function in (
        pynvml.nvmlDeviceGetComputeRunningProcesses_v3,
        pynvml.nvmlDeviceGetMPSComputeRunningProcesses_v3,
    ):
        pids.update(process.pid for process in ask(failures, device, function, handle) or ())
    return frozenset(pid for pid in pids if 0 < pid <= _LARGEST_PID)


class ProcessUse:
    """SM utilisation of the processes on one GPU from reading to reading (nvmlDeviceGetProcessUtilization).

    The driver keeps samples of processes that used the GPU, of ended ones too; the API reference leaves open whether
    it has one for each process since the last reading or one for each sampling period, so both are understood. It
    does not say either whose pid the work of MPS clients stands under. GPUs in MIG mode have no such samples.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._newest_microseconds = 0
        self._begun = False

    def read(self, pids: frozenset[int], failures: list[str]) -> dict[int, float]:
        """SM utilisation (0 to 1) of each process since the last reading, ended ones included.

        The mean is over the interval: a process with samples in half of the sampling periods weighs half. As many
        periods are taken to have passed as the process with the most samples has. At the first reading the samples
        may be older than the interval, and only those of `pids`, the processes that are there now, are taken.

        Raises:
            NVMLError: the handle is of no more use.
        """
        since = self._newest_microseconds
        samples = ask(failures, self._device, pynvml.nvmlDeviceGetProcessUtilization, self._device.handle, since)
        percents: dict[int, list[int]] = defaultdict(list)
        for sample in samples or ():
            pid, percent, at = sample.pid, sample.smUtil, sample.timeStamp
            if at > since and 0 < pid <= _LARGEST_PID and percent <= 100:
                self._newest_microseconds = max(self._newest_microseconds, at)
                if self._begun or pid in pids:
                    percents[pid].append(percent)
        self._begun = True
        periods = max(map(len, percents.values()), default=0)
        return {pid: sum(values) / periods / 100 for pid, values in percents.items()}
