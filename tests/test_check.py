"""`carbon-exporter check`: what it says of hosts that are well, bare and broken."""

import contextlib
import io
import re
import socket
import time

import pytest
import yaml
from fake_grid import FakeGrid, Reply
from powercap import two_sockets
from rich.console import Console
from scripted import ScriptedProc

from carbon_exporter import check
from carbon_exporter.config import load_config
from carbon_exporter.web.server import WebServer
from carbon_exporter.web.site import Site


class Host:
    def __init__(self, folder):
        self.folder = folder
        self.proc = ScriptedProc(folder / "proc")
        self.tree = two_sockets(folder / "sys")
        self.sources = {}

    def config(self, more=""):
        path = self.folder / "carbon.yaml"
        path.write_text(
            f"node: {{sysfs: {self.folder / 'sys'}, procfs: {self.folder / 'proc'}, "
            f"state_file: {self.folder / 'state' / 'node.json'}}}\n{more}"
        )
        return load_config(path)

    def find(self, more="", address="127.0.0.1:0", spend_joules=0):
        def wait(_seconds):
            if spend_joules:
                self.tree.zones["intel-rapl:0"].spend(spend_joules * 1_000_000)

        return list(check.find(self.config(more), address, wait=wait))


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


def of(findings, subject):
    return [finding for finding in findings if finding.subject == subject]


def test_a_host_with_rapl_shows_power_and_no_estimate(host):
    findings = host.find(spend_joules=90)
    texts = [finding.text for finding in of(findings, "rapl")]
    assert "package-0: 90.0 W (rapl)" in texts
    assert "package-1-die-1: 0.0 W (rapl)" in texts
    assert of(findings, "cpu_estimate") == []
    assert not [finding for finding in findings if finding.status == "broken"]


def test_a_virtual_machine_is_estimated_and_says_why_and_from_what(host, tmp_path):
    (tmp_path / "sys" / "class" / "powercap").rename(tmp_path / "sys" / "class" / "elsewhere")
    findings = host.find("sources: {cpu_estimate: {tdp_watts: 280}}\n")
    (rapl,), (estimate,) = of(findings, "rapl"), of(findings, "cpu_estimate")
    assert rapl.status == "absent"
    assert "modprobe intel_rapl_msr" in rapl.text
    assert estimate.status == "estimated"
    assert "sources.cpu_estimate.tdp_watts, 280 W" in estimate.text


def test_a_zone_that_cannot_be_read_is_broken_with_its_path_and_cure(host):
    host.tree.zones["intel-rapl:0"].show_text("")
    broken = [f for f in host.find() if f.status == "broken"]
    assert len(broken) == 1
    assert "intel-rapl:0/energy_uj" in broken[0].text
    assert of(host.find(), "rapl")[-1].status == "broken"


@pytest.mark.parametrize(
    ("more", "status", "words"),
    [
        ("", "estimated", "set intensity.grid_zone"),
        ("intensity: {grid_zone: DK}\n", "estimated", "114.41 g/kWh for DK (static, lifecycle), PUE 1: a yearly mean"),
        ("intensity: {static: {grams_per_kilowatt_hour: 30}}\npue: 1.2\n", "ok", "30 g/kWh for unknown"),
    ],
)
def test_the_intensity_says_how_good_it_is(host, more, status, words):
    (finding,) = of(host.find(more), "intensity")
    assert finding.status == status
    assert words in finding.text


def quarters(now):
    first = int(now // 900) * 900 - 40 * 900
    seconds = [first + 900 * i for i in range(80)]
    known = [300.0 if s <= now else None for s in seconds]
    return {"unix_seconds": seconds, "co2eq": known, "co2eq_forecast": [280.0] * 80}


def test_every_provider_of_a_service_is_asked_once(host):
    answer = Reply(quarters(time.time()))
    with FakeGrid({"/co2eq": answer, "/co2eq_forecast": answer, "/intensity": Reply({}, 503)}) as grid:
        intensity = {
            "zones": {"DE": "energy_charts", "FR": ["energy_charts", "static"], "GB": "gb_carbon_intensity"},
            "energy_charts": {"url": grid.url},
            "gb_carbon_intensity": {"url": grid.url},
        }
        findings = host.find(yaml.safe_dump({"intensity": intensity}))
        assert sorted(asked.path for asked in grid.asked).count("/co2eq") == 2
    charts = of(findings, "intensity.energy_charts")
    assert [finding.status for finding in charts] == ["ok", "ok"]
    words = r"answers for DE: average, unspecified, steps of 15 min, 1[01] h of the past, forecast to \d+ h ahead"
    assert re.match(words, charts[0].text)
    assert "Fraunhofer ISE" in charts[0].text
    (broken,) = of(findings, "intensity.gb_carbon_intensity")
    assert broken.status == "broken"
    in_use = [finding.text for finding in of(findings, "intensity")]
    assert [text.split(" for ")[1].split(",")[0] for text in in_use] == [
        "DE (energy_charts", "FR (energy_charts", "GB (static",
    ]  # fmt: skip


def test_a_node_of_a_cluster_asks_the_service_only(host):
    with FakeGrid() as grid:
        intensity = {
            "provider": "cluster",
            "grid_zone": "FR",
            "zones": {"FR": "energy_charts"},
            "cluster": {"url": grid.url},
            "energy_charts": {"url": grid.url},
        }
        findings = host.find(yaml.safe_dump({"intensity": intensity}))
        assert grid.paths() == ["/api/v1/intensity"]
    (broken,) = of(findings, "intensity.cluster")
    assert (broken.status, grid.url in broken.text) == ("broken", True)


def test_running_jobs_are_named(host):
    host.proc.put(10, start=1, CARBON_TRAINING_JOB="bert")
    (finding,) = of(host.find(), "jobs.process")
    assert finding.text.startswith("1 running: 'bert'")


@pytest.mark.slow
def test_a_taken_port_is_broken_with_its_cure(host):
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        (finding,) = of(host.find(address=address), "web")
    assert finding.status == "broken"
    assert "--web.listen-address" in finding.text


def test_a_port_on_which_the_agent_serves_already_is_well(host):
    server = WebServer(Site("t", "d", metrics=lambda: None, ready=lambda: True), "127.0.0.1:0")
    server.start()
    try:
        (finding,) = of(host.find(address=server.address), "web")
    finally:
        server.stop()
    assert finding == check.Finding("web", "ok", f"a carbon-exporter is serving on {server.address}")


def test_a_state_file_that_is_a_folder_is_broken(host, tmp_path):
    (tmp_path / "state" / "node.json").mkdir(parents=True)
    (finding,) = of(host.find(), "state")
    assert finding.status == "broken"
    assert "is a folder" in finding.text


def test_a_state_folder_that_cannot_be_made_is_broken(host, tmp_path):
    (tmp_path / "state").write_text("a file")
    (finding,) = of(host.find(), "state")
    assert finding.status == "broken"
    assert "node.state_file" in finding.text


def test_the_check_leaves_no_file_behind(host, tmp_path):
    host.find()
    assert list((tmp_path / "state").iterdir()) == []


@pytest.mark.parametrize(("broken", "status"), [(False, 0), (True, 1)])
def test_the_report_fits_a_narrow_terminal_and_its_status_tells(host, monkeypatch, broken, status):
    monkeypatch.setattr(check, "WATCH_SECONDS", 0.0001)
    if broken:
        host.tree.zones["intel-rapl:0"].show_text("-5\n")
    screen = io.StringIO()
    with contextlib.chdir(host.folder) if hasattr(contextlib, "chdir") else contextlib.nullcontext():
        result = check.run(host.config(), "127.0.0.1:0", Console(file=screen, width=80))
    assert result == status
    assert max(len(line) for line in screen.getvalue().splitlines()) <= 80
    assert ("broken: rapl" in screen.getvalue()) == broken
