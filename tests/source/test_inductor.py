"""What torch.compile made of a layer or function can be differentiated as the original can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from tests.kernel.toys import Norm
from twinkle_tune.slot import Slot, SlotKind
from twinkle_tune.source.compiled import CompileSource


class MLP(nn.Module):
    """Two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Any:
        """x (..., 8) to (..., 8)."""
        return self.down(silu(self.up(x)))


def rotated(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Two outputs."""
    return x * y.cos() + y, y * x.sin()


CASES: dict[str, tuple[Callable[[], nn.Module] | None, Callable[..., Any], int]] = {
    "norm": (lambda: Norm(8), Norm.forward, 1),
    "mlp": (MLP, MLP.forward, 1),
    "function": (None, rotated, 2),
}


def _twice(call: Callable[..., Any], inputs: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
    """Two losses of one forward."""
    outputs = call(*(x * 1.5 for x in inputs))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    first = torch.autograd.grad(sum(out.sum() for out in outputs), [*inputs, *weights], retain_graph=True)
    return [*first, *torch.autograd.grad(outputs[0].pow(2).sum(), [*inputs, *weights])]


def _penalty(call: Callable[..., Any], inputs: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
    """A loss of the gradients."""
    outputs = call(*(x * 1.5 for x in inputs))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    loss = sum(out.pow(3).sum() for out in outputs)
    gradients = torch.autograd.grad(loss, [*inputs, *weights], create_graph=True)
    penalty = sum((gradient.norm() - 1).pow(2) for gradient in gradients)
    made = torch.autograd.grad(penalty, [*inputs, *weights], allow_unused=True)
    return [torch.zeros(()) if gradient is None else gradient for gradient in made]


def _plain(call: Callable[..., Any], inputs: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
    """A backward as usual, which comes first: what is compiled then must serve the others, too."""
    outputs = call(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return list(torch.autograd.grad(sum(out.sum() for out in outputs), [*inputs, *weights]))


@pytest.mark.parametrize("name", CASES)
def test_retained_graphs_and_second_derivatives(name: str) -> None:
    """retain_graph=True and create_graph=True, after a backward as usual, give the original's gradients."""
    import torch._functorch.config as settings

    make, original, count = CASES[name]
    torch.manual_seed(0)
    slot = Slot(name="Layer", kind=SlotKind.LAYER if make else SlotKind.FUNCTION, target="a:b")
    compiled, given_away = CompileSource().load(slot, original).call, settings.donated_buffer
    first: tuple[Any, ...] = () if make is None else (make(),)
    weights = [] if make is None else list(first[0].parameters())
    inputs = [torch.randn(4, 8).requires_grad_() for _ in range(count)]
    for use in (_plain, _twice, _penalty):
        found = use(lambda *args: compiled(*first, *args), inputs, weights)
        expected = use(lambda *args: original(*first, *args), inputs, weights)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert settings.donated_buffer is given_away


def test_an_input_changed_in_between_is_refused() -> None:
    """As torch does: a second derivative of what is no longer there is an error."""
    slot = Slot(name="Layer", kind=SlotKind.FUNCTION, target="a:b")
    compiled = CompileSource().load(slot, rotated).call
    x, y = torch.randn(4, 8).requires_grad_(), torch.randn(4, 8).requires_grad_()
    given = x * 1.0
    out, _ = compiled(given, y)
    given.data.add_(1)
    with torch.no_grad():
        given.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(out.sum(), [x, y], create_graph=True)
