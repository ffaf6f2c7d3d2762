"""A powercap tree whose counters really move, and the truth about it.

Plain files laid out as the kernel does (a device tree, and links to it under class/powercap), so every program that
reads RAPL can read this one: ours, node_exporter, another process. Energy is spent in whole microjoules, by hand or by
a thread; `Zone.spent_uj` is what was truly spent, and energy_uj what a real counter would show of it.
"""

import contextlib
import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

USUAL_RANGE_UJ = 262_143_328_850
NOBODY = 65534


class Zone:
    """One zone. `watts` is a number or a function of the seconds since the tree began to move."""

    def __init__(
        self,
        directory: Path,
        link: Path,
        name: str,
        *,
        watts: float | Callable[[float], float] = 0.0,
        range_uj: int = USUAL_RANGE_UJ,
        start_uj: int = 0,
    ) -> None:
        self.directory = directory
        self.name = name
        self.watts = watts
        self.range_uj = range_uj
        self.spent_uj = 0
        self._start_uj = start_uj
        self._link = link
        self._away = directory.with_name(f"away-{directory.name}")
        directory.mkdir(parents=True)
        (directory / "name").write_text(f"{name}\n")
        (directory / "max_energy_range_uj").write_text(f"{range_uj}\n")
        link.symlink_to(os.path.relpath(directory, link.parent))
        self.show()

    @property
    def spent_joules(self) -> float:
        return self.spent_uj / 1e6

    def spend(self, microjoules: int) -> None:
        self.spent_uj += microjoules
        self.show()

    def show(self) -> None:
        """Write the counter, so that no reader ever sees half a number."""
        self.show_text(f"{(self._start_uj + self.spent_uj) % self.range_uj}\n")

    def show_text(self, text: str) -> None:
        """Write `text` in place of the counter, until the next `spend`."""
        new = self.directory / ".energy_uj"
        with contextlib.suppress(FileNotFoundError):  # away, or inside one that is: it spends on unseen
            new.write_text(text)
            new.chmod(0o400)
            new.replace(self.directory / "energy_uj")

    def vanish(self) -> None:
        self._link.unlink()
        self.directory.rename(self._away)

    def come_back(self) -> None:
        self._away.rename(self.directory)
        self._link.symlink_to(os.path.relpath(self.directory, self._link.parent))
        self.show()


class Powercap:
    """The zones below one sysfs root."""

    def __init__(self, sysfs: Path) -> None:
        self.sysfs = sysfs
        self.zones: dict[str, Zone] = {}
        self._lock = threading.Lock()
        self._devices = sysfs / "devices" / "virtual" / "powercap"
        self._links = sysfs / "class" / "powercap"
        self._links.mkdir(parents=True)

    def add(self, directory: str, name: str, **arguments: object) -> Zone:
        """A zone such as add("intel-rapl:0:1", "dram", watts=20); a sub-zone lies inside its parent's device."""
        control_type, *numbers = directory.split(":")
        control = self._devices / control_type
        if not control.exists():
            control.mkdir(parents=True)
            (control / "enabled").write_text("1\n")
            (self._links / control_type).symlink_to(os.path.relpath(control, self._links))
        steps = [":".join([control_type, *numbers[: depth + 1]]) for depth in range(len(numbers))]
        zone = Zone(control.joinpath(*steps), self._links / directory, name, **arguments)
        self.zones[directory] = zone
        return zone

    @contextlib.contextmanager
    def moving(self, tick_seconds: float = 0.02) -> Iterator["Powercap"]:
        """A thread spends the zones' watts until the block ends; after it the counters stand still."""
        stop = threading.Event()
        thread = threading.Thread(target=self._move, args=(stop, tick_seconds), name="powercap")
        thread.start()
        try:
            yield self
        finally:
            stop.set()
            thread.join()

    def _move(self, stop: threading.Event, tick_seconds: float) -> None:
        start = last = time.monotonic()
        while not stop.wait(tick_seconds):
            now = time.monotonic()
            # A thread that was held up must not spend a whole range in one step: no reader could see the wrap.
            elapsed, last = min(now - last, 5 * tick_seconds), now
            with self._lock:
                for zone in self.zones.values():
                    watts = zone.watts(now - start) if callable(zone.watts) else zone.watts
                    zone.spend(round(watts * elapsed * 1e6))

    @contextlib.contextmanager
    def still(self) -> Iterator["Powercap"]:
        """Nothing moves inside the block: what is read in it can be compared exactly, zones may vanish and return."""
        with self._lock:
            yield self


def two_sockets(sysfs: Path, **arguments: object) -> Powercap:
    """Two packages with DRAM, core and uncore inside, the second split into two dies, and the mmio twin of the first.

    `arguments` are those of every zone; the true sums are those of the package and dram zones.
    """
    tree = Powercap(sysfs)
    tree.add("intel-rapl:0", "package-0", **{"watts": 90.0, **arguments})
    tree.add("intel-rapl:0:0", "core", **{"watts": 60.0, **arguments})
    tree.add("intel-rapl:0:1", "dram", **{"watts": 15.0, **arguments})
    tree.add("intel-rapl:1", "package-1-die-0", **{"watts": 50.0, **arguments})
    tree.add("intel-rapl:1:0", "dram", **{"watts": 10.0, **arguments})
    tree.add("intel-rapl:2", "package-1-die-1", **{"watts": 40.0, **arguments})
    tree.add("intel-rapl:2:0", "uncore", **{"watts": 5.0, **arguments})
    tree.add("intel-rapl-mmio:0", "package-0", **{"watts": 90.0, **arguments})
    return tree


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """The kernel checks this thread's file accesses as those of a user without rights (setfsuid(2)), where it is root.

    Root would read a file of any mode; with another file-system user its capabilities over files are gone too.
    """
    libc = ctypes.CDLL(None)
    before = libc.setfsuid(NOBODY)
    try:
        yield
    finally:
        libc.setfsuid(before)
