"""A PromQL engine whose answers are made before they are asked for: a fleet of training jobs, and a record of runs."""

import json
import random
import re
from urllib.parse import parse_qs, urlsplit

from carbon_exporter import metrics
from carbon_exporter.forecast.history import History
from carbon_exporter.forecast.record import EndedRun, Score

NODES = 2000
PLANNED, EPOCH_SECONDS, WATTS, GPUS = 200, 60, 400.0, 8


def nodes_of(number):
    """The two nodes of a job."""
    return [f"node-{(2 * number + part) % NODES}:9400" for part in (0, 1)]


class Fleet:
    """Jobs on two nodes each, of 2,000 in two zones, all started at once: epochs of 60 s at 400 W and some.

    Attributes:
        ended: how many of them have ended, the first ones.
        tells_start: whether they push when they started, so that a service looks their past up.
    """

    def __init__(self, jobs, groups, started, *, tells_start=True):
        self.names = [f"namespace-{number % 50}/training-job-{number:05}" for number in range(jobs)]
        self.groups, self.started, self.tells_start = groups, started, tells_start
        self.ended = 0
        self.queries = []

    def prepare(self, now):
        """Make the answers at `now`."""
        self.bodies = {
            start: body("vector", [{"metric": labels, "value": [0, repr(value)]} for labels, value in rows])
            for start, rows in {
                "max by (__name__, training_job": [*self._pushed(now)],
                "sum by (__name__, training_job, instance, basis) (last_over_time": [*self._counted(now)],
                "avg by (training_job) (timestamp": [
                    *(({"training_job": job}, now - 5) for job in self.names),
                    ({}, len(self.names)),
                ],
                "sum by (training_job, instance)": [
                    ({"training_job": job, "instance": node}, WATTS / 2)
                    for number, job in enumerate(self.names)
                    for node in nodes_of(number)
                ],
                "max by (__name__, instance": [*self._places()],
            }.items()
        }

    def answer(self, path):
        """The body for a request; `queries` remembers what it asked."""
        address = urlsplit(path)
        asked = parse_qs(address.query)
        query = asked["query"][0]
        self.queries.append(query)
        if address.path.endswith("query_range"):
            return body("matrix", [*self._past(query, *(float(asked[name][0]) for name in ("start", "end", "step")))])
        return next(answer for start, answer in self.bodies.items() if query.startswith(start))

    def _done(self, now):
        return (now - self.started) // EPOCH_SECONDS

    def _joules(self, number, now):
        return max(0.0, (WATTS + number % 7) * (now - self.started))

    def _pushed(self, now):
        done = self._done(now)
        values = {
            metrics.EPOCHS_COMPLETED.name: done,
            metrics.EPOCHS_PLANNED.name: PLANNED,
            metrics.EPOCH_END.name: self.started + EPOCH_SECONDS * done,
            metrics.EMISSIONS_BUDGET.name: 9000,
            metrics.PUSH_TIME: now,
        }
        if self.tells_start:
            values[metrics.TRAINING_START.name] = self.started
        for number, job in enumerate(self.names):
            for name, value in values.items():
                yield {"__name__": name, "training_job": job}, value
            group = f"group-{number % self.groups}"
            yield {"__name__": metrics.TRAINING_INFO.name, "training_job": job, "group": group}, 1
            if number < self.ended:
                yield {"__name__": metrics.TRAINING_FINISHED.name, "training_job": job}, now

    def _counted(self, now):
        for number, job in enumerate(self.names):
            joules = self._joules(number, now - 5) / 2
            for node in nodes_of(number):
                labels = {"training_job": job, "instance": node}
                yield {"__name__": metrics.JOB_ENERGY.name, **labels}, joules
                yield {"__name__": metrics.JOB_EMISSIONS.name, **labels, "basis": "operational"}, joules / 1e4
                yield {"__name__": metrics.JOB_GPUS.name, **labels}, GPUS / 2
                yield {"__name__": metrics.JOB_GPU_POWER_LIMIT.name, **labels}, 700.0 * GPUS / 2

    def _places(self):
        for node in range(NODES):
            instance = {"instance": f"node-{node}:9400"}
            yield {"__name__": metrics.PUE.name, **instance}, 1.2
            yield {"__name__": metrics.NODE_GRID_ZONE.name, **instance, "grid_zone": ("DE", "FR")[node % 2]}, 1

    def _past(self, query, start, end, step):
        """The series of the jobs that a range query names."""
        times = [start + number * step for number in range(int((end - start) / step) + 1)]
        times = [now for now in times if now >= self.started]
        for number in map(int, re.findall(r"training-job-(\d{5})", query)):
            job = {"training_job": self.names[number]}
            series = [
                ({"__name__": metrics.EPOCHS_COMPLETED.name}, self._done),
                ({"__name__": metrics.EPOCH_END.name}, lambda now: self.started + EPOCH_SECONDS * self._done(now)),
                ({"__name__": metrics.PUSH_TIME}, lambda now: now),
            ]
            series += [
                ({"instance": node}, lambda now, number=number: self._joules(number, now - 5) / 2)
                for node in nodes_of(number)
            ]
            for labels, value in series:
                yield {"metric": {**job, **labels}, "values": [[now, repr(value(now))] for now in times]}


def body(kind, result):
    """As the Prometheus HTTP API answers."""
    return json.dumps({"status": "success", "data": {"resultType": kind, "result": result}}).encode()


def write_record(path, groups, runs):
    """A file of so many ended runs, evenly of all groups; a third of them stopped early."""
    chance = random.Random(2)
    history = History(path)
    for number in range(runs):
        scores = tuple(Score(k, chance.gauss(0, 0.05), chance.gauss(0, 0.05)) for k in (1.0, 2.0, 3.0, 5.0, 10.0, 50.0))
        ending, done = ("stopped", chance.uniform(20, 190)) if number % 3 == 0 else ("finished", float(PLANNED))
        group, began = f"group-{number % groups}", float(number)
        joules = WATTS * EPOCH_SECONDS
        measured = (PLANNED, done, joules * done, None, joules, float(EPOCH_SECONDS), float(GPUS))
        history.add(EndedRun(f"old-{number}", group, ending, began, began + 1, *measured, scores))
    history.close()
