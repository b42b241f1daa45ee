"""Peak memory of known calls on a CPU."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from tests.tune.losses import CLASSES, LOGITS_BYTES, ROWS, WIDTH, _Chunked, linear_cross_entropy
from twinkle_tune.measure import cpu_memory
from twinkle_tune.measure.clock import clock_for
from twinkle_tune.measure.cpu_memory import peak_bytes

MIB = 2**20
X = torch.randn(MIB)  # 4 MiB


def test_one_result_takes_its_bytes() -> None:
    """A call that makes 4 MiB takes 4 MiB, and one that makes nothing takes nothing."""
    assert peak_bytes(lambda: X.exp()) == 4 * MIB
    assert peak_bytes(lambda: X.exp_()) == 0
    assert clock_for("cpu").peak_bytes(lambda: X.exp()) == 4 * MIB


def test_the_peak_counts_and_not_the_sum() -> None:
    """What was let go before the next is made does not add up; what is still held does."""

    def one_by_one() -> None:
        for _ in range(5):
            X.exp()

    assert peak_bytes(one_by_one) == 4 * MIB
    assert peak_bytes(lambda: [X.exp() for _ in range(5)]) == 20 * MIB


def test_what_was_there_before_is_no_part_of_it() -> None:
    """Letting go of a tensor from before makes no room for the call's own."""
    there = [torch.empty(8 * MIB)]

    def call() -> torch.Tensor:
        there.clear()
        return X.exp()

    assert peak_bytes(call) == 4 * MIB


def test_a_block_that_an_earlier_call_left_behind_does_not_count_as_released() -> None:
    """A tensor that outlived its own measured call may be let go in a later one: that one's peak stays its own."""
    kept: list[torch.Tensor] = []
    assert peak_bytes(lambda: kept.append(torch.empty(8 * MIB))) == 32 * MIB

    def call() -> torch.Tensor:
        kept.clear()
        return X.exp()

    assert peak_bytes(call) == 4 * MIB


def test_backward_counts() -> None:
    """Forward and backward of x.exp().sin() hold the two saved results and the gradients on their way: 12 MiB."""
    x = X.clone().requires_grad_()

    def there_and_back() -> object:
        return torch.autograd.grad(x.exp().sin(), [x], X)

    forward_alone = peak_bytes(lambda: x.exp().sin())
    assert forward_alone == 8 * MIB
    assert 12 * MIB <= (peak_bytes(there_and_back) or 0) <= 16 * MIB


def test_chunks_take_far_less_than_all_logits() -> None:
    """Forward and backward of a linear cross entropy need three times the logits, in chunks less than one time."""
    hidden = torch.randn(ROWS, WIDTH, requires_grad=True)
    weight = torch.randn(CLASSES, WIDTH, requires_grad=True)
    target = torch.randint(0, CLASSES, (ROWS,))

    def whole() -> object:
        return torch.autograd.grad(linear_cross_entropy(hidden, weight, target), [hidden, weight])

    def in_chunks() -> object:
        return torch.autograd.grad(_Chunked.apply(hidden, weight, target), [hidden, weight])  # type: ignore[no-untyped-call]

    full, small = peak_bytes(whole), peak_bytes(in_chunks)
    assert full is not None
    assert small is not None
    assert 2 * LOGITS_BYTES <= full < 4 * LOGITS_BYTES
    assert small < 0.5 * LOGITS_BYTES
    assert (peak_bytes(whole), peak_bytes(in_chunks)) == (full, small)


def test_a_call_that_raises_leaves_no_profiler_behind() -> None:
    """The error comes out, and the next call is measured."""

    def broken() -> None:
        raise RuntimeError("out of order")

    with pytest.raises(RuntimeError, match="out of order"):
        peak_bytes(broken)
    assert peak_bytes(lambda: X.exp()) == 4 * MIB


def test_under_a_profiler_the_peak_is_unknown() -> None:
    """Whoever profiles the run gets their profile, and no call is made for us."""
    made: list[int] = []
    with torch.autograd.profiler.profile(use_cpu=True):
        assert peak_bytes(lambda: made.append(1)) is None
    assert not made


def test_a_torch_that_does_not_tell_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the profiler's entry the peak is unknown, and no error."""
    monkeypatch.setattr(cpu_memory, "_enable", None)
    assert peak_bytes(lambda: X.exp()) is None


def test_nothing_is_written_to_the_error_stream() -> None:
    """Measuring a call is silent."""
    code = (
        "import torch; from twinkle_tune.measure.cpu_memory import peak_bytes; print(peak_bytes(lambda: torch.ones(4)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert (done.stdout, done.stderr) == ("16\n", "")
