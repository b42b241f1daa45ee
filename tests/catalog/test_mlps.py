"""MLPs of many families: what is offered for them is right, draws as the original does, and steps aside in time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.catalog.encoder_families import FAMILIES, tiny
from tests.catalog.test_catalog_candidates import loaded, ready_made
from twinkle_tune.call.arguments import Call
from twinkle_tune.catalog import function_contestants, functions_of, layer_contestants, layer_name
from twinkle_tune.kernel.find import contestants, find_slots
from twinkle_tune.kernel.functions import original_function
from twinkle_tune.mode import Mode
from twinkle_tune.parity.check import check
from twinkle_tune.parity.verdict import Pass
from twinkle_tune.slot import Slot, SlotKind
from twinkle_tune.workload import target_of

MLPS = {
    "t5": "MLP",
    "t5-gated": "GatedMLP",
    "modernbert": "GatedMLP",
    "gpt2": "MLP",
    "bert": "LinearAct",
    "deberta": "LinearAct",
    "wav2vec2": "MLP",
    "vit": "MLP",
}
"""Families whose MLP is a module of its own, or half of it is; of the others its parts stand in the block."""


def mlp_of(family: str) -> nn.Module:
    """The first MLP of a family's model."""
    return next(m for m in tiny(family).modules() if layer_name(m) == MLPS[family])


def forwards(module: nn.Module, mode: Mode) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Name and forward of each built-in candidate for a layer, but for ``compile``."""
    name = layer_name(module)
    assert name is not None
    slot = Slot(name=name, kind=SlotKind.LAYER, target=target_of(type(module)))
    for candidate in ready_made(layer_contestants(name, module, "cpu")):
        if candidate.competes("cpu", mode):
            yield candidate.name, loaded(candidate, slot, type(module).forward)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mode", [Mode.INFERENCE, Mode.TRAIN])
@pytest.mark.parametrize("family", MLPS)
def test_mlps_get_candidates_that_pass_the_parity_rule(family: str, mode: Mode, dtype: torch.dtype) -> None:
    """Each family's MLP has a candidate of torch's own in both modes, and all pass, dropouts on where it trains."""
    module = mlp_of(family).to(dtype).train(mode.trains)
    x = torch.randn(2, 5, 32).to(dtype).requires_grad_(mode.trains)
    found = dict(forwards(module, mode))
    assert found
    for name, forward in found.items():
        call = Call(args=(x,), kwargs={})
        verdict = check(type(module).forward, forward, [call], module=module, trains=mode.trains)
        assert isinstance(verdict, Pass), (name, verdict)


@pytest.mark.parametrize("family", ["t5-gated", "modernbert", "wav2vec2", "gpt2"])
def test_dropouts_draw_as_the_originals(family: str) -> None:
    """From one seed the same elements are dropped: outputs agree to rounding, and the generator ends where it would."""
    module = mlp_of(family).train()
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.5
    x = torch.randn(3, 4, 32)
    for _, forward in forwards(module, Mode.TRAIN):
        results = []
        for call in (type(module).forward, forward):
            torch.manual_seed(3)
            results.append((call(module, x), torch.get_rng_state()))
        torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-5)
        assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("family", ["t5-gated", "modernbert", "wav2vec2", "vit", "gpt2", "bert"])
def test_recomputing_keeps_less(family: str) -> None:
    """What autograd keeps for the backward is at least a tenth smaller than of the original."""
    module = mlp_of(family).train()
    x = torch.randn(64, 32, requires_grad=True)
    kept = {}
    for name, forward in [("original", type(module).forward), *forwards(module, Mode.TRAIN)]:
        storages: dict[int, int] = {}

        def note(tensor: Tensor, storages: dict[int, int] = storages) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            out = forward(module, x)
        kept[name] = sum(storages.values())
        del out
    assert kept["torch.recompute"] < 0.9 * kept["original"], kept


@pytest.mark.parametrize("family", ["t5-gated", "vit", "bert"])
def test_recomputing_competes_in_training_alone(family: str) -> None:
    """Where nothing is kept for a backward it would be the original: there it takes nobody's time."""
    module = mlp_of(family)
    assert "torch.recompute" in dict(forwards(module, Mode.TRAIN))
    assert not any("recompute" in name for name, _ in forwards(module, Mode.INFERENCE))


@pytest.mark.parametrize("family", ["t5-gated", "modernbert", "gpt2", "vit", "bert"])
def test_second_order_gradients_are_the_originals(family: str) -> None:
    """A gradient penalty through each training candidate gives the gradients that it gives through the original."""
    module = mlp_of(family).double()
    found = []
    for forward in (type(module).forward, *(call for _, call in forwards(module, Mode.TRAIN))):
        x = torch.randn(2, 3, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(5)).requires_grad_()
        (slope,) = torch.autograd.grad(forward(module, x).square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), (x, *module.parameters()), allow_unused=True))
    for other in found[1:]:
        for got, expected in zip(other, found[0], strict=True):
            assert (got is None) == (expected is None)
            if expected is not None:
                torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("family", MLPS)
def test_what_is_not_plain_arithmetic_runs_as_the_module_does(family: str) -> None:
    """Under autocast and ``torch.func`` candidates give the original's dtype and values, and raise nothing."""
    module = mlp_of(family)
    x = torch.randn(2, 3, 32)
    for mode in (Mode.INFERENCE, Mode.TRAIN):
        for _, forward in forwards(module, mode):
            with torch.set_grad_enabled(mode.trains), torch.autocast("cpu", torch.bfloat16):
                got, expected = forward(module, x), type(module).forward(module, x)
            assert got.dtype == expected.dtype
            torch.testing.assert_close(got, expected, rtol=2e-2, atol=2e-2)
            slopes = [
                torch.func.grad(lambda x, call=call: call(module, x).square().sum())(x)
                for call in (forward, type(module).forward)
            ]
            torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["t5", "t5-gated"])
@pytest.mark.parametrize("mode", [Mode.INFERENCE, Mode.TRAIN])
def test_a_last_linear_kept_in_float32_gives_float32(family: str, mode: Mode) -> None:
    """T5 in half precision keeps its last Linear in float32 and casts to it; so do the candidates."""
    module = mlp_of(family).bfloat16()
    module.get_submodule("wo").float()
    module.train(mode.trains)
    x = torch.randn(2, 5, 32).bfloat16().requires_grad_(mode.trains)
    found = list(forwards(module, mode))
    assert found
    for name, forward in found:
        assert forward(module, x).dtype == torch.float32
        verdict = check(type(module).forward, forward, [Call(args=(x,), kwargs={})], module=module, trains=mode.trains)
        assert isinstance(verdict, Pass), (name, verdict)


@pytest.mark.parametrize("dtypes", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)], ids=str)
@pytest.mark.parametrize("family", ["t5", "llama", "gemma", "olmo2"])
def test_norms_give_the_originals_dtype(family: str, dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    """With an input and a weight of two dtypes each norm's candidates give the dtype that the original gives."""
    from tests.catalog.catalog_families import tiny as decoder

    model = tiny(family) if family in FAMILIES else decoder(family)
    module = next(m for m in model.modules() if layer_name(m) == "RMSNorm").to(dtypes[1])
    x = torch.randn(2, 5, 32).to(dtypes[0])
    for name, forward in forwards(module, Mode.INFERENCE):
        verdict = check(type(module).forward, forward, [Call(args=(x,), kwargs={})], module=module, trains=False)
        assert isinstance(verdict, Pass), (name, verdict)


@pytest.mark.parametrize("family", ["llama", "olmo2", "qwen3"])
def test_rotaries_give_the_originals_dtype(family: str) -> None:
    """Heads in bfloat16 with cos and sin in float32: cast back where the original does that (OLMo-2), else not."""
    from tests.catalog.catalog_families import tiny as decoder

    slot = functions_of(decoder(family))[0]
    original = original_function(slot.target)
    q, k = torch.randn(1, 4, 5, 8).bfloat16(), torch.randn(1, 2, 5, 8).bfloat16()
    angles = torch.randn(1, 5, 4)
    cos, sin = (torch.cat((t, t), -1) for t in (angles.cos(), angles.sin()))
    for candidate in ready_made(function_contestants(slot, original, "cpu")):
        given = loaded(candidate, slot, original)(q, k, cos, sin)
        assert [t.dtype for t in given] == [t.dtype for t in original(q, k, cos, sin)]
        call = Call(args=(q, k, cos, sin), kwargs={})
        verdict = check(original, loaded(candidate, slot, original), [call], module=None, trains=False)
        assert isinstance(verdict, Pass), (candidate.name, verdict)


class Transposed(nn.Module):
    """Holds its matrix as (in, out), under names of its own."""

    def __init__(self, wide_in: int, wide_out: int, times: float = 1.0) -> None:
        super().__init__()
        self.matrix, self.shift = nn.Parameter(torch.randn(wide_in, wide_out)), nn.Parameter(torch.randn(wide_out))
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        return self.times * (x @ self.matrix + self.shift)


class Loose(nn.Module):
    """An MLP whose activation is a function and whose dropout may be one, too."""

    def __init__(self, function: Callable[[Tensor], Tensor], drops: float = 0.0) -> None:
        super().__init__()
        self.a, self.b, self.drops, self.function = nn.Linear(16, 40), nn.Linear(40, 16), drops, function

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.dropout(self.function(self.a(x)), self.drops, self.training))  # type: ignore[no-any-return]


class Bottled(nn.Module):
    """A Linear, an activation and a dropout in another order than their names say."""

    def __init__(self, dropout: nn.Module) -> None:
        super().__init__()
        self.act, self.last, self.drop = nn.GELU(), nn.Linear(16, 40), dropout

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.act(self.last(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("module", "name", "offered"),
    [
        (nn.Sequential(Transposed(16, 40), nn.GELU(), Transposed(40, 16)), "MLP", True),
        (nn.Sequential(Transposed(16, 40, 2.0), nn.GELU(), Transposed(40, 16)), None, False),
        (nn.Sequential(nn.Linear(16, 40), nn.ReLU(), nn.Dropout(0.1), nn.Linear(40, 16), nn.Dropout(0.1)), "MLP", True),
        (nn.Sequential(nn.Dropout(0.1), nn.Linear(16, 40), nn.ReLU(), nn.Linear(40, 16)), None, False),
        (nn.Sequential(nn.Linear(16, 40), nn.Dropout(0.1), nn.ReLU(), nn.Linear(40, 16)), None, False),
        (Loose(F.gelu), "MLP", True),
        (Loose(F.silu, 0.1), None, False),
        (Loose(torch.cos), None, False),
        (Bottled(nn.Dropout(0.1)), "LinearAct", True),
        (Bottled(nn.Identity()), "LinearAct", True),
        (nn.Sequential(nn.Linear(16, 40), nn.Tanh()), "LinearAct", True),
        (nn.Sequential(nn.GELU(), nn.Linear(16, 40)), None, False),
    ],
)
def test_an_mlp_is_what_it_computes_dropouts_included(module: nn.Module, name: str | None, offered: bool) -> None:
    """Which way round a matrix lies, where dropouts stand and which function is called is found by trying."""
    assert layer_name(module) == name
    if name is not None:
        assert bool(dict(forwards(module, Mode.INFERENCE))) == offered
        x = torch.randn(3, 16)
        for _, forward in forwards(module.eval(), Mode.INFERENCE):
            with torch.no_grad():
                torch.testing.assert_close(forward(module, x), module(x))


def test_frozen_weights_get_no_gradient() -> None:
    """With the last Linear frozen the recomputing candidate gives the other gradients, and none for it."""
    module = mlp_of("vit").train()
    module.get_submodule("fc2").requires_grad_(False)
    x = torch.randn(4, 32, requires_grad=True)
    ((_, forward),) = forwards(module, Mode.TRAIN)
    wanted = [x, *(p for p in module.parameters() if p.requires_grad)]
    got, expected = (
        torch.autograd.grad(call(module, x).square().sum(), wanted) for call in (forward, type(module).forward)
    )
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("mode", [Mode.INFERENCE, Mode.TRAIN])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_offered_something_of_torchs_own_for_its_mlp(family: str, mode: Mode) -> None:
    """The MLP, its half, or the block that holds its parts has a candidate of torch's own in both modes."""
    slots = {"MLP", "GatedMLP", "LinearAct", "Block"}
    offered = [
        candidate.name
        for target in find_slots(tiny(family))
        if target.slot.name in slots
        for candidate in contestants(target, "cpu", mode)
    ]
    assert any(name.startswith("torch.") for name in offered), offered
