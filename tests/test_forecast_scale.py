"""Five thousand running jobs, on two thousand nodes in two zones, with a record of ended runs: one poll, one page."""

import gc
import random
import resource
import time

import pytest
from forecast_fleet import Fleet, write_record
from grid_scripts import HOUR, T0, Clockwork, ScriptedProvider, hourly
from test_forecast_service import serving, values_of

from carbon_exporter import metrics
from carbon_exporter.forecast.service import build
from carbon_exporter.forecast.settings import Settings
from carbon_exporter.grid.grid import Grid

JOBS, GROUPS, RUNS = 5000, 50, 1000
STARTED = T0 - 4000


def grid():
    chance = random.Random(1)
    zones = []
    for name in ("DE", "FR"):
        past = [300 + chance.gauss(0, 40) for _ in range(60 * 24)]
        provider = ScriptedProvider(hourly(T0 - 60 * 24 * HOUR, *past), fresh_seconds=12 * HOUR)
        clockwork = Clockwork(provider, now=T0 - 600)
        clockwork.run(600)
        clockwork.zone.name = name
        zones.append(clockwork.zone)
    return Grid(zones, [])


@pytest.mark.slow
def test_five_thousand_jobs_are_forecast_with_ten_queries(tmp_path, capsys):
    write_record(tmp_path / "history.sqlite", GROUPS, RUNS)
    fleet = Fleet(JOBS, GROUPS, STARTED)
    thresholds = gc.get_threshold()
    gc.set_threshold(100_000, 50, 100)  # as the command has it
    with serving(fleet.answer) as url:
        settings = Settings(prometheus_url=url, history_file=tmp_path / "history.sqlite", largest_answer_bytes=2**28)
        service = build(settings, {}, grid())
        started = time.perf_counter()
        service._learning.open()
        opened = time.perf_counter() - started
        took = []
        for now in range(T0, T0 + 300, 60):
            fleet.prepare(now)
            fleet.queries.clear()
            began = time.process_time()
            families = service.poll(float(now))
            took.append(time.process_time() - began)
            assert len(fleet.queries) <= 10
        gc.set_threshold(*thresholds)
        service._learning.close()
        service._client._session.close()
    assert len(values_of(families, metrics.FORECAST_ENERGY, quantile="0.5")) == JOBS
    assert len(values_of(families, metrics.FORECAST_EXPECTED_EMISSIONS, quantile="0.5")) > 0
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds = [round(one, 2) for one in took]
    with capsys.disabled():
        print(f"\nopened in {opened:.1f} s, polls {seconds} s of CPU, {memory:.0f} MiB with the engine")
