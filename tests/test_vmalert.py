"""vmalert evaluates the shipped rules on a real VictoriaMetrics, and an alert fires there."""

import time

import pytest
import requests
from test_rules import ALERTING, FILES, GROUPS, RECORDED
from test_second_engine import victoria_metrics

from carbon_exporter.demo.servers import Server, free_port

MINUTES = 12
JOB = 'training_job="a \\"quoted\\" job"'
NODE = 'instance="n1",job="node"'
PUSHED = 'instance="gateway",job="carbon_training"'


def samples(now_seconds):
    """Twelve minutes of one node of 100 W and one job on it, 20 g above its budget, once every 15 s."""
    for step in range(0, MINUTES * 60 + 1, 15):
        stamp = int((now_seconds - MINUTES * 60 + step) * 1000)
        values = {
            f'carbon_node_info{{node_name="n1",{NODE}}}': 1,
            f'carbon_job_info{{{JOB},pod_namespace="ml",team="vision",{NODE}}}': 1,
            f'carbon_estimated_energy_joules_total{{component="cpu",{NODE}}}': 100 * step,
            f'carbon_job_energy_joules_total{{{JOB},component="cpu",{NODE}}}': 100 * step,
            f'carbon_job_emissions_grams_total{{{JOB},component="cpu",basis="lifecycle",{NODE}}}': 120,
            f"carbon_training_emissions_budget_grams{{{JOB},{PUSHED}}}": 100,
        }
        for series, value in values.items():
            yield f"{series} {value} {stamp}"


def vmalert(directory, engine):
    """One that evaluates each second and reads at once what it has written."""
    url = f"http://127.0.0.1:{free_port()}"
    command = [
        "vmalert",
        *(f"-rule={file}" for file in FILES),
        f"-datasource.url={engine.url}",
        f"-remoteWrite.url={engine.url}",
        f"-remoteRead.url={engine.url}",
        "-remoteWrite.flushInterval=200ms",
        "-datasource.queryTimeAlignment=false",
        "-evaluationInterval=1s",
        "-notifier.blackhole",
        f"-httpListenAddr={url.split('//')[1]}",
    ]
    return Server(command, url, directory / "vmalert.log", ready_path="/health")


def told_by(alerter):
    """Every rule by its name, as vmalert tells of it; every alert that is pending or fires."""
    groups = requests.get(f"{alerter.url}/api/v1/rules", timeout=5).json()["data"]["groups"]
    alerts = requests.get(f"{alerter.url}/api/v1/alerts", timeout=5).json()["data"]["alerts"]
    return {rule["name"]: rule for group in groups for rule in group["rules"]}, alerts


def errors_of(alerter):
    page = requests.get(f"{alerter.url}/metrics", timeout=5).text
    return sum(
        float(line.split()[-1])
        for line in page.splitlines()
        if line.startswith(("vmalert_execution_errors_total", "vmalert_recording_rules_error{"))
    )


@pytest.mark.real
@pytest.mark.slow
def test_vmalert_evaluates_every_rule_and_a_spent_budget_fires(need, tmp_path):
    need("vmalert"), need("victoria-metrics")
    rules = [tmp_path / file.name for file in FILES]
    for file, copy in zip(FILES, rules, strict=True):
        copy.write_text(file.read_text().replace("for: 1m\n", "for: 3s\n"))
    with victoria_metrics(tmp_path) as engine:
        body = "\n".join(samples(time.time()))
        requests.post(f"{engine.url}/api/v1/import/prometheus", data=body, timeout=10).raise_for_status()
        requests.get(f"{engine.url}/internal/force_flush", timeout=10).raise_for_status()
        alerter = vmalert(tmp_path, engine)
        alerter.command = [one.replace(str(FILES[0].parent), str(tmp_path)) for one in alerter.command]
        with alerter:
            deadline = time.monotonic() + 30
            spent = []
            while time.monotonic() < deadline and not spent:
                time.sleep(0.5)
                known, alerts = told_by(alerter)
                spent = [one for one in alerts if one["name"] == "CarbonBudgetSpent" and one["state"] == "firing"]
            assert set(known) == {rule["record"] for rule in RECORDED} | {rule["alert"] for rule in ALERTING}
            assert {name: rule["lastError"] for name, rule in known.items() if rule["lastError"]} == {}
            assert errors_of(alerter) == 0
    assert len(spent) == 1, alerter.log.read_text()[-2000:]
    labels, annotations = spent[0]["labels"], spent[0]["annotations"]
    assert (labels["training_job"], labels["team"], labels["namespace"]) == ('a "quoted" job', "vision", "ml")
    assert annotations["description"] == (
        'a "quoted" job has emitted 120g of CO2eq so far. Its budget is 100g. The basis of its grams is lifecycle.'
    )
    assert annotations["runbook_url"].endswith("/runbooks/CarbonBudgetSpent")
    assert {group["name"] for group in GROUPS} == {one["name"] for one in groups_of(known)}


def groups_of(known):
    return [{"name": name} for name in {rule["groupName"] if "groupName" in rule else "" for rule in known.values()}]
