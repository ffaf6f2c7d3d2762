"""The intensity over time: values, means, and how far the provider's word goes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_exporter.grid.hours import hour_of, hourly_means
from carbon_exporter.model import Intensity, Span
from carbon_exporter.timeline import Timeline, span_at

NOW = Intensity(100, "DE", "somebody", "lifecycle")


def timeline(*spans, told_until=None):
    made = tuple(Span(*span) for span in spans)
    return Timeline(NOW, made, made[-1].end_seconds if told_until is None else told_until)


def test_the_span_in_force_is_the_last_that_has_begun():
    line = timeline((0, 10, 100), (10, 20, 200), (30, 40, 300))
    assert [line.at(t).grams_per_kilowatt_hour for t in (-5, 0, 9.9, 10, 25, 30, 99)] == [
        100, 100, 100, 200, 200, 300, 300,
    ]  # fmt: skip
    assert span_at(line.spans, 25) is line.spans[1]


def test_a_mean_is_weighted_by_time_and_holds_the_last_value_over_gaps():
    line = timeline((0, 10, 100), (10, 20, 200), (30, 40, 300))
    assert line.mean(5, 15) == pytest.approx(150)
    assert line.mean(15, 35) == pytest.approx((15 * 200 + 5 * 300) / 20)
    assert line.mean(-10, 5) == pytest.approx(100)
    assert line.mean(35, 65) == pytest.approx(300)
    assert line.mean(12, 12) == 200


@given(
    st.lists(st.tuples(st.floats(1, 50), st.floats(0, 2000)), min_size=1, max_size=8),
    st.floats(-60, 400),
    st.floats(0.01, 400),
    st.floats(0, 1),
)
def test_a_mean_is_the_sum_of_its_parts(lengths, begin, seconds, cut):
    spans, at = [], 0.0
    for length, grams in lengths:
        spans.append((at, at + length, grams))
        at += length
    line = timeline(*spans)
    end, middle = begin + seconds, begin + seconds * cut
    parts = line.mean(begin, middle) * (middle - begin) + line.mean(middle, end) * (end - middle)
    assert line.mean(begin, end) * seconds == pytest.approx(parts, abs=1e-6)


def test_it_tells_what_its_spans_cover_without_a_gap_and_no_more():
    line = timeline((0, 10, 100), (10, 20, 200), (30, 40, 300), told_until=35)
    assert line.tells(0, 20)
    assert line.tells(5, 15)
    assert line.tells(30, 35)
    assert not line.tells(-1, 5)
    assert not line.tells(15, 31)  # nobody told 20 to 30
    assert not line.tells(30, 36)
    assert not line.tells(22, 28)


def test_an_hour_is_known_when_half_of_it_is_told():
    spans = [Span(0, 1800, 100), Span(1800, 3600, 300), Span(3600, 5400, 50), Span(7200, 7300, 9)]
    assert hourly_means(spans) == {0: pytest.approx(200), 1: 50}
    assert hourly_means([Span(1800, 9000, 70)]) == {0: 70, 1: 70, 2: 70}
    assert (hour_of(3599.9), hour_of(3600)) == (0, 1)
