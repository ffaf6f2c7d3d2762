"""Which training job a pod belongs to. Pure.

The name is that of the label or annotation carbon-exporter.io/training-job; else of CARBON_TRAINING_JOB in the pod's
containers; else of the first of the labels that job controllers write; always with the namespace before it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from carbon_exporter.jobs.kubernetes.pod import Pod
from carbon_exporter.naming import GROUP, JOB, NAMESPACE, name_in, pod_job_name, training_job_name

JOB_LABEL: Final = "carbon-exporter.io/training-job"
GROUP_LABEL: Final = "carbon-exporter.io/training-group"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a pod is counted as.

    Attributes:
        training_job: "" where it belongs to none.
        group: jobs alike; "" without one.
        info: further labels of carbon_job_info.
        failure: why what the job pushes will not be found under this name, one line; "" where it will.
    """

    training_job: str
    group: str
    info: Mapping[str, str]
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Namer:
    """Names pods by these labels and annotations; `info_labels`: label of carbon_job_info -> label of the pod."""

    name_labels: Sequence[str]
    info_labels: Mapping[str, str]

    def wanted(self) -> frozenset[str]:
        """All labels and annotations that are looked at."""
        return frozenset((JOB_LABEL, GROUP_LABEL, *self.name_labels, *self.info_labels.values()))

    def identify(self, pod: Pod) -> Identity:
        """The identity of `pod`."""
        environment = {name: value for name, value in pod.environment.items() if value is not None}
        candidates = (
            pod.labels.get(JOB_LABEL, ""),
            environment.get(JOB, ""),
            *(pod.labels.get(label, "") for label in self.name_labels),
        )
        names = (pod_job_name(pod.namespace, raw) for raw in candidates)
        training_job = next(filter(None, names), "")
        found = {label: training_job_name(pod.labels.get(key, "")) for label, key in self.info_labels.items()}
        return Identity(
            training_job,
            training_job_name(pod.labels.get(GROUP_LABEL) or environment.get(GROUP, "")),
            {"pod_namespace": pod.namespace} | {label: text for label, text in found.items() if text},
            _disagreement(pod, training_job),
        )


def _disagreement(pod: Pod, training_job: str) -> str:
    """What is wrong where the pod's own processes push under another name."""
    where = f"pod {pod.namespace}/{pod.name}"
    if JOB not in pod.environment:
        return ""
    if pod.environment[JOB] is None and not pod.labels.get(JOB_LABEL):
        return f"{where} has a {JOB} that cannot be known from here: write it as text, or set the label {JOB_LABEL}"
    if None in pod.environment.values():
        return ""
    pushed = name_in({name: value or "" for name, value in pod.environment.items()})
    if not pushed or pushed == training_job:
        return ""
    cure = f"set {NAMESPACE} from metadata.namespace" if NAMESPACE not in pod.environment else "make them the same"
    return f"{where} is counted as {training_job!r}: what it pushes as {pushed!r} will not be found; {cure}"
