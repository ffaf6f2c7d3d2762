"""The scripted day in real engines: a day of history, then live, in Prometheus and in VictoriaMetrics.

Nodes (scripted_day_node.py) and a Pushgateway's page give the samples of a day, which promtool makes blocks of. The
recording rules of alerts/recording.yaml are evaluated over them by Prometheus, in as many passes as rules build on each
other: a rule that reads its own past is right only live. Then Prometheus scrapes the nodes, the Pushgateway's page
and two forecast replicas and evaluates all rules, each second.

VictoriaMetrics imports the same samples. Rules are not evaluated a second time for it: it imports what Prometheus has
recorded of the day, and what Prometheus scrapes and records live comes by remote write.
"""

import contextlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import requests
from fake_grid import FakeGrid, Reply
from prometheus_client.parser import text_string_to_metric_families
from scripted_day_engines import import_samples, live_settings, make_blocks, prometheus_with, record, write_pushed
from scripted_day_forecast import forecast_service, grid_answers
from scripted_day_script import DAY_SECONDS, HOSTS, HOUR, JOBS, MOVED_HOURS, Truth, pushed
from test_second_engine import victoria_metrics

from carbon_exporter.demo.servers import free_port

BUILD_SECONDS = 45
"""The day ends so long after its making begins, which takes some seconds more."""
LEFT_SECONDS = 300 + 600 - HOUR * MOVED_HOURS
"""After the day's end what the moved job's first node told of it leaves all windows of five minutes: an account lingers
for ten. The rules must have seen it live before."""
SETTLED_SECONDS = LEFT_SECONDS + 6
SHOWN_SECONDS = 3
"""By then what Prometheus has is in VictoriaMetrics too."""


@dataclass(frozen=True)
class Day:
    """What a test needs: both engines, and what is true at the time that queries are for."""

    prometheus_url: str
    victoria_url: str
    truth: Truth

    @property
    def urls(self):
        return self.prometheus_url, self.victoria_url

    def query(self, url, expression, at=None):
        """[(labels, value)] at Unix second `at`, by default that of the truth."""
        answer = self.ask(url, "query", query=expression, time=self.truth.at if at is None else at)
        if answer["resultType"] == "scalar":
            return [({}, float(answer["result"][1]))]
        return [(row["metric"], float(row["value"][1])) for row in answer["result"]]

    def query_range(self, url, expression, seconds=DAY_SECONDS, step=300):
        """[(labels, {Unix second: value})] up to the truth's time, which VictoriaMetrics rounds unless nocache."""
        times = {"start": self.truth.at - seconds, "end": self.truth.at, "step": step}
        answer = self.ask(url, "query_range", query=expression, nocache=1, **times)
        return [(row["metric"], {at: float(value) for at, value in row["values"]}) for row in answer["result"]]

    def label_values(self, url, label, selector):
        """As Grafana's label_values(selector, label) asks; `selector` may be ""."""
        matching = {"match[]": selector} if selector else {}
        start = self.truth.at - DAY_SECONDS
        return self.ask(url, f"label/{label}/values", start=start, end=self.truth.at, **matching)

    def ask(self, url, endpoint, **parameters):
        """The data of the answer; an engine's refusal fails the test in the engine's words."""
        answer = requests.get(f"{url}/api/v1/{endpoint}", params=parameters, timeout=30)
        body = answer.json()
        assert body["status"] == "success", f"{parameters}: {body.get('error')}"
        assert not body.get("warnings"), f"{parameters}: {body['warnings']}"
        return body["data"]


@contextlib.contextmanager
def scripted_day(folder, library, alerts):
    """The running day, with its files in `folder`.

    Args:
        folder: an empty one.
        library: of the NVML shim.
        alerts: the folder of recording.yaml and alerts.yaml.
    """
    end = float(round(time.time()) + BUILD_SECONDS)
    url = f"http://127.0.0.1:{free_port()}"
    with contextlib.ExitStack() as stack:
        outside = stack.enter_context(FakeGrid(grid_answers()))
        outside.answers["/metrics"] = lambda _: Reply(
            "\n".join([*pushed(end, time.time()), ""]), headers={"Content-Type": "text/plain; version=0.0.4"}
        )
        nodes = [stack.enter_context(node_process(host, end, folder, library)) for host in HOSTS]
        samples = write_pushed(folder / "pushed", end)
        victoria = stack.enter_context(victoria_metrics(folder))
        node_urls = [first_line(node) for node in nodes]
        samples = [samples, *(folder / host.name / "pages" for host in HOSTS)]
        make_blocks(folder, samples)
        samples += record(folder, url, alerts, end)
        import_samples(victoria.url, samples)
        replicas = [forecast_service(folder, name, outside.url, url) for name in ("forecast-1", "forecast-2")]
        targets = [("carbon-exporter", host.name, url) for host, url in zip(HOSTS, node_urls, strict=True)]
        targets += [("carbon-forecast", replica.log.stem, replica.url) for replica in replicas]
        targets.append(("pushgateway", "pushgateway", outside.url))
        prometheus = prometheus_with(folder, url, live_settings(folder, alerts, targets, victoria.url))
        time.sleep(max(0.0, end - time.time()))
        late = time.time() - end
        assert late < LEFT_SECONDS - 5, f"the day was made {late:.0f} s too late"
        for server in (prometheus, *replicas):
            stack.enter_context(server)
        _wait_for_forecasts(prometheus.url, end)
        pages = {instance: page(url) for _, instance, url in targets}
        time.sleep(SHOWN_SECONDS)
        at = round(time.time()) - SHOWN_SECONDS
        yield Day(prometheus.url, victoria.url, Truth(end, float(at), pages))


def page(url):
    """[(metric, labels, value)] that a target tells now."""
    families = text_string_to_metric_families(requests.get(f"{url}/metrics", timeout=10).text)
    return [(sample.name, sample.labels, sample.value) for family in families for sample in family.samples]


@contextlib.contextmanager
def node_process(host, end, folder, library):
    """A node's process; its errors go to a log beside its files."""
    own = folder / host.name
    (own / "gpus").mkdir(parents=True)  # the loader forgets a path that is not there at its start
    root = Path(__file__).resolve().parent
    environment = {**os.environ, "PYTHONPATH": str(root.parent)}
    if host.gpus:
        environment |= {"LD_LIBRARY_PATH": str(own / "gpus"), "NVML_SHIM": str(own / "gpus" / "host")}
    command = [sys.executable, root / "scripted_day_node.py", host.name, str(end), own, library]
    with (own / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment, text=True)
    with process:
        try:
            yield process
        finally:
            process.kill()


def first_line(process):
    line = process.stdout.readline().strip()
    assert line, f"{process.args[2]} has ended: see its log in {process.args[4]}"
    return line


def _wait_for_forecasts(url, end):
    """Until both replicas have forecast the grams of all running jobs that push, and the day has settled."""
    expected = 2 * sum(job.epoch_hours is not None and job.ended(end) > end for job in JOBS)
    deadline = time.time() + 90
    while True:
        query = 'carbon_forecast_emissions_grams{quantile="0.5"}'
        answer = requests.get(f"{url}/api/v1/query", params={"query": query}, timeout=10).json()
        if len(answer["data"]["result"]) == expected and time.time() > end + SETTLED_SECONDS:
            return
        assert time.time() < deadline, f"not all forecasts: {answer}"
        time.sleep(0.5)
