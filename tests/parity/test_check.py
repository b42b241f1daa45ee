"""The judge as a whole; that right implementations pass and wrong ones are refused is shown by zoo/test_zoo.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.parity.zoo.ops import OPS, D, calls_like, gelu_erf, gelu_tanh, normal
from tests.parity.zoo.right import RIGHT, fused_rms_norm, rms_norm_summed_in_pieces
from tests.parity.zoo.wrong_first import FIRST as WRONG
from twinkle_tune.call.arguments import Call, snapshot, vary
from twinkle_tune.parity.check import Judge, check
from twinkle_tune.parity.verdict import Inconclusive, Pass, Reject, Verdict

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_JUDGES: dict[tuple[str, torch.dtype, bool], Judge] = {}


def judge_of(op: str, dtype: torch.dtype, trains: bool) -> Judge:
    """A judge is made once: that it can be used again is part of what these tests show."""
    key = (op, dtype, trains)
    if key not in _JUDGES:
        module, args = OPS[op].make(dtype, trains)
        _JUDGES[key] = Judge(OPS[op].original, calls_like(args), module=module, trains=trains)
    return _JUDGES[key]


def norm_verdict(candidate: Callable[..., Any], *, trains: bool = False) -> Verdict:
    return judge_of("rms_norm", torch.float32, trains).judge(candidate)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_original_passes_against_itself(op: str, dtype: torch.dtype) -> None:
    """The original is right by definition, and the inputs of every op can tell right from wrong."""
    verdict = judge_of(op, dtype, trains=True).judge(OPS[op].original)
    assert isinstance(verdict, Pass), verdict
    assert judge_of(op, dtype, trains=True).note == ""


def test_a_judge_is_not_worn_out_by_bad_candidates() -> None:
    """Candidates that scribble over inputs and weights leave neither the judge nor the module changed."""
    module, args = OPS["rms_norm"].make(torch.float32, False)
    assert module is not None
    before = [p.detach().clone() for p in module.parameters()]
    judge = Judge(OPS["rms_norm"].original, calls_like(args), module=module, trains=False)
    for wrong in WRONG:
        if wrong.op == "rms_norm" and wrong.name in ("input changed", "weight changed"):
            assert isinstance(judge.judge(wrong.make()), Reject)
    assert isinstance(judge.judge(fused_rms_norm), Pass)
    assert all(torch.equal(p, old) for p, old in zip(module.parameters(), before, strict=True))


def test_a_judge_is_not_worn_out_by_scribbled_gradients() -> None:
    """A candidate that writes into the incoming gradient spoils it for nobody who comes after."""
    module, args = OPS["rms_norm"].make(torch.float32, True)
    judge = Judge(OPS["rms_norm"].original, calls_like(args), module=module, trains=True)
    (scribbling,) = [wrong for wrong in WRONG if wrong.name == "incoming gradient changed"]
    assert isinstance(judge.judge(scribbling.make()), Reject)
    assert isinstance(judge.judge(fused_rms_norm), Pass)


def test_gradients_stay_off_the_model() -> None:
    """Judging in training leaves ``.grad`` of the module's parameters and of the inputs as it was."""
    module, args = OPS["mlp"].make(torch.float32, True)
    assert module is not None
    assert isinstance(check(OPS["mlp"].original, RIGHT["mlp"][0], calls_like(args), module=module, trains=True), Pass)
    assert all(parameter.grad is None for parameter in module.parameters())
    assert args[0].grad is None


def test_all_zero_inputs_are_inconclusive() -> None:
    """On inputs on which everything gives zero nothing may pass, not even what is right."""
    call = Call(args=(torch.zeros(4, D), torch.zeros(4, D)), kwargs={})
    verdict = check(OPS["silu_mul"].original, RIGHT["silu_mul"][0], [call], module=None, trains=False)
    assert isinstance(verdict, Inconclusive)
    assert "zeros as outputs would pass" in verdict.reason


def test_an_original_that_ignores_its_input_is_inconclusive() -> None:
    """Where the output of another call is as good, a replayed answer could not be told from a real one."""
    table = normal(4, D, dtype=torch.float32)
    call = Call(args=(normal(4, D, dtype=torch.float32),), kwargs={})
    verdict = check(lambda x: table * 1, lambda x: table * 1, [call], module=None, trains=False)
    assert isinstance(verdict, Inconclusive)
    assert "another call" in verdict.reason


def test_a_function_of_few_values_is_inconclusive() -> None:
    """Where one precision lower gives the same, a silent downgrade could not be seen."""
    call = Call(args=(normal(16, D, dtype=torch.float32),), kwargs={})
    verdict = check(torch.sign, lambda x: x.sign(), [call], module=None, trains=False)
    assert isinstance(verdict, Inconclusive)
    assert "precision lower" in verdict.reason


def test_moving_data_can_be_judged() -> None:
    """An op without arithmetic is exact in every precision; its controls fail as their values are rounded."""
    call = Call(args=(normal(16, D, dtype=torch.bfloat16),), kwargs={})

    def swap(x: Tensor) -> Tensor:
        return torch.cat(x.chunk(2, dim=-1)[::-1], dim=-1)

    assert isinstance(check(swap, lambda x: x.roll(D // 2, -1), [call], module=None, trains=False), Pass)
    assert isinstance(check(swap, lambda x: x.roll(1, -1), [call], module=None, trains=False), Reject)


def test_integer_outputs_must_be_equal() -> None:
    """An index off by one is refused, equal indices pass."""
    call = Call(args=(normal(16, D, dtype=torch.float32),), kwargs={})

    def top(x: Tensor) -> Tensor:
        return x.argmax(-1)

    assert isinstance(check(top, lambda x: x.max(-1).indices, [call], module=None, trains=False), Pass)
    verdict = check(top, lambda x: (x.argmax(-1) + 1) % D, [call], module=None, trains=False)
    assert isinstance(verdict, Reject)
    assert verdict.point == 4


def test_dropout_from_the_same_generator_can_be_judged() -> None:
    """Equal draws from the same generator state pass, other draws prove nothing; the state is put back."""
    call = Call(args=(normal(16, D, dtype=torch.float32),), kwargs={})
    before = torch.random.get_rng_state()
    judge = Judge(lambda x: F.dropout(x, 0.5), [call], module=None, trains=False)
    assert isinstance(judge.judge(lambda x: F.dropout(x, 0.5)), Pass)
    other = judge.judge(lambda x: F.dropout(x, 0.4))
    assert isinstance(other, Inconclusive)
    assert "draws others from the same seed" in other.reason
    assert isinstance(judge.judge(lambda x: x * 2), Reject)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_unseedable_original_is_inconclusive() -> None:
    """An original that differs from run to run whatever the seed gives no yardstick."""
    own = torch.Generator().manual_seed(0)
    call = Call(args=(normal(16, D, dtype=torch.float32),), kwargs={})
    verdict = check(lambda x: x + torch.randn(x.shape, generator=own), torch.clone, [call], module=None, trains=False)
    assert isinstance(verdict, Inconclusive)
    assert "random" in verdict.reason


def test_a_candidate_that_differs_from_run_to_run_is_said_not_to_be_deterministic() -> None:
    """Two runs within the noise pass, and the difference is recorded."""
    runs = iter(range(1000))

    def wobbling(self: Any, x: Tensor) -> Any:
        return fused_rms_norm(self, x) if next(runs) % 2 else rms_norm_summed_in_pieces(self, x)

    verdict = norm_verdict(wobbling)
    assert isinstance(verdict, Pass)
    assert not verdict.deterministic


def test_wrong_on_the_second_run_is_refused() -> None:
    """A candidate that is right once and wrong the next time does not pass."""
    runs = iter(range(1000))

    def turning(self: Any, x: Tensor) -> Any:
        return fused_rms_norm(self, x) * (1.0 if next(runs) % 2 == 0 else 1.01)

    assert isinstance(norm_verdict(turning), Reject)


def test_unwritten_memory_is_refused() -> None:
    """Freed memory holds NaN before each run, so that a row which is not written is seen."""

    def lazy(self: Any, x: Tensor) -> Tensor:
        out = torch.empty_like(x)
        out[:, :-1] = fused_rms_norm(self, x)[:, :-1]
        return out

    assert isinstance(norm_verdict(lazy), Reject)


def test_a_replayed_answer_is_refused() -> None:
    """A candidate that keeps its first answer is wrong on the next inputs."""
    kept: list[Tensor] = []

    def replay(self: Any, x: Tensor) -> Tensor:
        kept.append(fused_rms_norm(self, x))
        return kept[0]

    assert isinstance(norm_verdict(replay), Reject)


def test_an_exception_passes_through() -> None:
    """What the candidate raises reaches the caller unchanged."""

    def broken(self: Any, x: Tensor) -> Tensor:
        raise NotImplementedError("no such shape")

    with pytest.raises(NotImplementedError, match="no such shape"):
        norm_verdict(broken)


def test_no_calls_is_an_error() -> None:
    """A judge without inputs could only guess."""
    with pytest.raises(ValueError, match="got none, expected at least one"):
        Judge(torch.clone, [], module=None, trains=False)


def test_an_original_that_changes_its_input_asks_the_same_of_a_candidate() -> None:
    """In-place originals are matched: the changed argument is compared like an output."""

    def in_place(x: Tensor) -> Tensor:
        return x.mul_(1.7)

    calls = [Call(args=(normal(16, D, dtype=torch.float32),), kwargs={})]
    judge = Judge(in_place, calls, module=None, trains=False)
    assert isinstance(judge.judge(lambda x: x.copy_(x * 1.7)), Pass)
    untouched = judge.judge(lambda x: x * 1.7)
    assert isinstance(untouched, Reject)
    assert "is not changed" in untouched.reason


def test_running_statistics_are_compared_and_put_back() -> None:
    """Buffers that the original updates must be updated alike, and each run starts from the model's own."""
    module = nn.BatchNorm1d(D)
    call = Call(args=(normal(32, D, dtype=torch.float32),), kwargs={})
    judge = Judge(nn.BatchNorm1d.forward, [call], module=module, trains=False)
    assert isinstance(judge.judge(nn.BatchNorm1d.forward), Pass)

    def forgets(self: Any, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True)

    refused = judge.judge(forgets)
    assert isinstance(refused, Reject)
    assert "is not changed by the call" in refused.reason
    assert module.running_mean is not None
    assert not module.running_mean.any()


def test_shared_and_nested_outputs() -> None:
    """Dictionaries, named outputs and None are matched by place."""
    calls = [Call(args=(normal(16, D, dtype=torch.float32),), kwargs={"scale": 2.0})]

    def original(x: Tensor, scale: float) -> dict[str, Any]:
        return {"hidden": (x * scale, None), "mean": x.mean(-1)}

    judge = Judge(original, calls, module=None, trains=False)
    assert isinstance(judge.judge(original), Pass)
    lacks = judge.judge(lambda x, scale: {"hidden": (x * scale, x), "mean": x.mean(-1)})
    assert isinstance(lacks, Reject)
    assert lacks.point == 1
    off = judge.judge(lambda x, scale: {"hidden": (x * scale, None), "mean": x.mean(-1) * 1.01})
    assert isinstance(off, Reject)
    assert off.tensor == "output['mean']"


def test_autocast_of_the_caller_is_kept() -> None:
    """Original and candidate run in the state that the caller set, autocast included."""
    module, args = OPS["linear"].make(torch.float32, True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        judge = Judge(OPS["linear"].original, calls_like(args), module=module, trains=True)
        verdict = judge.judge(lambda self, x: F.linear(x, self.weight, self.bias))
        in_float32 = judge.judge(lambda self, x: F.linear(x, self.weight, self.bias).float())
    assert isinstance(verdict, Pass), verdict
    assert isinstance(in_float32, Reject)
    assert in_float32.point == 1


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_decode_steps_can_be_judged(rows: int, dtype: torch.dtype) -> None:
    """One token at a time leaves slices of one element: right passes, a lost tail is refused."""
    module, _ = OPS["rms_norm"].make(dtype, False)
    first = snapshot((normal(rows, 1, D, dtype=dtype),), {})
    judge = Judge(
        OPS["rms_norm"].original,
        [first, *(vary(first, seed=s) for s in range(4))],
        module=module,
        trains=False,
    )
    assert isinstance(judge.judge(fused_rms_norm), Pass)
    assert isinstance(judge.judge(rms_norm_summed_in_pieces), Pass)
    tail = judge.judge(lambda s, x: torch.cat([fused_rms_norm(s, x)[..., :-2], x[..., -2:] * 0], -1))
    assert isinstance(tail, Reject)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tanh_in_place_of_erf_is_refused(dtype: torch.dtype) -> None:
    """In half precision the two GELUs differ by less than rounding nearly everywhere, and lean to one side."""
    calls = calls_like((normal(64, 256, dtype=dtype),))
    verdict = check(gelu_erf, gelu_tanh, calls, module=None, trains=False)
    assert isinstance(verdict, Reject)
    assert dtype is torch.float32 or (verdict.point == 5 and "lean to one side" in verdict.reason)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", ["rms_norm", "mlp", "softmax", "cross_entropy"])
def test_on_cuda(op: str, dtype: torch.dtype) -> None:
    """The same rule holds on a CUDA device: right passes, 2% off does not, no generator moves."""
    module, args = OPS[op].make(dtype, True)
    moved = tuple(a.detach().cuda().requires_grad_(a.requires_grad) for a in args)
    on_device = None if module is None else module.cuda()
    before = torch.cuda.get_rng_state()
    judge = Judge(OPS[op].original, calls_like(moved), module=on_device, trains=True)
    for right in (OPS[op].original, *RIGHT[op]):
        verdict = judge.judge(right)
        assert isinstance(verdict, Pass), (right.__name__, verdict)
    assert isinstance(judge.judge(lambda *given: OPS[op].original(*given) * 1.02), Reject)
    assert torch.equal(torch.cuda.get_rng_state(), before)
