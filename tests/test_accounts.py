"""Jobs of several pieces, pieces that come, go and change their job, and what a restart or a reboot leaves of them."""

import json

import pytest
from scripted import steady

from carbon_exporter.model import DeviceReading, Gpu, HostCpu, JobUse
from carbon_exporter.node.ledger import Ledger

FOREVER = 1e12
CPUS = 4


def use(unit, job="a", cpu=0.0, **more):
    return JobUse(job, more.pop("resolver", "kubernetes"), unit, cpu, **more)


class Host:
    """10 W for each CPU second used, 40 W idle (configured), posted every 10 s; a GPU of 60 W idle on request."""

    def __init__(self, linger=FOREVER, idle_watts=None):
        self.idle_watts = {"cpu": 40.0} if idle_watts is None else idle_watts
        self.ledger = Ledger(linger, self.idle_watts)
        self.linger = linger
        self.now = self.busy = self.joules = self.gpu_joules = 0.0

    def post(self, *jobs, busy=0.0, seconds=10.0, gpu=None, gpu_watts=60.0, pids=(), memory=None, dram=None):
        self.now += seconds
        self.busy += busy
        self.joules += 40.0 * seconds + 10.0 * busy
        self.gpu_joules += gpu_watts * seconds
        devices = [DeviceReading("package-0", "cpu", self.joules, "rapl")]
        if gpu:
            state = Gpu(0, "H100", "550", pids=frozenset(pids), minor=0)
            devices.append(DeviceReading("GPU-0", "gpu", self.gpu_joules, "nvml counter", gpu=state))
        host = HostCpu(self.busy, CPUS * self.now, CPUS, memory)
        return self.ledger.post(devices, jobs, host, self.now, steady(0.0))

    def restart(self, *, same_boot=True):
        state = json.loads(json.dumps(self.ledger.state()))
        self.ledger = Ledger(self.linger, self.idle_watts)
        self.ledger.restore(state, self.now, same_boot=same_boot)

    def energy(self, job="a", component="cpu"):
        return self.ledger.accounts[job].energy_joules.get(component, 0.0)

    def rest(self, reason, component="cpu"):
        return self.ledger.unattributed_joules[component, reason]


def test_the_pieces_of_a_job_add_up():
    host = Host()
    host.post(use("pod 1"), use("pod 2"), use("pod 3", "b"))
    host.post(use("pod 1", cpu=8.0), use("pod 2", cpu=12.0), use("pod 3", "b", 5.0), busy=30.0)
    assert host.energy("a") == pytest.approx(200.0)
    assert host.energy("b") == pytest.approx(50.0)
    assert host.rest("system") == pytest.approx(50.0)


def test_a_piece_that_ends_leaves_its_joules_and_the_others_go_on():
    host = Host()
    host.post(use("pod 1"), use("pod 2"))
    host.post(use("pod 1", cpu=8.0), use("pod 2", cpu=12.0), busy=20.0)
    host.post(use("pod 2", cpu=15.0), busy=3.0)
    assert host.energy() == pytest.approx(230.0)
    host.post(use("pod 2", cpu=15.0), use("pod 3", cpu=4.0), busy=4.0)
    assert host.energy() == pytest.approx(270.0)


def test_what_a_piece_that_changes_its_job_uses_from_then_on_is_the_new_jobs():
    host = Host()
    host.post(use("pod 1", "a"))
    host.post(use("pod 1", "a", 8.0), busy=8.0)
    host.post(use("pod 1", "b", 11.0), busy=3.0)
    assert (host.energy("a"), host.energy("b")) == pytest.approx((80.0, 30.0))
    host.restart()
    host.post(use("pod 1", "a", 13.0), busy=2.0)
    assert (host.energy("a"), host.energy("b")) == pytest.approx((100.0, 30.0))


@pytest.mark.parametrize(("cpu", "joules"), [(8.0, 80.0), (10.0, 100.0), (2.0, 100.0)])
def test_a_piece_that_comes_back_within_the_linger_time_is_counted_on(cpu, joules):
    """It used nothing while it was away, or 2 s; a count below the last one began anew."""
    host = Host(linger=600.0)
    host.post(use("pod 1"))
    host.post(use("pod 1", cpu=8.0), busy=8.0)
    host.post()
    host.post(use("pod 1", cpu=cpu), busy=2.0)
    assert host.energy() == pytest.approx(joules)


def test_a_piece_that_comes_back_after_the_linger_time_starts_a_new_account():
    host = Host(linger=600.0)
    host.post(use("pod 1"))
    host.post(use("pod 1", cpu=8.0), busy=8.0)
    host.post(seconds=700.0)
    assert host.ledger.accounts == {}
    host.post(use("pod 1", cpu=3.0), busy=3.0)
    assert host.energy() == pytest.approx(30.0)


def test_a_job_lives_as_long_as_one_of_its_pieces():
    host = Host(linger=600.0)
    host.post(use("pod 1"), use("pod 2"))
    host.post(use("pod 1", cpu=5.0), use("pod 2", cpu=5.0), busy=10.0)
    for _ in range(3):
        host.post(use("pod 2", cpu=5.0), seconds=500.0)
    assert host.energy() == pytest.approx(100.0)


def test_the_resolver_of_the_higher_rank_describes_the_job():
    pod = use("pod 1", group="vision", info={"team": "red"})
    process = use("process a", resolver="process", group="other", info={"user": "eve"})
    host = Host()
    for jobs in ([pod, process], [process], [pod, process]):
        host.post(*jobs)
        assert host.ledger.accounts["a"].use is jobs[0]
    host.restart()
    kept = host.ledger.accounts["a"].use
    assert (kept.resolver, kept.group, kept.info) == ("kubernetes", "vision", {"team": "red"})


def test_devices_of_work_that_is_no_job_are_the_systems():
    host = Host(idle_watts={"gpu": 20.0})
    nameless = use("pod 1", "", devices=frozenset({"GPU-0"}), cpus=4.0)
    host.post(nameless, gpu=True)
    host.post(nameless, gpu=True, busy=1.0)
    assert host.ledger.accounts == {}
    assert host.rest("system", "gpu") == pytest.approx(600.0)
    assert host.rest("idle", "gpu") == 0.0
    assert host.rest("system") + host.rest("idle") == pytest.approx(410.0)


def test_idle_energy_goes_by_allocated_cpus_and_the_rest_is_idle():
    host = Host()
    jobs = use("pod 1", "a", cpus=1.0), use("pod 2", "b", cpus=2.0), use("pod 3", "c")
    host.post(*jobs)
    host.post(*jobs)
    assert (host.energy("a"), host.energy("b"), host.energy("c")) == pytest.approx((100.0, 200.0, 0.0))
    assert host.rest("idle") == pytest.approx(100.0)


def test_more_cpus_allocated_than_there_are_share_what_there_is():
    host = Host()
    jobs = use("pod 1", "a", cpus=6.0), use("pod 2", "b", cpus=1.0), use("pod 3", "b", cpus=1.0)
    host.post(*jobs)
    host.post(*jobs)
    assert (host.energy("a"), host.energy("b")) == pytest.approx((300.0, 100.0))
    assert host.rest("idle") == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("memory", "of_host", "expected"),
    [(16.0, 64.0, 25.0), (16.0, None, 0.0), (None, 64.0, 0.0), (0.0, 64.0, 0.0), (256.0, 64.0, 100.0)],
)
def test_idle_energy_of_memory_goes_by_allocated_memory(memory, of_host, expected):
    ledger = Ledger(FOREVER, {"dram": 10.0})
    job = use("pod 1", memory_bytes=memory, cpus=4.0)
    for now in (0.0, 10.0):
        dram = DeviceReading("dram-0", "dram", 10.0 * now, "rapl")
        ledger.post([dram], [job], HostCpu(0.0, CPUS * now, CPUS, of_host), now, steady(0.0))
    assert ledger.accounts["a"].energy_joules.get("dram", 0.0) == pytest.approx(expected)
    assert ledger.unattributed_joules["dram", "idle"] == pytest.approx(100.0 - expected)


@pytest.mark.parametrize("same_boot", [True, False])
def test_learned_idle_power_is_known_after_a_restart_and_after_a_reboot(same_boot):
    host = Host(idle_watts={})
    for _ in range(4):
        host.post(gpu=True)
    host.restart(same_boot=same_boot)
    assert host.ledger.idle_power.watts("package-0", "cpu") == pytest.approx(40.0)
    holders = [use(f"pod {n}", f"{n}", devices=frozenset({"GPU-0"}), pids=frozenset({n}), cpus=n) for n in (1, 2)]
    host.post(*holders, gpu=True, gpu_watts=60.0, pids=[1, 2])
    before = host.energy("1", "gpu"), host.energy("1"), host.ledger.equally_shared_joules["gpu"]
    host.post(*holders, gpu=True, gpu_watts=160.0, pids=[1, 2], busy=40.0)
    # Of 1600 J 600 are idle, which holders share by rule; 1000 by want of knowledge.
    assert host.energy("1", "gpu") - before[0] == pytest.approx(800.0)
    assert host.ledger.equally_shared_joules["gpu"] - before[2] == pytest.approx(1000.0)
    assert host.energy("1") - before[1] == pytest.approx(100.0)


def test_a_device_that_nobody_used_is_watched_and_one_in_use_is_not():
    host = Host(idle_watts={})
    holder = use("pod 1", devices=frozenset({"GPU-0"}))
    for _ in range(5):
        host.post(holder, gpu=True, gpu_watts=300.0, busy=10.0)
    assert host.ledger.idle_power.watts("GPU-0", "gpu") is None
    assert host.ledger.idle_power.watts("package-0", "cpu") is None
    for _ in range(5):
        host.post(gpu=True, busy=0.5)
    assert host.ledger.idle_power.watts("GPU-0", "gpu") == pytest.approx(60.0)
    assert host.ledger.idle_power.watts("package-0", "cpu") == pytest.approx(40.5)


def test_a_job_holds_a_gpu_until_it_ends_however_many_pieces_name_it():
    host = Host()
    host.post(use("pod 1", devices=frozenset({"GPU-0"})), use("pod 2", devices=frozenset({"nvidia0"})), gpu=True)
    assert host.ledger.accounts["a"].gpus == 1
    host.post(gpu=True)
    assert host.ledger.accounts["a"].gpus == 0
    assert host.energy("a", "gpu") == pytest.approx(600.0)


def test_a_gpu_that_was_seen_before_and_cannot_be_read_now_is_no_unknown_name():
    host = Host()
    assert host.post(gpu=True) == ()
    assert host.post(use("pod 1", devices=frozenset({"GPU-0", "nvidia0"}))) == ()
    (failure,) = host.post(use("pod 1", devices=frozenset({"GPU-7"})), gpu=True)
    assert failure.startswith("GPU-7: given to a, ")


@pytest.mark.parametrize(
    ("starts", "of_a", "equally"),
    [((12.5, 17.5), 150.0, 0.0), ((17.5, 12.5), 150.0, 0.0), ((12.5, None), 300.0, 600.0)],
)
def test_a_gpu_is_handed_over_when_the_first_piece_began_if_the_age_of_all_is_known(starts, of_a, equally):
    gpu = frozenset({"GPU-0"})
    host = Host()
    host.post(use("pod 1", "a", devices=gpu), gpu=True)
    host.post(*(use(f"pod {n}", "b", devices=gpu, started_seconds=s) for n, s in enumerate(starts, 2)), gpu=True)
    assert host.energy("a", "gpu") == pytest.approx(of_a)
    assert host.energy("b", "gpu") == pytest.approx(600.0 - of_a)
    assert host.ledger.equally_shared_joules["gpu"] == pytest.approx(equally)


def test_who_held_a_gpu_is_known_over_a_restart():
    host = Host()
    host.post(use("pod 1", devices=frozenset({"GPU-0"})), gpu=True)
    host.restart()
    host.post(gpu=True)
    assert host.energy("a", "gpu") == pytest.approx(600.0)
