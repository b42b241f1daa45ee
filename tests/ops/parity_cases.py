"""``python -m tests.ops.parity_cases OP``: every dtype, variant and odd shape of an op, by the full parity rule.

With ``--today`` a twelfth of them, another one each day.

Original is the op's formula in plain torch, whose own reference the judge computes in float64.
"""

from __future__ import annotations

import itertools
import mmap
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tests.ops.interpreter import Case, main
from tests.ops.sizes import SIZES
from tests.today import of_today
from twinkle_tune.ops.all import op_named
from twinkle_tune.ops.op import Op
from twinkle_tune.ops.space import Config, Dims
from twinkle_tune.testing import assert_parity

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Not the judge's: it draws incoming gradients from seed 0, and those would be the inputs once more.
_SEED = 17


def cases(op: Op, device: str = "cpu") -> Iterator[Case]:
    """The claims that are held for an op. The device is asked for nothing before one of them is called."""
    holds = partial(_holds, op, device=device)
    sizes = SIZES[op.name]
    for variant in op.variants:
        for dtype in DTYPES:
            yield f"{variant or 'plain'} {dtype} {sizes.usual}", partial(holds, sizes.usual, dtype, variant)
    # Shapes and configs take turns with the variants and dtypes: each of them is met, not each pair.
    turns = itertools.cycle(itertools.product(DTYPES, op.variants))
    for dims in sizes.odd:
        for dtype, variant in itertools.islice(turns, 2):
            yield f"{variant or 'plain'} {dtype} {dims}", partial(holds, dims, dtype, variant)
    for dims, config in sizes.configs(op):
        for dtype, variant in itertools.islice(turns, 2):
            what = f"{variant or 'plain'} {dtype} {dims} {config}"
            yield what, partial(holds, dims, dtype, variant, config=config)
    if sizes.far is not None and device == "cpu":
        yield "rows far apart", partial(_reaches_far, op, sizes.far)
    for dims in sizes.tiny:
        for variant in op.variants:
            yield f"{variant or 'plain'} {dims}", partial(_agrees, op, dims, variant, device)
    for index, x in enumerate(op.inputs(sizes.usual, torch.float32, "cpu", _SEED, "")):
        if isinstance(x, Tensor) and x.requires_grad:
            yield f"input {index} alone graded", partial(_agrees, op, sizes.usual, "", device, index)
    for layout in (_gaps, _batched, _transposed) if sizes.batched else (_gaps, _transposed):
        yield f"layout {layout.__name__}", partial(holds, sizes.usual, torch.float32, "", layout=layout)


def _holds(
    op: Op,
    dims: Dims,
    dtype: torch.dtype,
    variant: str,
    *,
    device: str,
    config: Config | None = None,
    layout: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """The op, forward and backward, against its formula."""
    settings = dict(op.variants[variant])
    inputs = op.inputs(dims, dtype, device, _SEED, variant)
    if layout is not None:
        inputs = tuple(_laid_out(x, inputs[0].shape, layout) for x in inputs)

    def ours(*args: Any) -> Any:
        return op.apply(*args, config=config, **settings)

    def formula(*args: Any) -> Any:
        return op.reference(*args, **settings)

    # All that has a gradient in the made-up inputs is compared; one draw of each kind of values is enough here.
    assert_parity(ours, formula, *inputs, mode="train", seeds=1)


def _agrees(op: Op, dims: Dims, variant: str, device: str, graded: int | None = None) -> None:
    """Equal results and gradients in float32: for sizes at which there is too little to judge (one column).

    With ``graded`` only that input wants a gradient, as where weights are frozen.
    """
    settings = op.variants[variant]
    sides = []
    for function in (op.apply, op.reference):
        inputs = op.inputs(dims, torch.float32, device, _SEED, variant)
        for index, x in enumerate(inputs):
            if graded is not None and index != graded and isinstance(x, Tensor):
                x.requires_grad_(False)
        output = function(*inputs, **settings)
        outputs = output if isinstance(output, tuple) else (output,)
        differentiable = [each for each in outputs if each.requires_grad]
        torch.autograd.backward(differentiable, [torch.full_like(each, 0.5) for each in differentiable])
        sides.append((outputs, [x.grad for x in inputs if isinstance(x, Tensor) and x.requires_grad]))
    torch.testing.assert_close(*sides)


def _reaches_far(op: Op, dims: Dims) -> None:
    """Rows 2^30 elements apart, so that offsets pass 2^31: results and gradients as from rows side by side."""
    inputs = op.inputs(dims, torch.float16, "cpu", _SEED, "")
    shape = inputs[0].shape
    far = tuple(_far_apart(x) if isinstance(x, Tensor) and x.shape == shape else x for x in inputs)
    sides = []
    for given in (inputs, far):
        output = op.apply(*given)
        outputs = output if isinstance(output, tuple) else (output,)
        wanted = [x for x in given if isinstance(x, Tensor) and x.requires_grad]
        sides.append((outputs, torch.autograd.grad(outputs, wanted, [torch.full_like(each, 0.5) for each in outputs])))
    torch.testing.assert_close(*sides)


def _far_apart(x: Tensor) -> Tensor:
    """The rows in a file with holes between them, which take no memory."""
    size = ((x.shape[0] - 1) * 2**30 + x.shape[1]) * x.element_size()
    with tempfile.TemporaryFile() as file:
        file.truncate(size)
        memory = mmap.mmap(file.fileno(), size)
    far = torch.frombuffer(memory, dtype=x.dtype).as_strided(x.shape, (2**30, 1))
    return far.copy_(x.detach()).requires_grad_()


def _laid_out(x: Any, shape: torch.Size, layout: Callable[[Tensor], Tensor]) -> Any:
    """Of the inputs those that are shaped as the first."""
    if not isinstance(x, Tensor) or x.shape != shape:
        return x
    return layout(x.detach()).requires_grad_(x.requires_grad)


def _gaps(x: Tensor) -> Tensor:
    """Rows with gaps between them."""
    wide = x.new_zeros(*x.shape[:-1], x.shape[-1] + 5)
    wide[..., :-5] = x
    return wide[..., :-5]


def _batched(x: Tensor) -> Tensor:
    """Leading dimensions that cannot be one: a transposed batch."""
    rows = x.shape[0] // 2 * 2
    return x[:rows].reshape(2, -1, *x.shape[1:]).transpose(0, 1)


def _transposed(x: Tensor) -> Tensor:
    """A last dimension that is not dense."""
    return x.t().contiguous().t() if x.dim() == 2 else x.transpose(-1, -2).contiguous().transpose(-1, -2)


if __name__ == "__main__":
    found = cases(op_named(sys.argv[1]))
    sys.exit(main(of_today(found, 12) if "--today" in sys.argv else found))
