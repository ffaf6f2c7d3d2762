"""A cluster of a thousand nodes against one forecast service, both as they are; only the outside provider is played."""

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from fake_grid import FakeGrid, Reply, iso

from carbon_exporter.config import IntensitySettings
from carbon_exporter.grid import api
from carbon_exporter.grid.feed import Feed
from carbon_exporter.grid.fetcher import Fetcher
from carbon_exporter.grid.grid import open_grid
from carbon_exporter.grid.web import BoundedWeb
from carbon_exporter.intensity import cluster
from carbon_exporter.model import GridReading
from carbon_exporter.web.server import WebServer
from carbon_exporter.web.site import Page, Site

NODES, ROUNDS, AT_ONCE = 1000, 4, 10
QUARTER = 900


class CountingWeb:
    """The real way out, which counts the statuses that come back."""

    def __init__(self):
        self._web = BoundedWeb()
        self._lock = threading.Lock()
        self.statuses = Counter()

    def get(self, *arguments, **named):
        answer = self._web.get(*arguments, **named)
        with self._lock:
            self.statuses[answer.status] += 1
        return answer


def quarters(asked_at, grams):
    starts = [int(asked_at // QUARTER + i) * QUARTER for i in range(-96, 8)]
    return Reply({"unix_seconds": starts, "co2eq": [grams] * len(starts)})


class Clock:
    """Unix time, which a test may turn forward."""

    def __init__(self):
        self.ahead = 0.0

    def __call__(self):
        return time.time() + self.ahead


def ask_all_due(grid, clock):
    """Put every question that is due, as the background threads do in their time."""
    for fetcher in grid.fetchers:
        while fetcher.wait_seconds() <= 1:
            clock.ahead += fetcher.wait_seconds()
            fetcher.ask_due()


@pytest.mark.slow
def test_they_cost_the_provider_no_more_than_one_and_all_get_the_same():
    clock = Clock()
    coming = [int(clock() // QUARTER + i) * QUARTER for i in range(100)]
    forecast = Reply({"unix_seconds": coming, "co2eq_forecast": [250.0] * len(coming)})
    with FakeGrid({"/co2eq": quarters(clock(), 200.0), "/co2eq_forecast": forecast}) as provider:
        settings = IntensitySettings(
            zones={"DE": "energy_charts"}, cache_dir=None, sections={"energy_charts": {"url": provider.url}}
        )
        grid = open_grid(settings, {}, clock=clock, wall_clock=clock)
        clock.ahead += 31
        ask_all_due(grid, clock)
        asked_by_the_service = len(provider.asked)
        assert asked_by_the_service == 2  # its values and its forecast

        routes = api.routes(grid, 1.0, clock)
        server = WebServer(Site("t", "d", lambda: Page(b""), lambda: True, routes=routes), "127.0.0.1:0")
        server.start()
        try:
            said, statuses = poll(server.url, clock, provider, grid)
        finally:
            server.stop()
    assert [len(readings) for readings in said] == [NODES] * ROUNDS
    for readings in said:
        assert len({reading.spans for reading in readings}) == 1
    assert [readings[0].spans[0].grams_per_kilowatt_hour for readings in said] == [200.0, 200.0, 300.0, 300.0]
    # A round of bodies at the start and one after the change; all other answers are empty.
    assert statuses == {200: 2 * NODES, 304: (ROUNDS - 2) * NODES}
    assert len(provider.asked) == asked_by_the_service + 1  # the change was asked for once


def poll(url: str, clock: Clock, provider: FakeGrid, grid) -> tuple[list[list[GridReading]], Counter]:
    """Every node asks in each round; before the third one the provider has a new value, and the service asks it."""
    web = CountingWeb()
    nodes = [cluster.open_provider(cluster.Settings(url=url), "DE", {}) for _ in range(NODES)]
    said = []
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for number in range(ROUNDS):
            if number == 2:
                provider.answers["/co2eq"] = quarters(clock(), 300.0)
                clock.ahead += 1000
                ask_all_due(grid, clock)
            now = clock()
            said.append(list(threads.map(lambda node, now=now: node.observe(web, 0.0, now), nodes)))
    return said, web.statuses


def test_a_thousand_nodes_that_start_together_spread_their_questions():
    """At the first minute as later: no second has more than a few of them, though all are started at once."""
    node = cluster.open_provider(cluster.Settings(), "DE", {})
    feeds = [Feed(node, "DE", 0.0) for _ in range(NODES)]
    seconds = Counter(int(feed.due_seconds) for feed in feeds)
    assert set(seconds) <= set(range(31))
    assert max(seconds.values()) < 80  # 33 on average; 256 connections may be open
    fetcher = Fetcher([(None, feeds[0])], BoundedWeb(), clock=lambda: 0.0)
    assert fetcher.wait_seconds() == feeds[0].due_seconds


def test_a_node_counts_on_while_the_service_is_away_and_no_longer_than_it_may():
    clock = Clock()
    body = {
        "zone": "DE",
        "signal": "average",
        "provider": "energy_charts",
        "basis": "unspecified",
        "fallback_level": 0,
        "data_timestamp_seconds": clock() - 900,
        "spans": [[clock() - 900 + 900 * i, clock() + 900 * i, 200 + i, int(i > 0)] for i in range(40)],
    }
    with FakeGrid({api.INTENSITY_PATH: Reply(body)}) as service:
        sections = {"cluster": {"url": service.url}}
        settings = IntensitySettings(provider="cluster", grid_zone="DE", cache_dir=None, sections=sections)
        grid = open_grid(settings, {}, chains={"DE": ("cluster",)}, clock=clock, wall_clock=clock)
        clock.ahead += 31
        ask_all_due(grid, clock)
        zone = grid.zones["DE", "average"]
        levels = {}
        service.answers[api.INTENSITY_PATH] = Reply({"error": "away"}, 503)
        for minutes in range(0, 301, 10):
            intensity = zone.timeline(clock() + 60 * minutes).intensity
            levels.setdefault((intensity.provider, intensity.fallback_level), []).append(minutes)
            if intensity.provider == "energy_charts":
                expected = 200 + (minutes * 60 + 31) // 900 + 1
                assert intensity.grams_per_kilowatt_hour == pytest.approx(expected, abs=1), iso(clock())
    assert list(levels) == [("energy_charts", 0), ("energy_charts", 1), ("static", 2)]
    assert levels["energy_charts", 0] == [0]
    assert 60 <= levels["energy_charts", 1][-1] <= 150
