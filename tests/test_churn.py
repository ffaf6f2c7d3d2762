"""1,000 short jobs an hour for hours: nothing grows beyond what the linger time allows, and every joule is right.

Every second job is a process with a label, the others are pods that hold a GPU each. All bounds follow from how fast
jobs come, how long each lives and how long the account of an ended one stays.
"""

import math
from collections import defaultdict
from collections.abc import Mapping

import orjson
import pytest
from scripted import ScriptedProc, Stateless, constant

from carbon_exporter.cgroups import Cgroups, CpuTimes, pod_unit
from carbon_exporter.jobs.process import ProcessResolver
from carbon_exporter.metrics import Renderer
from carbon_exporter.model import DeviceReading, Gpu, JobUse, MigDevice, ResolverReading, SourceReading
from carbon_exporter.node.collectors import Collectors
from carbon_exporter.node.exposition import families
from carbon_exporter.node.ledger import Ledger
from carbon_exporter.node.recount import BUCKET_SECONDS, WINDOW_SECONDS
from carbon_exporter.node.sampler import Sampler
from carbon_exporter.node.state import Host, StateFile

pytestmark = pytest.mark.slow

HOURS = 2.0
INTERVAL = 12.0
LINGER = 600.0
BETWEEN_STARTS = 3600 / 1000
LIFE = 30.0
CPUS, GPUS, PIDS = 4, 8, 50
ALIVE = math.floor(LIFE / BETWEEN_STARTS) + 1
KNOWN = math.floor((LIFE + LINGER) / BETWEEN_STARTS) + 1
"""A job's account stays while its beginning is no further back than its life and the linger time."""
STILL_KNOWN = math.floor((LINGER - INTERVAL) / BETWEEN_STARTS)
"""So many at least, or the accounts went too early."""
SERIES_OF_A_JOB = 6
"""Energy and emissions of two components, info, GPUs."""
COMPONENTS = 2
NAMES_OF_GPUS = 3 * GPUS
"""At most in one container: a GPU goes by its UUID, by its number and by that of its slice."""
BUCKETS = math.floor(WINDOW_SECONDS / BUCKET_SECONDS) + 1
"""For joules whose intensity may come late."""
BYTES_OF_A_GPU = 100
"""In the state file: its idle power, as far as it is learned, and digits that its counter gains."""
KNOWN_INTENSITY = constant(360)
GRAMS_PER_JOULE = 1.5 * 360 / 3.6e6
MIG_PROFILE = "NVIDIA H100 80GB HBM3 MIG 7g.80gb"


class Job:
    """One of the churn; `joules` is what it truly used, by component."""

    def __init__(self, number):
        self.name = f"job-{number:06d}"
        self.number = number
        self.begin = number * BETWEEN_STARTS
        self.is_pod = number % 2 == 1
        self.cpu_seconds = 0.0
        self.joules = defaultdict(float)
        self.gpu = number // 2 % GPUS
        self.uid = f"{number:032x}"
        self.pid = 100 + number // 2 % PIDS

    @property
    def rate(self):
        """CPU seconds in each second."""
        return 0.05 * (1 + self.number % 3)

    def alive(self, now):
        return self.begin <= now <= self.begin + LIFE


class Gpus(Stateless):
    """Each as one MIG slice, whose UUID is new whenever a job gets it: as with a driver that partitions on demand."""

    def __init__(self):
        self.joules = [0.0] * GPUS
        self.holders = [0] * GPUS

    def uuid(self, index):
        return f"MIG-{index}-{self.holders[index]}"

    def read(self, now_seconds):
        return SourceReading(tuple(self._reading(index) for index in range(GPUS)))

    def _reading(self, index):
        mig = MigDevice(self.uuid(index), MIG_PROFILE, "gi0/ci0", 1.0, 0.5)
        gpu = Gpu(index, "H100", "550", utilization_ratio=0.5, minor=index, mig=(mig,))
        return DeviceReading(f"GPU-{index}", "gpu", self.joules[index], "nvml counter", gpu=gpu)


class Pods(Stateless):
    """A resolver over real folders in the place of cgroups."""

    def __init__(self, root):
        self.root = root
        root.mkdir()
        (root / "cgroup.controllers").touch()
        self.cgroups = Cgroups(root)
        self.times = CpuTimes()
        self.jobs = {}

    def read(self, now_seconds, gpu_pids, claimed):
        uses = tuple(self._use(folder) for folder in self.root.iterdir() if folder.is_dir())
        self.times.keep({use.unit for use in uses})
        return ResolverReading(uses)

    def _use(self, folder):
        job, uuid = self.jobs[folder.name]
        unit = pod_unit(job.uid)
        cpu_seconds = self.times.since_seen(unit, self.cgroups.cpu_seconds(folder.name), fresh=True)
        return JobUse(job.name, "pods", unit, cpu_seconds, devices=frozenset({uuid}))

    def state(self):
        return self.times.state()


class Churn:
    """The host, and the truth about each job."""

    def __init__(self, folder):
        self.proc = ScriptedProc(folder / "proc", CPUS)
        self.gpus = Gpus()
        self.package_joules = 0.0
        self.pods = Pods(folder / "pods")
        self.now = 0.0
        self.last = -INTERVAL
        self.ticks = 0
        self.live = {}
        self.ended = {}
        self.started = 0
        self.truth = defaultdict(float)
        self.left = defaultdict(float)
        self.forgotten = 0
        self.most = {}
        self.page = b""
        self.renderer = Renderer()
        self.ledger = Ledger(LINGER)
        self.state_path = folder / "state" / "node.json"
        self.sampler = Sampler(
            sources={"package": self, "gpus": self.gpus},
            resolvers={"pods": self.pods, "process": ProcessResolver(str(self.proc.root), 60, 1000)},
            timeline=lambda _: KNOWN_INTENSITY,
            ledger=self.ledger,
            state_file=StateFile(self.state_path, Host("host-a", "boot-1")),
            proc=self.proc.root,
            pue=1.5,
            interval_seconds=INTERVAL,
            clock=lambda: self.now,
            wall_clock=lambda: 1.7e9 + self.now,
            collectors=Collectors(lambda: 1.7e9),
            publish=self.publish,
        )
        self.sampler.restore()

    def publish(self, tick):
        self.page = self.renderer.render(families(tick))

    def read(self, now_seconds):
        """The host is a source itself: its package."""
        return SourceReading((DeviceReading("package-0", "cpu", self.package_joules, "rapl"),))

    def state(self):
        return {}

    def close(self):
        pass

    def tick(self, *, starts):
        """Let an interval pass: jobs end and start, each uses its CPU time, and the devices their joules."""
        self.last, self.now, self.ticks = self.now, self.now + INTERVAL, self.ticks + 1
        leaving = [job for job in self.live.values() if not job.alive(self.now)]
        for job in leaving:
            self._end(job)
        while starts and self.started * BETWEEN_STARTS <= self.now:
            job = Job(self.started)
            self.started += 1
            self._start(job)
        for job in self.live.values():
            self._work(job)
        self._spend(leaving)
        before = set(self.ledger.accounts)
        accounts = self.ledger.accounts.items()
        kept = {name: dict(account.energy_joules) for name, account in accounts}
        grams = {name: dict(account.emissions_grams.get("unspecified", {})) for name, account in accounts}
        self.sampler.tick()
        for name in before - set(self.ledger.accounts):
            self._leave(self.ended.pop(name), kept[name], grams[name])

    def _start(self, job):
        self.live[job.name] = job
        if job.is_pod:
            self.gpus.holders[job.gpu] += 1
            self.pods.jobs[job.uid] = (job, self.gpus.uuid(job.gpu))
            (self.pods.root / job.uid).mkdir()

    def _end(self, job):
        self.ended[job.name] = self.live.pop(job.name)
        if job.is_pod:
            del self.pods.jobs[job.uid]
            (self.pods.root / job.uid / "cpu.stat").unlink()
            (self.pods.root / job.uid).rmdir()
        else:
            self.proc.drop(job.pid)

    def _work(self, job):
        job.cpu_seconds += job.rate * INTERVAL
        if job.is_pod:
            (self.pods.root / job.uid / "cpu.stat").write_text(f"usage_usec {round(job.cpu_seconds * 1e6)}\n")
        else:
            self.proc.put(job.pid, start=job.begin, own=job.cpu_seconds, CARBON_TRAINING_JOB=job.name)

    def _spend(self, leaving):
        """The package's joules go by CPU time of all there was, a GPU's to its holder until the tick that misses it."""
        of_jobs = sum(job.rate for job in self.live.values()) * INTERVAL
        busy = of_jobs + 0.4 * INTERVAL
        self.proc.spend(busy, CPUS * INTERVAL - busy)
        joules = (50.0 + 30.0 * (self.ticks % 7)) * INTERVAL
        self.package_joules += joules
        for job in self.live.values():
            job.joules["cpu"] += joules * job.rate / CPUS
        for index in range(GPUS):
            self.gpus.joules[index] += 100.0 * (index + 1) * INTERVAL
        for job in [*self.live.values(), *leaving]:
            if job.is_pod:
                job.joules["gpu"] += 100.0 * (job.gpu + 1) * INTERVAL
        if self.ticks > 1:
            self.truth["cpu"] += joules
            self.truth["gpu"] += sum(100.0 * (index + 1) * INTERVAL for index in range(GPUS))

    def _leave(self, job, joules, grams):
        """The account has gone: its last figures are the truth."""
        assert {c: j for c, j in joules.items() if j} == pytest.approx(dict(job.joules), rel=1e-9)
        assert sum(grams.values()) == pytest.approx(sum(job.joules.values()) * GRAMS_PER_JOULE, rel=1e-9)
        self.forgotten += 1
        for component, amount in joules.items():
            self.left[component] += amount

    def measure(self):
        """Keep the most there ever was of everything."""
        now = {
            "live": len(self.live),
            "accounts": len(self.ledger.accounts),
            "pieces": len(self.ledger._pieces),
            "series": self.series(),
            "bytes": self.state_path.stat().st_size,
        }
        self.most = {name: max(number, self.most.get(name, 0)) for name, number in now.items()}

    def series(self):
        return sum(not line.startswith(b"#") for line in self.page.splitlines())


def containers(thing, path="", seen=None):
    """Every container that is reachable from `thing` through what this package and this test define, with its path."""
    seen = set() if seen is None else seen
    if id(thing) in seen or isinstance(thing, str | bytes | int | float | type):
        return
    seen.add(id(thing))
    if isinstance(thing, Mapping):
        yield path, len(thing)
        for value in thing.values():
            yield from containers(value, f"{path}[]", seen)
    elif isinstance(thing, list | tuple | set | frozenset):
        yield path, len(thing)
        for value in thing:
            yield from containers(value, f"{path}[]", seen)
    elif type(thing).__module__.startswith("carbon_exporter"):
        names = [*getattr(thing, "__dict__", ()), *getattr(thing, "__slots__", ())]
        for name in names:
            yield from containers(getattr(thing, name), f"{path}.{name}", seen)


def longest(churn):
    """The longest container of the program, and its length."""
    rooms = {"sampler": churn.sampler, "renderer": churn.renderer, "cgroups": churn.pods.times}
    found = [pair for name, room in rooms.items() for pair in containers(room, name)]
    assert len(found) > 20
    return max(found, key=lambda pair: pair[1])


def state_bytes_of_a_job(churn):
    """The longest that any job known now takes in the state file: its account, piece, CPU time, and what finds it."""
    body = orjson.loads(churn.state_path.read_bytes())["body"]
    ledger, process = body["ledger"], body["resolvers"]["process"]
    parts = [ledger["accounts"], ledger["pieces"], ledger["uses"][0][0], process["jobs"], body["resolvers"]["pods"]]
    lengths = [max((len(orjson.dumps({key: value})) for key, value in part.items()), default=0) for part in parts]
    lengths.append(max((len(orjson.dumps(member)) for member in process["members"]), default=0))
    return sum(lengths)


@pytest.fixture(scope="module")
def churn(tmp_path_factory):
    """Quiet at first, then hours of churn, and quiet again until the last account must have gone."""
    churn = Churn(tmp_path_factory.mktemp("churn"))
    for _ in range(2):
        churn.tick(starts=False)
    churn.measure()
    churn.before = dict(churn.most)
    churn.started = first = math.ceil(churn.now / BETWEEN_STARTS)
    while churn.now < HOURS * 3600:
        churn.tick(starts=True)
        churn.measure()
    churn.number = churn.started - first
    churn.longest_meanwhile, churn.bytes_of_a_job = longest(churn), state_bytes_of_a_job(churn)
    while churn.now <= HOURS * 3600 + LIFE + LINGER + 2 * INTERVAL:
        churn.tick(starts=False)
    yield churn
    churn.sampler.close()


def test_the_linger_time_bounds_what_is_known_of_jobs(churn):
    most = churn.most
    assert most["live"] == ALIVE
    assert STILL_KNOWN <= most["accounts"] <= KNOWN
    assert most["pieces"] <= KNOWN


def test_the_page_and_the_state_file_grow_with_what_is_known_alone(churn):
    before, most = churn.before, churn.most
    # The GPUs' idle power is learned meanwhile.
    assert most["series"] <= before["series"] + KNOWN * SERIES_OF_A_JOB + GPUS
    assert most["bytes"] <= before["bytes"] + KNOWN * churn.bytes_of_a_job + GPUS * BYTES_OF_A_GPU
    assert {file.name for file in churn.state_path.parent.iterdir()} == {"node.json", "node.json.lock"}


def test_nothing_in_memory_is_longer_than_the_list_of_known_jobs(churn):
    path, length = churn.longest_meanwhile
    assert length <= COMPONENTS * KNOWN, path


def test_everything_is_as_at_the_beginning_when_the_last_job_is_forgotten(churn):
    assert churn.ended == churn.live == churn.ledger.accounts == churn.ledger._pieces == {}
    assert churn.series() <= churn.before["series"] + GPUS
    assert churn.state_path.stat().st_size <= churn.before["bytes"] + GPUS * BYTES_OF_A_GPU
    path, length = longest(churn)
    assert length <= max(NAMES_OF_GPUS, BUCKETS), path


def test_the_books_are_closed_over_all_jobs_that_came_and_went(churn):
    assert churn.number == pytest.approx(1000 * HOURS, rel=0.01)
    assert churn.forgotten == churn.number
    for component in ("cpu", "gpu"):
        unattributed = sum(churn.ledger.unattributed_joules[component, reason] for reason in ("idle", "system"))
        assert churn.left[component] + unattributed == pytest.approx(churn.truth[component], rel=1e-9)
        assert churn.left[component] > 0.1 * churn.truth[component]
