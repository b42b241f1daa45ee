"""Our rope and cross entropy stand wherever a model has a place for them, and only on CUDA."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.catalog.catalog_families import FAMILIES, tiny
from tests.ops.interpreter import run_interpreted
from twinkle_tune.catalog import function_contestants, functions_of, triton
from twinkle_tune.errors import SourceError
from twinkle_tune.ops import launch
from twinkle_tune.slot import Candidate, Slot, SlotKind

SLOT = Slot(name="x.turn", kind=SlotKind.FUNCTION, target="x:turn")


def neighbours(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    """Turns neighbouring columns, in float32 and back, as Cohere's models do."""

    def turn(x: Tensor) -> Tensor:
        wide = x.float()
        pairs = torch.stack((-wide[..., 1::2], wide[..., ::2]), dim=-1).flatten(-2)
        return (wide * cos.unsqueeze(unsqueeze_dim) + pairs * sin.unsqueeze(unsqueeze_dim)).to(x.dtype)

    return turn(q), turn(k)


def found_for(slot: Slot, original: Any, device: str) -> dict[str, Candidate]:
    """The candidates of a function by name."""
    return {candidate.name: candidate for candidate in function_contestants(slot, original, device)}


@pytest.mark.slow
def test_families_with_our_functions_do_as_the_original() -> None:
    """Attention layers, models and losses in Triton's interpreter, against the original by the parity rule."""
    run_interpreted("tests.catalog.our_function_cases")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_offered_our_functions_on_cuda_alone(family: str) -> None:
    """Both function slots of a family have the candidate "triton", of that kind, for CUDA and for no other device."""
    slots = functions_of(tiny(family))
    assert len(slots) == 2
    for slot in slots:
        place, name = slot.target.split(":")
        original = getattr(importlib.import_module(place), name)
        found = found_for(slot, original, "cuda")["triton"]
        assert (found.device, found.source.kind) == ("cuda", "triton")
        assert found.source.load(slot, original).call is not original
        assert "triton" not in found_for(slot, original, "cpu")


def test_functions_that_turn_neighbours_are_offered_our_kernel() -> None:
    """It computes the original's formula; what it does not take (another dtype of the angles) is the original's."""
    found = found_for(SLOT, neighbours, "cuda")
    assert list(found) == ["triton", "compile"]
    call = found["triton"].source.load(SLOT, neighbours).call
    q, (cos, sin) = torch.randn(2, 3, 5, 8), torch.randn(2, 2, 5, 8).unbind()
    torch.testing.assert_close(call(q, q[:, :1], cos, sin), neighbours(q, q[:, :1], cos, sin))
    swapped = q.transpose(1, 2)
    torch.testing.assert_close(call(swapped, swapped, cos, sin, 2), neighbours(swapped, swapped, cos, sin, 2))
    assert call(q.bfloat16(), q.bfloat16(), cos, sin)[0].dtype == torch.bfloat16


def test_the_digest_holds_the_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed kernel, which no Python code names, makes another digest."""
    source = found_for(SLOT, neighbours, "cuda")["triton"].source
    before = source.digest(SLOT, neighbours)
    assert before == source.digest(SLOT, neighbours)
    (tmp_path / "rope").mkdir()
    (tmp_path / "rope" / "kernel.py").write_text("changed = True\n", encoding="utf-8")
    monkeypatch.setattr(triton, "_OPS", tmp_path)
    monkeypatch.setattr(triton, "_files_digest", triton._files_digest.__wrapped__)
    assert source.digest(SLOT, neighbours) != before


def test_without_triton_ours_are_absent_and_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """No contest has them then, and a source from elsewhere says what is missing."""
    source = found_for(SLOT, neighbours, "cuda")["triton"].source
    monkeypatch.setattr(launch, "missing", lambda: "triton is not installed")
    assert not triton.offered("cuda")
    with pytest.raises(SourceError, match="triton is not installed"):
        source.load(SLOT, neighbours)
