"""sources/nvml on the real pynvml, over the C shim nvml_shim.c in the place of the driver's library."""

import json
import logging
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pynvml
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nvml_shim import (
    ATTRIBUTES,
    COMPUTE,
    ENERGY,
    GPM_METRICS,
    GPM_SAMPLE,
    GPM_SUPPORT,
    GPM_VALUE,
    GPU_IS_LOST,
    INSUFFICIENT_SIZE,
    MINOR,
    MPS,
    NO_PERMISSION,
    NOT_FOUND,
    NOT_SUPPORTED,
    NOTHING,
    OLD_SAMPLES,
    OPEN,
    POWER,
    POWER_LIMIT,
    PROCESS_UTILIZATION,
    TIMEOUT,
    UNKNOWN,
    UTILIZATION,
    Process,
    Shim,
    ShimGpu,
    build,
)

from carbon_exporter.model import DeviceReading, MigDevice, Roots, SourceReading
from carbon_exporter.sources.nvml import Settings, open_source
from carbon_exporter.sources.nvml.meter import Meter
from carbon_exporter.sources.nvml.source import NvmlSource

WHOLE_GPU = -1


@pytest.fixture
def shim(load_nvml, nvml_library) -> Shim:
    return load_nvml(nvml_library)


@pytest.fixture
def source(tmp_path) -> NvmlSource:
    return open_source(Settings(), Roots(procfs=tmp_path / "proc"))


def joules(reading: SourceReading) -> dict[str, float]:
    return {device.device: device.energy_joules for device in reading.devices}


def only(reading: SourceReading) -> DeviceReading:
    assert reading.failures == ()
    (device,) = reading.devices
    return device


def only_device(reading: SourceReading) -> DeviceReading:
    (device,) = reading.devices
    return device


def process(
    pid: int, *, sm_percent: int = 0, is_mps: bool = False, mig: int = WHOLE_GPU, at: int = 0, ended: bool = False
) -> Process:
    return Process(pid, is_mps, mig, sm_percent, at, ended)


# What one GPU tells


def test_energy_counter_and_everything_beside_it(shim, source):
    gpu = shim.gpus[0].plug("GPU-a", joules=1e6, watts=0)
    gpu.power_milliwatts, gpu.utilization_percent = 312_500, 87
    assert only(source.read(10)).energy_joules == 0
    gpu.set_energy(1_000_700.25)
    gpu.power_milliwatts = 312_500
    device = only(source.read(12))
    assert device.energy_joules == pytest.approx(700.25, abs=1e-6)
    assert (device.device, device.component, device.method) == ("GPU-a", "gpu", "nvml counter")
    assert device.labels == {"uuid": "GPU-a"}
    assert device.includes_idle
    assert asdict(device.gpu) == {
        "index": 0,
        "model": "NVIDIA H100 80GB HBM3",
        "driver": "550.54.15",
        "power_watts": 312.5,
        "utilization_ratio": 0.87,
        "pids": frozenset(),
        "sm_share_by_pid": {},
        "mig": (),
        "minor": 0,
        "power_limit_watts": 700.0,
    }


def test_counter_that_moves_by_itself_is_followed(shim, source):
    gpu = shim.gpus[0].plug(watts=700)
    first_earliest = gpu.energy_joules(time.monotonic_ns())
    source.read(0)
    first_latest = gpu.energy_joules(time.monotonic_ns())
    time.sleep(0.02)
    gpu.set_watts(100)
    time.sleep(0.02)
    last_earliest = gpu.energy_joules(time.monotonic_ns())
    measured = only(source.read(1)).energy_joules
    last_latest = gpu.energy_joules(time.monotonic_ns())
    assert 0 < last_earliest - first_latest <= measured + 1e-9
    assert measured <= last_latest - first_earliest + 1e-9


def test_counter_that_goes_back_starts_anew_with_nothing_added(shim, source, caplog):
    gpu = shim.gpus[0].plug(joules=5000)
    source.read(0)
    gpu.set_energy(5600)
    assert only(source.read(2)).energy_joules == 600
    gpu.set_energy(100)
    assert only(source.read(4)).energy_joules == 600
    gpu.set_energy(150)
    assert only(source.read(6)).energy_joules == 650
    assert [record.getMessage() for record in caplog.records] == [
        "GPU GPU-0 (index 0): its energy counter was reset; what it used since the last reading is unknown"
    ]


def test_names_may_be_bytes_as_from_an_older_pynvml(shim, source, monkeypatch):
    shim.gpus[0].plug("GPU-a")
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUUID", lambda handle: b"GPU-bytes")
    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", lambda handle: b"Tesla P40")
    monkeypatch.setattr(pynvml, "nvmlSystemGetDriverVersion", lambda: b"535.1")
    device = only(source.read(0))
    assert (device.device, device.gpu.model, device.gpu.driver) == ("GPU-bytes", "Tesla P40", "535.1")


def test_a_tick_costs_seven_calls_for_each_gpu_and_one_more_once_a_minute(shim, source):
    for index in range(8):
        shim.gpus[index].plug(f"GPU-{index}")
    source.read(0)
    for now, expected in ((1, 7), (59, 7), (60, 8), (61, 7), (119, 7), (125, 8), (180, 7)):
        calls = shim.calls
        assert len(source.read(now).devices) == 8
        assert shim.calls - calls == expected * 8


def test_the_minor_number_is_another_than_the_index(shim, source):
    for index, minor in enumerate((3, 0, 2**20)):
        shim.gpus[index].plug(f"GPU-{index}").minor = minor
    assert [(device.gpu.index, device.gpu.minor) for device in source.read(0).devices] == [(0, 3), (1, 0), (2, None)]


def test_a_minor_number_that_fails_is_a_line_until_it_is_told(shim, source):
    shim.gpus[0].plug("GPU-a").errors[MINOR] = TIMEOUT
    reading = source.read(0)
    assert (list(joules(reading)), reading.devices[0].gpu.minor) == (["GPU-a"], None)
    (failure,) = reading.failures
    assert failure.startswith("GPU GPU-a (index 0): nvmlDeviceGetMinorNumber: Timeout: ")
    shim.gpus[0].errors[MINOR] = 0
    assert only(source.read(1)).gpu.minor == 0
    shim.gpus[0].errors[MINOR] = UNKNOWN
    assert only(source.read(2)).gpu.minor == 0


# The power limit


def test_a_power_limit_that_is_changed_is_seen_within_a_minute(shim, source):
    gpus = [shim.gpus[index].plug(f"GPU-{index}") for index in range(2)]
    gpus[1].power_limit_milliwatts = 350_500

    def limits(now):
        return [device.gpu.power_limit_watts for device in source.read(now).devices]

    assert limits(0) == [700, 350.5]
    gpus[0].power_limit_milliwatts = 400_000
    assert limits(59.9) == [700, 350.5]
    assert limits(60) == [400, 350.5]


def test_a_power_limit_is_asked_for_anew_after_a_reload_of_the_driver(shim, source):
    gpu = shim.gpus[0].plug()
    source.read(0)
    shim.load_driver()
    gpu.power_limit_milliwatts = 300_000
    assert source.read(1).devices == ()
    assert only(source.read(2)).gpu.power_limit_watts == 300


@pytest.mark.parametrize("milliwatts", [0, 5_000_001, 2**32 - 1])
def test_a_blank_power_limit_is_unknown(milliwatts, shim, source):
    shim.gpus[0].plug().power_limit_milliwatts = milliwatts
    assert only(source.read(0)).gpu.power_limit_watts is None


def test_a_power_limit_that_fails_is_unknown_until_it_is_told_again(shim, source):
    gpu = shim.gpus[0].plug("GPU-a")
    assert only(source.read(0)).gpu.power_limit_watts == 700
    gpu.errors[POWER_LIMIT] = TIMEOUT
    assert only(source.read(59)).gpu.power_limit_watts == 700
    for now in (60, 61):
        reading = source.read(now)
        assert only_device(reading).gpu.power_limit_watts is None
        (failure,) = reading.failures
        assert failure.startswith("GPU GPU-a (index 0): nvmlDeviceGetEnforcedPowerLimit: Timeout: ")
    gpu.errors[POWER_LIMIT] = 0
    assert only(source.read(62)).gpu.power_limit_watts == 700


# Power integrated


@pytest.mark.parametrize("lacking", ["code", "symbol"])
def test_power_is_integrated_where_there_is_no_counter(lacking, load_nvml, nvml_library, tmp_path, source):
    shim = load_nvml(nvml_library if lacking == "code" else build(tmp_path, "ENERGY"))
    gpu = shim.gpus[0].plug(joules=123, watts=100)
    gpu.errors[ENERGY] = NOT_SUPPORTED
    first = only(source.read(100))
    assert (first.energy_joules, first.method, first.gpu.power_watts) == (0, "nvml integrated", 100)
    gpu.power_milliwatts = 300_000
    assert only(source.read(102)).energy_joules == 400
    gpu.power_milliwatts = 0
    assert only(source.read(103)).energy_joules == 550


def test_nothing_is_added_across_a_gap_too_long(shim, tmp_path):
    source = open_source(Settings(longest_gap_seconds=10), Roots(procfs=tmp_path))
    gpu = shim.gpus[0].plug(watts=100)
    gpu.errors[ENERGY] = NOT_SUPPORTED
    for now, expected in ((0, 0), (10, 1000), (20.5, 1000), (22.5, 1200), (22.5, 1200), (21, 1200)):
        assert only(source.read(now)).energy_joules == expected


def test_a_counter_that_appears_later_counts_only_from_there(shim, source):
    gpu = shim.gpus[0].plug(joules=9000, watts=100)
    gpu.set_energy(9000)
    gpu.power_milliwatts = 100_000
    gpu.errors[ENERGY] = NOT_SUPPORTED
    source.read(0)
    assert only(source.read(2)).energy_joules == 200
    gpu.errors[ENERGY] = 0
    device = only(source.read(4))
    assert (device.energy_joules, device.method) == (200, "nvml counter")
    gpu.set_energy(9050)
    assert only(source.read(6)).energy_joules == 250
    gpu.errors[ENERGY] = NOT_SUPPORTED
    gpu.set_energy(9900)
    assert only(source.read(8)).energy_joules == 250
    gpu.errors[ENERGY] = 0
    assert only(source.read(10)).energy_joules == 250


def test_a_gpu_that_tells_neither_is_left_out_and_named_once(shim, source, caplog):
    shim.gpus[0].plug("GPU-dumb").errors[ENERGY] = NOT_SUPPORTED
    shim.gpus[0].errors[POWER] = NOT_SUPPORTED
    shim.gpus[1].plug("GPU-b")
    for now in range(3):
        reading = source.read(now)
        assert list(joules(reading)) == ["GPU-b"]
        assert reading.failures == ()
    assert [record.getMessage() for record in caplog.records] == [
        "GPU GPU-dumb (index 0) (NVIDIA H100 80GB HBM3) tells neither its energy nor its power: left out"
    ]


@given(st.lists(st.tuples(st.floats(0.01, 60), st.floats(0, 5000)), min_size=1, max_size=30))
def test_integral_is_that_of_the_polygon_and_never_goes_back(steps):
    meter, now, last, expected = Meter(), 50.0, 80.0, 0.0
    meter.integrate(last, now, 60)
    for seconds, watts in steps:
        before = meter.counter.total
        elapsed = (now + seconds) - now
        now += seconds
        meter.integrate(watts, now, 60)
        if elapsed <= 60:
            expected += min(last, watts) * elapsed + abs(last - watts) * elapsed / 2
        last = watts
        assert meter.counter.total >= before
    assert meter.counter.total == pytest.approx(expected, rel=1e-9, abs=1e-9)


# Values that cannot be


@pytest.mark.parametrize("millijoules", [2**64 - 1, 2**63 - 14, 10**16])
def test_a_blank_energy_counter_is_a_failure_and_its_joules_come_later(millijoules, shim, source):
    gpu = shim.gpus[0].plug("GPU-a", joules=100)
    source.read(0)
    gpu.energy_millijoules = millijoules
    reading = source.read(2)
    assert reading.devices == ()
    (failure,) = reading.failures
    assert failure.startswith("GPU GPU-a (index 0): energy counter in joules reads ")
    gpu.set_energy(350)
    assert only(source.read(4)).energy_joules == 250


@pytest.mark.parametrize("milliwatts", [2**32 - 1, 5_000_001])
def test_blank_power_is_unknown(milliwatts, shim, source):
    gpu = shim.gpus[0].plug("GPU-a", watts=50)
    gpu.power_milliwatts = milliwatts
    assert only(source.read(0)).gpu.power_watts is None
    gpu.errors[ENERGY] = NOT_SUPPORTED
    gpu.power_milliwatts = 50_000
    source.read(1)
    gpu.power_milliwatts = milliwatts
    reading = source.read(2)
    assert reading.devices == ()
    assert "power in watts reads" in reading.failures[0]
    gpu.power_milliwatts = 150_000
    assert only(source.read(3)).energy_joules == 200


def test_blank_use_is_unknown(shim, source):
    gpu = shim.gpus[0].plug()
    gpu.utilization_percent = 2**32 - 1
    gpu.set_processes([process(0), process(2**32 - 1), process(7, sm_percent=101), process(8, sm_percent=40)])
    device = only(source.read(0))
    assert device.gpu.utilization_ratio is None
    assert device.gpu.pids == {7, 8}
    assert device.gpu.sm_share_by_pid == {8: 0.4}


def test_a_rise_that_no_gpu_can_make_is_not_counted(shim, source):
    gpu = shim.gpus[0].plug(joules=100)
    source.read(0)
    gpu.set_energy(100 + 5000 * 2)
    assert only(source.read(2)).energy_joules == 10_000
    gpu.set_energy(1e9)
    assert only(source.read(4)).energy_joules == 10_000
    gpu.set_energy(1e9 + 5)
    assert only(source.read(6)).energy_joules == 10_005


# One GPU never hides another


def test_one_failing_gpu_is_one_line_and_the_others_are_read(shim, source):
    for index in range(3):
        shim.gpus[index].plug(f"GPU-{index}")
    source.read(0)
    shim.gpus[1].errors[ENERGY] = UNKNOWN
    for index in range(3):
        shim.gpus[index].set_energy(10 * (index + 1))
    for now in range(1, 6):
        reading = source.read(now)
        assert joules(reading) == {"GPU-0": 10, "GPU-2": 30}
        assert reading.failures == (
            "GPU GPU-1 (index 1): Unknown Error: compare with nvidia-smi and the kernel's log (dmesg)",
        )
    shim.gpus[1].errors[ENERGY] = 0
    for now in range(6, 9):
        reading = source.read(now)
    assert joules(reading) == {"GPU-0": 10, "GPU-1": 20, "GPU-2": 30}
    assert reading.failures == ()


@pytest.mark.parametrize("function", [POWER, UTILIZATION, COMPUTE, MPS, POWER_LIMIT])
def test_a_field_that_fails_is_a_line_and_the_joules_count_on(function, shim, source):
    gpu = shim.gpus[0].plug("GPU-a", joules=0)
    source.read(0)
    inits = shim.inits
    gpu.set_energy(42)
    gpu.errors[function] = TIMEOUT
    for now in (60, 61):
        reading = source.read(now)
        assert joules(reading) == {"GPU-a": 42}
        (failure,) = reading.failures
        assert failure.startswith("GPU GPU-a (index 0): nvmlDeviceGet")
        assert ": Timeout: " in failure
    assert shim.inits == inits


@pytest.mark.parametrize("function", [POWER, UTILIZATION, COMPUTE, MPS, PROCESS_UTILIZATION, POWER_LIMIT])
def test_a_field_that_is_not_supported_is_unknown_and_quiet(function, shim, source):
    gpu = shim.gpus[0].plug(watts=60)
    gpu.utilization_percent = 50
    gpu.set_processes([process(1, sm_percent=10), process(2, sm_percent=10), process(3, is_mps=True)])
    gpu.errors[function] = NOT_SUPPORTED
    told = only(source.read(0)).gpu
    assert (told.power_watts is None) == (function == POWER)
    assert (told.utilization_ratio is None) == (function == UTILIZATION)
    assert (told.power_limit_watts is None) == (function == POWER_LIMIT)
    assert told.pids == {COMPUTE: {3}, MPS: {1, 2}}.get(function, {1, 2, 3})
    assert bool(told.sm_share_by_pid) == (function not in (COMPUTE, PROCESS_UTILIZATION))


def test_a_driver_without_the_mps_list_still_tells_the_others(load_nvml, nvml_library, tmp_path, source):
    gpu = load_nvml(build(tmp_path, "MPS")).gpus[0].plug()
    gpu.set_processes([process(5), process(6, is_mps=True)])
    assert only(source.read(0)).gpu.pids == {5}


def test_a_gpu_that_may_not_be_opened_is_named_by_its_index(shim, source):
    shim.gpus[0].plug("GPU-a")
    shim.gpus[1].plug("GPU-b").errors[OPEN] = NO_PERMISSION
    reading = source.read(0)
    assert list(joules(reading)) == ["GPU-a"]
    assert reading.failures == ("GPU with index 1: Insufficient Permissions: let this user read /dev/nvidia*",)
    shim.gpus[1].errors[OPEN] = 0
    assert list(joules(source.read(1))) == ["GPU-a", "GPU-b"]


# Processes


def test_processes_come_and_go_and_each_ones_use_is_told_also_that_of_the_only_one(shim, source):
    gpu = shim.gpus[0].plug()
    gpu.set_processes([process(10, sm_percent=90)])
    told = only(source.read(0)).gpu
    assert (told.pids, told.sm_share_by_pid) == ({10}, {10: 0.9})
    gpu.set_processes([process(10, sm_percent=60), process(11, sm_percent=30, is_mps=True), process(12)])
    told = only(source.read(1)).gpu
    assert (told.pids, told.sm_share_by_pid) == ({10, 11, 12}, {10: 0.6, 11: 0.3})
    gpu.set_processes([])
    told = only(source.read(2)).gpu
    assert (told.pids, told.sm_share_by_pid) == (frozenset(), {})


def test_each_utilisation_sample_is_used_once(shim, source):
    gpu = shim.gpus[0].plug()
    gpu.set_processes([process(1, sm_percent=20, at=1000), process(2, sm_percent=80, at=1000)])
    assert only(source.read(0)).gpu.sm_share_by_pid == {1: 0.2, 2: 0.8}
    assert only(source.read(1)).gpu.sm_share_by_pid == {}
    samples = [process(1, sm_percent=40, at=1500), process(1, sm_percent=60, at=2000), process(2, at=2000)]
    gpu.set_processes([*samples, process(3, sm_percent=99, at=1000)])
    told = only(source.read(2)).gpu
    assert told.sm_share_by_pid == {1: 0.5}
    assert told.pids == {1, 2, 3}
    gpu.errors[PROCESS_UTILIZATION] = OLD_SAMPLES
    assert only(source.read(3)).gpu.sm_share_by_pid == {}


@pytest.mark.parametrize("answer", [NOTHING, NOT_FOUND, INSUFFICIENT_SIZE])
def test_no_utilisation_samples_is_unknown_and_quiet(answer, shim, source):
    gpu = shim.gpus[0].plug()
    gpu.set_processes([process(1, sm_percent=20), process(2)])
    gpu.errors[PROCESS_UTILIZATION] = answer
    told = only(source.read(0)).gpu
    assert (told.pids, told.sm_share_by_pid) == ({1, 2}, {})


def test_samples_of_ended_processes_are_told_too(shim, source):
    gpu = shim.gpus[0].plug()
    gpu.set_processes([process(1, sm_percent=30, at=1000), process(99, sm_percent=70, at=500, ended=True)])
    told = only(source.read(0)).gpu
    assert (told.pids, told.sm_share_by_pid) == ({1}, {1: 0.3})  # 99 may have ended long before
    brief = process(2, sm_percent=60, at=1200, ended=True)
    gpu.set_processes([process(1, sm_percent=20, at=1400, ended=True), brief, process(3, sm_percent=5, at=1900)])
    told = only(source.read(1)).gpu
    assert (told.pids, told.sm_share_by_pid) == ({3}, {1: 0.2, 2: 0.6, 3: 0.05})
    gpu.set_processes([process(3, sm_percent=40, at=2500, ended=True), process(4, sm_percent=80, at=2600, ended=True)])
    told = only(source.read(2)).gpu
    assert (told.pids, told.sm_share_by_pid) == (frozenset(), {3: 0.4, 4: 0.8})


def test_a_process_in_half_of_the_samples_weighs_half(shim, source):
    gpu = shim.gpus[0].plug()
    source.read(0)
    always = [process(1, sm_percent=50, at=at) for at in (1000, 2000, 3000, 4000)]
    half = [process(2, sm_percent=50, at=at) for at in (1000, 2000)]
    gpu.set_processes([*always, *half])
    assert only(source.read(1)).gpu.sm_share_by_pid == {1: 0.5, 2: 0.25}


def test_one_sample_for_each_process_at_a_time_of_its_own(shim, source):
    gpu = shim.gpus[0].plug()
    source.read(0)
    gpu.set_processes([process(pid, sm_percent=10 * pid, at=1000 + pid) for pid in (1, 2, 3)])
    assert only(source.read(1)).gpu.sm_share_by_pid == {1: 0.1, 2: 0.2, 3: 0.3}


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 100)), max_size=40))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_processes_weigh_as_the_sums_of_their_samples(shim, tmp_path, samples):
    source = open_source(Settings(), Roots(procfs=tmp_path))
    gpu = shim.gpus[0].plug()
    gpu.set_processes([])
    source.read(0)
    gpu.set_processes([process(pid, sm_percent=percent, at=1 + n) for n, (pid, percent) in enumerate(samples)])
    shares = only(source.read(1)).gpu.sm_share_by_pid
    pids = [pid for pid, _ in samples]
    assert set(shares) == set(pids)
    assert all(0 < share <= 1 for share in shares.values())
    used = {pid: sum(percent for owner, percent in samples if owner == pid) for pid in shares}
    for pid in shares:
        assert shares[pid] / sum(shares.values()) == pytest.approx(used[pid] / sum(used.values()))
    source.close()


# MIG


def by_uuid(reading: SourceReading) -> dict[str, MigDevice]:
    return {mig.uuid: mig for mig in only(reading).gpu.mig}


def use(reading: SourceReading) -> dict[str, float | None]:
    return {uuid: mig.utilization_ratio for uuid, mig in by_uuid(reading).items()}


def test_mig_slices_are_listed_as_they_are_now_and_share_one_energy(shim, source):
    gpu = shim.gpus[0].plug("GPU-a")
    gpu.utilization_percent = 30
    assert only(source.read(0)).gpu.mig == ()
    gpu.set_slices({})
    assert only(source.read(1)).gpu.mig == ()
    gpu.set_slices({0: ("MIG-one", 7, 0), 3: ("MIG-two", 9, 1)})
    gpu.set_processes([process(100, mig=0), process(101, mig=3), process(102, mig=3, is_mps=True)])
    gpu.set_energy(500)
    device = only(source.read(2))
    assert (device.device, device.energy_joules, device.method) == ("GPU-a", 500, "nvml counter")
    name = "NVIDIA H100 80GB HBM3 MIG 1g.10gb"
    assert device.gpu.mig == (
        MigDevice("MIG-one", name, "gi7/ci0", 1 / 7, None, frozenset({100})),
        MigDevice("MIG-two", name, "gi9/ci1", 1 / 7, None, frozenset({101, 102})),
    )
    assert device.gpu.pids == {100, 101, 102}
    assert device.gpu.utilization_ratio is None
    assert device.gpu.power_limit_watts == 700
    assert device.gpu.sm_share_by_pid == {}
    gpu.set_slices({3: ("MIG-three", 9, 1)})
    assert [mig.uuid for mig in only(source.read(3)).gpu.mig] == ["MIG-three"]
    gpu.set_slices({3: ("MIG-nameless", 9, 1)})
    gpu.slices[3].name = b""
    assert [mig.model for mig in only(source.read(3)).gpu.mig] == ["NVIDIA H100 80GB HBM3"]
    gpu.mig_enabled = 0
    told = only(source.read(4)).gpu
    assert (told.mig, told.utilization_ratio) == ((), 0.3)


@pytest.mark.parametrize(
    ("most", "slices", "expected"),
    [
        (7, {0: ("MIG-3g", 1, 0, 3), 1: ("MIG-4g", 2, 0, 4)}, {"MIG-3g": 3 / 7, "MIG-4g": 4 / 7}),
        (7, {0: ("MIG-1c", 1, 0, 1), 1: ("MIG-2c", 1, 1, 2)}, {"MIG-1c": 1 / 7, "MIG-2c": 2 / 7}),
        (4, {0: ("MIG-2g", 1, 0, 2), 2: ("MIG-1g", 3, 0, 1)}, {"MIG-2g": 2 / 4, "MIG-1g": 1 / 4}),
        (7, {0: ("MIG-7g", 0, 0, 7), 1: ("MIG-blank", 1, 0, 2**32 - 1)}, {"MIG-7g": 1, "MIG-blank": None}),
        (7, {0: ("MIG-none", 1, 0, 0)}, {"MIG-none": None}),
    ],
)
def test_share_is_that_of_the_compute_slices(most, slices, expected, shim, source):
    gpu = shim.gpus[0].plug()
    gpu.most_slices = most
    gpu.set_slices(slices)
    assert {uuid: mig.share for uuid, mig in by_uuid(source.read(0)).items()} == expected


def test_a_share_that_fails_is_a_line_until_it_is_told(shim, source):
    gpu = shim.gpus[0].plug("GPU-a")
    gpu.set_slices({0: ("MIG-one", 1, 0, 3), 1: ("MIG-two", 2, 0, 3)})
    gpu.errors[ATTRIBUTES] = NO_PERMISSION
    reading = source.read(0)
    assert [mig.share for mig in reading.devices[0].gpu.mig] == [None, None]
    assert reading.failures == (
        "GPU GPU-a (index 0): nvmlDeviceGetAttributes_v2: Insufficient Permissions: let this user read /dev/nvidia*",
    )
    gpu.errors[ATTRIBUTES] = 0
    assert [mig.share for mig in by_uuid(source.read(1)).values()] == [3 / 7, 3 / 7]


def test_a_slice_of_the_same_place_and_numbers_is_asked_anew_what_it_is(shim, source):
    gpu = shim.gpus[0].plug()
    gpu.set_slices({0: ("MIG-one", 1, 0, 3)})
    source.read(0)
    gpu.set_slices({0: ("MIG-two", 1, 0, 2)})
    assert by_uuid(source.read(1)) == {
        "MIG-two": MigDevice("MIG-two", "NVIDIA H100 80GB HBM3 MIG 2g.20gb", "gi1/ci0", 2 / 7)
    }


def partition(shim: Shim, *, gpm: bool = True) -> list[ShimGpu]:
    """8 GPUs of 7 slices, one process on each."""
    gpus = [shim.gpus[index].plug(f"GPU-{index}") for index in range(8)]
    for index, gpu in enumerate(gpus):
        gpu.gpm_supported = gpm
        gpu.set_slices({slot: (f"MIG-{index}-{slot}", 7 + slot, 0) for slot in range(7)})
        gpu.set_processes([process(1000 + 10 * index + slot, mig=slot) for slot in range(7)])
    return gpus


def test_56_slices_cost_seven_calls_each_and_are_told_apart(shim, source):
    gpus = partition(shim)
    source.read(0)
    source.read(1)
    for index, gpu in enumerate(gpus):
        for slot in range(7):
            gpu.run_instance(7 + slot, 2, (7 * index + slot) / 100)
    calls = shim.calls
    reading = source.read(2)
    # Handle, UUID, two for the processes, one for MPS, two for GPM; and five of the GPU's own.
    assert shim.calls - calls == 8 * (7 * 7 + 5)
    assert reading.failures == ()
    slices = {mig.uuid: mig for device in reading.devices for mig in device.gpu.mig}
    assert len(slices) == 56
    for index in range(8):
        for slot in range(7):
            mig = slices[f"MIG-{index}-{slot}"]
            assert (mig.share, mig.pids) == (1 / 7, {1000 + 10 * index + slot})
            assert mig.utilization_ratio == pytest.approx((7 * index + slot) / 100)
    assert shim.samples == 2 * 56


def test_use_is_that_between_the_last_reading_and_this(shim, source):
    gpu = shim.gpus[0].plug()
    gpu.gpm_supported = 1
    gpu.set_slices({0: ("MIG-3g", 1, 0, 3), 1: ("MIG-1c", 2, 0, 1), 2: ("MIG-2c", 2, 1, 2)})
    gpu.run_instance(1, 1000, 1)
    assert use(source.read(0)) == {"MIG-3g": None, "MIG-1c": None, "MIG-2c": None}
    for now, (three, other) in enumerate([(0.25, 0), (1, 0.5), (0, 0.75)], 1):
        gpu.run_instance(1, 2, three)
        gpu.run_instance(2, 2, other)
        assert use(source.read(now)) == pytest.approx({"MIG-3g": three, "MIG-1c": other, "MIG-2c": other})


def test_a_use_that_is_not_told_is_not_the_one_before(shim, source):
    gpu = shim.gpus[0].plug()
    gpu.gpm_supported = 1
    gpu.set_slices({0: ("MIG-one", 1, 0)})
    source.read(0)
    gpu.run_instance(1, 2, 0.5)
    assert use(source.read(1)) == {"MIG-one": 0.5}
    gpu.errors[GPM_VALUE] = NOTHING
    assert use(source.read(2)) == {"MIG-one": None}


def test_use_begins_anew_when_the_gpu_was_initialised_again(shim, source):
    gpu = shim.gpus[0].plug()
    gpu.gpm_supported = 1
    gpu.set_slices({0: ("MIG-one", 1, 0)})
    source.read(0)
    gpu.errors[ENERGY] = UNKNOWN
    assert source.read(1).devices == ()
    gpu.errors[ENERGY] = 0
    gpu.run_instance(1, 2, 1)
    assert use(source.read(2)) == {"MIG-one": None}
    gpu.run_instance(1, 2, 0.25)
    assert use(source.read(3)) == {"MIG-one": 0.25}


@pytest.mark.parametrize(
    ("seconds", "ratio", "expected"),
    [(0, 1, None), (2, -0.01, None), (2, 1.02, None), (2, 1.009, 1), (2, 1, 1), (2, 0, 0), (2, float("nan"), None)],
)
def test_a_use_that_cannot_be_is_unknown(seconds, ratio, expected, shim, source):
    gpu = shim.gpus[0].plug()
    gpu.gpm_supported = 1
    gpu.set_slices({0: ("MIG-one", 1, 0)})
    source.read(0)
    gpu.run_instance(1, seconds, ratio)
    assert use(source.read(1)) == {"MIG-one": expected}


@pytest.mark.parametrize("function", [GPM_SUPPORT, GPM_SAMPLE, GPM_METRICS, GPM_VALUE])
@pytest.mark.parametrize("error", [NOT_SUPPORTED, TIMEOUT, NO_PERMISSION])
def test_use_that_is_not_to_be_had_is_unknown(error, function, shim, source):
    (gpu, *_) = partition(shim)
    source.read(0)
    source.close()
    gpu.errors[function] = error
    for now in range(1, 4):
        gpu.run_instance(7, 2, 0.5)
        gpu.set_energy(now)
        reading = source.read(now)
        assert joules(reading)["GPU-0"] == now
        assert [mig.utilization_ratio for mig in reading.devices[0].gpu.mig] == [None] * 7
        failing = error != NOT_SUPPORTED and (now > 1 or function in (GPM_SUPPORT, GPM_SAMPLE))
        assert len(reading.failures) == failing
        assert all(failure.startswith("GPU GPU-0 (index 0): ") for failure in reading.failures)
    gpu.errors[function] = 0
    source.read(5)
    gpu.run_instance(7, 2, 0.5)
    told = source.read(6).devices[0].gpu.mig[0].utilization_ratio
    assert told == (None if (function, error) == (GPM_SUPPORT, NOT_SUPPORTED) else pytest.approx(0.5))


def test_after_a_missed_sample_use_begins_anew(shim, source):
    gpu = shim.gpus[0].plug()
    gpu.gpm_supported = 1
    gpu.set_slices({0: ("MIG-one", 1, 0)})
    source.read(0)
    gpu.run_instance(1, 2, 1)
    gpu.errors[GPM_SAMPLE] = TIMEOUT
    source.read(1)
    gpu.errors[GPM_SAMPLE] = 0
    assert use(source.read(2)) == {"MIG-one": None}
    gpu.run_instance(1, 2, 0.25)
    assert use(source.read(3)) == {"MIG-one": 0.25}
    assert shim.samples == 2


def test_no_memory_for_samples_is_a_line(shim, source):
    partition(shim)
    shim.refuse_samples(UNKNOWN)
    reading = source.read(0)
    assert len(reading.failures) == len(reading.devices) == 8
    assert ": nvmlGpmSampleAlloc: Unknown Error: " in reading.failures[0]
    shim.refuse_samples(0)
    assert source.read(1).failures == ()
    shim.refuse_samples(UNKNOWN)
    assert len(source.read(2).failures) == 8
    assert shim.samples == 0


def test_a_gpu_without_gpm_tells_no_use(shim, source):
    partition(shim, gpm=False)
    for now in range(3):
        reading = source.read(now)
        assert reading.failures == ()
        assert {mig.utilization_ratio for device in reading.devices for mig in device.gpu.mig} == {None}
    assert shim.samples == 0


def test_use_is_not_asked_for_where_it_is_switched_off(shim, tmp_path):
    source = open_source(Settings(mig_utilization=False), Roots(procfs=tmp_path))
    partition(shim)
    source.read(0)
    calls = shim.calls
    reading = source.read(1)
    assert shim.calls - calls == 8 * (7 * 5 + 5)
    assert {mig.utilization_ratio for device in reading.devices for mig in device.gpu.mig} == {None}
    assert shim.samples == 0


@pytest.mark.parametrize("lacking", ["MINOR", "ATTRIBUTES", "GPM"])
def test_an_older_driver_tells_the_rest(lacking, load_nvml, tmp_path, source):
    shim = load_nvml(build(tmp_path, lacking))
    gpu = shim.gpus[0].plug()
    gpu.gpm_supported = 1
    gpu.set_slices({0: ("MIG-one", 1, 0, 3)})
    source.read(0)
    gpu.run_instance(1, 2, 0.5)
    told = only(source.read(1)).gpu
    assert told.minor == (None if lacking == "MINOR" else 0)
    assert told.mig[0].share == (None if lacking == "ATTRIBUTES" else 3 / 7)
    assert told.mig[0].utilization_ratio == (None if lacking == "GPM" else 0.5)


def test_samples_are_never_taken_across_a_partition(shim, source):
    gpu = shim.gpus[0].plug()
    gpu.gpm_supported = 1
    gpu.set_slices({0: ("MIG-old", 1, 0), 1: ("MIG-stays", 2, 0)})
    source.read(0)
    gpu.run_instance(1, 2, 1)
    gpu.run_instance(2, 2, 0.5)
    gpu.set_slices({0: ("MIG-new", 1, 0), 1: ("MIG-stays", 2, 0)})
    assert use(source.read(1)) == {"MIG-new": None, "MIG-stays": 0.5}
    gpu.run_instance(1, 2, 0.25)
    assert use(source.read(2))["MIG-new"] == 0.25


def test_samples_are_freed_when_they_are_of_no_more_use(shim, source):
    gpus = partition(shim)
    for now in range(5):
        source.read(now)
    assert shim.samples == 112
    gpus[0].mig_enabled = 0
    source.read(5)
    assert shim.samples == 98
    gpus[1].errors[GPM_SAMPLE] = GPU_IS_LOST
    assert [device.device for device in source.read(6).devices] == ["GPU-0", *(f"GPU-{n}" for n in range(2, 8))]
    gpus[1].errors[GPM_SAMPLE] = 0
    source.read(7)
    source.read(8)
    assert shim.samples == 98
    shim.load_driver()
    for now in (9, 10, 11):
        source.read(now)
    assert shim.samples == 98
    source.close()
    assert shim.samples == 0


LAYOUTS = st.one_of(
    st.none(),
    st.dictionaries(st.integers(0, 6), st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=7),
    st.sampled_from(["lose", "return", "reload", "unload", "fail", "mend", "refuse", "allow"]),
)


@given(st.lists(LAYOUTS, max_size=25))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_sample_leaks_whatever_happens(shim, tmp_path, layouts):
    shim.load_driver()
    shim.refuse_samples(0)
    gpu = shim.gpus[0].plug()
    gpu.gpm_supported, gpu.lost, gpu.mig_enabled, gpu.errors[GPM_SAMPLE] = 1, 0, 0, 0
    source = open_source(Settings(), Roots(procfs=tmp_path / "proc"))
    for now, layout in enumerate(layouts):
        if layout is None:
            gpu.mig_enabled = 0
        elif isinstance(layout, dict):
            gpu.set_slices({slot: (f"MIG-{slot}-{name}", number, slot) for slot, (name, number) in layout.items()})
        elif layout in ("lose", "return"):
            gpu.lost = layout == "lose"
        elif layout in ("fail", "mend"):
            gpu.errors[GPM_SAMPLE] = TIMEOUT if layout == "fail" else 0
        elif layout in ("refuse", "allow"):
            shim.refuse_samples(UNKNOWN if layout == "refuse" else 0)
        else:
            (shim.load_driver if layout == "reload" else shim.unload_driver)()
        reading = source.read(now * 100)
        if reading.devices:
            instances = {mig.instance.partition("/")[0] for mig in only_device(reading).gpu.mig}
            assert shim.samples <= 2 * len(instances)
    source.close()
    assert shim.samples == 0


# No driver, a driver that goes, a GPU that is lost


def test_no_driver_is_quiet_and_tried_again_ever_more_seldom(shim, tmp_path):
    source = open_source(Settings(retry_seconds=8), Roots(procfs=tmp_path))
    shim.unload_driver()
    shim.gpus[0].plug("GPU-a")
    tried = []
    for now in range(40):
        before = shim.inits
        assert source.read(now) == SourceReading(present=False)
        tried += [now] * (shim.inits - before)
    assert tried == [0, 1, 2, 4, 8, 16, 24, 32]
    shim.load_driver()
    assert source.read(39.9) == SourceReading(present=False)
    assert list(joules(source.read(40))) == ["GPU-a"]


def test_a_driver_without_gpus_is_quiet(shim, source):
    assert source.read(0) == SourceReading(present=False)


def test_gpus_that_the_kernel_lists_and_nvml_cannot_reach_are_a_failure(shim, source, tmp_path):
    shim.unload_driver()
    (tmp_path / "proc/driver/nvidia/gpus/0000:3b:00.0").mkdir(parents=True)
    reading = source.read(0)
    assert reading.present
    assert reading.failures == (
        "NVML: Driver Not Loaded: load the kernel module (modprobe nvidia); a container needs /dev/nvidia*",
    )


def test_driver_reload_is_loud_and_joules_go_on(shim, source):
    gpus = [shim.gpus[index].plug(f"GPU-{index}", joules=1000) for index in range(2)]
    source.read(0)
    for gpu in gpus:
        gpu.set_energy(1100)
    assert joules(source.read(2)) == {"GPU-0": 100, "GPU-1": 100}
    shim.unload_driver()
    first = source.read(4)
    assert first.devices == ()
    assert [failure.split(": ")[:2] for failure in first.failures] == [
        ["GPU GPU-0 (index 0)", "Uninitialized"],
        ["GPU GPU-1 (index 1)", "Uninitialized"],
    ]
    for now in (6, 8, 10):
        (failure,) = source.read(now).failures
        assert failure.startswith("NVML: Driver Not Loaded: load the kernel module")
    shim.load_driver()
    for gpu in gpus:
        gpu.set_energy(30)
    assert joules(source.read(14)) == {"GPU-0": 100, "GPU-1": 100}
    for gpu in gpus:
        gpu.set_energy(35)
    reading = source.read(16)
    assert (joules(reading), reading.failures) == ({"GPU-0": 105, "GPU-1": 105}, ())


def test_a_quick_reload_costs_one_reading(shim, source):
    gpu = shim.gpus[0].plug("GPU-a", joules=10)
    source.read(0)
    shim.load_driver()
    gpu.set_energy(30)
    assert source.read(1).failures == (
        "GPU GPU-a (index 0): Uninitialized: the driver was reloaded; it is initialised again at the next reading",
    )
    assert only(source.read(2)).energy_joules == 20


def test_a_lost_gpu_comes_back_with_its_joules_while_the_others_are_read(shim, tmp_path):
    source = open_source(Settings(retry_seconds=4), Roots(procfs=tmp_path))
    for index in range(3):
        shim.gpus[index].plug(f"GPU-{index}", joules=100)
    source.read(0)
    shim.gpus[1].lost = 1
    tried = []
    for now in range(1, 18):
        before = shim.inits
        shim.gpus[0].set_energy(100 + now)
        shim.gpus[1].set_energy(100 + 10 * now)
        reading = source.read(now)
        assert joules(reading) == {"GPU-0": now, "GPU-2": 0}
        (failure,) = reading.failures
        assert failure.startswith("GPU GPU-1 (index 1): GPU is lost: it fell off the bus")
        tried += [now] * (shim.inits - before)
    assert tried == [2, 3, 5, 9, 13, 17]
    shim.gpus[1].lost = 0
    assert set(joules(source.read(20))) == {"GPU-0", "GPU-2"}
    reading = source.read(21)
    assert (joules(reading), reading.failures) == ({"GPU-0": 17, "GPU-1": 170, "GPU-2": 0}, ())
    shim.gpus[1].lost = 1
    source.read(22)
    shim.gpus[1].lost = 0
    assert len(source.read(22.5).devices) == 3


@pytest.mark.parametrize("function", [ENERGY, UTILIZATION, POWER_LIMIT])
def test_a_fatal_error_of_any_field_initialises_again(function, shim, source):
    gpu = shim.gpus[0].plug("GPU-a")
    source.read(0)
    gpu.errors[function] = GPU_IS_LOST
    reading = source.read(60)
    assert (reading.devices, len(reading.failures)) == ((), 1)
    gpu.errors[function] = 0
    inits = shim.inits
    assert only(source.read(61)).device == "GPU-a"
    assert shim.inits == inits + 1


def test_a_gpu_that_vanishes_is_named_though_the_indices_move(shim, source):
    for index in range(2):
        shim.gpus[index].plug(f"GPU-{index}")
    source.read(0)
    shim.gpus[0].present = 0
    shim.gpus[1].set_energy(11)
    source.read(1)
    reading = source.read(2)
    assert [(device.device, device.energy_joules, device.gpu.index) for device in reading.devices] == [("GPU-1", 11, 0)]
    (failure,) = reading.failures
    assert failure.startswith("GPU GPU-0 (index 0): no longer there (restart carbon-exporter if it was removed")
    shim.gpus[0].plug("GPU-0", joules=70)
    readings = [source.read(now) for now in (3, 4, 5)]
    assert joules(readings[-1]) == {"GPU-0": 70, "GPU-1": 11}
    assert readings[-1].failures == ()


def test_close_shuts_nvml_down(shim, source):
    shim.gpus[0].plug()
    source.read(0)
    assert pynvml.nvmlDeviceGetCount() == 1
    source.close()
    source.close()
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetCount()


# A restart of the exporter


def restarted(source: NvmlSource, tmp_path: Path) -> NvmlSource:
    state = json.loads(json.dumps(source.state()))
    source.close()
    again = open_source(Settings(), Roots(procfs=tmp_path / "proc"))
    again.restore(state)
    return again


def test_what_was_used_while_the_exporter_was_down_is_counted(shim, source, tmp_path):
    gpu = shim.gpus[0].plug(joules=1000)
    source.read(0)
    gpu.set_energy(1500)
    source.read(2)
    again = restarted(source, tmp_path)
    gpu.set_energy(9500.5)
    assert only(again.read(62)).energy_joules == 8500.5


@pytest.mark.parametrize(("down_seconds", "expected"), [(30, 3200), (61, 200)])
def test_integration_bridges_a_short_restart_only(down_seconds, expected, shim, source, tmp_path):
    gpu = shim.gpus[0].plug(watts=100)
    gpu.errors[ENERGY] = NOT_SUPPORTED
    source.read(0)
    source.read(2)
    assert only(restarted(source, tmp_path).read(2 + down_seconds)).energy_joules == expected


@pytest.mark.parametrize(
    "entry",
    [
        None,
        [],
        {},
        {"raw": 1.0, "total": 5.0, "seconds": 0.0},
        {"raw": 1.0, "total": float("nan"), "seconds": 0.0, "watts": None},
        {"raw": float("inf"), "total": 5.0, "seconds": 0.0, "watts": None},
        {"raw": None, "total": -5.0, "seconds": 0.0, "watts": None},
        {"raw": None, "total": 5.0, "seconds": 0.0, "watts": "much"},
    ],
)
def test_saved_joules_that_make_no_sense_are_ignored_gpu_by_gpu(entry, shim, source, caplog):
    shim.gpus[0].plug("GPU-a", joules=10)
    shim.gpus[1].plug("GPU-b", joules=10)
    good = {"raw": 7.0, "total": 100.0, "seconds": 0.0, "watts": None}
    with caplog.at_level(logging.WARNING):
        source.restore({"gpus": {"GPU-a": entry, "GPU-b": good}})
    assert joules(source.read(1)) == {"GPU-a": 0, "GPU-b": 103}
    assert "GPU-a" in caplog.text


@pytest.mark.parametrize("state", [{}, {"gpus": None}, {"gpus": [1]}, {"gpus": "GPU-a"}])
def test_a_state_of_another_shape_is_ignored(state, source):
    source.restore(state)
    assert source.state() == {"gpus": {}}


# Whatever happens, no joule of a counter that only rises is lost or counted twice

EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("use"), st.integers(0, 2000)),
        st.tuples(st.sampled_from(["lose", "return", "reload", "unload", "restart", "fail", "mend"]), st.just(0)),
    ),
    max_size=25,
)


@given(EVENTS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_joules_survive_every_sequence_of_events(shim, tmp_path, events):
    shim.load_driver()
    gpu = shim.gpus[0].plug("GPU-a", joules=500)
    gpu.lost, gpu.errors[ENERGY], used, published = 0, 0, 0, 0.0
    source = open_source(Settings(), Roots(procfs=tmp_path / "proc"))
    source.read(0)
    for now, (event, amount) in enumerate([*events, ("end", 0), ("settle", 0), ("settle", 0)], 1):
        used += amount
        gpu.set_energy(500 + used)
        if event in ("lose", "return", "end"):
            gpu.lost = event == "lose"
        if event in ("fail", "mend", "end"):
            gpu.errors[ENERGY] = UNKNOWN if event == "fail" else 0
        if event in ("reload", "end"):
            shim.load_driver()
        if event == "unload":
            shim.unload_driver()
        if event == "restart":
            source = restarted(source, tmp_path)
        reading = source.read(now * 100)
        for device in reading.devices:
            assert device.energy_joules >= published
            published = device.energy_joules
    assert reading.failures == ()
    assert published == used
    source.close()


# pynvml's own search for the library

READ_ONCE = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from carbon_exporter.model import Roots
from carbon_exporter.sources.nvml import Settings, open_source
reading = open_source(Settings(), Roots(procfs=Path(sys.argv[1]))).read(0.0)
print(json.dumps([reading.present, list(reading.failures), [device.device for device in reading.devices]]))
"""


def read_in_a_program(procfs: Path, environment: dict[str, str]) -> list[object]:
    command = [sys.executable, "-c", READ_ONCE, str(procfs)]
    result = subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True, text=True)
    assert result.stderr == ""
    return json.loads(result.stdout)


def test_a_program_finds_the_shim_as_its_nvml(nvml_library, tmp_path):
    shim = Shim(tmp_path / "shim", nvml_library)
    shim.gpus[0].plug("GPU-found-by-name")
    assert read_in_a_program(tmp_path, shim.environment()) == [True, [], ["GPU-found-by-name"]]


def test_a_host_without_the_library_is_quiet_unless_the_kernel_lists_gpus(tmp_path):
    # An empty file ends the loader's search, also on a host that has the real library.
    (tmp_path / "libnvidia-ml.so.1").touch()
    environment = {"LD_LIBRARY_PATH": str(tmp_path)}
    assert read_in_a_program(tmp_path, environment) == [False, [], []]
    (tmp_path / "driver/nvidia/gpus/0000:3b:00.0").mkdir(parents=True)
    present, failures, devices = read_in_a_program(tmp_path, environment)
    assert (present, devices) == (True, [])
    assert "NVML Shared Library Not Found: install the driver's libnvidia-ml.so.1" in failures[0]
