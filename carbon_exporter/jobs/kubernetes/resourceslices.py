"""What GPUs given by dynamic resource allocation are called: the driver says so in its ResourceSlices.

https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

from carbon_exporter.jobs.kubernetes.api import Api, ApiError, NotFoundError
from carbon_exporter.jobs.kubernetes.podresources import DRA_DRIVER, DraDevice

_PATH: Final = "/apis/resource.k8s.io/{}/resourceslices"
_AGAIN_SECONDS: Final = 60.0
"""A device that no slice tells of is looked for no more often than this."""


class ResourceSlices:
    """The UUIDs of one node's devices by pool and name."""

    def __init__(self, api: Api, node: str, clock: Callable[[], float]) -> None:
        self._failure = ""
        self._api = api
        self._node = node
        self._clock = clock
        self._uuids: dict[DraDevice, str] = {}
        self._asked_seconds = self._missed_seconds = float("-inf")

    @property
    def failure(self) -> str:
        """Why devices that pods have now are not known, one line; "" where all are."""
        return self._failure if self._clock() - self._missed_seconds <= _AGAIN_SECONDS else ""

    def uuid_of(self, device: DraDevice) -> str | None:
        """The UUID of `device`; the API server is asked where it is not known yet."""
        now = self._clock()
        if device not in self._uuids and now - self._asked_seconds >= _AGAIN_SECONDS:
            self._asked_seconds = now
            try:
                self._uuids = dict(_uuids(self._list()))
                self._failure = ""
            except ApiError as error:
                self._failure = str(error)
        if device not in self._uuids:
            self._missed_seconds = now
        return self._uuids.get(device)

    def _list(self) -> Any:
        """In the newest version that the server knows: v1 came with Kubernetes 1.34, v1beta1 with 1.32."""
        selector = {"fieldSelector": f"spec.nodeName={self._node}"}
        try:
            return self._api.get(_PATH.format("v1"), selector)
        except NotFoundError:
            return self._api.get(_PATH.format("v1beta1"), selector)


def _uuids(answer: Any) -> Iterator[tuple[DraDevice, str]]:
    """Of each device that has one; v1beta1 keeps the attributes one level deeper."""
    for item in _parts(answer, "items"):
        spec = _at(item, "spec")
        if _at(spec, "driver") != DRA_DRIVER:
            continue
        pool = _at(spec, "pool", "name")
        for device in _parts(spec, "devices"):
            attributes = _at(device, "attributes") or _at(device, "basic", "attributes")
            name, uuid = _at(device, "name"), _at(attributes, "uuid", "string")
            if isinstance(pool, str) and isinstance(name, str) and isinstance(uuid, str):
                yield DraDevice(pool, name), uuid


def _at(value: Any, *keys: str) -> Any:
    """What lies at this path; None where the path leads nowhere."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _parts(value: Any, key: str) -> list[Any]:
    found = _at(value, key)
    return found if isinstance(found, list) else []
