"""What the catalog offers is right, leaves its inputs alone, fits the original's form, and has stable digests."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.catalog.catalog_families import FAMILIES, tiny, width
from twinkle_tune.catalog import function_contestants, functions_of, layer_contestants, layer_name
from twinkle_tune.catalog import liger as liger_kernels
from twinkle_tune.catalog.layer_norm import fused_layer_norm
from twinkle_tune.catalog.loss import as_loss, by_liger, by_logsumexp
from twinkle_tune.catalog.rms_norm import fused_rms_norm, vector_norm_rms_norm
from twinkle_tune.mode import Mode
from twinkle_tune.slot import Candidate, Slot, SlotKind
from twinkle_tune.workload import target_of

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def layers_of(family: str) -> Iterator[tuple[Slot, nn.Module]]:
    """One module of each class and slot of a family."""
    found: dict[tuple[str, type], nn.Module] = {}
    for module in tiny(family).modules():
        name = layer_name(module)
        if name is not None:
            found.setdefault((name, type(module)), module)
    for (name, cls), module in found.items():
        yield Slot(name=name, kind=SlotKind.LAYER, target=target_of(cls)), module


def rotary_of(family: str) -> tuple[Slot, Callable[..., Any]]:
    """A family's rotary slot and function."""
    slot = functions_of(tiny(family))[0]
    place, name = slot.target.split(":")
    return slot, getattr(importlib.import_module(place), name)


def loaded(candidate: Candidate, slot: Slot, original: Callable[..., Any]) -> Callable[..., Any]:
    """A candidate's code, checked by form on the way."""
    return candidate.source.load(slot, original).call


def ready_made(candidates: tuple[Candidate, ...]) -> list[Candidate]:
    """All but ``compile``, which would be torch's own test."""
    assert candidates[-1].name == "compile"
    return list(candidates[:-1])


def flat(output: Any) -> tuple[Tensor, ...]:
    """An output's tensors."""
    return output if isinstance(output, tuple) else (output,)


def assert_close(got: Any, expected: Any, dtype: torch.dtype) -> None:
    """Same form, and a difference that is small beside the whole tensor, in the root of the mean square."""
    assert len(flat(got)) == len(flat(expected))
    for ours, theirs in zip(flat(got), flat(expected), strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        difference = (ours.double() - theirs.double()).square().mean().sqrt()
        assert difference <= TOLERANCE[dtype] * theirs.double().square().mean().sqrt()


def assert_same_function(
    ours: Callable[..., Any],
    original: Callable[..., Any],
    inputs: tuple[Tensor, ...],
    dtype: torch.dtype,
    parameters: tuple[Tensor, ...] = (),
    *,
    trains: bool,
) -> None:
    """Equal results without gradients, equal gradients (twice, for one that trains), and inputs left as they were."""
    before = [tensor.clone() for tensor in (*inputs, *parameters)]
    with torch.no_grad():
        assert_close(ours(*inputs), original(*inputs), dtype)
    wanted = (*(x.detach().requires_grad_() for x in inputs if x.is_floating_point()), *parameters)
    leaves = iter(wanted)
    given = [next(leaves) if x.is_floating_point() else x for x in inputs]
    results = [flat(call(*given)) for call in (ours, original)]
    incoming = [torch.randn_like(output) for output in results[1]]
    kept = [gradient.clone() for gradient in incoming]
    for _ in range(2 if trains else 1):
        ours_back, theirs_back = (
            torch.autograd.grad(result, wanted, incoming, allow_unused=True, retain_graph=True) for result in results
        )
        for got, expected in zip(ours_back, theirs_back, strict=True):
            assert (got is None) == (expected is None)
            if got is not None:
                assert_close(got, expected, dtype)
    assert_close(results[0], results[1], dtype)
    for tensor, old in zip((*inputs, *parameters, *incoming), (*before, *kept), strict=True):
        assert torch.equal(tensor, old)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_layer_candidates_do_as_the_original(family: str, dtype: torch.dtype) -> None:
    """Each layer candidate gives the original's outputs and gradients, and changes neither inputs nor weights."""
    tried = []
    for slot, module in layers_of(family):
        module.to(dtype)
        x = torch.randn(2, 5, width(module)).to(dtype)
        original = type(module).forward
        for candidate in ready_made(layer_contestants(slot.name, module, "cpu")):
            ours = loaded(candidate, slot, original)
            assert_same_function(
                lambda x, ours=ours, module=module: ours(module, x),
                lambda x, original=original, module=module: original(module, x),
                (x,),
                dtype,
                tuple(module.parameters()),
                trains=candidate.competes("cpu", Mode.TRAIN),
            )
            tried.append(candidate.name)
    assert tried


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("family", "dim", "wide"),
    # Only Phi3's function itself turns a part of a head.
    [*((family, dim, 8) for family in FAMILIES for dim in (1, 2)), ("phi3", 1, 4), ("phi3", 2, 4)],
)
def test_rotary_candidates_do_as_the_original(family: str, dtype: torch.dtype, dim: int, wide: int) -> None:
    """Each rotary candidate gives the original's outputs and gradients, in both layouts and on a part of a head."""
    slot, original = rotary_of(family)
    q, k = (torch.randn(2, heads, 5, 8).to(dtype) for heads in (4, 2))
    if dim == 2:
        q, k = q.transpose(1, 2), k.transpose(1, 2)
    # The two halves of cos and sin differ here: the formula does not need them equal.
    cos, sin = torch.rand(2, 5, wide).to(dtype), torch.rand(2, 5, wide).to(dtype)
    candidates = ready_made(function_contestants(slot, original, "cpu"))
    assert [candidate.name for candidate in candidates] == ["torch.rotary", "torch.rotary_inplace"]
    for candidate in candidates:
        ours = loaded(candidate, slot, original)
        assert_same_function(
            lambda q, k, ours=ours: ours(q, k, cos, sin, unsqueeze_dim=dim),
            lambda q, k: original(q, k, cos, sin, unsqueeze_dim=dim),
            (q, k),
            dtype,
            trains=candidate.competes("cpu", Mode.TRAIN),
        )


def test_rotary_with_wider_cos_promotes_as_the_original() -> None:
    """bfloat16 heads and float32 cos and sin give float32, as the original's arithmetic does."""
    slot, original = rotary_of("llama")
    q, k = torch.randn(1, 4, 5, 8).bfloat16(), torch.randn(1, 2, 5, 8).bfloat16()
    cos, sin = torch.rand(1, 5, 8), torch.rand(1, 5, 8)
    for candidate in ready_made(function_contestants(slot, original, "cpu")):
        with torch.no_grad():
            assert_close(loaded(candidate, slot, original)(q, k, cos, sin), original(q, k, cos, sin), torch.bfloat16)


def plain_turn(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    """Turns neighbours against each other, not halves."""

    def turn(x: Tensor) -> Tensor:
        pairs = torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
        return x * cos.unsqueeze(unsqueeze_dim) + pairs * sin.unsqueeze(unsqueeze_dim)

    return turn(q), turn(k)


def halves_with_positions(q: Any, k: Any, cos: Any, sin: Any, position_ids: Any = None, unsqueeze_dim: int = 1) -> Any:
    """Turns halves, with a parameter from older files."""
    return rotary_of("llama")[1](q, k, cos, sin, unsqueeze_dim)


def test_rotary_of_another_formula_gets_compile_alone() -> None:
    """A function with the rotary's parameters that turns neighbours is offered no kernel that turns halves."""
    slot = Slot(name="x.turn", kind=SlotKind.FUNCTION, target="x:turn")
    assert [c.name for c in function_contestants(slot, plain_turn, "cpu")] == ["compile"]
    assert [c.name for c in function_contestants(slot, print, "cpu")] == ["compile"]


def test_rotary_with_position_ids_gets_candidates_of_its_form() -> None:
    """Where the original takes position_ids too, so does the candidate; loading checks it."""
    slot = Slot(name="x.turn", kind=SlotKind.FUNCTION, target="x:turn")
    (first, *_) = function_contestants(slot, halves_with_positions, "cpu")
    ours = loaded(first, slot, halves_with_positions)
    q, cos = torch.randn(1, 2, 3, 8), torch.rand(1, 3, 8)
    assert_close(ours(q, q, cos, cos, None, 1), halves_with_positions(q, q, cos, cos), torch.float32)


@pytest.mark.parametrize("number", [None, 3, torch.tensor(3)], ids=["mean", "int", "tensor"])
def test_logsumexp_loss_does_as_the_original(number: Any) -> None:
    """The loss by logsumexp gives transformers' loss and gradient, with ignored rows and both reductions."""
    original = importlib.import_module("transformers.loss.loss_utils").fixed_cross_entropy
    source, target = torch.randn(6, 11), torch.tensor([1, -100, 10, 0, -100, 4])
    ours = as_loss(by_logsumexp)
    assert_same_function(
        lambda s, t: ours(s, t, number),
        lambda s, t: original(s, t, number),
        (source, target),
        torch.float32,
        trains=True,
    )
    probabilities = torch.rand(6, 11)
    assert torch.equal(ours(source, probabilities), original(source, probabilities))
    everything_ignored = torch.full((6,), -100)
    assert torch.isnan(ours(source, everything_ignored))
    assert torch.isnan(original(source, everything_ignored))


def test_norms_have_the_originals_dtype_in_mixed_precision() -> None:
    """bfloat16 input with a float32 weight gives float32 (Llama) or bfloat16 (Gemma), as in the original."""
    for family in ("llama", "gemma"):
        slot, module = next((slot, m) for slot, m in layers_of(family) if slot.name == "RMSNorm")
        x = torch.randn(3, 32).bfloat16()
        original = type(module).forward(module, x)
        assert original.dtype == {"llama": torch.float32, "gemma": torch.bfloat16}[family]
        for candidate in ready_made(layer_contestants(slot.name, module, "cpu")):
            assert_close(loaded(candidate, slot, type(module).forward)(module, x), original, torch.bfloat16)


class Shifted(nn.Module):
    """A LayerNorm by hand with one plus its weight, rounded at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.scale, self.epsilon = (
            nn.Parameter(torch.randn(16)),
            nn.Parameter(torch.randn(16)),
            1e-5,
        )

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        centred = wide - wide.mean(-1, keepdim=True)
        normed = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + self.epsilon)
        return (normed * (1.0 + self.scale.float()) + self.shift.float()).to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mixed", [False, True], ids=["same", "float32 weight"])
def test_layer_norm_by_hand_gets_torchs_own(dtype: torch.dtype, mixed: bool) -> None:
    """A LayerNorm written out is offered torch's fused one, with the right weight, bias, offset, eps and dtype."""
    module = Shifted().to(torch.float32 if mixed else dtype)
    slot = Slot(name="LayerNorm", kind=SlotKind.LAYER, target=target_of(Shifted))
    (candidate,) = ready_made(layer_contestants("LayerNorm", module, "cpu"))
    assert candidate.name == "torch.layer_norm"
    ours = loaded(candidate, slot, Shifted.forward)
    x = torch.randn(4, 16).to(dtype)
    assert_same_function(
        lambda x: ours(module, x), module.forward, (x,), dtype, tuple(module.parameters()), trains=True
    )


def test_what_torch_runs_already_is_not_offered_again() -> None:
    """torch's own LayerNorm, RMSNorm and SiLU are not contested by the very same operation."""
    names = {
        name: {c.name for c in layer_contestants(name, module, "cpu")}
        for name, module in (
            ("LayerNorm", nn.LayerNorm(16)),
            ("RMSNorm", nn.RMSNorm(16)),
            ("Activation", nn.SiLU()),
        )
    }
    assert names == {
        "LayerNorm": {"compile"},
        "RMSNorm": {"torch.vector_norm", "torch.node", "compile"},
        "Activation": {"compile"},
    }


def test_in_place_gated_mlp_reads_the_activation_from_the_module() -> None:
    """After another activation is put into a module of one class, its candidate computes that one."""
    outputs = []
    for act in ("silu", "gelu", "gelu_pytorch_tanh", "relu", "tanh", "quick_gelu"):
        module = next(m for m in tiny("llama", hidden_act=act).modules() if type(m).__name__ == "LlamaMLP")
        candidate = ready_made(layer_contestants("GatedMLP", module, "cpu"))[0]
        assert candidate.name == "torch.inplace"
        slot = Slot(name="GatedMLP", kind=SlotKind.LAYER, target=target_of(type(module)))
        x = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            outputs.append(loaded(candidate, slot, type(module).forward)(module, x))
            assert_close(outputs[-1], type(module).forward(module, x), torch.float32)
    assert len({float(output.sum()) for output in outputs}) == len(outputs)


class KeepingLinear(nn.Linear):
    """A Linear that keeps what it gave."""

    def forward(self, x: Tensor) -> Tensor:
        self.kept = super().forward(x)
        return self.kept


def test_nothing_is_written_over_what_another_may_hold() -> None:
    """A Linear with a forward of its own may keep its output, so no candidate that writes over it is offered."""
    module = nn.Sequential(KeepingLinear(16, 40), nn.ReLU(), nn.Linear(40, 16))
    assert [c.name for c in layer_contestants("MLP", module, "cpu")] == ["compile"]
    plain = nn.Sequential(nn.Linear(16, 40), nn.ReLU(), nn.Linear(40, 16))
    names = [c.name for c in layer_contestants("MLP", plain, "cpu")]
    assert names == ["torch.inplace", "torch.addmm_activation", "compile"]


def test_modes_and_devices_of_the_candidates() -> None:
    """What writes in place is for inference, ``compile`` for eager modes, and a CPU is never offered Liger."""
    for slot, module in layers_of("qwen3"):
        for candidate in layer_contestants(slot.name, module, "cpu"):
            assert candidate.name != "liger"
            if "inplace" in candidate.name:
                assert candidate.modes == {Mode.INFERENCE}
            if candidate.name == "compile":
                assert candidate.modes == {Mode.INFERENCE, Mode.TRAIN}


_DIGESTS = """
from tests.catalog.test_catalog_candidates import digests
print(*digests())
"""


def digests() -> list[str]:
    """Name and digest of every ready-made candidate of two families, CUDA's included."""
    found = []
    for family in ("gemma", "phi"):
        for slot, module in layers_of(family):
            for candidate in ready_made(layer_contestants(slot.name, module, "cuda")):
                digest = candidate.source.digest(slot, type(module).forward)
                found.append(f"{slot.target}/{candidate.name}={digest}")
        slot, original = rotary_of(family)
        for candidate in ready_made(function_contestants(slot, original, "cuda")):
            found.append(f"{slot.target}/{candidate.name}={candidate.source.digest(slot, original)}")
    return found


def test_digests_are_the_same_in_another_process() -> None:
    """A candidate's digest does not depend on the process; else every profile would be stale at once."""
    other = subprocess.run([sys.executable, "-c", _DIGESTS], capture_output=True, text=True, check=True)
    ours = digests()
    assert other.stdout.split() == ours
    assert len(ours) > 10


def test_digest_depends_on_the_flavour() -> None:
    """Two flavours made by one factory have two digests."""
    from twinkle_tune.source.digest import digest_code

    made = [fused_rms_norm("weight", eps, offset, False) for eps in ("eps", "epsilon") for offset in (0.0, 1.0)]
    made += [
        vector_norm_rms_norm("weight", "eps", 0.0, False),
        fused_layer_norm("weight", "bias", "eps", 0.0, False),
    ]
    assert len({digest_code(function) for function in made}) == len(made)


def test_liger_is_offered_on_cuda_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With Liger installed a CUDA contest has it, loadable by form; without, it is absent and its source says why."""
    pytest.importorskip("liger_kernel", reason="liger-kernel is not installed")
    for slot, module in layers_of("qwen3"):
        found = [c for c in layer_contestants(slot.name, module, "cuda") if c.name == "liger"]
        assert len(found) == (slot.name in ("RMSNorm", "GatedMLP"))
        for candidate in found:
            assert candidate.device == "cuda"
            assert candidate.source.kind == "liger"
            assert loaded(candidate, slot, type(module).forward) is not type(module).forward
    monkeypatch.setattr(liger_kernels, "missing", lambda: "liger_kernel is not installed")
    for slot, module in layers_of("qwen3"):
        assert "liger" not in [c.name for c in layer_contestants(slot.name, module, "cuda")]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_cuda_layer_candidates_do_as_the_original(family: str, dtype: torch.dtype) -> None:
    """On a GPU each layer candidate, Liger's included, gives the original's outputs and gradients."""
    for slot, module in layers_of(family):
        module.to("cuda", dtype)
        x = torch.randn(2, 5, width(module), device="cuda").to(dtype)
        for candidate in ready_made(layer_contestants(slot.name, module, "cuda")):
            ours = loaded(candidate, slot, type(module).forward)
            assert_same_function(
                lambda x, ours=ours, module=module: ours(module, x),
                lambda x, module=module: type(module).forward(module, x),
                (x,),
                dtype,
                tuple(module.parameters()),
                trains=candidate.competes("cuda", Mode.TRAIN),
            )


@pytest.mark.gpu
def test_cuda_function_candidates_do_as_the_original() -> None:
    """On a GPU Liger's rotary function and loss give the original's outputs and gradients, also in heads' layout."""
    slot, original = rotary_of("llama")
    half = torch.randn(1, 5, 4, device="cuda")
    cos, sin = torch.cat((half.cos(), half.cos()), -1), torch.cat((half.sin(), half.sin()), -1)
    for candidate in ready_made(function_contestants(slot, original, "cuda")):
        ours = loaded(candidate, slot, original)
        q, k = torch.randn(2, 4, 5, 8, device="cuda"), torch.randn(2, 2, 5, 8, device="cuda")
        # Liger writes in place where heads lie sequence first, as an attention's do.
        for heads_first in (True, False):
            inputs = (q, k) if heads_first else tuple(x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k))
            assert_same_function(
                lambda q, k, ours=ours: ours(q, k, cos, sin),
                lambda q, k: original(q, k, cos, sin),
                inputs,
                torch.float32,
                trains=candidate.competes("cuda", Mode.TRAIN),
            )
    if not liger_kernels.missing():
        source, target = (
            torch.randn(6, 11, device="cuda"),
            torch.tensor([1, -100, 10, 0, -100, 4], device="cuda"),
        )
        loss = as_loss(by_liger)
        assert_same_function(
            lambda s, t: loss(s, t, 3),
            lambda s, t: F.cross_entropy(s, t, reduction="sum") / 3,
            (source, target),
            torch.float32,
            trains=True,
        )
