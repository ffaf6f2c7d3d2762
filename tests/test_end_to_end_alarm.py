"""A job pushes its budget, and its team is told before it is gone: every part on the way is the real one."""

import contextlib
import http.server
import json
import re
import sys
import threading
import time

import pytest
import yaml
from nvml_shim import Process
from test_end_to_end import JOB, Agent, training, wait_until

from carbon_exporter import cli
from carbon_exporter.demo.servers import Server, alertmanager, free_port, prometheus, pushgateway, running

pytestmark = [pytest.mark.slow, pytest.mark.real]
WATTS = 300
GRAMS_PER_KILOWATT_HOUR = 360  # the agent's
EPOCH_SECONDS = 2
PLANNED = 1000
BUDGET_GRAMS = 20
"""Above what the two minutes of this test emit, below what the planned epochs would: 300 W x 2000 s are 60 g."""
RULES = {
    "team_labels": ["group"],
    "runbook_url": "https://wiki.example/carbon",
    "alert_labels": {"channel": "green"},
    "thresholds": {"budget_for": "1s"},
}


@contextlib.contextmanager
def webhook():
    """A receiver on a free port: its address, and the (path, message) pairs that have come."""
    messages = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            messages.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", messages
        finally:
            server.shutdown()
            thread.join()


def routed_as_the_example(repository, folder, hook):
    """An Alertmanager with the routes of the example, which waits a second where that waits half a minute."""
    server = alertmanager(folder)
    text = (repository / "examples" / "alertmanager.yml").read_text()
    config = yaml.safe_load(text.replace("http://127.0.0.1:9095", hook))
    config["route"].update(group_wait="1s", group_interval="1s")
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(config))
    return server


def written_rules(folder):
    (folder / "rules.yaml").write_text(yaml.safe_dump({"rules": RULES}))
    assert cli.main(["rules", "--config", str(folder / "rules.yaml"), "--out", str(folder / "rules")]) == 0
    return sorted((folder / "rules").iterdir())


def forecast_service(folder):
    """The service; what it asks stands in forecast.yaml before it is started."""
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "carbon_exporter", "forecast", "--config", str(folder / "forecast.yaml")]
    return Server([*command, "--web.listen-address", url.split("//")[1]], url, folder / "forecast.log")


def configure_forecast(folder, prometheus_url):
    settings = {"prometheus_url": prometheus_url, "poll_seconds": 1, "history_file": str(folder / "history.sqlite")}
    (folder / "forecast.yaml").write_text(yaml.safe_dump({"forecast": settings}))


def push_epochs(gateway, started, most_seconds, until):
    """One push an epoch, as a job does, until `until()` or time is up."""
    for epoch in range(1, int(most_seconds / EPOCH_SECONDS)):
        time.sleep(max(0, started + epoch * EPOCH_SECONDS - time.time()))
        done = ["--epochs-completed", str(epoch), "--epochs-planned", str(PLANNED)]
        begun = ["--started-at", str(started), "--budget-grams", str(BUDGET_GRAMS)]
        assert cli.main(["push", JOB, "--gateway", gateway.url, "--group", "vision", *done, *begun]) == 0
        if until():
            return


def grams(text):
    number, prefix = re.fullmatch(r"([0-9.]+)(m|k|)g", text).groups()
    return float(number) * {"m": 1e-3, "": 1, "k": 1e3}[prefix]


def test_a_budget_that_will_not_last_reaches_the_team_with_all_that_it_needs(repository, tmp_path, need):
    for program in ("prometheus", "prometheus-pushgateway", "prometheus-alertmanager", "gcc"):
        need(program)
    agent, gateway = Agent(tmp_path), pushgateway(tmp_path)
    with webhook() as (hook, messages), training(JOB, CARBON_TRAINING_GROUP="vision") as pid:
        alerts = routed_as_the_example(repository, tmp_path, hook)
        service = forecast_service(tmp_path)
        targets = {"carbon-exporter": agent.server.url, "carbon-forecast": service.url, "pushgateway": gateway.url}
        metrics = prometheus(tmp_path, targets, rules=written_rules(tmp_path), alertmanager_url=alerts.url)
        configure_forecast(tmp_path, metrics.url)
        with agent.tree.moving(), running(agent.server, gateway, alerts, metrics, service):
            agent.gpus[0].set_processes([Process(pid, 0, -1, 90, 0)])
            wait_until(lambda: agent.values().get(f'carbon_job_gpus{{training_job="{JOB}"}}') == 1)
            agent.gpus[0].set_watts(WATTS)
            push_epochs(gateway, time.time(), 120, until=lambda: budget_alerts(messages))
    path, alert = budget_alerts(messages)[0]
    labels, told = alert["labels"], alert["annotations"]
    assert path == "/vision"
    assert (labels["training_job"], labels["team"], labels["channel"]) == (JOB, "vision", "green")
    assert told["runbook_url"] == f"https://wiki.example/carbon/{labels['alertname']}"
    assert told["description"].startswith(f"{JOB} ")
    amounts = re.search(r" ([0-9.]+\w*g) of CO2eq .*Its budget is ([0-9.]+\w*g)\.", told["description"])
    forecast, budget = amounts.groups()
    assert grams(budget) == BUDGET_GRAMS
    gpu = WATTS * EPOCH_SECONDS * PLANNED * GRAMS_PER_KILOWATT_HOUR / 3.6e6
    assert max(BUDGET_GRAMS, gpu / 3) < grams(forecast) < 5 * gpu


def budget_alerts(messages):
    """(path, alert) of every firing alert about a budget that is to be gone."""
    return [
        (path, alert)
        for path, message in list(messages)
        for alert in message["alerts"]
        if alert["status"] == "firing" and alert["labels"]["alertname"].startswith("CarbonBudget")
    ]
