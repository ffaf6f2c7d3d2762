"""The past intensity, read back from the PromQL engine: on a scripted engine, and on a real Prometheus."""

import json
import subprocess
import time
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from fake_grid import FakeGrid, Reply

from carbon_exporter import metrics
from carbon_exporter.config import IntensitySettings
from carbon_exporter.demo.servers import free_port, prometheus
from carbon_exporter.forecast.grid_history import HISTORY_HOURS, SLICE_HOURS, GridHistory
from carbon_exporter.forecast.promql import Client, PromQLError
from carbon_exporter.forecast.service import build
from carbon_exporter.forecast.settings import Settings
from carbon_exporter.grid.grid import open_grid

NOW = 1_800_000_000.0 + 600
"""Ten minutes into hour 500000."""
RANGE = "/api/v1/query_range"


def zones_of(*names, **settings):
    """Zones that ask Energy-Charts, which has answered and knew nothing of the past."""
    zones = dict.fromkeys(names, "energy_charts")
    opened = open_grid(IntensitySettings(zones=zones, cache_dir=None, **settings), {}).zones
    for zone in opened.values():
        zone.feeds[0].fetched_seconds = NOW
    return opened


def history_of(zone):
    return zone.feeds[0].recalled


def engine_says(points):
    result = [{"metric": {}, "values": [[seconds, repr(value)] for seconds, value in points]}] if points else []
    return Reply({"status": "success", "data": {"resultType": "matrix", "result": result}})


@pytest.fixture
def engine():
    with FakeGrid({RANGE: engine_says([])}) as grid:
        yield grid


@pytest.fixture
def client(engine):
    with requests.Session() as session:
        yield Client(engine.url, session, timeout_seconds=5)


def test_a_value_at_a_full_hour_is_the_mean_of_the_hour_before(engine, client):
    zones = zones_of("DE")
    engine.answers[RANGE] = engine_says([(1_800_000_000 - 3600, 300.0), (1_800_000_000, 250.0)])
    GridHistory(client, zones.values()).read_back(NOW, 10)
    assert history_of(zones["DE", "average"]) == {499_998: 300.0, 499_999: 250.0}


def test_it_asks_for_thirty_days_at_full_hours_and_by_every_label(engine, client):
    GridHistory(client, zones_of("DE").values()).read_back(NOW, 10)
    queries = [{name: values[0] for name, values in parse_qs(urlsplit(a.url).query).items()} for a in engine.asked]
    expected = (
        "avg(avg_over_time(carbon_intensity_grams_per_kilowatt_hour{"
        'grid_zone="DE",provider="energy_charts",signal="average",basis="unspecified"}[1h]))'
    )
    assert {query["query"] for query in queries} == {expected}
    assert {float(query["step"]) for query in queries} == {3600}
    hours = [
        hour
        for query in queries
        for hour in range(int(float(query["start"])) // 3600 - 1, int(float(query["end"])) // 3600)
    ]
    assert sorted(hours) == list(range(500_000 - HISTORY_HOURS, 500_000))
    assert max(hours[:SLICE_HOURS]) == 499_999  # the newest come first


def test_what_cannot_be_a_mean_is_left_out(engine, client):
    zones = zones_of("DE")
    full = 1_800_000_000
    engine.answers[RANGE] = engine_says([(full - 7200, -1.0), (full - 3600, 5000.0), (full, 0.0)])
    GridHistory(client, zones.values()).read_back(NOW, 10)
    assert history_of(zones["DE", "average"]) == {499_999: 0.0}


def test_what_the_provider_says_itself_wins(engine, client):
    zones = zones_of("DE")
    zones["DE", "average"].feeds[0].history = {499_999: 111.0}
    engine.answers[RANGE] = engine_says([(1_800_000_000 - 3600, 300.0), (1_800_000_000, 250.0)])
    GridHistory(client, zones.values()).read_back(NOW, 10)
    assert zones["DE", "average"].feeds[0].past() == {499_998: 300.0, 499_999: 111.0}


def test_nothing_is_read_back_before_the_provider_has_answered(engine, client):
    zones = zones_of("DE")
    zones["DE", "average"].feeds[0].fetched_seconds = None
    GridHistory(client, zones.values()).read_back(NOW, 10)
    assert engine.asked == []


def test_each_zone_is_asked_for_once_even_where_the_engine_knows_little(engine, client):
    history = GridHistory(client, zones_of("DE", "FR").values())
    for seconds in range(0, 600, 30):
        history.read_back(NOW + seconds, 10)
    assert len(engine.asked) == 2 * HISTORY_HOURS / SLICE_HOURS


def test_a_zone_that_knows_enough_is_not_asked_for(engine, client):
    zones = zones_of("DE")
    zones["DE", "average"].feeds[0].history = dict.fromkeys(range(499_000, 500_000), 100.0)
    GridHistory(client, zones.values()).read_back(NOW, 10)
    assert engine.asked == []


def test_a_failure_is_tried_again_ever_later_and_then_no_more(engine, client):
    history = GridHistory(client, zones_of("DE").values())
    engine.answers[RANGE] = Reply({"status": "error", "error": "too many samples"}, 422)
    tried = []
    for seconds in range(0, 1800, 30):
        try:
            history.read_back(NOW + seconds, 10)
        except PromQLError:
            tried.append(seconds)
    assert tried == [0, 60, 180, 420, 900]
    assert client.errors["rejected"] == len(tried)
    engine.answers[RANGE] = engine_says([])
    asked = len(engine.asked)
    for seconds in range(1860, 90_000, 3600):
        history.read_back(NOW + seconds, 10)
    assert len(engine.asked) == asked + HISTORY_HOURS / SLICE_HOURS


def test_it_goes_on_where_it_failed(engine, client):
    zones = zones_of("DE")
    history = GridHistory(client, zones.values())

    def answer(asked):
        end = float(asked.parameters["end"])
        return Reply("", 500) if len(engine.asked) == 3 else engine_says([(end, end / 3600 % 1000)])

    engine.answers[RANGE] = answer
    with pytest.raises(PromQLError):
        history.read_back(NOW, 10)
    assert sorted(history_of(zones["DE", "average"])) == [499_999 - SLICE_HOURS, 499_999]
    history.read_back(NOW + 60, 10)
    expected = {499_999 - SLICE_HOURS * i: -SLICE_HOURS * i % 1000 for i in range(6)}
    assert history_of(zones["DE", "average"]) == expected
    assert len(engine.asked) == 7


def test_a_failure_of_one_zone_leaves_the_next_for_a_later_poll(engine, client):
    zones = zones_of("DE", "FR")
    history = GridHistory(client, zones.values())

    def answer(asked):
        return Reply("", 500) if '"DE"' in asked.parameters["query"] else engine_says([(1_800_000_000, 50.0)])

    engine.answers[RANGE] = answer
    with pytest.raises(PromQLError):
        history.read_back(NOW, 10)
    history.read_back(NOW + 30, 10)
    assert history_of(zones["FR", "average"]) == {499_999: 50.0}
    assert history_of(zones["DE", "average"]) == {}


def backfill(promtool, directory, samples):
    """Put `samples` (labels, seconds, value) of the intensity into a Prometheus' storage before it starts."""
    lines = [f"# TYPE {metrics.INTENSITY.name} gauge"]
    for labels, seconds, value in samples:
        text = ",".join(f"{name}={json.dumps(value)}" for name, value in labels.items())
        lines.append(f"{metrics.INTENSITY.name}{{{text}}} {value!r} {seconds}")
    file = directory / "past.om"
    file.write_text("\n".join([*lines, "# EOF\n"]))
    command = [promtool, "tsdb", "create-blocks-from", "openmetrics", str(file), str(directory / "prometheus")]
    subprocess.run(command, check=True, capture_output=True)


def intensity(seconds):
    return 200.0 + seconds // 3600 % 24 * 10


@pytest.mark.real
@pytest.mark.slow
def test_on_a_real_prometheus(need, tmp_path):
    need("prometheus")
    full = int(time.time() // 3600 * 3600)
    first = full - 5 * 86_400
    gap = range(full - 86_400, full - 86_400 + 7200)
    of_service = {"grid_zone": "DE", "provider": "energy_charts", "signal": "average", "basis": "unspecified"}
    samples = []
    for seconds in range(first + 60, full, 600):
        if seconds not in gap:
            samples += [({**of_service, "instance": f"node-{n}"}, seconds, intensity(seconds)) for n in range(3)]
        samples.append(({**of_service, "provider": "static", "basis": "lifecycle"}, seconds, 999.0))
        samples.append(({**of_service, "signal": "marginal"}, seconds, 888.0))
        samples.append(({**of_service, "grid_zone": "FR"}, seconds, 777.0))
    # A second replica, started late: another number of series must not change the mean of an hour.
    late = range(full - 7200 + 60, full, 600)
    samples += [({**of_service, "instance": "late"}, seconds, intensity(seconds)) for seconds in late]
    backfill(need("promtool"), tmp_path, sorted(samples, key=lambda sample: str(sample[0])))
    with prometheus(tmp_path, {}) as server, requests.Session() as session:
        zones = zones_of("DE")
        client = Client(server.url, session, timeout_seconds=20)
        GridHistory(client, zones.values()).read_back(float(full + 100), 10)
        assert not any(client.errors.values())
    history = history_of(zones["DE", "average"])
    known = set(range(first // 3600, full // 3600)) - {gap.start // 3600, gap.start // 3600 + 1}
    assert set(history) == known
    assert history == {hour: pytest.approx(intensity(hour * 3600)) for hour in known}


@pytest.mark.real
@pytest.mark.slow
def test_the_service_reads_back_at_its_first_complete_poll(need, tmp_path):
    need("prometheus")
    full = int(time.time() // 3600 * 3600)
    labels = {"grid_zone": "DE", "provider": "energy_charts", "signal": "average", "basis": "unspecified"}
    backfill(need("promtool"), tmp_path, [(labels, seconds, 123.0) for seconds in range(full - 86_400, full, 900)])
    server = prometheus(tmp_path, {})
    grid = open_grid(IntensitySettings(zones={"DE": "energy_charts"}, cache_dir=None), {})
    grid.zones["DE", "average"].feeds[0].fetched_seconds = time.time()
    service = build(Settings(prometheus_url=server.url, history_file=None), {}, grid)
    service.poll(time.time())
    assert history_of(grid.zones["DE", "average"]) == {}  # the engine is away
    with server:
        service.poll(time.time())
        assert len(history_of(grid.zones["DE", "average"])) >= 23
    service._client._session.close()


def test_the_intensity_stands_on_the_page_while_the_engine_is_away():
    grid = open_grid(IntensitySettings(grid_zone="DK", cache_dir=None), {})
    service = build(Settings(prometheus_url=f"http://127.0.0.1:{free_port()}", history_file=None), {}, grid)
    page = metrics.INTENSITY.name.encode() + b'{grid_zone="DK",provider="static",signal="average",basis="lifecycle"} '
    assert page in service.page()
    service.poll(time.time())
    assert page in service.page()
    assert b'carbon_forecast_query_errors_total{reason="unreachable"} 1' in service.page()
    service._client._session.close()
