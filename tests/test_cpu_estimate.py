"""sources/cpu_estimate on a /proc of our own, and its table."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from carbon_exporter.metrics import ESTIMATED_ENERGY
from carbon_exporter.model import Roots, SourceReading
from carbon_exporter.sources import cpu_estimate

EPYC = "AMD EPYC 7763 64-Core Processor"


def write_stat(proc: Path, busy_seconds: float, cpus: int = 4) -> None:
    """A /proc/stat with so much user time (USER_HZ is 100 on every Linux platform), plus idle, iowait and steal."""
    ticks = round(busy_seconds * 100)
    lines = [f"cpu  {ticks} 0 0 999999 777 0 0 555 0 0"]
    lines += [f"cpu{number} {ticks // cpus} 0 0 9999 77 0 0 55 0 0" for number in range(cpus)]
    (proc / "stat").write_text("\n".join([*lines, "intr 1 2 3", ""]))


def write_cpuinfo(proc: Path, model: str | None) -> None:
    line = "" if model is None else f"model name\t: {model}\n"
    (proc / "cpuinfo").write_text(f"processor\t: 0\n{line}flags\t\t: fpu\n\nprocessor\t: 1\n{line}")


def open_estimate(proc: Path, **keys: object) -> cpu_estimate.CpuEstimate:
    return cpu_estimate.open_source(cpu_estimate.Settings(**keys), Roots(procfs=proc))


def joules(source: cpu_estimate.CpuEstimate) -> float:
    (device,) = source.read(0.0).devices
    return device.energy_joules


def test_a_virtual_machine_gets_its_part_of_the_processor(tmp_path):
    write_cpuinfo(tmp_path, EPYC)
    write_stat(tmp_path, 1000, cpus=4)
    source = open_estimate(tmp_path)
    assert source.power.origin == "table: AMD EPYC 7763, 280 W, 128 threads"
    assert source.describe() == source.power.origin
    reading = source.read(0.0)
    assert reading.present
    assert reading.failures == ()
    (device,) = reading.devices
    assert device.energy_joules == 1000 * 280 / 128
    assert (device.device, device.component, device.method) == ("cpu-estimate", "cpu", "estimate")
    assert tuple(device.labels) == ESTIMATED_ENERGY.labels
    assert not device.includes_idle


def test_configured_watts_are_those_of_the_whole_host(tmp_path):
    write_cpuinfo(tmp_path, EPYC)
    write_stat(tmp_path, 1000, cpus=8)
    source = open_estimate(tmp_path, tdp_watts=120)
    assert joules(source) == 1000 * 120 / 8
    assert source.power.origin == "configured: sources.cpu_estimate.tdp_watts, 120 W for the whole host"


def test_an_unknown_model_gets_the_default_and_says_so(tmp_path):
    write_cpuinfo(tmp_path, "Quantum  9000 @ 9GHz")
    write_stat(tmp_path, 10)
    source = open_estimate(tmp_path)
    assert joules(source) == 35.0
    assert source.power.origin == (
        "default: 3.5 W per logical CPU, model 'Quantum 9000 @ 9GHz' is not in the table; "
        "set sources.cpu_estimate.tdp_watts"
    )


@pytest.mark.parametrize("cpuinfo", ["nameless", "missing"])
def test_without_a_model_name_the_default_counts_as_well(tmp_path, cpuinfo):
    write_stat(tmp_path, 10)
    if cpuinfo == "nameless":
        write_cpuinfo(tmp_path, None)
    source = open_estimate(tmp_path)
    assert joules(source) == 35.0
    assert f"3.5 W per logical CPU, {tmp_path / 'cpuinfo'} names no model" in source.power.origin


@pytest.mark.parametrize(
    ("model_name", "watts", "threads"),
    [
        ("Intel(R) Xeon(R) Gold 6248 CPU @ 2.50GHz", 150, 40),
        ("Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz", 120, 28),
        ("INTEL(R) XEON(R) PLATINUM 8592+", 350, 128),
        ("Intel(R) Xeon(R) Platinum 8480+", 350, 112),
        ("Intel(R) Xeon(R) w9-3495X", 350, 112),
        ("Intel(R) Xeon(R) 6980P", 500, 256),
        ("13th Gen Intel(R) Core(TM) i9-13900K", 125, 32),
        ("AMD EPYC 7302P 16-Core Processor", 155, 32),
        ("AMD EPYC 9654 96-Core Processor", 400 - 40, 192),
        ("AMD Ryzen Threadripper PRO 5995WX 64-Cores", 280, 128),
        ("AMD Ryzen 9 5950X 16-Core Processor", 105, 32),
    ],
)
def test_models_as_the_kernel_spells_them_are_found(model_name, watts, threads):
    entry = cpu_estimate.tdp_table()[cpu_estimate.plain_name(model_name)]
    assert (entry.watts, entry.threads) == (watts, threads)


@pytest.mark.parametrize(
    "model_name",
    ["Intel(R) Xeon(R) Processor @ 2.80GHz", "AMD EPYC", "AMD EPYC 7B12", "Intel(R) Xeon(R) Platinum 8480", "QEMU"],
)
def test_a_name_that_only_resembles_one_is_not_found(model_name):
    assert cpu_estimate.plain_name(model_name) not in cpu_estimate.tdp_table()


def test_the_table_is_sound():
    text = Path(cpu_estimate.__file__).with_name("cpu_tdp.csv").read_text()
    rows = [line for line in text.splitlines() if not line.startswith("#")][1:]
    table = cpu_estimate.tdp_table()
    assert len(table) == len(rows) > 80
    for row in rows:
        assert re.fullmatch(r"(Intel|AMD) [\w+ -]+,\d+,\d+", row)
    for entry in table.values():
        assert 35 <= entry.watts <= 500
        assert entry.threads % 4 == 0
        assert 1 < entry.watts / entry.threads < 16


def test_absent_where_there_is_no_proc_and_a_failure_where_it_went(tmp_path):
    source = open_estimate(tmp_path)
    assert source.read(0.0) == SourceReading(present=False)
    write_stat(tmp_path, 10)
    assert joules(source) == 35.0
    (tmp_path / "stat").unlink()
    reading = source.read(0.0)
    assert reading.present
    assert reading.devices == ()
    assert "stat" in reading.failures[0]


@pytest.mark.parametrize("text", ["", "garbage\n", "cpu 1 2 3\n", "cpu  1 2 3 4 5 6 7 x\ncpu0 1\n"])
def test_a_stat_that_is_none_is_a_failure_and_costs_nothing(tmp_path, text):
    write_stat(tmp_path, 10)
    source = open_estimate(tmp_path)
    source.read(0.0)
    (tmp_path / "stat").write_text(text)
    reading = source.read(1.0)
    assert reading.devices == ()
    assert len(reading.failures) == 1
    assert "\n" not in reading.failures[0]
    write_stat(tmp_path, 20)
    assert joules(source) == 70.0


def test_a_small_step_back_is_waited_out_and_a_large_one_is_a_new_start(tmp_path):
    source = open_estimate(tmp_path)
    seen = []
    for busy_seconds in (100, 99.5, 100.5, 20, 30):
        write_stat(tmp_path, busy_seconds)
        seen.append(joules(source) / 3.5)
    assert seen == [100, 100, 100.5, 100.5, 110.5]


def test_a_restart_continues_also_with_other_watts(tmp_path):
    write_stat(tmp_path, 100)
    source = open_estimate(tmp_path)
    source.read(0.0)
    saved = json.loads(json.dumps(source.state()))
    source.close()
    write_stat(tmp_path, 140, cpus=4)
    again = open_estimate(tmp_path, tdp_watts=40)
    again.restore(saved)
    assert joules(again) == 100 * 3.5 + 40 * 10


@pytest.mark.parametrize("bad", [None, "x", -1, float("nan"), float("inf"), 10**400, []])
@pytest.mark.parametrize("key", ["busy_seconds", "joules"])
def test_a_state_that_is_none_is_ignored(tmp_path, key, bad):
    write_stat(tmp_path, 10)
    source = open_estimate(tmp_path)
    source.restore({"busy_seconds": 5, "joules": 1e6, key: bad})
    source.restore({})
    source.restore(None)
    assert joules(source) == 35.0


@pytest.mark.parametrize("keys", [{"tdp_watts": 0}, {"tdp_watts": -5}, {"tdp_watts": float("nan")}, {"tdp": 5}])
def test_settings_that_make_no_sense_are_refused(keys):
    with pytest.raises(ValidationError):
        cpu_estimate.Settings(**keys)


@given(st.lists(st.one_of(st.integers(0, 10**7), st.just("restart")), max_size=30))
def test_the_energy_never_goes_back_and_is_that_of_the_rises(tmp_path_factory, steps):
    proc = tmp_path_factory.mktemp("proc")
    source, last_joules, last_ticks, rises = open_estimate(proc), 0.0, 0, 0
    for step in steps:
        if step == "restart":
            saved = json.loads(json.dumps(source.state()))
            source = open_estimate(proc)
            source.restore(saved)
            continue
        write_stat(proc, step / 100)
        now_joules = joules(source)
        assert now_joules >= last_joules
        if not 0 < last_ticks - step <= 100:
            rises, last_ticks = rises + max(0, step - last_ticks), step
        assert now_joules == pytest.approx(rises / 100 * 3.5)
        last_joules = now_joules


def test_this_host_can_be_estimated():
    source = open_estimate(Path("/proc"))
    reading = source.read(0.0)
    assert reading.failures == ()
    assert reading.devices[0].energy_joules > 0
    assert source.power.of_one(1) > 0
