"""The ledger against simulated nodes whose every watt has a known owner (truth.py)."""

import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import steady
from truth import CPUS, EQUALLY, IDLE, MEMORY, SYSTEM, Card, Node, Slice, Work

from carbon_exporter.model import COMPONENTS
from carbon_exporter.node.ledger import Ledger

FOREVER = 1e12
FACTORS = steady(1e-4)
CONFIGURED = {"cpu": 70.0, "dram": 12.0, "gpu": 55.0}


def grams_of(account):
    """By component."""
    assert set(account.emissions_grams) <= {"unspecified"}
    return account.emissions_grams.get("unspecified", {})


class Books:
    """Posts readings of a node and audits the ledger's books after each: closed, nothing negative, nothing falling."""

    def __init__(self, node, idle_watts=None):
        self.node, self.idle_watts = node, idle_watts or {}
        self.ledger = Ledger(FOREVER, self.idle_watts)
        self.failures = set()
        self._highest = {}

    def tick(self, until, missing=frozenset()):
        self.node.advance(until)
        devices, jobs, host = self.node.read(missing)
        self.failures.update(self.ledger.post(devices, jobs, host, self.node.now, FACTORS))
        self.audit()

    def restart(self):
        state = json.loads(json.dumps(self.ledger.state()))
        self.ledger = Ledger(FOREVER, self.idle_watts)
        self.ledger.restore(state, self.node.now, same_boot=True)

    def audit(self):
        books = self.ledger
        now = {(name, c): joules for name, a in books.accounts.items() for c, joules in a.energy_joules.items()}
        now |= {("grams", name, c): g for name, a in books.accounts.items() for c, g in grams_of(a).items()}
        now |= {("equally", c): joules for c, joules in books.equally_shared_joules.items()}
        now |= books.unattributed_joules
        assert all(joules >= self._highest.get(key, 0.0) for key, joules in now.items())
        self._highest = now
        for component in books.measured_joules:
            spent = math.fsum(j for (owner, c), j in self.node.truth.items() if c == component and owner != EQUALLY)
            assert books.measured_joules[component] == pytest.approx(spent, rel=1e-9, abs=1e-6)
            assert self.shared_out(component) == pytest.approx(books.measured_joules[component], rel=1e-9, abs=1e-9)
        assert books.equally_shared_joules.get("gpu", 0.0) <= books.measured_joules.get("gpu", 0.0) * (1 + 1e-9)

    def shared_out(self, component):
        to_jobs = [account.energy_joules.get(component, 0.0) for account in self.ledger.accounts.values()]
        return math.fsum([*to_jobs, *(self.ledger.unattributed_joules[component, reason] for reason in (IDLE, SYSTEM))])

    def found(self, owner, component):
        if owner == EQUALLY:
            return self.ledger.equally_shared_joules[component]
        if owner in (IDLE, SYSTEM):
            return self.ledger.unattributed_joules[component, owner]
        return self.ledger.accounts[owner].energy_joules.get(component, 0.0)

    def assert_true_within(self, ratio, components=COMPONENTS, owners=None):
        compared = 0
        for (owner, component), joules in sorted(self.node.truth.items()):
            if component in components and (owners is None or owner in owners):
                assert self.found(owner, component) == pytest.approx(joules, rel=ratio, abs=1e-3), (owner, component)
                compared += 1
        assert compared


def run(node, until, rng, *, idle_watts=None, dark=(), restarts=()):
    """Tick with scatter, now and then without a tick; `dark` are (begin, end, device) in which it cannot be read."""
    books = Books(node, idle_watts)
    books.tick(node.now)
    restarts = list(restarts)
    while node.now < until:
        wait = sum(rng.uniform(1.6, 2.4) for _ in range(1 if rng.random() > 0.03 else 2))
        end = min(until, node.now + wait)
        books.tick(end, {device for begin, over, device in dark if begin <= end < over and end < until})
        if restarts and end >= restarts[0]:
            restarts.pop(0)
            node.advance(end + 9.0)
            books.restart()
    assert not restarts
    return books


ONE_G = tuple(Slice(f"MIG-one-{n}", f"gi{n + 7}/ci0", 1 / 7) for n in range(7))
MIXED = tuple(
    Slice(f"MIG-mixed-{g}g", f"gi{n}/ci0", g / 7) for n, g in enumerate((3, 2, 1))
)  # and one seventh of the GPU is in no slice
BUSY, HALF, WILD = (1.0,), (0.5, 0.4, 0.6), (0.9, 0.1, 0.0, 0.7, 0.3)


def whole_node(rng, idle_watts):
    """Two sockets and eight GPUs: exclusive, time-sliced, MPS, MIG; jobs that come and go between the ticks."""
    kinds = [*[{}] * 4, {"tells_use": False}, {}, {"slices": ONE_G}, {"slices": MIXED}]
    cards = [Card(i, idle_watts or 40.0 + 5 * i, **kind) for i, kind in enumerate(kinds)]
    gpu = [card.uuid for card in cards]

    def begin():
        return rng.uniform(60.0, 300.0)

    def end():
        return rng.uniform(1400.0, 1580.0)

    some = {"cpus": 4.0, "memory": 32.0}
    minor = f"nvidia{cards[5].minor}"
    works = [
        # Two pods of one job on a GPU each, without hostPID.
        *(
            Work(
                "ns/llm", f"pod llm-{n}", begin(), end(), (6.0, 2.0), {gpu[n]: WILD[n:]}, (gpu[n],), 8.0, 64.0,
                shows_pids=False,
            )
            for n in (0, 1)
        ),
        # Time-sliced by three, one of which leaves early and one of which comes late.
        Work("ns/a", "pod a", begin(), end(), (1.0, 3.0), {gpu[2]: HALF}, (f"{gpu[2]}",), **some),
        Work("ns/b", "pod b", begin(), 950.0, (2.0,), {gpu[2]: (0.2, 0.1)}, (gpu[2],), **some),
        Work("ns/c", "pod c", 720.0, end(), (0.5,), {gpu[2]: (0.05, 0.3)}, (gpu[2],), **some),
        # Slurm and a labelled process beside a process of nobody, which must pay for its use and for no idle watt.
        Work("slurm-7", "slurm 7", begin(), end(), (4.0, 0.0), {gpu[3]: (0.3,)}, (), **some, resolver="slurm"),
        Work("loose", "process loose", begin(), end(), (1.0,), {gpu[3]: (0.0, 0.4)}, resolver="process"),
        Work("", "stray", 80.0, 1500.0, (3.0, 1.0), {gpu[3]: (0.1, 0.3)}, listed=False),
        # MPS: nobody tells who used what.
        Work("mps-a", "pod mps-a", 100.0, 1500.0, (1.0,), {gpu[4]: (0.7,)}, (gpu[4],), **some),
        Work("mps-b", "pod mps-b", 100.0, 1500.0, (1.0,), {gpu[4]: (0.1,)}, (gpu[4],), **some),
        # One job after the other on one GPU, named as Slurm does; a pod without a name after them.
        Work("slurm-8", "slurm 8", 130.5, 700.3, (2.0,), {gpu[5]: HALF}, (minor,), 2.0, resolver="slurm"),
        Work("slurm-9", "slurm 9", 700.3, 1320.9, (2.0,), {gpu[5]: HALF}, (minor,), 2.0, resolver="slurm"),
        Work("", "pod nameless", 1340.0, 1590.0, (0.0,), {gpu[5]: BUSY}, (gpu[5],)),
        # Slices by their own UUID, two of them of one job; the seventh stays free.
        *(
            Work(f"slice-{n % 5}", f"pod slice-{n}", begin(), end(), (0.2,), {s.uuid: WILD[n % 4 :]}, (s.uuid,))
            for n, s in enumerate(ONE_G[:6])
        ),
        # Slices by the names of Google's device plugin; the smallest is given and never used.
        *(
            Work(f"mixed-{n}", f"pod mixed-{n}", begin(), end(), (0.3,), {MIXED[n].uuid: levels}, (name,))
            for n, (levels, name) in enumerate(
                zip((WILD, (0.4, 0.8), (0.0,)), (f"nvidia{cards[7].minor}/gi{n}" for n in range(3)), strict=True)
            )
        ),
    ]  # fmt: skip
    return Node(works, cards)


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3))])
@pytest.mark.parametrize("configured", [True, False])
def test_every_owner_on_a_whole_node_has_its_joules_to_one_percent(seed, configured):
    """Exact but for the interval in which a job comes or goes: joules rise linearly with CPU time and SM use, idle
    power is known, allocations stand still in between. Jobs are 230 to 1,500 s long, an interval 2 s."""
    rng = random.Random(seed)
    node = whole_node(rng, CONFIGURED["gpu"] if configured else None)
    dark = [(800.0, 845.0, "package-1"), (1000.0, 1050.0, node.cards[2].uuid), (1100.0, 1130.0, node.cards[7].uuid)]
    books = run(node, 1600.0, rng, idle_watts=CONFIGURED if configured else None, dark=dark, restarts=[500.0, 1200.0])
    books.assert_true_within(0.01)
    assert books.failures == set()
    for card in node.cards:
        assert books.ledger.idle_power.watts(card.uuid, "gpu") == pytest.approx(card.idle_watts)
    assert books.ledger.idle_power.watts("package-0", "cpu") == pytest.approx(70.0)


def test_holders_whose_use_nobody_knows_share_equally_and_it_is_counted():
    """The truth is 7 to 1 and cannot be known; promised is half and half, and to say so."""
    card = Card(0, 50.0, tells_use=False)
    works = [
        Work(name, name, 50.0, 400.0, gpus={card.uuid: (use,)}, devices=(card.uuid,))
        for name, use in (("a", 0.7), ("b", 0.1))
    ]
    books = run(Node(works, [card], begin=0.0), 400.0, random.Random(4))
    assert books.found("a", "gpu") == pytest.approx(books.found("b", "gpu"))
    assert books.found("a", "gpu") == pytest.approx(350 * (400 * 0.8 + 50) / 2, rel=0.01)
    assert books.found(EQUALLY, "gpu") == pytest.approx(350 * 400 * 0.8, rel=0.01)


def test_slices_whose_use_nobody_knows_share_by_their_size_and_it_is_counted():
    card = Card(0, 70.0, slices=MIXED, tells_use=False)
    works = [
        Work(f"job-{n}", f"pod {n}", 50.0, 450.0, gpus={s.uuid: (use,)}, devices=(s.uuid,))
        for n, (s, use) in enumerate(zip(MIXED[:2], (0.2, 0.9), strict=True))
    ]
    books = run(Node(works, [card]), 500.0, random.Random(5))
    active = 400 * 400.0 * (3 * 0.2 + 2 * 0.9) / 7
    assert books.found("job-0", "gpu") == pytest.approx(active * 3 / 5 + 400 * 70 * 3 / 7, rel=0.01)
    assert books.found("job-1", "gpu") == pytest.approx(active * 2 / 5 + 400 * 70 * 2 / 7, rel=0.01)
    assert books.found(EQUALLY, "gpu") == pytest.approx(active, rel=0.01)


def relay(rng, *, pause, start_known=True, shows_pids=False, count=40):
    """Short jobs one after the other on one GPU; a pause between them or none."""
    card, works, now = Card(0, 55.0), [], 50.0
    for n in range(count):
        length = rng.uniform(60.0, 90.0)
        works.append(
            Work(
                f"job-{n}",
                f"pod {n}",
                now,
                now + length,
                (2.0,),
                {card.uuid: BUSY},
                (card.uuid,),
                4.0,
                shows_pids=shows_pids,
                start_known=start_known,
            )
        )
        now += length + pause(rng)
    return Node(works, [card]), now


@pytest.mark.slow
@pytest.mark.parametrize("pause", [lambda _: 0.0, lambda rng: rng.uniform(5.0, 20.0)])
def test_short_jobs_that_follow_each_other_on_a_gpu_have_their_joules_to_one_percent(pause):
    """Exact where the start is known: a hand-over between jobs of one power goes by time. After a pause the newcomer
    has all that is above idle; the last job keeps idle watts to the end of the interval that it left in."""
    rng = random.Random(6)
    node, end = relay(rng, pause=pause)
    node_end = end + 20.0
    books = run_without_missed_ticks(node, node_end, rng)
    books.assert_true_within(0.01, {"gpu"}, {work.job for work in node.works})
    assert books.found(EQUALLY, "gpu") == 0.0


@pytest.mark.slow
def test_a_short_job_is_wrong_by_one_interval_of_its_cpu_power_at_most():
    rng = random.Random(7)
    node, end = relay(rng, pause=lambda rng: rng.uniform(5.0, 20.0))
    books = run_without_missed_ticks(node, end + 20.0, rng)
    for work in node.works:
        watts = 2.0 * 3.0 + 2 * 70.0 * 4.0 / CPUS
        assert abs(books.found(work.job, "cpu") - node.truth[work.job, "cpu"]) <= 2.4 * watts


def test_a_hand_over_at_an_unknown_moment_goes_by_use_where_that_is_known():
    rng = random.Random(8)
    node, end = relay(rng, start_known=False, shows_pids=True, pause=lambda _: 0.0)
    books = run_without_missed_ticks(node, end + 20.0, rng)
    books.assert_true_within(0.01, {"gpu"}, {work.job for work in node.works})
    assert books.found(EQUALLY, "gpu") == 0.0


def test_a_hand_over_at_an_unknown_moment_is_halved_and_counted():
    """Each of 39 hand-overs is wrong by half an interval at most."""
    rng = random.Random(8)
    node, end = relay(rng, start_known=False, pause=lambda _: 0.0)
    books = run_without_missed_ticks(node, end + 20.0, rng)
    for work in node.works:
        assert abs(books.found(work.job, "gpu") - node.truth[work.job, "gpu"]) <= 2.4 * 455.0
    assert books.found(EQUALLY, "gpu") == pytest.approx(39 * 2.0 * 455.0, rel=0.1)


def run_without_missed_ticks(node, until, rng):
    books = Books(node, {"cpu": 70.0, "dram": 12.0})
    books.tick(node.now)
    while node.now < until:
        books.tick(min(until, node.now + rng.uniform(1.6, 2.4)))
    return books


def test_before_idle_power_is_known_an_exclusive_gpu_is_all_its_holders():
    card = Card(0, 55.0)
    work = Work("a", "pod a", 0.0, 900.0, (8.0,), {card.uuid: WILD}, (card.uuid,))
    books = run(Node([work], [card]), 900.0, random.Random(9))
    books.assert_true_within(1e-9, {"gpu"})
    assert books.ledger.idle_power.watts(card.uuid, "gpu") is None


def test_memory_that_nobody_can_tell_leaves_its_idle_joules_to_nobody():
    work = Work("a", "pod a", 50.0, 650.0, (8.0,), cpus=16.0, memory=MEMORY / 2)
    books = run(Node([work], [], host_memory=None), 700.0, random.Random(10), idle_watts=CONFIGURED)
    assert books.found("a", "dram") == pytest.approx(600 * 8 * 0.4, rel=0.01)
    assert books.found("a", "cpu") == pytest.approx(600 * (8 * 3.0 + 2 * 70 / 4), rel=0.01)


PARTS = [*(s.uuid for s in MIXED), "GPU-0000", "GPU-0001", "GPU-0002"]
NAMES = [*PARTS, "nvidia7", "nvidia5", "nvidia4/gi0", "nvidia9", "MIG-", "0", "all", "GPU-0002/vgpu"]
LEVELS = st.lists(st.floats(0, 1), min_size=1, max_size=3).map(tuple)
WORKS = st.lists(
    st.builds(
        lambda job, begin, length, **more: {"job": job, "begin": begin, "end": begin + length, **more},
        job=st.sampled_from(["a", "b", "c", ""]),
        begin=st.floats(0, 90),
        length=st.floats(0, 80),
        cpu=st.lists(st.floats(0, 8), min_size=1, max_size=2).map(tuple),
        gpus=st.dictionaries(st.sampled_from(PARTS), LEVELS, max_size=3),
        devices=st.lists(st.sampled_from(NAMES), max_size=3).map(tuple),
        cpus=st.none() | st.floats(0, 2.0 * CPUS),
        memory=st.none() | st.floats(0, 2 * MEMORY),
        resolver=st.sampled_from(["kubernetes", "slurm", "process"]),
        shows_pids=st.booleans(),
        start_known=st.booleans(),
        listed=st.booleans(),
    ),
    max_size=7,
)
TICKS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.3, 1.9, 2.2, 8.0, 40.0]),
        st.sets(st.sampled_from(["package-0", "dram-1", *PARTS]), max_size=3),
        st.booleans(),
    ),
    min_size=2,
    max_size=14,
)


@settings(max_examples=150, deadline=None)
@given(
    WORKS,
    TICKS,
    st.sampled_from([None, CONFIGURED, {"cpu": 900.0, "gpu": 9000.0}]),
    st.lists(st.booleans(), min_size=4, max_size=4),
)
def test_the_books_are_closed_whatever_runs_on_a_node(works, ticks, idle_watts, tells_use):
    """MIG, names of every kind, allocations beyond all there is, right, wrong or learned idle power."""
    works = [Work(unit=f"unit {n}", **work) for n, work in enumerate(works)]
    cards = [Card(i, 30.0, slices=MIXED if i == 3 else (), tells_use=t) for i, t in enumerate(tells_use)]
    books = Books(Node(works, cards, begin=10.0), idle_watts)
    for wait, missing, restarts in ticks:
        if restarts:
            books.restart()
        books.tick(books.node.now + wait, missing)
    books.tick(books.node.now + 1.0)
    assert set(books.ledger.measured_joules) == set(COMPONENTS)
    assert all(account.gpus <= len(cards) for account in books.ledger.accounts.values())
