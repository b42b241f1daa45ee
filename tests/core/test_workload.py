"""Workloads: what makes two calls the same."""

from __future__ import annotations

import functools
import json
from dataclasses import asdict

import pytest
import torch
from torch import nn

from twinkle_tune.workload import Named, TensorSpec, Workload, call_text, describe, module_settings, observe


def key_of(*args: object, module: nn.Module | None = None, **kwargs: object) -> str:
    """The key of a call with these arguments."""
    return observe("m:f", args, kwargs, module).key


def test_equal_forms_have_equal_keys() -> None:
    """Other values of the same form, integer bounds included, are the same workload."""
    assert key_of(torch.randn(2, 3), torch.tensor([1, 2])) == key_of(torch.randn(2, 3), torch.tensor([7, 9]))


@pytest.mark.parametrize(
    "other",
    [
        (torch.zeros(2, 4), 1),
        (torch.zeros(2, 3, dtype=torch.bfloat16), 1),
        (torch.zeros(3, 2).t(), 1),
        (torch.zeros(2, 3, requires_grad=True), 1),
        (torch.zeros(2, 3), 2),
        (torch.zeros(2, 3), True),
        (torch.zeros(2, 3), 1.0),
        ((torch.zeros(2, 3),), 1),
        ([torch.zeros(2, 3)], 1),
    ],
)
def test_another_form_has_another_key(other: tuple[object, ...]) -> None:
    """Shape, dtype, stride, requires_grad, plain values with their type, and nesting all count."""
    assert key_of(*other) != key_of(torch.zeros(2, 3), 1)


def test_keyword_order_does_not_count() -> None:
    """Keyword arguments are named, so their order says nothing; their names do."""
    assert key_of(a=1, b=2) == key_of(b=2, a=1)
    assert key_of(a=1) != key_of(b=1)


def test_state_of_the_process_counts() -> None:
    """Grad mode and autocast belong to the workload."""
    x = torch.zeros(2)
    plain = key_of(x)
    with torch.no_grad():
        assert key_of(x) != plain
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert key_of(x) != plain
        assert "autocast bfloat16" in call_text(observe("m:f", (x,), {}))


def test_settings_tell_instances_apart() -> None:
    """eps, width, dtype, submodule classes and what a partial binds are settings; the weights' values are not."""
    assert module_settings(nn.LayerNorm(4)) == module_settings(nn.LayerNorm(4))
    with torch.no_grad():
        moved = nn.LayerNorm(4)
        moved.weight.fill_(3.0)
    assert module_settings(moved) == module_settings(nn.LayerNorm(4))
    others = [nn.LayerNorm(4, eps=1e-3), nn.LayerNorm(8), nn.LayerNorm(4).bfloat16(), nn.LayerNorm(4, bias=False)]
    assert all(module_settings(other) != module_settings(nn.LayerNorm(4)) for other in others)

    class Act(nn.Module):
        def __init__(self, approximate: str) -> None:
            super().__init__()
            self.act = functools.partial(nn.functional.gelu, approximate=approximate)

    assert module_settings(Act("tanh")) != module_settings(Act("none"))
    assert module_settings(nn.Sequential(nn.ReLU())) != module_settings(nn.Sequential(nn.GELU()))


def test_frozen_parameters_are_the_same_signature() -> None:
    """A model loaded with frozen weights takes the winners of one that was profiled with trainable ones."""
    free, frozen = nn.LayerNorm(4), nn.LayerNorm(4).requires_grad_(False)
    calls = [observe("m:f", (torch.zeros(2, 4),), {}, module) for module in (free, frozen)]
    assert calls[0].signature == calls[1].signature
    assert calls[0].key != calls[1].key


def test_a_workload_is_json() -> None:
    """Every description can be written as JSON, infinite settings included."""
    workload = observe("m:f", (torch.zeros(2), [1, {"x": None}]), {"limit": float("inf"), "dtype": torch.float16})
    json.dumps(asdict(workload), allow_nan=False)
    assert dict(workload.kwargs)["limit"] == Named(kind="name", name="float.inf")


def test_rows_are_counted_from_the_first_tensor() -> None:
    """Rows are elements over the last dimension; a scalar is one row, no tensor none."""
    assert observe("m:f", (1, torch.zeros(2, 3, 5)), {}).rows == 6
    assert observe("m:f", (torch.tensor(1.0),), {}).rows == 1
    assert observe("m:f", (1,), {}).rows == 0


def test_call_text_is_short() -> None:
    """Equal neighbours are counted and at most four forms written out."""
    x = torch.zeros(2)
    assert call_text(observe("m:f", (x, x), {})) == "float32[2] x2"
    many = [torch.zeros(n) for n in range(1, 8)]
    assert call_text(observe("m:f", (many,), {})).endswith("float32[4], 3 more")
    assert call_text(observe("m:f", (3,), {"k": "v"})) == "3, k='v'"


def test_integer_bounds_are_noted() -> None:
    """The bounds of integer tensors are kept beside the key, for inputs that stay valid."""
    spec = describe(torch.tensor([3, 9]))
    assert isinstance(spec, TensorSpec)
    assert (spec.low, spec.high) == (3, 9)
    assert isinstance(observe("m:f", (spec,), {}), Workload)
