"""vmalert evaluates the shipped rules on a real VictoriaMetrics, and an alert fires there."""

import time

import pytest
import requests
from test_rules import ALERTING, FILES, RECORDED
from test_second_engine import victoria_metrics

from carbon_exporter.demo.servers import Server, alertmanager, free_port, running

MINUTES = 12
JOB = 'training_job="a \\"quoted\\" job"'
NODE = 'instance="n1",job="node"'

FIRST = (
    "instance_component:carbon_power_watts:rate5m",
    "training_job:carbon_job_info:team",
    "training_job:carbon_job_power_watts:rate5m",
    "node_training_job_basis:carbon_job_emissions_grams:max",
)
"""Recorded of what is scraped."""


def samples(now_seconds):
    """Twelve minutes of one node of 100 W, whose RAPL cannot be read, and one job on it, once every 15 s."""
    for step in range(0, MINUTES * 60 + 1, 15):
        stamp = int((now_seconds - MINUTES * 60 + step) * 1000)
        values = {
            f'carbon_node_info{{node_name="n1",{NODE}}}': 1,
            f'carbon_job_info{{{JOB},pod_namespace="ml",team="vision",{NODE}}}': 1,
            f'carbon_node_energy_joules_total{{component="cpu",{NODE}}}': 100 * step,
            f'carbon_job_energy_joules_total{{{JOB},component="cpu",{NODE}}}': 100 * step,
            f'carbon_job_emissions_grams_total{{{JOB},component="cpu",basis="lifecycle",{NODE}}}': 120,
            f'carbon_collector_success{{collector="rapl",{NODE}}}': 0,
        }
        for series, value in values.items():
            yield f"{series} {value} {stamp}"


def vmalert(directory, rules, engine, manager):
    """One that evaluates each second and reads at once what it has written."""
    url = f"http://127.0.0.1:{free_port()}"
    command = [
        "vmalert",
        *(f"-rule={file}" for file in rules),
        f"-datasource.url={engine.url}",
        f"-remoteWrite.url={engine.url}",
        f"-remoteRead.url={engine.url}",
        "-remoteWrite.flushInterval=200ms",
        "-datasource.queryTimeAlignment=false",
        "-evaluationInterval=1s",
        f"-notifier.url={manager.url}",
        f"-httpListenAddr={url.split('//')[1]}",
    ]
    return Server(command, url, directory / "vmalert.log", ready_path="/health")


def rules_of(alerter):
    """Every rule by its name, as vmalert tells of it."""
    groups = requests.get(f"{alerter.url}/api/v1/rules", timeout=5).json()["data"]["groups"]
    return {rule["name"]: rule for group in groups for rule in group["rules"]}


def errors_of(alerter):
    page = requests.get(f"{alerter.url}/metrics", timeout=5).text
    return sum(
        float(line.split()[-1])
        for line in page.splitlines()
        if line.startswith(("vmalert_execution_errors_total", "vmalert_recording_rules_error{"))
    )


@pytest.mark.real
@pytest.mark.slow
def test_vmalert_evaluates_every_rule_and_an_alert_fires(need, tmp_path):
    need("vmalert"), need("victoria-metrics"), need("prometheus-alertmanager")
    rules = [tmp_path / file.name for file in FILES]
    for file, copy in zip(FILES, rules, strict=True):
        copy.write_text(file.read_text().replace("for: 5m\n", "for: 3s\n"))
    engine, manager = victoria_metrics(tmp_path), alertmanager(tmp_path)
    with running(engine, manager):
        body = "\n".join(samples(time.time()))
        requests.post(f"{engine.url}/api/v1/import/prometheus", data=body, timeout=10).raise_for_status()
        requests.get(f"{engine.url}/internal/force_flush", timeout=10).raise_for_status()
        with vmalert(tmp_path, rules, engine, manager) as alerter:
            deadline = time.monotonic() + 30
            received = []
            while time.monotonic() < deadline and not received:
                time.sleep(0.5)
                alerts = requests.get(f"{manager.url}/api/v2/alerts", timeout=5).json()
                received = [one for one in alerts if one["labels"]["alertname"] == "CarbonCollectorFailing"]
            known = rules_of(alerter)
            assert {name: rule["lastError"] for name, rule in known.items() if rule["lastError"]} == {}
            assert errors_of(alerter) == 0
    assert set(known) == {rule["record"] for rule in RECORDED} | {rule["alert"] for rule in ALERTING}
    # What rests on several recorded series comes later: VictoriaMetrics finds each new one after seconds.
    counted = {name: rule["lastSamples"] for name, rule in known.items() if name in FIRST}
    assert counted == dict.fromkeys(FIRST, 1)
    (failing,) = received
    assert {"collector": "rapl", "instance": "n1", "job": "node", "severity": "warning"}.items() <= failing[
        "labels"
    ].items()
    annotations = failing["annotations"]
    assert annotations["description"].startswith("Collector rapl of n1 has failed for more than 5m.")
    assert annotations["runbook_url"].endswith("/runbooks/CarbonCollectorFailing")
