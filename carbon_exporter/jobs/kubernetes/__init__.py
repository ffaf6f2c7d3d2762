"""Jobs in Kubernetes: this node's pods, by the API server, the kubelet and their control groups.

api.py asks the API server; pod.py takes from a pod what is needed, pods.py keeps all of them up to date; names.py says
which training job a pod belongs to; podresources.py asks the kubelet who was given which GPU, resourceslices.py what
GPUs given by dynamic allocation are called; folders.py finds the control groups; resolver.py puts it all together.
region.py asks the API server which cloud region the node is in.
"""

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from carbon_exporter import settings
from carbon_exporter.jobs.kubernetes.api import Api
from carbon_exporter.jobs.kubernetes.region import node_region
from carbon_exporter.metrics import JOB_INFO
from carbon_exporter.model import Json, Resolver, ResolverReading, Roots
from carbon_exporter.regions import zone_hint

RANK: Final = 0
"""Comes first: what runs in a pod is counted here."""
ABSENT: Final = "no cluster: this is not a pod, and jobs.kubernetes.api_url is not set"
_SERVICE_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
_URL: Final = re.compile(r"https?://[^/@\s?#]+[^@\s?#]*")
_LABEL: Final = re.compile(r"(?!__)[a-z_][a-z0-9_]*")
NAME_LABELS: Final = (
    "jobset.sigs.k8s.io/jobset-name",
    "training.kubeflow.org/job-name",
    "ray.io/originated-from-cr-name",
    "ray.io/cluster",
    "volcano.sh/job-name",
    "batch.kubernetes.io/job-name",
    "job-name",
)


class Settings(settings.Settings):
    """Settings of jobs.kubernetes.

    node_name: "" takes $NODE_NAME, else the host's name.
    api_url: "" takes the API server of the cluster that this program runs in.
    token_file, ca_file: "" goes without a token, and trusts the certificates that the system trusts.
    pod_resources_socket: None does not ask the kubelet.
    info_labels: label of carbon_job_info -> label or annotation of the pod.
    """

    node_name: str = ""
    api_url: str = ""
    token_file: str = f"{_SERVICE_ACCOUNT}/token"
    ca_file: str = f"{_SERVICE_ACCOUNT}/ca.crt"
    pod_resources_socket: Path | None = Path("/var/lib/kubelet/pod-resources/kubelet.sock")
    pod_resources_seconds: PositiveFloat = 10.0
    name_labels: tuple[str, ...] = NAME_LABELS
    info_labels: Mapping[str, str] = Field(default_factory=dict)
    most_pods: PositiveInt = 5000

    @field_validator("api_url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        if value and not _URL.fullmatch(value):
            raise ValueError("must be http://HOST[:PORT] or https://HOST[:PORT]")
        return value

    @field_validator("info_labels")
    @classmethod
    def _are_free(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        for label in value:
            if not _LABEL.fullmatch(label):
                raise ValueError(f"{label!r} is no label name: use a-z, 0-9 and _, and no __ in front")
            if label in JOB_INFO.labels:
                raise ValueError(f"{label!r} is a label that carbon_job_info has already: choose another one")
        return value


def open_resolver(chosen: Settings, roots: Roots) -> Resolver:
    """The resolver for the cluster that this program runs in, or that `chosen` names; one that finds nothing else."""
    return open_in(chosen, roots, os.environ)


def open_in(chosen: Settings, roots: Roots, environment: Mapping[str, str]) -> Resolver:
    """As open_resolver, in this environment: $KUBERNETES_SERVICE_HOST and _PORT, $NODE_NAME."""
    url = _url_of(chosen, environment)
    if not url:
        return NoCluster()
    # Its C core writes a line to stderr, past the log, whenever a kubelet restarts; it reads this when it is loaded.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # gRPC is loaded where there is a kubelet to ask: it takes 12 MB and 0.1 s.
    from carbon_exporter.jobs.kubernetes.resolver import build  # noqa: PLC0415

    return build(chosen, roots, url, _node_of(chosen, environment))


def region_hint(chosen: Settings, environment: Mapping[str, str]) -> str | None:
    """A line for the log on the grid zone that the cloud region of this node lies in; None where it is in none.

    Asks the API server, once: it may take as long as that is patient.
    """
    url = _url_of(chosen, environment)
    if not url:
        return None
    with contextlib.closing(Api(url, chosen.token_file, chosen.ca_file)) as api:
        name = node_region(api, _node_of(chosen, environment))
    return zone_hint(name) if name is not None else None


def _node_of(chosen: Settings, environment: Mapping[str, str]) -> str:
    return chosen.node_name or environment.get("NODE_NAME", "") or os.uname().nodename.lower()


def _url_of(chosen: Settings, environment: Mapping[str, str]) -> str:
    return chosen.api_url.rstrip("/") or _url_in(environment)


def _url_in(environment: Mapping[str, str]) -> str:
    """The API server as every container of a cluster is told; "" outside of one."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        return ""
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


class NoCluster:
    """Implements model.Resolver on a host without Kubernetes."""

    def read(self, now_seconds: float, gpu_pids: object, claimed: object) -> ResolverReading:
        """Nothing, and that is no failure."""
        del now_seconds, gpu_pids, claimed
        return ResolverReading(present=False)

    def state(self) -> Json:
        """Nothing."""
        return {}

    def restore(self, state: Json) -> None:
        """Need nothing."""

    def close(self) -> None:
        """Hold nothing."""
