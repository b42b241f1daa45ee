"""A training step of several micro-batches: their gradients add up, and one optimizer's step comes after them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.capture.tiny_models import tiny, token_ids
from twinkle_tune import tune_model
from twinkle_tune.capture.held_out import tried_steps
from twinkle_tune.capture.look import apart
from twinkle_tune.capture.optimizer import OptimizerStep
from twinkle_tune.capture.step import make_steps
from twinkle_tune.errors import ModeError
from twinkle_tune.mode import Mode


def test_gradients_add_up_as_in_a_trainers_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of three micro-batches with other values each, the loss divided by three; the step is timed as a whole."""
    model: Any = tiny("llama").train()
    ids, optimizer = token_ids(2, 5), OptimizerStep()
    (step,) = make_steps(model, ids, Mode.TRAIN, "cpu", optimizer, accumulate=3)
    assert step.label == "train 2x5 *3"
    for by in range(3):
        turned = ids.roll(by, -1)
        (model(input_ids=turned, labels=turned).loss / 3).backward()
    norms = [p.grad.norm().double() for p in model.parameters()]
    model.zero_grad()
    torch.testing.assert_close(step.look(model).gradients, torch.stack(norms))
    steps: list[int] = []
    monkeypatch.setattr(OptimizerStep, "_step", lambda self, model: steps.append(1))
    step.run(model)
    assert steps == [1]
    assert all(p.grad is None for p in model.parameters())


def test_without_a_loss_the_gradients_of_each_output_add_up() -> None:
    """Each micro-batch goes back from the same gradient; one of a single micro-batch is as it was."""
    model, x = nn.Linear(4, 4), torch.randn(2, 4)
    (one,) = make_steps(model, x, Mode.TRAIN, "cpu")
    (two,) = make_steps(model, x, Mode.TRAIN, "cpu", accumulate=2)
    assert (one.label, two.label) == ("train", "train *2")
    torch.testing.assert_close(two.look(model).gradients[1], 2 * one.look(model).gradients[1])


class Columns(nn.Module):
    """Each column has a vocabulary of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleList(nn.Embedding(count, 2) for count in (3, 50))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(rows, 2) to (rows, 2)."""
        first, second = (inner(features[:, i]) for i, inner in enumerate(self.inner))
        return first + second  # type: ignore[no-any-return]


def test_other_inputs_than_tokens_change_by_their_rows() -> None:
    """What stands in one column may be no value of another: a model takes its own rows in any order."""
    model, features = Columns(), torch.tensor([[0, 40], [2, 49]])
    (step,) = make_steps(model, {"features": features}, Mode.TRAIN, "cpu", accumulate=3)
    (one,) = make_steps(model, {"features": features}, Mode.TRAIN, "cpu")
    torch.testing.assert_close(step.look(model).gradients[0] > 0, one.look(model).gradients[0] > 0)


def test_who_keeps_the_last_gradient_alone_is_told_apart() -> None:
    """What is right in a step of one micro-batch may be wrong here: gradients that are written over."""
    model, wrong = nn.Linear(4, 4), nn.Linear(4, 4)
    wrong.load_state_dict(model.state_dict())
    for parameter in wrong.parameters():
        # The sum so far is taken away again before it is added to.
        parameter.register_hook(lambda gradient, of=parameter: gradient if of.grad is None else gradient - of.grad)  # type: ignore[no-untyped-call]
    x = torch.randn(2, 4)
    for count, same in ((1, True), (2, False)):
        (step,) = make_steps(model, x, Mode.TRAIN, "cpu", accumulate=count)
        assert (apart(step.look(model), step.look(wrong))["gradients"] < 1e-6) is same


def test_the_other_sizes_have_as_many() -> None:
    """Where ways compete, a step that is held out is one of as many micro-batches; no step of inference has any."""
    model: Any = tiny("llama")
    (tried,) = tried_steps(model.train(), token_ids(2, 8), Mode.TRAIN, "cpu", accumulate=2)
    assert tried.held_out
    assert all(step.label.endswith(" *2") for step in tried.all)
    labels = [step.label for step in make_steps(model.eval(), token_ids(), Mode.INFERENCE, "cpu", accumulate=2)]
    assert not any("*" in label for label in labels)


class Doubles(nn.Module):
    """A layer that is seen in each forward."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, 4) to the same."""
        made: Tensor = self.inner(x) * 2
        return made


@pytest.mark.parametrize(
    ("mode", "accumulate", "message"),
    [
        ("inference", 2, "accumulate: got 2 in mode inference, expected a mode that trains"),
        ("train", 0, "accumulate: got 0, expected a number of micro-batches, at least 1"),
        ("train", True, "accumulate: got True, expected a number"),
    ],
)
def test_what_cannot_be_is_one_error(mode: str, accumulate: Any, message: str) -> None:
    """With what was given and what was expected."""
    with pytest.raises(ModeError, match=message):
        tune_model(Doubles(), torch.randn(2, 4), mode=mode, accumulate=accumulate)
