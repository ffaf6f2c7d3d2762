"""Who holds which GPU or slice: by every name it may be given under, by processes, by what a job declares."""

from dataclasses import replace

import pytest

from carbon_exporter.model import DeviceReading, Gpu, JobUse, MigDevice
from carbon_exporter.node.holders import SYSTEM, find_holdings

A, B, MIG = "GPU-aaaa-1", "GPU-bbbb-2", "GPU-cccc-3"
SMALL, LARGE, TWIN = "MIG-1111-small", "MIG-2222-large", "MIG-3333-twin"
SLICES = (
    MigDevice(LARGE, "H100 MIG 3g.40gb", "gi1/ci0", 3 / 7),
    MigDevice(SMALL, "H100 MIG 1g.10gb", "gi7/ci0", 1 / 7),
    MigDevice(TWIN, "H100 MIG 1c.3g.40gb", "gi1/ci1", 1 / 7),
)


def reading(uuid, index, minor, pids=(), mig=(), model="H100"):
    pids = frozenset(pids).union(*(s.pids for s in mig))
    return DeviceReading(
        uuid, "gpu", 0.0, "nvml counter", gpu=Gpu(index, model, "550", pids=pids, mig=mig, minor=minor)
    )


def node(a=(), b=(), slices=SLICES, models=("H100",) * 3):
    """Three GPUs whose minor numbers differ from their indices; the third is in MIG mode."""
    return [
        reading(A, 0, 2, a, model=models[0]),
        reading(B, 1, 0, b, model=models[1]),
        reading(MIG, 2, 1, mig=slices, model=models[2]),
    ]


def on_slice(uuid, *pids):
    return tuple(
        MigDevice(s.uuid, s.model, s.instance, s.share, pids=frozenset(pids if s.uuid == uuid else ())) for s in SLICES
    )


def use(job, devices=(), pids=(), resolver="kubernetes"):
    return JobUse(job, resolver, f"unit of {job}", pids=frozenset(pids), devices=frozenset(devices))


def held(holdings):
    """Holders of each part that has some."""
    return {p.uuid: set(p.holders) for parts in holdings.parts.values() for p in parts if p.holders}


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (A, {A}),
        ("nvidia2", {A}),  # /dev/nvidia2, whatever NVML's index
        ("nvidia0", {B}),
        ("gpu0", {A}),  # NVML's index, for all jobs of the node
        ("gpu2", {LARGE, SMALL, TWIN}),
        (MIG, {LARGE, SMALL, TWIN}),
        ("nvidia1", {LARGE, SMALL, TWIN}),
        (SMALL, {SMALL}),
        ("nvidia1/gi7", {SMALL}),
        ("nvidia1/gi1", {LARGE, TWIN}),  # both compute instances of one GPU instance
        ("GPU-aaaa", {A}),
        ("MIG-2", {LARGE}),
        ("GPU-", set()),  # of several, CUDA takes none
        ("MIG-", set()),
        # What CUDA calls 0 and no scheduler gave elsewhere.
        ("0", {A}),
        ("2", {LARGE, SMALL, TWIN}),
    ],
)
def test_a_part_answers_to_its_names(name, parts):
    found = find_holdings(node(), [use("a", [name])])
    assert held(found) == {uuid: {"a"} for uuid in parts}


@pytest.mark.parametrize(
    "name", ["nvidia9", "nvidia", "nvidia1/gi", "nvidia1/gi9", "nvidia0/gi7", "GPU-aaaa-12", "MIG-9", ""]
)  # fmt: skip
def test_a_name_that_no_gpu_has_is_told_and_gives_nothing(name):
    found = find_holdings(node(), [use("a", [name])])
    assert held(found) == {}
    assert found.unknown == {(name, "a")}
    assert found.given == frozenset()


@pytest.mark.parametrize("name", ["GPU-zzzz", "all", "none", "NoDevFiles", "7"])
def test_what_a_process_declares_of_itself_may_be_anything(name):
    found = find_holdings(node(), [use("a", [name], resolver="process")])
    assert (held(found), found.unknown) == ({}, frozenset())


@pytest.mark.parametrize("index", ["0", "1", "2"])
@pytest.mark.parametrize("resolver", ["slurm", "process"])
def test_an_index_that_is_believed_is_no_unknown_name(index, resolver):
    assert find_holdings(node(), [use("a", [index], resolver=resolver)]).unknown == frozenset()


def test_a_gpu_without_a_minor_number_answers_to_its_uuids_alone():
    gpus = [reading(MIG, 0, None, mig=SLICES)]
    assert held(find_holdings(gpus, [use("a", ["nvidiaNone"]), use("b", ["nvidiaNone/gi7"])])) == {}
    assert held(find_holdings(gpus, [use("a", [SMALL])])) == {SMALL: {"a"}}


def test_processes_hold_what_they_run_on_and_those_of_nobody_hold_it_for_the_system():
    gpus = node(a=[1, 2], b=[9], slices=on_slice(SMALL, 3, 8))
    found = find_holdings(gpus, [use("a", pids=[1, 3, 77]), use("b", pids=[2])])
    assert held(found) == {A: {"a", "b"}, B: {SYSTEM}, SMALL: {"a", SYSTEM}}
    assert found.job_of == {1: "a", 2: "b", 3: "a"}
    assert {p.uuid: p.in_use for parts in found.parts.values() for p in parts} == {
        A: True, B: True, SMALL: True, LARGE: False, TWIN: False,
    }  # fmt: skip


def test_on_a_gpu_that_was_given_every_process_is_its_owners():
    """Without hostPID a pod's own processes cannot be told from others."""
    found = find_holdings(node(a=[9], slices=on_slice(SMALL, 8)), [use("a", [A]), use("b", [SMALL])])
    assert held(found) == {A: {"a"}, SMALL: {"b"}}
    assert found.given == {A, SMALL}


def test_a_neighbouring_slice_of_a_given_one_still_shows_its_strangers():
    found = find_holdings(node(slices=on_slice(LARGE, 8)), [use("b", [SMALL])])
    assert held(found) == {LARGE: {SYSTEM}, SMALL: {"b"}}


def test_another_jobs_process_on_a_given_gpu_holds_it_too():
    assert held(find_holdings(node(a=[5]), [use("a", [A]), use("b", pids=[5])])) == {A: {"a", "b"}}


def test_several_pods_may_be_given_one_gpu():
    assert held(find_holdings(node(), [use("a", [A]), use("b", ["nvidia2"]), use("c", [B])])) == {
        A: {"a", "b"}, B: {"c"},
    }  # fmt: skip


def test_work_of_no_job_holds_for_the_system_what_it_was_given():
    found = find_holdings(node(a=[4]), [use("", [A], pids=[4])])
    assert held(found) == {A: {SYSTEM}}
    assert found.given == {A}


@pytest.mark.parametrize(
    ("gpus", "jobs", "expected"),
    [
        pytest.param(node(b=[1]), [use("a", ["0"], [1])], {B: {"a"}}, id="a process tells better"),
        pytest.param(node(), [use("a", ["0"]), use("b", [A])], {A: {"b"}}, id="a scheduler tells better"),
        pytest.param(node(a=[1]), [use("a", ["0"]), use("b", pids=[1])], {A: {"b"}}, id="held by another's process"),
        pytest.param(node(models=("A100", "T4", "T4")), [use("a", ["0"])], {}, id="CUDA sorts unlike GPUs by speed"),
        pytest.param(
            node(slices=on_slice(SMALL, 1)), [use("a", ["2"]), use("b", pids=[1])], {SMALL: {"b"}}, id="a slice is held"
        ),
        pytest.param(node(), [use("a", ["0"]), use("b", ["0"])], {A: {"a", "b"}}, id="two declare it"),
    ],
)  # fmt: skip
def test_an_index_of_a_jobs_own_is_believed_where_nothing_speaks_against_it(gpus, jobs, expected):
    assert held(find_holdings(gpus, jobs)) == expected


def test_parts_carry_size_and_use():
    gpu = Gpu(0, "H100", "550", utilization_ratio=0.5)
    mig = (MigDevice(SMALL, "1g", "gi7/ci0", 1 / 7, 0.25),)
    found = find_holdings(
        [DeviceReading(A, "gpu", 0.0, "nvml counter", gpu=gpu), reading(MIG, 1, 1, mig=mig)], []
    )  # fmt: skip
    (whole,), (small,) = found.parts[A], found.parts[MIG]
    assert (whole.share, whole.utilization_ratio) == (1.0, 0.5)
    assert (small.share, small.utilization_ratio) == (1 / 7, 0.25)


def test_names_of_each_gpu_are_known_for_the_time_when_it_cannot_be_read():
    assert find_holdings(node(), []).names == {
        A: {A, "gpu0", "nvidia2"},
        B: {B, "gpu1", "nvidia0"},
        MIG: {MIG, "gpu2", "nvidia1", SMALL, LARGE, TWIN, "nvidia1/gi1", "nvidia1/gi7"},
    }


def test_a_holder_began_with_its_earliest_piece_on_that_part():
    """An older piece on another GPU says nothing; one of unknown age leaves it unknown."""
    jobs = [
        replace(use("a", [A]), started_seconds=5.0),
        replace(use("a", [B]), started_seconds=90.0),
        replace(use("b", [A]), started_seconds=70.0),
        replace(use("b", [A]), unit="another", started_seconds=60.0),
        replace(use("c", [A]), started_seconds=None),
        replace(use("c", [A]), unit="another", started_seconds=60.0),
    ]
    assert find_holdings(node(), jobs).started_seconds == {(A, "a"): 5.0, (B, "a"): 90.0, (A, "b"): 60.0}


@pytest.mark.parametrize(("name", "resolver", "told"), [("gpu9", "slurm", True), ("GPU-zz", "slurm", False)])
def test_a_gpu_that_slurm_gave_and_nobody_has_is_told_and_what_a_user_says_is_not(name, resolver, told):
    assert bool(find_holdings(node(), [use("a", [name], resolver=resolver)]).unknown) == told
