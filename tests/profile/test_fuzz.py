"""Hundreds of broken profiles: each is refused, or means what it says, and never leaves a model half patched."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.profile.mutations import mutated
from tests.tune.pretended import Pretended, Wide, pretended_profile, registry
from twinkle_tune import kernelize_model, kernelize_report, restore_model
from twinkle_tune.errors import ProfileError, TuneError
from twinkle_tune.kernel import Registry, register_function_kernel
from twinkle_tune.kernel.patch import binding_of
from twinkle_tune.profile.io import load_profile
from twinkle_tune.profile.json_text import profile_text, write_profile

HERE = __name__


def grown(x: torch.Tensor) -> torch.Tensor:
    """A function slot."""
    return x * 3


def fast_grown(x: torch.Tensor) -> torch.Tensor:
    """Its contestant."""
    return x + x + x


ORIGINAL_GROWN = grown


class Model(nn.Module):
    """Norms and a function, so that both kinds of binding are in the profile."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = Wide((8, 16, 24))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, width) to (rows,)."""
        return grown(self.norms(x))


def both() -> Registry:
    """Contestants for the norms and the function."""
    made = registry()
    register_function_kernel(func_name="grown", target_module=HERE, func_impl=fast_grown, registry=made)
    return made


@pytest.fixture(scope="module")
def model() -> Model:
    """One model for all: it must be untouched after each."""
    torch.manual_seed(0)
    return Model()


@pytest.fixture(scope="module")
def text(model: Model) -> str:
    """A profile of it in which kernels win layers and the function."""
    for seed in range(20):
        made = pretended_profile(Pretended(luck=str(seed)), model=model, registry=both())
        if {contest.slot.kind for contest in made.winners} == {"layer", "function"}:
            return profile_text(made)
    pytest.fail("no pretended profile has winners of both kinds")


def untouched(model: Model, weights: dict[str, torch.Tensor]) -> bool:
    """Whether weights, forwards and the function are bit for bit and object for object what they were."""
    return (
        all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
        and not any("forward" in vars(module) or binding_of(module) is not None for module in model.modules())
        and kernelize_report(model).bound == ()
        and sys.modules[HERE].__dict__["grown"] is ORIGINAL_GROWN
    )


@pytest.fixture
def allowed() -> set[str]:
    """The modules that are there before: a profile makes none be imported."""
    return set(sys.modules)


@pytest.mark.parametrize("count", [300, pytest.param(1000, marks=pytest.mark.slow)])
def test_mutations(model: Model, text: str, tmp_path: Path, allowed: set[str], count: int) -> None:
    """Each is a ProfileError or a profile that writes back to its meaning; an error while binding changes nothing."""
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path, again, known = tmp_path / "p.json", tmp_path / "again.json", both()
    refused = read = bound = stale = 0
    for seed in range(count):
        path.write_bytes(mutated(text, seed))
        try:
            loaded = load_profile(path)
        except ProfileError as error:
            refused += str(error).startswith(f"{path}: ")
            continue
        read += 1
        assert load_profile(write_profile(loaded, again)) == loaded, seed
        for use_fallback in (False, True):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    kernelize_model(model, profile=loaded, use_fallback=use_fallback, registry=known)
                    bound += bool(kernelize_report(model).bound)
                    restore_model(model)
                except TuneError:
                    stale += 1
            assert untouched(model, weights), seed
    assert refused + read == count
    # The mutations reach every way out, or this test would prove nothing.
    assert min(refused, read, bound) > count // 10
    assert stale > count // 100
    assert not {"antigravity", "geohash"} & (set(sys.modules) - allowed)


def test_an_unharmed_profile_binds(model: Model, text: str, tmp_path: Path) -> None:
    """The profile that the mutations start from is bound, layers and function, and restored."""
    path = tmp_path / "p.json"
    path.write_text(text)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kernelize_model(model, profile=path, use_fallback=False, registry=both())
    assert {binding.slot for binding in kernelize_report(model).bound} == {"Quick", f"{HERE}.grown"}
    restore_model(model)
    assert untouched(model, weights)


def test_names_in_a_profile_import_nothing(model: Model, text: str, tmp_path: Path) -> None:
    """A function slot that the profile names and nobody registered is stale; its module is not imported."""
    evil = tmp_path / "evil_of_a_profile.py"
    evil.write_text("raise SystemExit('imported')")
    path = tmp_path / "p.json"
    path.write_text(text.replace(f"{HERE}:grown", "evil_of_a_profile:grown"))
    sys.path.insert(0, str(tmp_path))
    try:
        with pytest.warns(UserWarning, match="no function slot 'evil_of_a_profile:grown', and none is registered"):
            kernelize_model(model, profile=path, registry=both())
    finally:
        sys.path.remove(str(tmp_path))
        restore_model(model)
    assert "evil_of_a_profile" not in sys.modules
