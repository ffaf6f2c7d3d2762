"""What jobs have pushed, asked for so that no job, whatever it pushes, can make the answer too long for the others."""

import contextlib
import math
from collections.abc import Sequence
from typing import Final

from carbon_exporter import metrics
from carbon_exporter.forecast.progress import Pushed
from carbon_exporter.forecast.promql import AnswerTooLongError, Client, Sample
from carbon_exporter.naming import LONGEST_NAME

_FIELDS: Final = {
    metrics.EPOCHS_COMPLETED.name: "epochs_completed",
    metrics.EPOCHS_PLANNED.name: "epochs_planned",
    metrics.EPOCHS_RESUMED.name: "epochs_resumed",
    metrics.EPOCH_END.name: "epoch_end_seconds",
    metrics.TRAINING_START.name: "start_seconds",
    metrics.TRAINING_FINISHED.name: "finished_seconds",
    metrics.EMISSIONS_BUDGET.name: "budget_grams",
    metrics.PUSH_TIME: "push_seconds",
}
NAMES: Final = (*_FIELDS, metrics.TRAINING_INFO.name)
COUNT: Final = f'count(max by (training_job) ({metrics.PUSH_TIME}{{training_job!=""}}))'
"""How many names are in the Pushgateway, long ones too."""
_SHORT: Final = f'training_job=~"(?s).{{1,{LONGEST_NAME}}}",group=~"(?s).{{0,{LONGEST_NAME}}}"'
"""No node counts for a longer name. RE2's flag s: any character, the end of a line too."""
_MEASURED: Final = f'max by (training_job) (last_over_time({metrics.JOB_ENERGY.name}{{training_job!=""}}[1h]))'
_ROW_BYTES: Final = 500
"""A name of 200 characters in JSON, a group as long, and what is around them."""
_LONGEST_ROW_BYTES: Final = 1500
"""The same where each character is escaped as six bytes."""
_NAMES_IN_A_QUERY: Final = 2
"""Of metrics: 100,000 jobs' values of two are fewer series than the 300,000 that VictoriaMetrics selects at most."""
_EPOCHS: Final = (metrics.EPOCHS_COMPLETED.name, metrics.EPOCHS_PLANNED.name)
_NOT_A_COUNT: Final = -1.0


def read(client: Client, now_seconds: float, pushing: int) -> tuple[dict[str, Pushed], int]:
    """What each job pushed, and how many names were left out.

    One query. Where the values of all `pushing` names are too long for one answer, five more: they ask for the names
    that have used energy within the last hour, which nobody can push, and of the others for those that pushed last,
    as many as fit.

    Raises:
        PromQLError: a query failed.
    """
    samples = []
    if pushing <= client.largest_answer_bytes // (_ROW_BYTES * len(NAMES)):
        with contextlib.suppress(AnswerTooLongError):
            samples = client.query(_one_of_each(_values(NAMES)), now_seconds, finite=False)
    if pushing and not samples:
        most = max(1, client.largest_answer_bytes // (_LONGEST_ROW_BYTES * len(NAMES)))
        kept = f"and on (training_job) ({_MEASURED} or {_newest(most)})"
        for first in range(0, len(NAMES), _NAMES_IN_A_QUERY):
            values = f"{_values(NAMES[first : first + _NAMES_IN_A_QUERY])} {kept}"
            samples += client.query(_one_of_each(values), now_seconds, finite=False)
    pushed = by_job(samples)
    return pushed, max(0, pushing - sum(one.push_seconds is not None for one in pushed.values()))


def by_job(samples: Sequence[Sample]) -> dict[str, Pushed]:
    """The values of each job from series of NAMES.

    Epochs that are no number are told as less than none, so that they are judged as what they are: no count of epochs.
    """
    fields: dict[str, dict[str, float]] = {}
    groups: dict[str, str] = {}
    for sample in samples:
        job, name = sample.labels.get("training_job", ""), sample.labels.get("__name__", "")
        if name == metrics.TRAINING_INFO.name:
            groups[job] = sample.labels.get("group", "")
        elif name in _FIELDS and math.isfinite(sample.value):
            fields.setdefault(job, {})[_FIELDS[name]] = sample.value
        elif name in _EPOCHS:
            fields.setdefault(job, {})[_FIELDS[name]] = _NOT_A_COUNT
    return {job: Pushed(group=groups.get(job, ""), **values) for job, values in fields.items()}


def _values(names: Sequence[str]) -> str:
    return f'{{__name__=~"{"|".join(names)}",{_SHORT}}}'


def _one_of_each(values: str) -> str:
    """The largest value of each metric for each job, without the labels that only tell series of it apart."""
    largest = f"topk by (__name__, training_job) (1, {values})"
    return f"max by (__name__, training_job, group) ({largest})"


def _newest(most: int) -> str:
    """Of the names without energy those that pushed last."""
    newest = f"max by (training_job) ({metrics.PUSH_TIME}{{{_SHORT}}})"
    return f"topk({most}, {newest} unless on (training_job) {_MEASURED})"
