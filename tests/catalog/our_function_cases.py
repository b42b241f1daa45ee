"""``python -m tests.catalog.our_function_cases``: models with our rope and cross entropy in Triton's interpreter."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from tests.catalog.catalog_families import FAMILIES, tiny
from tests.ops.interpreter import Case, main
from twinkle_tune.catalog import function_contestants, functions_of
from twinkle_tune.ops import launch
from twinkle_tune.slot import Slot
from twinkle_tune.testing import assert_parity


def cases() -> Iterator[Case]:
    """The claims."""
    for family in FAMILIES:
        yield f"attention of {family}", partial(attention_holds, family)
    for family in ("llama", "phi3"):
        for dim in (1, 2):
            yield f"rotary function of {family} along {dim}", partial(rotary_holds, family, dim)
    for family in ("qwen3", "gemma3_text", "phi"):
        yield f"model of {family}", partial(model_holds, family)
    for number in (None, 3, torch.tensor(3)):
        yield f"loss over {number}", partial(loss_holds, number)


def ours_for(slot: Slot) -> tuple[Any, str, Callable[..., Any]]:
    """Where the slot's function stands, its name there, and our candidate's code."""
    place, name = slot.target.split(":")
    module = importlib.import_module(place)
    original = getattr(module, name)
    (candidate,) = (c for c in function_contestants(slot, original, "cuda") if c.name == "triton")
    return module, name, candidate.source.load(slot, original).call


def attention_holds(family: str) -> None:
    """An attention layer whose rotary function is ours, against the original, by the parity rule.

    In float32: in half precision the softmax behind it makes of one rounding less in the rotary function a difference
    that, in so small a layer, is at times beyond the rule.
    """
    model = tiny(family)
    attention = next(m for m in model.modules() if type(m).__name__.endswith("Attention"))
    place, name, ours = ours_for(next(s for s in functions_of(model) if s.name.endswith("apply_rotary_pos_emb")))
    wide: Any = getattr(attention, "rotary_ndims", attention.head_dim)
    angle = torch.rand(2, 5, wide // 2).repeat(1, 1, 2) * 6.3
    seen: list[Tensor] = []

    def watched(q: Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(q)
        return ours(q, *args, **kwargs)

    def bound(module: nn.Module, x: Tensor, cos: Tensor, sin: Tensor) -> Any:
        with mock.patch.object(place, name, watched):
            return type(module).forward(module, x, position_embeddings=(cos, sin), attention_mask=None)[0]

    def original(module: nn.Module, x: Tensor, cos: Tensor, sin: Tensor) -> Any:
        return type(module).forward(module, x, position_embeddings=(cos, sin), attention_mask=None)[0]

    x = torch.randn(2, 5, 32, requires_grad=True)
    assert_parity(bound, original, x, angle.cos(), angle.sin(), mode="train", module=attention, seeds=1)
    assert seen
    assert all(launch.kernels_run(q) for q in seen)


def rotary_holds(family: str, dim: int) -> None:
    """The function alone in bfloat16, by the parity rule; part of a head where the original takes a part."""
    place, name, ours = ours_for(functions_of(tiny(family))[0])
    q, k = (torch.randn(2, heads, 5, 8).bfloat16().requires_grad_() for heads in (4, 2))
    if dim == 2:
        q, k = (x.detach().transpose(1, 2).requires_grad_() for x in (q, k))
    angles = torch.rand(2, 2, 5, 4 if family == "phi3" else 8).bfloat16()
    original = getattr(place, name)
    assert_parity(
        lambda *args: ours(*args, unsqueeze_dim=dim),
        lambda *args: original(*args, unsqueeze_dim=dim),
        *(q, k, *angles),
        mode="train",
        seeds=1,
    )


def model_holds(family: str) -> None:
    """A whole model with both functions in place: the same loss, the same gradient of every parameter."""
    model, ids = tiny(family), torch.randint(64, (2, 5))

    def step() -> list[Tensor]:
        model.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]

    expected = step()
    slots = functions_of(model)
    with contextlib.ExitStack() as stack:
        for slot in slots:
            stack.enter_context(mock.patch.object(*ours_for(slot)))
        found = step()
    assert len(slots) == 2
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def loss_holds(number: Any) -> None:
    """transformers' loss of logits, some rows ignored, by the parity rule."""
    place = importlib.import_module("transformers.loss.loss_utils")
    slot = next(s for s in functions_of(tiny("llama")) if s.name.endswith("fixed_cross_entropy"))
    _, name, ours = ours_for(slot)
    source, target = torch.randn(12, 70, requires_grad=True), torch.randint(70, (12,))
    target[::5] = -100
    assert_parity(ours, getattr(place, name), source, target, number, mode="train", seeds=1)
    # What the kernels do not take goes torch's way.
    probabilities = torch.rand(12, 70)
    assert torch.equal(ours(source, probabilities), getattr(place, name)(source, probabilities))


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(main(cases()))
