"""What the original's errors would be if its roundings fell otherwise.

The errors of a slice need not be independent: where one token makes nearly all of a row of a weight's gradient, the
row's elements share that token's error, and the row has the noise of a single number. So may all errors of a gradient
that cancels, as that of a key's bias does in the softmax. Whether the original's own rounding happened to be small
there says little of its rivals. So where a tensor or slice is refused by little, the original is run again on inputs
that were moved by about a unit in the last place, each time against the float64 result for these inputs: the same
slices, other roundings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from twinkle_tune.call.arguments import Call, map_tensors
from twinkle_tune.parity.reference import references
from twinkle_tune.parity.run import Run, Subject, execute
from twinkle_tune.parity.tally import gather

RUNS = 8
"""With the first run there are nine: a ratio of one squared normal number to the mean of nine passes 4^2 in 0.3%."""

Slices = Sequence[Tensor]
"""For each dimension of more than one element the sums of (b - r)^2 of its slices, float64 [size]."""


def errors_anew(
    original: Callable[..., Any],
    call: Call,
    baseline: Run,
    *,
    subject: Subject | None,
    module: nn.Module | None,
    trains: bool,
    seed: int,
) -> Mapping[str, Sequence[Slices]]:
    """The errors of :data:`RUNS` more runs of the original, for each of its floating outputs and gradients.

    Args:
        original: as the judge has it; it is given ``subject`` first.
        call: what ``baseline`` was run on.
        baseline: the original's run; the gradients that it was sent are moved as well.
        subject: the layer that the original is run on.
        module: the layer that its float64 results are made with.
        trains: with gradients.
        seed: of torch's generators during each run, as in ``baseline``.

    Returns:
        By the tensor's name; nothing for an original that does not take the moved inputs.
    """
    found: dict[str, list[Slices]] = {}
    for number in range(RUNS):
        generators: dict[torch.device, torch.Generator] = {}
        near = moved(call, generators, number)
        sent = {name: _moved(t, generators, number) for name, t in baseline.incoming.items()}
        try:
            run = execute(original, near, subject=subject, trains=trains, seed=seed, incoming=sent)
            (precise,), _ = references(original, [near], [run], module=module, trains=trains, seed=seed)
        except Exception:
            # It takes what was captured and not what is near it: then what was found on the first run stands.
            return {}
        for name, tensor in run.tensors.items():
            like = baseline.tensors.get(name)
            if like is not None and tensor.is_floating_point() and tensor.shape == like.shape and tensor.numel():
                slices = gather(precise.tensors[name], tensor, tensor, widening=1.0).slices
                found.setdefault(name, []).append([sums[1] for sums in slices])
    return found


def moved(call: Call, generators: dict[torch.device, torch.Generator], seed: int) -> Call:
    """The call with each floating value moved by about a unit in the last place; zeros and infinities stay."""
    memo: dict[int, Tensor] = {}

    def once(tensor: Tensor) -> Tensor:
        if id(tensor) not in memo:
            memo[id(tensor)] = _moved(tensor.detach(), generators, seed).requires_grad_(tensor.requires_grad)
        return memo[id(tensor)]

    return Call(args=map_tensors(once, call.args), kwargs=map_tensors(once, dict(call.kwargs)))


def _moved(tensor: Tensor, generators: dict[torch.device, torch.Generator], seed: int) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    if tensor.device not in generators:
        generators[tensor.device] = torch.Generator(tensor.device).manual_seed(seed)
    wide = torch.promote_types(tensor.dtype, torch.float32)
    draw = torch.randn(tensor.shape, generator=generators[tensor.device], device=tensor.device, dtype=wide)
    shift = torch.nan_to_num(tensor.to(wide) * draw * torch.finfo(tensor.dtype).eps, nan=0.0, posinf=0.0, neginf=0.0)
    return (tensor.to(wide) + shift).to(tensor.dtype)
