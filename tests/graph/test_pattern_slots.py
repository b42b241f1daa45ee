"""Pieces of real blocks are found by what is computed, contested as any slot, bound, and taken back."""

from __future__ import annotations

import inspect
import operator
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from tests.graph.families import PLACES, SIDE_BY_SIDE, inputs_of, model_of
from tests.graph.toys import Added, Stack
from tests.today import of_today
from tests.zoo.quick import SETTINGS, Quick
from twinkle_tune import (
    kernelize_model,
    kernelize_report,
    load_profile,
    register_pattern_kernel,
    restore_model,
    tune_model,
)
from twinkle_tune.call.arguments import Call
from twinkle_tune.catalog.block import outermost_blocks
from twinkle_tune.errors import GraphError, RegistrationError
from twinkle_tune.graph.form import Form
from twinkle_tune.graph.trace import trace
from twinkle_tune.kernel.pieces import usual_pieces
from twinkle_tune.kernel.registry import Registry
from twinkle_tune.mode import Mode
from twinkle_tune.outcome import Measurement, Rejection
from twinkle_tune.parity.check import check
from twinkle_tune.parity.verdict import Pass
from twinkle_tune.profile.schema import Profile
from twinkle_tune.slot import ORIGINAL, SlotKind
from twinkle_tune.testing import with_winner
from twinkle_tune.tune.little import Little

MODES = (Mode.INFERENCE, Mode.TRAIN)
CASES = [(family, mode) for family in PLACES for mode in MODES]


def profile_of(model: nn.Module, inputs: dict[str, Tensor], mode: Mode, *others: Any, **more: Any) -> Profile:
    """A profile of the pieces alone, by a clock that takes no time; of further inputs, too."""
    wanted = {"candidates": ["torch"], "settings": SETTINGS, "executor": Quick(), **more}
    tune = "twinkle_tune.tune.tune"
    with patch(f"{tune}.find_slots", lambda *a, **k: ()), patch(f"{tune}.little_of", lambda *a: Little()):
        return tune_model(model, [dict(each) for each in (inputs, *others)], mode=mode, device="cpu", **wanted)


def _given(model: nn.Module, **inputs: Any) -> Tensor:
    caches = "use_cache" in inspect.signature(type(model).forward).parameters
    more = {"use_cache": False} if caches else {}
    made = model(**inputs, **more)
    return made.loss if "labels" in inputs else made.logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("family", PLACES)
def test_each_place_is_found(family: str) -> None:
    """In every layer, by what stands in its graph; the model is not run for that."""
    assert Counter(piece.slot.name for piece in usual_pieces(model_of(family), Registry())) == PLACES[family]


@pytest.mark.parametrize("family", SIDE_BY_SIDE)
def test_side_by_side_no_block_norms_a_sum(family: str) -> None:
    """The block is a graph and has its sums, but nothing that follows from one is a norm: so there is no place."""
    model = model_of(family)
    (block,) = {type(part): part for part in outermost_blocks(model)}.values()
    traced = trace(block, Form.usual(type(block).forward, training=False))
    summed = {node for node in traced.graph.nodes if node.target is operator.add}
    assert len(summed) >= 2
    for node in traced.graph.nodes:  # in order: what follows from a sum comes after it
        summed |= {node} if summed & set(node.all_input_nodes) else set()
    assert {node.op for node in summed} == {"call_function", "output"}
    assert not [piece for piece in usual_pieces(model, Registry()) if piece.slot.name == "AddNorm"]


@pytest.mark.parametrize(("family", "mode"), of_today(CASES, 20))
def test_a_family_is_contested_and_bound(family: str, mode: Mode) -> None:
    """Every candidate is right; outputs and gradients of the whole model pass the rule; restoring is exact."""
    _hold(family, mode)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "mode"), CASES)
def test_every_family_is_contested_and_bound(family: str, mode: Mode) -> None:
    """The same of all of them."""
    _hold(family, mode)


def _hold(family: str, mode: Mode) -> None:
    model, inputs = model_of(family), inputs_of(family, trains=mode.trains)
    for part in model.modules():  # what is drawn at random would differ
        drops = [n for n, v in vars(part).items() if type(v) is float and ("drop" in n or isinstance(part, nn.Dropout))]
        vars(part).update(dict.fromkeys(drops, 0.0))
    profile = with_winner(profile_of(model, inputs, mode))
    contests = [contest for contest in profile.contests if contest.slot.kind is SlotKind.PATTERN]
    assert contests
    for contest in contests:
        assert {t.candidate for t in contest.trials if isinstance(t.outcome, Measurement)} > {ORIGINAL}, contest
        assert all(isinstance(t.outcome, Measurement) for t in contest.trials), contest.trials
    model.train(mode.trains)
    signatures = {path: inspect.signature(m.forward) for path, m in model.named_modules()}
    names = [name for name, _ in model.named_parameters()]
    with torch.no_grad():
        before = _given(model, **inputs)

    def bound(module: nn.Module, **given: Any) -> Tensor:
        kernelize_model(module, profile=profile, use_fallback=False)
        try:
            assert kernelize_report(module).bound
            assert {path: inspect.signature(m.forward) for path, m in module.named_modules()} == signatures
            return _given(module, **given)
        finally:
            restore_model(module)

    verdict = check(_given, bound, [Call(args=(), kwargs=inputs)], module=model, trains=mode.trains)
    assert isinstance(verdict, Pass), verdict
    assert [name for name, _ in model.named_parameters()] == names
    with torch.no_grad():
        assert torch.equal(_given(model, **inputs), before)


class Residual(nn.Module):
    """A pattern of the user's: what the catalog knows as AddNorm, in the toys."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(1)

    def forward(self, x: Tensor, y: Tensor) -> Any:
        """The sum and its norm."""
        total = x + y
        return total, self.norm(total)


def right(self: Any, x: Tensor, y: Tensor) -> Any:
    """What it computes."""
    total = x + y
    norm = self.norm
    return total, torch.layer_norm(total, total.shape[-1:], norm.weight, norm.bias, norm.eps)


def _normed(self: Any, total: Tensor, eps: float | None = None, *, bias: bool = True) -> Tensor:
    norm = self.norm
    small = norm.eps if eps is None else eps
    return torch.layer_norm(total, total.shape[-1:], norm.weight, norm.bias if bias else None, small)


def drops_the_residual(self: Any, x: Tensor, y: Tensor) -> Any:
    """Norms the block's output alone."""
    return x + y, _normed(self, x)


def gives_one_term(self: Any, x: Tensor, y: Tensor) -> Any:
    """The stream that goes on lacks the residual."""
    return x, _normed(self, x + y)


def another_epsilon(self: Any, x: Tensor, y: Tensor) -> Any:
    """Of torch's other norm."""
    return x + y, _normed(self, x + y, 1e-3)


def forgets_the_bias(self: Any, x: Tensor, y: Tensor) -> Any:
    """The weight alone."""
    return x + y, _normed(self, x + y, bias=False)


def no_gradient_to_the_residual(self: Any, x: Tensor, y: Tensor) -> Any:
    """Right forward, wrong backward."""
    total = x + y.detach()
    return total, _normed(self, total)


WRONG = (drops_the_residual, gives_one_term, another_epsilon, forgets_the_bias, no_gradient_to_the_residual)


def _with(*replacements: Any) -> Registry:
    registry = Registry()
    for replacement in replacements:
        register_pattern_kernel("Residual", Residual, replacement, device="cpu", registry=registry)
    return registry


def _stack() -> Stack:
    """With biases and weights that matter."""
    model = Stack()
    for part in model.modules():
        if isinstance(part, nn.LayerNorm):
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    return model


def test_wrong_replacements_are_refused() -> None:
    """Without the residual, a bias or a gradient, with another epsilon: refused by parity. The right one is not."""
    model, inputs = _stack().train(), {"x": torch.randn(4, 8, requires_grad=True)}
    profile = profile_of(model, inputs, Mode.TRAIN, candidates=["impl"], registry=_with(right, *WRONG))
    (contest,) = [c for c in profile.contests if c.slot.name == "Residual"]
    refused = {t.candidate: t.outcome.stage for t in contest.trials if isinstance(t.outcome, Rejection)}
    assert refused == {f"impl:{each.__name__}": "parity" for each in WRONG}


def test_a_registered_pattern_takes_the_catalogs_place(tmp_path: Path) -> None:
    """Its kernel is contested in place of AddNorm, kept in the profile's text, bound where it won, and reported."""
    model, inputs, registry = _stack().eval(), {"x": torch.randn(4, 8)}, _with(right)
    profile = profile_of(model, inputs, Mode.INFERENCE, candidates=["impl"], registry=registry)
    assert {c.slot.name for c in profile.contests} == {"Residual"}
    with_winner(profile).save(tmp_path / "p.json")
    again = load_profile(tmp_path / "p.json")
    with torch.no_grad():
        before = model(**inputs)
        kernelize_model(model, profile=again, registry=registry, use_fallback=False)
        assert [str(b.slot) for b in kernelize_report(model).bound] == ["Residual", "Residual"]
        torch.testing.assert_close(model(**inputs), before)
        restore_model(model)
        with pytest.warns(UserWarning, match="is it the one that was profiled|its norms or settings changed"):
            kernelize_model(model, profile=again, registry=Registry())
    assert kernelize_report(model).bound == ()


def test_a_pattern_kernel_is_of_a_module() -> None:
    """A function is refused with what to do; a second pattern of the same name, with both."""
    registry = _with(right)
    with pytest.raises(GraphError, match="got the function right, expected a module"):
        register_pattern_kernel("Other", right, right, registry=registry)  # type: ignore[arg-type]
    with pytest.raises(RegistrationError, match="it is Residual already, got Added"):
        register_pattern_kernel("Residual", Added, right, registry=registry)
