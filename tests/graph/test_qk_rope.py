"""Norms of queries and keys and the rotary embedding after them are one piece, and never a wrong one."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.qwen3 import modeling_qwen3 as qwen3

from tests.graph.families import inputs_of, model_of
from tests.graph.test_pattern_slots import profile_of
from twinkle_tune import kernelize_model, kernelize_report, restore_model
from twinkle_tune.catalog import qk_rope
from twinkle_tune.catalog.qk_rope import QK_ROPE, QKNormRope
from twinkle_tune.graph.form import Form
from twinkle_tune.graph.pattern import Place
from twinkle_tune.graph.rewrite import compiled
from twinkle_tune.graph.trace import trace
from twinkle_tune.kernel.pieces import whole_functions
from twinkle_tune.kernel.registry import Registry
from twinkle_tune.mode import Mode
from twinkle_tune.outcome import Measurement, Rejection
from twinkle_tune.slot import ORIGINAL, Candidate
from twinkle_tune.source.direct import ImplSource
from twinkle_tune.testing import assert_parity, with_winner


def called(family: str) -> tuple[nn.Module, dict[str, Any]]:
    """The first attention of a model, and a call of it."""
    attention = next(m for n, m in model_of(family).named_modules() if n.endswith("self_attn"))
    turns = torch.randn(2, 2, 5, 8)
    given = {"hidden_states": torch.randn(2, 5, 32), "position_embeddings": tuple(turns), "attention_mask": None}
    return attention, given


def places(attention: nn.Module, given: dict[str, Any]) -> tuple[Any, Form, tuple[Place, ...]]:
    """Its graph, the form of the call, and the places in it."""
    form = Form.of((), given, training=False)
    traced = trace(attention, form, whole_functions(Registry()))
    return traced, form, qk_rope.find(traced)


@pytest.mark.parametrize(
    ("family", "transposed"), [("qwen3", [True]), ("gemma3", [False]), ("llama", []), ("olmo2", [])]
)
def test_it_is_found_where_heads_are_normed(family: str, transposed: list[bool]) -> None:
    """Whether heads change places after the norm or before; not without norms, nor where whole rows are normed."""
    _, _, found = places(*called(family))
    assert [place.prototype.transposed for place in found] == transposed


def test_a_graph_of_it_is_the_attention() -> None:
    """With the pieces in their places it computes what the attention does, to the bit, at another length as well."""
    attention, given = called("qwen3")
    traced, form, (place,) = places(attention, given)
    run = compiled(traced, [place.match])
    longer = {"hidden_states": torch.randn(1, 9, 32), "position_embeddings": tuple(torch.randn(2, 1, 9, 8))}
    for call in (given, {**longer, "attention_mask": None}):
        made, expected = run(attention, (place.piece(attention, form),), **call), attention(**call)
        assert torch.equal(made[0], expected[0])


def test_an_attention_is_asked_for_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph calls what the table of attentions holds then, and gives it the very module."""
    attention, given = called("qwen3")
    run = compiled(places(attention, given)[0], [])
    seen: list[Any] = []

    def other(module: Any, q: Tensor, *rest: Any, **more: Any) -> Any:
        seen.append(module)
        return q.transpose(1, 2), None

    monkeypatch.setitem(qwen3.ALL_ATTENTION_FUNCTIONS._local_mapping, "sdpa", other)
    run(attention, (), **given)
    assert seen == [attention]


@pytest.mark.parametrize("mode", ["inference", "train"])
@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_candidates_are_right(family: str, mode: str) -> None:
    """Each candidate computes the same as norms and function, gradients too."""
    attention, given = called(family)
    _, form, (place,) = places(attention, given)
    piece = place.piece(attention, form)
    q, k = torch.randn(2, 5, 4, 8), torch.randn(2, 5, 2, 8)
    q, k = (x if piece.transposed else x.transpose(1, 2) for x in (q, k))
    q, k = (x.contiguous().requires_grad_(mode == "train") for x in (q, k))
    found = qk_rope.contestants(piece, "cpu")
    assert [candidate.name for candidate in found] == ["torch.rms_norm", "torch.node"]
    for candidate in found:
        source: Any = candidate.source
        forward: Any = type(piece).forward
        assert_parity(source.impl, forward, q, k, *given["position_embeddings"], module=piece, mode=mode)


def test_another_attention_brings_the_original_back() -> None:
    """It is bound in each layer, not where the model's switch says otherwise by then, and gone after restoring."""
    model: Any = model_of("qwen3")
    inputs: Any = {**inputs_of("qwen3", trains=False), "use_cache": False}
    profile = with_winner(profile_of(model, inputs, Mode.INFERENCE))
    contests = [c for c in profile.contests if c.slot.name == QK_ROPE]
    assert contests
    for contest in contests:
        measured = {t.candidate for t in contest.trials if isinstance(t.outcome, Measurement)}
        assert measured == {ORIGINAL, "torch.rms_norm", "torch.node"}
        assert len(contest.instances) == 2
    with torch.no_grad():
        before = model(**inputs).logits
        kernelize_model(model, profile=profile, use_fallback=False)
        assert sum(QK_ROPE in b.slot for b in kernelize_report(model).bound) == 2
        torch.testing.assert_close(model(**inputs).logits, before)
        model.set_attn_implementation("eager")
        eager = model(**inputs, output_attentions=True)
        assert eager.attentions[0] is not None
        torch.testing.assert_close(eager.logits, before)
        model.set_attn_implementation("sdpa")
        restore_model(model)
        assert torch.equal(model(**inputs).logits, before)


def right(self: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
    """What it computes."""
    return _by(self, "q_norm", "k_norm", (q, k, cos, sin))


def test_a_piece_goes_to_another_process() -> None:
    """As a copy and as bytes it calls the function of that name; and a copy of it does not copy the function's file."""
    attention, given = called("qwen3")
    _, form, (place,) = places(attention, given)
    piece: Any = place.piece(attention, form)
    q, k = torch.randn(2, 5, 4, 8), torch.randn(2, 5, 2, 8)
    expected = piece.forward(q, k, *given["position_embeddings"])
    for other in (copy.deepcopy(piece), pickle.loads(pickle.dumps(piece))):
        assert other.rotary._names is vars(qwen3)
        assert all(map(torch.equal, other.forward(q, k, *given["position_embeddings"]), expected))


def _by(self: Any, of_q: str, of_k: str, given: tuple[Tensor, Tensor, Tensor, Tensor]) -> Any:
    q, k = self.placed(self._modules[of_q](given[0]), self._modules[of_k](given[1]))
    return qk_rope._turned(q, k, given[2], given[3], False)


def norms_swapped(self: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
    """Each by the other's weight."""
    return _by(self, "k_norm", "q_norm", (q, k, cos, sin))


def turned_back(self: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
    """By the negative angle."""
    return _by(self, "q_norm", "k_norm", (q, k, cos, -sin))


def keys_not_normed(self: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
    """Queries alone."""
    q, k = self.placed(self._modules["q_norm"](q), k)
    return qk_rope._turned(q, k, cos, sin, False)


def no_gradient_of_the_keys(self: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
    """Right forward, wrong backward."""
    return _by(self, "q_norm", "k_norm", (q, k.detach(), cos, sin))


WRONG = (norms_swapped, turned_back, keys_not_normed, no_gradient_of_the_keys)


def test_wrong_kernels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms swapped or missing, a turn the other way, a gradient that is missing: by parity; the right one is not."""

    def offered(piece: nn.Module, device: str) -> list[Candidate]:
        return [
            Candidate(name=f"torch.{each.__name__}", source=ImplSource(kind="torch", impl=each))
            for each in (right, *WRONG)
        ]

    monkeypatch.setattr(qk_rope, "contestants", offered)
    model = model_of("qwen3").train()
    for name, parameter in model.named_parameters():
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            nn.init.normal_(parameter)
    given: Any = {**inputs_of("qwen3", trains=True), "use_cache": False}
    profile = profile_of(model, given, Mode.TRAIN)
    contests = [c for c in profile.contests if c.slot.name == QK_ROPE]
    assert contests
    for contest in contests:
        refused = {t.candidate: t.outcome.stage for t in contest.trials if isinstance(t.outcome, Rejection)}
        assert refused == {f"torch.{each.__name__}": "parity" for each in WRONG}


def test_a_function_that_turns_otherwise_has_no_candidates() -> None:
    """Where neighbours are turned against each other, or nobody knows what: the original stays."""

    def unknown(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
        return q * cos, k * sin

    piece = QKNormRope(unknown, True)
    piece.q_norm = piece.k_norm = nn.RMSNorm(8)
    assert qk_rope.contestants(piece, "cpu") == []
