"""A simulated node whose every watt has a known owner.

Time is exact: between two changes of any load all powers are constant, so energies are products. Nothing here comes
from the rooms under test but the nouns in which readings are told. Who owns a watt is written down from the rules:

    idle watts of a CPU or of memory: jobs by allocation; of a GPU or slice: its holders, equally; else nobody
    watts above idle: whose CPU time or SM use they are; where a GPU does not tell its use: its holders, equally
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from carbon_exporter.model import DeviceReading, Gpu, HostCpu, JobUse, MigDevice

CPUS = 64
MEMORY = 512.0
SOCKETS = 2
LOAD_SECONDS = 1.1
"""How long a load stays at one level."""
IDLE, SYSTEM, EQUALLY = "idle", "system", "equally"
NOT_A_JOB = ""


@dataclass(frozen=True)
class Work:
    """A piece of a job from `begin` to `end`; of no job where `job` is "", and seen by no resolver if not `listed`.

    `cpu` are levels of busy CPUs, `gpus` levels of use (0 to 1) of each GPU or slice that it holds.
    """

    job: str
    unit: str
    begin: float
    end: float
    cpu: tuple[float, ...] = (0.0,)
    gpus: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    devices: tuple[str, ...] = ()
    cpus: float | None = None
    memory: float | None = None
    resolver: str = "kubernetes"
    shows_pids: bool = True
    start_known: bool = True
    listed: bool = True


@dataclass(frozen=True)
class Slice:
    uuid: str
    instance: str
    share: float


@dataclass(frozen=True)
class Card:
    """A GPU; in MIG mode if it has slices. `tells_use` is False where nobody can say who used how much of it."""

    index: int
    idle_watts: float
    active_watts: float = 400.0
    slices: tuple[Slice, ...] = ()
    tells_use: bool = True

    @property
    def uuid(self):
        return f"GPU-{self.index:04d}"

    @property
    def minor(self):
        return 7 - self.index

    def parts(self):
        return {s.uuid: s.share for s in self.slices} or {self.uuid: 1.0}


def level(levels, seconds):
    return levels[int(seconds / LOAD_SECONDS) % len(levels)]


class Node:
    """Integrates all powers, adds up what each owner has had, and gives the readings that an exporter would get."""

    def __init__(self, works, cards, *, begin=0.0, package_idle=70.0, dram_idle=12.0, host_memory=MEMORY):
        self.works, self.cards, self.now = tuple(works), tuple(cards), begin
        self.idle_watts = {"package": package_idle, "dram": dram_idle}
        self.watts_per_cpu = {"package": 3.0, "dram": 0.4}
        self.host_memory = host_memory
        self.truth = defaultdict(float)
        self.unread = defaultdict(lambda: defaultdict(float))
        """By device: what its owners have had since it was last read."""
        names = [f"{kind}-{socket}" for socket in range(SOCKETS) for kind in self.idle_watts]
        self.energy = {name: 12345.6 * i for i, name in enumerate([*names, *(card.uuid for card in cards)], 1)}
        self.first_read = set()
        self.cpu_seconds = defaultdict(float)
        self.busy_seconds = 0.0
        self.use = defaultdict(lambda: defaultdict(float))
        self.use_since = dict.fromkeys((card.uuid for card in cards), begin)
        self.last_listed = begin
        self._changes = sorted({w.begin for w in self.works} | {w.end for w in self.works})

    def pid(self, work, part):
        return 1000 + 100 * self.works.index(work) + list(work.gpus).index(part)

    def advance(self, until):
        while self.now < until:
            step = (math.floor(self.now / LOAD_SECONDS + 1e-9) + 1) * LOAD_SECONDS
            change = next((c for c in self._changes if c > self.now), math.inf)
            end = min(until, step, change)
            self._integrate((self.now + end) / 2, end - self.now)
            self.now = end

    def _integrate(self, middle, seconds):
        alive = [work for work in self.works if work.begin <= middle < work.end]
        busy = {work.unit: level(work.cpu, middle) * seconds for work in alive}
        self.busy_seconds += sum(busy.values())
        for unit, cpu_seconds in busy.items():
            self.cpu_seconds[unit] += cpu_seconds
        for kind in ("package", "dram"):
            for socket in range(SOCKETS):
                self._integrate_socket(f"{kind}-{socket}", kind, alive, busy, seconds)
        for card in self.cards:
            self._integrate_card(card, alive, middle, seconds)

    def _integrate_socket(self, device, kind, alive, busy, seconds):
        component = "cpu" if kind == "package" else "dram"
        idle = self.idle_watts[kind] * seconds
        for work in alive:
            active = self.watts_per_cpu[kind] * busy[work.unit] / SOCKETS
            self._spend(device, component, work.job if work.listed and work.job else SYSTEM, active)
            share = (work.cpus or 0.0) / CPUS if kind == "package" else (work.memory or 0.0) / MEMORY
            if work.job and share:
                self._spend(device, component, work.job, self.idle_watts[kind] * seconds * share)
                idle -= self.idle_watts[kind] * seconds * share
        self._spend(device, component, IDLE, idle)

    def _integrate_card(self, card, alive, middle, seconds):
        idle_left = card.idle_watts * seconds
        for part, share in card.parts().items():
            here = [work for work in alive if part in work.gpus]
            names = {work.job if work.listed and work.job else SYSTEM for work in here}
            owners = names - {SYSTEM} or names
            for owner in owners:
                self._spend(card.uuid, "gpu", owner, card.idle_watts * seconds * share / len(owners))
            idle_left -= card.idle_watts * seconds * share if owners else 0.0
            for work in here:
                use = level(work.gpus[part], middle) * seconds
                self.use[card.uuid][part] += use
                self.use[card.uuid][self.pid(work, part)] += use
                joules = card.active_watts * share * use
                if card.tells_use or len(names) == 1:
                    self._spend(card.uuid, "gpu", work.job if work.listed and work.job else SYSTEM, joules)
                    continue
                for owner in names:
                    self._spend(card.uuid, "gpu", owner, joules / len(names))
                self.unread[card.uuid][EQUALLY, "gpu"] += joules
        self._spend(card.uuid, "gpu", IDLE, idle_left)

    def _spend(self, device, component, owner, joules):
        self.energy[device] += joules
        self.unread[device][owner, component] += joules

    def read(self, missing=frozenset()):
        """Devices, jobs and the host's CPU time now; what a device spent before it was first read stays unknown."""
        devices = [
            *(self._read_socket(f"{kind}-{n}") for kind in ("package", "dram") for n in range(SOCKETS)),
            *(self._read_card(card) for card in self.cards if card.uuid not in missing),
        ]
        devices = [device for device in devices if device.device not in missing]
        for device in devices:
            owed = self.unread.pop(device.device, {})
            if device.device in self.first_read:
                for key, joules in owed.items():
                    self.truth[key] += joules
            self.first_read.add(device.device)
        host = HostCpu(self.busy_seconds, CPUS * self.now, CPUS, self.host_memory)
        jobs = [self._use_of(work) for work in self.works if work.listed and self._is_told(work)]
        self.last_listed = self.now
        return devices, jobs, host

    def _is_told(self, work):
        """Slurm's parent control group tells the last CPU time of a job that ended; of others nothing is left."""
        ended_just_now = work.resolver == "slurm" and self.last_listed < work.end <= self.now
        return work.begin <= self.now < work.end or (ended_just_now and work.begin <= self.now)

    def _use_of(self, work):
        alive = self.now < work.end
        pids = {self.pid(work, part) for part in work.gpus} if work.shows_pids and alive else ()
        return JobUse(
            work.job,
            work.resolver,
            work.unit,
            self.cpu_seconds[work.unit],
            frozenset(pids),
            frozenset(work.devices if alive else ()),
            work.cpus,
            work.memory,
            work.begin if work.start_known else None,
        )

    def _read_socket(self, device):
        component = "cpu" if device.startswith("package") else "dram"
        return DeviceReading(device, component, self.energy[device], "rapl")

    def _read_card(self, card):
        seconds = max(self.now - self.use_since[card.uuid], 1e-9)
        use = {name: min(1.0, amount / seconds) for name, amount in self.use.pop(card.uuid, {}).items()}
        self.use_since[card.uuid] = self.now
        pids = {part: self._pids_on(part) for part in card.parts()}
        mig = tuple(
            MigDevice(
                s.uuid, "MIG", s.instance, s.share, use.get(s.uuid, 0.0) if card.tells_use else None, pids[s.uuid]
            )
            for s in card.slices
        )
        by_pid = {name: share for name, share in use.items() if isinstance(name, int)}
        state = Gpu(
            card.index,
            "H100",
            "550",
            utilization_ratio=None if mig else use.get(card.uuid, 0.0),
            pids=frozenset().union(*pids.values()),
            sm_share_by_pid=by_pid if card.tells_use and not mig else {},
            mig=mig,
            minor=card.minor,
        )
        return DeviceReading(card.uuid, "gpu", self.energy[card.uuid], "nvml counter", gpu=state)

    def _pids_on(self, part):
        here = (work for work in self.works if part in work.gpus and work.begin <= self.now < work.end)
        return frozenset(self.pid(work, part) for work in here)
