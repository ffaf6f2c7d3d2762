"""The course of one run: epochs placed between scrapes, resumed runs, clocks that are off."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_exporter.forecast.clock import Delay, behind_at_each, clock_of
from carbon_exporter.forecast.energy import Boundary
from carbon_exporter.forecast.track import MOST_BOUNDARIES, Past, Point, Told, Track


def test_the_energy_at_an_epochs_end_lies_between_the_scrapes_around_it():
    track = Track(start_seconds=0)
    track.fill(Past([Point(0, 0)]))
    track.add_point(Point(50, 5000))
    assert not track.add_progress(Told(1, 65, 60))
    track.place_marks()
    assert [b.epochs for b in track.boundaries] == [0]  # nothing has been scraped after the epoch's end
    track.add_point(Point(80, 11_000))
    track.place_marks()
    assert track.boundaries[-1] == Boundary(1, 60, 7000)


@pytest.mark.parametrize("end", [-5.0, 30.0, 1e12], ids=["1970", "before the last epoch", "future"])
def test_an_impossible_epoch_end_becomes_the_time_it_was_seen(end):
    track = Track(start_seconds=0)
    track.fill(Past([Point(0, 0)]))
    track.add_point(Point(200, 200))
    track.add_progress(Told(1, 45, 40))
    assert track.add_progress(Told(2, 90, end))
    track.place_marks()
    assert track.boundaries[-1] == Boundary(2, 90, 90)


def test_a_heartbeat_is_no_progress():
    track = Track(start_seconds=0)
    track.fill(Past([Point(0, 0)]))
    track.add_point(Point(200, 200))
    for now in (45, 105, 165):
        track.add_progress(Told(1, now, 40))
        track.place_marks()
    assert [b.seconds for b in track.boundaries] == [0, 40]


def test_a_run_resumed_from_a_checkpoint_has_not_paid_for_its_first_epochs():
    track = Track(start_seconds=100)
    track.add_progress(Told(5, 110, 100))
    track.fill(Past([Point(90, 10), Point(110, 30)]))
    track.add_point(Point(200, 210))
    track.add_progress(Told(6, 160, 150))
    track.place_marks()
    assert track.boundaries == [Boundary(5, 100, 20), Boundary(6, 150, 110)]
    assert not track.went_back


def test_epochs_that_go_back_begin_a_new_course():
    track = Track(start_seconds=0)
    track.fill(Past([Point(0, 0)]))
    track.add_point(Point(1000, 1000))
    for epochs, end in ((1, 100), (2, 200), (3, 300), (2, 400), (3, 500)):
        track.add_progress(Told(epochs, end, end))
        track.place_marks()
    assert track.went_back
    assert [(b.epochs, b.joules) for b in track.boundaries] == [(2, 400), (3, 500)]


def test_a_page_scraped_twice_is_one_point():
    track = Track()
    for _ in range(3):
        track.add_point(Point(15, 2000))
    assert list(track.points) == [Point(15, 2000)]


def test_the_past_fills_the_course_from_the_start():
    track = Track(start_seconds=100)
    track.add_point(Point(400, 4000))
    track.add_progress(Told(3, 400, 390))
    past = Past(
        [Point(90 + 10 * i, 100.0 * i) for i in range(31)], [Told(1, 195, 195), Told(2, 295, 295), Told(3, 390, 390)]
    )
    track.fill(past)
    assert track.boundaries == [
        Boundary(0, 100, 100),
        Boundary(1, 195, 1050),
        Boundary(2, 295, 2050),
        Boundary(3, 390, 3000),
    ]


def test_nodes_scraped_one_after_the_other_have_lost_no_energy():
    """Two nodes of 10 W, scraped at 100 and at 115: the point is from 107.5, the engine's own steps lag behind it."""
    track = Track(start_seconds=40)
    track.add_point(Point(107.5, 1000 + 1150))
    at_each_step = [Point(t, 850 + 1000 if t < 100 else 1000 + (1000 if t < 115 else 1150)) for t in range(99, 117)]
    track.fill(Past(at_each_step))
    assert [point.joules for point in track.points] == sorted(point.joules for point in track.points)


@pytest.mark.parametrize(("first_scrape", "begins_at_zero"), [(160, True), (1000, False)])
def test_a_job_measured_from_late_on_has_no_known_start(first_scrape, begins_at_zero):
    track = Track(start_seconds=100)
    track.fill(Past([Point(first_scrape, 60), Point(1200, 700)], [Told(1, 900, 900), Told(2, 1100, 1100)]))
    assert (Boundary(0, 100, 0) in track.boundaries) == begins_at_zero
    assert (1 in [b.epochs for b in track.boundaries]) == begins_at_zero
    assert 2 in [b.epochs for b in track.boundaries]


def test_a_long_course_is_thinned_and_keeps_its_ends():
    track = Track(start_seconds=0)
    track.fill(Past([Point(0, 0)]))
    for epoch in range(1, 1001):
        track.add_point(Point(epoch * 10, epoch * 100))
        track.add_progress(Told(epoch, epoch * 10, epoch * 10))
        track.place_marks()
    assert len(track.boundaries) <= MOST_BOUNDARIES
    assert track.boundaries[:2] == [Boundary(0, 0, 0), Boundary(1, 10, 100)]
    assert track.boundaries[-1] == Boundary(1000, 10_000, 100_000)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(-1e9, 1e9), st.floats(0, 1e6)), max_size=40))
def test_whatever_is_pushed_the_course_rises(pushes):
    track = Track(start_seconds=0)
    now = joules = 0.0
    for epochs, end, rise in pushes:
        now, joules = now + 30, joules + rise
        track.add_point(Point(now, joules))
        track.add_progress(Told(epochs, now, end))
        track.place_marks()
        for earlier, later in zip(track.boundaries, track.boundaries[1:], strict=False):
            assert earlier.epochs < later.epochs
            assert earlier.seconds < later.seconds
            assert earlier.joules <= later.joules * (1 + 1e-9)
        assert all(0 <= boundary.joules <= joules * (1 + 1e-9) for boundary in track.boundaries)


def test_a_run_resumed_between_two_steps_of_its_past_begins_where_it_says():
    track = Track(start_seconds=100, epochs_resumed=90)
    past = Past([Point(130, 300), Point(400, 3000)], [Told(92, 310, 300, 301), Told(93, 400, 400, 400)], 60)
    track.fill(past)
    assert track.boundaries == [Boundary(90, 100, 0), Boundary(92, 300, 2000), Boundary(93, 400, 3000)]


def test_a_resumption_seen_in_its_past_is_known_again():
    track = Track(start_seconds=100)
    told = [Told(5, 95, 60, 61), Told(90, 101, 100, 100), Told(91, 210, 205, 206)]
    for _ in range(2):  # the past may be looked up a second time
        track.fill(Past([Point(130, 300), Point(400, 3000)], told, 1))
        assert [one.epochs for one in track.boundaries] == [90, 91]
        assert track.boundaries[0] == Boundary(90, 100, 0)


@pytest.mark.parametrize(
    ("delays", "behind"),
    [
        ([], 0),
        ([(1, 30)], 0),
        ([(29, 30)], 0),  # looked at late
        ([(61, 30)], 0),  # one push may be late
        ([(61, 30), (62, 30)], 61),
        ([(61, 30), (600, 30), (60.5, 600)], 60.5),  # a poll that came late is no reason to trust the clock
        ([(300, 30), (2, 30)], 0),  # one push was late
        ([(61, math.inf), (61.5, 30)], 61),  # first met in mid-run
        ([(-90, 30)], 0),  # one push may tell anything
        ([(-90, 30), (-89, 30)], -89),
        ([(-1.5, 30), (-1.5, 30)], 0),
        ([(-3600, 30), (1, 30)], 0),
        ([(45, 30), (50, 30), (20, 30), (48, 30)], 20),  # never less than 20 s late
        ([(1, 30), (2, 30), (-3600, 30)], 0),  # one wrong time
        ([(1, 30), (2, 30), (3600, 30)], 0),
        ([(1, 30), (2, 30), (-90, 30), (-89, 30), (-90, 30)], -89),  # the clock was set
        ([(-1e9, math.inf)] * 2, -1e9),
        ([(1.8e9, math.inf)] * 2, 1.8e9),
        ([(86_400, math.inf)] * 2, 0),  # met in the midst of a long epoch
    ],
)
def test_the_delays_of_its_pushes_tell_a_jobs_clock(delays, behind):
    assert clock_of([Delay(*one) for one in delays]).behind_seconds == behind


@pytest.mark.parametrize("error", [-90.0, -3600.0])
def test_where_a_clock_was_set_what_was_told_before_stays(error):
    delays = [Delay(1.0, 30.0)] * 6 + [Delay(1.0 + error, 30.0)] * 6
    corrections = behind_at_each(delays)
    assert corrections[:5] == [0.0] * 5
    assert corrections[-4:] == [1.0 + error] * 4


@pytest.mark.parametrize("error", [-3600.0, -90.0, 30.0], ids=str)
@pytest.mark.parametrize("wrong", [[5], range(5, 11)], ids=["once", "from then on"])
def test_a_clock_that_is_set_or_wrong_once_spoils_no_course(error, wrong):
    """Epochs of 100 s at 100 W, told by a clock that is `error` behind at some of them."""
    start, told, track = 1.7e9, [], Track(start_seconds=1.7e9)
    for seconds in range(30, 1030, 30):
        now, epoch = start + seconds, seconds // 100
        end = start + 100 * epoch - (error if epoch in wrong else 0.0)
        told.append(Told(epoch, now, end, start + 100 * epoch))
        track.add_point(Point(now, 100.0 * seconds))
        if track.see_clock(told[-1], 30) or seconds == 30:
            track.fill(Past([Point(start + s, 100.0 * s) for s in range(0, seconds, 5)], told, 30))
        track.add_progress(told[-1])
        track.place_marks()
    assert [one.epochs for one in track.boundaries] == list(range(11))
    for one in track.boundaries:
        assert one.joules == pytest.approx(10_000 * one.epochs, abs=9001 if one.epochs in (4, 5, 6) else 3001)
        assert one.joules == pytest.approx(100 * (one.seconds - start), abs=1)


@pytest.mark.parametrize("error", [60.0, 3600.0, -90.0, -1e9, 1.6e9], ids=str)
def test_a_clock_that_is_off_moves_no_epoch(error):
    """Epochs of 40 s at 100 W from 1.7e9 on, told by a clock that is `error` behind, pushed at once."""
    start = 1.7e9
    true = [Boundary(epoch, start + 40 * epoch, 4000.0 * epoch) for epoch in range(5)]
    track = Track(start_seconds=start - error)
    for seconds in range(10, 161, 30):
        now = start + seconds
        track.add_point(Point(now, 100.0 * seconds))
        epoch = seconds // 40
        told = Told(epoch, now, start + 40 * epoch - error, start + 40 * epoch)
        if track.see_clock(told, 30) or seconds == 10:
            track.fill(Past([Point(start + s, 100.0 * s) for s in range(0, seconds, 5)], [], 1))
        track.add_progress(told)
        track.place_marks()
    assert track.began_seconds == pytest.approx(start)
    assert [one.epochs for one in track.boundaries] == [0, 1, 2, 3, 4]
    for found, expected in zip(track.boundaries, true, strict=True):
        assert found == pytest.approx(expected, abs=0.01)


def test_what_was_placed_by_a_wrong_clock_is_placed_anew():
    start, error = 1.7e9, 60.0
    track = Track(start_seconds=start - error)
    track.add_point(Point(start + 100, 10_000))
    track.fill(Past([Point(start, 0)]))
    first = Told(1, start + 45, start + 40 - error, start + 40)
    assert not track.see_clock(first, 30)
    track.add_progress(first)
    track.place_marks()
    assert track.boundaries[-1].seconds == pytest.approx(start + 45)  # it lies before the start: the time it was seen
    track.add_point(Point(start + 130, 13_000))
    assert track.see_clock(Told(2, start + 130, start + 80 - error, start + 80), 30)
    told = [Told(1, start + 45, start + 40 - error, start + 40), Told(2, start + 95, start + 80 - error, start + 80)]
    track.fill(Past([Point(start, 0)], told, 1))
    assert [one.joules for one in track.boundaries] == pytest.approx([0, 4000, 8000])
    assert not track.see_clock(Told(2, start + 160, start + 80 - error, start + 150), 30)


def test_a_start_in_the_future_is_no_beginning():
    track = Track(start_seconds=1e9)
    track.add_point(Point(100, 1000))
    track.fill(Past([Point(10, 10)], []))
    assert track.boundaries == []
