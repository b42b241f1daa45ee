"""A KernelConfig of transformers: the kernels that it names compete, for layers and for neighbouring modules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import KernelConfig

from tests.hub.repos import build
from tests.hub.server import LocalHub
from tests.source import layouts
from tests.source.layouts import Block, Norm
from tests.told import told_clock
from twinkle_tune import kernelize_model, kernelize_report, tune_model
from twinkle_tune.errors import ModelError, RegistrationError
from twinkle_tune.kernel import Registry, register_kernel_config
from twinkle_tune.source.children import ChildrenSource
from twinkle_tune.source.hub import HubSource
from twinkle_tune.source.package import LocalRepoSource

CONFIG = (8, 12)
REPO = "kernels-community/fused"
X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
FUSED = (("Norm", "layers.*.norm"), ("GatedMLP", "layers.*.mlp"))
NAMED = f"{REPO}:NormMLP"


class Model(nn.Module):
    """Two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Block(CONFIG), Block(CONFIG)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., 8) to (..., 8)."""
        for layer in self.layers:
            x = layer(x)
        return x


def registered(mapping: Any, **options: Any) -> Registry:
    """What a mapping comes to for the model."""
    known = Registry()
    register_kernel_config(Model(), KernelConfig(mapping, **options), registry=known)
    return known


def test_a_fused_kernel_competes(monkeypatch: pytest.MonkeyPatch, local_hub: LocalHub) -> None:
    """The key of neighbouring modules, as transformers has it: the kernel stands for them, wins by the same gate, and
    the bound model computes what it did."""
    made = told_clock(monkeypatch)
    plain: Callable[..., Any] = Norm.forward

    def slow(self: Norm, x: torch.Tensor) -> Any:
        made.us += 500.0
        return plain(self, x)

    monkeypatch.setattr(Norm, "forward", slow)
    source = Path(layouts.__file__).read_text()
    local_hub.push(REPO, build({"__init__.py": source + "\n\nclass layers:\n    NormMLP = NormMLP\n"}))
    known = registered({FUSED: (NAMED, {"revision": "main"})})
    model = Model().eval()
    with torch.no_grad():
        before = model(X)
    profile = tune_model(model, X, device="cpu", registry=known, candidates=["hub"])
    (contest,) = (c for c in profile.contests if c.slot.name == "Block")
    assert contest.selection.winner == f"hub:{NAMED}@main(norm+mlp)"
    assert contest.instances == ("layers.0", "layers.1")
    kernelize_model(model, profile=profile, registry=known, use_fallback=False)
    assert len(kernelize_report(model).bound) == 2
    with torch.no_grad():
        torch.testing.assert_close(model(X), before)


def sources(known: Registry, name: str) -> list[Any]:
    """The sources that are registered under a name."""
    return [candidate.source for candidate in known.layer(name)]


def test_what_is_said_of_a_repo() -> None:
    """Version, revision and trust, a repo a device, and folders, as transformers reads them; the class is named."""
    known = registered({"Norm": "owner/name:Fast"})
    assert sources(known, "Norm") == [HubSource(repo_id="owner/name", name="Fast", version=1)]
    assert known.kernel_name(Norm) == "Norm"
    pinned = ("owner/name:Fast", {"revision": "abc", "trust_remote_code": True})
    (found,) = sources(registered({"Norm": pinned}), "Norm")
    assert found == HubSource(repo_id="owner/name", name="Fast", revision="abc", trusted=True)
    known = registered({FUSED: {"cuda": NAMED, "cpu": (NAMED, {"version": 2})}})
    assert [candidate.device for candidate in known.layer("Block")] == ["cuda", "cpu"]
    cuda, cpu = sources(known, "Block")
    assert cuda == ChildrenSource(source=HubSource(repo_id=REPO, name="NormMLP", version=1), names=("norm", "mlp"))
    assert cpu.source.version == 2
    (local,) = sources(registered({"Norm": "/some/where:Fast"}, use_local_kernel=True), "Norm")
    assert local == LocalRepoSource(repo_path=Path("/some/where"), name="Fast")


WRONG: dict[str, tuple[Any, str]] = {
    "no mapping": (7, "got a int, expected a KernelConfig of transformers"),
    "no layer": ({"Norm": REPO}, "'Norm': got 'kernels-community/fused', expected 'owner/name:Layer'"),
    "an unknown word": ({"Norm": (NAMED, {"commit": "a"})}, r"'Norm': got .*commit"),
    "a name of nobody": ({"Other": NAMED}, "'Other': no layer of the model asks for kernels by this name"),
    "modules of two layers": (
        {(("Norm", "layers.*.norm"), ("GatedMLP", "blocks.*.mlp")): NAMED},
        "expected patterns of two modules or more of the same layer",
    ),
    "one module": ({FUSED[:1]: NAMED}, "expected patterns of two modules or more of the same layer"),
    "no pairs": ({("norm", "mlp"): NAMED}, "got 'norm', expected a class's name and a pattern of paths"),
    "no path": ({(("Norm", "norm"), ("GatedMLP", "mlp")): NAMED}, "got the pattern 'norm', expected the path"),
    "a path to nowhere": (
        {(("Norm", "model.layers.*.norm"), ("GatedMLP", "model.layers.*.mlp")): NAMED},
        r"no module of the model is at 'model.layers.\*'",
    ),
    "no such module": (
        {(("Norm", "layers.*.norm"), ("Other", "layers.*.other")): NAMED},
        r"layers.0 \(Block\) has no module 'other', expected norm, other",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_none_is_refused_whole(case: str) -> None:
    """One error says what was got and expected, and nothing is registered, of what is right as well."""
    wrong, message = WRONG[case]
    mapping = {FUSED: NAMED, **wrong} if isinstance(wrong, dict) else wrong
    known = Registry()
    with pytest.raises(RegistrationError, match=message):
        register_kernel_config(Model(), mapping, registry=known)
    assert not known.layer("Block")
    assert known.kernel_name(Block) is None


def test_what_is_no_model_is_refused() -> None:
    """A name that a model could be loaded by, say: it is told that a module is expected."""
    with pytest.raises(ModelError, match="model: got the name 'tiny', expected a torch module"):
        register_kernel_config("tiny", {FUSED: NAMED}, registry=Registry())  # type: ignore[arg-type]
