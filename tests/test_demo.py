"""The demo: it delivers, it says what it could not, and nothing that it started is left."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from carbon_exporter.demo import servers
from carbon_exporter.demo.servers import Server, ServerError, free_port


def processes():
    """Command lines of all processes of this host."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


@pytest.mark.real
@pytest.mark.slow
def test_the_demo_delivers_every_stage_and_leaves_nothing(need):
    for program in ("prometheus", "prometheus-pushgateway", "prometheus-alertmanager"):
        need(program)
    before = set(processes())
    result = subprocess.run(
        [sys.executable, "-m", "carbon_exporter", "demo"], capture_output=True, text=True, check=False, timeout=200
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("delivered ") == 8
    assert result.stdout.count("Grafana: ") == 1
    assert "FAILED" not in result.stdout
    assert "demo-small" in result.stdout
    assert result.stderr == ""
    assert not [line for line in set(processes()) - before if "carbon-demo-" in line]


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_demo_that_is_told_to_end_takes_everything_along(need, number, tmp_path):
    need("prometheus")
    before = set(processes())
    # A runner in the background of a shell leaves SIGINT ignored to all that it starts.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "carbon_exporter", "demo"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True) as demo:
        assert "Two training jobs" in demo.stdout.readline()
        time.sleep(3)
        demo.send_signal(number)
        last_words = demo.stdout.read()
    assert demo.returncode == 130
    assert "Everything that was started is gone." in last_words
    assert not [line for line in set(processes()) - before if "carbon-demo-" in line or "demo.train" in line]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.real
def test_without_prometheus_the_demo_says_what_to_install_and_fails(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "carbon_exporter", "demo"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PATH": str(tmp_path)},
    )
    assert result.returncode == 1
    assert "apt-get install prometheus-pushgateway" in " ".join(result.stdout.split())
    assert "Traceback" not in result.stderr


def test_a_server_that_dies_at_its_start_says_its_last_words(tmp_path):
    command = [sys.executable, "-c", "print('no such flag'); raise SystemExit(3)"]
    with pytest.raises(ServerError, match="ended with status 3: no such flag"):
        Server(command, f"http://127.0.0.1:{free_port()}", tmp_path / "log").start()


def test_a_server_that_never_answers_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(servers, "START_SECONDS", 0.5)
    server = Server([sys.executable, "-c", "input()"], f"http://127.0.0.1:{free_port()}", tmp_path / "log")
    server.command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(ServerError, match="was not ready"):
        server.start()
    assert server.process is None
