"""What forecasts learn from ended runs: weights, bases, widths, drift."""

import math
import random
import statistics
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import builtin_scores
from carbon_exporter.forecast import builtin, conformal
from carbon_exporter.forecast.bands import Band, fitted, interpolated, layer, layered_band, weighted_band
from carbon_exporter.forecast.conformal import BUILTIN, Calibration
from carbon_exporter.forecast.record import EndedRun, Score
from carbon_exporter.forecast.scoring import CHECKPOINTS


def ended(group="", ending="finished", **scores):
    """A run with scores such as k3=0.1, of energy and, doubled, of time."""
    made = tuple(Score(float(name[1:]), value, 2 * value) for name, value in scores.items())
    return EndedRun("job", group, ending, 0.0, 1.0, 10.0, 10.0, 1.0, None, 1.0, 1.0, None, made)


def normal_runs(count, spread, group="", centre=0.0, seed=1):
    chance = random.Random(seed)
    return [ended(group, k3=chance.gauss(centre, spread)) for _ in range(count)]


def band(calibration, group="", quantity="joules", units=3.0):
    return calibration.for_group(group).band(quantity, units, set_aside=True)


def test_quantiles_leave_half_the_miss_rate_on_each_side_with_the_run_to_come_as_one_more():
    # 199 runs and the one to come: the 10th from either end.
    entries = [(float(i), 1.0) for i in range(1, 200)]
    assert weighted_band(entries, 0.10, "fleet") == Band(10.0, 100.0, 190.0, "fleet")
    # 9 runs are too few: the outermost.
    assert weighted_band([(float(i), 1.0) for i in range(1, 10)], 0.10, "fleet")[:3] == (1.0, 5.0, 9.0)
    # A run that weighs as much as all others is the median.
    assert weighted_band([(1.0, 1.0), (2.0, 1.0), (5.0, 9.0)], 0.10, "fleet").median == 5.0


def merged_band(entries, miss_rate):
    """One after the other from either end, with room for the rounding of sums."""

    def reached(ordered, weight, most):
        passed, best = 0.0, ordered[0][0]
        for value, own in ordered:
            passed += own
            if most and passed > weight * (1 + 1e-9):
                return best
            best = value
            if not most and passed >= weight * (1 - 1e-9):
                return best
        return best

    upwards = sorted(entries)
    downwards, total = upwards[::-1], sum(weight for _, weight in entries)
    tail = miss_rate / 2 * (total + 1)
    median = (reached(upwards, total / 2, most=False) + reached(downwards, total / 2, most=False)) / 2
    return reached(upwards, tail, most=True), median, reached(downwards, tail, most=True)


scores = st.integers(-30, 30).map(lambda number: number / 100)


@given(
    st.lists(scores, max_size=60), st.lists(scores, max_size=60), st.sampled_from([0.005, 0.1, 0.2, 0.5]),
    st.sampled_from([1.0, 0.5, 10 / 210, 5 / 97, 0.05]),
)  # fmt: skip
def test_two_layers_give_what_they_give_merged(fleet, own, miss_rate, share):
    rest = sorted([(score, 1.0) for score in fleet] + [(score, 0.25) for score in builtin.JOULES[3.0]])
    found = layered_band(layer(rest), share, sorted(own), miss_rate, "group")
    assert found[:3] == merged_band([(s, w * share) for s, w in rest] + [(s, 1.0) for s in own], miss_rate)


def test_a_calibration_is_the_bands_of_all_scores_merged():
    runs = [*normal_runs(230, 0.02), *normal_runs(7, 0.01, "a"), *normal_runs(33, 0.03, "b", seed=3)]
    calibration = Calibration(runs)
    newest = [run.scores[0].joules for run in runs[-200:]]
    rest = sorted((s, 1.0) for s in newest)
    rest += [(s, 0.25) for s in fitted(builtin.JOULES[3.0], rest)]
    for group, share in (("a", 10 / 210), ("b", 5 / 210)):
        own = [(run.scores[0].joules, 1.0) for run in runs if run.group == group]
        rate = calibration.miss_rate("joules", band(calibration, group).basis, seen=True)
        merged = merged_band([(s, w * share) for s, w in rest] + own, rate)
        assert band(calibration, group)[:3] == pytest.approx(merged, abs=1e-12)


def test_nothing_ended_gives_the_synthetic_band_somewhat_wider():
    table = builtin.JOULES[3.0]
    found = band(Calibration())
    assert found.basis == "builtin"
    assert found.low < table[1] < 0 < table[-2] < found.high
    assert found.high - found.median == pytest.approx(1.1 * (table[-2] - found.median), abs=0.02)
    assert abs(found.median) < 0.005


def test_the_table_is_what_the_synthetic_runs_give():
    scores = [score for run in builtin_scores.runs(600) for score in builtin_scores.scores_of(run.boundaries)]
    for checkpoint in (1.0, 3.0, 10.0):
        made = sorted(score.joules for score in scores if score.epochs == checkpoint)
        assert statistics.median(made) == pytest.approx(statistics.median(builtin.JOULES[checkpoint]), abs=0.01)
        share = statistics.fmean(builtin.JOULES[checkpoint][1] <= s <= builtin.JOULES[checkpoint][-2] for s in made)
        assert 0.90 <= share <= 0.97
    assert set(builtin.JOULES) == set(builtin.SECONDS) == set(CHECKPOINTS)
    for row in [*builtin.JOULES.values(), *builtin.SECONDS.values()]:
        assert len(row) == 40
        assert list(row) == sorted(row)


def test_the_basis_is_what_weighs_most():
    def basis(runs, group):
        return band(Calibration(runs), group).basis

    assert basis(normal_runs(9, 0.01), "new") == "builtin"
    assert basis(normal_runs(10, 0.01), "new") == "fleet"
    assert basis([*normal_runs(40, 0.01), *normal_runs(3, 0.01, "a")], "a") == "fleet"
    assert basis([*normal_runs(40, 0.01), *normal_runs(12, 0.01, "a")], "a") == "group"
    counted = Calibration([*normal_runs(40, 0.01), *normal_runs(12, 0.01, "a")]).for_group("a")
    assert [counted.runs_behind(basis) for basis in ("group", "fleet", "builtin")] == [12, 52, 0]


def test_a_kind_never_seen_gets_a_wider_interval_than_the_fleets_own():
    calibration = Calibration([*normal_runs(100, 0.02), ended("seen", k1=0.0)])
    seen, unseen = band(calibration, "seen"), band(calibration, "new")
    assert unseen.basis == seen.basis == "fleet"
    assert 1.05 < (unseen.high - unseen.low) / (seen.high - seen.low) < 1.25
    assert calibration.for_group("new") == calibration.for_group("")
    assert calibration.for_group("new").group_runs == 0


@pytest.mark.parametrize(("kinds", "runs"), [(5, 40), (8, 25), (20, 10)])
def test_for_a_kind_never_seen_kinds_count_and_not_their_repeats(kinds, runs):
    """Kinds differ by 10 %, repeats of one by 0.5 %: of few kinds, many repeats tell little of the next kind."""
    held = []
    for seed in range(40):
        chance = random.Random(seed)
        centres = [chance.gauss(0, 0.1) for _ in range(kinds)]
        ended_runs = [ended(f"g{g}", k3=chance.gauss(c, 0.005)) for g, c in enumerate(centres) for _ in range(runs)]
        calibration = Calibration()
        for run in ended_runs:
            calibration.remember(run)
        found = band(calibration, "new")
        held += [found.holds(chance.gauss(0, 0.1)) for _ in range(100)]
    # Were runs counted, it would be 71, 81 and 92 %.
    assert 0.81 <= statistics.fmean(held) <= 0.95
    assert found.basis == ("fleet" if kinds >= 10 else "builtin")


def test_a_group_that_repeats_counts_once_for_others_and_in_full_for_itself():
    runs = [*normal_runs(30, 0.1), *normal_runs(150, 0.001, "nightly", centre=0.5)]
    assert band(Calibration(runs), "new").median == pytest.approx(0, abs=0.05)
    assert band(Calibration(runs), "nightly").median == pytest.approx(0.5, abs=0.001)
    assert Calibration(runs).for_group("new").fleet_runs == 180


def test_what_is_usual_is_the_range_of_the_ended_runs():
    runs = [replace(ended(k3=0.0), epoch_seconds=s, epoch_joules=s * w) for s, w in ((20, 100), (60, 400), (0, 5))]
    usual = Calibration(runs).for_group("new").usual
    assert usual == ((20, 60), (100, 400))
    far = [(9, 900), (121, 12_100), (30, 30 * 49), (30, 30 * 801)]
    near = [(11, 1100), (119, 11_900), (30, 30 * 51), (30, 30 * 799)]
    assert [usual.is_far_from(*one) for one in far + near] == [True] * 4 + [False] * 4
    assert Calibration().for_group("").usual is None


def test_intervals_hold_what_comes_from_ten_runs_on():
    chance = random.Random(4)
    for spread in (0.003, 0.3):
        for count in (10, 30, 150):
            found = [band(Calibration(normal_runs(count, spread, seed=seed)), "new") for seed in range(60)]
            held = statistics.fmean(one.holds(chance.gauss(0, spread)) for one in found for _ in range(20))
            assert 0.86 <= held <= 0.995, (spread, count)


def test_repeats_of_a_group_narrow_and_move_its_own_band_only():
    runs = [*normal_runs(100, 0.1), *normal_runs(40, 0.005, "a", centre=0.2)]
    own, other = band(Calibration(runs), "a"), band(Calibration(runs), "b")
    assert own.median == pytest.approx(0.2, abs=0.01)
    assert own.high - own.low < 0.15
    assert other.high - other.low > 0.3


def test_energy_and_time_are_learnt_apart():
    runs = [ended("a", k3=0.1 + i / 1000) for i in range(30)]
    calibration = Calibration(runs)
    assert band(calibration, "a").median == pytest.approx(0.115, abs=0.002)
    assert band(calibration, "a", "seconds").median == pytest.approx(0.23, abs=0.004)


def test_lost_runs_and_scores_that_are_no_numbers_teach_nothing():
    calibration = Calibration(
        [ended("a", "lost"), ended("a", k3=math.nan), ended("a", k3=math.inf), ended("a", k7=0.5)]
    )
    assert band(calibration, "a") == band(Calibration())
    assert calibration.for_group("a").group_runs == 0
    assert len(calibration.for_group("a").runs) == 4


def test_only_the_newest_runs_count():
    old, new = normal_runs(200, 0.3, "a"), normal_runs(200, 0.01, "a", centre=0.1, seed=2)
    both = Calibration([*old, *new])
    assert band(both, "a").median == pytest.approx(0.1, abs=0.01)
    assert band(both, "a").high < 0.15
    assert both.for_group("a").runs == tuple(new)
    assert both.for_group("b").fleet_runs == 200


def test_the_groups_that_ended_longest_ago_are_forgotten(monkeypatch):
    monkeypatch.setattr(conformal, "MOST_GROUPS", 3)
    calibration = Calibration(ended(group, k3=0.0) for group in ("a", "b", "c", "a", "d"))
    assert [calibration.for_group(group).group_runs for group in "abcd"] == [2, 0, 1, 1]


def test_the_miss_rate_follows_what_was_missed():
    calibration = Calibration(normal_runs(60, 0.01))
    at_first = calibration.miss_rate("joules", "fleet", seen=False)
    for run in normal_runs(20, 0.2, seed=7):
        calibration.add(run)
    assert calibration.miss_rate("joules", "fleet", seen=False) < at_first - 0.05
    narrower = Calibration(normal_runs(60, 0.01))
    for _ in range(40):
        narrower.add(ended(k3=0.0))
    assert narrower.miss_rate("joules", "fleet", seen=False) == pytest.approx(0.10 + 40 * 0.002, abs=0.03)
    for _ in range(400):
        calibration.add(ended(k3=50.0 + random.Random(1).random()))
    assert 0.005 <= calibration.miss_rate("joules", "fleet", seen=False) <= 0.5


def test_a_miss_moves_it_by_a_fiftieth_of_its_surprise():
    calibration = Calibration(normal_runs(100, 0.01))
    before = calibration.miss_rate("joules", "fleet", seen=False)
    calibration.add(ended(k3=9.0))
    missed = calibration.miss_rate("joules", "fleet", seen=False)
    assert missed == pytest.approx(before + 0.02 * (0.10 - 1))
    calibration.add(ended(k3=0.0))
    assert calibration.miss_rate("joules", "fleet", seen=False) == pytest.approx(missed + 0.02 * 0.10)


def test_after_a_drift_intervals_hold_again():
    chance = random.Random(9)
    calibration = Calibration(normal_runs(300, 0.01))
    held = []
    for _ in range(400):
        score = chance.gauss(0.05, 0.04)
        held.append(band(calibration).holds(score))
        calibration.add(ended(k3=score))
    assert statistics.fmean(held[:20]) < 0.75
    assert 0.85 <= statistics.fmean(held[150:]) <= 0.97


def test_the_same_runs_in_the_same_order_give_the_same_calibration():
    runs = [*normal_runs(150, 0.02), *normal_runs(30, 0.01, "a")]
    one, other = Calibration(runs), Calibration(runs[:100])
    twin = other.copy()
    for run in runs[100:]:
        other.add(run)
    assert one.for_group("a") == other.for_group("a")
    assert one.for_group("b") == other.for_group("b")
    assert twin.for_group("b") == Calibration(runs[:100]).for_group("b")


def test_the_synthetic_scores_take_on_the_fleets_centre_and_spread():
    assert fitted([-1.0, 0.0, 1.0], []) == [-1.0, 0.0, 1.0]
    moved = fitted([-1.0, 0.0, 1.0], [(5.0 + x / 100, 1000.0) for x in (-1, 0, 1)])
    assert moved == pytest.approx([4.99, 5.0, 5.01], abs=0.01)
    half = fitted([-1.0, 0.0, 1.0], [(3.96, 1.0), (4.0, 3.0), (4.04, 1.0)])
    assert half[1] == pytest.approx(2.0)
    # The spread, 0.016 to 0.667, halfway on a logarithmic scale.
    assert half[2] - half[1] == pytest.approx(math.sqrt(0.016 / (2 / 3)))


def test_bands_lie_between_those_of_the_checkpoints():
    bands = [Band(-k, 0.0, k) for k in CHECKPOINTS]
    assert interpolated(bands, 5.0) == bands[3]
    middle = interpolated(bands, math.sqrt(50))
    assert middle.high == pytest.approx(7.5)
    assert interpolated(bands, 5000.0) == bands[-1]
    assert interpolated(bands, 0.5) == bands[0]


def test_a_checkpoint_that_no_run_reached_takes_the_one_before():
    calibration = Calibration(ended("a", k3=i / 1000) for i in range(30))
    assert band(calibration, "a", units=20.0).basis == "group"
    assert band(calibration, "a", units=20.0).high < 0.04
    assert band(calibration, "a", units=2.0).basis == "builtin"


def test_less_than_was_learnt_from_is_less_certain():
    def width(units, *, set_aside):
        found = BUILTIN.band("joules", units, set_aside=set_aside)
        return found.high - found.low

    assert width(0.25, set_aside=False) == pytest.approx(2 * width(1.0, set_aside=False))
    assert width(1.5, set_aside=True) == pytest.approx(math.sqrt(2) * width(2.0, set_aside=True))
    # Where one push says that five epochs are done, the first one's surplus is a fifth of what it was.
    assert BUILTIN.band("joules", 1.9, set_aside=False).low > BUILTIN.band("joules", 1.0, set_aside=False).low
    assert width(5.0, set_aside=False) >= width(5.0, set_aside=True)
