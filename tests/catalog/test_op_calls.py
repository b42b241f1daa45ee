"""From an observed call to the sizes of our op in it: held against what the op is really called with."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.catalog.catalog_families import FAMILIES, tiny
from twinkle_tune.catalog import function_contestants, functions_of, layer_contestants, layer_name
from twinkle_tune.catalog import triton as ours
from twinkle_tune.catalog.op_calls import of_loss, of_rope, of_rows
from twinkle_tune.ops import launch
from twinkle_tune.ops.cross_entropy import op as cross_entropy_op
from twinkle_tune.ops.op import OpCall
from twinkle_tune.ops.rope import op as rope_op
from twinkle_tune.slot import Candidate, Slot, SlotKind
from twinkle_tune.tune.tuned import Tunable
from twinkle_tune.workload import observe

Told = tuple[OpCall | None, list[tuple[tuple[Any, ...], dict[str, Any]]]]
IDS = torch.arange(10).reshape(2, 5)


@pytest.fixture(autouse=True)
def _on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates load where Triton is not needed: the formula runs."""
    monkeypatch.setattr(launch, "missing", lambda: "")


def ours_of(found: list[Candidate] | tuple[Candidate, ...]) -> Candidate | None:
    """Our candidate, if there is one."""
    return next((candidate for candidate in found if candidate.name == "triton"), None)


def layer_calls(family: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    """Of each layer that our kernels fit, called in its model: what the workload tells, and the op's real arguments."""
    real, seen = ours._op, []

    def op(folder: str, name: str, **settings: Any) -> Callable[..., Any]:
        apply = real(folder, name, **settings)

        def watched(*args: Any, **kwargs: Any) -> Any:
            seen.append((args, {"op": name}))
            return apply(*args, **kwargs)

        return watched

    monkeypatch.setattr(ours, "_op", op)
    model, calls = tiny(family), []
    for module in model.modules():
        if layer_name(module):
            module.register_forward_pre_hook(
                lambda module, args, kwargs: calls.append((module, args, kwargs)), with_kwargs=True
            )
    model(IDS)
    for module, args, kwargs in calls:
        candidate = ours_of(layer_contestants(layer_name(module) or "", module, "cuda"))
        if candidate is not None:
            seen.clear()
            slot = Slot(name="", kind=SlotKind.LAYER, target="x:Y")
            candidate.source.load(slot, type(module).forward).call(module, *args, **kwargs)
            assert isinstance(candidate.source, Tunable)
            yield candidate.source.op_call(observe("x:Y", args, kwargs, module)), list(seen)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_s_workload_tells_what_its_op_is_called_with(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Op, rows, width, dtype; and a variant that the op has, without a weight where the module has none."""
    compared = set()
    for call, seen in layer_calls(family, monkeypatch):
        ((args, settings),) = seen
        assert call is not None
        packed = "packed" in call.variant
        assert call.op.name == settings["op"]
        assert call.dims["width"] * (2 if packed else 1) == args[0].shape[-1]
        assert call.dims["rows"] == math.prod(args[0].shape[:-1])
        assert call.dtype == args[0].dtype
        assert call.variant in call.op.variants
        made = call.op.inputs(call.dims, call.dtype, "cpu", 0, call.variant)
        assert [isinstance(x, Tensor) for x in made] == [isinstance(x, Tensor) for x in args]
        compared.add(call.op.name)
    assert len(compared) == 2


def turn(seen: list[tuple[Tensor, ...]], *args: Tensor, **settings: Any) -> tuple[Tensor, ...]:
    """In place of our rope: what it is called with is written down."""
    seen.append(args)
    return args[:2]


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_a_rotary_function_s_workload_tells_what_its_op_is_called_with(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With heads before tokens and after them, by position and by name."""
    slot = next(s for s in functions_of(tiny(family)) if s.name.endswith("apply_rotary_pos_emb"))
    place, name = slot.target.split(":")
    original = getattr(importlib.import_module(place), name)
    candidate = ours_of(function_contestants(slot, original, "cuda"))
    assert candidate is not None
    assert isinstance(candidate.source, Tunable)
    q, k, cos, sin = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    turned = (q.transpose(1, 2), k.transpose(1, 2), cos, sin)
    for args, kwargs in (((q, k, cos, sin), {}), (turned, {"unsqueeze_dim": 2}), ((q, k), {"cos": cos, "sin": sin})):
        seen: list[tuple[Tensor, ...]] = []
        with monkeypatch.context() as patch:
            patch.setattr(rope_op, "rope", partial(turn, seen))
            candidate.source.load(slot, original).call(*args, **kwargs)
        call = candidate.source.op_call(observe(slot.target, args, kwargs))
        ((seen_q, seen_k, seen_cos, _),) = seen
        assert call is not None
        assert dict(call.dims) == {
            "tokens": seen_q.shape[0] * seen_q.shape[2],
            "heads": seen_q.shape[1],
            "kv_heads": seen_k.shape[1],
            "width": seen_q.shape[3],
            "turned": seen_cos.shape[2],
        }


def test_a_loss_s_workload_tells_rows_and_classes() -> None:
    """Of logits by position or by name; other forms, for which torch's own runs, tell nothing."""
    logits, target = torch.randn(6, 11), torch.zeros(6, dtype=torch.int64)
    for args, kwargs in (((logits, target), {}), ((), {"source": logits, "target": target})):
        call = of_loss(observe("x:loss", args, kwargs))
        assert call is not None
        assert (call.op.name, dict(call.dims)) == (cross_entropy_op.OPS[0].name, {"rows": 6, "classes": 11})
    assert of_loss(observe("x:loss", (logits[None], target[None]), {})) is None


def test_what_is_not_understood_tells_nothing() -> None:
    """No tensor, an empty one, and a way of giving the heads' dimension that nobody knows."""
    call_of = of_rows("rms_norm", "")
    assert call_of(observe("x:y", (3,), {})) is None
    assert call_of(observe("x:y", (torch.empty(0, 8),), {})) is None
    q = torch.randn(1, 2, 3, 8)
    assert of_rope(False)(observe("x:y", (q, q, q[0], q[0]), {"unsqueeze_dim": -3})) is None
    assert of_rope(False)(observe("x:y", (q, q, q[0], q[0], None, 2), {})) is None
