"""The script of the day: three nodes, seven jobs, two grids, and what is true of them. Pure.

Power changes only when a stint of a job begins or ends, intensity at full hours: energies and grams are sums of
products. The end of the day is Unix second `end`; stints are told in hours before it and go on after it.
"""

import math
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise

HOUR = 3600.0
DAY_SECONDS = 24 * HOUR
TICK_SECONDS = 60.0
FINE_SECONDS, FINE_TICK_SECONDS = 400.0, 2.0
"""So much before its end the day is scraped as often as live about: rate() mistrusts a window that begins otherwise."""
CLUSTER = "west"
IDLE_WATTS = {"cpu": 60.0, "dram": 8.0, "gpu": 50.0}
"""Of each device: a node has one package, one DRAM zone, and its GPUs."""
SYSTEM_WATTS = 5.0
"""Of the package above idle, used by processes of no job."""
DRAM_PER_CPU = 0.1
"""DRAM above idle goes with CPU time, as the package's does."""
MARKET_GRAMS = 100.0
"""For a kilowatt-hour, by the contract of all nodes."""
BASIS = {"DE": "unspecified", "FR": "lifecycle"}
PROVIDER = {"DE": "energy_charts", "FR": "electricity_maps"}


@dataclass(frozen=True)
class Host:
    name: str
    grid_zone: str
    pue: float
    gpus: int


@dataclass(frozen=True)
class Stint:
    """A job's time on a node; `gpus` are the watts of each GPU that it holds, by index."""

    host: str
    from_hours: float
    to_hours: float = -math.inf
    cpu_watts: float = 20.0
    gpus: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """`epoch_hours` is None where it never pushes; `stalled_hours` ago it did its last epoch, and burns on."""

    name: str
    info: dict
    stints: tuple
    resolver: str = "kubernetes"
    group: str = ""
    epoch_hours: float | None = None
    planned: float = 0.0
    budget_grams: float | None = None
    stalled_hours: float = -math.inf

    def began(self, end):
        return end - HOUR * max(stint.from_hours for stint in self.stints)

    def ended(self, end):
        return end - HOUR * min(stint.to_hours for stint in self.stints)

    def epochs(self, end, at):
        """Whole epochs done at Unix second `at`; a float, as it is pushed."""
        working = min(at, self.ended(end), end - HOUR * self.stalled_hours) - self.began(end)
        return float(min(self.planned, (working + 1e-6) // (HOUR * self.epoch_hours)))


HOSTS = (Host("west-1", "DE", 1.2, 3), Host("west-2", "FR", 1.4, 3), Host("west-3", "DE", 1.2, 0))
HEALTHY, OVER, MOVED, DONE = "vision/resnet", "nlp/bert", "physics-lattice", "nlp/summary"
STALLED, SILENT, IDLING = "vision/detector", "tokenizer", "speech/whisper"
MOVED_HOURS = 14 / 60
"""What the left node told of the job leaves every five-minute window about a minute after the end of the day."""


def _pod(namespace, team):
    return {"pod_namespace": namespace, "team": team}


JOBS = (
    Job(
        HEALTHY,
        _pod("vision", "perception"),
        (Stint("west-1", 10, gpus={0: 300.0}), Stint("west-2", 10, gpus={0: 280.0})),
        group="resnet50",
        epoch_hours=1.0,
        planned=20.0,
        budget_grams=5000.0,
    ),
    Job(
        OVER,
        _pod("nlp", "language"),
        (Stint("west-2", 6, gpus={1: 400.0}),),
        group="bert",
        epoch_hours=0.5,
        planned=40.0,
        budget_grams=400.0,
    ),
    Job(
        MOVED,
        {"user": "noether", "account": "physics", "partition": "long"},
        (Stint("west-3", 9, MOVED_HOURS, cpu_watts=80.0), Stint("west-1", MOVED_HOURS, cpu_watts=80.0)),
        resolver="slurm",
        group="lattice",
        epoch_hours=0.25,
        planned=60.0,
    ),
    Job(
        DONE,
        _pod("nlp", "language"),
        (Stint("west-2", 11, 6.5, gpus={1: 350.0}),),
        group="bert",
        epoch_hours=0.5,
        planned=9.0,
    ),
    Job(
        STALLED,
        _pod("vision", "perception"),
        (Stint("west-1", 8, gpus={1: 250.0}),),
        group="yolo",
        epoch_hours=1 / 3,
        planned=40.0,
        stalled_hours=4.0,
    ),
    Job(SILENT, {"user": "shannon"}, (Stint("west-3", 7, cpu_watts=60.0),), resolver="process"),
    Job(
        IDLING,
        _pod("speech", "language"),
        (Stint("west-1", 3, cpu_watts=10.0, gpus={2: IDLE_WATTS["gpu"]}),),
        group="whisper",
        epoch_hours=1.0,
        planned=10.0,
    ),
)


def gpu_uuid(host, index):
    return f"GPU-{host}-{index}-0000"


def intensity(grid_zone, at):
    """Grams per kilowatt-hour; another value every hour."""
    hour = int(at // HOUR) % 24
    return 250.0 + 10 * hour if grid_zone == "DE" else 40.0 + 2 * hour


def on_host(host, end, at, *, before=False):
    """The (job, stint) on a host at a time; with `before`, just before it."""
    for job in JOBS:
        for stint in job.stints:
            begin, finish = end - HOUR * stint.from_hours, end - HOUR * stint.to_hours
            here = begin < at <= finish if before else begin <= at < finish
            if stint.host == host.name and here:
                yield job, stint


def watts(host, end, at):
    """(component, owner) -> watts; the owner is a job, or the reason why it is nobody's."""
    owned = defaultdict(float)
    active = {"system": SYSTEM_WATTS}
    gpus_held = 0
    for job, stint in on_host(host, end, at):
        active[job.name] = stint.cpu_watts
        gpus_held += len(stint.gpus)
        if stint.gpus:
            owned["gpu", job.name] = sum(stint.gpus.values())
    for owner, cpu_watts in active.items():
        owned["cpu", owner] = cpu_watts
        owned["dram", owner] = cpu_watts * DRAM_PER_CPU
    owned["cpu", "idle"], owned["dram", "idle"] = IDLE_WATTS["cpu"], IDLE_WATTS["dram"]
    if host.gpus:
        owned["gpu", "idle"] = IDLE_WATTS["gpu"] * (host.gpus - gpus_held)
    return owned


def scrapes(end):
    """When the nodes are scraped on the day."""
    fine = round(FINE_SECONDS / FINE_TICK_SECONDS)
    coarse = round((DAY_SECONDS - FINE_SECONDS) / TICK_SECONDS)
    yield from (end - DAY_SECONDS + TICK_SECONDS * n for n in range(1, coarse + 1))
    yield from (end - FINE_TICK_SECONDS * n for n in reversed(range(fine)))


def changes(begin, finish, end):
    """The times in between at which any power or intensity changes, and both ends."""
    hours = (HOUR * n for n in range(int(begin // HOUR) + 1, int(finish // HOUR) + 1))
    stints = [end - HOUR * hours for job in JOBS for one in job.stints for hours in (one.from_hours, one.to_hours)]
    return sorted({begin, finish, *(at for at in (*hours, *stints) if begin < at < finish)})


@dataclass(frozen=True)
class Truth:
    """What is true at Unix second `at` of a day that ended at `end`; grams are by basis.

    `pages` is what servers told of themselves then: target -> [(metric, labels, value)].
    """

    end: float
    at: float
    pages: dict = field(default_factory=dict)

    def power(self, **wanted):
        """Watts now of what fits: host, component, owner (a job, "idle" or "system")."""
        rows = ((h.name, c, o, w) for h in HOSTS for (c, o), w in watts(h, self.end, self.at).items())
        return math.fsum(row[3] for row in rows if _fits(row, wanted))

    def joules(self, since=None, **wanted):
        return math.fsum(joules for *_, joules, _ in self._spent(since, wanted))

    def grams(self, since=None, *, basis=None, **wanted):
        """With the PUE and at the intensity of the time."""
        return math.fsum(grams for told, _, grams in self._spent(since, wanted) if basis in (None, told))

    def _spent(self, since, wanted):
        """(basis, joules, grams) of every owner and stretch of constant power since then, or since the day began."""
        times = changes(self.end - DAY_SECONDS if since is None else since, self.at, self.end)
        for begin, finish in pairwise(times):
            for host in HOSTS:
                grams_per_joule = host.pue * intensity(host.grid_zone, begin) / 3.6e6
                for (component, owner), power in watts(host, self.end, begin).items():
                    if _fits((host.name, component, owner), wanted):
                        joules = power * (finish - begin)
                        yield BASIS[host.grid_zone], joules, joules * grams_per_joule

    def grams_per_second(self, **wanted):
        """Now, of what fits."""
        return math.fsum(
            power * host.pue * intensity(host.grid_zone, self.at) / 3.6e6
            for host in HOSTS
            for (component, owner), power in watts(host, self.end, self.at).items()
            if _fits((host.name, component, owner), wanted)
        )

    def epochs(self, job):
        return job.epochs(self.end, self.at)

    def told(self, target, name, by):
        """{value of the label `by`: number} of a metric on a target's own page."""
        return {labels.get(by, ""): value for metric, labels, value in self.pages[target] if metric == name}


def _fits(row, wanted):
    return all(row[("host", "component", "owner").index(name)] == value for name, value in wanted.items())


def pushed(end, at):
    """The lines of a Pushgateway's page at a time: what each job pushed last, by then with heartbeats of a minute."""
    lines = []
    for job in JOBS:
        began = job.began(end)
        if job.epoch_hours is None or at < began:
            continue
        done = job.epochs(end, at)
        over = at >= job.ended(end)
        values = {
            "carbon_training_epochs_completed": done,
            "carbon_training_epochs_planned": job.planned,
            "carbon_training_epoch_end_timestamp_seconds": began + done * HOUR * job.epoch_hours,
            "carbon_training_start_timestamp_seconds": began,
            "carbon_training_emissions_budget_grams": job.budget_grams,
            "carbon_training_finished_timestamp_seconds": job.ended(end) if over else None,
            "push_time_seconds": job.ended(end) if over else at - (at - began) % TICK_SECONDS,
            "push_failure_time_seconds": 0.0,
        }
        labels = f'instance="",job="carbon_training",training_job="{job.name}"'
        lines += [f"{name}{{{labels}}} {value!r}" for name, value in values.items() if value is not None]
        lines.append(f'carbon_training_info{{group="{job.group}",{labels}}} 1.0')
    return lines
