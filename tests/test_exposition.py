"""The page of the node agent: golden, valid, and the same to prometheus_client's parser as to ours."""

import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nvml_shim import NOT_SUPPORTED, POWER_LIMIT, Process
from prometheus_client.parser import text_string_to_metric_families
from scripted import Stateless

from carbon_exporter import metrics
from carbon_exporter.metrics import Family, Renderer
from carbon_exporter.model import DeviceReading, Gpu, MigDevice, Roots, SourceReading
from carbon_exporter.node.exposition import families, node_info
from carbon_exporter.sources import nvml

BANNED = ("_kwh", "_milliwatts", "_percent", "_per_kwh", "_microjoules", "_celsius", "_kilograms")


class Gpus(Stateless):
    """Two GPUs, one of them in MIG mode, as sources/nvml delivers them."""

    def __init__(self):
        self.reads = 0

    def read(self, now_seconds):
        self.reads += 1
        slices = (MigDevice("MIG-1", "NVIDIA H100 MIG 1g.10gb", "gi1/ci0"),)
        first = Gpu(0, "NVIDIA H100", "550.54", 300.0, 0.5, frozenset({10}), power_limit_watts=700.0)
        second = Gpu(1, "NVIDIA H100", "550.54", None, None, mig=slices, power_limit_watts=400.0)
        return SourceReading(
            tuple(
                DeviceReading(
                    f"GPU-{gpu.index}", "gpu", 600.0 * self.reads, method, {"uuid": f"GPU-{gpu.index}"}, gpu=gpu
                )
                for gpu, method in ((first, "nvml counter"), (second, "nvml integrated"))
            ),
            failures=("GPU-2 is lost",) if self.reads == 2 else (),
        )


@pytest.fixture
def page(scripted_node, monkeypatch):
    node = scripted_node
    package = node.tree.add("intel-rapl:0", "package-0", watts=0.0)
    node.tree.add("intel-rapl:1", "package-1-die-1", watts=0.0)
    node.start(nvml=Gpus(), **node.sampler._sources)
    monkeypatch.setattr("carbon_exporter.jobs.process.owner_name", lambda *_: "trainer")
    hostile = 'ns/ünï "q" \\ {x}'
    for seconds in (0.0, 4.0):
        node.proc.put(10, start=1, own=seconds, CARBON_TRAINING_JOB=hostile, CARBON_TRAINING_GROUP="g")
        package.spend(100_000_000)
        node.proc.spend(8.0, 8.0)
        tick = node.tick()
    for record in tick.records.values():
        record.duration_seconds = 0.25
    monkeypatch.setattr("carbon_exporter.metrics.__version__", "0.0.0")
    monkeypatch.setattr("platform.python_version", lambda: "3.11.0")
    return Renderer().render((*families(tick), node_info("gpu-7")))


def test_the_page_is_as_it_was(page, repository):
    """To accept a change: `CARBON_ACCEPT=1 pytest tests/test_exposition.py`, and read the difference."""
    golden = repository / "tests" / "golden" / "node.prom"
    if os.environ.get("CARBON_ACCEPT") == "1":
        golden.write_bytes(page)
    assert page.decode() == golden.read_text()


@pytest.mark.real
def test_promtool_finds_nothing(page, need):
    result = subprocess.run([need("promtool"), "check", "metrics"], input=page, capture_output=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


def test_every_published_name_label_and_type_is_in_the_contract(page):
    contract = {metric.name: metric for metric in metrics.contract()}
    found = list(text_string_to_metric_families(page.decode()))
    assert len(found) > 20
    for family in found:
        for sample in family.samples:
            metric = contract[sample.name]
            assert family.type == metric.kind
            assert set(sample.labels) <= set(metric.labels)


def test_a_page_without_gpus_or_jobs_says_nothing_of_them(scripted_node):
    node = scripted_node
    node.tree.add("intel-rapl:0", "package-0", watts=0.0)
    node.tick()
    text = Renderer().render(families(node.tick())).decode()
    assert "carbon_gpu" not in text
    assert "carbon_job" not in text
    assert 'carbon_rapl_energy_joules_total{package="0",domain="package"} 0.0' in text


def test_the_page_says_which_job_holds_which_gpu(scripted_node, load_nvml, nvml_library):
    node, shim = scripted_node, load_nvml(nvml_library)
    gpus = [shim.gpus[index].plug(f"GPU-{index}") for index in range(3)]
    gpus[1].set_slices({0: ("MIG-a", 1, 0), 1: ("MIG-b", 2, 0)})
    gpus[0].set_processes([Process(10, 0, -1, 50, 0), Process(11, 0, -1, 50, 0)])
    node.proc.put(10, start=1, own=0.0, CARBON_TRAINING_JOB="bert", CUDA_VISIBLE_DEVICES="MIG-b")
    node.proc.put(11, start=1, own=0.0)
    node.start(nvml=nvml.open_source(nvml.Settings(), Roots()))

    def holders():
        lines = Renderer().render(families(node.tick(60.0))).decode().splitlines()
        return [line for line in lines if line.startswith("carbon_gpu_holder_info")]

    assert holders() == [
        'carbon_gpu_holder_info{uuid="GPU-0",training_job="bert"} 1.0',
        'carbon_gpu_holder_info{uuid="MIG-b",training_job="bert"} 1.0',
    ]
    node.proc.drop(10)
    gpus[0].set_processes([Process(11, 0, -1, 50, 0)])
    assert holders() == []  # what its processes outside every job hold is no job's
    node.sampler.close()


def test_power_limits_are_shown_as_they_are_or_not_at_all(scripted_node, load_nvml, nvml_library):
    node, shim = scripted_node, load_nvml(nvml_library)
    gpus = [shim.gpus[index].plug(f"GPU-{index}") for index in range(2)]
    for gpu in gpus:
        gpu.set_processes([Process(10, 0, -1, 50, 0)])
    node.proc.put(10, start=1, own=0.0, CARBON_TRAINING_JOB="bert")
    node.start(nvml=nvml.open_source(nvml.Settings(), Roots()))

    def limits():
        lines = Renderer().render(families(node.tick(60.0))).decode().splitlines()
        return [line for line in lines if line.startswith(("carbon_gpu_power_limit", "carbon_job_gpu_power_limit"))]

    of_first = 'carbon_gpu_power_limit_watts{uuid="GPU-0"} 700.0'
    of_job = 'carbon_job_gpu_power_limit_watts{training_job="bert"}'
    assert limits() == [of_first, 'carbon_gpu_power_limit_watts{uuid="GPU-1"} 700.0', f"{of_job} 1400.0"]
    gpus[1].power_limit_milliwatts = 350_000
    assert limits() == [of_first, 'carbon_gpu_power_limit_watts{uuid="GPU-1"} 350.0', f"{of_job} 1050.0"]
    gpus[1].errors[POWER_LIMIT] = NOT_SUPPORTED
    assert limits() == [of_first]
    node.sampler.close()


@pytest.mark.parametrize("metric", metrics.contract(), ids=lambda metric: metric.name)
def test_the_contract_keeps_the_fields_conventions(metric):
    assert metric.name.startswith("carbon_")
    assert (metric.kind == "counter") == metric.name.endswith("_total")
    assert not any(word in metric.name for word in BANNED)
    assert metric.help.endswith(".")
    assert not set(metric.labels) & {"job", "instance", "node", "region", "zone", "unit"}


def test_names_are_unique():
    names = [metric.name for metric in metrics.contract()]
    assert len(names) == len(set(names))


LABELS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.lists(st.tuples(LABELS, st.floats()), max_size=5, unique_by=lambda pair: pair[0]))
def test_any_label_and_value_comes_back_through_prometheus_clients_parser(pairs):
    metric = metrics.Metric("carbon_x", "gauge", "node", 'help with "quotes", \\ and\nnewline.', ("a",))
    text = Renderer().render([Family(metric, [((label,), value) for label, value in pairs])]).decode()
    # The parser splits lines as str.splitlines does, the format only at a newline.
    if any(
        len(label.splitlines()) > 1 or label.endswith(tuple("\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")) for label, _ in pairs
    ):
        return
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert {sample.labels.get("a", ""): repr(sample.value) for sample in found} == {
        label: repr(value) for label, value in pairs
    }


def test_a_second_page_is_rendered_as_the_first(page):
    metric = metrics.JOB_GPUS
    renderer = Renderer()
    first = renderer.render([Family(metric, [(("a",), 1.0), (("b",), 2.0)])])
    assert renderer.render([Family(metric, [(("a",), 1.0), (("b",), 2.0)])]) == first
    assert b'training_job="b"' not in renderer.render([Family(metric, [(("a",), 1.0)])])
