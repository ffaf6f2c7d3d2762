"""Calls into NVML: an answer, None for what GPU or driver does not have, or a failure in one line with its cure."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import pynvml

NO_DRIVER: Final = frozenset({pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED})
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


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU as it was found by the last initialisation; its handle is good until the next."""

    index: int
    handle: Any
    uuid: str
    model: str

    def __str__(self) -> str:
        return f"GPU {self.uuid} (index {self.index})"


def open_device(index: int) -> Device:
    """The GPU at that place among NVML's.

    Raises:
        NVMLError: it cannot be opened.
    """
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    return Device(index, handle, text(pynvml.nvmlDeviceGetUUID(handle)), text(pynvml.nvmlDeviceGetName(handle)))


def answer(function: Callable[..., Any], *arguments: Any) -> Any:
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


def ask(failures: list[str], device: Device, function: Callable[..., Any], *arguments: Any) -> Any:
    """As `answer` for something without which the joules still count: its error is noted and None returned.

    Raises:
        NVMLError: the handle is of no more use.
    """
    try:
        return answer(function, *arguments)
    except pynvml.NVMLError as error:
        if error.value in _FATAL:
            raise
        failures.append(failure(f"{device}: {function.__name__}", error))
        return None


def failure(what: object, error: object) -> str:
    """One line: what failed, why, and the cure."""
    return f"{what}: {error}: {_CURES.get(getattr(error, 'value', None), _CURE)}"


def text(value: str | bytes) -> str:
    """A name as NVML gives it; older pynvml gives bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
