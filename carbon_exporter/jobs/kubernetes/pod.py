"""What is kept of a pod, and how it is taken from the API's object, which anybody may have written. Pure."""

import datetime as dt
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from carbon_exporter.model import Json
from carbon_exporter.naming import GROUP, JOB, NAMESPACE

_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_FIELD: Final = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")
_QUANTITY: Final = re.compile(r"(\+?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:([eE][+-]?[0-9]{1,3})|([numkMGTPE]|[KMGTPE]i)?)")
_SMALL: Final = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3}
_DECIMAL: Final = {letter: 1e3**power for power, letter in enumerate("MGTPE", start=2)}
_BINARY: Final = {f"{letter}i": 1024.0**power for power, letter in enumerate("KMGTPE", start=1)}
_UNITS: Final = _SMALL | _DECIMAL | _BINARY
_STATIC_UID: Final = "kubernetes.io/config.hash"
_LONGEST_VALUE: Final = 4096
"""A longer label, annotation or variable is no name, and is taken as not there: an annotation may have 256 KiB."""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of this node.

    Attributes:
        uid: as its control group has it, which for a static pod is the hash of its file.
        active: False when it has ended for good, and holds nothing any more.
        start_seconds: when the first of its running containers began, else when the kubelet took it up; Unix time.
        cpus, memory_bytes: what it requests; None where it does not say.
        labels: those asked for, of its labels or else of its annotations.
        environment: variables of its containers that name the job; None where the value cannot be known from here.
        wants_devices: whether it asks for anything that a device plugin or driver gives.
    """

    uid: str
    namespace: str
    name: str
    active: bool
    start_seconds: float | None
    cpus: float | None
    memory_bytes: float | None
    labels: Mapping[str, str]
    environment: Mapping[str, str | None]
    wants_devices: bool = False

    def to_json(self) -> Json:
        """The state for `from_json`."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_json(cls, state: Json) -> "Pod":
        """The pod that `to_json` described.

        Raises:
            KeyError, TypeError, ValueError: the state is not one.
        """
        uid, namespace, name = (_checked(state[key]) for key in ("uid", "namespace", "name"))
        start, cpus, memory = (
            None if state[key] is None else float(state[key]) for key in ("start_seconds", "cpus", "memory_bytes")
        )
        labels = {str(key): str(value) for key, value in dict(state["labels"]).items()}
        environment = {
            str(key): None if value is None else str(value) for key, value in dict(state["environment"]).items()
        }
        wants = bool(state["wants_devices"])
        return cls(uid, namespace, name, bool(state["active"]), start, cpus, memory, labels, environment, wants)


def parse_pod(found: Any, wanted: Collection[str]) -> Pod:
    """The pod in an object of the API; `wanted` are the labels and annotations to keep.

    Raises:
        ValueError: it has no sound UID, namespace or name. Whatever else is odd is left out.
    """
    metadata, spec, status = (_mapping(_mapping(found).get(key)) for key in ("metadata", "spec", "status"))
    labels, annotations = _texts(metadata.get("labels")), _texts(metadata.get("annotations"))
    uid = _checked(annotations.get(_STATIC_UID) or metadata.get("uid"))
    namespace, name = _checked(metadata.get("namespace")), _checked(metadata.get("name"))
    if status.get("phase") in ("Succeeded", "Failed"):
        return Pod(uid, namespace, name, False, None, None, None, {}, {})
    known = {"metadata.name": name, "metadata.namespace": namespace, "metadata.uid": str(metadata.get("uid"))}

    def field_value(path: str) -> str | None:
        if part := _FIELD.fullmatch(path):
            return (labels if part[1] == "labels" else annotations).get(part[2], "")
        return known.get(path)

    return Pod(
        uid=uid,
        namespace=namespace,
        name=name,
        active=True,
        start_seconds=_start_seconds(status),
        cpus=_requested(spec, "cpu"),
        memory_bytes=_requested(spec, "memory"),
        labels={key: value for key, value in (annotations | labels).items() if key in wanted},
        environment=_environment(_mappings(spec.get("containers")), field_value),
        wants_devices=bool(spec.get("resourceClaims")) or any(map(_wants_devices, _mappings(spec.get("containers")))),
    )


def _wants_devices(container: Mapping[str, Any]) -> bool:
    """An extended resource has a domain in its name: nvidia.com/gpu."""
    limits = _mapping(_mapping(container.get("resources")).get("limits"))
    return any("/" in str(resource) for resource in limits)


def _environment(
    containers: Iterable[Mapping[str, Any]], field_value: Callable[[str], str | None]
) -> dict[str, str | None]:
    """The naming variables of the first container that has one."""
    for container in containers:
        found: dict[str, str | None] = {}
        for variable in _mappings(container.get("env")):
            name = variable.get("name")
            if name in (JOB, GROUP, NAMESPACE) and not _is_long(variable.get("value")):
                found[name] = _value(variable, field_value)
        if JOB in found or GROUP in found:
            return found
    return {}


def _value(variable: Mapping[str, Any], field_value: Callable[[str], str | None]) -> str | None:
    """The variable's value; None where it comes from a secret, a config map or another variable."""
    if "valueFrom" in variable:
        path = _mapping(_mapping(variable["valueFrom"]).get("fieldRef")).get("fieldPath")
        return field_value(path) if isinstance(path, str) else None
    value = variable.get("value", "")
    return value if isinstance(value, str) and "$(" not in value else None


def quantity(text: Any) -> float | None:
    """A Kubernetes quantity, such as 500m, 1e3 or 1.5Gi; None for what is none, or negative.

    https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
    """
    match = _QUANTITY.fullmatch(str(text)) if isinstance(text, str | int | float) else None
    if match is None:
        return None
    number, exponent, unit = match.groups()
    value = float(number + (exponent or "")) * _UNITS[unit or ""]
    return value if math.isfinite(value) else None


def _requested(spec: Mapping[str, Any], resource: str) -> float | None:
    """What the scheduler reserves for the pod; None where no container says.

    The sum of its containers, and of the init containers that go on beside them (sidecars); or what one of the other
    init containers needs together with the sidecars started before it, if that is more; plus the pod's overhead.
    """
    overhead = quantity(_mapping(spec.get("overhead")).get(resource)) or 0.0
    of_pod = _amount(spec, resource)
    if of_pod is not None:
        return of_pod + overhead
    amounts = [_amount(container, resource) for container in _mappings(spec.get("containers"))]
    sidecars = most_at_start = 0.0
    for container in _mappings(spec.get("initContainers")):
        amounts.append(amount := _amount(container, resource))
        if container.get("restartPolicy") == "Always":
            sidecars += amount or 0.0
        else:
            most_at_start = max(most_at_start, sidecars + (amount or 0.0))
    if all(amount is None for amount in amounts):
        return None
    together = sum(_amount(container, resource) or 0.0 for container in _mappings(spec.get("containers")))
    return max(together + sidecars, most_at_start) + overhead


def _amount(part: Mapping[str, Any], resource: str) -> float | None:
    """Its request, else its limit."""
    resources = _mapping(part.get("resources"))
    request = quantity(_mapping(resources.get("requests")).get(resource))
    return quantity(_mapping(resources.get("limits")).get(resource)) if request is None else request


def _start_seconds(status: Mapping[str, Any]) -> float | None:
    """Without the images pulled and the init containers run before, where a container runs already."""
    states = (_mapping(container.get("state")) for container in _mappings(status.get("containerStatuses")))
    began = (_unix_seconds(_mapping(state.get("running")).get("startedAt")) for state in states)
    return min((seconds for seconds in began if seconds is not None), default=_unix_seconds(status.get("startTime")))


def _unix_seconds(text: Any) -> float | None:
    """RFC 3339 in UTC, as the API writes it: 2026-11-21T08:00:00Z."""
    try:
        return dt.datetime.strptime(str(text), "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except (ValueError, OverflowError):
        return None


def _checked(text: Any) -> str:
    if isinstance(text, str) and _NAME.fullmatch(text):
        return text
    raise ValueError("no sound UID, namespace or name")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []


def _texts(value: Any) -> dict[str, str]:
    return {key: text for key, text in _mapping(value).items() if isinstance(text, str) and not _is_long(text)}


def _is_long(value: Any) -> bool:
    return isinstance(value, str) and len(value) > _LONGEST_VALUE
