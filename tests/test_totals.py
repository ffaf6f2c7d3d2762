"""A job's counters added up over its nodes, whatever becomes of these."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_exporter.forecast.totals import JOULES, MIXED, Totals, basis_of


def told(**joules):
    """node -> joules, and a gram for each kilojoule."""
    return {node: {JOULES: float(value), "lifecycle": value / 1000} for node, value in joules.items()}


def after(*moments):
    totals = Totals()
    set_back = [totals.take(moment, 30.0 * number) for number, moment in enumerate(moments)]
    return totals, set_back


def test_nothing_told_is_not_known():
    totals, _ = after({})
    assert totals.joules is None
    assert totals.grams == {}


@pytest.mark.parametrize(
    ("moments", "joules"),
    [
        ([told(a=10, b=5), told(a=20, b=15)], 35),
        ([told(a=1000, b=500), told(b=600)], 1600),  # a has gone
        ([told(a=1000), told(b=30), told(b=90)], 1090),  # moved from a to b
        ([told(a=1000), told(), told(a=1500)], 1500),  # away for a while
        ([told(a=1000), told(a=1000, b=1010), told(b=1100)], 1100),  # the same counter under another address
        ([told(a=1000), told(b=1010), told(b=1050, c=1060), told(c=1070)], 1070),  # and once more
        ([told(a=500), told(a=500, b=600), told(a=900, b=1000)], 1900),  # two nodes after all
        ([told(a=1000), told(a=200), told(a=300)], 1300),  # set back
        ([told(a=1000), told(a=800), told(a=900)], 1100),  # a part of it is gone
        ([told(a=1000, b=1000), told(a=1100, b=1100, c=1100), told(a=1200, b=1200, c=1200)], 3600),
        ([told(a=500), *[told(b=600 + 30 * k) for k in range(9)], told(a=900), told(a=950)], 950),
    ],
    ids=[
        "two",
        "gone",
        "moved",
        "away",
        "renamed",
        "renamed twice",
        "late",
        "set back",
        "in part",
        "alike",
        "there and back",
    ],
)
def test_what_a_job_has_used(moments, joules):
    totals, _ = after(*moments)
    assert totals.joules == joules
    assert sum(totals.grams.values()) == pytest.approx(joules / 1000)


def test_a_counter_that_is_set_back_is_told():
    assert after(told(a=1000), told(a=200), told(a=300), told(b=5))[1] == [False, True, False, False]


def test_grams_are_kept_apart_by_basis():
    totals, _ = after({"a": {JOULES: 9.0, "direct": 1.0, "lifecycle": 2.0}}, {"b": {JOULES: 1.0, "direct": 5.0}})
    assert totals.grams == {"direct": 6, "lifecycle": 2}
    assert basis_of(totals.grams) == MIXED
    assert basis_of({"direct": 0.0, "lifecycle": 2.0}) == "lifecycle"
    assert basis_of({"direct": 0.0}) == "direct"
    assert basis_of({}) == ""


@pytest.mark.parametrize("nodes", [2, 4, 8])
@pytest.mark.parametrize("gap", [20, 45])
def test_nodes_that_come_back_one_by_one_under_other_addresses_are_counted_once(nodes, gap):
    """100 W each, scraped every 15 s at times of its own, kept for 300 s; looked at every 30 s; restarts 90 s apart."""
    totals, series = Totals(), {}
    for now in range(1501):
        for node in range(nodes):
            restart = 300 + 90 * node
            name = f"{node}-old" if now < restart else f"{node}-new"
            if (now + 4 * node) % 15 == 0 and not restart <= now < restart + gap:
                series[name] = now, 100.0 * now
        if now % 30 == 0:
            seen = {name: {JOULES: joules} for name, (at, joules) in series.items() if now - at <= 300}
            totals.take(seen, float(now))
    assert totals.joules == pytest.approx(nodes * 100 * 1500, rel=0.02)


MOMENTS = st.lists(st.dictionaries(st.sampled_from("abcd"), st.floats(0, 1e12)), max_size=20)


@given(MOMENTS, st.integers(0, 20))
def test_totals_never_fall_and_outlive_a_restart(moments, restart):
    totals, last = Totals(), 0.0
    for number, moment in enumerate(moments):
        if number == restart:
            totals = Totals.restored(json.loads(json.dumps(totals.state())))
        totals.take({node: {JOULES: joules} for node, joules in moment.items()}, 30.0 * number)
        assert (totals.joules or 0.0) >= last * (1 - 1e-12)
        last = totals.joules or 0.0
        assert last <= sum(one.get(node, 0.0) for one in moments for node in "abcd") * (1 + 1e-9)


def test_addresses_that_come_and_go_for_ever_stay_few():
    totals = Totals()
    for number in range(1500):
        totals.take(told(**{f"n{number}": 1000 + number}), 30.0 * number)
    assert totals.nodes <= 1000
    assert totals.joules == 2499
