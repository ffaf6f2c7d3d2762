"""GPUs of pods: a kubelet that speaks PodResources over a real unix socket, well and badly."""

import grpc
import pytest
from fake_kubernetes import NODE, ApiServer, Kubelet, claim, pod_resources, wait_until

from carbon_exporter.jobs.kubernetes import podresources
from carbon_exporter.jobs.kubernetes.api import Api
from carbon_exporter.jobs.kubernetes.names import Namer
from carbon_exporter.jobs.kubernetes.pieces import Pieces
from carbon_exporter.jobs.kubernetes.podresources import Device, DraDevice, PodResources, conflicts, device_name
from carbon_exporter.jobs.kubernetes.resourceslices import ResourceSlices

GPU = "GPU-3cf4e2a1-7d70-4c42-a3a4-bb7f9a6d0a5e"
MIG = "MIG-0f3a8b0c-9a7f-5d0b-8f43-1f6b2d3c4e5f"


@pytest.fixture
def kubelet(tmp_path):
    kubelet = Kubelet(tmp_path / "kubelet.sock")
    yield kubelet
    kubelet.stop()


@pytest.fixture
def opened():
    asked = []
    yield asked
    for resources in asked:
        resources.close()
        assert not resources._thread.is_alive()


def ask(path, opened, *, seconds=0.02, uuid_of=lambda device: None, clock=lambda: 0.0):
    resources = PodResources(path, seconds, uuid_of, clock)
    opened.append(resources)
    resources.start()
    return resources


@pytest.mark.parametrize(
    ("resource", "given", "name", "shared"),
    [
        ("nvidia.com/gpu", GPU, GPU, False),
        ("nvidia.com/mig-3g.20gb", MIG, MIG, False),
        ("nvidia.com/mig-1g.5gb", f"MIG-{GPU}/7/0", f"MIG-{GPU}/7/0", False),
        ("nvidia.com/gpu", f"{GPU}::3", GPU, True),
        ("nvidia.com/gpu.shared", f"{MIG}::11", MIG, True),
        ("nvidia.com/gpu", f"{GPU}/vgpu2", GPU, True),
        ("nvidia.com/gpu", "nvidia3", "nvidia3", False),
        ("nvidia.com/gpu", "nvidia0/gi4", "nvidia0/gi4", False),
        ("nvidia.com/gpu", "nvidia0/gi4/vgpu1", "nvidia0/gi4", True),
        ("nvidia.com/gpu", "nvidia0/vgpu7", "nvidia0", True),
        ("example.com/renamed-gpu", GPU, GPU, False),
        ("nvidia.com/gpu", "who knows", "who knows", False),
        ("nvidia.com/gpu", "two\nlines\x1b[2J::4", "two_lines_[2J", True),
    ],
)
def test_every_spelling_of_a_gpu(resource, given, name, shared):
    assert device_name(resource, given) == Device(name, shared)


@pytest.mark.parametrize(
    ("resource", "given"),
    [
        ("nvidia.com/hostdev", "0000:03:00.0"),
        ("rdma/hca_shared_devices", "3"),
        ("intel.com/sriov", "0000:5e:02.1"),
        ("amd.com/gpu", "0000:c1:00.0"),
        ("gpu.intel.com/i915", "card0-0"),
        ("example.com/gpu", "nvidia-lookalike"),
    ],
)
def test_a_nic_is_no_gpu(resource, given):
    assert device_name(resource, given) is None


def test_the_devices_of_each_pod(kubelet, opened):
    kubelet.reply = (
        pod_resources("a", [("nvidia.com/gpu", [GPU, "nvidia1"]), ("intel.com/sriov", ["0000:5e:02.1"])])
        + pod_resources("b", [("nvidia.com/gpu.shared", [f"{GPU}::2"])], namespace="other")
        + pod_resources("c")
    )
    resources = ask(kubelet.path, opened)
    wait_until(lambda: resources.given)
    assert resources.given == {
        ("lab", "a"): {Device(GPU, False), Device("nvidia1", False)},
        ("other", "b"): {Device(GPU, True)},
    }
    assert resources.failure == ""


def test_dynamic_allocation_names_gpus_by_minor_by_cdi_and_by_slices(kubelet, opened):
    kubelet.reply = pod_resources(
        "a",
        claims=[
            claim("gpu-3"),
            claim("gpu-1-mig-2-0", cdi=[f"k8s.gpu.nvidia.com/claim=x-{MIG}"]),
            claim("gpu-0-mig-9-4-4", pool="pool-7"),
            claim("gpu-5-mig-unknown"),
            claim("channel-0", driver="compute-domain.nvidia.com"),
            claim("gpu-0", driver="gpu.example.com"),
        ],
    )
    uuids = {DraDevice("pool-7", "gpu-0-mig-9-4-4"): "MIG-abcd"}
    resources = ask(kubelet.path, opened, uuid_of=uuids.get)
    wait_until(lambda: resources.given)
    assert {device.name for device in resources.given["lab", "a"]} == {"nvidia3", MIG, "MIG-abcd", "gpu-5-mig-unknown"}


def test_no_text_of_the_kubelet_or_a_driver_splits_a_line(kubelet, opened):
    kubelet.reply = pod_resources("a", claims=[claim("one\nline"), claim("other", pool="p")])
    uuids = {DraDevice("p", "other"): "MIG-ab\r\ncd"}
    resources = ask(kubelet.path, opened, uuid_of=uuids.get)
    wait_until(lambda: resources.given)
    assert {device.name for device in resources.given["lab", "a"]} == {"one_line", "MIG-ab__cd"}
    (line,) = conflicts({("lab", name): {Device(GPU, shared=False)} for name in ("a\nb", "c")})
    assert line.startswith(f"{GPU} is given to pods lab/a_b and lab/c: ")
    pieces = Pieces(Namer((), {}), lambda: 0.0)
    pieces.take({}, {("lab", "a\nb"): frozenset({Device(GPU, shared=False)})}, (), 1.0)
    assert [use.unit for use in pieces.strangers] == ["pod lab/a_b"]


def test_an_equal_answer_is_the_same_object(kubelet, opened):
    kubelet.reply = pod_resources("a", [("nvidia.com/gpu", [GPU])])
    resources = ask(kubelet.path, opened)
    wait_until(lambda: resources.given)
    given, calls = resources.given, kubelet.calls
    wait_until(lambda: kubelet.calls > calls + 2)
    assert resources.given is given


def test_a_change_of_pods_is_asked_about_soon(kubelet, opened, monkeypatch):
    monkeypatch.setattr(podresources, "_SHORTEST_SECONDS", 0.01)
    resources = ask(kubelet.path, opened, seconds=600)
    wait_until(lambda: kubelet.calls == 1)
    resources.ask_soon()
    wait_until(lambda: kubelet.calls == 2)


def test_the_last_good_answer_is_kept_for_a_while(kubelet, opened):
    now = [1000.0]
    kubelet.reply = pod_resources("a", [("nvidia.com/gpu", [GPU])])
    resources = ask(kubelet.path, opened, clock=lambda: now[0])
    wait_until(lambda: resources.given)
    kubelet.reply = b"\xff\xff garbage"
    wait_until(lambda: resources.failure)
    assert "garbage" in resources.failure
    assert str(kubelet.path) in resources.failure.partition(": ")[0]
    assert ("lab", "a") in resources.given
    now[0] += podresources.KEEP_SECONDS + 1
    wait_until(lambda: not resources.given)
    kubelet.reply = pod_resources("a", [("nvidia.com/gpu", [GPU])])
    wait_until(lambda: resources.given and not resources.failure)


def test_a_missing_socket_names_the_cure_and_is_found_when_it_comes(tmp_path, opened):
    resources = ask(tmp_path / "late.sock", opened)
    wait_until(lambda: resources.failure)
    assert "mount /var/lib/kubelet/pod-resources" in resources.failure
    kubelet = Kubelet(tmp_path / "late.sock")
    try:
        kubelet.reply = pod_resources("a", [("nvidia.com/gpu", [GPU])])
        wait_until(lambda: resources.given)
        assert resources.failure == ""
    finally:
        kubelet.stop()


def test_a_kubelet_that_restarts_is_asked_again(kubelet, opened):
    resources = ask(kubelet.path, opened)
    wait_until(lambda: kubelet.calls)
    kubelet.stop()
    wait_until(lambda: resources.failure)
    kubelet.start()
    kubelet.reply = pod_resources("a", [("nvidia.com/gpu", [GPU])])
    wait_until(lambda: resources.given)


def test_a_kubelet_that_answers_late_is_given_up(kubelet, opened, monkeypatch):
    monkeypatch.setattr(podresources, "ANSWER_SECONDS", 0.1)
    kubelet.delay_seconds = 0.4
    resources = ask(kubelet.path, opened)
    wait_until(lambda: resources.failure)
    assert "no answer in" in resources.failure
    kubelet.delay_seconds = 0.0
    wait_until(lambda: not resources.failure)


def test_an_old_kubelet_says_that_it_does_not_know(kubelet, opened):
    kubelet.known = False
    resources = ask(kubelet.path, opened)
    wait_until(lambda: resources.failure)
    assert "does not know PodResources v1" in resources.failure


def test_a_file_that_is_no_socket_is_a_failure(tmp_path, opened):
    (tmp_path / "file").write_text("")
    resources = ask(tmp_path / "file", opened)
    wait_until(lambda: resources.failure)


def test_closing_does_not_wait_for_a_late_kubelet(kubelet, opened):
    kubelet.delay_seconds = 1.0
    resources = ask(kubelet.path, opened)
    wait_until(lambda: kubelet.calls)
    resources.close()
    assert not resources._thread.is_alive()
    assert resources.failure == ""


def test_a_whole_gpu_given_twice_names_both_pods():
    given = {
        ("lab", "b"): frozenset({Device(GPU, shared=False)}),
        ("lab", "a"): frozenset({Device(GPU, shared=False), Device("nvidia1", shared=True)}),
        ("lab", "c"): frozenset({Device("nvidia1", shared=True), Device(GPU, shared=True)}),
    }
    (line,) = conflicts(given)
    assert line.startswith(f"{GPU} is given to pods lab/a and lab/b: ")


def mig_slice(*, basic):
    device = {"attributes": {"uuid": {"string": MIG}, "type": {"string": "mig"}}}
    devices = [{"name": "gpu-0-mig-9-4-4", **({"basic": device} if basic else device)}, {"name": 7}, None]
    other = {"name": "gpu-0-mig-9-4-4", "attributes": {"uuid": {"string": "of another driver"}}}
    return {
        "items": [
            {"spec": {"driver": "gpu.nvidia.com", "pool": {"name": NODE}, "devices": devices}},
            {"spec": {"driver": "gpu.example.com", "pool": {"name": NODE}, "devices": [other]}},
            3,
        ]
    }


@pytest.fixture
def server():
    server = ApiServer()
    yield server
    server.close()


@pytest.mark.parametrize(("version", "basic"), [("v1", False), ("v1beta1", True)])
def test_resource_slices_of_both_versions_tell_uuids(server, version, basic):
    server.slices[version] = mig_slice(basic=basic)
    slices = ResourceSlices(Api(server.url, "", ""), NODE, lambda: 0.0)
    assert slices.uuid_of(DraDevice(NODE, "gpu-0-mig-9-4-4")) == MIG
    asked = len(server.requests)
    assert slices.uuid_of(DraDevice(NODE, "gpu-0-mig-9-4-4")) == MIG
    assert slices.uuid_of(DraDevice(NODE, "another")) is None
    assert len(server.requests) == asked
    assert slices.failure == ""
    assert server.requests[0][1] == {"fieldSelector": f"spec.nodeName={NODE}"}


@pytest.mark.parametrize("status", [403, 404, 500])
def test_slices_that_are_refused_are_a_failure_and_asked_again_later(server, status):
    now = [0.0]
    server.refuse = status
    slices = ResourceSlices(Api(server.url, "", ""), NODE, lambda: now[0])
    assert slices.uuid_of(DraDevice(NODE, "x")) is None
    assert str(status) in slices.failure
    assert status != 403 or "list and watch resourceslices" in slices.failure
    server.refuse = 0
    server.slices["v1"] = mig_slice(basic=False)
    assert slices.uuid_of(DraDevice(NODE, "gpu-0-mig-9-4-4")) is None
    now[0] += 60
    assert slices.failure  # somebody has just asked
    now[0] += 1
    assert slices.failure == ""  # nobody has such a device any more
    assert slices.uuid_of(DraDevice(NODE, "gpu-0-mig-9-4-4")) == MIG
    assert slices.failure == ""


@pytest.mark.parametrize("answer", [3, [], {"items": 3}, {"items": [{"spec": {"devices": 3}}]}, {}])
def test_slices_of_odd_shape_tell_nothing(server, answer):
    server.slices["v1"] = answer
    slices = ResourceSlices(Api(server.url, "", ""), NODE, lambda: 0.0)
    assert slices.uuid_of(DraDevice(NODE, "x")) is None


def test_the_reason_of_any_other_status_is_its_name(tmp_path, opened):
    class Refusing(Kubelet):
        def _answer(self, request, context):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "secret details")

    kubelet = Refusing(tmp_path / "kubelet.sock")
    try:
        resources = ask(kubelet.path, opened)
        wait_until(lambda: resources.failure)
        assert resources.failure.endswith(": RESOURCE_EXHAUSTED")
    finally:
        kubelet.stop()
