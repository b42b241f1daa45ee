"""``python -m tests.catalog.triton_cases``: layers of every family bound to our kernels, in Triton's interpreter."""

from __future__ import annotations

import copy
import itertools
import sys
from collections.abc import Iterator
from functools import partial

import torch
from torch import nn

from tests.catalog.catalog_families import FAMILIES, tiny, width
from tests.ops.interpreter import Case, main
from tests.today import of_today
from twinkle_tune.catalog import layer_contestants, layer_name
from twinkle_tune.slot import Slot, SlotKind
from twinkle_tune.testing import assert_parity
from twinkle_tune.workload import target_of

EXPECTED = {family: {"RMSNorm", "GatedMLP"} if family != "phi" else {"LayerNorm", "MLP"} for family in FAMILIES}
"""The slots of each family that our kernels compete for."""
DTYPES = (torch.bfloat16, torch.float32, torch.bfloat16)


def cases() -> Iterator[Case]:
    """Each layer class of each family, forward and backward, by the full parity rule."""
    dtypes = itertools.cycle(DTYPES)  # in turn: that a kernel takes each of them is held where the ops are tested
    for family in FAMILIES:
        bound: dict[type, tuple[Slot, nn.Module]] = {}
        for module in tiny(family).modules():
            name = layer_name(module)
            if name is not None:
                slot = Slot(name=name, kind=SlotKind.LAYER, target=target_of(type(module)))
                if any(c.name == "triton" for c in layer_contestants(name, module, "cuda")):
                    bound.setdefault(type(module), (slot, module))
        yield f"{family}: slots", partial(has, family, {slot.name for slot, _ in bound.values()})
        for slot, module in bound.values():
            dtype = next(dtypes)
            yield f"{slot.target} {dtype}", partial(holds, slot, module, dtype)


def has(family: str, names: set[str]) -> None:
    """The family's layers that ours compete for are those that are expected."""
    assert names == EXPECTED[family], f"{names}, expected {EXPECTED[family]}"


def holds(slot: Slot, module: nn.Module, dtype: torch.dtype) -> None:
    """The candidate gives the original's outputs and gradients."""
    module = copy.deepcopy(module).to(dtype)
    original = type(module).forward
    (candidate,) = (c for c in layer_contestants(slot.name, module, "cuda") if c.name == "triton")
    ours = candidate.source.load(slot, original).call
    torch.manual_seed(3)
    x = torch.randn(3, 5, width(module)).to(dtype)
    assert_parity(ours, original, x, module=module, mode="train", seeds=1)


if __name__ == "__main__":
    found = cases()
    sys.exit(main(of_today(found, 4) if "--today" in sys.argv else found))
