"""Grams on the page: by basis, market-based, embodied, and none where nothing is known."""

import json

import pytest
from scripted import constant, steady, told

from carbon_exporter.metrics import Renderer
from carbon_exporter.model import DeviceReading, Gpu, HostCpu, JobUse
from carbon_exporter.node.embodied import Embodied, grams_per_second, host_shares
from carbon_exporter.node.exposition import families
from carbon_exporter.node.grams import Grams
from carbon_exporter.node.ledger import Ledger

BOARD_KILOGRAMS, HOST_KILOGRAMS, YEARS = 1312.0, 5700.0, 5.0
GPU_RATE = grams_per_second(BOARD_KILOGRAMS / 8, YEARS)
HOST_RATE = grams_per_second(HOST_KILOGRAMS, YEARS)
NOW = 1.7e9


@pytest.fixture
def node(scripted_node):
    node = scripted_node
    node.ahead = 0.0
    node.wall_clock = lambda: NOW + node.now + node.ahead
    node.package = node.tree.add("intel-rapl:0", "package-0", watts=0.0)
    node.cpu = 0.0
    node.proc.put(10, start=1, CARBON_TRAINING_JOB="bert")
    node.start()
    return node


def work(node, joules, seconds=2.0):
    """The host is busy with the job alone."""
    node.package.spend(round(joules * 1e6))
    node.proc.spend(4 * seconds, 0.0)
    node.cpu += 4 * seconds
    node.proc.put(10, start=1, own=node.cpu, CARBON_TRAINING_JOB="bert")
    return node.tick(seconds)


def page(tick):
    """Samples by series."""
    lines = Renderer().render(families(tick)).decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def emissions(tick):
    """Grams of the job by basis."""
    series = 'carbon_job_emissions_grams_total{training_job="bert",component="cpu",basis="'
    return {name[len(series) : -2]: grams for name, grams in page(tick).items() if name.startswith(series)}


def test_nothing_is_said_of_an_intensity_that_is_not_known_and_joules_wait(node):
    node.known = None
    node.tick()
    tick = work(node, 100)
    text = "\n".join(page(tick))
    assert tick.intensity is None
    assert "carbon_intensity" not in text
    assert "carbon_node_grid_zone_info" not in text
    assert "emissions" not in text
    assert page(tick)['carbon_job_energy_joules_total{training_job="bert",component="cpu"}'] == 100.0
    node.known = constant(360)
    assert emissions(work(node, 50)) == {"unspecified": pytest.approx(150 * 1.5e-4)}


def test_a_job_without_joules_begins_at_0_on_the_basis_in_use(node):
    assert emissions(node.tick()) == {"unspecified": 0.0}


def test_joules_are_counted_at_the_mean_of_their_interval(node):
    """The intensity changes a quarter of the way through."""
    node.tick()
    node.known = told([(0.0, 100.0), (NOW + node.now + 5.0, 500.0)], 2 * NOW)
    assert emissions(work(node, 720.0, seconds=20.0)) == {"lifecycle": pytest.approx(720 * 1.5 * 400 / 3.6e6)}


def test_a_value_that_comes_a_minute_late_is_counted_for_the_time_it_is_for(node):
    node.known = told([(0.0, 100.0)], NOW)
    node.tick()
    step = NOW + node.now
    for _ in range(30):
        work(node, 100.0)
    node.known = told([(0.0, 100.0), (step, 700.0)], 2 * NOW)
    assert emissions(work(node, 100.0)) == {"lifecycle": pytest.approx(3100 * 1.5 * 700 / 3.6e6)}


def test_a_fall_back_to_another_basis_opens_a_second_series_beside_the_first(node):
    node.known = told([(0.0, 100.0)], 2 * NOW, basis="operational")
    node.tick()
    work(node, 360.0)
    node.known = told([(0.0, 400.0)], 2 * NOW, level=2)
    found = emissions(work(node, 360.0))
    assert found == {"operational": pytest.approx(360 * 1.5e2 / 3.6e6), "lifecycle": pytest.approx(360 * 6e2 / 3.6e6)}


def test_grams_of_every_kind_survive_a_restart(node):
    node.ledger_settings = {"grams": Grams(market_grams_per_joule=1e-5, embodied=Embodied(GPU_RATE, HOST_RATE))}
    node.known = told([(0.0, 100.0)], NOW, basis="operational")
    node.start()
    node.tick()
    work(node, 360.0)
    node.known = told([(0.0, 50.0)], 2 * NOW, basis="operational")  # now some is owed
    before = work(node, 0.0)
    account = before.ledger.accounts["bert"]
    assert account.owed_grams["operational"]["cpu"] > 0
    kept = json.loads(json.dumps(account.to_json()))
    node.start()
    after = node.ticks[-1].ledger.accounts["bert"]
    assert after.to_json() == kept
    assert emissions(node.tick()) == emissions(before)


def test_embodied_grams_alone_survive_a_restart(node):
    node.ledger_settings = {"grams": Grams(embodied=Embodied(GPU_RATE, HOST_RATE))}
    node.start()
    node.tick()
    before = work(node, 0.0, seconds=60.0).ledger.accounts["bert"].embodied_grams["host"]
    node.start()
    assert node.tick().ledger.accounts["bert"].embodied_grams["host"] >= before > 0


def test_a_wall_clock_that_is_set_is_followed(node):
    """The joules of the last minutes were spent an hour later than it seemed."""
    node.known = told([(0.0, 100.0), (NOW + 3000.0, 500.0)], 2 * NOW)
    node.tick()
    assert emissions(work(node, 360.0)) == {"lifecycle": pytest.approx(360 * 1.5 * 100 / 3.6e6)}
    node.ahead = 3600.0
    assert emissions(work(node, 360.0)) == {"lifecycle": pytest.approx(720 * 1.5 * 500 / 3.6e6)}


def test_a_state_file_of_the_schema_before_is_set_aside(node, caplog):
    node.tick()
    document = json.loads(node.state_path.read_text())
    node.state_path.write_text(json.dumps({**document, "schema": 2}))
    node.start()
    assert node.state_path.with_name("node.json.unusable").exists()
    assert "schema 2" in caplog.text


def test_market_based_grams_stand_beside_the_location_based_ones(node):
    series = 'carbon_job_market_emissions_grams_total{training_job="bert",component="cpu"}'
    node.tick()
    assert series not in page(work(node, 100.0))
    node.ledger_settings = {"grams": Grams(market_grams_per_joule=1.5 * 20 / 3.6e6)}
    node.start()
    assert page(node.tick())[series] == 0.0
    tick = work(node, 360.0)
    assert page(tick)[series] == pytest.approx(360 * 1.5 * 20 / 3.6e6)
    assert emissions(tick) == {"unspecified": pytest.approx(460 * 1.5e-4)}


def test_embodied_grams_are_off_by_default_and_each_part_alone_can_be_on(node):
    node.tick()
    assert not any("embodied" in name for name in page(work(node, 100.0)))
    node.ledger_settings = {"grams": Grams(embodied=Embodied(host_grams_per_second=HOST_RATE))}
    node.start()
    node.tick()
    found = {name: grams for name, grams in page(work(node, 100.0, seconds=60.0)).items() if "embodied" in name}
    # The job used all the CPU time there was; neither joules nor PUE count.
    series = 'carbon_job_embodied_grams_total{training_job="bert",component="host"}'
    assert found == {series: pytest.approx(60 * HOST_RATE)}


class Rack:
    """Eight GPUs and 96 CPUs, posted every minute; who holds what is the test's."""

    def __init__(self, holders, *, cpus=(), busy=(), embodied=Embodied(GPU_RATE, HOST_RATE)):  # noqa: B008 - frozen
        self.ledger = Ledger(1e12, grams=Grams(embodied=embodied))
        self.now = 0.0
        self.holders, self.cpus, self.busy = holders, dict(cpus), dict(busy)

    def post(self, seconds=60.0, missing=()):
        self.now += seconds
        devices = [
            DeviceReading(f"GPU-{n}", "gpu", 0.0, "nvml counter", gpu=Gpu(n, "H100", "550", pids=frozenset({n})))
            for n in range(8)
            if n not in missing
        ]
        names = {name for names in self.holders.values() for name in names} | self.cpus.keys() | self.busy.keys()
        jobs = [
            JobUse(
                name,
                "kubernetes",
                f"pod {name}",
                self.busy.get(name, 0.0) * self.now,
                devices=frozenset(f"GPU-{n}" for n, holders in self.holders.items() if name in holders),
                cpus=self.cpus.get(name),
            )
            for name in sorted(names)
        ]
        self.ledger.post(devices, jobs, HostCpu(48 * self.now, 96 * self.now, 96), self.now, steady(1e-4))

    def hour(self):
        self.post(0.0)
        for _ in range(60):
            self.post()
        return self.ledger.accounts

    def grams(self, name, part):
        return self.ledger.accounts[name].embodied_grams.get(part, 0.0)


def test_the_worked_example_of_the_docs(repository):
    """docs/attribution.md: the table of embodied grams is what the ledger makes of the text above it."""
    holders = {0: ["A"], 1: ["A"], 2: ["A"], 3: ["A"], 4: ["B", "C"]}
    rack = Rack(holders, cpus={"A": 64.0, "D": 24.0}, busy={"A": 40.0, "B": 8.0})
    rack.hour()
    section = (
        (repository / "docs/attribution.md").read_text().partition("### Embodied emissions")[2].partition("## ")[0]
    )
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| ")][1:]
    assert [name.strip() for _, name, *_ in rows] == ["A", "B", "C", "D"]
    for _, name, gpu, host, _ in rows:
        assert rack.grams(name.strip(), "gpu") == pytest.approx(float(gpu), abs=0.0051)
        assert rack.grams(name.strip(), "host") == pytest.approx(float(host), abs=0.0051)
    embodied = rack.grams("A", "gpu") + rack.grams("A", "host")
    assert (2.8 * 1.2 * 300 + embodied) / 10 == pytest.approx(108.8, abs=0.05)


def test_no_second_of_the_hardware_is_counted_twice_nor_for_nobody():
    holders = {0: ["a"], 1: ["a", "b"], 2: ["b"]}
    rack = Rack(holders, cpus={"c": 90.0, "d": 90.0}, busy={"e": 40.0})
    accounts = rack.hour()
    gpu = sum(account.embodied_grams.get("gpu", 0.0) for account in accounts.values())
    host = sum(account.embodied_grams.get("host", 0.0) for account in accounts.values())
    assert gpu == pytest.approx(3 * 3600 * GPU_RATE)  # five GPUs are nobody's
    assert host == pytest.approx(3600 * HOST_RATE)  # more was allocated than there is
    assert rack.grams("a", "gpu") == pytest.approx(1.5 * 3600 * GPU_RATE)


def test_a_gpu_that_cannot_be_read_for_a_while_is_its_holders_for_that_time_too():
    rack = Rack({0: ["a"]})
    rack.post(0.0)
    rack.post(missing={0})
    rack.post(missing={0})
    rack.post()
    assert rack.grams("a", "gpu") == pytest.approx(180 * GPU_RATE)


def test_a_gpu_goes_by_the_time_that_it_is_held_and_not_by_use():
    """One of two holders does three quarters of the work."""
    ledger = Ledger(1e12, grams=Grams(embodied=Embodied(GPU_RATE, 0.0)))
    jobs = [JobUse(name, "process", name, pids=frozenset({pid})) for pid, name in enumerate("ab", 1)]
    for now in (0.0, 60.0):
        gpu = Gpu(0, "H100", "550", pids=frozenset({1, 2}), sm_share_by_pid={1: 0.6, 2: 0.2})
        device = DeviceReading("GPU-0", "gpu", 500.0 * now, "nvml counter", gpu=gpu)
        ledger.post([device], jobs, HostCpu(0.0, 4 * now, 4), now, steady(1e-4))
    assert ledger.accounts["a"].energy_joules["gpu"] == pytest.approx(22_500.0)
    for account in ledger.accounts.values():
        assert account.embodied_grams == {"gpu": pytest.approx(30 * GPU_RATE)}


def test_cpu_time_counts_of_all_there_is_and_not_of_all_that_was_used():
    rack = Rack({}, busy={"a": 24.0})
    rack.hour()
    assert rack.grams("a", "host") == pytest.approx(0.25 * 3600 * HOST_RATE)


def test_the_host_goes_by_gpus_then_by_cpus_then_by_cpu_time():
    of_gpus, of_cpus, of_cpu_time = {"a": 0.5}, {"a": 0.1, "b": 0.25, "c": 0.0}, {"a": 0.1, "b": 0.6, "c": 0.125}
    assert host_shares(of_gpus, of_cpus, of_cpu_time) == {"a": 0.5, "b": 0.25, "c": 0.125}
    assert host_shares({"a": 1.0}, {"b": 0.6}, {}) == pytest.approx({"a": 0.625, "b": 0.375})
    assert host_shares({}, {}, {}) == {}


@pytest.mark.parametrize(("years", "grams"), [(5.0, 3.74), (3.0, 6.24)])
def test_a_published_figure_in_grams_per_hour(years, grams):
    assert 3600 * grams_per_second(BOARD_KILOGRAMS / 8, years) == pytest.approx(grams, abs=0.005)
