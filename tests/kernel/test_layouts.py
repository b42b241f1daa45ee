"""Kernels that read weights in another layout, and kernels for several modules, as candidates: by the same gate."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from tests.hub.repos import build
from tests.hub.server import LocalHub
from tests.source import layouts
from tests.source.layouts import Block, GatedMLP, Norm
from tests.told import Told, told_clock
from twinkle_tune import kernelize_model, kernelize_report, load_profile, restore_model, tune_model
from twinkle_tune.errors import RegistrationError
from twinkle_tune.export.choice import by_kernel_name
from twinkle_tune.kernel import Registry, register_external_layer, register_layer_kernel
from twinkle_tune.outcome import Rejection
from twinkle_tune.profile.schema import Profile

CONFIG = (8, 12)
REPO = "kernels-community/norms"
X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
HUB = """
from torch import nn

try:
    from transformers.core_model_loading import WeightRenaming
except ImportError:
    WeightRenaming = None


class ScaledLayout(nn.Module):
    conversion_mapping = [] if WeightRenaming is None else [WeightRenaming("norm.weight", "norm.scale")]

    def __init__(self, width, eps=1e-6):
        super().__init__()


class Scaled(nn.Module):
    def forward(self, x):
        return x * (x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon).rsqrt() * self.scale


class layers:
    Scaled = Scaled
"""


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Told:
    """The layers take 500 µs, the kernels none."""
    made = told_clock(monkeypatch)

    def slow(cls: type[nn.Module]) -> None:
        plain = cls.forward

        def forward(self: Any, x: torch.Tensor) -> Any:
            made.us += 500.0
            return plain(self, x)

        monkeypatch.setattr(cls, "forward", forward)

    for cls in (Norm, GatedMLP):
        slow(cls)
    return made


def tuned(model: nn.Module, known: Registry, mode: str, kind: str = "impl") -> Profile:
    """A profile of candidates of a kind alone."""
    return tune_model(model, X, mode=mode, device="cpu", registry=known, candidates=[kind])


def registered(cls: type[nn.Module], *kernels: type[nn.Module], children: tuple[str, ...] = ()) -> Registry:
    """Kernels of this process for a layer."""
    made = Registry()
    register_external_layer(cls, "Layer", registry=made)
    for kernel in kernels:
        register_layer_kernel("Layer", layer_impl=kernel, device="cpu", children=children, registry=made)
    return made


def ran(model: nn.Module) -> list[torch.Tensor]:
    """The output, and the gradients of the parameters."""
    out = model(X)
    out.pow(2).sum().backward()
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return [out.detach(), *found]


CASES: dict[str, tuple[type[nn.Module], type[nn.Module], type[nn.Module] | None, tuple[str, ...]]] = {
    "two weights as one": (GatedMLP, layouts.Merged, layouts.Swapped, ()),
    "two modules as one": (Block, layouts.NormMLP, layouts.Forgets, ("norm", "mlp")),
}


@pytest.mark.parametrize("case", CASES)
def test_the_right_one_wins_and_the_wrong_one_is_refused(case: str) -> None:
    """In training it is held to outputs and gradients; bound, both are the layer's; weights and names stay; restored,
    the model computes bit for bit what it did."""
    cls, right, wrong, children = CASES[case]
    model: nn.Module = nn.Sequential(cls(CONFIG))
    before, state = ran(model), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    known = registered(cls, right, *([] if wrong is None else [wrong]), children=children)
    made = tuned(model, known, "train")
    (contest,) = (c for c in made.contests if c.slot.name == "Layer")
    assert contest.selection.winner.startswith(f"impl:{right.__name__}")
    (refused,) = (t.outcome for t in contest.trials if t.candidate.startswith(f"impl:{wrong and wrong.__name__}"))
    assert isinstance(refused, Rejection)
    kernelize_model(model, profile=made, registry=known, use_fallback=False)
    assert [b.candidate for b in kernelize_report(model).bound] == [contest.selection.winner]
    for mine, its in zip(ran(model), before, strict=True):
        torch.testing.assert_close(mine, its)
    assert list(model.state_dict()) == list(state)
    restore_model(model)
    for mine, its in zip(ran(model), before, strict=True):
        assert torch.equal(mine, its)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("case", CASES)
def test_where_it_does_not_fit_any_more_the_original_runs(case: str) -> None:
    """A bias that came to a child, and tracing by torch.jit: the model computes what it does without kernels; of the
    bias the report says so."""
    cls, right, _, children = CASES[case]
    model: nn.Module = nn.Sequential(cls(CONFIG)).eval()
    twin = copy.deepcopy(model)
    known = registered(cls, right, children=children)
    kernelize_model(model, profile=tuned(model, known, "inference"), registry=known, use_fallback=False)
    with torch.no_grad():
        traced = torch.jit.trace(model, X)  # type: ignore[no-untyped-call]
        torch.testing.assert_close(traced(X), twin(X))
        for each in (model, twin):
            mlp = next(m for m in each.modules() if isinstance(m, GatedMLP))
            mlp.down_proj.bias = nn.Parameter(torch.ones(8))
        torch.testing.assert_close(model(X), twin(X))
    report = kernelize_report(model)
    assert not report.bound
    assert "a submodule was replaced after it was bound" in str(report)


def test_a_layer_that_writes_on_itself_keeps_its_forward() -> None:
    """What its forward leaves on it would be lost with a kernel in it: refused in the contest, and it is there."""

    class Noting(Block):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.mlp(self.norm(x))
            self.last = out.detach()
            return x + out

    known, model = registered(Noting, layouts.NormMLP, children=("norm", "mlp")), nn.Sequential(Noting(CONFIG)).eval()
    made = tuned(model, known, "inference")
    (outcome,) = (t.outcome for c in made.contests for t in c.trials if t.candidate.startswith("impl"))
    assert isinstance(outcome, Rejection)
    assert "Noting's forward writes on self" in outcome.reason


def test_weights_that_are_others_than_they_were() -> None:
    """A buffer that came to the layer: the original runs, and the report says why."""
    known, model = registered(Norm, layouts.Renamed), nn.Sequential(Norm(8)).eval()
    kernelize_model(model, profile=tuned(model, known, "inference"), registry=known, use_fallback=False)
    twin = copy.deepcopy(model)
    restore_model(twin)
    with torch.no_grad():
        model(X)
        for each in (model, twin):
            each[0].register_buffer("shift", torch.ones(8))
        assert torch.equal(model(X), twin(X))
    assert "the layer's weights are others than they were (shift): the original runs" in str(kernelize_report(model))


def test_training_goes_on_as_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten steps of SGD with the kernels bound leave the weights that ten steps without them leave."""
    models = [nn.Sequential(Block(CONFIG)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    known = registered(Block, layouts.NormMLP, children=("norm", "mlp"))
    kernelize_model(models[1], profile=tuned(models[1], known, "train"), registry=known, use_fallback=False)
    for model in models:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(10):
            model(X).pow(2).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    for mine, its in zip(models[1].parameters(), models[0].parameters(), strict=True):
        torch.testing.assert_close(mine, its)


def test_from_the_hub(local_hub: LocalHub, tmp_path: Any) -> None:
    """A repo as transformers' page has it, with a class ``layers``: it competes, is pinned, and is left out of
    mappings, which could not say its layout."""
    commit = local_hub.push(REPO, build({"__init__.py": HUB}))
    known = Registry()
    register_external_layer(Norm, "Scaled", registry=known)
    register_layer_kernel("Scaled", repo_id=REPO, revision="main", device="cpu", registry=known)
    model = nn.Sequential(Norm(8))
    made = load_profile(tuned(model, known, "inference", "hub").save(tmp_path / "profile.json"))
    (contest,) = made.contests
    assert contest.selection.winner == f"hub:{REPO}:Scaled@main"
    assert contest.trial(contest.selection.winner).commit == commit
    kernelize_model(model, profile=made, registry=known, use_fallback=False)
    with torch.no_grad():
        torch.testing.assert_close(model(X), Norm(8)(X))
    (left_out,) = by_kernel_name(made).left_out
    assert left_out.reason.startswith("it reads weights in another layout")


def test_without_a_profile_the_original_stays() -> None:
    """Nobody compared it with the original: it is not bound, a warning says what to do, without fallback an error."""
    known, model = registered(GatedMLP, layouts.Merged), nn.Sequential(GatedMLP(CONFIG))
    why = r"Layer: impl:Merged: it reads weights in another layout .* only where it was compared .* pass profile="
    with pytest.warns(UserWarning, match=why):
        kernelize_model(model, "inference", registry=known)
    assert not kernelize_report(model).bound
    with pytest.raises(RegistrationError, match=why):
        kernelize_model(model, "inference", registry=known, use_fallback=False)


@pytest.mark.parametrize("children", ["norm", ("norm.weight",), (1,)])
def test_names_of_children(children: Any) -> None:
    """What is no list of names is refused at once."""
    with pytest.raises(RegistrationError, match=r"children: got .*, expected names of modules of the layer"):
        register_layer_kernel("Layer", layer_impl=layouts.NormMLP, children=children, registry=Registry())
