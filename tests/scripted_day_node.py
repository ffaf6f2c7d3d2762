"""One node of the scripted day, as a process: the node agent's own loop over scripted trees, a grid and the NVML shim.

    scripted_day_node.py HOST END FOLDER LIBRARY

It lives the day before Unix second END by a clock that it steps, and writes a "scrape" each minute to FOLDER/pages.
Then it says where it serves its page, and ticks once a second of real time until it is terminated. LIBRARY is the
shim's; LD_LIBRARY_PATH and NVML_SHIM must name FOLDER/gpus, if the host has GPUs.
"""

import math
import sys
import time
from pathlib import Path

from fake_grid import FakeGrid, Reply
from grid_scripts import ScriptedProvider, hourly
from nvml_shim import Shim
from powercap import Powercap
from scripted import Scheduler, ScriptedProc
from scripted_day_script import (
    BASIS,
    CLUSTER,
    DAY_SECONDS,
    HOSTS,
    HOUR,
    IDLE_WATTS,
    MARKET_GRAMS,
    PROVIDER,
    TICK_SECONDS,
    changes,
    gpu_uuid,
    intensity,
    on_host,
    scrapes,
    watts,
)

from carbon_exporter.config import Config, EmbodiedSettings, IntensitySettings, NodeSettings
from carbon_exporter.grid.cache import AnswerCache
from carbon_exporter.grid.feed import Feed
from carbon_exporter.grid.fetcher import Fetcher
from carbon_exporter.grid.grid import Grid
from carbon_exporter.grid.zone import Zone
from carbon_exporter.metrics import CONTENT_TYPE
from carbon_exporter.model import JobUse
from carbon_exporter.node.agent import build_sampler
from carbon_exporter.node.collectors import Collectors

CPUS = 32
WATTS_PER_CPU = 10.0
BOOTED_SECONDS = 1000.0
"""Before the day begins."""
FRESH_SECONDS = 0.001
"""After a change, so that a tick of what was ends before one of what is begins."""


class Provider(ScriptedProvider):
    """Tells the hours since it was asked about, to the end of the running one."""

    def __init__(self, grid_zone):
        super().__init__(name=PROVIDER[grid_zone], basis=BASIS[grid_zone])
        self._grid_zone = grid_zone

    def observe(self, web, since_seconds, now_seconds):
        first = min(since_seconds, now_seconds) // HOUR * HOUR
        times = [first + HOUR * n for n in range(int((now_seconds - first) // HOUR) + 1)]
        self.spans = hourly(first, *(intensity(self._grid_zone, at) for at in times))
        return super().observe(web, since_seconds, now_seconds)


class Node:
    """The host's trees, and the agent that reads them; `at` is Unix time."""

    def __init__(self, host, end, folder, library):
        self.host, self.end, self.at, self.page = host, end, end - DAY_SECONDS, b""
        self._boot = self.at - BOOTED_SECONDS
        self._proc = ScriptedProc(folder / "proc", CPUS)
        tree = Powercap(folder / "sys")
        self._package = tree.add("intel-rapl:0", "package-0")
        self._dram = tree.add("intel-rapl:0:0", "dram")
        self._shim = Shim(folder / "gpus", library) if host.gpus else None
        for index in range(host.gpus):
            self._shim.gpus[index].plug(gpu_uuid(host.name, index))
        self._joules, self._cpu_seconds = dict.fromkeys(range(host.gpus), 0.0), {}
        self._scheduler = Scheduler()
        self._grid = self._open_grid()
        self._sampler = self._open_sampler(folder)
        self._show(before=False)

    def _open_grid(self):
        zone, chance = self.host.grid_zone, lambda: 0.0
        feed = Feed(Provider(zone), zone, self.at, chance)
        cache = AnswerCache(None)
        opened = Zone(zone, "average", feeds=[feed], stand_in=None, licence="", started_seconds=self.at, cache=cache)
        fetcher = Fetcher([(opened, feed)], None, lambda: self.at, lambda: self.at)
        fetcher.ask_due()
        return Grid([opened], [fetcher])

    def _open_sampler(self, folder):
        settings = NodeSettings(
            name=self.host.name,
            interval_seconds=TICK_SECONDS,
            state_file=None,
            sysfs=folder / "sys",
            procfs=folder / "proc",
            idle_watts={component: IDLE_WATTS[component] for component, _ in watts(self.host, self.end, self.at)},
        )
        config = Config(
            node=settings,
            pue=self.host.pue,
            intensity=IntensitySettings(market_grams_per_kilowatt_hour=MARKET_GRAMS),
            embodied=EmbodiedSettings(gpu_kilograms=150, host_kilograms=1000),
        )
        sampler = build_sampler(config, self._publish, self._grid)
        # The agent's own clocks cannot be stepped, and its resolvers would look at this machine.
        sampler._clock = lambda: self.at - self._boot
        sampler._wall_clock = lambda: self.at
        sampler._collectors = Collectors(lambda: self.at)
        sampler._resolvers = {"kubernetes": self._scheduler}
        return sampler

    def _publish(self, page):
        self.page = page

    def tick(self, at):
        """Time goes on to `at`, the agent reads at every change on the way, and its page is that of `at`."""
        for now in changes(self.at, at, self.end)[1:]:
            self._spend(now)
            self._show(before=True)
            self._sampler.tick()
            if [*on_host(self.host, self.end, now)] != [*on_host(self.host, self.end, now, before=True)]:
                self._spend(now + FRESH_SECONDS)
                self._show(before=False)
                self._sampler.tick()
        self._grid.fetchers[0].ask_due()

    def _spend(self, now):
        """Let the time until then pass, with nothing changing."""
        seconds, middle = now - self.at, (self.at + now) / 2
        power = watts(self.host, self.end, middle)
        for zone, component in ((self._package, "cpu"), (self._dram, "dram")):
            zone.spend(round(1e6 * seconds * math.fsum(w for (c, _), w in power.items() if c == component)))
        busy = math.fsum(w for (c, owner), w in power.items() if c == "cpu" and owner != "idle") / WATTS_PER_CPU
        self._proc.spend(busy * seconds, (CPUS - busy) * seconds)
        held = {}
        for job, stint in on_host(self.host, self.end, middle):
            spent = stint.cpu_watts / WATTS_PER_CPU * seconds
            self._cpu_seconds[job.name] = self._cpu_seconds.get(job.name, 0.0) + spent
            held.update(stint.gpus)
        for index in self._joules:
            gpu_watts = held.get(index, IDLE_WATTS["gpu"])
            self._joules[index] += gpu_watts * seconds
            gpu = self._shim.gpus[index]
            gpu.set_energy(self._joules[index])
            gpu.power_milliwatts = round(1000 * gpu_watts)
            gpu.utilization_percent = 90 if gpu_watts > IDLE_WATTS["gpu"] else 0
        self.at = now

    def _show(self, *, before):
        """Tell the agent of the jobs here: those until now, or those from now on."""
        self._scheduler.jobs = [
            JobUse(
                job.name,
                job.resolver,
                f"{job.resolver} {job.name}",
                self._cpu_seconds.get(job.name, 0.0),
                devices=frozenset(gpu_uuid(self.host.name, index) for index in stint.gpus),
                started_seconds=self.end - HOUR * stint.from_hours - self._boot,
                group=job.group,
                info=job.info,
            )
            for job, stint in on_host(self.host, self.end, self.at, before=before)
        ]

    def scrape(self):
        """The page's lines as Prometheus keeps them, with what it adds."""
        target = f'cluster="{CLUSTER}",instance="{self.host.name}",job="carbon-exporter"'
        lines = [line for line in self.page.decode().splitlines() if not line.startswith("#")]
        lines += ["up 1", "scrape_duration_seconds 0.004", f"scrape_samples_scraped {len(lines)}"]
        for line in lines:
            series, _, value = line.rpartition(" ")
            name, _, labels = series.rstrip("}").partition("{")
            yield f"{name}{{{target}{',' if labels else ''}{labels}}} {value} {self.at:.0f}\n"


def main(name, end, folder, library):
    host = next(host for host in HOSTS if host.name == name)
    node = Node(host, float(end), Path(folder), Path(library))
    with (Path(folder) / "pages").open("w") as pages:
        for at in scrapes(float(end)):
            node.tick(at)
            pages.writelines(node.scrape())
    with FakeGrid({"/metrics": lambda _: Reply(node.page, headers={"Content-Type": CONTENT_TYPE})}) as server:
        print(server.url, flush=True)
        while True:
            time.sleep(1)
            if time.time() > node.at:
                node.tick(time.time())


if __name__ == "__main__":
    main(*sys.argv[1:])
