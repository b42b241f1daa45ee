"""RMSNorm as one node of autograd: what it gives, forward and backward, twice, and when it steps aside."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twinkle_tune.catalog import add_norm, rms_norm
from twinkle_tune.catalog.add_norm import AddNorm
from twinkle_tune.catalog.norm_node import How, added_and_normed, rms_normed
from twinkle_tune.slot import Candidate
from twinkle_tune.testing import assert_parity

DTYPES = (torch.float32, torch.bfloat16)


def _named(candidates: list[Candidate], name: str) -> Any:
    (found,) = [c for c in candidates if c.name == name]
    return found.source.impl  # type: ignore[attr-defined]


def _norm(dtype: torch.dtype = torch.float32, *, weight: bool = True) -> nn.RMSNorm:
    norm = nn.RMSNorm(24, eps=1e-5, elementwise_affine=weight).to(dtype)
    if weight:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    return norm


def _piece(norm: nn.Module, *, gives_sum: bool = True, **more: nn.Module) -> AddNorm:
    piece = AddNorm(gives_sum)
    piece._modules.update(norm=norm, **more)
    return piece


@pytest.mark.parametrize(
    ("dtype", "weight", "mode"), list(itertools.product(DTYPES, (True, False), ("inference", "train")))
)
def test_the_node_is_right(dtype: torch.dtype, weight: bool, mode: str) -> None:
    """By the rule, output and gradients, with and without a weight, in half precision too."""
    norm = _norm(dtype, weight=weight)
    flavour = rms_norm.flavour_of(norm)
    assert flavour is not None
    x = torch.randn(3, 5, 24, dtype=dtype)
    assert_parity(rms_norm.as_node(flavour), nn.RMSNorm.forward, x, module=norm, mode=mode)


@pytest.mark.parametrize(("gives_sum", "dtype"), list(itertools.product((True, False), DTYPES)))
def test_the_sum_in_the_node_is_right(gives_sum: bool, dtype: torch.dtype) -> None:
    """Both results, and the gradients of both terms and the weight."""
    piece = _piece(_norm(dtype), gives_sum=gives_sum)
    impl = _named(add_norm.contestants(piece, "cpu"), "torch.node")
    given = [torch.randn(3, 5, 24, dtype=dtype) for _ in range(2)]
    assert_parity(impl, AddNorm.forward, *given, module=piece, mode="train")


def test_a_norm_before_and_a_dropout_are_run() -> None:
    """As Gemma and BERT have them; what a dropout draws is what the original draws."""
    piece = _piece(_norm(), before=_norm(), dropout=nn.Dropout(0.5)).train()
    x, y = torch.randn(2, 3, 24), torch.randn(2, 3, 24)
    for name in ("torch.node", "torch.rms_norm"):
        impl = _named(add_norm.contestants(piece, "cpu"), name)
        torch.manual_seed(0)
        expected = AddNorm.forward(piece, x, y)
        torch.manual_seed(0)
        torch.testing.assert_close(impl(piece, x, y), expected)


def test_gradients_of_gradients() -> None:
    """A backward that is differentiated is autograd's own."""
    how, x = How(1e-6, 0.0, False, False), torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(4, dtype=torch.float64, requires_grad=True)
    residual = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda a, w: rms_normed(a, w, how), (x, weight))
    assert torch.autograd.gradgradcheck(lambda a, r, w: added_and_normed(a, r, w, how), (x, residual, weight))


def test_one_result_alone_has_gradients() -> None:
    """Where a loss comes from the sum or from the norm alone."""
    norm = _norm()
    for index in (0, 1):
        found = []
        for call in (AddNorm.forward, _named(add_norm.contestants(_piece(norm), "cpu"), "torch.node")):
            x = torch.linspace(-1, 1, 48).reshape(2, 24).requires_grad_()
            call(_piece(norm), x, torch.ones(2, 24))[index].square().sum().backward()
            found.append(x.grad)
        torch.testing.assert_close(*found)


@pytest.mark.parametrize("way", ["autocast", "vmap", "broadcast", "compile"])
def test_it_steps_aside(way: str) -> None:
    """Where the arithmetic is not plain the original runs."""
    piece = _piece(_norm())
    impl, seen = _named(add_norm.contestants(piece, "cpu"), "torch.node"), []

    class Seen(AddNorm):
        def forward(self, x: Tensor, residual: Tensor) -> Any:
            seen.append(way)
            return super().forward(x, residual)

    piece.__class__ = Seen
    x = torch.randn(2, 3, 24)
    if way == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            impl(piece, x, x)
    elif way == "vmap":
        torch.vmap(lambda a: impl(piece, a, a))(x)
    elif way == "broadcast":
        impl(piece, x, x[:1])
    else:
        torch.compile(lambda a: impl(piece, a, a), backend="eager")(x)
    assert seen


def test_layer_norms_have_torchs_own() -> None:
    """A sum and a LayerNorm: one call of torch's without the layer around it."""
    piece = _piece(nn.LayerNorm(24))
    impl = _named(add_norm.contestants(piece, "cpu"), "torch.layer_norm")
    x, y = torch.randn(2, 3, 24), torch.randn(2, 3, 24)
    assert_parity(impl, AddNorm.forward, x, y, module=piece, mode="train")
    torch.testing.assert_close(impl(piece, x, y)[1], F.layer_norm(x + y, (24,)))
