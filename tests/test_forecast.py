"""The pure core of the forecast: energy, carbon, what is pushed."""

import csv
import math
import statistics
from collections import defaultdict
from dataclasses import replace
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_exporter.forecast import carbon, energy, summary
from carbon_exporter.forecast.conformal import Calibration
from carbon_exporter.forecast.energy import Boundary, Quantiles
from carbon_exporter.forecast.progress import Pushed, judge, keep_most_telling
from carbon_exporter.forecast.record import EndedRun, Score
from carbon_exporter.forecast.scores import Scores
from carbon_exporter.forecast.start import start_of
from carbon_exporter.forecast.track import Point


def run_of(epoch_joules, epoch_seconds=None, start_seconds=1000.0, start_joules=0.0):
    """The boundaries of a run with these epochs."""
    epoch_seconds = epoch_seconds or [60.0] * len(epoch_joules)
    seconds = accumulate(epoch_seconds, initial=start_seconds)
    joules = accumulate(epoch_joules, initial=start_joules)
    return [Boundary(float(k), t, j) for k, (t, j) in enumerate(zip(seconds, joules, strict=True))]


BOUNDARIES = run_of([5000, 1000, 1000], [300, 60, 60], start_joules=300)


def ended(group, scores, ending="finished", done=10.0, **changes):
    """A run that has ended, with these scores of energy by epochs seen."""
    run = EndedRun(
        training_job=f"{group}-run",
        group=group,
        ending=ending,
        started_seconds=0.0,
        ended_seconds=1000.0,
        epochs_planned=10.0,
        epochs_done=done,
        joules=14_000.0,
        grams=None,
        epoch_joules=1000.0,
        epoch_seconds=60.0,
        gpus=None,
        scores=tuple(Score(epochs, score, score) for epochs, score in scores.items()),
    )
    return replace(run, **changes)


def test_the_first_epoch_is_counted_but_not_multiplied():
    # The first worked example of docs/forecast.md.
    forecast = energy.forecast(BOUNDARIES, 10, 7300, 1450)
    assert forecast is not None
    assert forecast.joules == pytest.approx((12_642, 14_309, 15_030), abs=0.6)
    assert forecast.end_timestamp_seconds.median == pytest.approx(1000 + 300 + 9 * 60, abs=1)
    assert forecast.epoch_joules == pytest.approx(1000, rel=2e-3)
    assert forecast.epochs_observed == 3
    assert forecast.basis == "builtin"
    assert forecast.calibration_runs == 0
    assert forecast.warnings == ("kind_never_seen",)
    assert carbon.at_rate(forecast.joules, 7300, 4.3, 1e-4) == pytest.approx((4.834, 5.0, 5.073), abs=1e-3)


def test_ended_runs_of_the_group_move_it_and_make_it_narrow():
    # The second worked example of docs/forecast.md: twenty runs, whose later epochs took 1.1 to 3 % more.
    runs = [ended("resnet", {1: -1.7 + i / 100, 3: (11 + i) / 1000}) for i in range(20)]
    calibration = Calibration(runs).for_group("resnet")
    forecast = energy.forecast(BOUNDARIES, 10, 7300, 1450, calibration)
    assert forecast is not None
    assert forecast.joules == pytest.approx((14_377, 14_441, 14_513), abs=0.6)
    assert forecast.correction == pytest.approx(0.020, abs=0.001)
    assert forecast.basis == "group"
    assert forecast.calibration_runs == 20
    assert forecast.warnings == ()


def test_one_epoch_alone_counts_for_all():
    forecast = energy.forecast(run_of([1000], start_joules=300), 10, 1300, 1060)
    assert forecast is not None
    assert forecast.joules.median == pytest.approx(300 + 10 * 1000, rel=3e-3)
    assert forecast.warnings == ("one_epoch_seen", "kind_never_seen")


def test_fractions_of_one_long_epoch_set_a_tenth_of_the_plan_aside():
    boundaries = [Boundary(0, 0, 0), Boundary(0.1, 100, 5000), Boundary(0.2, 150, 6000), Boundary(0.3, 200, 7000)]
    forecast = energy.forecast(boundaries, 1, 7000, 200)
    assert forecast is not None
    assert forecast.joules.median == pytest.approx(7000 + 0.7 * 10_000, rel=1e-3)
    assert forecast.end_timestamp_seconds.median == pytest.approx(200 + 0.7 * 500, rel=2e-3)


def test_a_slope_over_too_little_is_not_taken():
    boundaries = [Boundary(0, 0, 0), Boundary(1, 60, 1000), Boundary(1.01, 61, 1500)]
    forecast = energy.forecast(boundaries, 10, 1500, 61)
    assert forecast is not None
    assert forecast.epoch_joules == pytest.approx(1500 / 1.01, rel=3e-3)


@pytest.mark.parametrize(
    "boundaries",
    [[], [Boundary(3, 0, 10)], [Boundary(0, 0, 0), Boundary(0.05, 10, 10)], [Boundary(0, 0, 5), Boundary(2, 60, 5)]],
    ids=["nothing", "one boundary", "a twentieth of an epoch", "no joules"],
)
def test_too_little_gives_no_forecast(boundaries):
    assert energy.forecast(boundaries, 10, 10, 60) is None


def test_no_quantile_lies_below_what_is_spent_or_before_now():
    forecast = energy.forecast(run_of([1000, 1000, 1000]), 3.1, 9000, 5000)
    assert forecast is not None
    assert forecast.joules == (9000, 9000, 9000)
    assert forecast.end_timestamp_seconds == (5000, 5000, 5000)


def test_the_interval_narrows_with_the_epochs_and_widens_with_their_spread():
    def width(epoch_joules, planned=1000):
        forecast = energy.forecast(run_of(epoch_joules), planned, 0, 0)
        assert forecast is not None
        return math.log(forecast.joules.high / forecast.joules.low)

    steady = [width([1000] * k) for k in (1, 2, 3, 4, 5, 8, 10, 30)]
    assert steady == sorted(steady, reverse=True)
    assert len(set(steady)) == len(steady)
    assert width([1000, 400, 2000, 1500, 500]) > 2 * width([1000] * 5)


def test_the_own_spread_is_a_students_interval():
    # Rates e, 1, 1 and e, of which all cycles are alike: mean 1/2, standard deviation 1/sqrt(3), t of 3 degrees 2.353.
    steps = [1000, 1000 * math.e, 1000, 1000, 1000 * math.e]
    forecast = energy.forecast(run_of(steps), 9, 0, 0)
    assert forecast is not None
    spent = sum(steps)
    half_width = math.log((forecast.joules.high - spent) / (forecast.joules.median - spent))
    assert half_width == pytest.approx(2.353 / math.sqrt(3) * math.sqrt(1 / 4 + 1 / 4), rel=0.03)


def test_a_scatter_that_history_knows_widens_nothing():
    calibration = Calibration([ended("a", {1: s / 10, 5: s / 20}) for s in range(-10, 11)]).for_group("a")
    calm, wild = [1000] * 5, [1000, 1050, 950, 1000, 1050]
    assert energy.forecast(run_of(wild), 9, 0, 0, calibration).joules.high == pytest.approx(
        energy.forecast(run_of(calm), 9, 0, 0, calibration).joules.high, rel=0.02
    )


@pytest.mark.parametrize(
    ("epoch_joules", "epoch_seconds", "is_far"),
    [(1000, 60, False), (600, 31, False), (500, 29, True), (2000, 121, True), (450, 60, True), (2100, 60, True)],
    ids=["alike", "shorter", "too short", "too long", "too little power", "too much power"],
)
def test_after_one_epoch_a_job_far_from_all_ended_ones_gets_the_wider_interval(epoch_joules, epoch_seconds, is_far):
    # Ended runs took 60 s and 1,000 J an epoch.
    calibration = Calibration([ended("", {1: i / 1000, 3: i / 1000}) for i in range(100)]).for_group("new")
    boundaries = run_of([epoch_joules], [epoch_seconds])
    found, alone = energy.forecast(boundaries, 10, 0, 0, calibration), energy.forecast(boundaries, 10, 0, 0)
    assert ("unlike_ended_runs" in found.warnings) == is_far
    for one, of_nothing in ((found.joules, alone.joules), (found.end_timestamp_seconds, alone.end_timestamp_seconds)):
        assert (one.low <= of_nothing.low * (1 + 1e-9) and one.high >= of_nothing.high * (1 - 1e-9)) == is_far


def test_a_job_unlike_all_ended_ones_gets_the_wider_interval():
    # They went on as they began; this one's first epoch cost twice what follows.
    calibration = Calibration([ended("a", {1: s / 1000, 2: s / 1000}) for s in range(-20, 21)]).for_group("a")
    alike = energy.forecast(run_of([1000, 1010]), 10, 0, 0, calibration)
    unlike = energy.forecast(run_of([2000, 1010]), 10, 0, 0, calibration)
    assert alike.warnings == ()
    assert unlike.warnings == ("unlike_ended_runs",)
    width = [math.log(f.joules.high / f.joules.low) for f in (alike, unlike)]
    assert width[1] > 3 * width[0]
    assert unlike.joules.high >= energy.forecast(run_of([2000, 1010]), 10, 0, 0).joules.high * (1 - 1e-9)


def test_after_a_known_change_only_the_new_epochs_count():
    boundaries = run_of([1000, 1000, 1000, 1000, 500, 500])
    change = boundaries[4].seconds
    forecast = energy.forecast(boundaries, 10, 5000, 0, change_seconds=[change])
    assert forecast.epoch_joules == pytest.approx(500, rel=2e-3)
    assert forecast.warnings == ("kind_never_seen",)
    assert energy.forecast(boundaries, 10, 5000, 0).epoch_joules > 600
    just_now = energy.forecast(boundaries, 10, 5000, 0, change_seconds=[boundaries[-1].seconds + 1])
    assert "change_not_seen" in just_now.warnings
    before = energy.forecast(boundaries, 10, 5000, 0, change_seconds=[boundaries[0].seconds - 1])
    assert before == energy.forecast(boundaries, 10, 5000, 0)


def test_before_its_first_epoch_a_job_is_forecast_from_its_group():
    calibration = Calibration([ended("a", {1: 0.0}, joules=float(j)) for j in (9000, 10_000, 12_000)]).for_group("a")
    for boundaries in ([], run_of([])[:1], [Boundary(0, 1000, 0), Boundary(0.4, 1030, 900)]):
        forecast = energy.forecast(boundaries, 20, 500, 1000, calibration)
        assert forecast.joules.median == pytest.approx(20_000, rel=0.02)
        assert forecast.end_timestamp_seconds.median == pytest.approx(1000 + 20 * 60, rel=0.02)
        assert forecast.joules.low < 17_000
        assert forecast.joules.high > 23_000
        assert forecast.basis == "group"
        assert forecast.warnings == ("no_epoch_seen",)
    assert energy.forecast([], 20, 500, 1000, Calibration([ended("a", {1: 0.0})]).for_group("b")) is None
    assert energy.forecast([], 20, 500, 1000) is None


def test_gpus_make_an_epoch_faster_not_cheaper():
    two, four = ended("a", {1: 0.0}, gpus=2.0), ended("a", {1: 0.0}, gpus=4.0, joules=15_000.0, epoch_seconds=33.0)
    calibration = Calibration([two, two, two, four]).for_group("a")

    def rates(gpus):
        forecast = energy.forecast([], 10, 0, 0, calibration, gpus=gpus)
        return round(forecast.joules.median), round(forecast.end_timestamp_seconds.median)

    assert rates(2.0) == (14_000, 600)
    assert rates(4.0) == (15_000, 330)
    assert rates(1.0) == (14_000, 1200)


def test_where_runs_stop_early_two_ends_are_forecast():
    stopped = [ended("a", {1: -1.7 + i / 10, 3: 0.0}, ending="stopped", done=5.0) for i in range(5)]
    finished = [ended("a", {1: -1.7 + i / 10, 3: 0.0}) for i in range(5)]
    both = energy.forecast(BOUNDARIES, 10, 7300, 1450, Calibration([*stopped, *finished]).for_group("a"))
    assert both.joules.median == pytest.approx(14_300, rel=1e-3)
    assert both.expected_joules.mean == pytest.approx((9300 + 14_300) / 2, rel=0.01)
    assert both.expected_joules.low == pytest.approx(9300, rel=0.02)
    assert both.expected_joules.high == pytest.approx(14_300, rel=0.05)
    assert both.expected_end_timestamp_seconds.mean == pytest.approx(1420 + (2 + 7) / 2 * 60, abs=15)
    planned = energy.forecast(BOUNDARIES, 10, 7300, 1450, Calibration(finished).for_group("a"))
    assert planned.expected_joules is None


def test_the_document_gives_the_figures_of_both_examples(repository):
    text = " ".join((repository / "docs" / "forecast.md").read_text().split())
    assert "14,309 J, from 12,642 to 15,030 J" in text
    assert "14,441 J, from 14,377 to 14,513 J" in text


positive = st.floats(1, 1e6)


@given(
    st.lists(st.tuples(positive, positive), min_size=1, max_size=30),
    st.floats(0.5, 1e9),
    st.floats(0, 1e7),
    st.floats(0, 1e8),
)
def test_a_forecast_is_ordered_finite_and_scales_with_its_unit(epochs, planned, joules_now, now):
    joules, seconds = [e for e, _ in epochs], [s for _, s in epochs]
    forecast = energy.forecast(run_of(joules, seconds), planned, joules_now, now)
    assert forecast is not None
    for quantiles in (forecast.joules, forecast.end_timestamp_seconds):
        assert quantiles.low <= quantiles.median <= quantiles.high < math.inf
    assert forecast.joules.low >= joules_now
    assert forecast.end_timestamp_seconds.low >= now
    assert forecast == energy.forecast(run_of(joules, seconds), planned, joules_now, now)
    kilo = energy.forecast(run_of([1000 * e for e in joules], seconds), planned, 1000 * joules_now, now)
    assert kilo is not None
    assert kilo.joules.median == pytest.approx(1000 * forecast.joules.median)
    assert kilo.joules.high == pytest.approx(1000 * forecast.joules.high)


RESUMED = [boundary._replace(epochs=boundary.epochs + 90) for boundary in run_of([5000.0] + [1000.0] * 39)]


def test_a_run_from_a_checkpoint_has_used_nothing_for_the_epochs_before_it():
    made = summary.ended_run(
        RESUMED,
        training_job="resumed",
        group="g",
        ending="finished",
        ended_seconds=5000.0,
        epochs_planned=130.0,
        joules=44_000.0,
        grams=None,
        gpus=None,
    )
    assert (made.epochs_begun, made.epochs_done, made.epoch_joules) == (90, 130, 1000)
    start = start_of([made], None)
    assert start.epoch_joules == 44_000 / 40
    last = energy.measured(RESUMED, 44_000, 5000, 130)
    assert (last.epoch_joules, last.epochs_observed) == (44_000 / 40, 40)
    # Three of its forty epochs seen, 37 still to come: the error is theirs alone.
    scores = Scores()
    scores.add(replace(made, scores=(Score(3.0, 1.0, 1.0),)), energy.BUILTIN)
    (row,) = scores.accuracy()
    median = energy.BUILTIN.bands["joules"][2].median
    assert row.median_relative_error == pytest.approx(37 * 1000 / 44_000 * -math.expm1(median - 1.0))


@pytest.mark.parametrize(("start_joules", "begun"), [(0.0, 37), (200.0, 37), (37_000.0, 0)])
def test_epochs_whose_ends_were_not_seen_are_the_runs_own(start_joules, begun):
    late = [one._replace(epochs=one.epochs + 37) for one in run_of([1000.0] * 10, start_joules=start_joules)]
    told = {"training_job": "j", "group": "g", "ending": "finished", "ended_seconds": 9.0, "epochs_planned": 47.0}
    made = summary.ended_run(late, **told, joules=late[-1].joules, grams=None, gpus=None)
    assert made.epochs_begun == begun
    assert start_of([made], None).epoch_joules == pytest.approx(1000, rel=0.03)


def test_an_ended_job_is_what_was_measured():
    forecast = energy.measured(run_of([1000, 1000], start_joules=50), 2150, 1200, 2)
    assert forecast.joules == (2150, 2150, 2150)
    assert forecast.end_timestamp_seconds == (1200, 1200, 1200)
    assert forecast.epoch_joules == pytest.approx(1050)
    assert forecast.basis == "measured"


def recorded_runs(path):
    runs = defaultdict(list)
    with path.open() as file:
        for row in csv.DictReader(file):
            runs[row["run"]].append((float(row["energy_j"]), float(row["duration_s"])))
    return [run for run in runs.values() if len(run) >= 10]


@pytest.mark.parametrize(
    ("name", "median_error", "p90_error", "least_coverage"),
    [("dtjgp", 0.006, 0.018, 0.95), ("energydl_resumed", 0.025, 0.17, 0.8)],
)
def test_recorded_runs_are_forecast_after_three_epochs(repository, name, median_error, p90_error, least_coverage):
    path = repository.parent / "shared/data/epochs" / f"{name}.csv"
    if not path.exists():
        pytest.skip(f"recorded runs are not here: ../shared/data/epochs/{name}.csv")
    errors, inside = [], []
    for run in recorded_runs(path):
        boundaries = run_of([joules for joules, _ in run], [seconds for _, seconds in run])
        forecast = energy.forecast(boundaries[:4], len(run), boundaries[3].joules, boundaries[3].seconds)
        assert forecast is not None
        actual = boundaries[-1].joules
        errors.append(abs(forecast.joules.median / actual - 1))
        inside.append(forecast.joules.low <= actual <= forecast.joules.high)
    assert statistics.median(errors) <= median_error
    assert statistics.quantiles(errors, n=10)[-1] <= p90_error
    assert statistics.fmean(inside) >= least_coverage


def test_grams_are_those_so_far_and_the_joules_to_come_at_the_present_rate():
    grams = carbon.at_rate(Quantiles(100, 200, 300), joules_now=150, grams_now=9, grams_per_joule=0.1)
    assert grams == pytest.approx((9, 14, 24))


def test_the_rate_is_the_jobs_own_or_the_grids():
    assert carbon.job_grams_per_joule([Point(0, 100, 7), Point(30, 200, None), Point(60, 300, 27)]) == pytest.approx(
        0.1
    )
    assert carbon.job_grams_per_joule([Point(0, 100, 7)]) is None
    assert carbon.job_grams_per_joule([Point(0, 100, 7), Point(9, 100, 7)]) is None
    assert carbon.job_grams_per_joule([]) is None
    assert carbon.grid_grams_per_joule(360, 1.5) == pytest.approx(1.5e-4)
    assert carbon.grid_grams_per_joule(360, None) == pytest.approx(1e-4)
    assert carbon.grid_grams_per_joule(None, 1.5) is None


SOUND = {"epochs_completed": 3.0, "epochs_planned": 10.0, "push_seconds": 900.0}


@pytest.mark.parametrize(
    ("changes", "joules", "outcome"),
    [
        ({}, 5.0, "forecast"),
        ({"push_seconds": 700.0}, 5.0, "forecast"),
        ({"push_seconds": 699.9}, 5.0, "stale_push"),
        ({"push_seconds": None}, 5.0, "stale_push"),
        ({"push_seconds": 1e12}, 5.0, "forecast"),
        ({"epochs_completed": None}, 5.0, "no_epochs"),
        ({"epochs_planned": None}, 5.0, "planned_missing"),
        ({"epochs_planned": 0.0}, 5.0, "invalid_value"),
        ({"epochs_planned": -1.0}, 5.0, "invalid_value"),
        ({"epochs_planned": 1e300}, 5.0, "invalid_value"),
        ({"epochs_completed": -1.0}, 5.0, "invalid_value"),
        ({}, -5.0, "invalid_value"),
        ({}, None, "no_energy"),
        ({"epochs_completed": 10.0}, 5.0, "forecast"),
        ({"epochs_completed": 10.1}, 5.0, "epochs_above_planned"),
        ({"finished_seconds": 950.0, "push_seconds": 0.0}, None, "finished"),
    ],
)
def test_what_becomes_of_a_job(changes, joules, outcome):
    assert judge(Pushed(**{**SOUND, **changes}), joules, 1000.0, 300.0) == outcome


def test_pushed_names_alone_push_nobody_out_though_they_were_there_before():
    names = ["a1", "a2", "old", "dark", "spender"]
    kept = keep_most_telling(names, ["old", "dark", "gone"], ["spender", "old"], 4)
    assert kept == ["old", "spender", "dark", "a1"]
