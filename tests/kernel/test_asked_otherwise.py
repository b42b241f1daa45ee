"""A model that runs another way is asked for more than its outputs: the original answers, and the way stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from tests.catalog.catalog_families import tiny
from tests.kernel.test_generation import prompt, says, spied, untouched
from tests.kernel.test_setups import calls_in, profile_of, x
from tests.strategy.planted import Layers, compiled_by
from twinkle_tune import kernelize_model, kernelize_report

pytestmark = pytest.mark.usefixtures("compiled_anew")


@pytest.mark.parametrize("before", [False, True], ids=["later", "before it is bound"])
def test_hidden_states_that_were_asked_for_once_do_not_end_the_way(
    before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers leaves hooks on the layers, which do nothing: the way runs on, and they work when they are asked."""
    calls = spied(monkeypatch, untouched)
    model: Any = tiny("llama", num_hidden_layers=2)
    twin: Any = tiny("llama", num_hidden_layers=2)
    ids = torch.randint(3, 60, (1, 8))
    if before:
        model(input_ids=ids, output_hidden_states=True)
    kernelize_model(model, profile=profile_of(model, "compile", ((), {"input_ids": ids, "use_cache": False})))
    with torch.no_grad():
        for _ in range(2):
            model(input_ids=ids, use_cache=False)
            states = model(input_ids=ids, output_hidden_states=True).hidden_states
            torch.testing.assert_close(states, twin(input_ids=ids, output_hidden_states=True).hidden_states)
            assert any(layer._forward_hooks for layer in model.modules())
        assert len(calls) == 2
        assert kernelize_report(model).bound
        heard: list[int] = []
        model.model.layers[0].register_forward_hook(lambda *args: heard.append(1))
        model(input_ids=ids, use_cache=False)
    assert (len(calls), len(heard)) == (2, 1)
    assert "has a hook: the original runs" in str(kernelize_report(model))


def test_outputs_that_a_larger_model_captures_are_the_originals(monkeypatch: pytest.MonkeyPatch) -> None:
    """While somebody further out captures, the hooks are at work: compiled code would not call them."""
    from transformers.utils.output_capturing import _active_collector

    calls = spied(monkeypatch, untouched)
    model: Any = tiny("llama", num_hidden_layers=1)
    ids = torch.randint(3, 60, (1, 8))
    model(input_ids=ids, output_hidden_states=True)
    kernelize_model(model, profile=profile_of(model, "compile", ((), {"input_ids": ids, "use_cache": False})))
    token = _active_collector.set({"hidden_states": []})
    try:
        with torch.no_grad():
            model(input_ids=ids, use_cache=False)
    finally:
        _active_collector.reset(token)
    assert not calls


def jacobian(model: nn.Module, given: Tensor, along: Tensor) -> Tensor:
    """What the model's outputs change by along a direction, by forward-mode differentiation."""
    ad: Any = forward_ad
    with ad.dual_level():
        tangent: Tensor = ad.unpack_dual(model(ad.make_dual(given, along))).tangent
        return tangent.clone()


@pytest.mark.parametrize(
    "asked",
    [
        jacobian,
        lambda model, given, along: torch.func.jvp(model, (given,), (along,))[1],
        lambda model, given, along: torch.vmap(model)(torch.stack([given, along])),
    ],
    ids=["dual tensors", "jvp", "vmap"],
)
def test_derivatives_and_transforms_are_the_originals(
    asked: Callable[[nn.Module, Tensor, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled code has none."""
    graphs = compiled_by(monkeypatch)
    model, given, along = Layers().eval().requires_grad_(False), x(), x()
    expected = asked(model, given, along)
    kernelize_model(model, profile=profile_of(model, "compile", ((given,), {})))
    torch.testing.assert_close(asked(model, given, along), expected)
    assert not graphs
    with torch.no_grad():
        model(given)
    assert graphs
    assert kernelize_report(model).bound


def test_inference_mode_compiles_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generation under ``torch.inference_mode`` after ``no_grad``: at most each graph once more, and the same text."""
    made: list[int] = []

    def noted(graph: Any, inputs: Any) -> Any:
        made.append(1)
        return graph.forward

    calls = spied(monkeypatch, noted)
    model: Any = tiny("llama", num_hidden_layers=1)
    asked = prompt(1, 4, padded=True)
    said = says(model, asked)
    seen = calls_in(model, lambda: says(model, asked))
    kernelize_model(model, profile=profile_of(model, "compile", calls=list(dict.fromkeys(seen))))
    counts = []
    for mode in (torch.no_grad, torch.inference_mode) * 3:
        ran = len(calls)
        with mode():
            assert torch.equal(says(model, asked), said)
        assert len(calls) > ran
        counts.append(len(made))
    assert counts[1] <= 2 * counts[0]
    assert counts[1:] == [counts[1]] * 5
