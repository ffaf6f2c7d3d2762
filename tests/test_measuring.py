"""The cases in which its ancestor measures wrongly, each with the truth beside it.

A stepped clock and scripted hardware: what a per-process tracker gets wrong on a node, the node agent must not.
"""

import random

import pytest
from nvml_shim import ENERGY, NOT_SUPPORTED

from carbon_exporter.model import Roots
from carbon_exporter.sources import nvml


@pytest.fixture
def node(scripted_node):
    return scripted_node


def alone(node, cpu, **variables):
    """A job that has used `cpu` seconds so far, all that the host used."""
    node.proc.put(10, start=1, own=cpu, CARBON_TRAINING_JOB="bert", **variables)


def test_two_sockets_are_summed(node):
    sockets = [node.tree.add(f"intel-rapl:{n}", f"package-{n}") for n in range(2)]
    alone(node, 0)
    node.tick()
    for socket in sockets:
        socket.spend(100_000_000)
    node.proc.spend(8, 0)
    alone(node, 8)
    node.tick()
    assert node.joules("bert") == pytest.approx(200.0)


def test_a_wrap_inside_a_short_epoch_is_exact(node):
    zone = node.tree.add("intel-rapl:0", "package-0", start_uj=262_143_328_000)
    alone(node, 0)
    node.tick()
    for second in range(1, 5):  # a 4 s epoch at 250 W, the wrap in its first second
        zone.spend(250_000_000)
        node.proc.spend(4, 0)
        alone(node, 4 * second)
        node.tick(1.0)
    assert node.joules("bert") == pytest.approx(1000.0, abs=1e-6)


def test_a_counter_that_cannot_be_read_is_never_zero_joules(node):
    zone = node.tree.add("intel-rapl:0", "package-0")
    zone.show_text("")
    alone(node, 0)
    for _ in range(2):
        tick = node.tick()
    assert tick.devices == ()
    assert tick.ledger.accounts["bert"].energy_joules == {}
    assert not tick.records["rapl"].success


def test_epochs_far_shorter_than_the_interval_lose_nothing(node):
    zone = node.tree.add("intel-rapl:0", "package-0")
    alone(node, 0)
    node.tick()
    for epoch in range(1, 11):  # 0.8 s each, sampled every 2 s
        zone.spend(80_000_000)
        node.proc.spend(3.2, 0)
        alone(node, 3.2 * epoch)
        if epoch % 5 == 0:
            node.tick(4.0)
    assert node.joules("bert") == pytest.approx(800.0)


def test_a_two_second_square_wave_is_exact_by_counter(node):
    zone = node.tree.add("intel-rapl:0", "package-0")
    alone(node, 0)
    node.tick()
    for second in range(1, 61):
        zone.spend(300_000_000 if second % 2 else 50_000_000)
        node.proc.spend(4, 0)
        alone(node, 4 * second)
        if second % 2 == 0:
            node.tick(2.0)
    assert node.joules("bert") == pytest.approx(30 * 350.0)


@pytest.mark.parametrize(("scattered", "off"), [(False, 0.5), (True, 0.1)])
def test_a_square_wave_in_step_with_the_ticks_needs_scattered_ticks_where_there_is_power_only(
    load_nvml, nvml_library, scattered, off
):
    """A GPU without an energy counter, 300 W and 50 W for a second each, sampled every two seconds for an hour."""
    shim = load_nvml(nvml_library)
    gpu = shim.gpus[0].plug("GPU-0")
    gpu.errors[ENERGY] = NOT_SUPPORTED
    source = nvml.open_source(nvml.Settings(), Roots())
    chance = random.Random(1)
    now = 0.0
    first = last = None
    for tick in range(1800):
        now = tick * 2.0 + (0.4 * (2 * chance.random() - 1) if scattered else 0.0)
        gpu.set_watts(300 if now % 2 < 1 else 50)
        last = source.read(100 + now).devices[0].energy_joules
        first = last if first is None else first
    source.close()
    truth = 175.0 * now
    error = abs((last - first) / truth - 1)
    assert error > off if not scattered else error < off


def test_mig_ids_in_cuda_visible_devices_hold_their_own_gpu_only(node, load_nvml, nvml_library):
    shim = load_nvml(nvml_library)
    gpus = [shim.gpus[i].plug(f"GPU-{i}") for i in range(4)]
    gpus[2].set_slices({0: ("MIG-aaaa", 1, 0), 1: ("MIG-bbbb", 2, 0)})
    node.start(nvml=nvml.open_source(nvml.Settings(), Roots()))
    alone(node, 0, CUDA_VISIBLE_DEVICES="MIG-bbbb")
    node.tick()
    for gpu in gpus:
        gpu.set_energy(100.0)
    tick = node.tick()
    node.sampler.close()
    assert node.joules("bert", "gpu") == pytest.approx(100.0)
    assert tick.ledger.accounts["bert"].gpus == 1
    assert tick.ledger.unattributed_joules["gpu", "idle"] == pytest.approx(300.0)


def test_ranks_on_one_node_do_not_each_count_the_whole_node(node):
    zone = node.tree.add("intel-rapl:0", "package-0")
    ranks = range(10, 14)
    for pid in ranks:
        node.proc.put(pid, start=1, CARBON_TRAINING_JOB="ddp", RANK=str(pid - 10))
    node.tick()
    zone.spend(400_000_000)
    node.proc.spend(8, 8)
    for pid in ranks:
        node.proc.put(pid, start=1, own=2.0, CARBON_TRAINING_JOB="ddp", RANK=str(pid - 10))
    node.tick()
    assert node.joules("ddp") == pytest.approx(200.0)
