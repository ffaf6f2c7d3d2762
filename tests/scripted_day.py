"""The scripted day in real engines: a day of history, then live, in Prometheus and in VictoriaMetrics.

Nodes (scripted_day_node.py) and a Pushgateway's page give the samples of a day, which promtool makes blocks of. The
recording rules of alerts/recording.yaml are evaluated over them by Prometheus, in as many passes as rules build on each
other: a rule that reads its own past is right only live. Then Prometheus scrapes the nodes, the Pushgateway's page
and two forecast replicas and evaluates all rules, each second.

VictoriaMetrics imports the same samples. The recorded series are not evaluated a second time for it: those of the day
are copied from Prometheus' blocks, and Prometheus writes what it scrapes and records to it by remote write.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import requests
import yaml
from fake_grid import FakeGrid, Reply, iso
from scripted_day_script import (
    CLUSTER,
    DAY_SECONDS,
    HOSTS,
    HOUR,
    JOBS,
    MOVED_HOURS,
    OVER,
    TICK_SECONDS,
    Truth,
    intensity,
    pushed,
)
from test_second_engine import victoria_metrics

from carbon_exporter.demo.servers import Server, free_port

BUILD_SECONDS = 30
"""The day ends so long after its making begins, which takes some seconds more."""
LEFT_SECONDS = 300 + 600 - HOUR * MOVED_HOURS
"""After the day's end what the moved job's first node told of it leaves all windows of five minutes: an account lingers
for ten. The rules must have seen it live before."""
SETTLED_SECONDS = LEFT_SECONDS + 6
SHOWN_SECONDS = 3
"""By then what Prometheus has is in VictoriaMetrics too."""
RECORDED = re.compile(r"[a-zA-Z_]+:[a-zA-Z0-9_:]+")
HISTORY_RUNS = 12


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
        """[(labels, {Unix second: value})] up to the truth's time; without its cache VictoriaMetrics takes it as it is."""
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
        outside = stack.enter_context(FakeGrid(_grids()))
        outside.answers["/metrics"] = lambda _: Reply(
            "\n".join([*pushed(end, time.time()), ""]), headers={"Content-Type": "text/plain; version=0.0.4"}
        )
        nodes = [stack.enter_context(_node(host, end, folder, library)) for host in HOSTS]
        samples = _write_pushed(folder / "pushed", end)
        victoria = stack.enter_context(victoria_metrics(folder))
        node_urls = [_first_line(node) for node in nodes]
        samples = [samples, *(folder / host.name / "pages" for host in HOSTS)]
        _make_blocks(folder, samples)
        samples += _record(folder, url, alerts, end)
        _import(victoria.url, samples)
        replicas = [_forecast(folder, name, outside.url, url) for name in ("forecast-1", "forecast-2")]
        targets = [("carbon-exporter", host.name, url) for host, url in zip(HOSTS, node_urls, strict=True)]
        targets += [("carbon-forecast", replica.log.stem, replica.url) for replica in replicas]
        targets.append(("pushgateway", "pushgateway", outside.url))
        prometheus = _prometheus(folder, url, _live(folder, alerts, targets, victoria.url))
        time.sleep(max(0.0, end - time.time()))
        late = time.time() - end
        assert late < LEFT_SECONDS - 5, f"the day was made {late:.0f} s too late"
        for server in (prometheus, *replicas):
            stack.enter_context(server)
        _wait_for_forecasts(prometheus.url, end)
        at = round(time.time()) - SHOWN_SECONDS
        yield Day(prometheus.url, victoria.url, Truth(end, float(at)))


@contextlib.contextmanager
def _node(host, end, folder, library):
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


def _first_line(process):
    line = process.stdout.readline().strip()
    assert line, f"{process.args[2]} has ended: see its log in {process.args[4]}"
    return line


def _write_pushed(path, end):
    """Each minute's scrape of the Pushgateway, honor_labels on."""
    target = f'cluster="{CLUSTER}"'
    with path.open("w") as file:
        for minute in range(1, round(DAY_SECONDS / TICK_SECONDS) + 1):
            at = end - DAY_SECONDS + minute * TICK_SECONDS
            lines = [line.replace('instance=""', target) for line in pushed(end, at)]
            file.writelines(f"{line} {at:.0f}\n" for line in lines)
            file.write(f'up{{{target},instance="pushgateway",job="pushgateway"}} 1 {at:.0f}\n')
    return path


def _make_blocks(folder, samples):
    whole = folder / "day.om"
    with whole.open("w") as file:
        for path in samples:
            file.write(path.read_text())
        file.write("# EOF\n")
    command = ["promtool", "tsdb", "create-blocks-from", "--quiet", "openmetrics", whole, folder / "prometheus"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    whole.unlink()


def _record(folder, url, alerts, end):
    """Evaluate the recording rules over the day, those first on which others build; gives the samples' files.

    Range queries, as `promtool tsdb create-blocks-from rules` asks them, but of a whole day: that makes a block of each
    rule and two hours, hundreds in all.
    """
    groups = yaml.safe_load((alerts / "recording.yaml").read_text())["groups"]
    waiting = [rule for group in groups for rule in group["rules"]]
    files = []
    while waiting:
        unknown = {rule["record"] for rule in waiting}
        ready = [rule for rule in waiting if not (set(RECORDED.findall(rule["expr"])) - {rule["record"]}) & unknown]
        assert ready, f"rules build on each other in a circle: {unknown}"
        path = folder / f"recorded-{len(files)}"
        with _prometheus(folder, url, {}), path.open("w") as file:
            for rule in ready:
                file.writelines(_evaluated(url, rule, end))
        _make_blocks(folder, [path])
        files.append(path)
        waiting = [rule for rule in waiting if rule not in ready]
    return files


def _evaluated(url, rule, end):
    """The samples of a rule, each minute of the day."""
    times = {"start": end - DAY_SECONDS, "end": end, "step": TICK_SECONDS}
    answer = requests.post(f"{url}/api/v1/query_range", data={"query": rule["expr"], **times}, timeout=60).json()
    assert answer["status"] == "success", f"{rule['record']}: {answer}"
    for row in answer["data"]["result"]:
        labels = {**row["metric"], **rule.get("labels", {})}
        labels.pop("__name__", None)
        told = ",".join(f"{name}={json.dumps(value)}" for name, value in labels.items())
        for at, value in row["values"]:
            yield f"{rule['record']}{{{told}}} {value} {at:.0f}\n"


def _import(url, samples):
    """It takes milliseconds where blocks are made of seconds."""
    for path in samples:
        with path.open("rb") as lines:
            milliseconds = (line[:-1] + b"000\n" for line in lines)
            answer = requests.post(f"{url}/api/v1/import/prometheus", data=milliseconds, timeout=60)
        assert answer.ok, answer.text


def _prometheus(folder, url, settings):
    configuration = folder / "prometheus.yml"
    configuration.write_text(yaml.safe_dump(settings))
    command = ["prometheus", f"--config.file={configuration}", f"--storage.tsdb.path={folder / 'prometheus'}"]
    command += [f"--web.listen-address={url.split('//')[1]}", "--log.level=warn"]
    return Server(command, url, folder / "prometheus.log")


def _live(folder, alerts, targets, victoria_url):
    """Settings: Prometheus scrapes `targets` (scrape job, instance, URL) and evaluates the shipped rules each second."""
    scrapes = {}
    for job, instance, url in targets:
        scrape = scrapes.setdefault(job, {"job_name": job, "honor_labels": job == "pushgateway", "static_configs": []})
        scrape["static_configs"].append({"targets": [url.split("//")[1]], "labels": {"cluster": CLUSTER, "instance": instance}})
    names = ("recording.yaml", "alerts.yaml")
    for name in names:
        rules = yaml.safe_load((alerts / name).read_text())
        for group in rules["groups"]:
            group.pop("interval", None)
        (folder / name).write_text(yaml.safe_dump(rules, sort_keys=False))
    queue = {"batch_send_deadline": "200ms"}
    return {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(folder / name) for name in names],
        "scrape_configs": list(scrapes.values()),
        "remote_write": [{"url": f"{victoria_url}/api/v1/write", "queue_config": queue}],
    }


def _forecast(folder, name, grid_url, prometheus_url):
    """A replica of the forecast service, with a record of earlier runs of one group."""
    url = f"http://127.0.0.1:{free_port()}"
    record = folder / "runs.csv"
    joules = Truth(0.0, 0.0).power(owner=OVER) * HOUR / 2
    rows = [
        f"run-{run},bert,{epoch},1800,{joules * (0.97 + 0.005 * run + 0.002 * (epoch % 3))}"
        for run in range(HISTORY_RUNS)
        for epoch in range(1, 41)
    ]
    record.write_text("\n".join(["run,config,epoch,duration_s,energy_j", *rows, ""]))
    _configure(folder, name, grid_url, prometheus_url)
    arguments = [sys.executable, "-m", "carbon_exporter"]
    configured = ["--config", str(folder / f"{name}.yaml")]
    subprocess.run([*arguments, "history", "import", *configured, str(record)], check=True, capture_output=True)
    command = [*arguments, "forecast", *configured, "--web.listen-address", url.split("//")[1]]
    token = {"CARBON_ELECTRICITY_MAPS_TOKEN": "of-no-use-elsewhere"}
    return Server(command, url, folder / f"{name}.log", environment=token)


def _configure(folder, name, grid_url, prometheus_url):
    forecast = {"prometheus_url": prometheus_url, "poll_seconds": 1, "history_file": str(folder / f"{name}.sqlite")}
    zones = {"DE": ["energy_charts"], "FR": ["electricity_maps"]}
    urls = {name: {"url": grid_url} for name in ("energy_charts", "electricity_maps")}
    settings = {"forecast": forecast, "intensity": {"zones": zones, "cache_dir": None, **urls}}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings))


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


def _grids():
    """Energy-Charts for Germany and Electricity Maps for France, as of now; path -> answer."""

    def energy_charts(asked):
        now = time.time() // 900 * 900
        first, last = (now, now + DAY_SECONDS) if asked.path.endswith("forecast") else (now - 2 * DAY_SECONDS, now)
        times = [int(first + 900 * n) for n in range(round((last - first) / 900) + 1)]
        values = [intensity("DE", at) for at in times]
        column = "co2eq_forecast" if asked.path.endswith("forecast") else "co2eq"
        return Reply({"unix_seconds": times, column: values})

    def electricity_maps(asked):
        hour, temporality = time.time() // HOUR * HOUR, asked.path.rpartition("/")[2]
        hours = {"history": range(-24, 0), "latest": [0], "forecast": range(1, 73)}[temporality]
        rows = [
            {"zone": "FR", "carbonIntensity": intensity("FR", hour + n * HOUR), "datetime": iso(hour + n * HOUR)}
            | {"emissionFactorType": "lifecycle", "isEstimated": temporality == "forecast"}
            for n in hours
        ]
        return Reply(rows[0] if temporality == "latest" else {"zone": "FR", temporality: rows})

    own = {f"/carbon-intensity/{temporality}": electricity_maps for temporality in ("history", "latest", "forecast")}
    return {"/co2eq": energy_charts, "/co2eq_forecast": energy_charts, **own}
