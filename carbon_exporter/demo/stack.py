"""The demo's servers, all real: Pushgateway, Alertmanager, Prometheus, node agent, forecast service, maybe Grafana."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from carbon_exporter.demo.grafana import dashboards_folder, grafana
from carbon_exporter.demo.servers import Server, ServerError, alertmanager, free_port, prometheus, pushgateway, running
from carbon_exporter.rules.render import rule_files
from carbon_exporter.rules.settings import Settings

NODE_SECONDS: Final = 1
POLL_SECONDS: Final = 2
ALERT_WAIT: Final = "5s"
"""Alerts on budgets wait minutes before they fire; the demo has none to give."""


@dataclass(frozen=True)
class Job:
    """A training job of the demo: the arguments of demo/train.py."""

    name: str
    width: int
    epochs: int
    epoch_seconds: float
    budget_grams: float | None = None


@dataclass(frozen=True)
class Stack:
    """The running servers and where they answer.

    grafana: where Grafana is, or why there is none.
    """

    directory: Path
    pushgateway: Server
    node: Server
    alertmanager: Server
    prometheus: Server
    forecast: Server
    grafana: str

    def addresses(self) -> Mapping[str, str]:
        """What a person opens in a browser, by name."""
        return {
            "Prometheus": f"{self.prometheus.url}/graph",
            "Alertmanager": self.alertmanager.url,
            "Pushgateway": self.pushgateway.url,
            "node agent": self.node.url,
            "forecast service": self.forecast.url,
            "Grafana": self.grafana,
        }


@contextmanager
def run_stack(directory: Path) -> Iterator[Stack]:
    """Start all servers with their files in `directory`; stop all of them at the end.

    Raises:
        ServerError: one is missing or does not start.
    """
    gateway, alerts = pushgateway(directory), alertmanager(directory)
    node = _carbon_exporter(directory, "node", {"node": _node_settings(directory)})
    forecast = _carbon_exporter(directory, "forecast", {})
    targets = {"carbon-exporter": node.url, "carbon-forecast": forecast.url, "pushgateway": gateway.url}
    metrics = prometheus(directory, targets, rules=_rules(directory, forecast.url), alertmanager_url=alerts.url)
    settings = {"prometheus_url": metrics.url, "poll_seconds": POLL_SECONDS}
    _write_config(directory, "forecast", {"forecast": settings})
    with running(gateway, alerts, node, metrics, forecast), _grafana(directory, metrics.url) as where:
        yield Stack(directory, gateway, node, alerts, metrics, forecast, where)


@contextmanager
def _grafana(directory: Path, prometheus_url: str) -> Iterator[str]:
    """Start Grafana where it can be; where it is, or why there is none. The demo delivers without it."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(grafana(directory, prometheus_url, dashboards_folder()))
            where = f"{server.url}/dashboards"
        except ServerError as error:
            where = f"not started: {error}"
        yield where


def _node_settings(directory: Path) -> dict[str, object]:
    return {"interval_seconds": NODE_SECONDS, "state_file": str(directory / "node.json")}


def _carbon_exporter(directory: Path, command: str, config: dict[str, object]) -> Server:
    url = f"http://127.0.0.1:{free_port()}"
    path = _write_config(directory, command, config)
    arguments = [sys.executable, "-m", "carbon_exporter", command, "--config", str(path)]
    arguments += ["--web.listen-address", url.split("//")[1]]
    return Server(arguments, url, directory / f"{command}.log")


def _write_config(directory: Path, command: str, config: dict[str, object]) -> Path:
    path = directory / f"{command}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def _rules(directory: Path, forecast_url: str) -> list[Path]:
    """The rules with their default settings, but that alerts on budgets wait seconds where they would wait minutes."""
    copies = []
    for name, text in rule_files(Settings(runbook_url=f"{forecast_url}/runbooks")).items():
        rules = yaml.safe_load(text)
        for group in rules["groups"]:
            for rule in group["rules"]:
                if rule.get("alert", "").startswith("CarbonBudget"):
                    rule["for"] = ALERT_WAIT
        copies.append(directory / name)
        copies[-1].write_text(yaml.safe_dump(rules))
    return copies


def start_job(job: Job, stack: Stack) -> subprocess.Popen[bytes]:
    """Start a training job as a user would: with its name in the environment."""
    environment = {
        **os.environ,
        "CARBON_TRAINING_JOB": job.name,
        "CARBON_TRAINING_GROUP": "demo",
        "CARBON_PUSHGATEWAY_URL": stack.pushgateway.url,
        # One thread each: two jobs on two cores must not fight.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    arguments = [sys.executable, "-m", "carbon_exporter.demo.train", "--width", str(job.width)]
    arguments += ["--epochs", str(job.epochs), "--epoch-seconds", str(job.epoch_seconds)]
    if job.budget_grams is not None:
        arguments += ["--budget-grams", str(job.budget_grams)]
    with (stack.directory / f"{job.name}.log").open("wb") as log:
        return subprocess.Popen(
            arguments, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
