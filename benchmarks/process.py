"""What the kernel says about a running process (proc(5)), and about this machine."""

import os
import platform
import re
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Memory:
    """Resident memory of a process in MB (10**6 bytes): now, and the most it ever had."""

    now_megabytes: float
    peak_megabytes: float


def cpu_seconds(pid: int) -> float:
    """CPU time of the process so far, user and system, over all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> Memory:
    """VmRSS and VmHWM of the process."""
    status = Path(f"/proc/{pid}/status").read_text()
    kibibytes = {name: int(value) for name, value in re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB$", status, re.MULTILINE)}
    return Memory(kibibytes["VmRSS"] * 1024 / 1e6, kibibytes["VmHWM"] * 1024 / 1e6)


def fixed_loop_seconds() -> float:
    """CPU time of a loop that is always the same: where it varies, others use the machine, or its clock does."""
    start = time.thread_time()
    texts = {str(number): number * 1.5 for number in range(20_000)}
    texts.clear()
    return time.thread_time() - start


def machine() -> str:
    """The machine in a line: figures belong to it."""
    model = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return (
        f"{os.cpu_count()} CPUs, {model[1] if model else platform.machine()}, "
        f"Linux {platform.release()}, Python {platform.python_version()}, load average {os.getloadavg()[0]:.1f}"
    )
