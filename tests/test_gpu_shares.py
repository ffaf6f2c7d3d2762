"""How the holders of one GPU share its joules, with numbers worked out by hand."""

from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_exporter.node.gpu_shares import Interval, sm_weights, split
from carbon_exporter.node.holders import SYSTEM, Part

GPU = "GPU-0"
UNKNOWN = MappingProxyType({})


def part(holders, *, uuid=GPU, share=1.0, use=None, in_use=True):
    return Part(uuid, share, use, in_use, frozenset(holders))


def interval(before, starts=UNKNOWN):
    """From 100 s to 110 s; `before` is who held each part, or the only one."""
    before = before if isinstance(before, dict) else {GPU: before}
    begun = {(uuid, name): seconds for uuid in before for name, seconds in starts.items()}
    return Interval({uuid: frozenset(names) for uuid, names in before.items()}, 100.0, 110.0, begun)


def check(found, holders, idle, equally):
    assert {name: ratio for name, ratio in found.holders.items() if ratio} == pytest.approx(holders)
    assert found.idle == pytest.approx(idle, abs=1e-12)
    assert found.equally == pytest.approx(equally, abs=1e-12)


@pytest.mark.parametrize(
    ("before", "after", "sm", "starts", "holders", "idle", "equally"),
    [
        # Of the joules 0.4 are idle.
        pytest.param("a", "a", {}, {}, {"a": 1.0}, 0.0, 0.0, id="alone"),
        pytest.param("", "", {}, {}, {}, 1.0, 0.0, id="unheld"),
        pytest.param("ab", "ab", {"a": 0.6, "b": 0.2}, {}, {"a": 0.65, "b": 0.35}, 0.0, 0.0, id="by use"),
        pytest.param("ab", "ab", {"a": 0.9}, {}, {"a": 0.8, "b": 0.2}, 0.0, 0.0, id="one unused"),
        pytest.param("ab", "ab", {}, {}, {"a": 0.5, "b": 0.5}, 0.0, 0.6, id="use unknown"),
        pytest.param("ab", "ab", {"a": 0.0, "b": 0.0}, {}, {"a": 0.5, "b": 0.5}, 0.0, 0.6, id="no use"),
        pytest.param(["a", ""], ["a", ""], {"a": 0.3, "": 0.1}, {}, {"a": 0.85, "": 0.15}, 0.0, 0.0, id="system"),
        pytest.param(["a", ""], ["a", ""], {}, {}, {"a": 0.7, "": 0.3}, 0.0, 0.6, id="system, use unknown"),
        pytest.param([""], [""], {}, {}, {"": 1.0}, 0.0, 0.0, id="system alone"),
        pytest.param("a", "", {}, {}, {"a": 1.0}, 0.0, 0.0, id="left, nobody after"),
        pytest.param("", "a", {}, {}, {"a": 1.0}, 0.0, 0.0, id="came at an unknown moment, nobody before"),
        pytest.param("", "a", {}, {"a": 107.5}, {"a": 0.7}, 0.3, 0.0, id="came, nobody before: idle by time"),
        pytest.param("", "ab", {}, {"a": 104.0, "b": 106.0}, {"a": 0.42, "b": 0.42}, 0.16, 0.6, id="two came"),
        pytest.param("", "a", {}, {"a": 110.0}, {}, 1.0, 0.0, id="came this instant"),
        pytest.param("a", "b", {}, {"b": 102.5}, {"a": 0.25, "b": 0.75}, 0.0, 0.0, id="handed over"),
        pytest.param("a", "b", {}, {}, {"a": 0.5, "b": 0.5}, 0.0, 1.0, id="handed over at an unknown moment"),
        pytest.param("a", "b", {}, {"b": 97.0}, {"a": 0.5, "b": 0.5}, 0.0, 1.0, id="the newcomer is older"),
        pytest.param("a", "b", {}, {"b": 111.0}, {"a": 0.5, "b": 0.5}, 0.0, 1.0, id="the newcomer is of the future"),
        pytest.param("a", "b", {"a": 0.1, "b": 0.3}, {}, {"a": 0.35, "b": 0.65}, 0.0, 0.0, id="handed over, use known"),
        pytest.param("ab", "a", {}, {}, {"a": 0.75, "b": 0.25}, 0.0, 1.0, id="one of two left"),
        pytest.param("ab", "a", {"a": 0.2, "b": 0.4}, {}, {"a": 0.4, "b": 0.6}, 0.0, 0.0, id="one left, use known"),
        pytest.param("a", "ab", {}, {"b": 105.0}, {"a": 0.75, "b": 0.25}, 0.0, 0.3, id="one came to one"),
    ],
)  # fmt: skip
def test_a_whole_gpu(before, after, sm, starts, holders, idle, equally):
    check(split([part(after)], 0.4, sm, interval(before, starts)), holders, idle, equally)


def test_a_newcomer_gets_its_time_of_joules_whose_idle_part_is_unknown():
    check(split([part("a")], 0.0, {}, interval("", {"a": 107.5})), {"a": 0.25}, 0.75, 0.0)


def test_readings_at_one_instant_go_to_who_holds_the_gpu():
    found = split([part("a")], 0.4, {}, Interval({}, 100.0, 100.0, {"a": 100.0}))
    check(found, {"a": 1.0}, 0.0, 0.0)


def slices(holders, use=(None, None, None), in_use=(True, True, True), shares=(3 / 7, 2 / 7, 1 / 7)):
    """3g, 2g and 1g of a GPU with one slice left free."""
    rows = zip("xyz", holders, shares, use, in_use, strict=True)
    return [part(names, uuid=uuid, share=share, use=u, in_use=busy) for uuid, names, share, u, busy in rows]


def same(parts):
    return interval({p.uuid: p.holders for p in parts})


@pytest.mark.parametrize(
    ("parts", "holders", "idle", "equally"),
    [
        # Of the joules 0.35 are idle: 0.15, 0.10, 0.05 of the slices and 0.05 of the free one; 0.65 are active.
        pytest.param(
            slices("abc", (0.5, 1.0, 0.0)),
            {"a": 0.15 + 0.65 * 3 / 7, "b": 0.10 + 0.65 * 4 / 7, "c": 0.05}, 0.05, 0.0, id="by slices times use",
        ),
        pytest.param(
            slices("aba", (0.5, 1.0, 0.5)),
            {"a": 0.20 + 0.65 / 2, "b": 0.10 + 0.65 / 2}, 0.05, 0.0, id="two slices of one job",
        ),
        pytest.param(
            slices("abc", (0.5, None, 0.0), (True, True, False)),
            {"a": 0.54, "b": 0.36, "c": 0.05}, 0.05, 0.65, id="one use unknown: by slices in use",
        ),
        pytest.param(
            slices("abc", in_use=(False, True, False)),
            {"a": 0.15, "b": 0.75, "c": 0.05}, 0.05, 0.0, id="use unknown, one in use",
        ),
        pytest.param(
            slices("abc", in_use=(False, False, False)),
            {"a": 0.15 + 0.325, "b": 0.10 + 0.65 / 3, "c": 0.05 + 0.65 / 6}, 0.05, 0.65, id="none in use",
        ),
        pytest.param(
            slices(["a", "", "c"], (0.5, None, 0.5), (True, False, True)),
            {"a": 0.15 + 0.4875, "c": 0.05 + 0.1625}, 0.15, 0.0, id="nobody's use need not be known",
        ),
        pytest.param(slices(["", "", ""], in_use=(False,) * 3), {}, 1.0, 0.0, id="nobody"),
        pytest.param(
            slices("abc", (1.0, 0.5, 0.5), shares=(3 / 7, None, 1 / 7)),
            {"a": 0.35 / 3 + 0.325, "b": 0.35 / 3 + 0.1625, "c": 0.35 / 3 + 0.1625}, 0.0, 0.0, id="a size unknown",
        ),
        pytest.param(
            slices("abc", (1.0, 1.0, 1.0), shares=(1.0, 0.5, 0.5)),
            {"a": 0.5, "b": 0.25, "c": 0.25}, 0.0, 0.0, id="more than a whole",
        ),
        pytest.param(
            slices(["ab", "c", ""], (1.0, 0.0, 0.0), (True, True, False)),
            {"a": 0.4, "b": 0.4, "c": 0.1}, 0.1, 0.65, id="two in one slice",
        ),
        pytest.param(slices("abc")[:1], {"a": 0.8}, 0.2, 0.0, id="one slice made, four free"),
    ],
)  # fmt: skip
def test_mig_slices(parts, holders, idle, equally):
    check(split(parts, 0.35, {}, same(parts)), holders, idle, equally)


def test_a_newcomer_in_a_slice_has_the_active_joules_that_its_use_says():
    parts = slices("abc", (0.5, 0.5, 0.5))
    before = interval({"x": "a", "y": "b", "z": ""}, {"c": 105.0})
    active = 0.65 / 6
    expected = {"a": 0.15 + 3 * active, "b": 0.10 + 2 * active, "c": 0.025 + active}
    check(split(parts, 0.35, {}, before), expected, 0.075, 0.0)


def test_a_slice_that_was_left_still_had_its_use():
    parts = slices(["", "b", "c"], (0.5, 1.0, 0.0))
    before = interval({"x": "a", "y": "b", "z": "c"})
    expected = {"a": 0.15 + 0.65 * 3 / 7, "b": 0.10 + 0.65 * 4 / 7, "c": 0.05}
    check(split(parts, 0.35, {}, before), expected, 0.05, 0.0)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_slices_shared_by_size_are_counted_whichever_of_them_changed_hands(place):
    """All that is active by size, and the idle energy of the slice whose change nobody saw."""
    after = ["a", "b", "c"]
    after[place] = "d"
    parts = slices(after)
    found = split(parts, 0.35, {}, interval({"x": "a", "y": "b", "z": "c"}))
    assert found.equally == pytest.approx(0.65 + (0.15, 0.10, 0.05)[place])
    assert found.holders["d"] == pytest.approx(found.holders["abc"[place]])


def test_a_slice_that_changed_hands_unseen_counts_nothing_of_the_others():
    parts = slices("abd", (0.5, 1.0, 1.0))
    found = split(parts, 0.35, {}, interval({"x": "a", "y": "b", "z": "c"}))
    assert found.equally == pytest.approx(0.05 + 0.65 / 4.5)


def test_sm_weights_add_up_the_processes_of_a_job_and_give_the_rest_to_the_system():
    found = sm_weights({1: 0.2, 2: 0.3, 3: 0.1, 9: 0.4}, {1: "a", 2: "a", 3: "b"}, frozenset())
    assert dict(found) == pytest.approx({"a": 0.5, "b": 0.1, SYSTEM: 0.4})


def test_a_process_of_nobody_on_a_gpu_that_was_given_may_be_that_of_a_job_whose_processes_are_hidden():
    both = frozenset({"a", "b"})
    assert sm_weights({1: 0.2, 9: 0.4}, {1: "a"}, both) == {}
    assert sm_weights({1: 0.2, 2: 0.4}, {1: "a", 2: "b"}, both) == {"a": 0.2, "b": 0.4}
    # All holders' processes are known: 9 came and went between two readings.
    assert sm_weights({1: 0.2, 2: 0.4, 9: 0.1}, {1: "a", 2: "b"}, both) == {"a": 0.2, "b": 0.4}


NAMES = st.frozensets(st.sampled_from(["a", "b", "c", SYSTEM]), max_size=3)
RATIOS = st.sampled_from([0.0, 1.0]) | st.floats(0, 1)
PARTS = st.lists(
    st.builds(
        Part, st.just(""), st.none() | st.floats(0.01, 1), st.none() | RATIOS, st.booleans(), NAMES
    ),
    min_size=1,
    max_size=8,
)  # fmt: skip


@given(
    parts=PARTS,
    before=st.lists(NAMES, min_size=8, max_size=8),
    idle_ratio=RATIOS,
    sm=st.dictionaries(st.sampled_from(["a", "b", "c", SYSTEM]), RATIOS),
    length=st.sampled_from([0.0, 2.0, 1e5]),
    starts=st.dictionaries(st.sampled_from(["a", "b", "c"]), st.floats(0, 1), max_size=3),
)
def test_ratios_add_up_to_one_and_only_holders_get_any(parts, before, idle_ratio, sm, length, starts):
    parts = [Part(str(i), p.share, p.utilization_ratio, p.in_use, p.holders) for i, p in enumerate(parts)]
    held_before = {p.uuid: names for p, names in zip(parts, before, strict=False)}
    moments = {(p.uuid, name): 50.0 + length * ratio for p in parts for name, ratio in starts.items()}
    found = split(parts, idle_ratio, sm, Interval(held_before, 50.0, 50.0 + length, moments))
    to_holders = sum(found.holders.values())
    assert to_holders + found.idle == pytest.approx(1.0, rel=1e-12)
    assert min([found.idle, found.equally, *found.holders.values()]) >= 0
    assert found.equally <= to_holders + 1e-12
    assert set(found.holders) <= frozenset().union(*(p.holders for p in parts), *held_before.values())
