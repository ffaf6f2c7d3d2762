"""Reads what /proc says about CPU time and processes (proc(5)); its root is an argument."""

import os
import pwd
import time
from pathlib import Path
from typing import Final, NamedTuple

from carbon_exporter.model import HostCpu

HALF_BLIND: Final = "only this user's jobs are found: run as root with CAP_SYS_PTRACE to find all"
_CAP_SYS_PTRACE: Final = 19
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")


class Process(NamedTuple):
    """One process at one instant, from /proc/PID/stat.

    `start_ticks` (since boot) tells a process from a later one with the same pid. `own_seconds` is the CPU time of
    its threads, `children_seconds` that of its ended and waited-for children with theirs.
    """

    pid: int
    parent: int
    start_ticks: int
    own_seconds: float
    children_seconds: float


def boottime_seconds() -> float:
    """Seconds since boot, time asleep included: never stepped, and what process start times are counted in."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def read_bytes(path: str | Path) -> bytes:
    """The whole of a small file; cheaper than Path.read_bytes in the loop over processes.

    Raises:
        OSError: as the kernel says.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(descriptor, 65536):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def read_host_cpu(proc: Path) -> HostCpu:
    """The host's CPU time since boot, from /proc/stat, and its memory.

    Time stolen by a hypervisor is capacity, not use.

    Raises:
        OSError: /proc/stat cannot be read.
        ValueError: it is not what proc(5) describes; the message names the file.
    """
    cpus = 0
    total: list[int] = []
    for line in read_bytes(proc / "stat").splitlines():
        if not line.startswith(b"cpu"):
            break
        name, *fields = line.split()
        if name == b"cpu":
            total = [int(field) for field in fields[:8]]
        else:
            cpus += 1
    if len(total) < 8 or cpus == 0:
        raise ValueError(f"{proc}/stat has no line 'cpu' with eight numbers and one for each CPU")
    user, nice, system, _idle, _iowait, irq, softirq, _steal = total
    busy = user + nice + system + irq + softirq
    return HostCpu(busy / _TICKS_PER_SECOND, sum(total) / _TICKS_PER_SECOND, cpus, read_memory_bytes(proc))


def read_memory_bytes(proc: Path) -> float | None:
    """All memory of the host, from the first line of /proc/meminfo; None where it does not say."""
    try:
        name, kibibytes, unit = read_bytes(proc / "meminfo").split(None, 3)[:3]
    except (OSError, ValueError):
        return None
    return float(kibibytes) * 1024 if name == b"MemTotal:" and unit == b"kB" else None


def read_process_line(proc: str, pid: int) -> bytes:
    """/proc/PID/stat; as long as a process sleeps it stays the same.

    Raises:
        OSError: it is gone (FileNotFoundError, ProcessLookupError), or the kernel refuses.
    """
    descriptor = os.open(f"{proc}/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096)  # one read: the kernel gives this line whole, and it is the loop's main cost
    finally:
        os.close(descriptor)


def parse_process(line: bytes) -> Process:
    """The process that `read_process_line` read.

    Raises:
        ValueError, IndexError: the line is not what proc(5) describes.
    """
    # The command may hold spaces and parentheses: the fields begin after the last one.
    fields = line[line.rindex(b")") + 2 :].split(None, 20)
    return Process(
        pid=int(line[: line.index(b"(")]),
        parent=int(fields[1]),
        start_ticks=int(fields[19]),
        own_seconds=(int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND,
        children_seconds=(int(fields[13]) + int(fields[14])) / _TICKS_PER_SECOND,
    )


def read_environment(proc: str, pid: int) -> dict[str, str]:
    """The environment that `pid` was started with; later changes inside the process do not show.

    Raises:
        OSError: it is gone, or belongs to another user and this program may not look.
    """
    text = read_bytes(f"{proc}/{pid}/environ").decode("utf-8", "surrogateescape")
    pairs = (entry.partition("=") for entry in text.split("\0"))
    return {name: value for name, separator, value in pairs if separator}


def owner_name(proc: str, pid: int) -> str:
    """The user whom `pid` belongs to, by name where this host knows it, else by number; "" where it is gone."""
    try:
        owner = os.stat(f"{proc}/{pid}").st_uid  # noqa: PTH116
    except OSError:
        return ""
    try:
        return pwd.getpwuid(owner).pw_name
    except KeyError:
        return str(owner)


def may_look_into_processes() -> bool:
    """Whether this program may read the environment of every user's processes (CAP_SYS_PTRACE, see proc(5))."""
    try:
        status = read_bytes("/proc/self/status").decode("ascii", "replace")
    except OSError:
        return False
    effective = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "0")
    return bool(int(effective, 16) >> _CAP_SYS_PTRACE & 1)


def read_boot_id(proc: Path) -> str:
    """The kernel's random name of this boot.

    Raises:
        OSError: /proc/sys/kernel/random/boot_id cannot be read.
    """
    return read_bytes(proc / "sys/kernel/random/boot_id").decode().strip()
