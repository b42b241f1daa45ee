"""What is particular to attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.ops.interpreter import run_interpreted
from twinkle_tune.errors import ConfigError, ShapeError
from twinkle_tune.ops.attention.op import attention, reference


def test_combinations_hold_in_the_interpreter() -> None:
    """Today's four of the sixty of :func:`test_all_combinations_hold_in_the_interpreter`."""
    run_interpreted("tests.ops.attention_cases", "--today")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_combinations_hold_in_the_interpreter() -> None:
    """Sight, padding, lengths, heads, widths and blocks against float64: the result and three gradients."""
    run_interpreted("tests.ops.attention_cases", timeout_s=850.0)


@pytest.mark.parametrize("causal", [False, True])
def test_the_formula_is_that_of_torch(causal: bool) -> None:
    """Heads of keys shared, and causal, as torch's own attention has them; in float64."""
    q, k = torch.randn(2, 4, 9, 16, dtype=torch.float64), torch.randn(2, 2, 9, 16, dtype=torch.float64)
    expected = F.scaled_dot_product_attention(q, k, k, is_causal=causal, enable_gqa=True)
    torch.testing.assert_close(reference(q, k, k, causal=causal), expected)


def test_a_window_ends_where_it_says() -> None:
    """A query sees itself and the window's other keys before it, and not one more."""
    q, v = torch.zeros(1, 1, 6, 16), torch.eye(6, 16).expand(1, 1, 6, 16)
    seen = attention(q, q, v, causal=True, window=3)[0, 0, :, :6] > 0
    assert torch.equal(seen, torch.ones(6, 6).tril().triu(-2).bool())


def test_the_last_query_stands_at_the_last_key() -> None:
    """With more keys than queries, as behind a cache, a query sees all keys before it."""
    q, k = torch.randn(1, 2, 8, 16), torch.randn(1, 2, 8, 16)
    torch.testing.assert_close(attention(q, k, k, causal=True)[:, :, 5:], attention(q[:, :, 5:], k, k, causal=True))


def test_a_row_that_sees_nothing_is_zero_and_has_no_gradient() -> None:
    """A sequence that is padding alone gives zeros and gradients of zero, not NaN."""
    q = torch.randn(2, 2, 4, 16, requires_grad=True)
    mask = torch.tensor([[True] * 4, [False] * 4])
    given = attention(q, q, q, mask)
    given.sum().backward()  # type: ignore[no-untyped-call]
    assert q.grad is not None
    assert q.grad[0].count_nonzero() > 0
    assert not given[1].count_nonzero()
    assert not q.grad[1].count_nonzero()


@pytest.mark.parametrize("change", ["heads", "dtype", "width", "mask"])
def test_attention_refuses_what_does_not_fit(change: str) -> None:
    """Shapes and dtypes are named in the error."""
    q, k, mask = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 5, 8), torch.ones(2, 5, dtype=torch.bool)
    k = {"heads": k[:, :1].expand(2, 3, 5, 8), "dtype": k.half(), "width": k[..., :7]}.get(change, k)
    mask = mask.float() if change == "mask" else mask
    with pytest.raises(ShapeError, match=r"attention: got q \[2, 4, 5, 8\] torch.float32, k .* a bool mask"):
        attention(q, k, k, mask)


@pytest.mark.parametrize("wrong", [{"window": -1}, {"softcap": -2.0}])
def test_settings_below_zero_are_refused(wrong: dict[str, Any]) -> None:
    q = torch.randn(1, 1, 2, 8)
    with pytest.raises(ConfigError, match="expected 0 \\(none\\) or more"):
        attention(q, q, q, **wrong)
