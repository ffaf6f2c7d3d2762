"""A hostile job that pushes under 100,000 names, or very long ones: the others keep their forecasts."""

import resource
import subprocess
import time

import pytest
import requests
from test_forecast_service import cluster, make_service, run_epochs, serving, values_of
from test_grid_history import zones_of
from test_second_engine import victoria_metrics

from carbon_exporter import metrics
from carbon_exporter.demo.servers import prometheus
from carbon_exporter.forecast.grid_history import HISTORY_HOURS, SLICE_HOURS
from carbon_exporter.forecast.service import build
from carbon_exporter.forecast.settings import Settings
from carbon_exporter.grid.grid import Grid

__all__ = ["cluster", "make_service"]
NARROW = 64 * 12_000
"""Bytes of an answer, into which 56 names fit, whatever they are."""
BERT = {("bert",): pytest.approx(60_000, rel=2e-3)}


def push_many(cluster, names, now=0.0, **more):
    for name in names:
        cluster.pushed[name] = {metrics.EPOCHS_COMPLETED.name: 1.0, metrics.PUSH_TIME: now, **more}


def test_names_without_energy_that_were_there_before_do_not_lock_out_a_job_that_comes_later(cluster, make_service):
    service = make_service(most_jobs=3)
    push_many(cluster, (f"a{number}" for number in range(50)))
    for now in (900, 930):
        service.poll(now)
    families = run_epochs(cluster, service, 3)
    assert values_of(families, metrics.FORECAST_ENERGY, quantile="0.5") == BERT


def test_too_many_names_are_not_asked_for_and_counted(cluster, make_service, caplog):
    service = make_service(largest_answer_bytes=NARROW)
    push_many(cluster, (f"a{number}" for number in range(2000)), now=1000.0)
    families = run_epochs(cluster, service, 3)
    assert values_of(families, metrics.FORECAST_ENERGY, quantile="0.5") == BERT
    jobs = {outcome: count for (outcome,), count in values_of(families, metrics.FORECAST_JOBS).items() if count}
    assert jobs == {"forecast": 1, "planned_missing": 56, "too_many_jobs": 2000 - 56}
    assert not any(values_of(families, metrics.FORECAST_QUERY_ERRORS).values())
    assert len([record for record in caplog.records if "2001 training jobs" in record.getMessage()]) == 1


def test_names_that_make_the_answer_longer_than_thought_are_asked_for_once_more(cluster, make_service):
    service = make_service(largest_answer_bytes=NARROW)
    times = dict.fromkeys((metrics.TRAINING_START.name, metrics.EPOCH_END.name, metrics.EPOCHS_PLANNED.name), 900.0)
    push_many(cluster, (f"{number:03}" + 197 * "\u00e9" for number in range(165)), now=1000.0, **times)
    families = run_epochs(cluster, service, 3)
    assert values_of(families, metrics.FORECAST_ENERGY, quantile="0.5") == BERT
    assert values_of(families, metrics.FORECAST_QUERY_ERRORS, reason="malformed") == {(): 7}
    cluster.queries.clear()
    service.poll(1240)
    assert len(cluster.queries) == 10


def test_what_has_ended_stays_finished_when_too_many_names_are_pushed(cluster, make_service):
    service = make_service(largest_answer_bytes=NARROW, most_jobs=52)
    run_epochs(cluster, service, 3)
    cluster.step(1220, joules=22_000.0, epochs=3.0, end=1180.0, **{metrics.TRAINING_FINISHED.name: 1215.0})
    service.poll(1220)
    cluster.joules.clear()
    service.poll(1250)
    push_many(cluster, (f"a{number}" for number in range(200)), now=9000.0)
    for now in (1280, 1310, 1700, 9000, 9030):
        families = service.poll(now)
        assert values_of(families, metrics.FORECAST_JOBS, outcome="finished") == {(): 1}
        assert values_of(families, metrics.FORECAST_JOBS, outcome="too_many_jobs") == {(): 201 - 52}
    assert values_of(families, metrics.FORECAST_HISTORY_RUNS) == {("stopped",): 1}


def test_ever_new_names_do_not_fill_the_memory(cluster, make_service):
    service = make_service(largest_answer_bytes=NARROW)
    for now in range(1000, 1300, 30):
        push_many(cluster, (f"a{now}-{number}" for number in range(50)), now=float(now))
        service.poll(float(now))
        assert len(service._fleet) <= 170
    cluster.pushed.clear()
    run_epochs(cluster, service, 1)
    assert list(service._fleet) == ["bert"]


def test_no_poll_asks_more_than_ten_queries_whatever_comes_together(cluster):
    """Too many names, jobs met in mid-run of several ages, and the grid's past of three zones."""
    zones = zones_of("DE", "FR", "ES")
    push_many(cluster, (f"a{number}" for number in range(200)), now=1000.0)
    for number in range(8):
        start = {metrics.TRAINING_START.name: 50_000.0 * 0.4**number}
        cluster.step(60_000, f"job-{number}", joules=5e4, epochs=1.0, end=59_000.0, **start)
    asked, past = [], 0
    with serving(cluster.answer) as url:
        service = build(
            Settings(prometheus_url=url, history_file=None, largest_answer_bytes=NARROW),
            {},
            Grid(list(zones.values()), []),
        )
        for now in range(60_000, 61_200, 30):
            cluster.queries.clear()
            service.poll(float(now))
            asked.append(len(cluster.queries))
            past += sum(query.startswith("avg(avg_over_time(") for query in cluster.queries)
        service._learning.close()
        service._client._session.close()
    assert max(asked) == 10
    assert past == 3 * HISTORY_HOURS / SLICE_HOURS
    assert asked[-1] == 9


HOSTILE, REAL, EPOCHS = 100_000, 20, 10
PUSHED = (
    metrics.EPOCHS_COMPLETED,
    metrics.EPOCHS_PLANNED,
    metrics.EPOCH_END,
    metrics.TRAINING_START,
    metrics.EMISSIONS_BUDGET,
    metrics.TRAINING_INFO,
)


def samples(end):
    """(name, labels, seconds, value): 20 jobs at 100 W in epochs of 60 s, and names that are only pushed."""
    start = end - 60 * EPOCHS
    for name in (*(metric.name for metric in PUSHED), metrics.PUSH_TIME):
        # Every tenth is named with what JSON stretches most, the first is longer than any job's name.
        for number in range(HOSTILE):
            hostile = "a" * 900 if number == 0 else "<" * 180 if number % 10 == 0 else "a"
            yield name, f'training_job="{hostile}{number}"', end, end - number / 1000
        for seconds in range(start, end + 1, 30):
            done = (seconds - start) // 60
            values = (done, 2 * EPOCHS, start + 60 * done, start, 1e6, 1, seconds)
            value = dict(zip((*(metric.name for metric in PUSHED), metrics.PUSH_TIME), values, strict=True))[name]
            for number in range(REAL):
                yield name, f'training_job="real-{number}"', seconds, value
    for seconds in range(start, end + 1, 30):
        for number in range(REAL):
            labels = f'training_job="real-{number}",component="cpu"'
            yield metrics.JOB_ENERGY.name, labels, seconds, 100 * (seconds - start)


def prometheus_of(need, folder, end):
    """A Prometheus with these samples, from promtool's backfill."""
    with (folder / "past.om").open("w") as file:
        file.writelines(f"{name}{{{labels}}} {value} {seconds}\n" for name, labels, seconds, value in samples(end))
        file.write("# EOF\n")
    command = [need("promtool"), "tsdb", "create-blocks-from", "openmetrics", file.name, str(folder / "prometheus")]
    subprocess.run(command, check=True, capture_output=True)
    return prometheus(folder, {})


def fill_victoria_metrics(folder, url, end):
    with (folder / "past.txt").open("w") as file:
        file.writelines(f"{name}{{{labels}}} {value} {seconds}000\n" for name, labels, seconds, value in samples(end))
    with (folder / "past.txt").open("rb") as lines:
        requests.post(f"{url}/api/v1/import/prometheus", data=lines, timeout=120).raise_for_status()
    requests.get(f"{url}/internal/force_flush", timeout=120).raise_for_status()


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("engine", ["prometheus", "victoria-metrics"])
def test_a_hundred_thousand_names_on_a_real_engine(need, tmp_path, engine, capsys):
    need("prometheus"), need("victoria-metrics")
    end = int(time.time()) // 60 * 60 - 600
    server = prometheus_of(need, tmp_path, end) if engine == "prometheus" else victoria_metrics(tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with server:
        if engine == "victoria-metrics":
            fill_victoria_metrics(tmp_path, server.url, end)
        service = build(Settings(prometheus_url=server.url, history_file=None, timeout_seconds=60), {})
        took = []
        for now in (end + 1.0, end + 31.0):
            asked, began = service._client.asked, time.perf_counter()
            families = service.poll(now)
            took.append(round(time.perf_counter() - began, 1))
            assert service._client.asked - asked <= 10
        service._learning.close()
        service._client._session.close()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    with capsys.disabled():
        print(f"\n{engine}: polls of {took} s, {memory:.0f} MiB more")
    assert not any(values_of(families, metrics.FORECAST_QUERY_ERRORS).values())
    medians = values_of(families, metrics.FORECAST_ENERGY, quantile="0.5")
    assert medians == {(f"real-{number}",): pytest.approx(120_000, rel=5e-3) for number in range(REAL)}
    jobs = {outcome: count for (outcome,), count in values_of(families, metrics.FORECAST_JOBS).items() if count}
    dark = 64 * 2**20 // 13_500
    assert jobs == {"forecast": REAL, "invalid_value": dark, "too_many_jobs": HOSTILE - dark}
    assert memory < 300
