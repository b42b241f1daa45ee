"""What is sent back into the outputs: random, and into a loss of one element as a scaled loss would.

The ones of ``.sum()`` hide most mistakes. And who trains in float16 multiplies the loss with 2**16 or so, who adds up
many small batches divides it: a kernel that makes its gradients before it knows that factor, and rounds them, has lost
the small ones by then.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

SCALES = (1.0, 2.0**15, 2.0**-10)
"""Of the first call, the second, the third, and so on in turn. A loss in float16 can take the largest."""
STEP = 2.0**5
"""By so much a scale is lowered that the original itself cannot take."""
ROOM = 4.0
"""The original's largest gradient stays so many times below what its dtype can hold."""


def gradients_to_send(
    graded: Mapping[str, Tensor], seed: int, given: Mapping[str, Tensor], scale: float
) -> dict[str, Tensor]:
    """For each output the gradient that comes into it.

    Args:
        graded: the outputs.
        seed: equal seeds give equal gradients.
        given: gradients that are to be sent as they are.
        scale: of those into outputs of one element. Where it is not 1, they get theirs alone and larger outputs beside
            them (a model's logits) zeros: what comes from those is larger by far and would hide what comes of a loss.
    """
    alone = scale != 1.0 and any(t.numel() == 1 for t in graded.values())
    return {
        name: _sent(t, seed + k, given.get(name), 0.0 if alone and t.numel() != 1 else scale)
        for k, (name, t) in enumerate(graded.items())
    }


def _sent(output: Tensor, seed: int, given: Tensor | None, scale: float) -> Tensor:
    if given is not None:
        # A copy: a candidate that writes into it would else spoil it for all that are judged after.
        return given.to(output.dtype, copy=True) if given.shape == output.shape else torch.zeros_like(output)
    generator = torch.Generator(output.device).manual_seed(seed)
    if output.numel() == 1:  # never close to zero: a loss is all there is
        drawn = (torch.rand(output.shape, generator=generator, device=output.device) + 0.5) * scale
    elif scale == 0.0:
        return torch.zeros_like(output)
    else:
        drawn = torch.randn(output.shape, generator=generator, device=output.device)
    return drawn.to(output.dtype)
