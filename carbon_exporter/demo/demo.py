"""`carbon-exporter demo`: the whole way of a joule on this host, on real parts, with two small training jobs.

Exit status 0 only if every stage really delivered.
"""

import contextlib
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import requests
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from carbon_exporter.demo.observe import JobView, Observer
from carbon_exporter.demo.servers import ServerError
from carbon_exporter.demo.stack import Job, Stack, run_stack, start_job
from carbon_exporter.forecast.promql import PromQLError

JOBS: Final = (
    Job("demo-small", width=64, epochs=24, epoch_seconds=2.0, budget_grams=0.007),
    Job("demo-large", width=192, epochs=24, epoch_seconds=3.0),
)
LONGEST_SECONDS: Final = 170.0
SETTLE_SECONDS: Final = 8.0
"""After the jobs: for the last tick, scrape, rule evaluation and poll."""
ALERTS: Final = ("CarbonBudgetLikelyExceeded", "CarbonBudgetCertainlyExceeded", "CarbonBudgetSpent")
"""One must arrive for the first job, whose budget is too small on purpose: which, hangs on the host's power."""


@dataclass(frozen=True)
class Stage:
    """One stage of the way, and whether it delivered."""

    name: str
    delivered: bool
    evidence: str


def run(*, keep: bool = False, console: Console | None = None) -> int:
    """Run the demo; `keep` leaves the servers up until Ctrl-C. 0 where all delivered, 1 where not."""
    console = console or Console()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # end as by Ctrl-C, and take everything along
    try:
        with tempfile.TemporaryDirectory(prefix="carbon-demo-") as folder, run_stack(Path(folder)) as stack:
            stages = _show(stack, console)
            if keep:
                _wait_for_interrupt(stack, console)
    except ServerError as error:
        console.print(f"carbon-exporter demo: {error}", style="bold red", highlight=False)
        return 1
    except KeyboardInterrupt:
        console.print("\nInterrupted. Everything that was started is gone.")
        return 130
    failed = [stage.name for stage in stages if not stage.delivered]
    if failed:
        console.print(f"FAILED: {', '.join(failed)}", style="bold red")
        return 1
    console.print("Every stage delivered. Everything that was started is gone.", style="green")
    return 0


def _show(stack: Stack, console: Console) -> list[Stage]:
    console.print(
        f"Two training jobs on this host, watched by Prometheus at {stack.prometheus.url} (under 3 minutes).",
        highlight=False,
    )
    console.print(f"Grafana: {stack.grafana}", highlight=False, soft_wrap=True)
    observer = Observer(stack, {job.name: JobView(job) for job in JOBS})
    processes = {job.name: start_job(job, stack) for job in JOBS}
    try:
        _watch(observer, processes, console)
        stages = list(_judge(observer, processes))
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    console.print()
    console.print(_result(observer))
    for stage in stages:
        mark = Text("delivered", "green") if stage.delivered else Text("FAILED   ", "bold red")
        console.print(mark, f"{stage.name}: {stage.evidence}", highlight=False)
    return stages


def _watch(observer: Observer, processes: Mapping[str, subprocess.Popen[bytes]], console: Console) -> None:
    """Draw the live view until both jobs have ended and their last values have arrived."""
    started = time.monotonic()
    ended: float | None = None
    with Live(console=console, refresh_per_second=4) as live:
        while time.monotonic() - started < LONGEST_SECONDS:
            with contextlib.suppress(
                PromQLError, requests.RequestException
            ):  # the next look asks again; the stages say what never came
                observer.look(time.time())
            live.update(_picture(observer, time.monotonic() - started))
            if ended is None and all(process.poll() is not None for process in processes.values()):
                ended = time.monotonic()
            if ended is not None and time.monotonic() - ended > SETTLE_SECONDS:
                return
            time.sleep(0.5)


def _picture(observer: Observer, seconds: float) -> Group:
    table = Table(title=f"training jobs after {seconds:.0f} s (joules are {_counted(observer)})", title_justify="left")
    for heading in ("job", "epoch", "power", "energy", "CO2eq", "forecast at its end (90 %)"):
        table.add_column(heading, justify="left" if heading == "job" else "right", no_wrap=True)
    for name, view in observer.views.items():
        forecast = view.forecast
        predicted = (
            f"{forecast.median_joules:.0f} J ({forecast.low_joules:.0f} to {forecast.high_joules:.0f})"
            if forecast
            else "after the first epoch"
        )
        table.add_row(
            name,
            f"{view.epochs or 0:.0f}/{view.job.epochs}",
            _amount(view.power_watts, "W", 1),
            _amount(view.energy_joules, "J", 0),
            _amount(_milligrams(view.emissions_grams), "mg", 2),
            predicted,
        )
    alerts = ", ".join(sorted(f"{alert} ({job})" for alert, job in observer.alerts)) or "none yet"
    return Group(table, Text(f"alerts at Alertmanager: {alerts}"))


def _counted(observer: Observer) -> str:
    return "estimated, not measured" if observer.estimated else "measured"


def _milligrams(grams: float | None) -> float | None:
    return None if grams is None else grams * 1000


def _amount(value: float | None, unit: str, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f} {unit}"


def _result(observer: Observer) -> Table:
    table = Table(
        title=f"Forecast at a quarter of each run, beside its end ({_counted(observer)})", title_justify="left"
    )
    for heading in (
        "job",
        "at epoch",
        "forecast (90 %)",
        "estimated" if observer.estimated else "measured",
        "error",
        "inside",
    ):
        table.add_column(heading, justify="left" if heading == "job" else "right", no_wrap=True)
    for name, view in observer.views.items():
        forecast, actual = view.at_a_quarter, view.energy_joules
        if forecast is None or not actual:
            table.add_row(name, "-", "-", _amount(actual, "J", 0), "-", "-")
            continue
        table.add_row(
            name,
            f"{forecast.epochs:g}/{view.job.epochs}",
            f"{forecast.median_joules:.0f} J ({forecast.low_joules:.0f} to {forecast.high_joules:.0f})",
            f"{actual:.0f} J",
            f"{forecast.median_joules / actual - 1:+.1%}",
            "yes" if forecast.low_joules <= actual <= forecast.high_joules else "no",
        )
    return table


def _judge(observer: Observer, processes: Mapping[str, subprocess.Popen[bytes]]) -> Iterator[Stage]:
    """Every stage of the way, asked from its real end: Prometheus and Alertmanager."""
    views = list(observer.views.values())
    now = time.time()
    try:
        yield _sources(observer, now)
        yield _balance(observer, now)
        yield _jobs_trained(processes, observer.stack.directory)
        pushed = ", ".join(f"{view.job.name} {view.epochs or 0:g}/{view.job.epochs}" for view in views)
        yield Stage("epochs through the Pushgateway", all(v.epochs == v.job.epochs for v in views), pushed)
        sick = observer.sick_rules()
        yield Stage(
            "recording and alerting rules", not sick, f"not healthy: {', '.join(sick)}" if sick else "all healthy"
        )
        linear = observer.query("training_job:carbon_forecast_energy_joules:linear", now)
        names = {sample.labels["training_job"] for sample in linear}
        yield Stage("linear forecast by rule", names == set(observer.views), f"for {', '.join(sorted(names))}")
        made = [view.job.name for view in views if view.at_a_quarter]
        yield Stage("forecast service at a quarter of the run", len(made) == len(views), f"for {', '.join(made)}")
        told = [alert for alert in ALERTS if (alert, JOBS[0].name) in observer.alerts]
        evidence = f"{' and '.join(told)} for {JOBS[0].name}" if told else "never arrived"
        yield Stage("budget alert at Alertmanager", bool(told), evidence)
    except (PromQLError, requests.RequestException) as error:
        yield Stage("the servers answer", delivered=False, evidence=str(error))


def _sources(observer: Observer, now: float) -> Stage:
    sources = [sample.labels["source"] for sample in observer.query("carbon_source_info", now)]
    failing = [sample.labels["collector"] for sample in observer.query("carbon_collector_success == 0", now)]
    how = ", ".join(sources)
    if observer.estimated:
        how += " (no RAPL counters here: the CPU's energy is ESTIMATED from its use, not measured)"
    return Stage("energy sources", bool(sources) and not failing, how + (f"; failing: {failing}" if failing else ""))


def _balance(observer: Observer, now: float) -> Stage:
    """The books between the first look and now: what was shared out against what the devices counted."""
    shared, measured = (end - begin for begin, end in zip(observer.opening or (0, 0), observer.books(now), strict=True))
    closed = observer.opening is not None and measured > 0 and abs(shared - measured) <= 1e-6 * measured
    return Stage("jobs + idle + system = measured", closed, f"{shared:.3f} J shared out of {measured:.3f} J")


def _jobs_trained(processes: Mapping[str, subprocess.Popen[bytes]], directory: Path) -> Stage:
    statuses = {name: process.poll() for name, process in processes.items()}
    last_words = {name: (directory / f"{name}.log").read_text().splitlines()[-1:] for name in processes}
    evidence = "; ".join(f"{name}: {''.join(last_words[name])}" for name in processes)
    return Stage("two models really trained", all(status == 0 for status in statuses.values()), evidence)


def _wait_for_interrupt(stack: Stack, console: Console) -> None:
    for name, address in stack.addresses().items():
        console.print(f"  {name:17} {address}", highlight=False)
    console.print("Everything stays up until Ctrl-C.")
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(3600)
