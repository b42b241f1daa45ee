"""What it costs a script that its models are watched: its steps after the recorded ones, and those that are recorded.

``python -m tests.bench.watched`` prints these figures alone; ``make bench`` has them among the others.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from statistics import median

import torch
from torch import nn

from tests.bench.figure import Figure
from twinkle_tune import watching

STEPS, ROUNDS, RECORDED = 50, 61, 2
"""Steps of a timed block, blocks of each kind, and calls that are recorded before a block."""


class Training:
    """A training of 14 small layers, by hand: forward, loss, backward, optimizer; a step takes about a millisecond."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        layers = [each for _ in range(7) for each in (nn.Linear(32, 32), nn.GELU())]
        self.model = nn.Sequential(*layers, nn.Linear(32, 4))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.inputs, self.labels = torch.randn(16, 32), torch.randint(0, 4, (16,))

    def step(self) -> None:
        """One step."""
        nn.functional.cross_entropy(self.model(self.inputs), self.labels).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad()

    def block_s(self, steps: int) -> float:
        """Processor seconds of so many steps, by the median one: others on the machine disturb the caches of some."""
        took = []
        for _ in range(steps):
            began = time.process_time()
            self.step()
            took.append(time.process_time() - began)
        return steps * median(took)


def after_cost() -> Figure:
    """A step of a training that is watched, after the recorded ones, over one of a training that is not."""
    training, chance, samples = Training(), random.Random(0), []
    training.block_s(STEPS)
    for _ in range(ROUNDS):
        took = {
            watched: _block(training, watching(training.model, calls=RECORDED) if watched else nullcontext(), RECORDED)
            for watched in chance.sample((False, True), 2)
        }
        samples.append(took[True] / took[False])
    return Figure(
        name="a watched script's step, after the recorded ones", unit="of its time", samples=tuple(samples), goal=1.03
    )


def recorded_cost() -> Figure:
    """What describing a call adds to the step that makes it, in a model of 15 layers."""
    training, chance, samples = Training(), random.Random(1), []
    training.block_s(STEPS)
    for _ in range(ROUNDS):
        took = {
            watched: _block(training, watching(training.model, calls=10 * STEPS) if watched else nullcontext(), 1)
            for watched in chance.sample((False, True), 2)
        }
        samples.append((took[True] - took[False]) / STEPS * 1e6)
    return Figure(name="describing a call of a watched script", unit="us", samples=tuple(samples))


def _block(training: Training, watched: AbstractContextManager[object], first: int) -> float:
    gc.collect()
    with watched:
        training.block_s(first)
        return training.block_s(STEPS)


WATCHED: Sequence[Callable[[], Figure]] = (after_cost, recorded_cost)

if __name__ == "__main__":
    for measure in WATCHED:
        figure = measure()
        print(f"{figure.name}: {figure.text} (goal: {figure.goal_text})")
