"""Copies of a call's arguments keep what a kernel can see, and new values stay meaningful."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from twinkle_tune.call.arguments import Call, fresh, named_tensors, snapshot, vary


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


def base(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


LAYOUTS = {
    "contiguous": base(4, 6),
    "transposed": base(6, 4).t(),
    "heads": base(2, 5, 3, 8).transpose(1, 2),
    "slice": base(4, 20)[:, 3:9],
    "one of three": base(4, 3, 6)[:, 1],
    "expanded": base(4, 1).expand(4, 6),
    "expanded batch": base(1, 4, 6).expand(3, 4, 6),
    "scalar": torch.tensor(2.5),
    "empty": torch.empty(0, 4),
    "half": base(4, 6).half(),
    "integers": torch.arange(6),
    "channels last": base(2, 3, 4, 4).to(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("tensor", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("copied", ["snapshot", "fresh", "vary"])
def test_copies_keep_the_layout(tensor: Tensor, copied: str) -> None:
    """Shape, stride, dtype and requires_grad survive; the values as well, unless they are varied."""
    tensor = tensor.detach().requires_grad_(tensor.is_floating_point())
    call = snapshot((tensor,), {})
    twin = {"snapshot": call, "fresh": fresh(call), "vary": vary(call, seed=1)}[copied].args[0]
    assert (twin.shape, twin.stride(), twin.dtype) == (tensor.shape, tensor.stride(), tensor.dtype)
    assert twin.requires_grad == tensor.requires_grad
    assert twin.is_leaf
    assert twin.numel() == 0 or twin.data_ptr() != tensor.data_ptr()
    if copied != "vary":
        assert torch.equal(twin, tensor)


def test_nested_arguments_and_identity() -> None:
    """Containers are copied with their types, one tensor in two places stays one, other objects are kept."""
    x, y, thing = base(2), base(3, seed=1), object()
    call = snapshot(([x, (y, x)], Pair(x, y)), {"cache": OrderedDict(key=x), "thing": thing, "eps": 1e-6})
    (items, pair), kwargs = call.args, call.kwargs
    assert isinstance(items, list)
    assert isinstance(pair, Pair)
    assert isinstance(kwargs["cache"], OrderedDict)
    assert items[0] is items[1][1] is pair.first is kwargs["cache"]["key"]
    assert items[0] is not x
    assert kwargs["thing"] is thing
    assert kwargs["eps"] == 1e-6
    assert [name for name, _ in named_tensors(call)] == [
        "args[0][0]",
        "args[0][1][0]",
        "args[0][1][1]",
        "args[1][0]",
        "args[1][1]",
        "kwargs['cache']['key']",
    ]


def test_a_snapshot_is_cut_off_from_its_source() -> None:
    """Later changes, the graph, inference mode and being a parameter stay behind."""
    x = base(4)
    hidden = (x.requires_grad_() * 2).relu()
    call = snapshot((hidden, nn.Parameter(x.detach())), {})
    assert call.args[0].is_leaf
    assert call.args[0].requires_grad
    assert type(call.args[1]) is Tensor
    with torch.inference_mode():
        inferred = snapshot((base(4),), {}).args[0]
    assert not inferred.is_inference()
    assert inferred.requires_grad_().mul(2).sum().backward() is None


def test_varied_values_match_mean_and_spread() -> None:
    """New values come from the captured distribution, times the scale; gaps of it do not matter."""
    call = snapshot((base(64, 256) * 3 + 5,), {})
    new = vary(call, seed=1).args[0]
    assert abs(float(new.mean()) - 5) < 0.1
    assert abs(float(new.std()) - 3) < 0.1
    small = vary(call, seed=1, scale=1e-3).args[0]
    assert torch.allclose(small, new * 1e-3, rtol=1e-5)
    assert not torch.equal(new, call.args[0])


def test_seeds_are_kept_apart_from_the_global_generator() -> None:
    """Equal seeds give equal values, others do not, and the process's generator does not move."""
    call = snapshot((base(8, 8), torch.tensor([5, 1, 3])), {})
    before = torch.random.get_rng_state()
    one, same, other = (vary(call, seed=seed).args[0] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_outlier_channels() -> None:
    """A few channels of the last dimension stand out by a factor of 20 to 50."""
    spread = vary(snapshot((base(512, 128) * 2,), {}), seed=1, outliers=True).args[0].std(0)
    loud = spread > 20
    assert int(loud.sum()) == 2
    assert bool((spread[loud] < 2 * 60).all())
    assert bool((spread[~loud] < 3).all())


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_degenerate_values_still_vary(value: float) -> None:
    """Zeros become normal noise; what is not finite marks masked places and stays."""
    new = vary(snapshot((torch.full((8, 16), value),), {}), seed=1).args[0]
    assert (new.std() > 0.1) if value == 0.0 else torch.equal(new.isfinite(), torch.zeros(8, 16, dtype=torch.bool))


@pytest.mark.parametrize("masked", [float("-inf"), torch.finfo(torch.float32).min])
def test_masks_keep_their_masked_places(masked: float) -> None:
    """In an additive mask the masked elements keep their value and the others stay small."""
    mask = torch.zeros(6, 6).masked_fill(torch.ones(6, 6).triu(1).bool(), masked)
    new = vary(snapshot((mask,), {}), seed=1).args[0]
    assert torch.equal(new == masked, mask == masked)
    assert bool((new[mask == 0].abs() <= 1).all())


def test_rotary_tables_stay_tables() -> None:
    """Tables that repeat are kept, one at position 0 keeps its halves alike, others stay within [-1, 1]."""
    angles = torch.outer(torch.arange(1.0, 9.0), torch.tensor([1.0, 0.1, 0.01]))
    halves, pairs = torch.cat([angles, angles], -1).cos(), angles.repeat_interleave(2, -1).sin()
    call = snapshot((halves, pairs, torch.ones(1, 6), angles.cos()), {})
    new = vary(call, seed=1, scale=10.0).args
    assert torch.equal(new[0], halves)
    assert torch.equal(new[1], pairs)
    assert torch.equal(new[2][:, :3], new[2][:, 3:])
    assert bool((new[3].abs() <= 1).all())
    assert not torch.equal(new[3], angles.cos())


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        (torch.tensor([3, 9, -100, 7, 1, 0, 2, 8]), False),
        (torch.arange(8), True),
        (torch.tensor([0, 3, 3, 8], dtype=torch.int32), True),
        (torch.tensor(7), True),
    ],
    ids=["labels", "positions", "offsets", "scalar"],
)
def test_integers_stay_valid_indices(values: Tensor, kept: bool) -> None:
    """Labels are permuted, positions and offsets are kept."""
    new = vary(snapshot((values,), {}), seed=3).args[0]
    assert torch.equal(new.reshape(-1).sort().values, values.reshape(-1).sort().values)
    assert torch.equal(new, values) == kept


def test_boolean_rows_stay_together() -> None:
    """A causal mask has its rows permuted: none ends up empty."""
    mask = torch.ones(1, 1, 8, 8, dtype=torch.bool).tril()
    new = vary(snapshot((mask,), {}), seed=1).args[0]
    assert not torch.equal(new, mask)
    assert sorted(new.sum(-1).flatten().tolist()) == list(range(1, 9))


def test_everything_else_is_unchanged() -> None:
    """Plain values and unknown objects go through, the same tensor stays the same object."""
    x, thing = base(4), object()
    new = vary(Call(args=(x, x, 3, thing), kwargs={"eps": 1e-6}), seed=1)
    assert new.args[0] is new.args[1]
    assert new.args[2:] == (3, thing)
    assert dict[str, Any](new.kwargs) == {"eps": 1e-6}
