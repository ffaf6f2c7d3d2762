"""Learns from ended runs how far forecasts are off: a correction, and an interval that holds as often as it says. Pure.

Weighted split-conformal prediction (Tibshirani et al., NeurIPS 2019) on the scores ln(actual / level) of ended runs, in
three layers, each of which stands in the next with the weight of some runs: synthetic runs -> all runs of the fleet ->
the runs of the same group. The miss rate that the interval aims at follows what was missed before (adaptive conformal
inference: Gibbs and Candès, NeurIPS 2021).
"""

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from carbon_exporter.forecast import builtin
from carbon_exporter.forecast.bands import Band, Basis, Layer, fitted, layer, layered_band
from carbon_exporter.forecast.group_calibration import GroupCalibration, Quantity, Usual
from carbon_exporter.forecast.record import EndedRun, Score
from carbon_exporter.forecast.scoring import CHECKPOINTS
from carbon_exporter.forecast.stopping import survival_of

_Scores: TypeAlias = Mapping[float, Score]
"""Of one run, by checkpoint."""

MISS_RATE: Final = 0.10
WINDOW_RUNS: Final = 200
MOST_GROUPS: Final = 1000
BUILTIN_WEIGHT: Final = 10.0
REST_WEIGHT: Final = 10.0
REST_WEIGHT_OF_LARGE_GROUP: Final = 5.0
LARGE_GROUP: Final = 10
FEWEST_RUNS_TO_ADAPT: Final = 50
UNSEEN_WIDENING: Final = 1.1
_MISS_RATE_STEP: Final = 0.02
_LEAST_MISS_RATE: Final = 0.005
_MOST_MISS_RATE: Final = 0.5
_SAME: Final = 1e-9
_BUILTIN: Final[Mapping[Quantity, Mapping[float, tuple[float, ...]]]] = {
    "joules": builtin.JOULES,
    "seconds": builtin.SECONDS,
}
_QUANTITIES: Final[tuple[Quantity, ...]] = ("joules", "seconds")


class _Own(NamedTuple):
    """Of a group: how many runs have scores, and these scores, rising."""

    runs: int
    scores: Mapping[tuple[Quantity, float], Sequence[float]]


class Calibration:
    """The ended runs that forecasts learn from, and the miss rates that they aim at.

    Runs are added in the order of their ends, and the same runs in the same order give the same calibration. Of the
    fleet, and of each of the 1,000 groups that ended last, the newest 200 runs count.
    """

    def __init__(self, runs: Iterable[EndedRun] = ()) -> None:
        self._fleet: deque[tuple[EndedRun, _Scores]] = deque(maxlen=WINDOW_RUNS)
        self._groups: dict[str, deque[tuple[EndedRun, _Scores]]] = {}
        self._miss_rates: dict[tuple[Quantity, Basis, bool], float] = {}
        self._rest: dict[tuple[Quantity, float, bool], Layer] = {}
        self._own: dict[str, _Own] = {}
        self._usual: Usual | None = None
        self._known: dict[str, GroupCalibration] = {}
        for run in runs:
            self.add(run)

    def add(self, run: EndedRun) -> None:
        """Learn from a run that has just ended."""
        scores = _usable(run)
        if scores:
            self._adapt(run.group, scores)
        self.remember(run)

    def remember(self, run: EndedRun) -> None:
        """Learn from a run that ended long ago: its scores count, but no miss rate moves."""
        scores = _usable(run)
        if scores:
            self._fleet.append((run, scores))
            self._rest.clear()
            self._usual = None
            self._known.clear()
        if run.group:
            of_group = self._groups.pop(run.group, None) or deque(maxlen=WINDOW_RUNS)
            of_group.append((run, scores))
            self._groups[run.group] = of_group
            self._known.pop(run.group, None)
            self._own.pop(run.group, None)
            if len(self._groups) > MOST_GROUPS:
                oldest = next(iter(self._groups))
                del self._groups[oldest]
                self._own.pop(oldest, None)

    def copy(self) -> "Calibration":
        """One that learns on by itself."""
        twin = Calibration()
        twin._fleet = self._fleet.copy()
        twin._groups = {group: runs.copy() for group, runs in self._groups.items()}
        twin._miss_rates = self._miss_rates.copy()
        return twin

    def for_group(self, group: str) -> GroupCalibration:
        """What to make of the forecasts of `group`; "" is no group, and as one that was never seen."""
        name = group if group in self._groups else ""
        if name not in self._known:
            runs = tuple(run for run, _ in self._groups.get(name, ()))
            own = self._scores_of(name)
            bands = {
                quantity: tuple(self._band(quantity, checkpoint, own, widened=True) for checkpoint in CHECKPOINTS)
                for quantity in _QUANTITIES
            }
            self._known[name] = GroupCalibration(
                bands, len(self._fleet), own.runs, runs, survival_of(runs), self._usual_epochs()
            )
        return self._known[name]

    def miss_rate(self, quantity: Quantity, basis: Basis, *, seen: bool) -> float:
        """What intervals of this basis aim at, for groups of which a run has ended, or none; 0.10 before it learns."""
        return self._miss_rates.get((quantity, basis, seen), MISS_RATE)

    def _adapt(self, group: str, scores: _Scores) -> None:
        """Move the miss rates by how the run would have been missed.

        Not before 50 runs: until then the synthetic ones make intervals wide on purpose.
        """
        if len(self._fleet) < FEWEST_RUNS_TO_ADAPT:
            return
        own = self._scores_of(group)
        for quantity in _QUANTITIES:
            missed: dict[Basis, list[bool]] = {"group": [], "fleet": [], "builtin": []}
            for checkpoint, score in scores.items():
                band = self._band(quantity, checkpoint, own, widened=False)
                missed[band.basis].append(not band.holds(score.joules if quantity == "joules" else score.seconds))
            for basis, misses in missed.items():
                if misses and basis != "builtin":
                    rate = self.miss_rate(quantity, basis, seen=own.runs > 0)
                    rate += _MISS_RATE_STEP * (MISS_RATE - sum(misses) / len(misses))
                    self._miss_rates[quantity, basis, own.runs > 0] = min(max(rate, _LEAST_MISS_RATE), _MOST_MISS_RATE)

    def _usual_epochs(self) -> Usual | None:
        if self._usual is None:
            told = [run for run, _ in self._fleet if min(run.epoch_seconds, run.epoch_joules) > 0]
            if told:
                seconds, watts = (
                    [run.epoch_seconds for run in told],
                    [run.epoch_joules / run.epoch_seconds for run in told],
                )
                self._usual = Usual((min(seconds), max(seconds)), (min(watts), max(watts)))
        return self._usual

    def _scores_of(self, group: str) -> _Own:
        if group not in self._own:
            runs = [scores for _, scores in self._groups.get(group, ()) if scores]
            places = [(quantity, checkpoint) for quantity in _QUANTITIES for checkpoint in CHECKPOINTS]
            own = _Own(len(runs), {place: sorted(_scores_at(runs, *place)) for place in places})
            if not runs:
                return own
            self._own[group] = own
        return self._own[group]

    def _band(self, quantity: Quantity, checkpoint: float, own: _Own, *, widened: bool) -> Band:
        """The group's scores, each of weight 1, beside those of the rest, which share 10, or 5 beside a large group.

        For a kind never seen, kinds are what comes and goes alike, not runs: each weighs 1, and its runs share that
        (hierarchical conformal prediction: Lee, Barber and Willett, arXiv 2306.06342).
        """
        rest = self._fleet_scores(quantity, checkpoint, by_kind=not own.runs)
        fleet_weight = rest.before[-1] - BUILTIN_WEIGHT
        basis: Basis = "fleet" if fleet_weight >= BUILTIN_WEIGHT * (1 - _SAME) else "builtin"
        mine = own.scores[quantity, checkpoint]
        if not mine:
            band = layered_band(rest, 1.0, (), self.miss_rate(quantity, basis, seen=own.runs > 0), basis)
            return band.stretched(UNSEEN_WIDENING) if widened and not own.runs else band
        weight = REST_WEIGHT_OF_LARGE_GROUP if len(mine) >= LARGE_GROUP else REST_WEIGHT
        share = weight / (fleet_weight + BUILTIN_WEIGHT)
        if len(mine) >= share * max(fleet_weight, BUILTIN_WEIGHT):
            basis = "group"
        return layered_band(rest, share, mine, self.miss_rate(quantity, basis, seen=True), basis)

    def _fleet_scores(self, quantity: Quantity, checkpoint: float, *, by_kind: bool) -> Layer:
        """The fleet's scores, each of weight 1, or each kind's together, and the synthetic ones, which share 10.

        Nobody knows the kind of a run without a group: it is one of its own.
        """
        key = (quantity, checkpoint, by_kind)
        if key not in self._rest:
            passed = _last_passed([scores for _, scores in self._fleet], checkpoint)
            found = [(run.group, getattr(scores[passed], quantity)) for run, scores in self._fleet if passed in scores]
            sizes = Counter(group if by_kind else "" for group, _ in found)
            fleet = sorted((score, 1 / sizes[group] if group in sizes and group else 1.0) for group, score in found)
            synthetic = fitted(_BUILTIN[quantity][checkpoint], fleet)
            weight = BUILTIN_WEIGHT / len(synthetic)
            self._rest[key] = layer(sorted([*fleet, *((value, weight) for value in synthetic)]))
        return self._rest[key]


def _usable(run: EndedRun) -> _Scores:
    return {one.epochs: one for one in run.scores if one.epochs in CHECKPOINTS and math.isfinite(sum(one))}


def _scores_at(runs: Sequence[_Scores], quantity: Quantity, checkpoint: float) -> list[float]:
    """One score of each run at `_last_passed`."""
    passed = _last_passed(runs, checkpoint)
    return [getattr(run[passed], quantity) for run in runs if passed in run]


def _last_passed(runs: Sequence[_Scores], checkpoint: float) -> float:
    """`checkpoint`; where no run has a score there, the last checkpoint before that any has."""
    earlier = reversed(CHECKPOINTS[: CHECKPOINTS.index(checkpoint) + 1])
    return next((passed for passed in earlier if any(passed in run for run in runs)), checkpoint)


BUILTIN: Final = Calibration().for_group("")
"""Before any run has ended."""
