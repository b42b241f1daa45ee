"""Another model's profile, no profile at all, and what nobody checked: each says so in one line."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from tests.kernel.toys import ANY_MODEL, plus_one, profile, registry
from tests.kernel.toys import Model as Toy
from twinkle_tune.errors import StaleProfileError
from twinkle_tune.kernel import Registry, kernelize_model, kernelize_report
from twinkle_tune.kernel.kernelize import restore_model
from twinkle_tune.kernel.match import another_model

OTHER = replace(ANY_MODEL, name="qwen3-tiny", target="transformers.models.qwen3.modeling_qwen3:Qwen3ForCausalLM")


class Llama(nn.Module):
    """Some other model."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 4) to (B, 4)."""
        out: torch.Tensor = self.lin(x)
        return out


@pytest.mark.parametrize("model", [Llama(), nn.Sequential(nn.LayerNorm(4)), nn.Transformer(8, 2, 1, 1, 8)])
def test_another_models_profile_says_so_in_one_line(model: nn.Module) -> None:
    """One warning with both names; without fallback an error; nothing is bound, and the report has the line."""
    wrong = profile([], model=OTHER)
    line = f"this profile is of Qwen3ForCausalLM .qwen3-tiny., your model is {type(model).__name__}: nothing matched"
    with pytest.warns(UserWarning, match=line) as told:
        kernelize_model(model, profile=wrong, registry=Registry())
    assert len(told) == 1
    assert kernelize_report(model).bound == ()
    assert "nothing matched" in str(kernelize_report(model))
    with pytest.raises(StaleProfileError, match=line):
        kernelize_model(model, profile=wrong, registry=Registry(), use_fallback=False)


def test_a_wrapper_and_a_subclass_are_the_model() -> None:
    """Its class may lie inside another module, or below another class."""

    class Mine(Llama):
        pass

    own = replace(ANY_MODEL, target=f"{Llama.__module__}:Llama")
    made = profile([], model=own)
    assert another_model(Llama(), made) == ""
    assert another_model(nn.Sequential(Llama()), made) == ""
    assert another_model(Mine(), made) == ""
    assert "your model is Sequential" in another_model(nn.Sequential(), made)


def test_nothing_to_bind_is_hinted() -> None:
    """With neither profile nor registration a warning says what to do; with a registration there is none."""
    with pytest.warns(UserWarning, match=r"nothing is registered .* profile the model .tune_model."):
        kernelize_model(Llama(), registry=Registry())


def test_what_was_registered_and_not_profiled_is_unchecked() -> None:
    """The report marks it; what a profile chose is not marked."""
    model: Any = Toy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kernelize_model(model, device="cpu", registry=registry(plus_one))
    report = kernelize_report(model)
    assert report.bound
    assert not any(binding.is_checked for binding in report.bound)
    assert all("; unchecked)" in line for line in str(report).splitlines() if line.startswith("bound"))
    restore_model(model)
