"""Finding jobs by their environment: on real processes, and on a scripted /proc for what real ones do too rarely."""

import contextlib
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scripted import ScriptedProc

from carbon_exporter.jobs.process import ProcessResolver, Settings, open_resolver
from carbon_exporter.model import Roots
from carbon_exporter.naming import training_job_name
from carbon_exporter.procfs import parse_process, read_process_line

SPIN = "import time\nend = time.process_time() + {0}\nwhile time.process_time() < end: pass\n"
WAIT = "import time; print('up', flush=True); time.sleep(60)"


def boottime():
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def resolver(proc="/proc", **settings):
    return open_resolver(Settings(**settings), Roots(procfs=Path(proc)))


def jobs_of(reading):
    return {use.training_job: use for use in reading.jobs}


@contextlib.contextmanager
def python(program, *, name=None, **variables):
    """A real Python process that has printed its first line; `name` is its training job."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CARBON_")} | variables
    if name is not None:
        environment["CARBON_TRAINING_JOB"] = name
    with subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def test_a_labelled_process_is_a_job_with_its_group_user_and_devices():
    with python(WAIT, name="a/b", CARBON_TRAINING_GROUP="g", CUDA_VISIBLE_DEVICES="0, MIG-1,-1,7") as process:
        use = jobs_of(resolver().read(boottime()))["a/b"]
    assert use.pids == {process.pid}
    assert use.group == "g"
    assert use.devices == {"0", "MIG-1"}
    assert use.info["user"]
    assert use.resolver == "process"


def test_descendants_belong_to_the_job_also_with_a_clean_environment():
    child = f"import subprocess,sys; subprocess.run([sys.executable, '-c', {WAIT!r}], env={{}})"
    with python(child, name="tree") as process:
        time.sleep(0.2)
        use = jobs_of(resolver().read(boottime()))["tree"]
        assert process.pid in use.pids
        assert len(use.pids) == 2
        os.kill(max(use.pids - {process.pid}), 9)


def test_several_ranks_on_one_node_are_one_job():
    with python(WAIT, name="ddp", RANK="0") as first, python(WAIT, name="ddp", RANK="1") as second:
        reading = resolver().read(boottime())
    assert jobs_of(reading)["ddp"].pids == {first.pid, second.pid}


def test_cpu_time_of_a_job_counts_its_short_lived_children_once():
    """A parent that runs children one after the other: each is seen alive, then again in the parent's children time."""
    spin = SPIN.format(0.3)
    program = (
        "import subprocess,sys; print('up', flush=True); sys.stdin.readline()\n"
        f"for _ in range(3): subprocess.run([sys.executable, '-c', {spin!r}])\n"
        "print('done', flush=True); sys.stdin.readline()"
    )
    environment = {**os.environ, "CARBON_TRAINING_JOB": "spawner"}
    found = resolver()
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        found.read(boottime())
        base = parse_process(read_process_line("/proc", process.pid))
        process.stdin.write(b"\n")
        process.stdin.flush()
        os.set_blocking(process.stdout.fileno(), False)
        while not process.stdout.readline():
            found.read(boottime())
            time.sleep(0.02)
        use = jobs_of(found.read(boottime()))["spawner"]
        end = parse_process(read_process_line("/proc", process.pid))
        process.stdin.write(b"\n")
        process.stdin.flush()
    truth = end.own_seconds + end.children_seconds - base.own_seconds - base.children_seconds
    assert truth > 0.9
    assert use.cpu_seconds == pytest.approx(truth, abs=0.05)


def test_a_process_that_starts_between_two_readings_counts_from_its_start():
    found = resolver()
    found.read(boottime())
    found.read(boottime())
    with python(SPIN.format(0.3) + WAIT, name="fresh"):
        use = jobs_of(found.read(boottime()))["fresh"]
    assert use.cpu_seconds >= 0.29


def test_a_process_older_than_the_exporter_counts_from_now_on():
    with python(SPIN.format(0.3) + WAIT, name="old"):
        assert jobs_of(resolver().read(boottime()))["old"].cpu_seconds == 0.0


def test_over_a_restart_the_cpu_time_of_the_down_time_counts():
    program = "import sys; print('up', flush=True); sys.stdin.readline()\n" + SPIN.format(0.3) + WAIT
    environment = {**os.environ, "CARBON_TRAINING_JOB": "steady"}
    first = resolver()
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        before = jobs_of(first.read(boottime()))["steady"].cpu_seconds
        second = resolver()
        second.restore(first.state())
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        with python(SPIN.format(0.2) + WAIT, name="born-meanwhile"):
            jobs = jobs_of(second.read(boottime()))
        process.kill()
    assert jobs["steady"].cpu_seconds - before >= 0.29
    assert jobs["born-meanwhile"].cpu_seconds >= 0.19


def test_the_label_of_an_exec_is_found_a_tick_later():
    program = (
        "import os,sys; print('up', flush=True); sys.stdin.readline()\n"
        f"os.execve(sys.executable, [sys.executable, '-c', {WAIT!r}], dict(os.environ, CARBON_TRAINING_JOB='late'))"
    )
    found = resolver()
    found.read(boottime())
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert "late" not in jobs_of(found.read(boottime()))
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        assert "late" in jobs_of(found.read(boottime()))
        process.kill()


@pytest.fixture
def proc(tmp_path):
    return ScriptedProc(tmp_path)


def test_a_reused_pid_is_another_process(proc):
    found = resolver(proc.root)
    proc.put(10, start=1, own=100, CARBON_TRAINING_JOB="a")
    found.read(5.0)
    proc.put(10, start=7, own=2, CARBON_TRAINING_JOB="b")
    jobs = jobs_of(found.read(8.0))
    assert set(jobs) == {"b"}
    assert jobs["b"].cpu_seconds == 2.0


def test_a_reused_pid_without_a_label_ends_the_job(proc):
    found = resolver(proc.root)
    proc.put(10, start=1, CARBON_TRAINING_JOB="a")
    found.read(5.0)
    proc.put(10, start=7, own=50)
    assert jobs_of(found.read(8.0)) == {}


def test_what_an_ended_grandchild_used_is_not_counted_again(proc):
    found = resolver(proc.root)
    proc.put(10, start=1, CARBON_TRAINING_JOB="a")
    proc.put(11, parent=10, start=2, own=3)
    proc.put(12, parent=11, start=3, own=5)
    found.read(5.0)
    proc.put(12, parent=11, start=3, own=7)
    assert jobs_of(found.read(6.0))["a"].cpu_seconds == 2.0
    proc.drop(12)
    proc.drop(11)
    proc.put(10, start=1, children=3 + 8 + 1)  # 12 used one more second, 11 another, before both ended
    assert jobs_of(found.read(7.0))["a"].cpu_seconds == 4.0


def test_a_process_in_a_unit_that_another_resolver_counts_is_left_out(proc):
    found = resolver(proc.root)
    for pid, job_id in ((10, 7), (20, 8)):
        proc.put(pid, start=1, CARBON_TRAINING_JOB="a")
        proc.put(pid + 1, parent=pid, start=1)
        (proc.root / str(pid) / "cgroup").write_text(f"0::/system.slice/slurmstepd.scope/job_{job_id}/step_0\n")
    assert jobs_of(found.read(5.0, frozenset(), frozenset({"slurm 7"})))["a"].pids == {20, 21}
    assert jobs_of(found.read(7.0, frozenset(), frozenset({"slurm 7", "slurm 8"}))) == {}


def test_a_process_in_a_kind_of_unit_that_another_resolver_counts_is_left_out(proc):
    found = resolver(proc.root)
    for pid, line in ((10, "/system.slice/slurmstepd.scope/job_7/step_0"), (20, "/user.slice")):
        proc.put(pid, start=1, CARBON_TRAINING_JOB=f"j{pid}")
        (proc.root / str(pid) / "cgroup").write_text(f"0::{line}\n")
    assert set(jobs_of(found.read(5.0, frozenset(), frozenset({"pod"})))) == {"j10", "j20"}
    assert set(jobs_of(found.read(7.0, frozenset(), frozenset({"slurm"})))) == {"j20"}
    assert set(jobs_of(found.read(70.0, frozenset(), frozenset({"slurm"})))) == {"j20"}


def test_an_orphan_stays_in_its_job(proc):
    found = resolver(proc.root)
    proc.put(10, start=1, CARBON_TRAINING_JOB="a")
    proc.put(11, parent=10, start=2)
    found.read(5.0)
    proc.drop(10)
    proc.put(11, parent=1, start=2, own=4)
    use = jobs_of(found.read(6.0))["a"]
    assert (use.pids, use.cpu_seconds) == ({11}, 4.0)


def test_a_childs_own_label_wins(proc):
    proc.put(10, start=1, CARBON_TRAINING_JOB="outer")
    proc.put(11, parent=10, start=2, CARBON_TRAINING_JOB="inner")
    jobs = jobs_of(resolver(proc.root).read(5.0))
    assert (jobs["outer"].pids, jobs["inner"].pids) == ({10}, {11})


def test_the_seldom_full_scan_finds_a_label_that_came_late(proc):
    found = resolver(proc.root, full_scan_seconds=60)
    proc.put(10, start=1)
    for now in (5.0, 7.0):
        found.read(now)
    proc.put(10, start=1, CARBON_TRAINING_JOB="late")
    assert jobs_of(found.read(9.0)) == {}
    assert set(jobs_of(found.read(65.0))) == {"late"}


HOSTILE = ["a/b/c", "ünïcode 名前", 'quo"te\\s{}', "x" * 10_000, "tab\tnew\nline", " padded "]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_counted_under_the_name_that_push_uses(proc, name, caplog):
    proc.put(10, start=1, CARBON_TRAINING_JOB=name)
    found = resolver(proc.root)
    with caplog.at_level(logging.WARNING):
        for now in (5.0, 6.0, 70.0):
            jobs = jobs_of(found.read(now))
    assert set(jobs) == {training_job_name(name)}
    assert len(next(iter(jobs))) <= 200
    assert len(caplog.messages) == (0 if training_job_name(name) == name else 1)


@pytest.mark.parametrize(
    ("raw", "namespace", "name", "warnings"),
    [("a", "ns", "ns/a", 0), ("a", " ns ", "ns/a", 0), ("a", "  ", "a", 0), ("a\n", "ns", "ns/a", 1)],
)
def test_the_namespace_stands_before_the_name(proc, caplog, raw, namespace, name, warnings):
    proc.put(10, start=1, CARBON_TRAINING_JOB=raw, CARBON_POD_NAMESPACE=namespace)
    assert set(jobs_of(resolver(proc.root).read(5.0))) == {name}
    assert len(caplog.messages) == warnings


def test_a_number_of_slurm_alone_makes_no_job(proc):
    proc.put(10, start=1, SLURM_JOB_ID="7")
    proc.put(11, start=1, SLURM_JOB_ID="7", CARBON_TRAINING_JOB=" ")
    assert jobs_of(resolver(proc.root).read(5.0)) == {}


def uuids(first, last):
    return ",".join(f"GPU-{number}" for number in range(first, last))


@pytest.mark.parametrize(
    ("visible", "number"),
    [([uuids(0, 128)], 128), ([uuids(0, 129)], 0), ([uuids(0, 128), uuids(128, 130)], 0), (["0,GPU-" + "x" * 125], 1)],
)
def test_more_gpus_than_there_can_be_are_made_up(proc, visible, number):
    for pid, names in enumerate(visible, start=10):
        proc.put(pid, start=1, CARBON_TRAINING_JOB="a", CUDA_VISIBLE_DEVICES=names)
    found = resolver(proc.root)
    assert len(jobs_of(found.read(5.0))["a"].devices) == number
    assert all(len(member[3]) <= 128 for member in found.state()["members"])


def test_the_owner_is_looked_up_once_for_a_job(proc, monkeypatch):
    asked = []
    monkeypatch.setattr("carbon_exporter.jobs.process.owner_name", lambda _, pid: asked.append(pid) or "ada")
    found = resolver(proc.root)
    for pid in range(10, 15):
        proc.put(pid, start=pid, CARBON_TRAINING_JOB="a")
    assert jobs_of(found.read(20.0))["a"].info == {"user": "ada"}
    proc.put(15, start=20, CARBON_TRAINING_JOB="a")
    found.read(22.0)
    assert asked == [10]


def test_long_names_that_differ_at_the_end_stay_different():
    assert training_job_name("x" * 500 + "1") != training_job_name("x" * 500 + "2")


def test_bytes_that_are_no_utf8_do_no_harm(proc):
    proc.put(10, start=1, CARBON_TRAINING_JOB="bad\udcff")
    assert set(jobs_of(resolver(proc.root).read(5.0))) == {"bad_"}


def test_a_blank_label_is_no_label(proc):
    proc.put(10, start=1, CARBON_TRAINING_JOB="  ")
    assert jobs_of(resolver(proc.root).read(5.0)) == {}


def test_jobs_beyond_the_most_are_a_counted_failure_and_the_others_stay(proc):
    for pid in range(10, 15):
        proc.put(pid, start=pid, CARBON_TRAINING_JOB=f"j{pid}")
    reading = resolver(proc.root, most_jobs=3).read(20.0)
    assert set(jobs_of(reading)) == {"j10", "j11", "j12"}
    assert reading.failures == ("2 jobs beyond jobs.process.most_jobs=3 are counted as system",)


def test_a_proc_that_cannot_be_listed_is_a_failure(tmp_path):
    reading = resolver(tmp_path / "none").read(1.0)
    assert reading.jobs == ()
    assert "cannot be listed: No such file" in reading.failures[0]


def state_of(process=(10, 1, 100, 0.0, 0.0), name="a", group="g", devices=("0",), unit="", cpu=2.0, read=4.0):
    """A state as ProcessResolver.state gives it."""
    return {"read_seconds": read, "jobs": {"a": [cpu, "ada"]}, "members": [[process, name, group, devices, unit]]}


def test_what_a_state_holds_instead_of_texts_becomes_texts(proc):
    proc.put(10, start=1, CARBON_TRAINING_JOB="a")
    found = resolver(proc.root)
    found.restore(state_of(group=5, devices=[7], process=["10", 1, "100", 0, 0]))
    use = jobs_of(found.read(5.0))["a"]
    assert (use.group, use.devices, use.cpu_seconds) == ("5", {"7"}, 2.0)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"jobs": 3},
        {"read_seconds": "x", "jobs": {}, "members": [[1]]},
        state_of(process=[10, 1, "soon", 0.0, 0.0]),
        state_of(process=[10, 1, 100, "x", 0.0]),
        state_of(process=[10, 1, 100]),
        state_of(name=None),
        state_of(devices=3),
        state_of(cpu="nan"),
        state_of(read="inf"),
    ],
)
def test_an_unusable_state_is_said_and_left(proc, state, caplog):
    proc.put(10, start=1, CARBON_TRAINING_JOB="a")
    found = resolver(proc.root)
    found.restore(state)
    assert "not usable" in caplog.messages[0]
    assert set(jobs_of(found.read(5.0))) == {"a"}


def test_processes_of_other_users_that_cannot_be_looked_into_are_said_once(tmp_path):
    """As another user, without rights: this very test process's parent is not readable then."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    program = (
        "import logging,os,time\n"
        "from carbon_exporter.jobs.process import Settings, open_resolver\n"
        "from carbon_exporter.model import Roots\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "logging.basicConfig(format='%(message)s')\n"
        "r = open_resolver(Settings(full_scan_seconds=0.001), Roots())\n"
        "for _ in range(2): r.read(time.clock_gettime(time.CLOCK_BOOTTIME)); time.sleep(0.01)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    assert "run as root with CAP_SYS_PTRACE" in lines[0]


def test_root_without_the_capability_is_told_too():
    if os.geteuid() != 0:
        pytest.skip("needs root to drop capabilities")
    program = "from carbon_exporter.procfs import may_look_into_processes; print(may_look_into_processes())"
    drop = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"]
    found = [
        subprocess.run([*prefix, sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        for prefix in ([], drop)
    ]
    assert found == ["True\n", "False\n"]


def test_the_resolver_is_a_plain_object(proc):
    assert isinstance(resolver(proc.root), ProcessResolver)
