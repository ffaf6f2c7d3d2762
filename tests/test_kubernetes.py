"""The whole resolver: a fake API server and kubelet, control groups as plain folders and as the kernel's own."""

import contextlib
import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest
from fake_kubernetes import NODE, ApiServer, Kubelet, claim, pod, pod_resources, uid_of, wait_until

from carbon_exporter.cgroups import pod_unit
from carbon_exporter.jobs.kubernetes import Settings, open_in
from carbon_exporter.jobs.kubernetes.folders import PodFolders
from carbon_exporter.jobs.kubernetes.names import JOB_LABEL
from carbon_exporter.model import Roots

GPU = ["GPU-00000000-0000-4000-8000-00000000000" + str(n) for n in range(4)]
LAYOUTS = {
    "cgroupfs": ("kubepods", "pod{}", "burstable/pod{}", "besteffort/pod{}"),
    "systemd": (
        "kubepods.slice",
        "kubepods-pod{_}.slice",
        "kubepods-burstable.slice/kubepods-burstable-pod{_}.slice",
        "kubepods-besteffort.slice/kubepods-besteffort-pod{_}.slice",
    ),
    "cgroupfs below a root": ("kubelet/kubepods", "pod{}", "burstable/pod{}", "besteffort/pod{}"),
    "systemd below a root": (
        "kubelet.slice/kubelet-kubepods.slice",
        "kubelet-kubepods-pod{_}.slice",
        "kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{_}.slice",
        "kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{_}.slice",
    ),
}


def unit(number):
    return pod_unit(uid_of(number))


class Tree:
    """Control groups of one version as plain folders."""

    def __init__(self, sysfs, *, unified=True, layout="systemd"):
        self.root = sysfs / "fs" / "cgroup"
        self.unified = unified
        self.top, *self.classes = LAYOUTS[layout]
        base = self.root
        base.mkdir(parents=True)
        if unified:
            (base / "cgroup.controllers").write_text("cpu memory\n")
            (base / "system.slice" / "sshd.service").mkdir(parents=True)
        self.cpu = base if unified else base / "cpu,cpuacct"
        for quality in self.classes:
            (self.cpu / self.top / quality).parent.mkdir(parents=True, exist_ok=True)

    def folder(self, number, quality=1):
        return self.cpu / self.top / self.classes[quality].format(uid_of(number), _=uid_of(number).replace("-", "_"))

    def burn(self, number, seconds, quality=1):
        folder = self.folder(number, quality)
        folder.mkdir(parents=True, exist_ok=True)
        if self.unified:
            (folder / "cpu.stat").write_text(f"usage_usec {round(seconds * 1e6)}\nuser_usec 1\n")
        else:
            (folder / "cpuacct.usage").write_text(f"{round(seconds * 1e9)}\n")

    def limit(self, number, cpu_max, memory_max):
        (self.folder(number) / "cpu.max").write_text(cpu_max)
        (self.folder(number) / "memory.max").write_text(memory_max)

    def end(self, number, quality=1):
        shutil.rmtree(self.folder(number, quality))


class Node:
    """An API server, a kubelet, a tree of control groups and the resolver over them."""

    def __init__(self, folder, *, tree=None, **settings):
        self.sysfs, self.procfs = folder / "sys", folder / "proc"
        self.procfs.mkdir()
        self.tree = tree or Tree(self.sysfs)
        self.api = ApiServer()
        self.kubelet = Kubelet(folder / "kubelet.sock")
        self.settings = {
            "api_url": self.api.url,
            "node_name": NODE,
            "pod_resources_socket": self.kubelet.path,
            "pod_resources_seconds": 0.02,
        } | settings
        self.now = 1000.0
        self.resolver = self.open()

    def open(self):
        return open_in(Settings(**self.settings), Roots(self.sysfs, self.procfs), {})

    def read(self, pids=frozenset()):
        self.now += 1
        return self.resolver.read(self.now, pids, frozenset())

    def uses(self, pids=frozenset()):
        return {use.unit: use for use in self.read(pids).jobs}

    def settle(self, *pods, given=b""):
        """Put these pods and devices, and wait until the resolver has them."""
        self.kubelet.reply = given
        if pods:
            self.api.put(*pods)
        self.read()
        wait_until(lambda: self.resolver._watch._version == str(self.api.version) and self.api.watching)
        calls = self.kubelet.calls
        wait_until(lambda: self.kubelet.calls > calls + 1)

    def restart(self):
        state = orjson.loads(orjson.dumps(self.resolver.state()))
        self.resolver.close()
        self.resolver = self.open()
        self.resolver.restore(state)

    def close(self):
        self.resolver.close()
        self.kubelet.stop()
        self.api.close()


@pytest.fixture
def node(tmp_path):
    node = Node(tmp_path)
    yield node
    node.close()


def job(name):
    return {JOB_LABEL: name}


def gpus(name, *ids):
    return pod_resources(name, [("nvidia.com/gpu", list(ids))])


def test_pods_of_jobs_with_what_they_use_and_hold(node):
    node.tree.burn(1, 10)
    node.tree.burn(2, 20, quality=0)
    node.tree.burn(3, 30, quality=2)
    node.settle(
        pod(1, labels=job("bert"), resources={"requests": {"cpu": "2", "memory": "1Gi"}}),
        pod(2, labels=job("bert")),
        pod(3, labels=job("gpt")),
        pod(4, "daemon"),
        given=gpus("pod-1", *GPU[:2]) + gpus("pod-3", GPU[2]),
    )
    node.read()
    node.tree.burn(1, 13)
    node.tree.burn(2, 21.5, quality=0)
    reading = node.read()
    uses = {use.unit: use for use in reading.jobs}
    assert uses.keys() == {unit(1), unit(2), unit(3)}
    assert {u: use.training_job for u, use in uses.items()} == {
        unit(1): "lab/bert",
        unit(2): "lab/bert",
        unit(3): "lab/gpt",
    }
    assert uses[unit(1)].cpu_seconds == pytest.approx(3)
    assert uses[unit(2)].cpu_seconds == pytest.approx(1.5)
    assert uses[unit(3)].cpu_seconds == 0
    assert uses[unit(1)].devices == set(GPU[:2])
    assert (uses[unit(1)].cpus, uses[unit(1)].memory_bytes) == (2, 2**30)
    assert uses[unit(2)].cpus is None
    assert uses[unit(1)].info == {"pod_namespace": "lab"}
    assert reading.failures == ()
    assert reading.present
    # 2026-11-21T08:00:00Z, on the clock of the readings.
    age = time.time() - 1795248000
    assert uses[unit(1)].started_seconds == pytest.approx(node.now - max(0, age), abs=5)


def test_nothing_new_is_the_same_object(node):
    node.tree.burn(1, 10)
    node.settle(pod(1, labels=job("a")), given=gpus("pod-1", GPU[0]))
    node.read()
    first, second = node.uses(), node.uses()
    assert second[unit(1)] is first[unit(1)]
    node.tree.burn(1, 11)
    assert node.uses()[unit(1)] is not second[unit(1)]


def test_a_pod_seen_from_its_beginning_counts_from_its_beginning(node):
    node.tree.burn(9, 1)
    node.settle(pod(9, labels=job("old")))
    node.read()
    node.api.put(pod(1, labels=job("early")))
    wait_until(lambda: len(node.resolver._watch.known.pods) == 2)
    node.read()
    node.tree.burn(1, 0.7)
    node.tree.burn(2, 0.4)
    node.tree.burn(3, 0.9)
    assert node.uses()[unit(1)].cpu_seconds == pytest.approx(0.7)
    node.api.put(pod(2, labels=job("named a tick late")))
    wait_until(lambda: len(node.resolver._watch.known.pods) == 3)
    assert node.uses()[unit(2)].cpu_seconds == pytest.approx(0.4)
    node.api.put(pod(3, labels=job("named much later: its time was counted as system")))
    wait_until(lambda: len(node.resolver._watch.known.pods) == 4)
    assert node.uses()[unit(3)].cpu_seconds == 0


def test_a_pod_that_ends_is_counted_to_its_last_moment_and_holds_nothing(node):
    node.tree.burn(1, 10)
    node.settle(pod(1, labels=job("a")), given=gpus("pod-1", GPU[0]))
    node.read()
    node.tree.burn(1, 12)
    # The control group outlives the pod's phase; an old kubelet goes on to list its GPU.
    node.settle(pod(1, labels=job("a"), phase="Succeeded"), given=gpus("pod-1", GPU[0]))
    node.tree.burn(1, 12.5)
    last = node.uses()[unit(1)]
    assert last.cpu_seconds == pytest.approx(2.5)
    assert last.devices == frozenset()
    node.tree.end(1)
    reading = node.read()
    assert (reading.jobs, reading.failures) == ((), ())


def test_a_pod_that_ends_is_allocated_nothing_any_more(node):
    node.tree.burn(1, 10)
    asked = {"requests": {"cpu": "2", "memory": "1Gi"}}
    node.settle(pod(1, labels=job("a"), resources=asked))
    assert (node.uses()[unit(1)].cpus, node.uses()[unit(1)].memory_bytes) == (2, 2**30)
    node.settle(pod(1, labels=job("a"), resources=asked, phase="Succeeded"))
    last = node.uses()[unit(1)]
    assert (last.training_job, last.cpus, last.memory_bytes) == ("lab/a", None, None)


def test_every_pod_is_claimed_also_before_the_api_server_told_of_any(node):
    assert node.read().claimed == {"pod"}
    node.settle(pod(1))
    assert (node.read().jobs, node.read().claimed) == ((), {"pod"})


def test_a_control_group_made_anew_for_the_same_pod_counts_from_its_beginning(node):
    node.tree.burn(1, 10)
    node.settle(pod(1, labels=job("a")))
    node.read()
    node.tree.burn(1, 40)
    assert node.uses()[unit(1)].cpu_seconds == pytest.approx(30)
    node.tree.end(1)
    assert node.uses() == {}
    node.tree.burn(1, 2)
    assert node.uses()[unit(1)].cpu_seconds == pytest.approx(2)
    node.tree.burn(1, 5)
    assert node.uses()[unit(1)].cpu_seconds == pytest.approx(5)


def test_what_a_pod_used_while_it_had_no_name_is_never_its_jobs(node):
    node.tree.burn(1, 10)
    # One that waits for its control group has no CPU time to remember.
    waiting = pod(2, labels=job("b"), phase="Pending")
    given = gpus("pod-1", GPU[0]) + gpus("pod-2", GPU[1])
    node.settle(pod(1, labels=job("a")), waiting, given=given)
    node.read()
    node.tree.burn(1, 13)
    assert node.uses()[unit(1)].cpu_seconds == pytest.approx(3)
    node.settle(pod(1), given=given)
    assert node.uses()[unit(1)].training_job == ""
    node.tree.burn(1, 1013)
    node.read()
    node.settle(pod(1, labels=job("a")), given=given)
    assert node.uses()[unit(1)].cpu_seconds == 0
    node.tree.burn(1, 1014)
    assert node.uses()[unit(1)].cpu_seconds == pytest.approx(1)


def test_a_control_group_that_vanishes_ends_the_pod_without_a_failure(node):
    node.tree.burn(1, 10)
    node.settle(pod(1, labels=job("a")), given=gpus("pod-1", GPU[0]))
    assert unit(1) in node.uses()
    (node.tree.folder(1) / "cpu.stat").unlink()
    reading = node.read()
    assert (reading.jobs, reading.failures) == ((), ())
    node.tree.end(1)
    reading = node.read()
    assert (reading.jobs, reading.failures) == ((), ())
    node.settle(pod(1, labels={**job("a"), "job-name": "told anew"}), given=node.kubelet.reply)
    assert node.read().jobs == ()


def test_a_control_group_that_says_nonsense_is_a_failure_that_names_the_pod(node):
    node.tree.burn(1, 10)
    node.tree.burn(2, 10)
    node.settle(pod(1, labels=job("a")), pod(2, labels=job("b")))
    node.read()
    (node.tree.folder(1) / "cpu.stat").write_text("nonsense")
    node.tree.burn(2, 11)
    reading = node.read()
    assert [line for line in reading.failures if "lab/pod-1" in line]
    assert {use.unit: use.cpu_seconds for use in reading.jobs}[unit(2)] == pytest.approx(1)


def test_a_pending_pod_holds_its_gpus_before_it_has_a_control_group(node):
    node.settle(pod(1, labels=job("a"), phase="Pending"), given=gpus("pod-1", GPU[0]))
    assert node.uses()[unit(1)].devices == {GPU[0]}
    node.tree.burn(1, 0.5)
    assert node.uses()[unit(1)].cpu_seconds == pytest.approx(0.5)


def test_limits_of_the_control_group_stand_in_for_requests(node):
    node.tree.burn(1, 1)
    node.tree.limit(1, "150000 100000", "1073741824")
    node.tree.burn(2, 1)
    node.tree.limit(2, "max 100000", "max")
    node.settle(pod(1, labels=job("a")), pod(2, labels=job("b")))
    node.read()
    uses = node.uses()
    assert (uses[unit(1)].cpus, uses[unit(1)].memory_bytes) == (1.5, 2**30)
    assert (uses[unit(2)].cpus, uses[unit(2)].memory_bytes) == (None, None)
    node.settle(pod(1, labels={**job("a"), "job-name": "x"}))
    node.read()
    assert node.uses()[unit(1)].cpus == 1.5


def test_a_gpu_of_a_pod_without_a_name_is_the_systems_and_said_once(node, caplog):
    node.tree.burn(1, 1)
    node.settle(pod(1, "inference"), given=gpus("inference", GPU[0]) + gpus("not-told-of-yet", GPU[1]))
    node.read()
    reading = node.read()
    assert {(use.training_job, use.devices) for use in reading.jobs} == {
        ("", frozenset({GPU[0]})),
        ("", frozenset({GPU[1]})),
    }
    assert reading.failures == ()
    lines = [r.getMessage() for r in caplog.records if "belongs to no training job" in r.getMessage()]
    assert len(lines) == 1
    assert "lab/inference" in lines[0]
    assert JOB_LABEL in lines[0]


def test_one_whole_gpu_given_to_two_pods_is_a_failure_until_one_of_them_ends(node):
    node.settle(pod(1, labels=job("a")), pod(2, labels=job("b")), given=gpus("pod-1", GPU[0]) + gpus("pod-2", GPU[0]))
    reading = node.read()
    assert any("lab/pod-1 and lab/pod-2" in line for line in reading.failures)
    assert len(reading.jobs) == 2
    node.settle(pod(1, labels=job("a"), phase="Failed"), given=node.kubelet.reply)
    assert node.read().failures == ()
    shared = gpus("pod-1", f"{GPU[0]}::0") + gpus("pod-2", f"{GPU[0]}::1")
    node.settle(pod(1, labels=job("a")), given=shared)
    assert node.read().failures == ()
    assert {use.devices for use in node.read().jobs} == {frozenset({GPU[0]})}


def test_many_faults_are_said_in_few_lines(node):
    wrong = [{"name": "CARBON_TRAINING_JOB", "value": "x"}]
    node.settle(*(pod(n, env=wrong) for n in range(40)), *(pod(n + 40, labels=job("right")) for n in range(2)))
    failures = node.read().failures
    assert len(failures) == 11
    assert failures[-1] == "more pods have such faults: 30"


def test_processes_on_gpus_are_named_where_the_hosts_proc_is_seen(node):
    node.tree.burn(1, 1)
    node.settle(pod(1, labels=job("a")), pod(2), given=gpus("pod-1", GPU[0]))
    for pid, number in ((71, 1), (72, 1), (73, 2)):
        (node.procfs / str(pid)).mkdir()
        folder = f"kubepods-burstable-pod{uid_of(number).replace('-', '_')}.slice/cri-containerd-0.scope"
        (node.procfs / str(pid) / "cgroup").write_text(f"0::/kubepods.slice/kubepods-burstable.slice/{folder}\n")
    assert node.uses({71, 72, 73, 99})[unit(1)].pids == {71, 72}
    shutil.rmtree(node.procfs / "71")
    assert node.uses({71, 72})[unit(1)].pids == {71, 72}  # looked up once
    assert node.uses({72})[unit(1)].pids == {72}
    reading = node.read()
    assert {use.unit: use.pids for use in reading.jobs}[unit(1)] == frozenset()
    assert reading.failures == ()


def test_without_control_groups_gpus_still_count_and_the_cure_is_said(tmp_path):
    node = Node(tmp_path, tree=object())
    try:
        node.settle(pod(1, labels=job("a")), pod(2, labels=job("b")), given=gpus("pod-1", GPU[0]))
        reading = node.read()
        assert {use.unit: use.devices for use in reading.jobs} == {unit(1): {GPU[0]}}
        assert ["mount the host's /sys/fs/cgroup" in line for line in reading.failures] == [True]
    finally:
        node.close()


def test_each_trouble_is_one_line_and_stops_nothing_else(node):
    node.tree.burn(1, 10)
    node.settle(pod(1, labels=job("a")), given=gpus("pod-1", GPU[0]))
    node.read()
    node.kubelet.reply = b"\xff garbage"
    node.api.refuse = 403
    node.api.drop_watches()
    wait_until(lambda: len(node.read().failures) == 2)
    node.tree.burn(1, 14)
    reading = node.read()
    assert reading.jobs[0].cpu_seconds == pytest.approx(4)
    assert reading.jobs[0].devices == {GPU[0]}
    subjects = {line.partition(": ")[0] for line in reading.failures}
    assert subjects == {f"{node.api.url} refuses pods", f"{node.kubelet.path} tells no GPUs"}
    node.kubelet.reply = gpus("pod-1", GPU[1])
    node.api.refuse = 0
    wait_until(lambda: node.read().failures == ())
    assert node.uses()[unit(1)].devices == {GPU[1]}


def test_resource_slices_refused_cost_the_name_of_a_mig_device_only(node):
    node.tree.burn(1, 1)
    given = pod_resources("pod-1", claims=[claim("gpu-0-mig-1"), claim("gpu-2")])
    node.settle(pod(1, labels=job("a")), given=given)
    reading = node.read()
    assert reading.jobs[0].devices == {"gpu-0-mig-1", "nvidia2"}
    assert len(reading.failures) == 1


def test_a_restart_loses_no_cpu_time_also_while_the_api_server_is_away(node):
    node.tree.burn(1, 10)
    node.settle(pod(1, labels=job("a"), env=[]), pod(2), given=gpus("pod-1", GPU[0]))
    node.read()
    node.tree.burn(1, 15)
    before = node.uses()[unit(1)]
    node.api.away()
    node.kubelet.stop()
    node.restart()
    node.tree.burn(1, 18)
    reading = node.read()
    use = {use.unit: use for use in reading.jobs}[unit(1)]
    assert before.cpu_seconds == pytest.approx(5)
    assert use.cpu_seconds == pytest.approx(8)
    assert (use.training_job, use.devices, use.info) == ("lab/a", {GPU[0]}, {"pod_namespace": "lab"})
    wait_until(lambda: any("does not answer" in line for line in node.read().failures))
    node.api.back()
    node.kubelet.start()
    node.tree.burn(3, 0.5)
    node.api.put(pod(3, labels=job("new")))
    wait_until(lambda: unit(3) in node.uses())
    assert node.uses()[unit(1)].cpu_seconds == pytest.approx(8)


def test_a_pod_that_began_while_the_agent_was_down_counts_from_its_beginning(node):
    node.tree.burn(1, 10)
    node.tree.burn(2, 10)
    node.settle(pod(1, labels=job("a")))
    node.read()
    node.resolver.close()
    state = orjson.loads(orjson.dumps(node.resolver.state()))
    node.tree.burn(3, 5)
    node.api.put(pod(2, labels=job("was there, without a name")), pod(3, labels=job("new")))
    node.resolver = node.open()
    node.resolver.restore(state)
    node.resolver._start()
    wait_until(lambda: node.resolver._watch.known.complete)
    uses = node.uses()
    assert uses[unit(3)].cpu_seconds == pytest.approx(5)
    assert uses[unit(2)].cpu_seconds == 0


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"pods": 3},
        {"pods": [{"uid": 3}], "units": [], "given": [], "given_seconds": 0, "read_seconds": 0, "cpu": {}},
        {"pods": [], "units": [], "given": [[1]], "given_seconds": 0, "read_seconds": 0, "cpu": {}},
        {"pods": [], "units": [], "given": [], "given_seconds": "x", "read_seconds": 0, "cpu": {}},
    ],
)
def test_a_state_that_is_none_is_said_and_left(node, caplog, state):
    caplog.set_level(logging.WARNING)
    node.resolver.restore(state)
    assert "not usable" in caplog.text
    node.tree.burn(1, 1)
    node.settle(pod(1, labels=job("a")))
    assert unit(1) in node.uses()


def test_the_kubelet_is_not_asked_where_it_is_switched_off(tmp_path):
    node = Node(tmp_path, pod_resources_socket=None)
    try:
        node.tree.burn(1, 1)
        node.api.put(pod(1, labels=job("a")))
        node.read()
        wait_until(lambda: unit(1) in node.uses())
        assert node.kubelet.calls == 0
        assert node.read().failures == ()
        node.resolver.restore(node.resolver.state())
    finally:
        node.close()


def test_churn_leaves_nothing_behind(node):
    node.tree.burn(0, 1)
    node.settle(pod(0, labels=job("always")))
    for turn in range(1, 60):
        node.tree.burn(turn, 1)
        node.api.put(pod(turn, labels=job(f"job-{turn}")))
        wait_until(lambda turn=turn: uid_of(turn) in node.resolver._watch.known.pods)
        assert node.uses().keys() == {unit(0), unit(turn)}
        node.tree.end(turn)
        node.api.delete(turn)
        wait_until(lambda turn=turn: uid_of(turn) not in node.resolver._watch.known.pods)
        node.read()
    state = node.resolver.state()
    assert {len(state[key]) for key in ("cpu", "units", "pods")} == {1}
    assert state["given"] == []


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("unified", [True, False])
def test_every_layout_and_class_of_service_is_found(tmp_path, layout, unified):
    tree = Tree(tmp_path, unified=unified, layout=layout)
    for number in range(3):
        tree.burn(number, 1, quality=number)
    static = tree.folder(0).parent / tree.folder(0).name.replace(uid_of(0).replace("-", "_"), "0" * 32)
    static = static.with_name(static.name.replace(uid_of(0), "0" * 32))
    static.mkdir()
    folders = PodFolders(tree.cpu)
    assert folders.refresh(5.0) == ""
    assert folders.of.keys() == {unit(0), unit(1), unit(2), f"pod {'0' * 32}"}
    assert all((tree.cpu / folder).is_dir() for folder in folders.of.values())
    assert folders.first_seen[unit(0)] == float("-inf")
    tree.burn(7, 1)
    tree.end(1)
    assert folders.refresh(6.0) == ""
    assert folders.first_seen[unit(7)] == 6.0
    assert unit(1) not in folders.of


def test_what_comes_after_a_gap_in_looking_is_not_taken_for_new(tmp_path):
    tree = Tree(tmp_path)
    tree.burn(1, 1)
    folders = PodFolders(tree.cpu)
    folders.refresh(1.0)
    hidden = tree.cpu / "hidden"
    (tree.cpu / tree.top).rename(hidden)
    assert "no kubepods" in folders.refresh(2.0)
    assert folders.of == {}
    hidden.rename(tree.cpu / tree.top)
    tree.burn(2, 1)
    folders.refresh(3.0)
    assert folders.first_seen == {unit(1): float("-inf"), unit(2): float("-inf")}


BURN = """
import sys, time
sys.stdin.readline()
end = time.process_time() + float(sys.argv[1])
while time.process_time() < end: pass
print(time.process_time(), flush=True)
sys.stdin.readline()
"""


@contextlib.contextmanager
def real_tree(sysfs, *, unified):
    """Control groups of the kernel's own, under a folder of this test; the resolver sees that folder as the root."""
    mounted = Path("/sys/fs/cgroup")
    if unified:
        parents = [path for path in (mounted, mounted / "unified") if (path / "cgroup.controllers").is_file()]
    else:
        parents = [path for path in (mounted / "cpuacct", mounted / "cpu,cpuacct") if path.is_dir()]
    if not parents or not os.access(parents[0], os.W_OK) or os.geteuid() != 0:
        pytest.skip(f"no control groups of version {2 if unified else 1} that this user may write")
    root = parents[0] / f"carbon-exporter-test-{os.getpid()}"
    root.mkdir()
    (sysfs / "fs").mkdir(parents=True)
    if unified:
        (sysfs / "fs" / "cgroup").symlink_to(root)
    else:
        (sysfs / "fs" / "cgroup").mkdir()
        (sysfs / "fs" / "cgroup" / "cpuacct").symlink_to(root)
    try:
        yield root
    finally:
        for folder, _, _ in os.walk(root, topdown=False):
            wait_until(lambda folder=folder: gone(folder))


def gone(folder):
    """Whether the group could be removed: it lives for a moment longer than its last process."""
    with contextlib.suppress(OSError):
        Path(folder).rmdir()
    return not Path(folder).exists()


class Burner:
    """A real process in a pod's real control group, in a container's below it."""

    def __init__(self, pod_folder, seconds):
        container = pod_folder / "container"
        container.mkdir(parents=True)
        self.process = subprocess.Popen(
            [sys.executable, "-c", BURN, str(seconds)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        (container / "cgroup.procs").write_text(str(self.process.pid))

    def burn(self):
        """Burn, and give the process's own count."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def end(self):
        with self.process:
            self.process.kill()


@pytest.mark.parametrize("unified", [True, False], ids=["v2", "v1"])
def test_two_pods_of_one_job_and_one_of_another_by_the_kernels_own_count(tmp_path, unified):
    with real_tree(tmp_path / "sys", unified=unified) as root, contextlib.ExitStack() as stack:
        (root / "kubepods" / "burstable").mkdir(parents=True)
        node = Node(tmp_path, tree=object())
        stack.callback(node.close)
        node.settle(
            pod(1, labels=job("bert")),
            pod(2, labels=job("bert")),
            pod(3, labels=job("gpt")),
            given=gpus("pod-1", GPU[0]) + gpus("pod-2", GPU[1]) + gpus("pod-3", f"{GPU[2]}::1"),
        )
        node.read()
        burners = {}
        for number, seconds in ((1, 0.3), (2, 0.1), (3, 0.2)):
            burners[number] = Burner(root / "kubepods" / "burstable" / f"pod{uid_of(number)}", seconds)
            stack.callback(burners[number].end)
        started = node.uses()
        burnt = {number: burner.burn() for number, burner in burners.items()}
        uses = node.uses()
        for number, seconds in burnt.items():
            # A pod that is new counts whole; what the interpreter took before it was moved there is not in the group.
            assert uses[unit(number)].cpu_seconds == pytest.approx(seconds, abs=0.06)
            assert uses[unit(number)].cpu_seconds > started[unit(number)].cpu_seconds
        of_job = {
            name: sum(use.cpu_seconds for use in uses.values() if use.training_job == name)
            for name in ("lab/bert", "lab/gpt")
        }
        assert of_job["lab/bert"] / of_job["lab/gpt"] == pytest.approx(2, rel=0.25)
        assert [uses[unit(n)].devices for n in (1, 2, 3)] == [{GPU[0]}, {GPU[1]}, {GPU[2]}]
        burners[1].end()
        folder = root / "kubepods" / "burstable" / f"pod{uid_of(1)}"
        wait_until(lambda: gone(folder / "container") and gone(folder))
        reading = node.read()
        assert {use.unit for use in reading.jobs} == {unit(2), unit(3)}
        assert reading.failures == ()
