"""What a real Prometheus makes of wrapping RAPL counters: node_exporter's raw ones beside ours, on one moving tree."""

import contextlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import pytest
import requests
from powercap import Powercap

from carbon_exporter.demo.servers import Server, free_port, prometheus, running
from carbon_exporter.metrics import CONTENT_TYPE, RAPL_ENERGY, Family, Renderer
from carbon_exporter.model import Roots
from carbon_exporter.sources import rapl

WATTS = 110.0
# 1.9 s at 110 W: wraps fall at ever other places between the scrapes, which are one second apart.
RANGE_UJ = 207_000_000
SAMPLING_SECONDS = 0.2
RUN_SECONDS = 16.0


class Exposition:
    """Our source, sampled by a thread, and a page for each sample: the node agent at its smallest."""

    def __init__(self, source: rapl.Rapl) -> None:
        self.source = source
        self.renderer = Renderer()
        self.page = b""
        self.stop = threading.Event()
        self.sample()

    def sample(self) -> None:
        reading = self.source.read(time.monotonic())
        samples = [
            (tuple(device.labels[name] for name in RAPL_ENERGY.labels), device.energy_joules)
            for device in reading.devices
        ]
        self.page = self.renderer.render([Family(RAPL_ENERGY, samples)])

    def run(self) -> None:
        while not self.stop.wait(SAMPLING_SECONDS):
            self.sample()

    @contextlib.contextmanager
    def serving(self):
        exposition = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Type", CONTENT_TYPE)
                self.end_headers()
                self.wfile.write(exposition.page)

            def log_message(self, *arguments):
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threads = [threading.Thread(target=server.serve_forever), threading.Thread(target=self.run)]
            for thread in threads:
                thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}"
            finally:
                self.stop.set()
                server.shutdown()
                for thread in threads:
                    thread.join()


def query(server: Server, expression: str) -> list[dict]:
    reply = requests.get(f"{server.url}/api/v1/query", params={"query": expression}, timeout=5)
    reply.raise_for_status()
    return reply.json()["data"]["result"]


def value(server: Server, expression: str) -> float:
    (series,) = query(server, expression)
    return float(series["value"][1])


def wait_for(condition, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "Prometheus has not seen it in time"
        time.sleep(0.2)


@pytest.mark.real
@pytest.mark.slow
def test_prometheus_gets_every_joule_from_us_and_loses_some_of_node_exporters_at_each_wrap(tmp_path, need, capsys):
    need("prometheus")
    tree = Powercap(tmp_path / "sys")
    zone = tree.add("intel-rapl:0", "package-0", watts=WATTS, range_uj=RANGE_UJ)
    tree.add("intel-rapl:0:0", "core", watts=WATTS / 2, range_uj=RANGE_UJ)
    tree.add("intel-rapl-mmio:0", "package-0", watts=WATTS, range_uj=RANGE_UJ)
    ours = Exposition(rapl.open_source(rapl.Settings(), Roots(sysfs=tree.sysfs)))
    url = f"http://127.0.0.1:{free_port()}"
    command = [
        need("prometheus-node-exporter"),
        f"--path.sysfs={tree.sysfs}",
        "--collector.disable-defaults",
        "--collector.rapl",
        f"--web.listen-address={url.split('//')[1]}",
    ]
    theirs = Server(command, url, tmp_path / "node_exporter.log", ready_path="/metrics")
    our_name = "carbon_rapl_energy_joules_total"
    their_name = 'node_rapl_package_joules_total{path=~".*/intel-rapl:0"}'
    with ours.serving() as our_url, theirs:
        server = prometheus(tmp_path, {"ours": our_url, "theirs": theirs.url})
        with running(server):
            wait_for(lambda: query(server, our_name) and query(server, their_name))
            with tree.moving():
                time.sleep(RUN_SECONDS)
                window = f"{RUN_SECONDS - 1:.0f}s"
                our_increase = value(server, f"increase({our_name}[{window}])")
                their_increase = value(server, f"increase({their_name}[{window}])")
            truth_joules = zone.spent_joules
            # The source began at 0 before the tree began to move: the last value is the truth, and no less.
            wait_for(lambda: value(server, our_name) == truth_joules)
            wait_for(lambda: value(server, their_name) == zone.spent_uj % RANGE_UJ / 1e6)
            (their_series,) = query(server, f"{their_name}[5m]")
            our_packages = query(server, our_name)
            their_packages = query(server, "node_rapl_package_joules_total")

    raw = [float(sample) for _, sample in their_series["values"]]
    wraps = [(last, now) for last, now in pairwise(raw) if now < last]
    kept_joules = sum(now - last if now >= last else now for last, now in pairwise(raw))
    lost_joules = sum(RANGE_UJ / 1e6 - last for last, _ in wraps)
    with capsys.disabled():
        print(f"\n{len(wraps)} wraps, truth and our counter {truth_joules:.1f} J, node_exporter {kept_joules:.1f} J")
        print(f"increase() over {window}: {our_increase:.1f} J of ours, {their_increase:.1f} J of node_exporter's")
    assert len(wraps) >= 5
    # Less than the truth only where a scrape came so late that a whole wrap hid between two.
    assert kept_joules + lost_joules <= truth_joules + 1e-3
    assert lost_joules > 0.1 * truth_joules
    assert kept_joules < 0.9 * truth_joules
    assert their_increase < 0.9 * our_increase
    # One package: they show it twice, told apart by the path alone.
    assert len(our_packages) == 1
    assert len(their_packages) == 2
