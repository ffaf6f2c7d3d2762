"""How the holders of a GPU share its joules: by time, by slice, by use. Pure.

All ratios are of the joules that one GPU used between two readings.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from carbon_exporter.node.holders import SYSTEM, Part

_NOBODY: Final[frozenset[str]] = frozenset()


class Interval(NamedTuple):
    """Between two readings: who held each part at the first, when both were, and since when each (part, holder) is."""

    holders_before: Mapping[str, frozenset[str]]
    begin_seconds: float
    end_seconds: float
    started_seconds: Mapping[tuple[str, str], float]


@dataclass(slots=True)
class Split:
    """What becomes of a GPU's joules: ratios that add up to 1.

    `holders` may hold SYSTEM. `equally` is the ratio that was shared equally for want of better knowledge; it lies
    within that of the holders.
    """

    holders: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    idle: float = 0.0
    equally: float = 0.0

    def add(self, phase: "Split") -> None:
        """Add what became of one phase."""
        for name, ratio in phase.holders.items():
            self.holders[name] += ratio
        self.idle += phase.idle
        self.equally += phase.equally


class _Phase(NamedTuple):
    ratio: float
    holders: frozenset[str]


def split(parts: Sequence[Part], idle_ratio: float, sm_weights: Mapping[str, float], interval: Interval) -> Split:
    """Share out one GPU.

    Idle energy goes to whoever holds each part, by the part's slices. The rest goes to the parts by slices times use,
    and within a part to its only holder, or to several by SM utilisation. What nobody held is idle.

    Args:
        parts: the GPU as one part, or its MIG slices.
        idle_ratio: idle energy of all the energy; 0 where it is unknown.
        sm_weights: SM utilisation of each holder; empty where it is unknown.
        interval: see Interval.
    """
    result = Split()
    shares = _slices(parts)
    actives, by_size = _active(parts, shares, interval)
    result.idle += idle_ratio * max(0.0, 1 - sum(shares))
    for part, share, active in zip(parts, shares, actives, strict=True):
        phases, guessed = _phases(part, interval, sm_weights)
        several = len(frozenset().union(*(phase.holders for phase in phases))) > 1
        held_ratio = sum(phase.ratio for phase in phases if phase.holders)
        for ratio, holders in phases:
            active_ratio = ratio
            if idle_ratio > 0 and held_ratio > 0:
                # What is above idle was used while somebody held the part.
                active_ratio = ratio / held_ratio if holders else 0.0
            phase = Split()
            active_here = active_ratio * (1 - idle_ratio) * active
            _give(phase, holders, ratio * idle_ratio * share, active_here, sm_weights)
            if guessed and several:
                phase.equally = sum(phase.holders.values())
            elif by_size and holders:
                phase.equally = active_here
            result.add(phase)
    result.idle += (1 - idle_ratio) * max(0.0, 1 - sum(actives))
    return result


def _slices(parts: Sequence[Part]) -> list[float]:
    """The parts' shares of the GPU; equal ones where one is unknown."""
    shares = [part.share for part in parts if part.share is not None]
    if len(shares) < len(parts):
        return [1 / len(parts)] * len(parts)
    whole = max(1.0, sum(shares))
    return [share / whole for share in shares]


def _active(parts: Sequence[Part], shares: Sequence[float], interval: Interval) -> tuple[list[float], bool]:
    """Each part's ratio of the energy above idle, and whether several share it by size for want of their use."""
    if len(parts) == 1:
        return [1.0], False
    held = [bool(part.holders or interval.holders_before.get(part.uuid)) for part in parts]
    known = all(part.utilization_ratio is not None for part, is_held in zip(parts, held, strict=True) if is_held)
    pairs = list(zip(parts, shares, strict=True))
    candidates = [
        [share * (part.utilization_ratio or 0.0) for part, share in pairs] if known else [],
        [share if part.in_use else 0.0 for part, share in pairs],
        [share if is_held else 0.0 for share, is_held in zip(shares, held, strict=True)],
    ]
    for place, weights in enumerate(candidates):
        total = sum(weights)
        if total > 0:
            in_use = sum(weight > 0 for weight in weights)
            return [weight / total for weight in weights], place > 0 and in_use > 1
    return [0.0] * len(parts), False


def _give(result: Split, holders: frozenset[str], idle: float, active: float, sm_weights: Mapping[str, float]) -> None:
    """Share the ratios of one part in one phase out to `holders`; nobody's are idle: nothing ran there."""
    if not holders:
        result.idle += idle + active
        return
    result.equally += _share_active(result, holders, active, sm_weights)
    owners = holders - {SYSTEM} or holders
    for name in owners:
        result.holders[name] += idle / len(owners)


def _share_active(result: Split, holders: frozenset[str], active: float, sm_weights: Mapping[str, float]) -> float:
    """Give the holders of one phase their active ratios; what of it was shared equally."""
    weights = {name: sm_weights.get(name, 0.0) for name in holders}
    total = sum(weights.values())
    if len(holders) == 1 or total <= 0:
        for name in holders:
            result.holders[name] += active / len(holders)
        return active if len(holders) > 1 else 0.0
    for name, weight in weights.items():
        result.holders[name] += active * (weight / total)
    return 0.0


def _phases(part: Part, interval: Interval, sm_weights: Mapping[str, float]) -> tuple[list[_Phase], bool]:
    """Who held a part in which share of the interval, in order, and whether the moment of change is a guess.

    A change happened when the newcomer began, where that is known; else SM utilisation says who used it how much; else
    it was in the middle. Whoever left with nobody after held it to the end; whoever came after nobody, and when is
    unknown, from the beginning.
    """
    before, after = interval.holders_before.get(part.uuid, _NOBODY), part.holders
    if after == before or not after:
        return [_Phase(1.0, after or before)], False
    length = interval.end_seconds - interval.begin_seconds
    starts = [interval.started_seconds.get((part.uuid, name), -1.0) for name in after - before]
    if length > 0 and starts and all(interval.begin_seconds <= s <= interval.end_seconds for s in starts):
        ratio = (min(starts) - interval.begin_seconds) / length
        return [_Phase(ratio, before), _Phase(1 - ratio, after)], False
    if not before:
        return [_Phase(1.0, after)], False
    if any(sm_weights.get(name) for name in before | after):
        return [_Phase(1.0, before | after)], False
    return [_Phase(0.5, before), _Phase(0.5, after)], True


def sm_weights(
    sm_share_by_pid: Mapping[int, float], job_of: Mapping[int, str], given_to: frozenset[str]
) -> Mapping[str, float]:
    """SM utilisation of each holder, from that of the processes.

    A process of no known job counts for the system. On a GPU that was given to jobs it is one of theirs: of a job whose
    processes are hidden (no hostPID), and then nothing is known; else it came and went between two readings, and is
    left out.
    """
    weights: dict[str, float] = defaultdict(float)
    strangers = 0.0
    for pid, share in sm_share_by_pid.items():
        if pid in job_of:
            weights[job_of[pid]] += share
        else:
            strangers += share
    if strangers and not given_to:
        weights[SYSTEM] = strangers
    return {} if strangers and given_to - weights.keys() else weights
