"""Magnitude, strictness, other sizes and layouts, shared memory, and the judgement after timing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.parity.zoo.ops import OPS, D, gelu_erf, gelu_tanh, normal, softmax
from tests.parity.zoo.right import fused_rms_norm
from twinkle_tune.call.arguments import Call, named_tensors, spaced
from twinkle_tune.call.rows import shortened
from twinkle_tune.parity.calls import kin_calls, parity_calls
from twinkle_tune.parity.check import Judge
from twinkle_tune.parity.verdict import Inconclusive, Pass, Reject

HALVES = (torch.bfloat16, torch.float16)


def call_of(*args: Any) -> Call:
    return Call(args=args, kwargs={})


def judge_with_kin(original: Callable[..., Any], call: Call, module: nn.Module | None = None) -> Judge:
    return Judge(original, parity_calls(call, 0), module=module, trains=False, kin=kin_calls(call, 0))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_tanh_for_erf_is_refused(dtype: torch.dtype) -> None:
    """In half precision the two GELUs differ only where the result is small: point 5 sees it, in two ways."""
    calls = parity_calls(call_of(normal(64, 256, dtype=dtype)), 0)
    leaning = Judge(gelu_erf, calls, module=None, trains=False).judge(gelu_tanh)
    assert isinstance(leaning, Reject)
    assert leaning.point == 5
    assert "the errors lean to one side" in leaning.reason
    refused = Judge(gelu_erf, calls, module=None, trains=False, strictness="strict").judge(gelu_tanh)
    assert isinstance(refused, Reject)
    assert refused.point == 5
    assert refused.where.startswith("where |r| is from 2^")


def test_an_unknown_strictness_is_an_error() -> None:
    """A misspelt strictness is not taken for the default."""
    with pytest.raises(ValueError, match="got 'lax', expected one of normal, strict"):
        Judge(softmax, [call_of(torch.ones(2))], module=None, trains=False, strictness="lax")  # type: ignore[arg-type]


def test_an_output_buffer_that_is_used_again_is_refused() -> None:
    """The second call must not write over what the first one returned."""
    kept: dict[torch.Size, Tensor] = {}

    def thrifty(x: Tensor) -> Tensor:
        out = kept.setdefault(x.shape, torch.empty_like(x))
        return out.copy_(softmax(x))

    verdict = Judge(softmax, [call_of(normal(8, D, dtype=torch.float32))], module=None, trains=False).judge(thrifty)
    assert isinstance(verdict, Reject)
    assert verdict.point == 7


def test_an_original_that_loses_its_own_results_is_inconclusive() -> None:
    """An original that writes each result over the last one gives no yardstick."""
    kept: dict[int, Tensor] = {}

    def original(x: Tensor) -> Tensor:
        out = kept.setdefault(0, torch.empty_like(x))
        return out.copy_(softmax(x))

    judge = Judge(original, [call_of(normal(8, D, dtype=torch.float32))], module=None, trains=False)
    assert isinstance(judge.judge(softmax), Inconclusive)


def test_an_output_in_an_input_s_memory_is_refused() -> None:
    """A view where the original makes a copy is refused, also where the values are right."""
    judge = Judge(lambda x: x.clone(), [call_of(normal(8, D, dtype=torch.float32))], module=None, trains=False)
    verdict = judge.judge(lambda x: x.view(x.shape))
    assert isinstance(verdict, Reject)
    assert verdict.point == 1
    assert "shares memory with args[0]" in verdict.reason


def test_a_copy_in_place_of_a_view_passes_unless_the_original_writes_in_place() -> None:
    """Only where the argument itself is the result does it matter that the result is the argument."""
    calls = [call_of(normal(8, D, dtype=torch.float32))]
    assert isinstance(Judge(lambda x: x.t(), calls, module=None, trains=False).judge(lambda x: x.t().clone()), Pass)

    def apart(x: Tensor) -> Tensor:
        x.mul_(1.7)
        return x.clone()

    verdict = Judge(lambda x: x.mul_(1.7), calls, module=None, trains=False).judge(apart)
    assert isinstance(verdict, Reject)
    assert "returns that itself" in verdict.reason


def test_a_layer_that_returns_its_weight_is_no_refusal() -> None:
    """Memory shared with a parameter is compared with what the original shares."""
    module = nn.Linear(D, D)
    judge = Judge(lambda self, x: (x + 1, self.weight), [call_of(normal(8, D, dtype=torch.float32))],
                  module=module, trains=False)  # fmt: skip
    assert isinstance(judge.judge(lambda self, x: (1 + x, self.weight)), Pass)


def test_strides_that_differ_are_noted() -> None:
    """Other strides than the original's are no mistake, and worth a word."""
    judge = Judge(softmax, [call_of(normal(8, D, dtype=torch.float32))], module=None, trains=False)
    verdict = judge.judge(lambda x: softmax(x).t().contiguous().t())
    assert isinstance(verdict, Pass)
    assert "not contiguous" in verdict.notes[0]


def test_right_for_one_size_only_is_refused() -> None:
    """A kernel that leaves out the rows beyond a block shows on the size near the captured one."""

    def blocks_of_eight(x: Tensor) -> Tensor:
        whole = x.shape[0] // 8 * 8
        return torch.cat([softmax(x[:whole]), torch.zeros_like(x[whole:])])

    judge = judge_with_kin(softmax, call_of(normal(16, D, dtype=torch.float32)))
    assert isinstance(judge.judge(softmax), Pass)
    verdict = judge.judge(blocks_of_eight)
    assert isinstance(verdict, Reject)
    assert "a size near the captured one" in verdict.reason
    row = int(verdict.where.removeprefix("worst at index [").split(",")[0])
    assert 8 <= row < 15


def test_raising_on_another_size_is_refused_and_on_another_layout_noted() -> None:
    """A winner meets other sizes, and keeps its layouts."""

    def sixteen_rows(x: Tensor) -> Tensor:
        return softmax(x.reshape(16, D))

    def contiguous_only(x: Tensor) -> Tensor:
        if not x.is_contiguous():
            raise ValueError("x: expected contiguous")
        return softmax(x)

    judge = judge_with_kin(softmax, call_of(normal(16, D, dtype=torch.float32)))
    refused = judge.judge(sixteen_rows)
    assert isinstance(refused, Reject)
    assert "raises RuntimeError" in refused.reason
    passed = judge.judge(contiguous_only)
    assert isinstance(passed, Pass)
    assert any("raises ValueError: x: expected contiguous on inputs with gaps" in note for note in passed.notes)


def test_rows_taken_to_follow_each_other_are_refused() -> None:
    """A kernel that ignores the strides of its input reads the gaps between rows."""

    def ignores_strides(x: Tensor) -> Tensor:
        return softmax(x.as_strided(x.shape, (x.shape[1], 1)))

    verdict = judge_with_kin(softmax, call_of(normal(16, D, dtype=torch.float32))).judge(ignores_strides)
    assert isinstance(verdict, Reject)
    assert "gaps between their rows" in verdict.reason


def test_calls_that_the_original_does_not_take_are_left_out() -> None:
    """Sizes and layouts that the original refuses are asked of nobody."""

    def even_rows(x: Tensor) -> Tensor:
        return softmax(x.view(-1).view(2, -1, D))

    judge = judge_with_kin(even_rows, call_of(normal(16, D, dtype=torch.float32)))
    assert set(judge.left_out) == {"a size near the captured one", "inputs with gaps between their rows"}
    assert isinstance(judge.judge(even_rows), Pass)


def test_kin_go_to_the_function_that_is_given_for_them() -> None:
    """A compiled candidate is not compiled anew for calls of another size or layout."""
    sizes: list[tuple[int, ...]] = []

    def candidate(x: Tensor) -> Tensor:
        sizes.append(tuple(x.shape))
        return softmax(x)

    judge = judge_with_kin(softmax, call_of(normal(16, D, dtype=torch.float32)))
    assert isinstance(judge.judge(candidate, for_kin=softmax), Pass)
    assert set(sizes) == {(16, D)}


@pytest.mark.parametrize("op", OPS)
def test_every_op_takes_another_size(op: str) -> None:
    """One row less is a call that each of these ops takes, labels and rotary tables cut along."""
    module, args = OPS[op].make(torch.float32, False)
    judge = judge_with_kin(OPS[op].original, call_of(*args), module)
    assert "a size near the captured one" not in judge.left_out
    assert isinstance(judge.judge(OPS[op].original), Pass)


def test_wrong_after_some_calls_is_seen_by_the_second_judgement() -> None:
    """Point 8: right while it was judged and wrong after it was timed."""
    calls = 0

    def tiring(self: Any, x: Tensor) -> Any:
        nonlocal calls
        calls += 1
        return fused_rms_norm(self, x) * (1.0 if calls < 100 else 1.01)

    module, args = OPS["rms_norm"].make(torch.float32, False)
    assert module is not None
    judge = Judge(OPS["rms_norm"].original, parity_calls(call_of(*args), 0), module=module, trains=False)
    assert isinstance(judge.judge(tiring), Pass)
    assert isinstance(judge.again(tiring), Pass)
    for _ in range(100):
        tiring(module, *args)
    assert isinstance(judge.again(tiring), Reject)
    assert isinstance(judge.again(fused_rms_norm), Pass)


def test_dropout_drawn_otherwise_is_inconclusive_and_says_so() -> None:
    """A right dropout that draws in another order can be told neither right nor wrong."""

    def masked(x: Tensor) -> Tensor:
        return x * (torch.rand(x.shape) < 0.5) * 2

    judge = Judge(lambda x: F.dropout(x, 0.5), [call_of(normal(16, D, dtype=torch.float32))], module=None,
                  trains=False)  # fmt: skip
    verdict = judge.judge(masked)
    assert isinstance(verdict, Inconclusive)
    assert "draws random numbers" in verdict.reason
    assert isinstance(judge.judge(torch.clone), Reject)


def test_booleans_and_tuples_of_kinds() -> None:
    """Each output is judged by its kind: floats by the rule, integers and booleans by equality."""

    def original(x: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, int]]:
        return x.exp(), x > 0, (x.argsort(-1), x.shape[0])

    judge = Judge(original, [call_of(normal(16, D, dtype=torch.float32))], module=None, trains=False)
    assert isinstance(judge.judge(original), Pass)
    flipped = judge.judge(lambda x: (x.exp(), x >= -0.5, (x.argsort(-1), x.shape[0])))
    assert isinstance(flipped, Reject)
    assert (flipped.point, flipped.tensor) == (4, "output[1]")
    assert flipped.where.startswith("index [")
    counted = judge.judge(lambda x: (x.exp(), x > 0, (x.argsort(-1), x.shape[0] + 1)))
    assert isinstance(counted, Reject)
    assert counted.point == 1


def test_a_row_is_cut_wherever_its_size_occurs() -> None:
    """Hidden states, labels and a square mask lose the same row; weights keep theirs."""
    call = call_of(torch.rand(2, 12, 8), torch.arange(12), torch.ones(1, 1, 12, 12), torch.rand(8))
    short = shortened(call)
    assert short is not None
    assert [tuple(t.shape) for _, t in named_tensors(short)] == [(2, 11, 8), (11,), (1, 1, 11, 11), (8,)]
    assert torch.equal(short.args[0], call.args[0][:, :-1])


def test_a_width_that_is_as_many_as_the_rows_stays() -> None:
    """Queries and rotary tables of 16 tokens and a head of 16 lose a token and no part of the head."""
    short = shortened(call_of(torch.rand(1, 4, 16, 16), torch.rand(1, 2, 16, 16), torch.rand(1, 16, 16)))
    assert short is not None
    assert [tuple(t.shape) for _, t in named_tensors(short)] == [(1, 4, 15, 16), (1, 2, 15, 16), (1, 15, 16)]


def test_what_has_no_row_to_spare_is_not_shortened() -> None:
    """A single token, a vector and integers alone give no other size."""
    assert shortened(call_of(torch.rand(1, 1, 8))) is None
    assert shortened(call_of(torch.rand(8))) is None
    assert shortened(call_of(torch.arange(8).view(4, 2))) is None


def test_gaps_keep_values_and_gradients() -> None:
    """Contiguous floating tensors get gaps, all others stay; one object in two places stays one."""
    x = torch.rand(4, 8, requires_grad=True)
    call = call_of(x, x, torch.rand(4, 8).t(), torch.arange(8).view(2, 4))
    made = spaced(call)
    assert made is not None
    assert made.args[0].stride() == (16, 1)
    assert torch.equal(made.args[0], x)
    assert made.args[0].requires_grad
    assert made.args[0].is_leaf
    assert made.args[0] is made.args[1]
    assert [t.stride() for t in made.args[2:]] == [t.stride() for t in call.args[2:]]
    assert spaced(call_of(torch.rand(4, 8).t(), torch.rand(8))) is None
