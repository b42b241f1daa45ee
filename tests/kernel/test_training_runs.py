"""Training while the model runs another way: losses are the original's, as far as roundings let them be."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends.debugging import aot_eager
from torch._inductor import compile_fx as inductor
from transformers import Trainer, TrainingArguments

from tests.catalog.catalog_families import tiny
from tests.kernel.test_generation import spied
from tests.kernel.test_setups import calls_in, profile_of
from twinkle_tune import kernelize_model, restore_model
from twinkle_tune.contest.agree import Noise, _noisy_everywhere, in_words
from twinkle_tune.kernel.kernelize import bind_plan
from twinkle_tune.mode import Mode

pytestmark = pytest.mark.usefixtures("compiled_anew")

STEPS, FEW, PARTS = 20, 8, 2
"""Optimizer steps, those of each day, and backwards whose gradients add up for each."""
Run = Callable[[Any, int], list[float]]


def rows() -> list[dict[str, Tensor]]:
    """Texts of twelve tokens."""
    ids = torch.randint(3, 60, (STEPS * PARTS * 2, 12), generator=torch.Generator().manual_seed(3))
    return [{"input_ids": each, "labels": each} for each in ids]


def by_a_loop(model: Any, steps: int) -> list[float]:
    """Losses of each backward of a plain loop with AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses, given = [], rows()
    for part in range(steps * PARTS):
        ids = torch.stack([row["input_ids"] for row in given[2 * part : 2 * part + 2]])
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        (loss / PARTS).backward()
        losses.append(float(loss.detach()))
        if part % PARTS == PARTS - 1:
            optimizer.step()
            optimizer.zero_grad()
    return losses


def by_a_trainer(model: Any, steps: int, folder: Path) -> list[float]:
    """Losses of each step of transformers' Trainer, with gradient accumulation."""
    settings = TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=2, gradient_accumulation_steps=PARTS,
        learning_rate=1e-3, logging_steps=1, report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True, seed=0,
    )  # fmt: skip
    trainer = Trainer(model=model, args=settings, train_dataset=rows())
    trainer.train()
    return [each["loss"] for each in trainer.state.log_history if "loss" in each]


@contextmanager
def rounded_otherwise(model: Any, seed: int) -> Iterator[None]:
    """Each layer's results are off by a rounding."""
    bind_plan(model, _noisy_everywhere(model, Noise(seed)))
    yield
    restore_model(model)


def run_on(plain: Any, run: Run, around: Callable[[Any], AbstractContextManager[object]], steps: int) -> list[float]:
    """The losses of a run on a copy of a model."""
    model = copy.deepcopy(plain)
    with around(model):
        return run(model, steps)


def hold_to_the_original(run: Run, family: str, way: str, calls: list[int], steps: int = STEPS) -> None:
    """Bind a way for the calls that a run makes of a model, and compare the run's losses; and outputs when restored."""
    plain = tiny(family).train()
    first = copy.deepcopy(plain)
    seen = calls_in(first, partial(run, first, 1))
    losses = run_on(plain, run, lambda model: nullcontext(), steps)
    rounded = [run_on(plain, run, partial(rounded_otherwise, seed=seed), steps) for seed in range(3)]
    model = copy.deepcopy(plain)
    kernelize_model(model, profile=replace(profile_of(model, way, calls=list(dict.fromkeys(seen))), mode=Mode.TRAIN))
    calls.clear()
    found = run(model, steps)
    assert len(calls) >= steps * PARTS
    assert len(found) == len(losses) >= steps
    for index, loss in enumerate(losses):
        noise = max(abs(other[index] - loss) / loss for other in rounded)
        figures = {"loss": abs(found[index] - loss) / loss}
        assert in_words(figures, {"loss": noise}, {"loss": torch.finfo(torch.float32).eps}) == "", (index, losses)
    assert losses[-1] != losses[0]
    restore_model(model)
    twin = copy.deepcopy(plain)
    twin.load_state_dict(model.state_dict())
    ids = rows()[0]["input_ids"][None]
    with torch.no_grad():
        assert torch.equal(model.eval()(input_ids=ids).logits, twin.eval()(input_ids=ids).logits)


@pytest.mark.parametrize("trains", ["loop", "trainer"])
def test_losses_are_the_originals(trains: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Eight steps of two backwards each, with compiled code that is not turned into machine code."""
    calls = spied(monkeypatch, aot_eager)
    run = by_a_loop if trains == "loop" else partial(by_a_trainer, folder=tmp_path)
    hold_to_the_original(run, "llama", "compile", calls, steps=FEW)


class Viewed(nn.Module):
    """Gives a view of what it computes beside it, and keeps running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.inner = nn.BatchNorm1d(8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(rows, 8) to the same, and to all of it in a row."""
        y = self.norm(self.inner(x))
        return y, y.view(-1)


def test_running_statistics_are_written_once_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the first call as well, where it turns out that the backward of a view cannot be the compiled one's."""
    calls = spied(monkeypatch, aot_eager)
    twin, x = Viewed(), torch.randn(16, 8)
    model = copy.deepcopy(twin)
    seen = calls_in(other := copy.deepcopy(twin), lambda: other(x))
    kernelize_model(model, profile=replace(profile_of(model, "compile", calls=seen), mode=Mode.TRAIN))
    for _ in range(3):
        for each in (model, twin):
            each.zero_grad()
            (each(x)[0].square().sum() + each.inner.weight.sum()).backward()
        torch.testing.assert_close(model.state_dict(), twin.state_dict())
        for one, other_ in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other_.grad)
    assert calls


@pytest.mark.slow
@pytest.mark.parametrize("way", ["compile", "compile dynamic", "compile blocks"])
@pytest.mark.parametrize("family", ["qwen3", "gemma3_text"])
def test_compiled_by_inductor_they_are_too(
    family: str, way: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By a Trainer."""
    calls = spied(monkeypatch, inductor.compile_fx)
    hold_to_the_original(partial(by_a_trainer, folder=tmp_path), family, way, calls)
