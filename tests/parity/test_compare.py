"""The rule for one tensor, point by point, and its degenerate cases."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from twinkle_tune.outcome import ParityFigure
from twinkle_tune.parity import tally
from twinkle_tune.parity.compare import Noise, compare, noise_of, pooled
from twinkle_tune.parity.form import same_bits
from twinkle_tune.parity.verdict import Doubt, Finding, Reject

HALVES = (torch.bfloat16, torch.float16)
DTYPES = (torch.float32, *HALVES)


def exact(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def noisy(r: Tensor, dtype: torch.dtype, *, relative: float, seed: int) -> Tensor:
    """``r`` with normal noise of this size relative to the tensor's RMS, rounded to ``dtype``."""
    return (r + relative * r.square().mean().sqrt() * exact(*r.shape, seed=seed)).to(dtype)


def point(finding: Finding | Doubt) -> int | None:
    return finding.point if isinstance(finding, Reject) else None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(64, 256), (1, 1, 256), (48,), (3, 5, 7), (200, 2), (1,), ()], ids=str)
def test_equal_noise_passes_at_every_shape(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Candidates as noisy as the original pass, on 50 draws, however short the slices are."""
    eps = torch.finfo(dtype).eps
    r = exact(*shape)
    for draw in range(50):
        b = noisy(r, dtype, relative=2 * eps, seed=2 * draw + 1)
        c = noisy(r, dtype, relative=2 * eps, seed=2 * draw + 2)
        seen = Noise(relative=2 * eps, count=8 * r.numel())
        found = compare(r, b, c, seen=seen)
        assert isinstance(found, ParityFigure), found


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_of_different_size_and_noise_pass(dtype: torch.dtype) -> None:
    """Where each row has a magnitude of its own, its noise is measured against its own."""
    r = exact(64, 96) * torch.logspace(-3, 2, 64, dtype=torch.float64)[:, None]
    scale = r.square().mean(-1, keepdim=True).sqrt() * torch.finfo(dtype).eps * 3
    b, c = ((r + scale * exact(64, 96, seed=seed)).to(dtype) for seed in (1, 2))
    assert isinstance(compare(r, b, c), ParityFigure)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_baseline_without_any_error_allows_rounding(dtype: torch.dtype) -> None:
    """An original that is right to the last bit does not ask for luck: a unit in the last place passes."""
    b = exact(32, 64).to(dtype)
    c = torch.where(exact(32, 64, seed=1) > 1.0, b * (1 + torch.finfo(dtype).eps), b)
    assert isinstance(compare(b.double() * (1 + torch.finfo(dtype).eps / 4), b, c), ParityFigure)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_point_2_refuses_four_times_the_noise(dtype: torch.dtype) -> None:
    """More noise than twice the original's, everywhere, is a matter of the whole tensor."""
    r, eps = exact(64, 256), torch.finfo(dtype).eps * 16
    found = compare(r, noisy(r, dtype, relative=eps, seed=1), noisy(r, dtype, relative=4 * eps, seed=2))
    assert point(found) == 2


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_point_3_refuses_one_bad_slice_and_says_which(dim: int) -> None:
    """A slice along any dimension that is off while the whole tensor is not."""
    r = exact(16, 24, 32)
    b = noisy(r, torch.float32, relative=1e-4, seed=1)
    c = noisy(r, torch.float32, relative=1e-4, seed=2)
    c.narrow(dim, 5, 1).mul_(1 + 6e-4)
    found = compare(r, b, c, tensor="output")
    assert isinstance(found, Reject)
    assert (found.point, f"index 5 of dimension {dim}" in found.reason) == (3, True)


def test_point_3_sees_a_lost_small_row() -> None:
    """A row a thousand times smaller than the others is judged by its own size."""
    r = exact(64, 96)
    r[7] *= 1e-3
    b = r.to(torch.bfloat16)
    c = b.clone()
    c[7] = 0
    assert point(compare(r, b, c)) == 3


def test_point_3_joins_short_slices() -> None:
    """In one row of many columns, a lost tail is found among joined columns, and named."""
    r = exact(1, 4096)
    b = noisy(r, torch.float32, relative=1e-3, seed=1)
    c = b.clone()
    c[0, 64:96] *= 1.01
    found = compare(r, b, c)
    assert isinstance(found, Reject)
    assert (found.point, "indices 64 to 95 of dimension 1" in found.reason) == (3, True)


def test_rounding_dust_is_not_judged() -> None:
    """A row of 1e-33 beside rows of 1 may hold any such dust: nothing in it is right or wrong."""
    r = exact(64, 96)
    r[1] *= 1e-33
    b = r.to(torch.bfloat16)
    c = b.clone()
    c[1] *= 20
    assert isinstance(compare(r, b, c), ParityFigure)


def test_point_4_refuses_one_bad_element_and_says_which() -> None:
    """An element beyond anything the original does, in a tensor too large for it to show in a sum."""
    r = exact(256, 256)
    b = noisy(r, torch.float32, relative=1e-3, seed=1)
    c = noisy(r, torch.float32, relative=1e-3, seed=2)
    c[9, 4] = float(r[9, 4]) + 0.02
    found = compare(r, b, c)
    assert isinstance(found, Reject)
    assert (found.point, "[9, 4]" in found.reason) == (4, True)


def test_bands_that_are_added_in_copies_are_the_same_sums() -> None:
    """A GPU adds into 256 copies of the bands, where additions do not queue: the sums are those of one copy."""
    r = exact(40, 333, seed=3).reshape(-1)
    band = (r.view(torch.int64) >> 52) & 0x7FF
    values = [r.square(), torch.ones_like(r)]
    kept = band.clone()
    spread = tally.by_band(band, values, 256)
    torch.testing.assert_close(spread, tally.by_band(band, values, 1), rtol=1e-12, atol=0.0)
    assert torch.equal(band, kept)
    for row, each in enumerate(values):
        expected = torch.zeros(tally.BANDS, dtype=torch.float64).index_add_(0, kept, each)
        torch.testing.assert_close(spread[row], expected, rtol=1e-12, atol=0.0)


def test_chunks_give_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Working piece by piece, as for logits, changes neither sums nor positions."""
    r = exact(64, 48)
    b = noisy(r, torch.bfloat16, relative=1e-2, seed=1)
    c = noisy(r, torch.bfloat16, relative=1e-2, seed=2)
    spoiled = c.clone()
    spoiled[41, 3] += 2
    whole = compare(r, b, c), compare(r, b, spoiled)
    monkeypatch.setattr(tally, "_CHUNK", 7 * 48)
    pieces = compare(r, b, c), compare(r, b, spoiled)
    for one, other in zip(whole, pieces, strict=True):
        assert not isinstance(one, Doubt)
        assert not isinstance(other, Doubt)
        assert (one.point, type(one)) == (other.point, type(other))
        assert math.isclose(one.error, other.error, rel_tol=1e-12)
        assert math.isclose(one.limit, other.limit, rel_tol=1e-12)
    assert isinstance(pieces[1], Reject)


@pytest.mark.parametrize(
    ("candidate", "what"),
    [
        (torch.ones(4, 4, dtype=torch.float64), "dtype"),
        (torch.ones(16), "shape"),
        (torch.nn.Parameter(torch.ones(4, 4)), "type"),
        (torch.ones(4, 4, device="meta"), "device"),
        (torch.full((4, 4), float("nan")), "nan at index [0, 0]"),
        (torch.full((4, 4), float("inf")), "inf at index [0, 0]"),
    ],
    ids=["dtype", "shape", "type", "device", "nan", "inf"],
)
def test_point_1_names_what_differs(candidate: Tensor, what: str) -> None:
    """A difference in form is told as such, before any arithmetic."""
    found = compare(torch.ones(4, 4, dtype=torch.float64), torch.ones(4, 4), candidate)
    assert isinstance(found, Reject)
    assert (found.point, what in found.reason) == (1, True)


def test_the_same_non_finite_values_pass() -> None:
    """Infinities and NaN of the original are asked of the candidate, the rest is compared as ever."""
    r = exact(8, 64)
    r[0, 0], r[1, 1], r[2, 2] = float("inf"), float("-inf"), float("nan")
    b = r.float()
    assert isinstance(compare(r, b, b.clone()), ParityFigure)
    wrong_sign = b.clone()
    wrong_sign[0, 0] *= -1
    assert point(compare(r, b, wrong_sign)) == 1
    wrong_elsewhere = b * 1.01
    assert point(compare(r, b, wrong_elsewhere)) == 2


def test_overflow_of_the_run_dtype_alone_is_the_originals_to_have() -> None:
    """Where float16 overflows in the original and the truth does not, the candidate overflows as well."""
    r = exact(8, 64) * 1e4
    r[3, 3] = 1e6
    b = r.half()
    assert isinstance(compare(r, b, b.clone()), ParityFigure)
    finite = b.clone()
    finite[3, 3] = 65504
    assert point(compare(r, b, finite)) == 1


def test_a_zero_truth_asks_for_zero() -> None:
    """Where r and b are zero, only zero passes."""
    zeros = torch.zeros(4, 64)
    assert isinstance(compare(zeros.double(), zeros, zeros.clone()), ParityFigure)
    assert point(compare(zeros.double(), zeros, zeros + 1e-6)) == 2


def test_empty_tensors_pass() -> None:
    """No elements, nothing wrong."""
    empty = torch.empty(0, 5)
    assert compare(empty.double(), empty, empty.clone()) == ParityFigure(tensor="output", point=4, error=0.0, limit=0.0)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool], ids=str)
def test_integers_and_booleans_are_equal_or_refused(dtype: torch.dtype) -> None:
    """Without rounding there is no tolerance."""
    b = torch.tensor([[0, 1], [1, 0]]).to(dtype)
    assert isinstance(compare(b, b, b.clone()), ParityFigure)
    found = compare(b, b, b.logical_not().to(dtype))
    assert isinstance(found, Reject)
    assert (found.point, found.error) == (4, 4.0)


def test_complex_values_are_compared_by_their_parts() -> None:
    """A rotary table of complex numbers is judged like one of cosines and sines."""
    r = torch.complex(exact(8, 64), exact(8, 64, seed=1))
    b = r.to(torch.complex64)
    assert isinstance(compare(r, b, b.clone()), ParityFigure)
    assert point(compare(r, b, b.conj().resolve_conj())) == 2


def test_a_loss_is_judged_with_the_noise_of_other_calls() -> None:
    """One number by luck exact: a unit in the last place passes, one thousandth does not."""
    b = torch.tensor(5.25)
    seen = pooled([noise_of(b.double() * (1 + 1e-7), b), noise_of(b.double(), b)])
    assert isinstance(compare(b.double(), b, b * (1 + 2.4e-7), seen=seen), ParityFigure)
    assert point(compare(b.double(), b, b * 1.001, seen=seen)) == 2


def test_a_reference_in_the_run_dtype_is_noticed() -> None:
    """Without a more precise reference, another order of additions still passes, and bfloat16 does not."""
    x = exact(64, 512).float()
    b, c = x.cumsum(-1)[:, ::8].contiguous(), x.double().cumsum(-1)[:, ::8].float()
    assert isinstance(compare(b, b, c), ParityFigure)
    assert point(compare(b, b, c.bfloat16().float())) == 2


def test_same_bits() -> None:
    """NaN equals itself, -0 differs from 0, other dtypes differ."""
    nan = torch.tensor([float("nan"), 1.0])
    assert same_bits(nan, nan.clone())
    assert not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not same_bits(torch.tensor([0.0]), torch.tensor([0.0], dtype=torch.float64))


def test_few_errors_that_are_most_of_the_noise_are_uncertain() -> None:
    """Where one rounding makes nearly all of the original's error, a rival's may be some times as large."""
    r = exact(64, 96)
    r[3:6, :2] *= 300
    b, c = r.float(), r.float()
    b[3, :2] += 1e-4
    c[5, :2] += 3e-4
    assert isinstance(compare(r, b, c), ParityFigure)


def test_many_errors_are_certain() -> None:
    """Where the original's error is spread over all elements, three times as much is refused."""
    r = exact(64, 96)
    b, c = (noisy(r, torch.float32, relative=size, seed=seed) for size, seed in ((1e-5, 1), (3e-5, 2)))
    assert point(compare(r, b, c)) == 2
