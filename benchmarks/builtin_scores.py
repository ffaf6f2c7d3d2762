"""Makes the table in carbon_exporter/forecast/builtin.py: python -m benchmarks.builtin_scores > that file.

With --coverage it prints how often the 90 % interval of the energy holds on such runs, after how many epochs, by kind.

Synthetic training runs, a quarter steady, a quarter with a warm-up, the others with a trend (8 %), validation every 2,
5 or 10 epochs (15 %), a throttled GPU (7 %), spikes (8 %), a changed number of GPUs (5 %), or warm-up, validation
and spikes together (7 %). They are invented, and so is the mix: it stands for what nobody has seen yet, and nothing
in it was fitted to recorded runs.
"""

import math
import random
import sys
from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

from carbon_exporter.forecast.conformal import Calibration
from carbon_exporter.forecast.energy import forecast
from carbon_exporter.forecast.level import Boundary
from carbon_exporter.forecast.record import EndedRun
from carbon_exporter.forecast.scoring import CHECKPOINTS, scores_of
from carbon_exporter.forecast.summary import ended_run

KINDS = {
    "steady": 25, "warm-up": 25, "trend": 8, "validation": 15, "throttled": 7, "spikes": 8, "elastic": 5, "combined": 7,
}  # fmt: skip
RUNS = 20_000
QUANTILES = 40
SEED = 1


class Run(NamedTuple):
    """One synthetic run."""

    kind: str
    boundaries: list[Boundary]


def runs(count: int, seed: int = SEED) -> Iterator[Run]:
    """Runs of 12 to 400 epochs (log-uniform), the same for the same seed."""
    chance = random.Random(seed)
    for _ in range(count):
        (kind,) = chance.choices(list(KINDS), list(KINDS.values()))
        yield Run(kind, run(kind, round(math.exp(chance.uniform(math.log(12), math.log(400)))), chance))


def run(kind: str, epochs: int, chance: random.Random) -> list[Boundary]:
    """The boundaries of one run of a kind."""
    joules = _noise(epochs, chance)
    seconds = [1 + (rate - 1) * chance.uniform(0.5, 1.5) for rate in joules]
    for name in ("warm-up", "validation", "spikes") if kind == "combined" else (kind,):
        for index, (energy, time) in enumerate(_shape(name, epochs, chance)):
            joules[index] *= energy
            seconds[index] *= time
    ends = zip(accumulate(seconds, initial=0.0), accumulate(joules, initial=0.0), strict=True)
    return [Boundary(float(index), 100 * time, 1e5 * energy) for index, (time, energy) in enumerate(ends)]


def _noise(epochs: int, chance: random.Random) -> list[float]:
    """Around 1, each epoch remembering half of the one before; 0.3 to 4 %."""
    scatter = math.exp(chance.uniform(math.log(0.003), math.log(0.04)))
    rates, value = [], 0.0
    for _ in range(epochs):
        value = 0.5 * value + math.sqrt(0.75) * chance.gauss(0, scatter)
        rates.append(math.exp(value))
    return rates


def _shape(kind: str, epochs: int, chance: random.Random) -> list[tuple[float, float]]:
    """What energy and time of each epoch are multiplied by."""
    shape = [(1.0, 1.0)] * epochs
    if kind == "warm-up":
        surplus = chance.choice((1, 1, 1, -0.15)) * math.exp(chance.uniform(math.log(0.03), math.log(1.0)))
        decay = chance.uniform(0.2, 4.0)
        shape = [(1 + surplus * math.exp(-i / decay),) * 2 for i in range(epochs)]
    elif kind == "trend":
        rise = chance.uniform(-0.25, 0.25)
        shape = [(1 + rise * i / epochs,) * 2 for i in range(epochs)]
    elif kind == "validation":
        every, cost = chance.choice((2, 5, 10)), chance.uniform(0.05, 0.4)
        shape = [(1 + 0.8 * cost, 1 + cost) if i % every == every - 1 else (1.0, 1.0) for i in range(epochs)]
    elif kind == "throttled":
        start, longer = chance.randrange(epochs), chance.uniform(0.05, 0.3)
        shape = [(1 + 0.4 * longer, 1 + longer) if i >= start else (1.0, 1.0) for i in range(epochs)]
    elif kind == "spikes":
        often, cost = chance.uniform(0.01, 0.06), chance.uniform(0.2, 2.0)
        shape = [(1 + cost, 1 + cost) if chance.random() < often else (1.0, 1.0) for _ in range(epochs)]
    elif kind == "elastic":
        start, gpus = chance.randrange(epochs), chance.choice((0.5, 2.0))
        shape = [(gpus**0.2, gpus**-0.8) if i >= start else (1.0, 1.0) for i in range(epochs)]
    return shape


def table(count: int = RUNS) -> dict[float, tuple[list[float], list[float]]]:
    """Checkpoint -> the scores of energy and of time at QUANTILES equal shares of the runs that passed it."""
    scores = [score for run in runs(count) for score in scores_of(run.boundaries)]
    return {
        checkpoint: (
            _quantiles([score.joules for score in scores if score.epochs == checkpoint]),
            _quantiles([score.seconds for score in scores if score.epochs == checkpoint]),
        )
        for checkpoint in CHECKPOINTS
    }


def _quantiles(values: list[float]) -> list[float]:
    ordered = sorted(values)
    return [round(ordered[int(len(ordered) * (i + 0.5) / QUANTILES)], 4) + 0.0 for i in range(QUANTILES)]


def coverage(ended: int = 400, running: int = 800, seed: int = 2) -> dict[tuple[str, float], list[bool]]:
    """(kind, epochs seen) -> whether each run's energy was in its interval, once `ended` others have ended."""
    known = [_ended(one.boundaries) for one in runs(ended, seed)]
    calibration = Calibration(known).for_group("")
    held: dict[tuple[str, float], list[bool]] = {}
    for one in runs(running, seed + 1):
        end = one.boundaries[-1]
        for seen in (1, 2, 3, 5, 10):
            here = one.boundaries[seen]
            found = forecast(one.boundaries[: seen + 1], end.epochs, here.joules, here.seconds, calibration)
            if found is not None:
                held.setdefault((one.kind, float(seen)), []).append(found.joules.low <= end.joules <= found.joules.high)
    return held


def _ended(boundaries: list[Boundary]) -> EndedRun:
    run = ended_run(
        boundaries,
        training_job="",
        group="",
        ending="finished",
        ended_seconds=boundaries[-1].seconds,
        epochs_planned=boundaries[-1].epochs,
        joules=boundaries[-1].joules,
        grams=None,
        gpus=None,
    )
    if run is None:
        raise ValueError("a synthetic run has steps of energy")
    return run


def show_coverage() -> None:
    """Print a line for all kinds together, and one for each."""
    held = coverage()
    for kind in ("all", *KINDS):
        shares = []
        for seen in (1.0, 2.0, 3.0, 5.0, 10.0):
            hits = [
                hit
                for (name, epochs), all_of in held.items()
                for hit in all_of
                if epochs == seen and kind in ("all", name)
            ]
            shares.append(f"{100 * sum(hits) / len(hits):4.0f}")
        sys.stdout.write(f"{kind:12}{' '.join(shares)} % after 1, 2, 3, 5, 10 epochs\n")


HEAD = '''"""What to expect of a run before any has ended here: scores of synthetic runs, by units of work seen.

Each row holds ln(actual / level) at 1/80, 3/80, ... 79/80 of the runs. Origin: benchmarks/builtin_scores.py, which
makes this file, says what {runs:,} runs these are; they are invented, and not fitted to recorded ones.
"""

from collections.abc import Mapping
from typing import Final

# fmt: off
'''


def main() -> None:
    """Write the file."""
    out = [HEAD.format(runs=RUNS).rstrip("\n")]
    made = table()
    for number, name in enumerate(("JOULES", "SECONDS")):
        out.append(f"{name}: Final[Mapping[float, tuple[float, ...]]] = {{")
        for checkpoint, rows in made.items():
            out.append(f"    {checkpoint}: (")
            values = rows[number]
            out += [f"        {', '.join(map(str, values[i : i + 10]))}," for i in range(0, len(values), 10)]
            out.append("    ),")
        out.append("}" if number else "}\n")
    sys.stdout.write("\n".join(out) + "\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["--coverage"]:
        show_coverage()
    else:
        main()
