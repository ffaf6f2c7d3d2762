"""What a training job is called: one rule for the job that pushes and for the node agent that measures."""

import hashlib
import re
from collections.abc import Mapping
from typing import Final

JOB: Final = "CARBON_TRAINING_JOB"
GROUP: Final = "CARBON_TRAINING_GROUP"
NAMESPACE: Final = "CARBON_POD_NAMESPACE"
"""The pod's namespace, from the downward API; in Kubernetes it stands before every name."""
LONGEST_NAME: Final = 200
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")


def training_job_name(raw: str) -> str:
    """The name under which a job is counted: `raw`, made fit for a label and a URL.

    Control characters become "_"; a name of more than 200 characters keeps its first 180 and a hash of the whole.
    An empty name stays empty: no job.
    """
    name = _UNPRINTABLE.sub("_", raw.strip())
    if len(name) > LONGEST_NAME:
        digest = hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:16]
        name = f"{name[:180]}~{digest}"
    return name


def pod_job_name(namespace: str, raw: str) -> str:
    """The name of a job in Kubernetes: `ns/name`; "" where `raw` is empty."""
    return training_job_name(f"{namespace}/{raw.strip()}") if raw.strip() else ""


def slurm_job_name(job_id: str) -> str:
    """The name of a job in Slurm that says no other: `slurm-4711`."""
    return f"slurm-{job_id}"


def name_in(environment: Mapping[str, str]) -> str:
    """The name of the job that a process with this environment belongs to; "" where the environment does not say.

    CARBON_TRAINING_JOB, with CARBON_POD_NAMESPACE before it where that is set; else Slurm's job id.
    """
    namespace, name = environment.get(NAMESPACE, "").strip(), environment.get(JOB, "").strip()
    if name:
        return pod_job_name(namespace, name) if namespace else training_job_name(name)
    job_id = environment.get("SLURM_JOB_ID", "").strip()
    return slurm_job_name(job_id) if job_id.isascii() and job_id.isdigit() else ""


def group_in(environment: Mapping[str, str]) -> str:
    """The group that a process with this environment names; "" without one."""
    return training_job_name(environment.get(GROUP, ""))
