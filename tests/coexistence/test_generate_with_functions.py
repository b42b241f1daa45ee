"""generate() of a model whose rotary embedding is a kernel's: the plain model's tokens, and the kernel runs."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from tests.capture.tiny_models import inputs_of, rotary, tiny
from tests.zoo.quick import SETTINGS, Quick
from twinkle_tune import kernelize_model, kernelize_report, register_function_kernel, restore_model, tune_model
from twinkle_tune.kernel.registry import Registry
from twinkle_tune.mode import Mode
from twinkle_tune.testing import with_winner


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_generate_with_a_function_winner(family: str) -> None:
    """Greedy tokens with left padding are the plain model's with each kind of cache, and again when it is restored."""
    model: Any = tiny(family)
    slot = rotary(model).slot
    module_name, _, name = slot.target.partition(":")
    original = getattr(sys.modules[module_name], name)
    rows: list[int] = []

    def counting_rotary(q: Any, k: Any, cos: Any, sin: Any, unsqueeze_dim: int = 1) -> Any:
        rows.append(q.shape[0] * q.shape[2])
        return original(q, k, cos, sin, unsqueeze_dim)

    registry = Registry()
    register_function_kernel(name, module_name, func_impl=counting_rotary, registry=registry)
    profile = tune_model(
        model, inputs_of(Mode.INFERENCE), candidates=["impl"], settings=SETTINGS, executor=Quick(), registry=registry
    )
    mask = torch.ones(2, 12, dtype=torch.int64)
    mask[0, :3] = 0
    ids = inputs_of(Mode.INFERENCE)["input_ids"]

    def tokens(cache: str | None) -> torch.Tensor:
        rows.clear()
        made: torch.Tensor = model.generate(
            ids, attention_mask=mask, max_new_tokens=4, do_sample=False, pad_token_id=0,
            cache_implementation=cache, disable_compile=True,
        )  # fmt: skip
        return made

    caches = (None, "static")
    plain = [tokens(cache) for cache in caches]
    kernelize_model(model, profile=with_winner(profile, slot.name), registry=registry, use_fallback=False)
    assert [binding.slot for binding in kernelize_report(model).bound] == [slot.name]
    for cache, expected in zip(caches, plain, strict=True):
        assert torch.equal(tokens(cache), expected)
        assert rows, "the kernel never ran"
    restore_model(model)
    for cache, expected in zip(caches, plain, strict=True):
        assert torch.equal(tokens(cache), expected)
        assert not rows, "the kernel still runs in a restored model"
