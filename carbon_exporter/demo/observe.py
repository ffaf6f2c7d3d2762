"""What the demo reads back out of the running servers, as any user would: over their HTTP APIs."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import requests

from carbon_exporter.demo.stack import Job, Stack
from carbon_exporter.forecast.promql import Client, Sample

_DEVICES: Final = 'sum({__name__=~"carbon_(rapl|estimated|gpu)_energy_joules_total"})'


@dataclass(frozen=True)
class Forecast:
    """A forecast of a job's total energy, made when `epochs` were done."""

    epochs: float
    low_joules: float
    median_joules: float
    high_joules: float
    grams: float


@dataclass
class JobView:
    """The latest of one job; None is "not seen yet"."""

    job: Job
    power_watts: float | None = None
    energy_joules: float | None = None
    emissions_grams: float | None = None
    epochs: float | None = None
    forecast: Forecast | None = None
    at_a_quarter: Forecast | None = None


@dataclass
class Observer:
    """Asks Prometheus and Alertmanager, and remembers the first forecast made at a quarter of each run."""

    stack: Stack
    views: dict[str, JobView]
    alerts: set[tuple[str, str]] = field(default_factory=set)
    estimated: bool = False
    """Whether joules of the CPU are an estimate."""
    opening: tuple[float, float] | None = None
    """`books` at the first look that found any."""

    def __post_init__(self) -> None:
        self._session = requests.Session()
        self._client = Client(self.stack.prometheus.url, self._session)

    def look(self, now_seconds: float) -> None:
        """Bring every view up to date.

        Raises:
            PromQLError: Prometheus does not answer.
        """
        values = {
            "power_watts": "sum by (training_job) (rate(carbon_job_energy_joules_total[15s]))",
            "energy_joules": "training_job:carbon_job_energy_joules:sum",
            "emissions_grams": "training_job:carbon_job_emissions_grams:sum",
            "epochs": "training_job:carbon_training_epochs_completed:max",
        }
        for attribute, expression in values.items():
            for sample in self.query(expression, now_seconds):
                view = self.views.get(sample.labels.get("training_job", ""))
                if view is not None:
                    setattr(view, attribute, sample.value)
        self._look_at_forecasts(now_seconds)
        self.estimated = bool(self.query('carbon_source_info{source="estimate"}', now_seconds))
        if self.opening is None and self.number(_DEVICES, now_seconds) is not None:
            self.opening = self.books(now_seconds)
        found = self._session.get(f"{self.stack.alertmanager.url}/api/v2/alerts", timeout=5).json()
        self.alerts |= {(alert["labels"]["alertname"], alert["labels"].get("training_job", "")) for alert in found}

    def _look_at_forecasts(self, now_seconds: float) -> None:
        energy = self.query("carbon_forecast_energy_joules", now_seconds)
        grams = self.query('carbon_forecast_emissions_grams{quantile="0.5"}', now_seconds)
        epochs = self.query("carbon_forecast_epochs_observed", now_seconds)
        for name, view in self.views.items():
            quantiles = {s.labels["quantile"]: s.value for s in energy if s.labels["training_job"] == name}
            mass, seen = _value(grams, name), _value(epochs, name)
            if len(quantiles) < 3 or mass is None or seen is None:
                continue
            view.forecast = Forecast(seen, quantiles["0.05"], quantiles["0.5"], quantiles["0.95"], mass)
            if view.at_a_quarter is None and view.job.epochs / 4 <= seen < view.job.epochs / 2:
                view.at_a_quarter = view.forecast

    def books(self, now_seconds: float) -> tuple[float, float]:
        """Joules shared out (jobs, idle, system) and joules counted by the devices, at one instant."""
        jobs = self.number("sum(carbon_job_energy_joules_total)", now_seconds) or 0.0
        rest = self.number("sum(carbon_unattributed_energy_joules_total)", now_seconds) or 0.0
        return jobs + rest, self.number(_DEVICES, now_seconds) or 0.0

    def query(self, expression: str, now_seconds: float) -> list[Sample]:
        """An instant query to Prometheus; raises PromQLError."""
        return self._client.query(expression, now_seconds)

    def number(self, expression: str, now_seconds: float) -> float | None:
        """The one value of `expression`, None where there is none."""
        samples = self.query(expression, now_seconds)
        return samples[0].value if samples else None

    def sick_rules(self) -> list[str]:
        """The names of the loaded rules that Prometheus could not evaluate."""
        answer = self._session.get(f"{self.stack.prometheus.url}/api/v1/rules", timeout=5).json()
        rules = [rule for group in answer["data"]["groups"] for rule in group["rules"]]
        return [rule["name"] for rule in rules if rule["health"] != "ok"] if rules else ["no rule is loaded"]


def _value(samples: Iterable[Sample], training_job: str) -> float | None:
    return next((s.value for s in samples if s.labels.get("training_job") == training_job), None)
