"""Finding Slurm's jobs: on scripted trees, on real control groups, and with a real Slurm that runs real jobs."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unicodedata
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from powercap import Powercap
from scripted import ScriptedProc
from slurm_cluster import CGROUPS, PROGRAMS, cluster

from carbon_exporter.jobs.process import Settings as ProcessSettings
from carbon_exporter.jobs.process import open_resolver as open_process_resolver
from carbon_exporter.jobs.slurm import RANK, Settings, open_resolver
from carbon_exporter.jobs.slurm.environment import Told, told_by
from carbon_exporter.jobs.slurm.resolver import LONGEST_PAUSE_SECONDS, LOOKS_PER_TICK
from carbon_exporter.model import Roots
from carbon_exporter.node.collectors import Collectors
from carbon_exporter.node.ledger import Ledger
from carbon_exporter.node.sampler import Sampler
from carbon_exporter.plugins import open_resolvers
from carbon_exporter.sources import rapl

MIB = 2**20
LAYOUTS = {
    "v1": "slurm_node7/uid_1000",
    "v1 plain": "slurm/uid_1000",
    "v2": "system.slice/slurmstepd.scope",
    "v2 node": "system.slice/node7_slurmstepd.scope",
}


class Tree:
    """A scripted host with Slurm's control groups in v1 or v2, and the processes in them; tops count as kernels do."""

    def __init__(self, root: Path, layout: str = "v1") -> None:
        self.sysfs = root / "sys"
        self.proc = ScriptedProc(root / "proc")
        self.unified = layout.startswith("v2")
        self.holder = LAYOUTS[layout]
        self.top = self.holder.removesuffix("/uid_1000")
        cgroups = self.sysfs / "fs/cgroup"
        cgroups.mkdir(parents=True)
        if self.unified:
            (cgroups / "cgroup.controllers").write_text("cpuset cpu memory\n")
        self.cpu = cgroups if self.unified else cgroups / "cpuacct"
        self.cpuset = cgroups if self.unified else cgroups / "cpuset"
        self.memory = cgroups if self.unified else cgroups / "memory"
        self.total = 100.0
        self.used: dict[str, float] = {}
        self.resolver = self.open()

    def open(self):
        return open_resolver(Settings(), Roots(self.sysfs, self.proc.root))

    def spend(self, job: str, seconds: float = 0.0, *, unseen: bool = False) -> None:
        """Let a job, that may be new, use CPU time."""
        self.used[job] = self.used.get(job, 0.0) + seconds
        self.total += seconds
        self._count(self.top, self.total)
        if not unseen:
            self._count(f"{self.holder}/job_{job}", self.used[job])

    def _count(self, folder: str, seconds: float) -> None:
        path = self.cpu / folder
        path.mkdir(parents=True, exist_ok=True)
        if self.unified:
            (path / "cpu.stat").write_text(f"usage_usec {round(seconds * 1e6)}\nuser_usec 0\n")
        else:
            (path / "cpuacct.usage").write_text(f"{round(seconds * 1e9)}\n")

    def allocate(self, job: str, cpus: str | None = None, memory: str | None = None) -> None:
        for root, name, text in (
            (self.cpuset, "cpuset.cpus", cpus),
            (self.memory, "memory.max" if self.unified else "memory.limit_in_bytes", memory),
        ):
            if text is not None:
                (root / self.holder / f"job_{job}").mkdir(parents=True, exist_ok=True)
                (root / self.holder / f"job_{job}" / name).write_text(f"{text}\n")

    def run(self, job: str, pid: int, step: str = "step_batch", *, start: float = 50.0, **environment: str) -> None:
        """Put a process into a step of a job."""
        task = self.cpu / self.holder / f"job_{job}" / step / ("user/task_0" if self.unified else "task_0")
        task.mkdir(parents=True, exist_ok=True)
        with (task / "cgroup.procs").open("a") as procs:
            procs.write(f"{pid}\n")
        if pid:
            self.proc.put(pid, start=start, **environment)
            line = f"/{self.holder}/job_{job}/{step}"
            text = f"0::{line}\n" if self.unified else f"4:memory:/\n2:cpuacct:{line}/task_0\n0::/\n"
            (self.proc.root / str(pid) / "cgroup").write_text(text)

    def end(self, job: str) -> None:
        for root in {self.cpu, self.cpuset, self.memory}:
            shutil.rmtree(root / self.holder / f"job_{job}", ignore_errors=True)
        self.used.pop(job, None)

    def read(self, now: float, gpu_pids=frozenset(), claimed=frozenset()):
        return self.resolver.read(now, frozenset(gpu_pids), frozenset(claimed))

    def jobs(self, now: float, **arguments):
        reading = self.read(now, **arguments)
        assert reading.failures == ()
        assert len({use.unit for use in reading.jobs}) == len(reading.jobs)
        return {use.unit.removeprefix("slurm "): use for use in reading.jobs}


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


def of_job(number: str, **more: str) -> dict[str, str]:
    return {"SLURM_JOB_ID": number, "SLURM_JOB_USER": "ada", **more}


# --- finding jobs and counting their CPU time


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_job_is_found_in_every_layout(tmp_path, layout):
    tree = Tree(tmp_path, layout)
    tree.read(8.0)
    tree.spend("4711", 3.0)
    tree.allocate("4711", cpus="0-2,8", memory=str(300 * MIB))
    tree.run("4711", 10, start=9.0, **of_job("4711", SLURM_JOB_NAME="bert", SLURM_JOB_PARTITION="gpu"))
    use = tree.jobs(10.0)["4711"]
    assert (use.training_job, use.resolver, use.unit) == ("slurm-4711", "slurm", "slurm 4711")
    assert (use.cpu_seconds, use.cpus, use.memory_bytes) == (3.0, 4, 300 * MIB)
    assert use.started_seconds == 9.0
    assert use.info == {"user": "ada", "job_name": "bert", "partition": "gpu"}


def test_a_host_without_slurm_is_no_failure(tmp_path):
    tree = Tree(tmp_path)
    (tree.cpu / "slurmish").mkdir(parents=True)
    reading = tree.read(1.0)
    assert (reading.jobs, reading.failures, reading.present) == ((), (), False)


def test_a_slurmd_without_jobs_is_there(tree):
    tree.spend("1", 1.0)
    tree.end("1")
    reading = tree.read(1.0)
    assert (reading.jobs, reading.failures, reading.present) == ((), (), True)


def test_on_a_hybrid_host_v1_counts(tree):
    tree.spend("1")
    tree.run("1", 10, **of_job("1"))
    other = tree.sysfs / "fs/cgroup/unified"
    (other / "system.slice/slurmstepd.scope/job_2").mkdir(parents=True)
    (other / "cgroup.controllers").write_text("hugetlb\n")
    assert set(tree.jobs(1.0)) == {"1"}


def test_what_is_no_job_is_left_out(tree):
    tree.spend("1")
    tree.run("1", 10, **of_job("1"))
    for name in ("job_", "job_x1", "job_1x", "system"):
        (tree.cpu / tree.holder / name).mkdir()
    assert set(tree.jobs(1.0)) == {"1"}


def test_a_job_older_than_the_agent_counts_from_now_and_a_later_one_from_its_start(tree):
    tree.spend("1", 50.0)
    tree.run("1", 10, **of_job("1"))
    assert tree.jobs(10.0)["1"].cpu_seconds == 0.0
    tree.spend("1", 2.0)
    tree.spend("2", 1.5)
    tree.run("2", 11, **of_job("2"))
    jobs = tree.jobs(12.0)
    assert (jobs["1"].cpu_seconds, jobs["2"].cpu_seconds) == (2.0, 1.5)


def test_the_very_same_object_tells_that_nothing_changed(tree):
    tree.spend("1")
    tree.run("1", 10, **of_job("1"))
    first = tree.jobs(10.0)["1"]
    assert tree.jobs(12.0)["1"] is first
    tree.spend("1", 1.0)
    assert tree.jobs(14.0)["1"] is not first


def test_a_job_that_ended_between_readings_gets_all_that_it_used(tree):
    for job in ("1", "2"):
        tree.spend(job)
        tree.run(job, int(job), **of_job(job, SLURM_JOB_GPUS="0"))
    tree.jobs(10.0, gpu_pids={1, 2})
    tree.spend("1", 3.0)
    tree.spend("2", 1.0)
    assert tree.jobs(12.0, gpu_pids={1, 2})["2"].pids == {2}
    tree.spend("1", 3.0)
    tree.spend("2", 1.25)
    tree.end("2")
    jobs = tree.jobs(14.0)
    assert (jobs["1"].cpu_seconds, jobs["2"].cpu_seconds) == (6.0, pytest.approx(2.25))
    assert (jobs["2"].pids, jobs["2"].devices, jobs["2"].info["user"]) == (frozenset(), frozenset(), "ada")
    assert jobs["1"].devices == {"gpu0"}
    assert set(tree.jobs(16.0)) == {"1"}


def test_a_job_that_ended_holds_nothing_any_more(tree):
    tree.spend("1")
    tree.allocate("1", cpus="0-3", memory=str(300 * MIB))
    tree.run("1", 10, **of_job("1"))
    assert (tree.jobs(10.0)["1"].cpus, tree.jobs(12.0)["1"].memory_bytes) == (4, 300 * MIB)
    tree.spend("1", 1.0)
    tree.end("1")
    use = tree.jobs(14.0)["1"]
    assert (use.cpu_seconds, use.cpus, use.memory_bytes) == (pytest.approx(1.0), None, None)


def test_several_jobs_that_ended_share_by_their_last_rates(tree):
    for job in ("1", "2"):
        tree.spend(job)
    tree.read(10.0)
    tree.spend("1", 3.0)
    tree.spend("2", 1.0)
    tree.read(12.0)
    tree.spend("1", 1.0)
    tree.spend("2", 1.0)
    tree.end("1")
    tree.end("2")
    jobs = tree.jobs(14.0)
    assert (jobs["1"].cpu_seconds, jobs["2"].cpu_seconds) == (pytest.approx(4.5), pytest.approx(1.5))


def test_jobs_that_ended_without_a_known_rate_share_equally(tree):
    for job in ("1", "2"):
        tree.spend(job)
    tree.read(10.0)
    tree.spend("1", 3.0)
    tree.end("1")
    tree.end("2")
    jobs = tree.jobs(12.0)
    assert (jobs["1"].cpu_seconds, jobs["2"].cpu_seconds) == (pytest.approx(1.5), pytest.approx(1.5))


def test_a_job_that_ended_gets_no_more_than_its_cpus_can_have_used(tree):
    tree.spend("1")
    tree.allocate("1", cpus="3")
    tree.read(10.0)
    tree.end("1")
    tree.spend("2", 9.0, unseen=True)
    assert tree.jobs(12.0)["1"].cpu_seconds == pytest.approx(2.0)


def test_jobs_of_several_slurmds_end_each_in_its_own(tree):
    tree.spend("1")
    other = tree.cpu / "slurm_other"
    (other / "uid_0/job_5").mkdir(parents=True)
    for folder in (other, other / "uid_0/job_5"):
        (folder / "cpuacct.usage").write_text("7000000000")
    tree.read(10.0)
    tree.spend("1", 1.0)
    tree.end("1")
    jobs = tree.jobs(12.0)
    assert (jobs["1"].cpu_seconds, jobs["5"].cpu_seconds) == (pytest.approx(1.0), 0.0)


def test_a_job_requeued_between_two_readings_goes_on(tree):
    tree.spend("1")
    tree.run("1", 10, **of_job("1"))
    tree.read(10.0)
    tree.spend("1", 5.0)
    tree.read(12.0)
    tree.end("1")
    tree.spend("1", 0.5)
    tree.run("1", 11, **of_job("1", SLURM_JOB_NAME="again"))
    use = tree.jobs(14.0)["1"]
    assert (use.cpu_seconds, use.info["job_name"]) == (5.5, "again")


def test_a_job_that_comes_back_later_counts_from_its_new_start(tree):
    tree.spend("1", 4.0)
    tree.read(10.0)
    tree.end("1")
    tree.read(12.0)
    tree.read(14.0)
    tree.spend("1", 0.5)
    tree.run("1", 11, **of_job("1"))
    assert tree.jobs(16.0)["1"].cpu_seconds == 0.5


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.floats(0, 8), min_size=4, max_size=4),
            st.sets(st.sampled_from("1234"), max_size=1),
            st.sets(st.sampled_from("1234")),
        ),
        max_size=8,
    )
)
def test_no_second_is_lost_or_counted_twice_whatever_jobs_come_and_go(life):
    """Jobs 1 to 4 spend, at most one ends in each interval, and others begin: each has then exactly what it used."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Tree(Path(folder))
        tree.spend("0")
        tree.read(0.0)
        alive, truth, found = {"0"}, {}, {}
        for tick, (seconds, ended, begun) in enumerate(life, start=1):
            for job in (alive | begun) - ended - {"0"}:
                truth[job] = truth.get(job, 0.0) if job in alive else 0.0
            alive |= begun - ended
            for job, spent in zip("1234", seconds, strict=True):
                if job in alive:
                    tree.spend(job, spent)
                    truth[job] += spent
            for job in ended & alive:
                tree.end(job)
            uses = tree.jobs(2.0 * tick)
            assert set(uses) - {"0"} <= alive - {"0"}
            found = {job: use.cpu_seconds for job, use in uses.items()}
            for job in alive & set(found) - {"0"}:
                assert found[job] == pytest.approx(truth[job], abs=1e-6)
            alive -= ended


# --- restarts


def restarted(tree):
    state = json.loads(json.dumps(tree.resolver.state()))
    tree.resolver = tree.open()
    tree.resolver.restore(state)


def test_over_a_restart_nothing_is_lost_and_no_environment_is_read_anew(tree, monkeypatch):
    tree.spend("1", 9.0)
    tree.spend("2", 9.0)
    environment = of_job("1", CARBON_TRAINING_JOB="bert", CARBON_TRAINING_GROUP="g", SLURM_JOB_GPUS="1")
    tree.run("1", 10, start=7.0, **environment)
    for now in (10.0, 12.0):
        tree.spend("1", 1.0)
        before = tree.jobs(now)["1"]
    restarted(tree)
    tree.spend("1", 5.0)
    tree.spend("2", 2.0)
    tree.end("2")
    tree.spend("3", 0.5)
    tree.run("3", 11, **of_job("3"))
    looks = []
    monkeypatch.setattr(
        "carbon_exporter.jobs.slurm.job._environment", lambda proc, pid: looks.append(pid) or of_job(str(pid - 100))
    )
    jobs = {use.unit.removeprefix("slurm "): use for use in tree.read(13.0).jobs}
    assert looks == [11]
    assert jobs["1"].cpu_seconds == before.cpu_seconds + 5.0
    assert jobs["1"].training_job == "bert"
    assert (jobs["1"].group, jobs["1"].devices, jobs["1"].info, jobs["1"].started_seconds) == (
        "g",
        {"gpu1"},
        before.info,
        7.0,
    )
    assert jobs["2"].cpu_seconds == pytest.approx(2.0)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"jobs": 3},
        {"jobs": [], "tops": {}, "read_seconds": None},
        {"jobs": [[1]], "tops": {}, "read_seconds": 1.0},
        {"jobs": [["a", 1, 1, 1, 1, 1, 1, [1] * 7, None, ""]], "tops": {}, "read_seconds": 1.0},
    ],
)
def test_an_unusable_state_is_said_and_left(tree, state, caplog):
    tree.resolver.restore(state)
    assert "state of jobs.slurm is not usable" in caplog.messages[0]
    tree.spend("1", 5.0)
    tree.run("1", 10, **of_job("1"))
    assert tree.jobs(5.0)["1"].cpu_seconds == 0.0


def test_a_state_saved_before_the_first_reading_is_none(tree):
    assert tree.open().state()["read_seconds"] is None


# --- names, devices and allocations from the environment


def test_a_chosen_name_and_group_win(tree):
    tree.spend("1")
    tree.run("1", 10, **of_job("1", CARBON_TRAINING_JOB=" a/b\n", CARBON_TRAINING_GROUP="g"))
    use = tree.jobs(10.0)["1"]
    assert (use.training_job, use.group, use.unit) == ("a/b", "g", "slurm 1")


def test_a_second_training_in_a_job_is_said_once(tree, caplog):
    for job in ("1", "2"):
        tree.spend(job)
        tree.run(job, int(job), **of_job(job, CARBON_TRAINING_JOB="bert"))
        tree.run(job, int(job) + 10, **of_job(job, CARBON_TRAINING_JOB=" bert"))
    tree.jobs(10.0)
    assert caplog.messages == []
    tree.run("1", 21, step="step_0", **of_job("1", CARBON_TRAINING_JOB="gpt"))
    assert tree.jobs(12.0)["1"].training_job == "bert"
    tree.run("1", 22, step="step_1", **of_job("1", CARBON_TRAINING_JOB="t5"))
    for now in (14.0, 400.0, 800.0):
        assert tree.jobs(now)["1"].training_job == "bert"
    (message,) = caplog.messages
    assert message.startswith("Slurm job 1 runs a training 'gpt' beside or after 'bert': all is counted under 'bert';")


def test_every_part_of_a_heterogeneous_job_has_its_first_ones_name(tree):
    for folder, pid in (("1", 10), ("2", 11)):
        tree.spend(folder)
        tree.run(folder, pid, **of_job("1"))
    jobs = tree.jobs(10.0)
    assert {use.training_job for use in jobs.values()} == {"slurm-1"}


def test_a_job_begun_just_now_is_told_when_its_processes_are_there(tree):
    tree.read(8.0)
    tree.spend("1", 0.25)
    assert tree.jobs(10.0) == {}
    tree.spend("1", 0.25)
    tree.run("1", 10, **of_job("1", CARBON_TRAINING_JOB="bert"))
    use = tree.jobs(12.0)["1"]
    assert (use.training_job, use.cpu_seconds, use.started_seconds) == ("bert", 0.5, 50.0)


def test_a_job_whose_processes_say_nothing_goes_by_its_number_and_owner(tree):
    tree.spend("1")
    tree.run("1", 10, HOME="/")
    tree.read(10.0)
    use = tree.jobs(12.0)["1"]
    assert (use.training_job, use.info) == ("slurm-1", {"user": "root" if os.geteuid() == 0 else use.info["user"]})


def test_a_name_set_inside_the_script_is_found_later_and_stays(tree):
    tree.spend("1")
    tree.run("1", 10, **of_job("1"))
    assert tree.jobs(10.0)["1"].training_job == "slurm-1"
    tree.run("1", 11, **of_job("1", CARBON_TRAINING_JOB="bert"))
    names = [tree.jobs(float(now))["1"].training_job for now in (12, 14)]
    assert names[-1] == "bert"
    tree.proc.drop(11)
    assert tree.jobs(1000.0)["1"].training_job == "bert"


def test_a_new_step_and_a_new_process_on_a_gpu_are_looked_at_at_once(tree):
    tree.spend("1")
    tree.run("1", 10, **of_job("1", SLURM_STEP_GPUS="0"))
    for now in (10, 12, 16, 24, 40, 72):
        assert tree.jobs(float(now))["1"].devices == {"gpu0"}
    tree.run("1", 11, step="step_1", **of_job("1", SLURM_STEP_GPUS="2,3"))
    assert tree.jobs(74.0)["1"].devices == {"gpu0", "gpu2", "gpu3"}
    tree.run("1", 12, **of_job("1", CARBON_TRAINING_JOB="bert"))
    assert tree.jobs(75.0)["1"].training_job == "slurm-1"
    use = tree.jobs(76.0, gpu_pids={12, 99})["1"]
    assert (use.training_job, use.pids) == ("bert", {12})


def test_what_a_job_uses_before_it_is_known_by_name_is_not_counted_under_another(tree):
    tree.read(8.0)
    tree.spend("1")
    (tree.cpu / tree.holder / "job_1" / "step_batch").mkdir()
    for now in (10.0, 12.0, 14.0, 15.6):  # slurmd is still preparing it
        tree.read(now)
    tree.run("1", 11, start=16.0, **of_job("1", CARBON_TRAINING_JOB="bert"))
    tree.spend("1", 1.0)
    use = tree.jobs(17.2)["1"]
    assert (use.training_job, use.cpu_seconds, use.started_seconds) == ("bert", 1.0, 16.0)


def test_looks_grow_rare_and_never_come_all_at_once(tree, monkeypatch):
    for job in range(20):
        tree.spend(str(job))
        tree.run(str(job), 100 + job, **of_job(str(job)))
    looks = []
    monkeypatch.setattr(
        "carbon_exporter.jobs.slurm.job._environment", lambda proc, pid: looks.append(pid) or of_job(str(pid - 100))
    )
    counts = []
    for tick in range(400):
        looks.clear()
        tree.read(2.0 * tick)
        counts.append(len(looks))
    assert counts[0] == 20
    assert max(counts[1:]) == LOOKS_PER_TICK
    assert 0 < sum(counts[200:]) <= 20 * (400 / LONGEST_PAUSE_SECONDS + 1)


def test_the_outermost_step_and_slurmstepd_tell_nothing(tmp_path):
    tree = Tree(tmp_path, "v2")
    tree.spend("1")
    tree.run("1", 10, step="step_extern", **of_job("1", SLURM_JOB_NAME="extern"))
    tree.run("1", 11, step="step_0", **of_job("1", SLURM_JOB_NAME="train"))
    stepd = tree.cpu / tree.holder / "job_1/step_0/slurm"
    stepd.mkdir()
    (stepd / "cgroup.procs").write_text("12\n")
    tree.proc.put(12, CARBON_TRAINING_JOB="no")
    use = tree.jobs(10.0)["1"]
    assert (use.training_job, use.info["job_name"]) == ("slurm-1", "train")


def test_allocations_come_from_the_environment_where_slurm_binds_nothing(tree):
    tree.spend("1")
    tree.run("1", 10, **of_job("1", SLURM_CPUS_ON_NODE="6", SLURM_MEM_PER_CPU="512"))
    tree.spend("2")
    tree.allocate("2", memory=str(2**63 - 4096))
    tree.run("2", 11, **of_job("2", SLURM_MEM_PER_NODE="100", SLURM_MEM_PER_CPU="512"))
    jobs = tree.jobs(10.0)
    assert (jobs["1"].cpus, jobs["1"].memory_bytes) == (6, 6 * 512 * MIB)
    assert (jobs["2"].cpus, jobs["2"].memory_bytes) == (None, 100 * MIB)


def test_a_v2_job_that_may_run_everywhere_has_the_cpus_of_its_environment(tmp_path):
    tree = Tree(tmp_path, "v2")
    tree.spend("1")
    tree.allocate("1", cpus="", memory="max")
    tree.run("1", 10, **of_job("1", SLURM_CPUS_ON_NODE="2"))
    use = tree.jobs(10.0)["1"]
    assert (use.cpus, use.memory_bytes) == (2, None)


@pytest.mark.parametrize(
    ("environment", "devices"),
    [
        ({"SLURM_JOB_GPUS": "0,2"}, {"gpu0", "gpu2"}),
        ({"SLURM_JOB_GPUS": "0,2", "SLURM_STEP_GPUS": "2"}, {"gpu0", "gpu2"}),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, set()),
        ({"SLURM_JOB_GPUS": "3", "CUDA_VISIBLE_DEVICES": "0"}, {"gpu3"}),
        ({"CUDA_VISIBLE_DEVICES": "GPU-a, GPU-b"}, {"GPU-a", "GPU-b"}),
        ({"SLURM_JOB_GPUS": "9", "CUDA_VISIBLE_DEVICES": "MIG-a"}, {"MIG-a"}),
        ({"CUDA_VISIBLE_DEVICES": f"GPU-{'x' * 124},GPU-{'x' * 125}"}, {f"GPU-{'x' * 124}"}),
        ({"SLURM_JOB_GPUS": "no,-1, ,٣", "CUDA_VISIBLE_DEVICES": "GPU-\udcff,MIG-é"}, set()),
    ],
)
def test_gpus_of_the_environment(environment, devices):
    assert told_by([of_job("1", **environment)], Told()).devices == devices


def test_gpus_of_ended_steps_stay_the_jobs():
    first = told_by([of_job("1", SLURM_STEP_GPUS="0")], Told())
    assert told_by([of_job("1", SLURM_STEP_GPUS="1")], first).devices == {"gpu0", "gpu1"}


@pytest.mark.parametrize("text", ["", "0", "-5", "1.5", "x", "9" * 40, "²"])
def test_numbers_that_are_none_are_unknown(text):
    told = told_by([of_job("1", SLURM_CPUS_ON_NODE=text, SLURM_MEM_PER_NODE=text)], Told())
    assert (told.cpus, told.memory_bytes) == (None, None)


ANY_TEXT = st.text(st.characters(exclude_characters="\0"), max_size=300)
KEYS = [*of_job("1"), "SLURM_JOB_NAME", "SLURM_JOB_GPUS", "CUDA_VISIBLE_DEVICES", "CARBON_TRAINING_JOB"]


@given(st.lists(st.dictionaries(st.sampled_from(KEYS), ANY_TEXT | ANY_TEXT.map("GPU-{}".format))))
def test_whatever_an_environment_holds_fits_labels_and_the_state_file(environments):
    told = told_by([of_job("1"), *environments], Told())
    for text in (told.name, *told.labels.values()):
        assert not any(unicodedata.category(character) in ("Cc", "Cs") for character in text)
        assert len(text) <= 200
    assert Told.from_json(orjson.loads(orjson.dumps(told.to_json()))) == told


def test_more_gpus_than_there_can_be_were_not_given():
    many = ",".join(map(str, range(1000)))
    first = told_by([of_job("1", SLURM_JOB_GPUS="0")], Told())
    assert told_by([of_job("1", SLURM_JOB_GPUS=many)], first).devices == {"gpu0"}


# --- who else has a say


def test_units_that_another_resolver_has_are_left_out(tree):
    tree.spend("1")
    tree.run("1", 10, **of_job("1"))
    assert RANK == 1
    assert tree.jobs(10.0, claimed={"slurm 1"}) == {}
    assert set(tree.jobs(12.0, claimed={"slurm 2"})) == {"1"}
    tree.end("1")
    assert tree.jobs(14.0, claimed={"slurm 1"}) == {}


def test_a_job_in_a_pod_is_the_pods(tree):
    uid = "12345678-1234-1234-1234-123456789abc"
    tree.spend("1")
    tree.run("1", 10, **of_job("1"))
    with (tree.proc.root / "10/cgroup").open("a") as lines:
        lines.write(f"1:name=systemd:/kubepods/pod{uid}/slurmd\n")
    assert tree.jobs(10.0, claimed={f"pod {uid}"}, gpu_pids={10}) == {}
    assert tree.jobs(12.0, gpu_pids={10}, claimed={"pod"})["1"].pids == frozenset()


def test_the_processes_of_a_job_not_told_yet_are_left_to_slurm(tree):
    assert tree.read(8.0).claimed == frozenset()
    process = open_process_resolver(ProcessSettings(), Roots(tree.sysfs, tree.proc.root))
    tree.read(10.0)
    tree.spend("1", 1.0)
    reading = tree.read(12.0)
    tree.run("1", 10, **of_job("1", CARBON_TRAINING_JOB="bert"))
    assert (reading.jobs, reading.claimed) == ((), {"slurm"})
    assert process.read(12.0, frozenset(), reading.claimed).jobs == ()
    assert tree.jobs(14.0)["1"].training_job == "bert"


def test_the_resolver_stands_among_the_others_by_its_rank(tmp_path):
    roots = Roots(tmp_path, tmp_path)
    names = list(open_resolvers({"kubernetes": False}, roots))
    assert names == ["slurm", "process"]
    assert "slurm" not in open_resolvers({"slurm": False, "kubernetes": False}, roots)


# --- what fails


def test_processes_that_must_not_be_looked_into_are_one_failure(tree, monkeypatch):
    def refuse(proc, pid):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("carbon_exporter.jobs.slurm.job.read_environment", refuse)
    for job in ("1", "2"):
        tree.spend(job, 1.0)
        tree.run(job, int(job))
    for now in (10.0, 12.0):
        reading = tree.read(now)
        assert [use.training_job for use in reading.jobs] == ["slurm-1", "slurm-2"]
        assert len(reading.failures) == 1
        assert "permission denied; run as root with CAP_SYS_PTRACE" in reading.failures[0]


def test_processes_in_another_pid_namespace_are_one_failure(tree):
    tree.spend("1")
    tree.run("1", 0)
    reading = tree.read(10.0)
    assert [use.training_job for use in reading.jobs] == ["slurm-1"]
    assert "hostPID" in reading.failures[0]


def test_slurm_without_accounting_by_control_groups_is_told_the_cure(tree):
    (tree.sysfs / "fs/cgroup/freezer/slurm_node7").mkdir(parents=True)
    reading = tree.read(10.0)
    assert reading.present
    assert reading.claimed == frozenset()
    assert "set JobAcctGatherType=jobacct_gather/cgroup in slurm.conf" in reading.failures[0]


@pytest.mark.parametrize("layout", ["v1", "v2"])
@pytest.mark.parametrize("text", ["nonsense", "", "usage_usec\n"])
def test_a_counter_that_cannot_be_read_is_a_failure_and_the_rest_goes_on(tmp_path, layout, text):
    tree = Tree(tmp_path, layout)
    for job in ("1", "2"):
        tree.spend(job, 50.0)
        tree.run(job, int(job), **of_job(job))
    tree.read(10.0)
    counter = tree.cpu / tree.holder / "job_1" / ("cpu.stat" if tree.unified else "cpuacct.usage")
    counter.write_text(text)
    tree.spend("2", 1.0)
    reading = tree.read(12.0)
    assert {use.unit: use.cpu_seconds for use in reading.jobs} == {"slurm 1": 0.0, "slurm 2": 1.0}
    assert reading.failures[0].startswith(f"{counter.parent}: CPU time cannot be read: ")
    tree.spend("1", 3.0)
    assert tree.jobs(14.0)["1"].cpu_seconds == 3.0


def test_a_top_that_cannot_be_read_is_a_failure_and_its_jobs_go_on(tree):
    tree.spend("1")
    tree.run("1", 10, **of_job("1"))
    tree.read(10.0)
    tree.spend("1", 1.0)
    (tree.cpu / tree.top / "cpuacct.usage").write_text("")
    reading = tree.read(12.0)
    assert [use.cpu_seconds for use in reading.jobs] == [1.0]
    assert len(reading.failures) == 1
    tree.spend("1", 1.0)
    assert tree.jobs(14.0)["1"].cpu_seconds == 2.0


def test_jobs_that_come_and_go_leave_nothing_behind(tree):
    tree.spend("0")
    for job in range(1, 200):
        tree.spend(str(job), 0.1)
        tree.run(str(job), job, **of_job(str(job)))
        tree.read(2.0 * job, gpu_pids={job})
        tree.end(str(job))
        tree.proc.drop(job)
    tree.read(500.0)
    assert len(tree.resolver.state()["jobs"]) == 1
    assert tree.resolver._unit_of_pid == {}


# --- real control groups

SPIN = "import sys,time\nwhile time.process_time() < float(sys.argv[1]): pass\n"


@pytest.fixture(params=["v1", "v2"])
def real_groups(request, tmp_path):
    """The hierarchy that counts CPU time, and a /sys that shows it as if it were the only one."""
    root = CGROUPS / "cpuacct" if request.param == "v1" else CGROUPS / "unified"
    if request.param == "v2" and (CGROUPS / "cgroup.controllers").exists():
        root = CGROUPS
    if os.geteuid() != 0 or not os.access(root, os.W_OK):
        pytest.skip(f"needs root and {root}")
    sysfs = tmp_path / "sys"
    (sysfs / "fs").mkdir(parents=True)
    (sysfs / "fs/cgroup").symlink_to(root.parent if request.param == "v1" else root)
    node = f"carbontest{os.getpid()}"
    top = f"slurm_{node}" if request.param == "v1" else f"system.slice/{node}_slurmstepd.scope"
    made_slice = request.param == "v2" and not (root / "system.slice").exists()
    (root / top).mkdir(parents=True, exist_ok=True)
    yield sysfs, root / top / ("uid_0" if request.param == "v1" else "")
    for path, _, _ in os.walk(root / top, topdown=False):
        Path(path).rmdir()
    if made_slice:
        with contextlib.suppress(OSError):  # another run of this test is in it
            (root / "system.slice").rmdir()


@contextlib.contextmanager
def spinning(group: Path, seconds: float):
    """A real process in a control group of its own that uses so much CPU time."""
    task = group / "step_batch"
    task.mkdir(parents=True)
    program = [sys.executable, "-c", SPIN, str(seconds)]
    environment = {"SLURM_JOB_ID": group.name.removeprefix("job_")}
    join = ["sh", "-c", 'echo $$ > "$0/cgroup.procs"; exec "$@"', str(task), *program]
    with subprocess.Popen(join, env=environment) as process:
        yield process
    task.rmdir()
    group.rmdir()


def test_real_control_groups_keep_the_last_seconds_of_a_job(real_groups):
    sysfs, holder = real_groups
    resolver = open_resolver(Settings(), Roots(sysfs))
    number = str(os.getpid() + 10**9)
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    resolver.read(now)
    with spinning(holder / f"job_{number}", 0.6) as process:
        deadline = time.monotonic() + 30
        while not (use := found(resolver, number)) or not use.cpu_seconds:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert use.training_job == f"slurm-{number}"
        assert now - 1 < use.started_seconds < time.clock_gettime(time.CLOCK_BOOTTIME)
        group = holder / f"job_{number}"
        assert group.stat().st_nlink == 2 + sum(path.is_dir() for path in group.iterdir())
        assert process.wait(60) == 0
    ended = found(resolver, number)
    assert use.cpu_seconds < 0.55 < ended.cpu_seconds < 1.2
    assert found(resolver, number) is None


def found(resolver, number, **arguments):
    """The job as it is now, None where it is not there."""
    reading = resolver.read(time.clock_gettime(time.CLOCK_BOOTTIME), **arguments)
    return next((use for use in reading.jobs if use.unit == f"slurm {number}"), None)


# --- a real Slurm


@pytest.fixture(scope="session")
def slurm(need, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin")  # not on everybody's, and the daemons are there
        for program in PROGRAMS:
            need(program)
        yield from running_slurm(tmp_path_factory.mktemp("slurm"))


def running_slurm(folder):
    if os.geteuid() != 0:
        reason = "slurmd makes control groups, which needs root"
        if os.environ.get("CARBON_REQUIRE_REAL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with cluster(folder) as running:
        yield running


@pytest.fixture
def jobs_here():
    return open_resolver(Settings(), Roots())


def wait_for_job(slurm, resolver, number, is_there=lambda use: True):
    last = []

    def look():
        last[:] = [found(resolver, number)]
        return last[0] is not None and is_there(last[0])

    slurm.wait(look, f"the resolver finds job {number}")
    return last[0]


LOAD = """
import os, sys, time
cpu_seconds, duty = map(float, sys.argv[1:])
while time.process_time() < cpu_seconds:
    burst = time.monotonic() + 0.02 * duty
    while time.monotonic() < burst: pass
    time.sleep(0.02 * (1 - duty))
print("used", time.process_time(), flush=True)
os._exit(0)
"""


def load(cpu_seconds: float, duty: float = 1.0) -> str:
    """A script that becomes a program which uses so much CPU time, that share of the time, and writes what it used."""
    return f"exec {sys.executable} -c '{LOAD}' {cpu_seconds} {duty}"


def used(text: str) -> float:
    return float(text.rpartition("used")[2])


@pytest.mark.real
@pytest.mark.slow
def test_two_real_jobs_have_the_cpu_time_that_they_themselves_measured(slurm, jobs_here):
    """One spins, the other half the time; in between the agent is restarted."""
    jobs_here.read(time.clock_gettime(time.CLOCK_BOOTTIME))
    busy = slurm.submit(load(2.0), "--job-name=busy", "--mem=200")
    calm = slurm.submit(load(1.0, 0.5), "--job-name=calm")
    resolver, last, held, readings = jobs_here, {}, {}, 0

    def both_are_over():
        nonlocal resolver, readings
        reading = resolver.read(time.clock_gettime(time.CLOCK_BOOTTIME))
        last.update({use.unit.removeprefix("slurm "): use for use in reading.jobs})
        held.update({job: (use.cpus, use.memory_bytes) for job, use in last.items() if use.cpus})
        readings += 1
        if readings == 20:
            state = json.loads(json.dumps(resolver.state()))
            resolver = open_resolver(Settings(), Roots())
            resolver.restore(state)
        return {busy, calm} <= set(last) and slurm.is_over(busy) and slurm.is_over(calm)

    slurm.wait(both_are_over, "both jobs have ended")
    both_are_over()
    assert readings > 20
    for job, least in ((busy, 2.0), (calm, 1.0)):
        truth = used(slurm.wait_for_output(job, "used"))
        assert truth >= least
        # What is more is the end of the process.
        assert last[job].cpu_seconds == pytest.approx(truth, rel=0.03, abs=0.05)
        assert last[job].training_job == f"slurm-{job}"
    assert last[busy].info == {"user": "root", "job_name": "busy", "partition": "debug"}
    assert held == {busy: (1, 200 * MIB), calm: (1, 100 * MIB)}
    assert (last[busy].cpus, last[busy].memory_bytes) == (None, None)


@pytest.mark.real
@pytest.mark.slow
def test_a_real_job_that_ends_between_two_readings_loses_nothing(slurm, jobs_here):
    jobs_here.read(time.clock_gettime(time.CLOCK_BOOTTIME))
    job = slurm.submit(load(1.5))
    seen = wait_for_job(slurm, jobs_here, job)
    slurm.wait(lambda: slurm.is_over(job), "the job has ended")
    truth = used(slurm.wait_for_output(job, "used"))
    ended = found(jobs_here, job)
    assert seen.cpu_seconds < ended.cpu_seconds
    assert ended.cpu_seconds == pytest.approx(truth, rel=0.03, abs=0.05)
    assert ended.started_seconds == seen.started_seconds
    assert found(jobs_here, job) is None


PROGRESS = "from carbon_exporter.push import Progress; print('named', Progress()._training.name, flush=True)"


@pytest.mark.real
@pytest.mark.slow
def test_progress_in_a_real_job_has_the_name_that_the_agent_finds(slurm, jobs_here):
    show = f'{sys.executable} -c "{PROGRESS}"'
    plain = slurm.submit(f"{show}; srun {show}; echo done; sleep 60", "--cpus-per-task=2")
    text = slurm.wait_for_output(plain, "done")
    use = wait_for_job(slurm, jobs_here, plain)
    assert text.split("\n")[:2] == [f"named {use.training_job}"] * 2
    assert use.cpus == 2
    slurm.clear()
    chosen = slurm.submit(f"{show}; sleep 60", CARBON_TRAINING_JOB="vision/resnet", CARBON_TRAINING_GROUP="resnet")
    inside = slurm.submit(f"export CARBON_TRAINING_JOB=inside\n{show}; {sys.executable} -c 'input()' < <(sleep 60)")
    for job, name in ((chosen, "vision/resnet"), (inside, "inside")):
        assert f"named {name}\n" in slurm.wait_for_output(job, "named")
        use = wait_for_job(slurm, jobs_here, job, lambda use, name=name: use.training_job == name)
    assert found(jobs_here, chosen).group == "resnet"
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    claimed = frozenset(use.unit for use in jobs_here.read(now).jobs)
    by_label = [open_process_resolver(ProcessSettings(), Roots()).read(now, claimed=c) for c in (frozenset(), claimed)]
    labelled = [{use.training_job for use in reading.jobs} & {"vision/resnet", "inside"} for reading in by_label]
    assert labelled == [{"vision/resnet", "inside"}, set()]
    slurm.clear()


@pytest.mark.real
@pytest.mark.slow
def test_each_task_of_a_real_array_is_a_job_of_its_own(slurm, jobs_here):
    array = slurm.submit("echo number $SLURM_JOB_ID; sleep 60", "--array=3,7")
    slurm.wait(lambda: slurm.output(array).count("number") == 2, "both tasks run")
    numbers = slurm.output(array).split()[1::2]
    assert len(set(numbers)) == 2
    for number in numbers:
        assert wait_for_job(slurm, jobs_here, number).training_job == f"slurm-{number}"
    slurm.clear()


@pytest.mark.real
@pytest.mark.slow
def test_the_parts_of_a_real_heterogeneous_job_are_one_job(slurm, jobs_here):
    step = (
        f'srun --het-group=0,1 {sys.executable} -c "{PROGRESS.replace("print", "import time; print")}; time.sleep(60)"'
    )
    job = slurm.submit(step, "--partition=debug", ":", "--partition=other", "--mem=50")
    slurm.wait(lambda: slurm.output(job).count("named") == 2, "both parts run")
    assert set(slurm.output(job).split("\n")) == {f"named slurm-{job}", ""}
    parts = [wait_for_job(slurm, jobs_here, number) for number in (job, str(int(job) + 1))]
    assert [use.training_job for use in parts] == [f"slurm-{job}"] * 2
    assert [use.info["partition"] for use in parts] == ["debug", "other"]
    assert [use.memory_bytes for use in parts] == [100 * MIB, 50 * MIB]
    slurm.clear()


@pytest.mark.real
@pytest.mark.slow
def test_a_real_step_without_a_script_is_a_job_and_its_processes_are_known(slurm, jobs_here):
    program = "import os, time; print('pid', os.getpid(), flush=True); time.sleep(60)"
    log = slurm.folder / "srun.log"
    with slurm.daemon("srun", "srun", sys.executable, "-c", program):
        slurm.wait(lambda: "\n" in log.read_text(), "the step runs")
        pid = int(log.read_text().split()[1])
        number = slurm.call("squeue", "--noheader", "--format=%A").strip()
        use = wait_for_job(slurm, jobs_here, number)
        assert use.training_job == f"slurm-{number}"
        assert found(jobs_here, number, gpu_pids=frozenset({pid, os.getpid()})).pids == {pid}
        os.kill(pid, signal.SIGKILL)
        slurm.daemons[-1].wait(30)


@pytest.mark.real
@pytest.mark.slow
def test_the_joules_of_a_node_go_to_its_real_jobs_by_their_cpu_time(slurm, tmp_path):
    """The joules are scripted, 20 a tick; processes, CPU time and jobs are real."""
    tree = Powercap(tmp_path / "sys")
    package = tree.add("intel-rapl:0", "package-0")
    published = []
    sampler = Sampler(
        sources={"rapl": rapl.open_source(rapl.Settings(), Roots(tree.sysfs))},
        resolvers=open_resolvers({"kubernetes": False}, Roots()),
        timeline=lambda _: None,
        ledger=Ledger(600),
        state_file=None,
        proc=Path("/proc"),
        pue=1.0,
        interval_seconds=0.1,
        clock=lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        wall_clock=time.time,
        collectors=Collectors(time.time),
        publish=published.append,
    )
    sampler.tick()
    busy = slurm.submit(load(1.0), CARBON_TRAINING_JOB="busy")
    calm = slurm.submit(load(0.5, 0.5))

    def both_are_over():
        package.spend(20_000_000)
        sampler.tick()
        return all("used" in slurm.output(job) and slurm.is_over(job) for job in (busy, calm))

    slurm.wait(both_are_over, "both jobs have ended")
    both_are_over()
    ledger = published[-1].ledger
    for name, job in (("busy", busy), (f"slurm-{calm}", calm)):
        account = ledger.accounts[name]
        assert account.use.resolver == "slurm"
        assert account.cpu_seconds == pytest.approx(used(slurm.output(job)), rel=0.03, abs=0.05)
    joules = [ledger.accounts[name].energy_joules["cpu"] for name in ("busy", f"slurm-{calm}")]
    assert joules[0] > joules[1] > 0
    everything = sum(account.energy_joules.get("cpu", 0.0) for account in ledger.accounts.values())
    everything += sum(value for (component, _), value in ledger.unattributed_joules.items() if component == "cpu")
    assert everything == pytest.approx(ledger.measured_joules["cpu"], rel=1e-9)
    assert published[-1].records["slurm"].success
