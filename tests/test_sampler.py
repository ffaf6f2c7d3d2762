"""The loop over a scripted host: nothing is lost in a crash, a gap or a failure."""

import json
import shutil
import threading

import pytest
from scripted import Scheduler, Stateless

from carbon_exporter.cgroups import pod_unit, slurm_unit
from carbon_exporter.model import ConfigurationError, JobUse, Roots, SourceReading
from carbon_exporter.node.state import Host, StateFile
from carbon_exporter.plugins import open_sources, stand_ins


@pytest.fixture
def node(scripted_node):
    node = scripted_node
    node.package = node.tree.add("intel-rapl:0", "package-0", watts=0.0)
    node.proc.put(10, start=1, CARBON_TRAINING_JOB="bert")
    node.cpu = 0.0
    return node


def work(node, joules, busy=8.0, of_job=4.0, idle=0.0):
    node.package.spend(round(joules * 1e6))
    node.proc.spend(busy, idle)
    node.cpu += of_job
    node.proc.put(10, start=1, own=node.cpu, CARBON_TRAINING_JOB="bert")


def test_joules_and_grams_of_a_job(node):
    node.tick()
    work(node, 100)
    tick = node.tick()
    assert node.joules("bert") == pytest.approx(50.0)
    # 360 g/kWh is 0.1 mg/J; times PUE 1.5.
    assert tick.ledger.accounts["bert"].emissions_grams["unspecified"]["cpu"] == pytest.approx(50 * 1.5e-4)
    assert tick.records["rapl"].success


def test_a_crash_loses_nothing_of_the_job_whatever_the_tick_it_comes_after(node):
    node.tick()
    work(node, 100)
    node.tick()
    work(node, 60)  # while the agent is down
    node.start()
    node.tick(30.0)
    assert node.joules("bert") == pytest.approx(80.0)
    assert node.ticks[-1].gap_seconds == pytest.approx(30.0)
    assert sum(reading.energy_joules for reading in node.ticks[-1].devices) == pytest.approx(160.0)


def test_what_was_published_was_saved_before(node):
    """A kill between saving and publishing must not bring a counter back below what a scraper saw."""
    saved_at_publish = []
    publish = node.ticks.append
    node.sampler._publish = lambda tick: (
        saved_at_publish.append(
            json.loads(node.state_path.read_text())["body"]["ledger"]["accounts"]["bert"]["energy"]
        ),
        publish(tick),
    )
    node.tick()
    work(node, 100)
    node.tick()
    assert saved_at_publish[-1] == {"cpu": 50.0}


def test_an_ended_job_keeps_its_joules_over_a_restart_for_the_linger_time(node):
    node.tick()
    work(node, 100)
    node.tick()
    node.proc.drop(10)
    node.start()
    node.tick(500)
    assert node.joules("bert") == pytest.approx(50.0)
    assert "bert" not in node.tick(200).ledger.accounts


def test_a_source_that_fails_is_loud_once_counted_and_absent_and_loses_nothing(node, caplog):
    node.tick()
    work(node, 100)
    node.package.show_text("garbage\n")
    for _ in range(3):
        tick = node.tick()
        assert tick.devices == ()
        assert not tick.records["rapl"].success
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert tick.records["rapl"].failures == 3
    assert node.joules("bert") == 0.0
    work(node, 100)
    tick = node.tick()
    assert tick.records["rapl"].success
    assert node.joules("bert") == pytest.approx(100.0)


def test_a_second_agent_on_the_same_state_file_is_refused(node):
    second = StateFile(node.state_path, Host("host-a", "boot-1"))
    with pytest.raises(ConfigurationError, match=r"node\.state_file: .*in use by another carbon-exporter"):
        second.lock()
    node.sampler.close()
    second.lock()
    second.unlock()


def test_a_failure_whose_text_holds_a_moving_number_is_loud_once(node, caplog):
    for microjoules in range(300_000_000_000, 300_000_000_005):
        node.package.show_text(f"{microjoules}\n")
        node.tick()
    assert len(caplog.messages) == 1


def test_the_estimate_ends_when_rapl_appears(scripted_node):
    """Joules of one CPU must not be counted by both."""
    node = scripted_node
    roots = Roots(node.tree.sysfs, node.proc.root)
    sources = open_sources({"nvml": False}, roots)
    node.start(**sources)
    node.sampler._stand_ins = stand_ins(sources)
    node.proc.spend(4, 4)
    assert [device.method for device in node.tick().devices] == ["estimate"]
    zone = node.tree.add("intel-rapl:0", "package-0")
    node.tick()
    zone.spend(5_000_000)
    tick = node.tick()
    assert [device.method for device in tick.devices] == ["rapl"]
    assert "cpu_estimate" not in tick.records
    zone.show_text("")  # RAPL that cannot be read is no reason to estimate again
    assert node.tick().devices == ()


def test_a_process_in_a_pod_is_counted_once_and_jobs_of_one_name_are_summed(node):
    """The labelled process 10 runs in a pod of the same job name, 30 in none; another resolver adds a third piece."""
    first, second = Scheduler(), Scheduler()
    node.resolvers = {"kubernetes": first, "slurm": second}
    node.start()
    (node.proc.root / "10" / "cgroup").write_text("0::/kubepods/pod00000000-0000-0000-0000-000000000001/c\n")
    pod = pod_unit("00000000-0000-0000-0000-000000000001")
    first.jobs = [JobUse("bert", "kubernetes", pod)]
    second.jobs = [JobUse("bert", "slurm", slurm_unit("7"))]
    node.proc.put(30, start=1, CARBON_TRAINING_JOB="bert")
    node.tick()
    first.jobs = [JobUse("bert", "kubernetes", pod, 2.0)]
    second.jobs = [JobUse("bert", "slurm", slurm_unit("7"), 1.0)]
    node.proc.put(30, start=1, own=1.0, CARBON_TRAINING_JOB="bert")
    work(node, 100, busy=8.0, of_job=2.0)
    tick = node.tick()
    assert node.joules("bert") == pytest.approx(50.0)  # 2 s of the pod, 1 s of Slurm, 1 s of process 30: half of 8 s
    assert tick.ledger.accounts["bert"].use.resolver == "kubernetes"
    assert second.asked[2] == {pod}
    first.jobs = []  # the pod ends; what is left of the job goes on
    node.proc.put(30, start=1, own=5.0, CARBON_TRAINING_JOB="bert")
    work(node, 100, busy=8.0, of_job=0.0)
    assert node.tick().ledger.accounts["bert"].cpu_seconds == pytest.approx(8.0)


def test_what_a_resolver_counts_stays_its_own_while_it_fails(node):
    first, second = Scheduler(), Scheduler()
    node.resolvers = {"kubernetes": first, "slurm": second}
    node.start()
    first.jobs = [JobUse("bert", "kubernetes", "pod 1")]
    node.tick()
    first.jobs = None  # the next reading raises
    assert not node.tick().records["kubernetes"].success
    assert second.asked[2] == {"pod 1"}


def test_a_resolver_fails_alone_and_a_scheduler_that_is_not_there_is_quiet(node, caplog):
    failing, absent = Scheduler(), Scheduler()
    failing.failures, absent.present = ("https://api: 403: grant pods list and watch",), False
    node.resolvers = {"kubernetes": failing, "slurm": absent}
    node.start()
    node.tick()
    tick = node.tick()
    assert [record.getMessage() for record in caplog.records] == [
        "kubernetes: https://api: 403: grant pods list and watch"
    ]
    assert tick.records["kubernetes"].failures == 2
    assert "slurm" not in tick.records
    assert set(tick.ledger.accounts) == {"bert"}


class Exploding(Stateless):
    """A source with a bug."""

    def read(self, now_seconds):
        raise RuntimeError("boom")


class Nothing(Stateless):
    """A source without hardware."""

    def read(self, now_seconds):
        return SourceReading(present=False)


def test_a_bug_in_one_source_stops_no_other(node, caplog):
    sources = node.sampler._sources
    node.start(broken=Exploding(), absent=Nothing(), **sources)
    tick = node.tick()
    assert [device.device for device in tick.devices] == ["package-0"]
    assert not tick.records["broken"].success
    assert "absent" not in tick.records
    assert "RuntimeError: boom" in caplog.text


def test_a_state_folder_that_cannot_be_written_is_a_failing_collector_and_no_more(node):
    shutil.rmtree(node.state_path.parent)
    node.state_path.parent.write_text("a file where the folder should be")
    node.tick()
    work(node, 100)
    tick = node.tick()
    assert not tick.records["state"].success
    assert node.joules("bert") == pytest.approx(50.0)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda body: body.pop("ledger"),
        lambda body: body.update(sources=3),
        lambda body: body.update(seconds="soon"),
        lambda body: body["ledger"].update(devices={"x": [1, 2]}),
    ],
)
def test_a_state_that_lacks_something_is_set_aside_and_counting_starts_at_zero(node, spoil):
    node.tick()
    work(node, 100)
    node.tick()
    document = json.loads(node.state_path.read_text())
    spoil(document["body"])
    node.state_path.write_text(json.dumps(document))
    node.start()
    assert node.state_path.with_name("node.json.unusable").exists()
    node.tick()
    assert node.joules("bert") == 0.0


def test_a_source_whose_part_of_the_state_is_lost_goes_on_counting(node):
    node.tick()
    work(node, 100)
    node.tick()
    document = json.loads(node.state_path.read_text())
    document["body"]["sources"] = {}
    node.state_path.write_text(json.dumps(document))
    node.start()
    node.tick()
    work(node, 60)
    node.tick()
    assert node.joules("bert") == pytest.approx(80.0)


def test_the_loop_ticks_until_it_is_stopped_and_once_more_then(node):
    stop = threading.Event()
    node.sampler._interval_seconds = 0.05
    node.sampler._publish = lambda tick: (node.ticks.append(tick), len(node.ticks) == 3 and stop.set())
    node.sampler.run(stop)
    assert len(node.ticks) == 4


def test_late_ticks_are_a_counted_gap(node):
    node.tick(2.0)
    node.tick(3.9)
    assert node.ticks[-1].gap_seconds == 0.0
    node.tick(9.0)
    assert node.ticks[-1].gap_seconds == pytest.approx(9.0)
