"""The sharing rules, by example and by property."""

import json
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import constant, steady

from carbon_exporter.model import DeviceReading, Gpu, HostCpu, JobUse, MigDevice
from carbon_exporter.node.ledger import Ledger
from carbon_exporter.node.recount import Factors

CPUS = 4
FOREVER = 1e12
FREE = steady(0.0)
ONE_MILLIGRAM = steady(0.001)


def package(joules, name="package-0", **more):
    return DeviceReading(name, "cpu", joules, "rapl", **more)


def gpu(joules, *, index=0, pids=(), sm=None, mig=(), model="H100", limit=None):
    state = Gpu(index, model, "550", pids=frozenset(pids), sm_share_by_pid=sm or {}, mig=mig, power_limit_watts=limit)
    return DeviceReading(f"GPU-{index}", "gpu", joules, "nvml counter", gpu=state)


def job(name, cpu=0.0, pids=(), devices=()):
    return JobUse(name, "process", name, cpu, frozenset(pids), frozenset(devices))


def host(busy, capacity):
    return HostCpu(busy, capacity, CPUS)


def post_two(first, second, linger=FOREVER):
    """A ledger after two posts of (devices, jobs, host)."""
    ledger = Ledger(linger)
    ledger.post(*first, 0.0, ONE_MILLIGRAM)
    ledger.post(*second, 10.0, ONE_MILLIGRAM)
    return ledger


def energy(ledger, name, component):
    return ledger.accounts[name].energy_joules.get(component, 0.0)


def test_cpu_energy_goes_by_cpu_time_and_the_idle_part_to_nobody():
    ledger = post_two(
        ([package(1000.0)], [job("a"), job("b")], host(0, 0)),
        # 10 s of 4 CPUs; 20 of 40 CPU seconds busy: 12 by a, 4 by b, 4 by others; 400 J, so 200 J active.
        ([package(1400.0)], [job("a", 12.0), job("b", 4.0)], host(20, 40)),
    )
    assert energy(ledger, "a", "cpu") == pytest.approx(120.0)
    assert energy(ledger, "b", "cpu") == pytest.approx(40.0)
    assert ledger.unattributed_joules["cpu", "system"] == pytest.approx(40.0)
    assert ledger.unattributed_joules["cpu", "idle"] == pytest.approx(200.0)
    assert ledger.accounts["a"].emissions_grams["unspecified"]["cpu"] == pytest.approx(0.12)


def test_an_estimate_has_no_idle_part_to_take_off():
    first = [package(0.0, includes_idle=False)], [job("a")], host(0, 0)
    second = [package(100.0, includes_idle=False)], [job("a", 5.0)], host(20, 40)
    ledger = post_two(first, second)
    assert energy(ledger, "a", "cpu") == pytest.approx(25.0)
    assert ledger.unattributed_joules["cpu", "idle"] == 0.0
    assert ledger.unattributed_joules["cpu", "system"] == pytest.approx(75.0)


def test_all_devices_of_a_component_are_summed():
    sockets = [package(0.0), package(0.0, "package-1")]
    later = [package(300.0), package(500.0, "package-1")]
    ledger = post_two((sockets, [job("a")], host(0, 0)), (later, [job("a", 40.0)], host(40, 40)))
    assert energy(ledger, "a", "cpu") == pytest.approx(800.0)

    cards = [gpu(0.0, index=i, pids=[1]) for i in range(8)]
    later = [gpu(400.0, index=i, pids=[1]) for i in range(8)]
    ledger = post_two((cards, [job("a", pids=[1])], host(0, 0)), (later, [job("a", pids=[1])], host(1, 40)))
    assert energy(ledger, "a", "gpu") == pytest.approx(3200.0)
    assert ledger.accounts["a"].gpus == 8


def test_jobs_that_seem_to_use_more_than_the_host_share_what_there_is():
    ledger = post_two(
        ([package(0.0)], [job("a"), job("b")], host(0, 0)),
        ([package(100.0)], [job("a", 30.0), job("b", 11.0)], host(40, 40)),
    )
    assert energy(ledger, "a", "cpu") + energy(ledger, "b", "cpu") == pytest.approx(100.0)
    assert ledger.unattributed_joules["cpu", "system"] == pytest.approx(0.0)


def test_a_job_first_seen_with_cpu_time_gets_its_energy_of_that_interval():
    ledger = post_two(([package(0.0)], [], host(0, 0)), ([package(100.0)], [job("late", 10.0)], host(20, 20)))
    assert energy(ledger, "late", "cpu") == pytest.approx(50.0)


def test_a_device_back_after_a_gap_is_shared_by_the_cpu_time_of_the_gap():
    ledger = Ledger(FOREVER)
    ledger.post([package(0.0)], [job("a"), job("b")], host(0, 0), 0.0, FREE)
    ledger.post([], [job("a", 40.0), job("b", 0.0)], host(40, 40), 10.0, FREE)  # unreadable while a worked
    ledger.post([package(800.0)], [job("a", 40.0), job("b", 40.0)], host(80, 80), 20.0, FREE)
    assert energy(ledger, "a", "cpu") == pytest.approx(400.0)
    assert energy(ledger, "b", "cpu") == pytest.approx(400.0)


@pytest.mark.parametrize(
    ("now", "expected", "system", "idle"),
    [
        (gpu(100.0, pids=[1]), {"a": 100.0}, 0.0, 0.0),
        (gpu(100.0), {}, 0.0, 100.0),
        (gpu(100.0, pids=[99]), {}, 100.0, 0.0),
        (gpu(100.0, pids=[1, 2], sm={1: 0.6, 2: 0.2}), {"a": 75.0, "b": 25.0}, 0.0, 0.0),
        (gpu(100.0, pids=[1, 99], sm={1: 0.6, 99: 0.2}), {"a": 75.0}, 25.0, 0.0),
        (gpu(100.0, pids=[1, 2]), {"a": 50.0, "b": 50.0}, 0.0, 0.0),
        (gpu(100.0, pids=[1, 2], sm={1: 0.0, 2: 0.0}), {"a": 50.0, "b": 50.0}, 0.0, 0.0),
    ],
)
def test_a_gpu_goes_to_its_holders(now, expected, system, idle):
    jobs = [job("a", pids=[1]), job("b", pids=[2])]
    ledger = post_two(([gpu(0.0)], jobs, host(0, 0)), ([now], jobs, host(1, 40)))
    found = {name: energy(ledger, name, "gpu") for name in "ab" if energy(ledger, name, "gpu")}
    assert found == pytest.approx(expected)
    assert ledger.unattributed_joules["gpu", "system"] == pytest.approx(system)
    assert ledger.unattributed_joules["gpu", "idle"] == pytest.approx(idle)
    unknown = set(expected) == {"a", "b"} and expected["a"] == 50.0
    assert ledger.equally_shared_joules["gpu"] == (100.0 if unknown else 0.0)


def test_the_joules_of_a_job_that_left_its_gpu_between_two_ticks_are_still_its_own():
    jobs = [job("a", pids=[1])]
    ledger = post_two(([gpu(0.0, pids=[1])], jobs, host(0, 0)), ([gpu(70.0)], [], host(1, 40)))
    assert energy(ledger, "a", "gpu") == pytest.approx(70.0)


@pytest.mark.parametrize(
    ("declared", "holds"),
    [
        ("0", True),
        ("1", False),
        ("GPU-0", True),
        ("GPU-", True),  # CUDA takes a prefix
        ("MIG-aaaa", True),
        ("MIG-zzzz", False),
        ("7", False),
        ("all", False),
    ],
)
def test_cuda_visible_devices_makes_a_holder_of_exactly_what_it_names(declared, holds):
    slice_ = MigDevice("MIG-aaaa-1", "H100 MIG 1g.10gb", "gi1/ci0")
    jobs = [job("a", devices=[declared])]
    ledger = post_two(([gpu(0.0, mig=(slice_,))], jobs, host(0, 0)), ([gpu(10.0, mig=(slice_,))], jobs, host(1, 40)))
    assert energy(ledger, "a", "gpu") == (10.0 if holds else 0.0)


def test_a_declared_index_is_not_believed_where_gpus_differ():
    jobs = [job("a", devices=["0"])]
    mixed = [gpu(0.0, model="A100"), gpu(0.0, index=1, model="T4")]
    later = [gpu(9.0, model="A100"), gpu(9.0, index=1, model="T4")]
    ledger = post_two((mixed, jobs, host(0, 0)), (later, jobs, host(1, 40)))
    assert energy(ledger, "a", "gpu") == 0.0
    assert ledger.unattributed_joules["gpu", "idle"] == pytest.approx(18.0)


def test_jobs_that_each_see_their_gpu_as_number_0_get_their_own():
    """Containers and Slurm number the GPUs of each job from 0; a process on a GPU says where the job really is."""
    jobs = [job("a", pids=[1], devices=["0"]), job("b", pids=[2], devices=["0"])]
    first = [gpu(0.0, pids=[1]), gpu(0.0, index=1, pids=[2])]
    later = [gpu(1000.0, pids=[1]), gpu(3000.0, index=1, pids=[2])]
    ledger = post_two((first, jobs, host(0, 0)), (later, jobs, host(1, 40)))
    assert {name: energy(ledger, name, "gpu") for name in "ab"} == {"a": 1000.0, "b": 3000.0}
    assert {name: ledger.accounts[name].gpus for name in "ab"} == {"a": 1, "b": 1}


def limits_of_jobs(cards, jobs):
    ledger = post_two((cards, jobs, host(0, 0)), (cards, jobs, host(1, 40)))
    return {name: (account.gpus, account.gpu_power_limit_watts) for name, account in ledger.accounts.items()}


def test_a_job_is_shown_the_sum_of_its_gpus_power_limits_and_of_a_shared_gpu_the_whole():
    cards = [gpu(0.0, pids=[1], limit=700.0), gpu(0.0, index=1, pids=[1, 2], limit=400.5), gpu(0.0, index=2, limit=9.0)]
    jobs = [job("a", pids=[1]), job("b", pids=[2]), job("c", pids=[3])]
    assert limits_of_jobs(cards, jobs) == {"a": (2, 1100.5), "b": (1, 400.5), "c": (0, None)}


def test_two_slices_of_one_gpu_count_its_power_limit_once():
    slices = tuple(MigDevice(f"MIG-{n}", "H100", f"gi{n}/ci0", 1 / 7, None, frozenset({n})) for n in (1, 2, 3))
    cards, jobs = [gpu(0.0, pids=[1, 2, 3], mig=slices, limit=700.0)], [job("a", pids=[1, 2]), job("b", pids=[3])]
    assert limits_of_jobs(cards, jobs) == {"a": (1, 700.0), "b": (1, 700.0)}


def test_a_sum_of_power_limits_is_unknown_where_one_of_them_is():
    cards = [gpu(0.0, pids=[1, 2], limit=700.0), gpu(0.0, index=1, pids=[2])]
    assert limits_of_jobs(cards, [job("a", pids=[1]), job("b", pids=[2])]) == {"a": (1, 700.0), "b": (2, None)}


def test_a_job_that_ended_has_no_power_limit_any_more():
    first, second = [gpu(0.0, pids=[1], limit=700.0)], [gpu(0.0, limit=700.0)]
    account = post_two((first, [job("a", pids=[1])], host(0, 0)), (second, [], host(1, 40))).accounts["a"]
    assert (account.gpus, account.gpu_power_limit_watts) == (0, None)


def test_an_ended_job_stays_for_the_linger_time_and_then_goes():
    ledger = Ledger(600.0)
    ledger.post([package(0.0)], [job("a")], host(0, 0), 0.0, FREE)
    ledger.post([package(100.0)], [job("a", 40.0)], host(40, 40), 10.0, FREE)
    for now in (300.0, 610.0):
        ledger.post([package(100.0)], [], host(50, 2000), now, FREE)
        assert energy(ledger, "a", "cpu") == pytest.approx(100.0)
    ledger.post([package(100.0)], [], host(50, 2000), 611.0, FREE)
    assert ledger.accounts == {}


def test_a_job_that_returns_within_the_linger_time_goes_on():
    ledger = Ledger(600.0)
    ledger.post([package(0.0)], [job("a", 0.0)], host(0, 0), 0.0, FREE)
    ledger.post([package(100.0)], [job("a", 40.0)], host(40, 40), 10.0, FREE)
    ledger.post([package(200.0)], [], host(40, 80), 20.0, FREE)
    ledger.post([package(300.0)], [job("a", 20.0)], host(60, 100), 25.0, FREE)  # its resolver counts from 0 again
    assert energy(ledger, "a", "cpu") == pytest.approx(200.0)


def test_after_a_reboot_jobs_keep_their_totals_and_old_baselines_are_dropped():
    ledger = post_two(([package(1000.0)], [job("a")], host(0, 0)), ([package(1100.0)], [job("a", 40.0)], host(40, 40)))
    revived = Ledger(FOREVER)
    revived.restore(json.loads(json.dumps(ledger.state())), 20.0, same_boot=False)
    revived.post([package(5.0)], [job("a", 0.0)], host(3, 4), 30.0, FREE)
    assert energy(revived, "a", "cpu") == pytest.approx(100.0)
    revived.post([package(15.0)], [job("a", 4.0)], host(7, 8), 31.0, FREE)
    assert energy(revived, "a", "cpu") == pytest.approx(110.0)


def test_after_a_reboot_totals_stay_for_the_linger_time_however_long_the_boot_took():
    ledger = post_two(([package(0.0)], [job("a")], host(0, 0)), ([package(100.0)], [job("a", 40.0)], host(40, 40)))
    revived = Ledger(600.0)
    revived.restore(ledger.state(), 7000.0, same_boot=False)
    for now, there in ((7500.0, True), (7601.0, False)):
        revived.post([package(5.0)], [], host(3, 4), now, FREE)
        assert ("a" in revived.accounts) == there


@pytest.mark.parametrize(
    "spoil",
    [
        {"accounts": 3},
        {"devices": {"x": [1.0, 0.0, 99, {}]}},
        {"devices": {"x": [1.0, 0.0, 0, []]}},
        {"pieces": {"x": ["a", -1.0, 0]}},
        {"idle_watts": {"x": "55"}},
        {"uses": [[1]]},
        {"uses": [[{"a": None}, 0.0, 0.0, 4]]},
        {"unattributed": []},
        {"unattributed": [["cpu", "idle", 1.0], ["cpu", "system", -1.0]]},
        {"measured": {"cpu": float("nan")}},
        {"measured": {"fpga": 1.0}},
        {"equally_shared": {"cpu": 1.0}},
        {"accounts": {"a": {"use": ["process", "", {}], "seen": [1, 1.0], "energy": {"cpu": "x"}, "emissions": {}}}},
        {},
    ],
)
def test_a_state_of_another_shape_is_refused_and_changes_nothing(spoil):
    ledger = post_two(([package(0.0)], [job("a")], host(0, 0)), ([package(9.0)], [job("a", 40.0)], host(40, 40)))
    state = {**ledger.state(), **spoil} if spoil else {}
    before = ledger.state()
    with pytest.raises((KeyError, TypeError, ValueError, IndexError, AttributeError)):
        ledger.restore(state, 0.0, same_boot=True)
    assert ledger.state() == before


@pytest.mark.parametrize(("started", "joules"), [(3590.0, 400.0), (None, 144_000.0), (-5.0, 144_000.0), (3600.0, 0.0)])
def test_idle_energy_goes_by_the_time_for_which_a_job_had_its_allocation(started, joules):
    """After an hour away: 80 W idle, half of the CPUs allocated to a job that did nothing."""
    ledger = Ledger(FOREVER, {"cpu": 80.0})
    ledger.post([package(0.0)], [], host(0, 0), 0.0, FREE)
    use = JobUse("a", "slurm", "slurm 1", cpus=CPUS / 2, started_seconds=started)
    ledger.post([package(80.0 * 3600)], [use], host(0, 3600 * CPUS), 3600.0, FREE)
    assert energy(ledger, "a", "cpu") == pytest.approx(joules)
    assert ledger.unattributed_joules["cpu", "idle"] == pytest.approx(80.0 * 3600 - joules)


def test_the_worked_example_of_the_docs(repository):
    """docs/attribution.md: the table there is what the ledger makes of the text there."""
    gib = 2.0**30
    watts = {"package-0": 80.0, "dram-0": 10.0, "GPU-0": 60.0, "GPU-1": 60.0, "GPU-2": 70.0, "GPU-3": 60.0}
    ledger = Ledger(FOREVER)
    ledger.restore({**ledger.state(), "idle_watts": watts}, 0.0, same_boot=True)

    def node(cpu, dram, gpus):
        slices = tuple(
            MigDevice(f"MIG-{n}", "H100 MIG", f"gi{n}/ci0", share=size / 7, utilization_ratio=use)
            for n, size, use in ((1, 1, 0.4), (2, 3, 0.8))
        )
        cards = [gpu(gpus[n], index=n, pids=[1, 2] if n == 1 else [], sm={1: 0.15, 2: 0.45}) for n in (0, 1, 3)]
        cards.append(gpu(gpus[2], index=2, mig=slices))
        return [package(cpu), DeviceReading("dram-0", "dram", dram, "rapl"), *cards]

    def jobs(a, b):
        return [
            JobUse("A", "slurm", "1", a, frozenset({1}), frozenset({"GPU-0", "GPU-1", "MIG-1"}), 16, 128 * gib),
            JobUse("B", "slurm", "2", b, frozenset({2}), frozenset({"GPU-1", "MIG-2"}), 4, 32 * gib),
        ]

    factors = Factors(constant(300), 1.2, 0.0)
    ledger.post(node(0, 0, [0, 0, 0, 0]), jobs(0, 0), HostCpu(0, 0, 32, 256 * gib), 0.0, factors)
    host_now = HostCpu(160, 320, 32, 256 * gib)
    ledger.post(node(2000, 180, [3500, 2600, 2100, 600]), jobs(120, 24), host_now, 10.0, factors)
    text = (repository / "docs" / "attribution.md").read_text()
    for component in ("cpu", "dram", "gpu"):
        row = next(line for line in text.splitlines() if line.startswith(f"| {component} |"))
        measured, a, b, idle, system = (float(cell) for cell in row.split("|")[2:7])
        assert ledger.measured_joules[component] == pytest.approx(measured)
        assert energy(ledger, "A", component) == pytest.approx(a)
        assert energy(ledger, "B", component) == pytest.approx(b)
        assert ledger.unattributed_joules[component, "idle"] == pytest.approx(idle)
        assert ledger.unattributed_joules[component, "system"] == pytest.approx(system, abs=1e-9)
    assert sum(ledger.accounts["A"].emissions_grams["unspecified"].values()) == pytest.approx(0.601)


TENTH_OF_A_MILLIGRAM = steady(1e-4)
JOB_NAMES = ["a", "b", "c"]
DEVICES = ["package-0", "package-1", "dram-0", "GPU-0", "GPU-1"]
TICK = st.fixed_dictionaries(
    {
        "rises": st.lists(st.floats(0, 1e5), min_size=5, max_size=5),
        "missing": st.sets(st.sampled_from(DEVICES)),
        "reset": st.sets(st.sampled_from(DEVICES), max_size=1),
        "cpu": st.lists(st.floats(0, 50), min_size=3, max_size=3),
        "alive": st.sets(st.sampled_from(JOB_NAMES)),
        "other": st.floats(0, 50),
        "idle": st.floats(0, 200),
        "step": st.floats(0, 1000),
        "sm": st.lists(st.floats(0, 1), min_size=4, max_size=4),
        "on_gpu": st.sets(st.sampled_from([0, 1, 2, 9])),
        "declares": st.sets(st.sampled_from(["0", "GPU-1", "MIG-x", "nonsense"])),
        "restart": st.booleans(),
    }
)


def component_of(device):
    return "gpu" if device.startswith("GPU") else "dram" if device.startswith("dram") else "cpu"


class Node:
    """A scripted node whose every joule is known."""

    def __init__(self):
        self.energy = dict.fromkeys(DEVICES, 0.0)
        self.pending = dict.fromkeys(DEVICES, 0.0)
        self.seen = set()
        self.truth = defaultdict(float)
        self.cpu = dict.fromkeys(JOB_NAMES, 0.0)
        self.busy = self.capacity = self.now = 0.0

    def step(self, tick):
        devices = []
        for device, rise in zip(DEVICES, tick["rises"], strict=True):
            if device in tick["reset"]:
                # A source that lost its state: its first reading is 0, and what it had not delivered is unknown.
                self.energy[device] = self.pending[device] = 0.0
            else:
                self.energy[device] += rise
                self.pending[device] += rise
            if device not in tick["missing"] - tick["reset"]:
                devices.append(self.reading(device, tick))
                if device in self.seen:
                    self.truth[component_of(device)] += self.pending[device]
                self.seen.add(device)
                self.pending[device] = 0.0
        for name, seconds in zip(JOB_NAMES, tick["cpu"], strict=True):
            # A job that is away uses nothing; one that comes back is counted from 0 again by its resolver.
            self.cpu[name] = self.cpu[name] + seconds if name in tick["alive"] else 0.0
        self.busy += sum(s for n, s in zip(JOB_NAMES, tick["cpu"], strict=True) if n in tick["alive"]) + tick["other"]
        self.capacity = max(self.capacity, self.busy) + tick["idle"]
        self.now += tick["step"]
        jobs = [
            job(n, self.cpu[n], [JOB_NAMES.index(n)], tick["declares"] if n == "a" else ())
            for n in JOB_NAMES
            if n in tick["alive"]
        ]
        return devices, jobs, host(self.busy, self.capacity), self.now, TENTH_OF_A_MILLIGRAM

    def reading(self, device, tick):
        if component_of(device) != "gpu":
            return DeviceReading(device, component_of(device), self.energy[device], "rapl")
        sm = dict(zip([0, 1, 2, 9], tick["sm"], strict=True))
        return gpu(self.energy[device], index=int(device[-1]), pids=tick["on_gpu"], sm=sm)


@settings(max_examples=150, deadline=None)
@given(st.lists(TICK, min_size=1, max_size=12))
def test_jobs_and_idle_and_system_are_what_was_measured_whatever_happens(ticks):
    node, ledger = Node(), Ledger(FOREVER)
    counters: dict[object, float] = {}
    for tick in ticks:
        if tick["restart"]:
            state = json.loads(json.dumps(ledger.state()))
            ledger = Ledger(FOREVER)
            ledger.restore(state, 0.0, same_boot=True)
        ledger.post(*node.step(tick))
        for component in ("cpu", "dram", "gpu"):
            measured = ledger.measured_joules.get(component, 0.0)
            shared = sum(a.energy_joules.get(component, 0.0) for a in ledger.accounts.values())
            rest = sum(ledger.unattributed_joules.get((component, reason), 0.0) for reason in ("idle", "system"))
            assert shared + rest == pytest.approx(measured, rel=1e-9, abs=1e-9)
            assert measured == pytest.approx(node.truth[component], rel=1e-9, abs=1e-6)
        now = {("job", n, c): v for n, a in ledger.accounts.items() for c, v in a.energy_joules.items()}
        now |= {
            ("grams", n, c): v
            for n, a in ledger.accounts.items()
            for c, v in a.emissions_grams.get("unspecified", {}).items()
        }
        now |= dict(ledger.unattributed_joules)
        assert all(now[key] >= value for key, value in counters.items())
        counters = now
