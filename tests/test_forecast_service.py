"""The forecast service: on a scripted engine with a stepped clock, and on a real Prometheus and Pushgateway."""

import contextlib
import json
import logging
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from carbon_exporter import metrics
from carbon_exporter.demo.servers import prometheus, pushgateway, running
from carbon_exporter.forecast.service import build
from carbon_exporter.forecast.settings import Settings
from carbon_exporter.push.gateway import from_environment
from carbon_exporter.push.training import Training


@contextlib.contextmanager
def serving(answer):
    """An HTTP server whose GET answers `answer(path)`; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = answer(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def values_of(families, metric, **labels):
    """The samples of one family: the labels that `labels` does not fix -> value."""
    found = {}
    for family in families:
        if family.metric is metric:
            for values, value in family.samples:
                named = dict(zip(metric.labels, values, strict=True))
                if all(named.pop(name) == wanted for name, wanted in labels.items()):
                    found[tuple(named.values())] = value
    return found


@dataclass
class Cluster:
    """What a scripted engine knows of one cluster, by training job."""

    joules: dict = field(default_factory=dict)
    grams: dict = field(default_factory=dict)
    """By training job and basis."""
    pushed: dict = field(default_factory=dict)
    scraped: dict = field(default_factory=dict)
    grid: dict = field(default_factory=lambda: {metrics.INTENSITY.name: 360.0, metrics.PUE.name: 1.5})
    groups: dict = field(default_factory=dict)
    gpus: dict = field(default_factory=dict)
    limits: dict = field(default_factory=dict)
    elsewhere: dict = field(default_factory=dict)
    """Joules by training job and node, beside `joules` on a node without a name."""
    watts: dict = field(default_factory=dict)
    """By training job and node."""
    places: dict = field(default_factory=dict)
    """Node -> its zone and PUE."""
    history: list = field(default_factory=list)
    has_past: bool = True
    """Whether range queries are answered."""
    warnings: list = field(default_factory=list)
    queries: list = field(default_factory=list)

    def answer(self, path):
        address = urlsplit(path)
        query = parse_qs(address.query)["query"][0]
        self.queries.append(query)
        if address.path.endswith("query_range"):
            if not self.has_past:
                return b"{}"
            return self._success("matrix", self.history)
        if metrics.NODE_GRID_ZONE.name in query:
            rows = [
                row
                for node, (zone, pue) in self.places.items()
                for row in (
                    ({"__name__": metrics.NODE_GRID_ZONE.name, "instance": node, "grid_zone": zone}, 1.0),
                    ({"__name__": metrics.PUE.name, "instance": node}, pue),
                )
            ]
            rows += [({"__name__": name}, value) for name, value in self.grid.items()]
        elif query.startswith("sum by (training_job, instance) (rate("):
            rows = [({"training_job": job, "instance": node}, watts) for (job, node), watts in self.watts.items()]
        elif query.startswith("sum by (__name__, training_job, instance, basis) ("):
            rows = [*self._by_job(self.joules, metrics.JOB_ENERGY), *self._by_job(self.gpus, metrics.JOB_GPUS)]
            rows += self._by_job(self.limits, metrics.JOB_GPU_POWER_LIMIT)
            rows += [
                ({"__name__": metrics.JOB_ENERGY.name, "training_job": job, "instance": node}, joules)
                for (job, node), joules in self.elsewhere.items()
            ]
            rows += [
                ({"__name__": metrics.JOB_EMISSIONS.name, "training_job": job, "basis": basis}, value)
                for (job, basis), value in self.grams.items()
            ]
        elif query.startswith("avg by (training_job) (timestamp("):
            rows = self._by_job(self.scraped)
            pushing = sum(metrics.PUSH_TIME in values for values in self.pushed.values())
            rows += [({}, pushing)] if pushing else []
        else:
            rows = [
                ({"__name__": name, "training_job": job}, value)
                for job in self._asked(query)
                for name, value in self.pushed[job].items()
                if name in query and value is not None
            ]
            info = metrics.TRAINING_INFO.name
            rows += [
                ({"__name__": info, "training_job": job, "group": group}, 1.0)
                for job, group in self.groups.items()
                if info in query
            ]
        return self._success("vector", [{"metric": labels, "value": [0, repr(value)]} for labels, value in rows])

    def _asked(self, query):
        """The names that a query for pushes selects: all, or those with energy and some that pushed last."""
        newest = re.search(r"or topk\((\d+),", query)
        if newest is None:
            return list(self.pushed)
        dark = [job for job in self.pushed if job not in self.joules and metrics.PUSH_TIME in self.pushed[job]]
        dark.sort(key=lambda job: self.pushed[job][metrics.PUSH_TIME], reverse=True)
        return [*(job for job in self.pushed if job in self.joules), *dark[: int(newest[1])]]

    def _by_job(self, values, metric=None):
        name = {} if metric is None else {"__name__": metric.name}
        return [({**name, "training_job": job}, value) for job, value in values.items()]

    def _success(self, kind, result):
        body = {"status": "success", "data": {"resultType": kind, "result": result}, "warnings": self.warnings}
        return json.dumps(body).encode()

    def step(self, now, job="bert", *, joules, epochs, end, planned=10.0, **more):
        """The job as scraped and pushed at `now`; it started at 1000."""
        self.joules[job] = joules
        self.grams[job, "lifecycle"] = joules / 1000
        self.scraped[job] = now
        self.pushed[job] = {
            metrics.EPOCHS_COMPLETED.name: epochs,
            metrics.EPOCHS_PLANNED.name: planned,
            metrics.EPOCH_END.name: end,
            metrics.TRAINING_START.name: 1000.0,
            metrics.PUSH_TIME: now,
            **more,
        }


@pytest.fixture
def cluster():
    return Cluster()


@pytest.fixture
def make_service(cluster):
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(serving(cluster.answer))

        def make(**settings):
            settings.setdefault("history_file", None)
            service = build(Settings(prometheus_url=url, **settings), {})
            stack.callback(service._client._session.close)
            return service

        yield make


def run_epochs(cluster, service, upto, *, planned=10.0):
    """100 J per second in epochs of 60 s, polled every 30 s; the last poll is 30 s after the end of epoch `upto`."""
    for now in range(1030, 1000 + 60 * upto + 31, 30):
        done = (now - 1000) // 60
        cluster.step(now, joules=100.0 * (now - 1000), epochs=done, end=1000.0 + 60 * done, planned=planned)
        families = service.poll(now)
    return families


def outcome_of(families):
    return {outcome for (outcome,), jobs in values_of(families, metrics.FORECAST_JOBS).items() if jobs}


def test_a_job_from_its_first_epoch_to_its_score(cluster, make_service):
    service = make_service()
    assert not service.ready()
    families = run_epochs(cluster, service, 4)
    assert service.ready()
    assert values_of(families, metrics.FORECAST_ENERGY, quantile="0.5") == {("bert",): pytest.approx(60_000, rel=2e-3)}
    low, _, high = values_of(families, metrics.FORECAST_ENERGY, training_job="bert").values()
    assert low < 60_000 < high
    assert values_of(families, metrics.FORECAST_EMISSIONS, quantile="0.5") == {("bert",): pytest.approx(60, rel=2e-3)}
    assert values_of(families, metrics.FORECAST_END, quantile="0.5") == {("bert",): pytest.approx(1600, rel=2e-3)}
    assert values_of(families, metrics.FORECAST_EPOCHS) == {("bert",): 4}
    assert values_of(families, metrics.FORECAST_EPOCH_ENERGY) == {("bert",): pytest.approx(6000, rel=2e-3)}
    assert list(values_of(families, metrics.FORECAST_INFO)) == [("bert", "builtin", "", "lifecycle")]
    assert b'carbon_forecast_energy_joules{training_job="bert",quantile="0.95"}' in service.page()

    done = {metrics.TRAINING_FINISHED.name: 1600.0}
    cluster.step(1605, joules=60_000.0, epochs=10.0, end=1600.0, **done)
    families = service.poll(1605)
    assert set(values_of(families, metrics.FORECAST_ENERGY).values()) == {60_000}
    assert set(values_of(families, metrics.FORECAST_EMISSIONS).values()) == {60}
    assert list(values_of(families, metrics.FORECAST_INFO)) == [("bert", "measured", "", "lifecycle")]
    assert outcome_of(families) == {"finished"}

    cluster.pushed.clear()
    families = service.poll(1890)
    assert set(values_of(families, metrics.FORECAST_ENERGY).values()) == {60_000}
    assert values_of(families, metrics.FORECAST_COVERAGE) == {}
    families = service.poll(1901)
    assert values_of(families, metrics.FORECAST_ENERGY) == {}
    assert values_of(families, metrics.FORECAST_COVERAGE) == {("builtin",): 1}
    assert values_of(families, metrics.FORECAST_ERROR) == {("builtin",): pytest.approx(0, abs=0.02)}


def test_a_killed_job_is_never_scored(cluster, make_service):
    service = make_service(push_max_age_seconds=100)
    run_epochs(cluster, service, 3)
    families = service.poll(1310)
    assert outcome_of(families) == {"forecast"}
    families = service.poll(1311)
    assert outcome_of(families) == {"stale_push"}
    assert values_of(families, metrics.FORECAST_ENERGY) == {}
    cluster.joules.clear()
    cluster.pushed.clear()
    service.poll(9000)  # the engine was away until now: nobody looked
    assert values_of(service.poll(12_600), metrics.FORECAST_HISTORY_RUNS) == {}
    families = service.poll(12_601)
    assert len(service._fleet) == 0
    assert values_of(families, metrics.FORECAST_HISTORY_RUNS) == {("lost",): 1}
    assert values_of(families, metrics.FORECAST_COVERAGE) == {}


def test_a_job_stopped_early_is_not_scored(cluster, make_service):
    service = make_service()
    run_epochs(cluster, service, 3)
    cluster.step(1220, joules=22_000.0, epochs=3.0, end=1180.0, **{metrics.TRAINING_FINISHED.name: 1215.0})
    families = service.poll(1220)
    assert outcome_of(families) == {"finished"}
    assert values_of(service.poll(2000), metrics.FORECAST_COVERAGE) == {}


def test_all_epochs_done_and_no_more_power_is_an_end(cluster, make_service):
    service = make_service()
    run_epochs(cluster, service, 4, planned=4.0)
    for now in (1285, 1320):
        cluster.step(now, joules=27_500.0, epochs=4.0, end=1240.0, planned=4.0)
        families = service.poll(now)
    assert outcome_of(families) == {"finished"}
    families = service.poll(1600)
    assert values_of(families, metrics.FORECAST_HISTORY_RUNS) == {("finished",): 1}
    assert values_of(families, metrics.FORECAST_COVERAGE) == {("builtin",): 1}


def test_a_pusher_that_dies_after_the_last_epoch_is_an_end(cluster, make_service):
    service = make_service(push_max_age_seconds=100)
    run_epochs(cluster, service, 4, planned=4.0)
    cluster.joules["bert"], cluster.scraped["bert"] = 30_000.0, 1371.0
    assert outcome_of(service.poll(1371)) == {"finished"}


def test_a_run_is_scored_at_once_where_the_next_one_takes_its_name(cluster, make_service):
    service = make_service()
    run_epochs(cluster, service, 4)
    cluster.step(1605, joules=60_000.0, epochs=10.0, end=1600.0, **{metrics.TRAINING_FINISHED.name: 1600.0})
    service.poll(1605)
    cluster.step(1640, joules=61_000.0, epochs=0.0, end=1630.0, **{metrics.TRAINING_START.name: 1630.0})
    families = service.poll(1640)
    assert values_of(families, metrics.FORECAST_COVERAGE) == {("builtin",): 1}
    assert outcome_of(families) == {"no_epochs"}


def test_energy_counts_for_the_time_it_was_scraped_at(cluster, make_service):
    service = make_service()
    for now in range(1030, 1250, 30):
        done = (now - 1000) // 60
        lag = 20 if now % 60 else 5
        cluster.step(now, joules=100.0 * (now - lag - 1000), epochs=float(done), end=1000.0 + 60 * done)
        cluster.scraped["bert"] = now - lag
        families = service.poll(now)
    assert values_of(families, metrics.FORECAST_ENERGY, quantile="0.5") == {("bert",): pytest.approx(60_000, rel=2e-3)}


def test_names_are_escaped_in_queries(cluster, make_service):
    cluster.step(1030, 'x"} or vector(1)\n\\.*|', joules=1.0, epochs=0.0, end=1000.0)
    make_service().poll(1030)
    escaped = 'training_job=~"x\\"\\\\} or vector\\\\(1\\\\)\\n\\\\\\\\\\\\.\\\\*\\\\|"'
    assert [escaped in query for query in cluster.queries].count(True) == 1


def test_the_same_name_again_is_a_new_run(cluster, make_service):
    service = make_service()
    run_epochs(cluster, service, 4)
    cluster.step(1300, joules=28_000.0, epochs=0.0, end=1295.0, **{metrics.TRAINING_START.name: 1295.0})
    families = service.poll(1300)
    assert outcome_of(families) == {"no_epochs"}
    assert values_of(families, metrics.FORECAST_ENERGY) == {}


def test_late_pushes_are_put_where_they_belong(cluster, make_service):
    service = make_service()
    for now in (1000, 1050, 1100, 1150, 1200, 1250):
        # 100 W in the first epoch of 60 s, 50 W after it; each push is known 50 s late.
        joules = 100.0 * min(now - 1000, 60) + 50.0 * max(0, now - 1060)
        done = max(0, now - 1050) // 60
        cluster.step(now, joules=joules, epochs=float(done), end=1000.0 + 60 * done)
        families = service.poll(now)
    # The first epoch ends between 1050 (5 kJ) and 1100 (8 kJ): a straight line gives 5.6 kJ for its 6.
    assert values_of(families, metrics.FORECAST_EPOCH_ENERGY) == {
        ("bert",): pytest.approx((12_000 - 5600) / 2, rel=2e-3)
    }


OUTCOMES = [
    ("planned_missing", {"planned": None}),
    ("invalid_value", {"planned": float("nan")}),
    ("invalid_value", {"epochs": float("inf")}),
    ("invalid_value", {"planned": 0.0}),
    ("epochs_above_planned", {"epochs": 11.0}),
    ("epochs_went_back", {"epochs": 2.0}),
    ("stale_push", {metrics.PUSH_TIME: 500.0}),
]


@pytest.mark.parametrize(("outcome", "changes"), OUTCOMES)
def test_what_makes_a_forecast_impossible_is_told_once(cluster, make_service, caplog, outcome, changes):
    service = make_service()
    run_epochs(cluster, service, 3)
    values = {"joules": 22_000.0, "epochs": 3.0, "end": 1180.0, **changes}
    for now in (1240, 1270, 1300):
        cluster.step(now, **values)
        families = service.poll(now)
    assert outcome_of(families) == {outcome}
    assert values_of(families, metrics.FORECAST_ENERGY) == {}
    told = [record.getMessage() for record in caplog.records]
    assert len([line for line in told if line.startswith(f"training job 'bert': {outcome}: ")]) == 1


def test_a_job_beyond_its_plan_stays_visible_with_its_energy_and_the_reason(cluster, make_service):
    service = make_service()
    run_epochs(cluster, service, 4, planned=4.0)
    cluster.step(1300, joules=30_000.0, epochs=5.0, end=1300.0, planned=4.0)
    service.poll(1300)
    (seen,) = service.views()
    assert (seen.outcome, seen.epochs_completed, seen.epochs_planned) == ("epochs_above_planned", 5.0, 4.0)
    assert (seen.joules, seen.grams, seen.forecast) == (30_000.0, 30.0, None)
    assert seen.warnings[0].startswith("epochs_above_planned: it has done more epochs than it planned")


def test_epochs_that_are_no_number_are_told_as_unknown_and_invalid(cluster, make_service):
    service = make_service()
    cluster.step(1030, joules=3000.0, epochs=float("inf"), end=1000.0, planned=float("nan"))
    service.poll(1030)
    (seen,) = service.views()
    assert (seen.outcome, seen.epochs_completed, seen.epochs_planned) == ("invalid_value", None, None)


def test_jobs_that_push_nothing_or_use_nothing_are_quiet(cluster, make_service, caplog):
    cluster.step(1030, "dark", joules=0.0, epochs=1.0, end=1020.0)
    del cluster.joules["dark"]
    cluster.joules["silent"] = 5.0
    families = make_service().poll(1030)
    assert outcome_of(families) == {"no_energy", "no_epochs"}
    assert caplog.records == []


def test_a_clock_in_1970_is_said_and_the_time_seen_used(cluster, make_service, caplog):
    service = make_service()
    for now in range(1030, 1301, 30):
        done = (now - 1000) // 60
        cluster.step(now, joules=100.0 * (now - 1000), epochs=float(done), end=5.0)
        families = service.poll(now)
    assert values_of(families, metrics.FORECAST_ENERGY, quantile="0.5")[("bert",)] == pytest.approx(60_000, rel=0.15)
    assert [r.getMessage() for r in caplog.records if "epoch_end_skewed" in r.getMessage()] != []


def test_a_hostile_job_cannot_push_the_others_out(cluster, make_service, caplog):
    service = make_service(most_jobs=3)
    for number in range(1000):
        cluster.pushed[f"a{number}"] = {metrics.EPOCHS_COMPLETED.name: 1.0}
    families = run_epochs(cluster, service, 3)
    assert values_of(families, metrics.FORECAST_ENERGY, quantile="0.5") == {("bert",): pytest.approx(60_000, rel=2e-3)}
    assert values_of(families, metrics.FORECAST_JOBS, outcome="too_many_jobs") == {(): 998}
    assert len([r for r in caplog.records if "most_jobs" in r.getMessage()]) == 1
    assert len(service._fleet) == 3


def test_partial_answers_change_no_forecast(cluster, make_service, caplog):
    service = make_service()
    before = values_of(run_epochs(cluster, service, 3), metrics.FORECAST_ENERGY)
    cluster.warnings = ["store-2 is away"]
    cluster.joules.clear()
    for now in (1240, 1270):
        families = service.poll(now)
    assert values_of(families, metrics.FORECAST_ENERGY) == before
    assert values_of(families, metrics.FORECAST_TIMESTAMP) == {("bert",): 1210}
    assert values_of(families, metrics.FORECAST_LAST_POLL) == {(): 1210}
    assert values_of(families, metrics.FORECAST_QUERY_ERRORS, reason="partial") == {(): 2}
    assert len([r for r in caplog.records if "store-2 is away" in r.getMessage()]) == 1


def test_a_poll_is_five_queries_and_one_for_all_new_jobs(cluster, make_service):
    service = make_service()
    for number in range(59):
        cluster.step(1030, f"job-{number}", joules=1.0, epochs=0.0, end=1000.0)
    run_epochs(cluster, service, 1)
    assert len(cluster.queries) == 3 * 5 + 1


def test_the_past_of_jobs_of_like_age_is_asked_for_together_and_of_the_oldest_first(cluster, make_service):
    service = make_service()
    for number, started in enumerate([1000.0, 1010.0, 40_000.0, 1020.0]):
        start = {metrics.TRAINING_START.name: started}
        cluster.step(50_000, f"job-{number}", joules=1.0, epochs=0.0, end=started, **start)
    service.poll(50_000)
    service.poll(50_000)
    asked = [re.search(r'training_job=~"(job-[^"]*)"', query) for query in cluster.queries]
    assert [found[1] for found in asked if found] == ["job-0|job-1|job-3", "job-2"]
    cluster.queries.clear()
    service.poll(50_030)
    assert len(cluster.queries) == 5


def test_without_grams_there_is_no_emissions_forecast_and_without_a_rate_the_grid_gives_it(cluster, make_service):
    service = make_service()
    cluster.history = [{"metric": {"training_job": "bert"}, "values": [[1000, "0"], [1120, "12000"]]}]
    cluster.step(1150, joules=15_000.0, epochs=2.0, end=1120.0)
    families = service.poll(1150)
    # 60 kJ in all, 15 kJ and 15 g of them so far, the rest at 360 g/kWh x PUE 1.5.
    assert values_of(families, metrics.FORECAST_EMISSIONS, quantile="0.5") == {
        ("bert",): pytest.approx(15 + 45_000 * 1.5e-4, rel=1e-3)
    }
    cluster.grams.clear()
    cluster.scraped["bert"] = 1160
    families = service.poll(1160)
    assert values_of(families, metrics.FORECAST_EMISSIONS) == {}
    assert list(values_of(families, metrics.FORECAST_INFO)) == [("bert", "builtin", "", "")]
    assert len(values_of(families, metrics.FORECAST_ENERGY)) == 3


def test_grams_so_far_without_any_rate_are_no_forecast_and_have_no_basis(cluster, make_service):
    cluster.grid.clear()
    cluster.history = [{"metric": {"training_job": "bert"}, "values": [[1000, "0"], [1120, "12000"]]}]
    cluster.step(1150, joules=15_000.0, epochs=2.0, end=1120.0)
    families = make_service().poll(1150)
    assert values_of(families, metrics.FORECAST_EMISSIONS) == {}
    assert list(values_of(families, metrics.FORECAST_INFO)) == [("bert", "builtin", "", "")]


def test_grams_of_several_bases_are_added_and_called_mixed(cluster, make_service):
    service = make_service()
    cluster.grams["bert", "direct"] = 0.0
    families = run_epochs(cluster, service, 3)
    assert values_of(families, metrics.FORECAST_INFO, training_job="bert") == {("builtin", "", "lifecycle"): 1}
    cluster.step(1240, joules=24_000.0, epochs=4.0, end=1240.0)
    cluster.grams["bert", "direct"] = 6.0
    families = service.poll(1240)
    assert values_of(families, metrics.FORECAST_INFO, training_job="bert") == {("builtin", "", "mixed"): 1}
    assert values_of(families, metrics.FORECAST_EMISSIONS, quantile="0.5")[("bert",)] > 24 + 6
    done = {metrics.TRAINING_FINISHED.name: 1600.0}
    cluster.step(1605, joules=60_000.0, epochs=10.0, end=1600.0, **done)
    families = service.poll(1605)
    assert values_of(families, metrics.FORECAST_INFO, training_job="bert") == {("measured", "", "mixed"): 1}
    assert set(values_of(families, metrics.FORECAST_EMISSIONS).values()) == {66}


def test_no_grams_yet_are_on_the_basis_they_are_counted_on(cluster, make_service):
    service = make_service()
    for now in range(1030, 1121, 30):
        cluster.step(now, joules=100.0 * (now - 1000), epochs=float((now - 1000) // 60), end=1060.0)
        cluster.grams = {("bert", "operational"): 0.0}
        families = service.poll(now)
    assert values_of(families, metrics.FORECAST_INFO) == {("bert", "builtin", "", "operational"): 1}
    assert set(values_of(families, metrics.FORECAST_EMISSIONS).values()) == {0}


def test_the_loop_outlives_a_bad_poll_and_stops(cluster, make_service, caplog):
    service = make_service(poll_seconds=0.1)
    stop, pages = threading.Event(), []
    poll, calls = service.poll, []

    def poll_badly_once(now):
        calls.append(now)
        if len(calls) == 1:
            raise RuntimeError("a defect")
        return poll(now)

    service.poll = poll_badly_once
    thread = threading.Thread(target=service.run, args=(stop, lambda page: (pages.append(page), stop.set())))
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert pages == [service.page()]
    assert [r.levelno for r in caplog.records] == [logging.ERROR]


class Node:
    """The exposition of a node agent: joules of each job as a function of the time."""

    def __init__(self, joules_by_job, share):
        self.joules_by_job = joules_by_job
        self.share = share

    def answer(self, _path):
        now = time.time()
        energy = [((job, "cpu"), self.share * joules(now)) for job, joules in self.joules_by_job.items()]
        emissions = [((*labels, "lifecycle"), joules / 1000) for labels, joules in energy]
        families = [metrics.Family(metrics.JOB_ENERGY, energy), metrics.Family(metrics.JOB_EMISSIONS, emissions)]
        return metrics.Renderer().render(families)


HOSTILE = ['a"} or vector(1) #', "back\\slash", "line\nfeed", "ü/../{x=~'.*'}", "plain"]
EPOCH_SECONDS, FIRST_WATTS, WATTS, PLANNED, STARTUP_JOULES = 3.0, 400.0, 200.0, 8, 300.0
TOTAL_JOULES = STARTUP_JOULES + EPOCH_SECONDS * (FIRST_WATTS + (PLANNED - 1) * WATTS)


def joules_since(start):
    def joules(now):
        first = min(max(0.0, now - start), EPOCH_SECONDS)
        later = min(max(0.0, now - start - EPOCH_SECONDS), EPOCH_SECONDS * (PLANNED - 1))
        return STARTUP_JOULES + FIRST_WATTS * first + WATTS * later

    return joules


def push_and_poll(gateway, services, start, upto):
    """Train until `upto` epochs are done: push the end of each, poll all the while."""
    while time.time() < start + upto * EPOCH_SECONDS + 1.5:
        done = min(PLANNED, int((time.time() - start) / EPOCH_SECONDS))
        finished = start + PLANNED * EPOCH_SECONDS if done == PLANNED else None
        for name in HOSTILE:
            end = start + done * EPOCH_SECONDS
            gateway.push(Training(name, "g", float(done), float(PLANNED), end, start, finished))
        for service in services:
            families = service.poll(time.time())
        time.sleep(0.3)
    return families


@pytest.mark.real
@pytest.mark.slow
def test_on_a_real_prometheus(need, tmp_path):
    need("prometheus"), need("prometheus-pushgateway")
    gateway_server = pushgateway(tmp_path)
    joules = {}
    with (
        running(gateway_server),
        serving(Node(joules, 0.25).answer) as node_1,
        serving(Node(joules, 0.75).answer) as node_2,
    ):
        targets = {"node-1": node_1, "node-2": node_2, "pushgateway": gateway_server.url}
        gateway = from_environment({}, gateway_server.url)
        with prometheus(tmp_path, targets) as engine:
            start = time.time() + 4
            joules.update({name: joules_since(start) for name in HOSTILE})
            settings = Settings(
                prometheus_url=engine.url, ended_jobs_kept_seconds=8, timeout_seconds=5, history_file=None
            )
            service = build(settings, {})
            time.sleep(3)
            families = push_and_poll(gateway, [service], start, 4)
            medians = values_of(families, metrics.FORECAST_ENERGY, quantile="0.5")
            expected = {(name,): pytest.approx(TOTAL_JOULES, rel=0.03) for name in HOSTILE}
            assert medians == expected
            grams = values_of(families, metrics.FORECAST_EMISSIONS, quantile="0.5")
            assert grams == {key: pytest.approx(TOTAL_JOULES / 1000, rel=0.03) for key in expected}
            ends = values_of(families, metrics.FORECAST_END, quantile="0.5")
            assert ends == {key: pytest.approx(start + PLANNED * EPOCH_SECONDS, abs=0.2) for key in expected}
            assert ("plain", "builtin", "g", "lifecycle") in values_of(families, metrics.FORECAST_INFO)
            assert not any(values_of(families, metrics.FORECAST_QUERY_ERRORS).values())

            newcomer = build(settings, {})
            families = newcomer.poll(time.time())
            medians = values_of(families, metrics.FORECAST_ENERGY, quantile="0.5")
            assert medians == {(name,): pytest.approx(TOTAL_JOULES, rel=0.1) for name in HOSTILE}
            newcomer._client._session.close()

            made = values_of(service.families(), metrics.FORECAST_TIMESTAMP)
            before = values_of(service.families(), metrics.FORECAST_ENERGY)
            engine.stop()
            families = service.poll(time.time())
            assert values_of(families, metrics.FORECAST_ENERGY) == before
            assert values_of(families, metrics.FORECAST_TIMESTAMP) == made
            assert values_of(families, metrics.FORECAST_QUERY_ERRORS, reason="unreachable") == {(): 1}
            engine.start()

            families = push_and_poll(gateway, [service], start, PLANNED + 0.5)
            totals = values_of(families, metrics.FORECAST_ENERGY, quantile="0.5")
            assert totals == {key: pytest.approx(TOTAL_JOULES) for key in expected}
            time.sleep(max(0.0, start + PLANNED * EPOCH_SECONDS + 8.5 - time.time()))  # until it leaves the page
            families = service.poll(time.time())
            # The first epoch costs twice as much as the others here: the forecast made after it alone is far too high.
            assert 0 < values_of(families, metrics.FORECAST_COVERAGE)[("builtin",)] < 1
            assert values_of(families, metrics.FORECAST_ERROR)[("builtin",)] < 0.1
            service._client._session.close()
