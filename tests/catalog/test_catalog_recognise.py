"""Recognised is what a module computes, not what it is called; and recognising leaves no trace."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.catalog.catalog_families import FAMILIES, tiny
from twinkle_tune.catalog import functions_of, layer_contestants, layer_name
from twinkle_tune.catalog.recognise import flavour_of
from twinkle_tune.slot import SlotKind

_RMS = {"RMSNorm": "RMSNorm"}
_GATED = {"MLP": "GatedMLP"}
_EXPECTED: dict[str, dict[str, str]] = {
    "llama": {**_RMS, **_GATED, "SiLUActivation": "Activation"},
    "qwen2": {**_RMS, **_GATED, "SiLUActivation": "Activation"},
    "qwen3": {**_RMS, **_GATED, "SiLUActivation": "Activation"},
    "mistral": {**_RMS, **_GATED, "SiLUActivation": "Activation"},
    "gemma": {**_RMS, **_GATED, "GELUTanh": "Activation"},
    "gemma2": {**_RMS, **_GATED, "GELUTanh": "Activation"},
    "gemma3_text": {**_RMS, **_GATED, "GELUTanh": "Activation"},
    "phi": {"LayerNorm": "LayerNorm", "MLP": "MLP", "NewGELUActivation": "Activation"},
    "phi3": {**_RMS, **_GATED, "SiLUActivation": "Activation"},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_family_has_its_layers_and_no_others(family: str) -> None:
    """Of each family the norms, MLPs and activations are slots, all of them, and nothing else is."""
    prefix = {"gemma3_text": "gemma3"}.get(family, family)
    found = {}
    for module in tiny(family).modules():
        short = type(module).__name__
        short = short[len(prefix) :] if short.lower().startswith(prefix) else short
        name = layer_name(module)
        if name is not None:
            found[short] = name
    assert found == _EXPECTED[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_family_has_its_rotary_function_and_loss(family: str) -> None:
    """Of each family the file's own rotary function and transformers' cross entropy are function slots."""
    slots = functions_of(tiny(family))
    file = {"gemma3_text": "gemma3"}.get(family, family)
    place = f"transformers.models.{file}.modeling_{file}"
    assert [slot.target for slot in slots] == [
        f"{place}:apply_rotary_pos_emb",
        "transformers.loss.loss_utils:fixed_cross_entropy",
    ]
    assert [slot.name for slot in slots] == [slot.target.replace(":", ".") for slot in slots]
    assert {slot.kind for slot in slots} == {SlotKind.FUNCTION}


def test_model_without_a_head_has_no_loss() -> None:
    """A transformers model that takes no labels offers its rotary function alone."""
    config = transformers.LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=1, vocab_size=64)
    assert [slot.name.split(".")[-1] for slot in functions_of(transformers.LlamaModel(config))] == [
        "apply_rotary_pos_emb"
    ]


def test_imported_function_is_a_slot_where_the_class_looks_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rotary function that a file imports and a class of it calls belongs to that file; an unused one is none."""
    source = "\n".join(
        (
            "from torch import nn",
            "from rotary_library import turn, unused",
            "def helper(*args):",
            "    return turn(*args)",
            "class Attention(nn.Module):",
            "    def forward(self, q, k, cos, sin):",
            "        return helper(q, k, cos, sin)",
        )
    )
    library, user = ModuleType("rotary_library"), ModuleType("rotary_user")
    monkeypatch.setitem(sys.modules, "rotary_library", library)
    monkeypatch.setitem(sys.modules, "rotary_user", user)
    exec("def turn(q, k, cos, sin, unsqueeze_dim=1): return q, k\nunused = turn", vars(library))
    exec(source, vars(user))
    assert [slot.target for slot in functions_of(user.Attention())] == ["rotary_user:turn"]


class ZeroCenteredNorm(nn.Module):
    """An RMSNorm whose weight is stored as its distance from one."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(16))
        self.tiny_number = 1e-5

    def forward(self, x: Tensor) -> Tensor:
        y = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + self.tiny_number)
        return (y * (1.0 + self.gain.float())).to(x.dtype)


class RMSNorm(nn.Module):
    """Named after one thing, computing another: it subtracts the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(16))
        self.eps = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return self.weight * centred * torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + self.eps)


class EpsOutside(RMSNorm):
    """eps beside the root instead of below it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x / (x.pow(2).mean(-1, keepdim=True).sqrt() + self.eps)


class ClippedScale(RMSNorm):
    """Has a weight and an eps, and is no norm."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.clamp(min=self.eps)


class ResidualNorm(RMSNorm):
    """A norm that takes two tensors."""

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:  # type: ignore[override]
        return F.rms_norm(x + residual, (16,), self.weight, self.eps)


class Weightless(nn.Module):
    """An RMSNorm without a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.eps = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (ZeroCenteredNorm(), "RMSNorm"),
        (RMSNorm(), "LayerNorm"),
        (Weightless(), "RMSNorm"),
        (EpsOutside(), None),
        (ClippedScale(), None),
        (ResidualNorm(), None),
        (nn.RMSNorm(16), "RMSNorm"),
        (nn.LayerNorm(16, bias=False), "LayerNorm"),
        (nn.LayerNorm(16, elementwise_affine=False), "LayerNorm"),
        (nn.LayerNorm((4, 16)), None),
        (nn.GroupNorm(2, 16), None),
        (nn.BatchNorm1d(16), None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_norm_is_what_it_computes(module: nn.Module, name: str | None) -> None:
    """A norm is recognised by its results, whatever its class, weight and eps are called."""
    assert layer_name(module) == name


def test_flavour_tells_weight_offset_eps_and_cast() -> None:
    """The probe finds which attributes count and how: here one plus ``gain``, ``tiny_number``, cast at the end."""
    found = flavour_of(ZeroCenteredNorm())
    assert found is not None
    flavour: Any = found[1]
    assert (flavour.weight, flavour.offset, flavour.eps, flavour.casts_last) == (
        "gain",
        1.0,
        "tiny_number",
        True,
    )
    llama = next(m for m in tiny("llama").modules() if type(m).__name__ == "LlamaRMSNorm")
    found = flavour_of(llama)
    assert found is not None
    flavour = found[1]
    assert (flavour.weight, flavour.offset, flavour.eps) == ("weight", 0.0, "variance_epsilon")
    assert not flavour.casts_last


class Gated(nn.Module):
    """A gated MLP whose names tell nothing; ``swapped`` makes the second Linear the gate."""

    def __init__(self, act: nn.Module, swapped: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(16, 40), nn.Linear(16, 40), nn.Linear(40, 16)
        self.act, self.swapped = act, swapped

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        gate, up = (b, a) if self.swapped else (a, b)
        return self.c(self.act(gate) * up)  # type: ignore[no-any-return]


class ScaledGated(Gated):
    """Looks like a gated MLP and scales its middle."""

    def forward(self, x: Tensor) -> Tensor:
        return self.c(2.0 * self.act(self.a(x)) * self.b(x))  # type: ignore[no-any-return]


class SwappedPacked(nn.Module):
    """Gate and up from one Linear, the gate in the second half."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.back, self.act, self.wide = nn.Linear(16, 80), nn.Linear(40, 16), nn.GELU(), 40

    def forward(self, x: Tensor) -> Tensor:
        up, gate = self.both(x).split(self.wide, dim=-1)
        return self.back(up * self.act(gate))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("act", "function"), [(nn.SiLU(), "silu"), (nn.GELU(), "gelu"), (nn.Softsign(), "")])
@pytest.mark.parametrize("swapped", [False, True])
def test_gate_and_activation_are_found_out(act: nn.Module, function: str, swapped: bool) -> None:
    """Which Linear is the gate, and which activation follows it, is computed; neither is read from names."""
    found = flavour_of(Gated(act, swapped))
    assert found is not None
    assert found[0].name == "GatedMLP"
    flavour: Any = found[1]
    assert (flavour.gate, flavour.up) == (("b", "a") if swapped else ("a", "b"))
    assert (flavour.down, flavour.act, flavour.function) == ("c", "act", function)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (SwappedPacked(), "GatedMLP"),
        (ScaledGated(nn.SiLU()), None),
        (nn.Sequential(nn.Linear(16, 40), nn.ReLU(), nn.Linear(40, 16)), "MLP"),
        (nn.Sequential(nn.Linear(16, 40), nn.Linear(40, 16), nn.ReLU()), None),
        (nn.Sequential(nn.Linear(16, 40), nn.Softmax(-1), nn.Linear(40, 16)), None),
        (nn.Linear(16, 40), None),
    ],
)
def test_mlp_is_what_it_computes(module: nn.Module, name: str | None) -> None:
    """An MLP is recognised only if a tiny copy of it gives the MLP's formula."""
    assert layer_name(module) == name


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (nn.GELU(), "Activation"),
        (nn.Softsign(), "Activation"),
        (nn.Identity(), None),
        (nn.Dropout(0.5).train(), None),
        (nn.Softmax(-1), None),
        (nn.CrossEntropyLoss(), None),
        (nn.PReLU(), None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_activation_is_elementwise_and_does_something(module: nn.Module, name: str | None) -> None:
    """Only what changes every element by itself is an activation."""
    assert layer_name(module) == name


def test_recognising_leaves_no_trace() -> None:
    """Weights, mode, attributes, random state and hooks' counts are as before, and no hook was called."""
    model = tiny("phi").train()
    calls: list[nn.Module] = []
    for module in model.modules():
        module.register_forward_hook(lambda module, args, output: calls.append(module))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attributes = [dict(vars(module)) for module in model.modules()]
    random_state = torch.get_rng_state()
    for module in model.modules():
        layer_name(module)
    functions_of(model)
    assert calls == []
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [dict(vars(module)) for module in model.modules()] == attributes


def test_stateful_forward_does_not_reach_the_module() -> None:
    """A norm that counts its calls in itself is probed on a copy."""

    class Counting(Weightless):
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[int] = []

        def forward(self, x: Tensor) -> Tensor:
            self.calls.append(1)
            return super().forward(x)

    module = Counting()
    assert layer_name(module) == "RMSNorm"
    assert module.calls == []


def test_random_forward_does_not_move_the_random_state() -> None:
    """A module that draws random numbers is probed without drawing from the process's."""

    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.randn_like(x)

    random_state = torch.get_rng_state()
    assert layer_name(Noisy()) is None
    assert torch.equal(torch.get_rng_state(), random_state)


def test_equal_settings_are_tried_once_and_others_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """28 layers of one form cost one probe; a different setting, or a closure as attribute, gets one of its own."""
    runs: list[type] = []
    plain = ZeroCenteredNorm.forward

    def counted(self: ZeroCenteredNorm, x: Tensor) -> Tensor:
        runs.append(type(self))
        return plain(self, x)

    monkeypatch.setattr(ZeroCenteredNorm, "forward", counted)
    for _ in range(28):
        assert layer_name(ZeroCenteredNorm()) == "RMSNorm"
    first = len(runs)
    other = ZeroCenteredNorm()
    other.tiny_number = 1e-3
    layer_name(other)
    assert 0 < first < len(runs) <= 2 * first
    acts = [nn.GELU(), nn.SiLU()]

    class Held(nn.Module):
        def __init__(self, act: nn.Module) -> None:
            super().__init__()
            self.function = act.forward

        def forward(self, x: Tensor) -> Any:
            return self.function(x)

    kinds: list[Any] = [flavour_of(Held(act)) for act in acts]
    assert [kind[1].function for kind in kinds] == ["gelu", "silu"]


def test_large_meta_mlp_is_recognised_at_once() -> None:
    """Nothing large is run: an MLP of 70 billion parameters' width, without memory, is recognised on small tensors."""

    class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
        elements = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            self.elements = max(self.elements, *(t.numel() for t in tree_leaves(made) if isinstance(t, Tensor)), 0)
            return made

    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(8192, 28672), nn.SiLU(), nn.Linear(28672, 8192))
    with Largest() as largest:  # type: ignore[no-untyped-call]
        assert layer_name(module) == "MLP"
    assert 0 < largest.elements <= 1 << 16


def test_candidates_of_a_name_that_is_not_the_modules() -> None:
    """A module under another slot's name gets nothing but ``compile``."""
    assert [candidate.name for candidate in layer_contestants("RMSNorm", nn.GELU(), "cpu")] == ["compile"]
