"""The commands as a user types them: each bad input is one line, and none is a traceback."""

import os
import re
import subprocess
import sys

import pytest
import requests
import yaml

from carbon_exporter import cli
from carbon_exporter.demo.servers import Server, free_port

COMMAND = [sys.executable, "-m", "carbon_exporter"]


def run(*arguments, **environment):
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("node: {interval_second: 1}", r"node\.interval_second: unknown key"),
        ("node: {interval_seconds: fast}", r"node\.interval_seconds: input should be a valid number"),
        ("sources: {raple: {}}", r"sources\.raple: unknown key; known keys here: cpu_estimate, nvml, rapl"),
        ("intensity: {provider: magic}", r"intensity\.provider: 'magic' is unknown"),
        ("intensity: {grid_zone: ZZ}", r"intensity\.grid_zone: no yearly mean is known for 'ZZ'"),
        ("pue: 0", r"pue: "),
        ("{", r"is no YAML"),
        ("node: {procfs: /nowhere}", r"node\.procfs: /nowhere/sys/kernel/random/boot_id"),
    ],
)
def test_a_bad_configuration_is_one_line_and_status_2(tmp_path, config, message, capsys):
    path = tmp_path / "carbon.yaml"
    path.write_text(config)
    assert cli.main(["node", "--config", str(path), "--web.listen-address", "127.0.0.1:0"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert re.match(rf"carbon-exporter node: .*{message}", lines[0])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--web.listen-address", "nonsense"], "--web.listen-address"),
        (["--web.listen-address", "127.0.0.1:99999"], "--web.listen-address"),
        (["--web.listen-address", "203.0.113.1:0"], "--web.listen-address"),
        (["--web.config.file", "/nowhere.yml"], "--web.config.file /nowhere.yml"),
        (["--web.telemetry-path", "no-slash"], "--web.telemetry-path"),
        (["--web.telemetry-path", "/-/ready"], "--web.telemetry-path"),
        (["--config", "/nowhere.yaml"], "/nowhere.yaml: No such file"),
    ],
)
def test_a_bad_flag_is_one_line_and_status_2(flags, message, capsys):
    assert cli.main(["forecast", *flags]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_a_bad_configuration_ends_the_real_process_without_a_traceback(tmp_path):
    path = tmp_path / "carbon.yaml"
    path.write_text("pue: none")
    result = run("node", "--config", str(path), "--log.level", "warning")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"carbon-exporter node: {path}: pue: give a number from 1 to 10, or the word cloud_region\n"


@pytest.mark.parametrize(
    "command", [[], ["nodes"], ["node", "--log.level", "loud"], ["push", "--epochs-completed", "x"]]
)
def test_wrong_usage_is_status_2(command, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(command)
    assert ended.value.code == 2
    assert "usage: carbon-exporter" in capsys.readouterr().err


def test_the_forecast_service_serves_and_says_that_prometheus_is_away(tmp_path):
    url = f"http://127.0.0.1:{free_port()}"
    config = tmp_path / "carbon.yaml"
    away = f"http://127.0.0.1:{free_port()}"
    config.write_text(yaml.safe_dump({"forecast": {"prometheus_url": away, "poll_seconds": 0.2, "history_file": None}}))
    command = [*COMMAND, "forecast", "--config", str(config), "--web.listen-address", url.split("//")[1]]
    with Server(command, url, tmp_path / "log", ready_path="/-/healthy") as server:
        page = requests.get(f"{url}/metrics", timeout=5).text
        while "carbon_forecast_query_errors_total" not in page:
            page = requests.get(f"{url}/metrics", timeout=5).text
        assert server.process.poll() is None
    log = (tmp_path / "log").read_text()
    assert re.search(r'carbon_forecast_query_errors_total{reason="unreachable"} [1-9]', page)
    assert log.count(away) == 1
    assert "Traceback" not in log


def test_an_installation_without_dependencies_says_so():
    """`pip install --no-deps` is enough for push; the other commands say what is missing."""
    program = "import sys; sys.modules['yaml'] = None\nfrom carbon_exporter.cli import main; sys.exit(main(['check']))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "package yaml is missing" in result.stderr


def test_push_is_light():
    program = (
        "import sys; from carbon_exporter import push, cli\n"
        "heavy = {'uvicorn', 'starlette', 'pydantic', 'requests', 'yaml', 'rich', 'pynvml', 'bcrypt'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.stderr == ""


def test_an_interrupt_is_no_traceback(monkeypatch):
    def interrupted(_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run_check", interrupted)
    assert cli.main(["check"]) == 130
