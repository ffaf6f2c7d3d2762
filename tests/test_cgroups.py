"""Control groups: units in paths, and the kernel's own files in v1 and v2."""

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from carbon_exporter.cgroups import Cgroups, CpuTimes, pod_unit, read_unit, slurm_unit, unit_of

UID = "0f3b1c2d-4e5f-6789-abcd-ef0123456789"
SYSTEM = Path("/sys/fs/cgroup")


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        (f"0::/kubepods/burstable/pod{UID}/abc\n", pod_unit(UID)),
        (f"0::/kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice/cri-containerd-1.scope\n", pod_unit(UID)),
        (
            f"0::/kubelet.slice/kubelet-kubepods-pod{UID.replace('-', '_')}.slice/crio-1.scope\n",
            pod_unit(UID),
        ),
        (f"0::/../../kubepods-burstable-pod{UID.replace('-', '_')}.slice/x\n", pod_unit(UID)),
        ("4:memory:/kubepods/pod0123456789abcdef0123456789abcdef/x\n", pod_unit("0123456789abcdef0123456789abcdef")),
        ("3:cpuacct:/slurm_node-7/uid_1000/job_4711/step_0/task_0\n2:cpu:/\n", slurm_unit("4711")),
        ("3:cpuacct:/slurm/uid_1000/job_12\n", slurm_unit("12")),
        ("0::/system.slice/slurmstepd.scope/job_5/step_batch/user/task_0\n", slurm_unit("5")),
        ("0::/system.slice/node7_slurmstepd.scope/job_6/step_1\n", slurm_unit("6")),
        (f"0::/kubepods/pod{UID}/c/slurmstepd.scope/job_5/step_0\n", pod_unit(UID)),
        ("0::/system.slice/slurmd.service\n", ""),
        ("0::/user.slice/user-1000.slice/job_9\n", ""),
        (f"0::/user.slice/user-1000.slice/user@1000.service/pod{UID}.slice/x\n", ""),
        ("0::/../../user.slice/user-1000.slice/user@1000.service/slurm/job_42\n", ""),
        ("0::/podman/pod-1234\n", ""),
        (f"0::/kubepods/pod{UID}99\n", ""),
        ("", ""),
    ],
)
def test_the_unit_in_a_path(text, unit):
    assert unit_of(text) == unit


def test_a_process_that_is_gone_is_in_no_unit(tmp_path):
    assert read_unit(str(tmp_path), 4711) == ""


def v1_folders(name):
    folders = [SYSTEM / controller / name for controller in ("cpuacct", "cpu", "memory", "cpuset")]
    if not all(os.access(folder.parent, os.W_OK) for folder in folders):
        pytest.skip("needs root and a cgroup v1 hierarchy with cpuacct, memory and cpuset")
    return folders


def v2_root():
    for root in (SYSTEM / "unified", SYSTEM):
        if (root / "cgroup.controllers").is_file() and os.access(root, os.W_OK):
            return root
    pytest.skip("needs root and a cgroup v2 hierarchy")


@pytest.fixture
def name():
    return f"carbon-test-{uuid.uuid4().hex[:8]}"


def burn(folder, seconds):
    """A process inside `folder` that uses `seconds` of CPU time and ends; what it says it has used in all."""
    code = (
        f"import time\nopen({str(folder / 'cgroup.procs')!r}, 'w').write('0')\n"
        f"begin = time.process_time()\nwhile time.process_time() - begin < {seconds}: pass\n"
        "print(time.process_time() - begin)"
    )
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def remove(folder):
    deadline = time.monotonic() + 10
    while True:
        try:
            return folder.rmdir()
        except OSError:  # the kernel takes a moment to let go of an ended process
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def test_cpu_time_of_a_real_v1_group_and_of_what_ended_below_it(name):
    folders = v1_folders(name)
    child = folders[0] / "child"
    for folder in (*folders, child):
        folder.mkdir()
    try:
        groups = Cgroups(SYSTEM)
        assert not groups.unified
        used = burn(child, 0.3)
        assert groups.cpu_seconds(f"{name}/child") == pytest.approx(used, abs=0.15)
        below = groups.cpu_seconds(f"{name}/child")
        remove(child)
        assert groups.cpu_seconds(name) >= below
        assert groups.cpu_quota(name) is None
        (SYSTEM / "cpu" / name / "cpu.cfs_quota_us").write_text("150000")
        assert groups.cpu_quota(name) == 1.5
        assert groups.memory_limit_bytes(name) is None
        (SYSTEM / "memory" / name / "memory.limit_in_bytes").write_text(str(1 << 30))
        assert groups.memory_limit_bytes(name) == 1 << 30
        (SYSTEM / "cpuset" / name / "cpuset.cpus").write_text("0")
        assert groups.cpus_given(name) == 1
        with pytest.raises(FileNotFoundError):
            groups.cpu_seconds(f"{name}/child")
    finally:
        if child.exists():
            remove(child)
        for folder in folders:
            remove(folder)


def test_cpu_time_of_a_real_v2_group(name):
    root = v2_root()
    (root / name).mkdir()
    try:
        groups = Cgroups(root)
        assert groups.unified
        used = burn(root / name, 0.3)
        assert groups.cpu_seconds(name) == pytest.approx(used, abs=0.15)
    finally:
        remove(root / name)


def test_limits_in_a_v2_tree(tmp_path):
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    folder = tmp_path / "pod"
    folder.mkdir()
    groups = Cgroups(tmp_path)
    texts = {"cpu.max": "max 100000\n", "memory.max": "max\n", "cpuset.cpus": "0-3,8,10-11\n"}
    for file, text in texts.items():
        (folder / file).write_text(text)
    assert (groups.cpu_quota("pod"), groups.memory_limit_bytes("pod"), groups.cpus_given("pod")) == (None, None, 7)
    (folder / "cpu.max").write_text("250000 100000\n")
    (folder / "memory.max").write_text("4096\n")
    assert (groups.cpu_quota("pod"), groups.memory_limit_bytes("pod")) == (2.5, 4096)


def test_a_unit_counts_from_its_beginning_only_where_it_was_seen_to_begin():
    times = CpuTimes()
    assert times.since_seen("old", 500.0, fresh=False) == 0.0
    assert times.since_seen("new", 3.0, fresh=True) == 3.0
    assert times.since_seen("old", 510.0, fresh=True) == 10.0
    later = CpuTimes()
    later.restore({**times.state(), "odd": "x", "none": None})
    assert later.since_seen("old", 520.0, fresh=False) == 20.0
    assert later.since_seen("old", 4.0, fresh=False) == 4.0  # another folder of that name
    later.keep({"new", "not seen yet"})
    assert later.state() == {"new": 0.0}
