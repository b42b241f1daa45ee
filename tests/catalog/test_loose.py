"""MLPs whose parts stand in a block: the block's candidates are right, and touch nothing that they must not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.catalog.encoder_families import tiny
from tests.catalog.test_catalog_candidates import loaded, ready_made
from twinkle_tune.call.arguments import Call
from twinkle_tune.catalog import layer_contestants
from twinkle_tune.catalog.block import BLOCK, blocks_of
from twinkle_tune.mode import Mode
from twinkle_tune.parity.check import check
from twinkle_tune.parity.verdict import Pass, Reject
from twinkle_tune.slot import Slot, SlotKind
from twinkle_tune.workload import target_of

FAMILIES = ("opt", "bart", "whisper")


def block_of(family: str) -> nn.Module:
    """The first block of a family's model."""
    model = tiny(family)
    blocks = blocks_of(model)
    return next(module for module in model.modules() if module in blocks)


def forwards(block: nn.Module, mode: Mode) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Name and forward of each built-in candidate for a block, but for ``compile``."""
    slot = Slot(name=BLOCK, kind=SlotKind.LAYER, target=target_of(type(block)))
    for candidate in ready_made(layer_contestants(BLOCK, block, "cpu")):
        if candidate.competes("cpu", mode):
            yield candidate.name, loaded(candidate, slot, type(block).forward)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mode", [Mode.INFERENCE, Mode.TRAIN])
@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_get_candidates_that_pass_the_parity_rule(family: str, mode: Mode, dtype: torch.dtype) -> None:
    """A block with a loose MLP has a candidate of torch's own in both modes, and all pass with all gradients."""
    block: Any = block_of(family).to(dtype).train(mode.trains)
    x = torch.randn(2, 6, 32).to(dtype).requires_grad_(mode.trains)
    found = dict(forwards(block, mode))
    assert found
    for name, forward in found.items():
        call = Call(args=(x, None), kwargs={})
        verdict = check(type(block).forward, forward, [call], module=block, trains=mode.trains)
        assert isinstance(verdict, Pass), (name, verdict)


@pytest.mark.parametrize("family", ["bart", "whisper"])
def test_recomputing_in_a_block_competes_in_training_alone(family: str) -> None:
    """Where nothing is kept for a backward it would be the original: there it takes nobody's time."""
    block = block_of(family)
    assert "torch.recompute" in dict(forwards(block, Mode.TRAIN))
    assert not any("recompute" in name for name, _ in forwards(block, Mode.INFERENCE))


@pytest.mark.parametrize("family", FAMILIES)
def test_dropouts_of_a_block_draw_as_the_originals(family: str) -> None:
    """With every dropout of the block on, from one seed the same elements are dropped, also between its Linears."""
    block: Any = block_of(family).train()
    block.dropout = 0.5
    if hasattr(block, "activation_dropout"):
        block.activation_dropout = 0.5
    x = torch.randn(2, 6, 32)
    for _, forward in forwards(block, Mode.TRAIN):
        results = []
        for call in (type(block).forward, forward):
            torch.manual_seed(3)
            results.append(call(block, x, None))
        torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-5)


class Part(nn.Module):
    """A block with a loose MLP; subclasses do something beside it."""

    def __init__(self, act: nn.Module | None = None) -> None:
        super().__init__()
        self.fc1, self.fc2, self.act = nn.Linear(16, 40), nn.Linear(40, 16), act or nn.GELU()
        self.norm, self.calls = nn.LayerNorm(16), 0
        self.inner = nn.Sequential(nn.Linear(16, 16))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + self.fc2(self.act(self.fc1(self.norm(x))))  # type: ignore[no-any-return]


class Between(Part):
    """Something stands between the Linear and the activation."""

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(self.act(2.0 * self.fc1(self.norm(x))))  # type: ignore[no-any-return]


class Twice(Part):
    """The activation's input is read again."""

    def forward(self, x: Tensor) -> Tensor:
        middle = self.fc1(self.norm(x))
        return x + self.fc2(self.act(middle) + middle)  # type: ignore[no-any-return]


@pytest.mark.parametrize("mode", [Mode.INFERENCE, Mode.TRAIN])
@pytest.mark.parametrize("act", [nn.GELU(), nn.ReLU(), nn.SiLU()], ids=lambda act: type(act).__name__)
@pytest.mark.parametrize("kind", [Part, Between, Twice])
def test_what_is_read_again_is_refused_and_the_rest_right(kind: type[Part], act: nn.Module, mode: Mode) -> None:
    """The activation writes only over what a Linear just gave; a block that reads that again is refused, not wrong."""
    block = kind(act).train(mode.trains)
    call = Call(args=(torch.randn(4, 16).requires_grad_(mode.trains),), kwargs={})
    for name, forward in forwards(block, mode):
        verdict: object
        try:
            verdict = check(kind.forward, forward, [call], module=block, trains=mode.trains)
        except RuntimeError as error:  # autograd finds that something was written over
            verdict = error
        # What recomputes leaves the Linear's output alone.
        expected = (Reject, RuntimeError) if kind is Twice and name == "torch.inplace" else (Pass,)
        assert isinstance(verdict, expected), (name, verdict)


def test_a_block_keeps_its_hooks_children_and_what_it_sets_on_itself() -> None:
    """A hook on the Linear runs, a number that the forward counts up is the block's, its children are its own after."""
    block, seen = Part(), []
    block.fc1.register_forward_hook(lambda *_: seen.append(1))
    children = dict(block._modules)
    (forward,) = [call for name, call in forwards(block, Mode.INFERENCE) if name == "torch.inplace"]
    with torch.no_grad():
        forward(block, torch.randn(4, 16))
        forward(block, torch.randn(4, 16))
    assert (len(seen), block.calls) == (2, 2)
    assert block._modules == children


def test_blocks_without_a_loose_mlp_get_compile_alone() -> None:
    """Two activations, one Linear alone, or Linears that do not follow each other are no loose MLP."""
    for change in ({"more": nn.ReLU()}, {"fc2": nn.Identity()}, {"fc2": nn.Linear(32, 16)}):
        block = Part()
        block._modules.update(change)
        assert [c.name for c in layer_contestants(BLOCK, block, "cpu")] == ["compile"]


def test_second_order_gradients_through_a_block() -> None:
    """A gradient penalty through the recomputing block gives the original's gradients."""
    block, found = Part().double(), []
    x = torch.randn(3, 16, dtype=torch.float64).requires_grad_()
    for forward in (Part.forward, *(call for _, call in forwards(block, Mode.TRAIN))):
        (slope,) = torch.autograd.grad(F.mse_loss(forward(block, x), torch.zeros_like(x)), x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), (x, block.fc1.weight, block.fc2.weight)))
    assert len(found) == 2
    for got, expected in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(got, expected)
