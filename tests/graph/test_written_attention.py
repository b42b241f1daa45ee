"""Attention that is written out is found by what it computes, computed by a kernel, and never by a wrong one."""

from __future__ import annotations

import copy
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from tests.graph import attentions
from tests.graph.attentions import SIZES, model_of
from tests.graph.test_pattern_slots import profile_of
from twinkle_tune import kernelize_model, kernelize_report, restore_model
from twinkle_tune.catalog import fused_attention
from twinkle_tune.catalog.contestants import pattern_contestants
from twinkle_tune.catalog.written_attention import WRITTEN, Step, WrittenAttention, find
from twinkle_tune.graph.form import Form
from twinkle_tune.graph.rewrite import compiled
from twinkle_tune.graph.trace import trace
from twinkle_tune.mode import Mode
from twinkle_tune.outcome import Measurement, Rejection
from twinkle_tune.slot import ORIGINAL, Candidate
from twinkle_tune.source.direct import ImplSource
from twinkle_tune.testing import assert_parity, with_winner

KINDS = {
    "nanoGPT": (attentions.NanoAttention, True),
    "scaled before": (attentions.ScaledBefore, False),
    "BERT": (attentions.BertLike, False),
    "float32": (attentions.Exact, False),
    "not seen": (attentions.Unseen, True),
    "window": (attentions.Window, False),
}
"""Each with whether its mask is causal by what its buffer holds."""
NONE = (attentions.Returning, attentions.Twice, attentions.OverQueries)


def piece_of(kind: type[nn.Module], p: float = 0.0) -> tuple[Any, nn.Module, Form]:
    """The piece in such a layer, which holds the layer's children."""
    torch.manual_seed(0)
    module = kind(p).eval()
    form = Form.of((torch.randn(2, 7, SIZES.width),), {}, training=False)
    (place,) = find(trace(module, form))
    return place.piece(module, form), module, form


def given(kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch, length: int = 7) -> tuple[Any, ...]:
    """What the piece is called with in a call of the layer."""
    taken: list[tuple[Any, ...]] = []
    forward = WrittenAttention.forward

    def noted(self: Any, *args: Any) -> Any:
        taken.append(args)
        return forward(self, *args)

    piece, module, form = piece_of(kind)
    traced = trace(module, form)
    run = compiled(traced, [place.match for place in find(traced)])
    x = torch.randn(2, length, SIZES.width)
    with monkeypatch.context() as now:
        now.setattr(WrittenAttention, "forward", noted)
        assert torch.equal(run(module, (piece,), x), module(x))
    return taken[0]


@pytest.mark.parametrize("name", KINDS)
def test_each_form_is_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its place is found and computes what the layer does; the kernel's call is causal where the mask is a triangle."""
    kind, causal = KINDS[name]
    piece, _, _ = piece_of(kind)
    args = given(kind, monkeypatch)
    read = fused_attention._read(piece, args[0], args[1], args[2:])
    assert read is not None
    assert read.causal is causal
    assert (read.mask is None) == (causal or name == "scaled before")


@pytest.mark.parametrize("mode", ["inference", "train"])
@pytest.mark.parametrize("name", KINDS)
def test_the_kernel_computes_the_same(name: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward, by the parity rule, at a length that was not traced."""
    kind, _ = KINDS[name]
    piece, _, _ = piece_of(kind)
    args = [
        a.detach().requires_grad_(mode == "train") if isinstance(a, Tensor) and i in (0, 1) else a
        for i, a in enumerate(given(kind, monkeypatch, 9))
    ]
    assert_parity(fused_attention.by_sdpa, WrittenAttention.forward, *args, module=piece, mode=mode)


@pytest.mark.parametrize("kind", NONE)
def test_what_is_no_attention_alone_is_no_place(kind: type[nn.Module]) -> None:
    """Weights that are returned, two softmaxes, a softmax over the queries."""
    form = Form.of((torch.randn(2, 7, SIZES.width),), {}, training=False)
    assert find(trace(kind(), form)) == ()


def test_another_order_has_no_kernel() -> None:
    """Weights that are masked after the softmax are attention; no kernel computes that."""
    piece, _, _ = piece_of(attentions.Late)
    assert fused_attention.contestants(piece, "cpu") == []


@pytest.mark.parametrize("short", [True, False])
def test_a_mask_that_is_written_to_is_looked_at_again(short: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is what it says. A short one is looked at in each call, so that a write through .data is seen as well."""
    kind = attentions.NanoAttention
    if not short:
        monkeypatch.setattr(fused_attention, "_LOOKED_AT", 0)
    piece, _, _ = piece_of(kind)
    q, keys, *rest = given(kind, monkeypatch)
    buffer = rest[1]
    before = fused_attention.by_sdpa(piece, q, keys, *rest)
    assert fused_attention._read(piece, q, keys, tuple(rest)).causal  # type: ignore[union-attr]
    (buffer.data if short else buffer)[0, 0, 5, 0] = 0.0
    now = fused_attention.by_sdpa(piece, q, keys, *rest)
    torch.testing.assert_close(now, WrittenAttention.forward(piece, q, keys, *rest))
    assert not torch.allclose(now[:, :, 5], before[:, :, 5])


def of_masks(*masks: Step) -> Any:
    """A piece with these between a factor and the softmax."""
    return WrittenAttention((Step("mul", 0.3), *masks, Step("softmax")))


def hidden(dtype: torch.dtype, trains: bool) -> tuple[Any, ...]:
    """Queries, keys, what is hidden (of the third query everything, of the fourth two keys), and values."""
    torch.manual_seed(0)
    q, keys, values = (torch.randn(*of).to(dtype).requires_grad_(trains) for of in ((2, 5, 8), (2, 8, 5), (2, 5, 8)))
    where = torch.zeros(5, 5, dtype=torch.bool)
    where[2], where[3, :2] = True, True
    return q, keys, where, values


def test_fills_that_overwrite_each_other_have_no_kernel() -> None:
    """Two finite fills, or a fill and a sum, are not one sum; two fills of minus infinity are, and right."""
    finite, infinite, sum_ = Step("fill", -1e9, takes=1), Step("fill", -torch.inf, takes=1), Step("add", takes=1)
    for masks in ((finite, finite), (finite, infinite), (infinite, sum_), (Step("fill", takes=2), infinite)):
        assert fused_attention.contestants(of_masks(*masks), "cpu") == []
    piece = of_masks(infinite, infinite)
    assert [c.name for c in fused_attention.contestants(piece, "cpu")] == ["torch.sdpa"]
    q, keys, _, values = hidden(torch.float32, trains=False)
    ahead, first = torch.ones(5, 5, dtype=torch.bool).triu(1), torch.arange(5) == 1
    read = fused_attention._read(piece, q, keys, (ahead, first, values))
    assert read is not None
    made = fused_attention.by_sdpa(piece, q, keys, ahead, first, values)
    torch.testing.assert_close(made, WrittenAttention.forward(piece, q, keys, ahead, first, values))


@pytest.mark.parametrize("near", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [-1e9, -torch.inf, "least"])
def test_a_query_that_sees_nothing_trains(
    value: Any, dtype: torch.dtype, near: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward and backward as the original's: by it on the CPU, else by the row that is put in."""
    monkeypatch.setattr(fused_attention, "_is_near", lambda tensor: near)
    value = torch.finfo(torch.float32).min if value == "least" else value
    piece = WrittenAttention(
        (Step("to", torch.float32), Step("fill", value, takes=1), Step("softmax"), Step("to", dtype))
    )
    args = hidden(dtype, trains=True)
    assert (fused_attention._read(piece, args[0], args[1], args[2:]) is None) is near
    made, expected = (call(piece, *args) for call in (fused_attention.by_sdpa, WrittenAttention.forward))
    loose: dict[str, Any] = {} if dtype is torch.float32 else {"rtol": 0.03, "atol": 0.03}
    torch.testing.assert_close(made, expected, equal_nan=True, **loose)
    if value != -torch.inf:  # else the original's gradients are NaN throughout
        weights = torch.randn(made.shape).to(dtype)
        grads = [torch.autograd.grad(y, (args[0], args[1], args[3]), weights) for y in (made, expected)]
        torch.testing.assert_close(*grads, **loose)


@pytest.mark.parametrize("near", [True, False])
def test_an_added_mask_that_hides_all(near: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU the original runs, elsewhere the row is put in, and with gradients the original runs there as well."""
    monkeypatch.setattr(fused_attention, "_is_near", lambda tensor: near)
    piece = of_masks(Step("add", takes=1))
    for trains in (False, True):
        q, keys, where, values = hidden(torch.float32, trains)
        for value in (torch.finfo(torch.float32).min, -torch.inf):
            mask = torch.zeros(5, 5).masked_fill(where, value)
            assert (fused_attention._read(piece, q, keys, (mask, values)) is None) is (near or trains)
            made = fused_attention.by_sdpa(piece, q, keys, mask, values)
            expected = WrittenAttention.forward(piece, q, keys, mask, values)
            torch.testing.assert_close(made, expected, equal_nan=True)


@pytest.mark.filterwarnings("ignore")
def test_a_traced_call_and_one_over_the_buffer_are_the_originals(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.jit.trace takes the original's operations; a call that is longer than its mask has the original's error."""
    piece, _, _ = piece_of(attentions.NanoAttention)
    q, keys, *rest = given(attentions.NanoAttention, monkeypatch)

    def called(q: Tensor, keys: Tensor, values: Tensor) -> Any:
        return fused_attention.by_sdpa(piece, q, keys, rest[0], *rest[1:-1], values)

    with torch.no_grad():
        traced: Any = torch.jit.trace(called, (q, keys, rest[-1]))  # type: ignore[no-untyped-call]
        assert torch.equal(traced(q, keys, rest[-1]), WrittenAttention.forward(piece, q, keys, *rest))
    long = torch.randn(2, 4, 20, 8)
    args: Any = (long, long.mT, *(slice(None, 20) if isinstance(r, slice) else r for r in rest[:-1]), long)
    said = []
    for call in (fused_attention.by_sdpa, WrittenAttention.forward):
        with pytest.raises(RuntimeError) as raised:
            call(piece, *args)
        said.append(str(raised.value))
    assert said[0] == said[1]


def test_rows_that_see_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Filled with the least number they weigh all keys alike; with minus infinity they are NaN, as the original's."""
    piece, _, _ = piece_of(attentions.Exact)
    q, keys, *rest = given(attentions.Exact, monkeypatch)
    rest[0][0, 0, 3] = 0.0
    made = fused_attention.by_sdpa(piece, q, keys, *rest)
    torch.testing.assert_close(made, WrittenAttention.forward(piece, q, keys, *rest))
    torch.testing.assert_close(made[:, :, 3], rest[-1].mean(-2))
    piece, _, _ = piece_of(attentions.NanoAttention)
    q, keys, *rest = given(attentions.NanoAttention, monkeypatch)
    rest[1][0, 0, 3] = 0.0
    made = fused_attention.by_sdpa(piece, q, keys, *rest)
    assert made[:, :, 3].isnan().all()
    torch.testing.assert_close(made, WrittenAttention.forward(piece, q, keys, *rest), equal_nan=True)


def test_what_is_dropped_is_the_originals(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a dropout drops, the piece's own operations run: from one seed the same elements."""
    piece, _, _ = piece_of(attentions.NanoAttention, 0.5)
    args = given(attentions.NanoAttention, monkeypatch)
    piece._modules["child_dropout"].train()
    made = []
    for call in (fused_attention.by_sdpa, WrittenAttention.forward):
        torch.manual_seed(3)
        made.append(call(piece, *args))
    assert torch.equal(*made)


@pytest.mark.parametrize("mode", [Mode.INFERENCE, Mode.TRAIN])
def test_it_is_contested_bound_and_taken_back(mode: Mode) -> None:
    """In both blocks of a model: right, bound per instance, and gone after restoring; other calls run the original."""
    model = model_of(attentions.NanoAttention).train(mode.trains)
    x = torch.randn(2, 9, SIZES.width, requires_grad=mode.trains)
    profile = with_winner(profile_of(model, {"input": x}, mode))
    (contest,) = [c for c in profile.contests if c.slot.name == WRITTEN]
    assert len(contest.instances) == 2
    assert {t.candidate for t in contest.trials if isinstance(t.outcome, Measurement)} == {ORIGINAL, "torch.sdpa"}
    names, before = [n for n, _ in model.named_parameters()], model(x)
    kernelize_model(model, profile=profile, use_fallback=False)
    assert {b.path for b in kernelize_report(model).bound} == {"0.mix", "1.mix"}
    kernel = patch.object(fused_attention, "_attended", wraps=fused_attention._attended)
    with kernel as kernel_calls, torch.set_grad_enabled(mode.trains):
        torch.testing.assert_close(model(x), before)
    assert kernel_calls.call_count == 2
    two_dimensional = copy.deepcopy(x.detach())[0]
    with pytest.raises(ValueError, match="not enough values"):
        model(two_dimensional)  # as the original says it
    restore_model(model)
    assert torch.equal(model(x), before)
    assert [n for n, _ in model.named_parameters()] == names


def test_it_is_bound_for_lengths_between() -> None:
    """A length between two that were measured runs the kernel as well: how the mask is cut is no part of the form."""
    model = model_of(attentions.NanoAttention).eval()
    short, long = ({"input": torch.randn(2, n, SIZES.width)} for n in (4, 12))
    profile = with_winner(profile_of(model, short, Mode.INFERENCE, long))
    kernelize_model(model, profile=profile, use_fallback=False)
    with patch.object(fused_attention, "_attended", wraps=fused_attention._attended) as calls, torch.no_grad():
        model(torch.randn(2, 8, SIZES.width))
    restore_model(model)
    assert calls.call_count == 2


def another_scale(self: Any, q: Tensor, keys: Tensor, *rest: Any) -> Any:
    """Of the whole width instead of a head's."""
    return _by(self, q, keys, rest, scale=SIZES.width**-0.5)


def no_mask(self: Any, q: Tensor, keys: Tensor, *rest: Any) -> Any:
    """Each query sees all keys."""
    return _by(self, q, keys, rest, causal=False)


def one_key_ahead(self: Any, q: Tensor, keys: Tensor, *rest: Any) -> Any:
    """Each query sees the key after its own."""
    seen = torch.ones(q.shape[-2], keys.shape[-1], dtype=torch.bool).tril(1)
    return nn.functional.scaled_dot_product_attention(q, keys.mT, rest[-1], seen)


def one_key_less(self: Any, q: Tensor, keys: Tensor, *rest: Any) -> Any:
    """No query but the first sees its own key."""
    seen = torch.ones(q.shape[-2], keys.shape[-1], dtype=torch.bool).tril(-1)
    seen[0, 0] = True
    return nn.functional.scaled_dot_product_attention(q, keys.mT, rest[-1], seen)


def no_gradient_of_the_keys(self: Any, q: Tensor, keys: Tensor, *rest: Any) -> Any:
    """Right forward, wrong backward."""
    return fused_attention.by_sdpa(self, q, keys.detach(), *rest)


def _by(self: Any, q: Tensor, keys: Tensor, rest: Any, **other: Any) -> Any:
    read = fused_attention._read(self, q, keys, rest)
    assert read is not None
    return fused_attention._attended(q, keys, read._replace(**other))


WRONG = (another_scale, no_mask, one_key_ahead, one_key_less, no_gradient_of_the_keys)


def test_wrong_kernels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another scale, no mask, a mask off by one, a missing gradient: by parity; the right one is not."""

    def offered(piece: nn.Module, device: str) -> list[Candidate]:
        return [
            Candidate(name=f"torch.{each.__name__}", source=ImplSource(kind="torch", impl=each))
            for each in (fused_attention.by_sdpa, *WRONG)
        ]

    monkeypatch.setattr(fused_attention, "contestants", offered)
    model = model_of(attentions.NanoAttention).train()
    profile = profile_of(model, {"input": torch.randn(2, 9, SIZES.width, requires_grad=True)}, Mode.TRAIN)
    (contest,) = [c for c in profile.contests if c.slot.name == WRITTEN]
    refused = {t.candidate: t.outcome.stage for t in contest.trials if isinstance(t.outcome, Rejection)}
    assert refused == {f"torch.{each.__name__}": "parity" for each in WRONG}


def test_on_cuda_our_kernel_competes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside torch's, for the same piece."""
    monkeypatch.setattr("twinkle_tune.catalog.triton.offered", lambda device: device == "cuda")
    piece, _, _ = piece_of(attentions.NanoAttention)
    assert [c.name for c in pattern_contestants(WRITTEN, piece, "cuda")] == ["torch.sdpa", "triton", "compile"]
    assert [c.name for c in pattern_contestants(WRITTEN, piece, "cpu")] == ["torch.sdpa", "compile"]


@pytest.mark.parametrize("name", KINDS)
def test_our_kernel_computes_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The op as a candidate, by its formula here: causal or without a mask; by torch's where there is another."""
    kind, _ = KINDS[name]
    piece, _, _ = piece_of(kind)
    args = given(kind, monkeypatch)
    assert_parity(fused_attention._by_triton(None), WrittenAttention.forward, *args, module=piece, mode="inference")
