"""A training job of the demo: a small neural network that really learns two entangled spirals, in numpy on the CPU.

Its name and the Pushgateway come from CARBON_TRAINING_JOB and CARBON_PUSHGATEWAY_URL.
"""

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Sequence

import numpy as np

from carbon_exporter.push import Progress

BATCH = 256
LEARNING_RATE = 0.05
MOMENTUM = 0.9


class Network:
    """Two hidden layers of `width` tanh units between a point of the plane and the odds of its class."""

    def __init__(self, width: int, random: np.random.Generator) -> None:
        sizes = [2, width, width, 1]
        self._weights = [
            random.normal(0, 1 / np.sqrt(rows), (rows, columns)) for rows, columns in itertools.pairwise(sizes)
        ]
        self._biases = [np.zeros(columns) for columns in sizes[1:]]
        self._speeds = [np.zeros_like(parameter) for parameter in [*self._weights, *self._biases]]

    def step(self, points: np.ndarray, labels: np.ndarray) -> float:
        """One step of stochastic gradient descent on a batch; the batch's mean cross-entropy before it."""
        layers = [points]
        for weight, bias in zip(self._weights[:-1], self._biases[:-1], strict=True):
            layers.append(np.tanh(layers[-1] @ weight + bias))
        odds = 1 / (1 + np.exp(-(layers[-1] @ self._weights[-1] + self._biases[-1])[:, 0]))
        error = ((odds - labels) / len(labels))[:, None]
        weight_slopes: list[np.ndarray] = []
        bias_slopes: list[np.ndarray] = []
        for number in reversed(range(len(self._weights))):
            weight_slopes.insert(0, layers[number].T @ error)
            bias_slopes.insert(0, error.sum(axis=0))
            error = (error @ self._weights[number].T) * (1 - layers[number] ** 2)
        parameters = [*self._weights, *self._biases]
        for parameter, speed, slope in zip(parameters, self._speeds, [*weight_slopes, *bias_slopes], strict=True):
            np.subtract(MOMENTUM * speed, LEARNING_RATE * slope, out=speed)
            np.add(parameter, speed, out=parameter)
        odds = odds.clip(1e-9, 1 - 1e-9)
        return float(-np.mean(labels * np.log(odds) + (1 - labels) * np.log(1 - odds)))


def spirals(points: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`points` points of two entangled spirals, and which of the two (0 or 1) each lies on."""
    labels = random.integers(0, 2, points)
    turn = random.uniform(0.5, 3.0, points)
    angle = turn * np.pi + labels * np.pi
    place = np.stack([turn * np.cos(angle), turn * np.sin(angle)], axis=1)
    return place + random.normal(0, 0.05, place.shape), labels


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, print the loss of each epoch, push each epoch. The exit status: 0 if the network learnt."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--epoch-seconds", type=float, default=2.0, help="how long an epoch is to take, about")
    parser.add_argument("--budget-grams", type=float)
    chosen = parser.parse_args(arguments)
    random = np.random.default_rng(1)
    network = Network(chosen.width, random)
    steps = _steps_in(chosen.epoch_seconds, chosen.width)
    place, labels = spirals(BATCH * 64, random)
    losses = []
    # The demo's whole Pushgateway goes away in the end; deleting the group would only hide its last state.
    with Progress(epochs=chosen.epochs, budget_grams=chosen.budget_grams, delete_after_seconds=None) as progress:
        for epoch in progress.epochs():
            total = 0.0
            for _ in range(steps):
                batch = random.integers(0, len(labels), BATCH)
                total += network.step(place[batch], labels[batch])
            losses.append(total / steps)
            print(f"epoch {epoch + 1}/{chosen.epochs} loss {losses[-1]:.4f}", flush=True)
    return 0 if losses[-1] < losses[0] / 2 else 1


def _steps_in(seconds: float, width: int) -> int:
    """How many steps take about so much CPU time here, so that the demo lasts as long on any machine."""
    random = np.random.default_rng(0)
    network = Network(width, random)
    place, labels = spirals(BATCH, random)
    rates = []
    for _ in range(5):
        started, steps = time.thread_time(), 0
        while (elapsed := time.thread_time() - started) < 0.1:
            network.step(place, labels)
            steps += 1
        rates.append(steps / elapsed)
    return max(1, round(statistics.median(rates) * seconds))


if __name__ == "__main__":
    sys.exit(main())
