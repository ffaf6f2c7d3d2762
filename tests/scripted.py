"""A scripted host for tests of the node agent: a powercap tree and a /proc whose every joule and second is known."""

import os
from pathlib import Path

from powercap import Powercap

from carbon_exporter.intensity.static import EVER
from carbon_exporter.jobs.process import ProcessResolver
from carbon_exporter.model import JOULES_PER_KILOWATT_HOUR, Intensity, ResolverReading, Roots, Span
from carbon_exporter.node.collectors import Collectors
from carbon_exporter.node.ledger import Ledger
from carbon_exporter.node.recount import Factors
from carbon_exporter.node.sampler import Sampler
from carbon_exporter.node.state import Host, StateFile
from carbon_exporter.sources import rapl
from carbon_exporter.timeline import Timeline

TICKS = os.sysconf("SC_CLK_TCK")


def told(spans, until, *, basis="lifecycle", level=0):
    """A timeline of (start, grams per kilowatt-hour) on Unix time, told up to `until`."""
    ends = [start for start, _ in spans[1:]] + [until]
    made = tuple(Span(start, end, grams) for (start, grams), end in zip(spans, ends, strict=True))
    return Timeline(Intensity(made[-1].grams_per_kilowatt_hour, "DK", "test", basis, fallback_level=level), made, until)


def constant(grams_per_kilowatt_hour):
    """A value of the user's own, as the static provider gives it."""
    intensity = Intensity(grams_per_kilowatt_hour, "DK", "static", "unspecified")
    return Timeline(intensity, (Span(*EVER, grams_per_kilowatt_hour),), EVER[1])


def steady(grams_per_joule):
    """Factors that never change."""
    return Factors(constant(grams_per_joule * JOULES_PER_KILOWATT_HOUR), 1.0, 0.0)


class ScriptedProc:
    """A /proc with one `cpu` line per CPU and the processes put into it."""

    def __init__(self, root: Path, cpus: int = 4) -> None:
        self.root = root
        self.cpus = cpus
        self.busy = 0.0
        self.idle = 0.0
        (root / "sys/kernel/random").mkdir(parents=True)
        (root / "sys/kernel/random/boot_id").write_text("boot-1\n")
        self.spend(0, 0)

    def spend(self, busy: float, idle: float) -> None:
        self.busy += busy
        self.idle += idle
        total = f"cpu  {round(self.busy * TICKS)} 0 0 {round(self.idle * TICKS)} 0 0 0 0 0 0\n"
        (self.root / "stat").write_text(total + "".join(f"cpu{n} 0 0 0 0 0 0 0 0 0 0\n" for n in range(self.cpus)))

    def put(
        self, pid: int, *, parent: int = 1, start: float = 0.0, own: float = 0.0, children: float = 0.0, **env: str
    ):
        folder = self.root / str(pid)
        folder.mkdir(exist_ok=True)
        times = [round(own * TICKS), 0, round(children * TICKS), 0]
        fields = ["S", parent, *[0] * 9, *times, *[0] * 4, round(start * TICKS)]
        (folder / "stat").write_text(f"{pid} (a ) (odd\nname) {' '.join(map(str, fields))} 0 0\n")
        text = "\0".join(f"{key}={value}" for key, value in env.items())
        (folder / "environ").write_text(text, encoding="utf-8", errors="surrogateescape")

    def drop(self, pid: int) -> None:
        for file in (self.root / str(pid)).iterdir():
            file.unlink()
        (self.root / str(pid)).rmdir()


class Stateless:
    """A source without anything to save or to close; `read` is the test's."""

    def state(self):
        return {}

    def restore(self, state):
        pass

    def close(self):
        pass

    def describe(self):
        return ""


class Scheduler(Stateless):
    """A resolver that finds the `jobs` that the test puts in; `asked` is what it was last told."""

    def __init__(self):
        self.jobs, self.failures, self.present, self.asked = [], (), True, ()

    def read(self, now_seconds, gpu_pids, claimed):
        self.asked = (now_seconds, gpu_pids, claimed)
        return ResolverReading(tuple(self.jobs), self.failures, self.present)


class ScriptedNode:
    """A node agent's loop over scripted trees, ticked by hand; `ticks` are those published.

    `resolvers` are put before the process resolver at the next start.
    """

    def __init__(self, folder: Path, *, wall_clock=lambda: 1.7e9) -> None:
        self.proc = ScriptedProc(folder / "proc")
        self.tree = Powercap(folder / "sys")
        self.state_path = folder / "state" / "node.json"
        self.now = 100.0
        self.wall_clock = wall_clock
        self.ticks = []
        self.sampler = None
        self.resolvers = {}
        self.known = constant(360.0)
        self.ledger_settings = {}
        self.start()

    def start(self, **sources) -> Sampler:
        """A fresh agent on the same host, as after a restart; it counts with the timeline `known`."""
        if self.sampler is not None:
            self.sampler.close()
        roots = Roots(self.tree.sysfs, self.proc.root)
        self.sampler = Sampler(
            sources=sources or {"rapl": rapl.open_source(rapl.Settings(), roots)},
            resolvers={**self.resolvers, "process": ProcessResolver(str(self.proc.root), 60, 1000)},
            timeline=lambda _: self.known,
            ledger=Ledger(600, **self.ledger_settings),
            state_file=StateFile(self.state_path, Host("host-a", "boot-1")),
            proc=self.proc.root,
            pue=1.5,
            interval_seconds=2.0,
            clock=lambda: self.now,
            wall_clock=self.wall_clock,
            collectors=Collectors(self.wall_clock),
            publish=self.ticks.append,
        )
        self.sampler.restore()
        return self.sampler

    def tick(self, seconds: float = 2.0):
        self.now += seconds
        self.sampler.tick()
        return self.ticks[-1]

    def joules(self, name: str, component: str = "cpu") -> float:
        return self.ticks[-1].ledger.accounts[name].energy_joules.get(component, 0.0)
