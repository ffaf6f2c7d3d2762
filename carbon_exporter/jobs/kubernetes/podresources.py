"""Which GPUs were given to which pod: the kubelet's PodResources API, version 1.

https://kubernetes.io/docs/concepts/extend-kubernetes/compute-storage-net/device-plugins/
#monitoring-device-plugin-resources, and k8s.io/kubelet/pkg/apis/podresources/v1/api.proto.
"""

import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from carbon_exporter.naming import training_job_name

METHOD: Final = "/v1.PodResourcesLister/List"
ANSWER_SECONDS: Final = 5.0
_SHORTEST_SECONDS: Final = 1.0
"""Between two calls, however often pods change."""
KEEP_SECONDS: Final = 300.0
"""The last answer of a kubelet that answers no more is believed for this long."""
DRA_DRIVER: Final = "gpu.nvidia.com"
_UUID: Final = re.compile(r"(?:GPU|MIG)-[0-9A-Fa-f-]{4,}(?:/\d+/\d+)?")
_GPU: Final = re.compile(r"(?:GPU|MIG)-[0-9A-Fa-f-]+(?:/\d+/\d+)?|nvidia\d+(?:/gi\d+)?")
_SHARED: Final = re.compile(r"(?:::\d+|/vgpu\d+)$")
_WHOLE: Final = re.compile(r"gpu-(\d+)")
_NVIDIA: Final = re.compile(r"nvidia\.com/(?:gpu|mig-)")

# Message -> (field, its number, the message that it is a list of; "" for text, "text" for a list of texts).
_MESSAGES: Final[Mapping[str, tuple[tuple[str, int, str], ...]]] = {
    "ListPodResourcesResponse": (("pod_resources", 1, "PodResources"),),
    "PodResources": (("name", 1, ""), ("namespace", 2, ""), ("containers", 3, "ContainerResources")),
    "ContainerResources": (
        ("name", 1, ""),
        ("devices", 2, "ContainerDevices"),
        ("dynamic_resources", 5, "DynamicResource"),
    ),
    "ContainerDevices": (("resource_name", 1, ""), ("device_ids", 2, "text")),
    "DynamicResource": (("claim_name", 2, ""), ("claim_namespace", 3, ""), ("claim_resources", 4, "ClaimResource")),
    "ClaimResource": (
        ("cdi_devices", 1, "CDIDevice"),
        ("driver_name", 2, ""),
        ("pool_name", 3, ""),
        ("device_name", 4, ""),
    ),
    "CDIDevice": (("name", 1, ""),),
}


class Device(NamedTuple):
    """A device as model.JobUse.devices names it, fit for a line of the log, and whether several pods may have it."""

    name: str
    shared: bool


class DraDevice(NamedTuple):
    """A device given by dynamic resource allocation: its name within a driver's pool."""

    pool: str
    name: str


PodName = tuple[str, str]
"""Namespace and name: all that the kubelet tells of a pod."""


def response_class() -> type[Message]:
    """The class of ListPodResourcesResponse, with the fields that are read here; others are skipped when parsed."""
    file = descriptor_pb2.FileDescriptorProto(name="podresources.proto", package="v1", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto
    for message, message_fields in _MESSAGES.items():
        described = file.message_type.add(name=message)
        for name, number, kind in message_fields:
            label = kinds.LABEL_REPEATED if kind else kinds.LABEL_OPTIONAL
            if kind in ("", "text"):
                described.field.add(name=name, number=number, label=label, type=kinds.TYPE_STRING)
            else:
                described.field.add(
                    name=name, number=number, label=label, type=kinds.TYPE_MESSAGE, type_name=f".v1.{kind}"
                )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("v1.ListPodResourcesResponse"))


def device_name(resource: str, device_id: str) -> Device | None:
    """What a device plugin calls `device_id`; None where it is no GPU of NVIDIA's.

    Replicas of time-slicing and MPS end in ::N, vGPUs in /vgpuN: both are parts of a GPU that others may share.
    """
    name = _SHARED.sub("", device_id)
    if _GPU.fullmatch(name) or _NVIDIA.match(resource):
        return Device(training_job_name(name), shared=name != device_id)
    return None


def devices_of(container: Any, uuid_of: Callable[[DraDevice], str | None]) -> Iterator[Device]:
    """The GPUs of one container of the answer; `uuid_of` looks up what only the driver's ResourceSlices tell."""
    for given in container.devices:
        for device_id in given.device_ids:
            if device := device_name(given.resource_name, device_id):
                yield device
    for dynamic in container.dynamic_resources:
        for claim in dynamic.claim_resources:
            if claim.driver_name == DRA_DRIVER:
                yield Device(training_job_name(_dynamic_name(claim, uuid_of)), shared=True)  # pods may share a claim


def _dynamic_name(claim: Any, uuid_of: Callable[[DraDevice], str | None]) -> str:
    uuids = [found[0] for device in claim.cdi_devices if (found := _UUID.search(device.name))]
    if uuids:
        return uuids[0]
    if whole := _WHOLE.fullmatch(claim.device_name):
        return f"nvidia{whole[1]}"
    return uuid_of(DraDevice(claim.pool_name, claim.device_name)) or claim.device_name


def conflicts(given: Mapping[PodName, Iterable[Device]]) -> list[str]:
    """A line for each device that several pods have and that is not made to be shared."""
    owners: dict[str, list[PodName]] = defaultdict(list)
    for pod, devices in given.items():
        for name in {device.name for device in devices if not device.shared}:
            owners[name].append(pod)
    return [
        f"{name} is given to pods {' and '.join(sorted(training_job_name('/'.join(pod)) for pod in pods))}: "
        "the kubelet gives a whole device to one pod only; its joules are shared between them"
        for name, pods in sorted(owners.items())
        if len(pods) > 1
    ]


class PodResources:
    """The GPUs of this node's pods, asked for in a thread of its own.

    Args:
        socket: the kubelet's.
        seconds: between two calls; a change of pods is asked about at once.
        uuid_of: as devices_of.
        clock: seconds, for the age of an answer.

    Attributes:
        given: the devices of each pod that has one; replaced whole, never changed. Empty when it got too old.
        failure: why it may be out of date, one line; "" while the kubelet answers.
    """

    def __init__(
        self, socket: Path, seconds: float, uuid_of: Callable[[DraDevice], str | None], clock: Callable[[], float]
    ) -> None:
        self.given: Mapping[PodName, frozenset[Device]] = {}
        self.answered_seconds = float("-inf")
        self.failure = ""
        self._socket = socket
        self._seconds = seconds
        self._uuid_of = uuid_of
        self._clock = clock
        self._response = response_class()
        self._channel: grpc.Channel | None = None
        self._ask = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kubelet pod resources", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def ask_soon(self) -> None:
        """Pods have changed."""
        self._ask.set()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._ask.set()
        if self._channel is not None:
            self._channel.close()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._ask.clear()
            try:
                given = self._list()
            except (grpc.RpcError, DecodeError, ValueError) as error:
                self._note_failure(_reason(error))
            except Exception as error:  # noqa: BLE001 - a bug here must not end the thread for good
                self._note_failure(f"{type(error).__name__}: {error}")
            else:
                if given != self.given:
                    self.given = given
                self.failure, self.answered_seconds = "", self._clock()
            self._stop.wait(min(_SHORTEST_SECONDS, self._seconds))
            self._ask.wait(max(0.0, self._seconds - _SHORTEST_SECONDS))

    def _list(self) -> Mapping[PodName, frozenset[Device]]:
        """The kubelet's answer.

        Raises:
            grpc.RpcError, DecodeError, ValueError: there is no usable one.
        """
        if self._channel is None:
            self._channel = grpc.insecure_channel(
                f"unix://{self._socket}",
                # The kubelet itself sends no more than 16 MiB.
                options=(("grpc.max_receive_message_length", 16 * 2**20), ("grpc.enable_http_proxy", 0)),
            )
        call = self._channel.unary_unary(METHOD, request_serializer=None, response_deserializer=None)
        answer: Any = self._response.FromString(call(b"", timeout=ANSWER_SECONDS))
        given: dict[PodName, frozenset[Device]] = {}
        for pod in answer.pod_resources:
            devices = frozenset(
                device for container in pod.containers for device in devices_of(container, self._uuid_of)
            )
            if devices:
                given[pod.namespace, pod.name] = devices
        return given

    def _note_failure(self, reason: str) -> None:
        if self._stop.is_set():
            return
        self.failure = f"{self._socket} tells no GPUs: {reason}"
        if self._channel is not None:  # a new one does not wait for the old one's next attempt
            self._channel.close()
            self._channel = None
        if self.given and self._clock() - self.answered_seconds > KEEP_SECONDS:
            self.given = {}


def _reason(error: Exception) -> str:
    """The cause and the cure, in words."""
    if not isinstance(error, grpc.Call):
        return "the answer is garbage; is it the kubelet's socket?"
    code = error.code()
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return "the kubelet does not know PodResources v1; it came with Kubernetes 1.20"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no answer in {ANSWER_SECONDS:.0f} s"
    if code is grpc.StatusCode.UNAVAILABLE:
        return (
            "nobody answers there; mount /var/lib/kubelet/pod-resources from the host, "
            "or set jobs.kubernetes.pod_resources_socket"
        )
    return f"{code.name}"
