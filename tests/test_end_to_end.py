"""The real agent as its own process, on counters that really move, scraped by a real Prometheus."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import requests
import yaml
from nvml_shim import Process, Shim, build
from powercap import two_sockets

from carbon_exporter.demo.servers import Server, ServerError, free_port, prometheus, running
from carbon_exporter.forecast.promql import Client

pytestmark = pytest.mark.slow
INTERVAL = 0.2
JOB = f"bert-{os.getpid()}"  # other processes of this host may be jobs too
BURN = "import time\nwhile True:\n    sum(range(20000)); time.sleep(0.001)"


class Agent:
    """`carbon-exporter node` on a moving powercap tree and two shim GPUs."""

    def __init__(self, folder):
        self.shim = Shim(folder / "gpus", build(folder))
        self.gpus = [self.shim.gpus[i].plug(f"GPU-{i}") for i in range(2)]
        self.tree = two_sockets(folder / "sys", range_uj=30_000_000)  # wraps every third of a second
        self.state_file = folder / "state" / "node.json"
        config = folder / "node.yaml"
        config.write_text(
            yaml.safe_dump(
                {
                    "node": {
                        "interval_seconds": INTERVAL,
                        "sysfs": str(self.tree.sysfs),
                        "state_file": str(self.state_file),
                    },
                    "intensity": {"static": {"grams_per_kilowatt_hour": 360}},
                }
            )
        )
        url = f"http://127.0.0.1:{free_port()}"
        command = [sys.executable, "-m", "carbon_exporter", "node", "--config", str(config)]
        self.server = Server(
            [*command, "--web.listen-address", url.split("//")[1]],
            url,
            folder / "node.log",
            environment=self.shim.environment(),
        )

    def values(self):
        """The page now: series -> value."""
        lines = requests.get(f"{self.server.url}/metrics", timeout=5).text.splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}

    def measured(self, component):
        """jobs + idle + system."""
        names = ("carbon_job_energy_joules_total", "carbon_unattributed_energy_joules_total")
        return sum(v for k, v in self.values().items() if k.startswith(names) and f'component="{component}"' in k)


@pytest.fixture
def agent(tmp_path):
    return Agent(tmp_path)


@contextlib.contextmanager
def training(name, **variables):
    environment = {**os.environ, "CARBON_TRAINING_JOB": name, **variables}
    with subprocess.Popen([sys.executable, "-c", BURN], env=environment) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def wait_until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)


@pytest.mark.real
def test_a_killed_and_restarted_agent_loses_none_of_the_jobs_joules(agent, tmp_path, need):
    """kill -9 in mid-run: what Prometheus has of the job in the end is what the hardware counted."""
    need("prometheus")
    watched = prometheus(tmp_path, {"carbon-exporter": agent.server.url}, interval_seconds=0.5)
    with training(JOB) as pid, agent.tree.moving(), running(agent.server, watched):
        agent.gpus[0].set_processes([Process(pid, 0, -1, 90, 0)])
        wait_until(lambda: agent.values().get(f'carbon_job_gpus{{training_job="{JOB}"}}') == 1)
        agent.gpus[0].set_watts(300)
        agent.gpus[1].set_watts(50)
        time.sleep(4)
        agent.server.kill()
        time.sleep(3)
        agent.server.start()
        time.sleep(3)
        agent.gpus[0].set_watts(0)
        agent.gpus[1].set_watts(0)
        time.sleep(2)
        client = Client(watched.url, requests.Session())
        now = time.time()
        jobs = client.query(f'carbon_job_energy_joules_total{{training_job="{JOB}",component="gpu"}}', now)
        idle = client.query('carbon_unattributed_energy_joules_total{component="gpu",reason="idle"}', now)
        resets = client.query("resets(carbon_job_energy_joules_total[5m])", now)
        dark = client.query("carbon_sampling_gap_seconds_total", now)
    truth = [gpu.energy_joules(time.monotonic_ns()) for gpu in agent.gpus]
    assert truth[0] > 2500
    assert len(jobs) == 1
    assert abs(jobs[0].value - truth[0]) < 300 * INTERVAL
    assert abs(idle[0].value - truth[1]) < 50 * INTERVAL
    assert {sample.value for sample in resets} == {0.0}
    assert dark[0].value >= 3.0


def test_the_books_close_on_a_moving_host_with_wraps_over_a_kill(agent):
    with training(JOB), agent.tree.moving(), agent.server:
        time.sleep(3)
        agent.server.kill()
        time.sleep(0.15)  # less than two wraps: more would be beyond anybody's knowledge
        agent.server.start()
        time.sleep(2)
        with agent.tree.still():
            time.sleep(3 * INTERVAL)
            values = agent.values()
            devices = {k: v for k, v in values.items() if k.startswith("carbon_rapl_energy_joules_total")}
            cpu, dram = agent.measured("cpu"), agent.measured("dram")
            job = values[f'carbon_job_energy_joules_total{{training_job="{JOB}",component="cpu"}}']
    packages = sum(v for k, v in devices.items() if 'domain="package"' in k)
    drams = sum(v for k, v in devices.items() if 'domain="dram"' in k)
    assert len(devices) == 5  # two sockets, one of two dies, two DRAMs; no core, no mmio twin
    assert cpu == pytest.approx(packages, rel=1e-9)
    assert dram == pytest.approx(drams, rel=1e-9)
    assert packages > 500
    assert 0 < job < cpu


def test_sigterm_saves_and_frees_the_port(agent):
    with agent.tree.moving(), agent.server:
        wait_until(lambda: agent.measured("cpu") > 0)
        process = agent.server.process
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
    assert agent.state_file.exists()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", int(agent.server.address.split(":")[1])))


def test_a_taken_port_is_one_line_and_a_failure(agent):
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(agent.server.address.split(":")[1])))
        other.listen()
        with pytest.raises(ServerError, match=r"ended with status 2: .*cannot listen on 127.0.0.1.*port is taken"):
            agent.server.start()
    assert "Traceback" not in agent.server.log.read_text()


@pytest.mark.parametrize("content", [b"", b"{", b'{"schema":2,"host":"elsewhere","boot_id":"x","body":{}}'])
def test_a_torn_or_foreign_state_file_does_not_stop_the_agent(agent, content):
    agent.state_file.parent.mkdir()
    agent.state_file.write_bytes(content)
    with agent.tree.moving(), agent.server:
        wait_until(lambda: agent.measured("cpu") > 0)
    assert agent.state_file.with_name("node.json.unusable").read_bytes() == content
    assert agent.server.log.read_text().count("is set aside") == 1


def test_two_jobs_on_one_gpu_share_it_by_sm_utilisation(agent):
    with training("a") as first, training("b") as second, agent.tree.moving(), agent.server:
        agent.gpus[0].set_processes([Process(first, 0, -1, 60, 0), Process(second, 0, -1, 20, 0)])
        wait_until(lambda: agent.values().get('carbon_job_gpus{training_job="b"}') == 1)
        agent.gpus[0].set_watts(400)
        time.sleep(2)
        agent.gpus[0].set_watts(0)
        time.sleep(3 * INTERVAL)
        values = agent.values()
    shares = [values[f'carbon_job_energy_joules_total{{training_job="{name}",component="gpu"}}'] for name in "ab"]
    truth = agent.gpus[0].energy_joules(time.monotonic_ns())
    assert sum(shares) == pytest.approx(truth, rel=1e-9)
    assert shares[0] == pytest.approx(0.75 * truth, rel=1e-6)
    assert values['carbon_equally_shared_energy_joules_total{component="gpu"}'] == 0
