"""The MIG slices of a GPU: what each is, who is on it and how busy it was."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import pynvml

from carbon_exporter.model import MigDevice
from carbon_exporter.sources.nvml.calls import Device, ask, text
from carbon_exporter.sources.nvml.gpm import Instance, InstanceUse
from carbon_exporter.sources.nvml.processes import pids_on


@dataclass(frozen=True, slots=True)
class _Slice:
    """What stays the same while a slice has its UUID; `device` is told with processes and use added."""

    device: MigDevice
    gpu_instance: int


class Slices:
    """The MIG devices of one GPU. Its mode and its slices may change at any time and are looked at in every reading.

    A slice is known again by its UUID: a handle may stand for another slice after a re-partition, and instance
    numbers are given anew.
    """

    def __init__(self, device: Device, *, utilization: bool) -> None:
        self._device = device
        self._known: dict[str, _Slice] = {}
        self._use = InstanceUse(device) if utilization else None

    def read(self, failures: list[str]) -> tuple[MigDevice, ...]:
        """The slices there are now, in NVML's order; none where the GPU is not in MIG mode.

        Use is that of the GPU instance: several compute instances in one are told the same.

        Raises:
            NVMLError: the handle is of no more use.
        """
        found = self._find(failures)
        pids = [pids_on(self._device, handle, failures) for handle, _ in found]
        use = self._read_use([known for _, known in found], failures)
        return tuple(
            replace(known.device, pids=on_it, utilization_ratio=use.get(known.gpu_instance))
            for (_, known), on_it in zip(found, pids, strict=True)
        )

    def close(self) -> None:
        """Give back what the slices hold."""
        if self._use is not None:
            self._use.close()

    def _find(self, failures: list[str]) -> list[tuple[Any, _Slice]]:
        """The slices there are now, with their handles; only new ones are asked what they are."""
        parent = self._device.handle
        mode = ask(failures, self._device, pynvml.nvmlDeviceGetMigMode, parent)
        most = 0
        if mode is not None and mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE:
            most = ask(failures, self._device, pynvml.nvmlDeviceGetMaxMigDeviceCount, parent) or 0
        found, known = [], {}
        for index in range(most):
            handle = ask(failures, self._device, pynvml.nvmlDeviceGetMigDeviceHandleByIndex, parent, index)
            if handle is None:
                continue
            before = len(failures)
            slice_ = self._recognise(handle, most, failures)
            if slice_ is None:
                continue
            found.append((handle, slice_))
            if len(failures) == before:  # else what is missing may be told next time
                known[slice_.device.uuid] = slice_
        self._known = known
        return found

    def _recognise(self, handle: Any, most: int, failures: list[str]) -> _Slice | None:
        """The slice of this handle; None where it has no UUID or instances, as when it was destroyed just now."""
        uuid = ask(failures, self._device, pynvml.nvmlDeviceGetUUID, handle)
        if uuid is None:
            return None
        uuid = text(uuid)
        if uuid in self._known:
            return self._known[uuid]
        gpu_instance = ask(failures, self._device, pynvml.nvmlDeviceGetGpuInstanceId, handle)
        compute_instance = ask(failures, self._device, pynvml.nvmlDeviceGetComputeInstanceId, handle)
        if gpu_instance is None or compute_instance is None:
            return None
        model = text(ask(failures, self._device, pynvml.nvmlDeviceGetName, handle) or self._device.model)
        share = self._share(handle, most, failures)
        device = MigDevice(uuid, model, f"gi{gpu_instance}/ci{compute_instance}", share)
        return _Slice(device, gpu_instance)

    def _share(self, handle: Any, most: int, failures: list[str]) -> float | None:
        """Its compute slices of all the GPU has: as many as MIG devices fit on it, since none is smaller than a slice.

        The profile of one slice tells the same number (7 on an A100, 4 on an A30), but maybe only to the privileged.
        """
        attributes = ask(failures, self._device, pynvml.nvmlDeviceGetAttributes_v2, handle)
        if attributes is None or not 0 < attributes.computeInstanceSliceCount <= most:
            return None
        return float(attributes.computeInstanceSliceCount) / most

    def _read_use(self, slices: Iterable[_Slice], failures: list[str]) -> dict[int, float]:
        """Use of the GPU instances that `slices` lie in, by instance number."""
        if self._use is None:
            return {}
        uuids: dict[int, set[str]] = defaultdict(set)
        for found in slices:
            uuids[found.gpu_instance].add(found.device.uuid)
        instances = {Instance(number, frozenset(names)) for number, names in uuids.items()}
        return {instance.number: ratio for instance, ratio in self._use.read(instances, failures).items()}
