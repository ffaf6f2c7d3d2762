"""What the environment of a job's processes tells about the job (sbatch(1) and srun(1), OUTPUT ENVIRONMENT). Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from carbon_exporter.naming import JOB, group_in, name_in, training_job_name

_LABELS: Final = {
    "user": "SLURM_JOB_USER",
    "job_name": "SLURM_JOB_NAME",
    "account": "SLURM_JOB_ACCOUNT",
    "partition": "SLURM_JOB_PARTITION",
}
_UUIDS: Final = ("GPU-", "MIG-")
_MEBIBYTE: Final = 2**20
_MOST_DEVICES: Final = 128
"""More than any host has, MIG slices counted: Slurm did not give them, somebody made them up."""
_LONGEST_DEVICE: Final = 128


@dataclass(frozen=True, slots=True)
class Told:
    """What is known of a job from its processes; empty, or None, where none of them has told it.

    Attributes:
        name: of the training job.
        is_own_name: whether somebody chose the name, and it is not just Slurm's number.
        labels: user, job_name, account, partition.
        devices: "gpu0", "GPU-...", "MIG-...".
        cpus, memory_bytes: allocated on this node.
    """

    name: str = ""
    is_own_name: bool = False
    group: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    devices: frozenset[str] = frozenset()
    cpus: float | None = None
    memory_bytes: float | None = None

    def to_json(self) -> list[Any]:
        """As short as can be: there is one at every tick for every job."""
        return [self.name, self.is_own_name, self.group, self.labels, [*self.devices], self.cpus, self.memory_bytes]

    @classmethod
    def from_json(cls, state: Any) -> "Told":
        """What `to_json` described; raises TypeError, ValueError or AttributeError for anything else."""
        name, is_own_name, group, labels, devices, cpus, memory_bytes = state
        return cls(
            str(name),
            bool(is_own_name),
            str(group),
            {str(label): str(value) for label, value in labels.items()},
            frozenset(map(str, devices)),
            None if cpus is None else float(cpus),
            None if memory_bytes is None else float(memory_bytes),
        )


def chosen_names(environments: Iterable[Mapping[str, str]]) -> list[str]:
    """The names that somebody chose for a training, in the order of the processes with these `environments`."""
    return [name_in(environment) for environment in environments if environment.get(JOB, "").strip()]


def told_by(environments: Iterable[Mapping[str, str]], before: Told) -> Told:
    """What the processes with these `environments`, those of the batch script first, add to what was known before.

    A chosen name and a group stay when the process that had them is gone, and so do the GPUs of steps that ended: they
    are the job's until its end.
    """
    jobs = [environment for environment in environments if name_in(environment)]
    if not jobs:
        return before
    chosen = chosen_names(jobs)
    devices = before.devices.union(*map(_devices, jobs))
    if any(name.startswith("MIG-") for name in devices):
        # Slurm then numbers the slices, not the GPUs.
        devices = frozenset(name for name in devices if name.startswith(_UUIDS))
    if len(devices) > _MOST_DEVICES:
        devices = before.devices
    return Told(
        name=before.name if before.is_own_name else (chosen or [name_in(jobs[0])])[0],
        is_own_name=before.is_own_name or bool(chosen),
        group=before.group or next(filter(None, map(group_in, jobs)), ""),
        labels={**_labels(jobs), **before.labels},
        devices=devices,
        cpus=before.cpus or next(filter(None, map(_cpus, jobs)), None),
        memory_bytes=before.memory_bytes or next(filter(None, map(_memory_bytes, jobs)), None),
    )


def _labels(jobs: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Fit for Prometheus, as names are: users may call a job what they like."""
    found = {label: next(filter(None, (job.get(key) for job in jobs)), "") for label, key in _LABELS.items()}
    return {label: training_job_name(value) for label, value in found.items() if value}


def _devices(job: Mapping[str, str]) -> set[str]:
    """The GPUs that Slurm gave, by their numbers on the node; CUDA's own numbers begin at 0 in every job.

    Slurm numbers them by their order on the PCI bus, as NVML does, unless gres.conf(5) lists them otherwise.
    """
    numbers = f"{job.get('SLURM_JOB_GPUS', '')},{job.get('SLURM_STEP_GPUS', '')}".split(",")
    names = [name.strip() for name in job.get("CUDA_VISIBLE_DEVICES", "").split(",") if len(name) <= _LONGEST_DEVICE]
    given = {f"gpu{number.strip()}" for number in numbers if _is_number(number.strip())}
    return given | {name for name in names if name.startswith(_UUIDS) and name.isascii() and name.isprintable()}


def _cpus(job: Mapping[str, str]) -> float | None:
    return _number(job, "SLURM_CPUS_ON_NODE")


def _memory_bytes(job: Mapping[str, str]) -> float | None:
    """Slurm's megabytes are of 2^20 bytes; 0 stands for all the memory of the node."""
    of_node = _number(job, "SLURM_MEM_PER_NODE")
    if of_node is not None:
        return of_node * _MEBIBYTE
    per_cpu, cpus = _number(job, "SLURM_MEM_PER_CPU"), _cpus(job)
    return per_cpu * cpus * _MEBIBYTE if per_cpu is not None and cpus is not None else None


def _number(job: Mapping[str, str], key: str) -> float | None:
    """A positive whole number; None for anything else."""
    text = job.get(key, "").strip()
    return (float(text) or None) if _is_number(text) else None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 16
