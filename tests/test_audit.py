"""`carbon-exporter check --audit`: the balance closes where the ledger is right, and not where it is wrong."""

import io
import os
import re
import subprocess
import sys

import pytest
from powercap import two_sockets
from rich.console import Console
from scripted import ScriptedProc, Stateless

from carbon_exporter import audit, cli
from carbon_exporter.config import load_config
from carbon_exporter.model import ConfigurationError, DeviceReading, Gpu, SourceReading
from carbon_exporter.node import ledger
from carbon_exporter.node.balance import Balance
from carbon_exporter.node.state import Host, StateFile

JOB = f"audited-{os.getpid()}"


class AuditedHost:
    """Two sockets at 90 + 50 + 40 W and 15 + 10 W of memory, 4 CPUs, one of them busy, half of that by a job."""

    def __init__(self, folder):
        self.folder = folder
        self.proc = ScriptedProc(folder / "proc")
        self.tree = two_sockets(folder / "sys")
        self.now = 0.0
        self.work(0.0)

    def clock(self):
        return self.now

    def work(self, seconds):
        self.now += seconds
        for zone in self.tree.zones.values():
            zone.spend(round(zone.watts * seconds * 1e6))
        self.proc.spend(seconds, 3 * seconds)
        self.proc.put(10, start=1, own=self.now / 2, CARBON_TRAINING_JOB=JOB)

    def config(self, more=""):
        path = self.folder / "carbon.yaml"
        path.write_text(
            f"node: {{sysfs: {self.folder / 'sys'}, procfs: {self.folder / 'proc'}, "
            f"state_file: {self.folder / 'state' / 'node.json'}}}\n"
            f"jobs: {{kubernetes: false, slurm: false}}\nsources: {{nvml: false{more}}}\n"
        )
        return load_config(path)

    def audit(self, seconds=8.0, wait=None, more=""):
        """The status and the screen."""
        screen = io.StringIO()
        console = Console(file=screen, width=80)
        status = audit.run(self.config(more), seconds, console, self.clock, wait or self.work)
        return status, screen.getvalue()


@pytest.fixture
def host(tmp_path):
    return AuditedHost(tmp_path)


def row(screen, name):
    """The cells of one row of a table."""
    return next(line.split() for line in screen.splitlines() if line.startswith(name))


@pytest.mark.parametrize(("text", "seconds"), [("60s", 60), ("2m", 120), ("90", 90), ("0.5s", 0.5), ("1h", 3600)])
def test_a_time_is_seconds_minutes_or_hours(text, seconds):
    assert audit.parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "60x", "-5s", "0", "1e3", "nan", "2d", "100000", "60s60s"])
def test_a_bad_time_is_one_line_and_status_2(text, capsys):
    with pytest.raises(ConfigurationError):
        audit.parse_seconds(text)
    assert cli.main(["check", f"--audit={text}"]) == 2
    error = capsys.readouterr().err
    assert error == (
        f"carbon-exporter check: --audit {text!r}: give a time above 0 and up to a day, such as 60s, 2m or 1h\n"
    )


def test_every_joule_of_a_host_is_found(host):
    status, screen = host.audit(8.0)
    assert "5 readings in 8.0 s" in screen
    # 180 W for 8 s; a quarter of the CPUs busy, half of that by the job. The rest of the busy part is the system's.
    assert row(screen, "cpu") == ["cpu", "1440.000", "180.000", "1080.000", "180.000", "0.000", "0.000", "%"]
    assert row(screen, "dram") == ["dram", "200.000", "25.000", "150.000", "25.000", "0.000", "0.000", "%"]
    assert row(screen, JOB) == [JOB, "process", "180.000", "25.000"]
    assert "the books are closed" in screen
    assert status == 0


def test_nothing_is_saved_and_a_job_that_ended_is_not_forgotten(host):
    def wait(_seconds):
        host.work(50.0)
        if host.now > 50:
            host.proc.drop(10)

    status, screen = host.audit(1000.0, wait)
    assert row(screen, JOB) == [JOB, "process", "1125.000", "156.250"]
    assert status == 0
    assert not (host.folder / "state").exists()


def forgets_what_it_gave_to_jobs(monkeypatch):
    post = ledger.Ledger.post

    def post_and_forget(self, *readings):
        failures = post(self, *readings)
        for account in self.accounts.values():
            account.energy_joules.clear()
        return failures

    monkeypatch.setattr(ledger.Ledger, "post", post_and_forget)


def sees_half_of_every_rise(monkeypatch):
    """Its own sum of what was measured agrees with its books: only the devices' readings tell."""
    rise = ledger._rise
    monkeypatch.setattr(ledger, "_rise", lambda now, last: rise(now, last) / 2)


def counts_memory_twice(monkeypatch):
    add = ledger.Ledger._share

    def share(self, device, component, now):
        add(self, device, component, now)
        if component == "dram":
            self.unattributed_joules["dram", "system"] *= 2

    monkeypatch.setattr(ledger.Ledger, "_share", share)


@pytest.mark.parametrize(
    ("mistake", "component", "difference"),
    [
        (forgets_what_it_gave_to_jobs, "cpu", ["180.000", "12.500", "%"]),
        (sees_half_of_every_rise, "cpu", ["720.000", "50.000", "%"]),
        (counts_memory_twice, "dram", None),
    ],
)
def test_a_mistake_of_the_ledger_fails_the_audit(host, monkeypatch, mistake, component, difference):
    mistake(monkeypatch)
    status, screen = host.audit()
    assert status == 1
    assert f"the books do not close: {component}" in screen
    assert "the books are closed" not in screen
    cells = row(screen, component)[-3:]
    assert cells == difference if difference else float(cells[0]) < 0


class Scripted(Stateless):
    """A source that gives these readings in turn: joules by device, and what NVML says of a GPU."""

    def __init__(self, *readings, gpu=None):
        self.readings = list(readings)
        self.gpu = gpu

    def read(self, now_seconds):
        component = "gpu" if self.gpu else "cpu"
        devices = [
            DeviceReading(device, component, joules, "nvml counter" if self.gpu else "rapl", gpu=self.gpu)
            for device, joules in self.readings.pop(0).items()
        ]
        failures = () if devices else ("package-0: is away",)
        return SourceReading(tuple(devices), failures)


def balance_of(node, source):
    balance = Balance()
    node.start(scripted=source)
    while source.readings:
        node.proc.spend(2, 6)
        balance.take(node.tick())
    return balance


def test_a_source_that_loses_joules_fails_the_audit(scripted_node):
    """The ledger takes what goes back for a counter that began again: 40 + 70 + 30 J, where it rose by 40 J."""
    balance = balance_of(
        scripted_node, Scripted({"package-0": 100.0}, {"package-0": 140.0}, {"package-0": 110.0}, {"package-0": 140.0})
    )
    (line,) = balance.lines()
    assert line.measured == pytest.approx(40.0)
    assert line.difference == pytest.approx(40.0 - (40.0 + 110.0 + 30.0))
    assert not line.closed
    assert list(balance.notes()) == ["package-0: was reset, its reading went back by 30.000 J"]


def test_a_device_that_vanished_is_named_and_what_it_measured_until_then_is_counted(scripted_node):
    source = Scripted({"package-0": 1.0}, {"package-0": 61.0}, {}, {"package-0": 81.0}, {})
    balance = balance_of(scripted_node, source)
    (line,) = balance.lines()
    assert line.measured == pytest.approx(80.0)
    assert line.closed
    assert list(balance.notes()) == [
        "package-0: vanished, not there at 2 of 5 readings",
        "scripted: failed at 2 of 5 readings, see the log",
    ]


def test_joules_shared_equally_are_told(scripted_node):
    for pid in (10, 11):
        scripted_node.proc.put(pid, start=1, CARBON_TRAINING_JOB=f"job-{pid}")
    gpu = Gpu(0, "H100", "550", utilization_ratio=0.9, pids=frozenset({10, 11}))
    balance = balance_of(scripted_node, Scripted({"GPU-0": 0.0}, {"GPU-0": 600.0}, gpu=gpu))
    (line,) = balance.lines()
    assert line.equally_shared == pytest.approx(600.0)
    assert [job.energy_joules["gpu"] for job in balance.jobs] == pytest.approx([300.0, 300.0])
    assert line.closed


@pytest.mark.parametrize(("joules", "closed"), [(100.0 - 0.99e-4, True), (100.0 - 1.01e-4, False)])
def test_a_millionth_is_rounding_and_more_is_not(scripted_node, monkeypatch, joules, closed):
    monkeypatch.setattr(ledger, "_rise", lambda _now, _last: joules)
    (line,) = balance_of(scripted_node, Scripted({"package-0": 0.0}, {"package-0": 100.0})).lines()
    assert line.closed is closed


def test_an_estimate_is_called_one(host, tmp_path):
    (tmp_path / "sys" / "class" / "powercap").rename(tmp_path / "sys" / "class" / "elsewhere")
    status, screen = host.audit(more=", cpu_estimate: {tdp_watts: 100}")
    # 25 W of a busy CPU for 8 s, half of it by the job.
    assert row(screen, "cpu (estimated)")[2:6] == ["200.000", "100.000", "0.000", "100.000"]
    assert row(screen, "job, J")[-2:] == ["cpu", "(estimated)"]
    assert status == 0


@pytest.mark.parametrize("more", [", rapl: false, cpu_estimate: false", ""])
def test_where_nothing_is_measured_the_audit_fails_and_says_the_cure(host, more):
    status, screen = host.audit(wait=lambda seconds: setattr(host, "now", host.now + seconds), more=more)
    assert "nothing was measured: no energy counter rose; `carbon-exporter check` says why" in " ".join(screen.split())
    assert status == 1


def test_an_interrupted_audit_prints_what_there_is(host):
    def wait(seconds):
        host.work(seconds)
        if host.now > 4:
            raise KeyboardInterrupt

    status, screen = host.audit(60.0, wait)
    assert "3 readings in 6.0 s, interrupted" in screen
    assert row(screen, "cpu")[1] == "720.000"
    assert status == audit.INTERRUPTED


def test_a_job_with_the_name_of_a_style_keeps_it(host):
    host.proc.put(11, start=1, CARBON_TRAINING_JOB="[red]x[/]")
    assert row(host.audit()[1], "[red]x[/]")


@pytest.mark.slow
def test_the_real_command_beside_a_running_agent(tmp_path):
    """On moving counters and the real /proc; the agent's state file is locked, and stays as it is."""
    tree = two_sockets(tmp_path / "sys")
    state_file = tmp_path / "node.json"
    config = tmp_path / "carbon.yaml"
    config.write_text(
        f"node: {{sysfs: {tmp_path / 'sys'}, state_file: {state_file}, interval_seconds: 0.2}}\n"
        "sources: {nvml: false}\njobs: {kubernetes: false, slurm: false}\n"
    )
    agents = StateFile(state_file, Host("host", "boot"))
    agents.lock()
    burning = subprocess.Popen(
        [sys.executable, "-c", "while True: sum(range(1000))"], env={**os.environ, "CARBON_TRAINING_JOB": JOB}
    )
    try:
        with tree.moving():
            command = [sys.executable, "-m", "carbon_exporter", "check", "--config", str(config), "--audit", "2s"]
            result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    finally:
        burning.kill()
        burning.wait()
        agents.unlock()
    assert result.returncode == 0, result.stdout + result.stderr
    assert "the books are closed" in result.stdout
    measured = float(row(result.stdout, "cpu")[1])
    assert 0.5 * 180 * 2 < measured < 2 * 180 * 2
    assert 0 < float(row(result.stdout, JOB)[2]) < measured
    assert re.search(r"[0-9]+ readings in [0-9.]+ s", result.stdout)
    assert not state_file.exists()
