"""The original in float64: the truth that both the original and its rivals are measured against."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from twinkle_tune.call.arguments import Call, map_tensors
from twinkle_tune.errors import TuneError
from twinkle_tune.parity.run import Run, Subject, execute

_CASTS = frozenset({"float", "half", "bfloat16", "double"})
_WIDE = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex32: torch.complex128,
    torch.complex64: torch.complex128,
}


_FAR = 0.5
"""Of the size of the original's own outputs; half precision came to a few percent in the worst layers met."""


class NoReferenceError(TuneError):
    """There is nothing more precise than the original's own result to hold rivals against."""


class Float64Mode(TorchFunctionMode):
    """While active, torch computes floating tensors in float64 whatever the code asks for.

    ``.float()``, ``.half()``, ``.bfloat16()``, ``.type_as(x)``, ``.to(...)`` and ``dtype=...`` arguments
    of any function give float64, and floating tensors that come from outside (a constant in a closure) are
    widened where they are used. Autocast leaves float64 tensors alone by itself. Not reached: what is not
    torch (NumPy, a compiled kernel), and the backward of a hand-written ``autograd.Function``.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = getattr(func, "__name__", "")
        given = dict(kwargs or {})
        if name in ("__get__", "__set__"):
            return func(*args, **given)
        if name in _CASTS and args and isinstance(args[0], Tensor):
            return args[0].to(_wide_dtype(torch.float32))
        if name in ("to", "type_as") and len(args) > 1 and isinstance(args[1], Tensor):
            return args[0].to(args[1].device, _wide_dtype(args[1].dtype))
        target = args[:1] if name.endswith("_") and not name.endswith("__") else ()
        rest = tuple(_widened(value) for value in args[len(target) :])
        return func(*target, *rest, **{k: v if k == "out" else _widened(v) for k, v in given.items()})


def references(
    original: Callable[..., Any],
    calls: Sequence[Call],
    baselines: Sequence[Run],
    *,
    module: nn.Module | None,
    trains: bool,
    seed: int,
) -> tuple[list[Run], str]:
    """The original on each call as precisely as it can be had, with the incoming gradients of ``baselines``.

    Returns:
        The runs, and "" or why they are not in float64: then they are in float32, or where that is no gain or
        fails as well, the baselines themselves. The comparison sees it by the dtype. Results that lie far from the
        baselines are no reference: a layer whose kernel knows one dtype may return memory that nobody wrote.

    Raises:
        NoReferenceError: half-precision results lie far from those in a wider dtype, and no other is to be had.
    """
    note, is_far = "", False
    for dtype, around in ((torch.float64, float64), (torch.float32, nullcontext)):
        if dtype is torch.float32 and not any(_is_half(t) for run in baselines for t in run.tensors.values()):
            break
        try:
            runs = _precise(original, calls, baselines, dtype, around, module, trains=trains, seed=seed)
        # Any error may come of a dtype that the original's author never thought of; the original itself ran.
        except Exception as error:
            text = f"{type(error).__name__}: {str(error).strip()[:200]}"
            note = note or f"the original cannot be run in float64 ({text})"
            continue
        how = next(filter(None, (far(run, baseline) for run, baseline in zip(runs, baselines, strict=True))), "")
        if not how:
            return runs, note
        name, is_far = str(dtype).removeprefix("torch."), True
        note = note or f"the original in {name} is no reference for the original in its own dtype: {how}"
    if is_far and any(_is_half(t) for run in baselines for t in run.outputs.values()):
        raise NoReferenceError(f"{note}, nor is there one in float32")
    return list(baselines), note


def far(run: Run, baseline: Run) -> str:
    """How the outputs of a run lie too far from a baseline's for one to be a rounding of the other; "" if they do not.

    Over all outputs together, for a single one may be nothing but rounding. Few infinite values do not count.
    """
    apart = size = 0.0
    for name, output in baseline.outputs.items():
        if not output.is_floating_point() or not output.numel():
            continue
        right, found = output.detach().double(), run.outputs[name].detach().double()
        usable = torch.isfinite(right) & torch.isfinite(found)
        if 2 * int(usable.sum()) < int(torch.isfinite(right).sum()):
            return f"most of {name} is not finite"
        apart = math.hypot(apart, float(torch.linalg.vector_norm((found - right)[usable])))
        size = math.hypot(size, float(torch.linalg.vector_norm(right[usable])))
    if apart <= _FAR * size:
        return ""
    return f"their outputs lie {apart:.3g} apart, which is more than {_FAR:g} of the size of the latter ({size:.3g})"


def _precise(
    original: Callable[..., Any],
    calls: Sequence[Call],
    baselines: Sequence[Run],
    dtype: torch.dtype,
    around: Callable[[], AbstractContextManager[Any]],
    module: nn.Module | None,
    *,
    trains: bool,
    seed: int,
) -> list[Run]:
    target = copy.deepcopy(original).to(dtype) if isinstance(original, nn.Module) else original

    def function(*args: Any, **kwargs: Any) -> Any:
        with around():
            return target(*args, **kwargs)

    wide = None if module is None else copy.deepcopy(module).to(dtype)
    subject = None if wide is None else Subject.of(wide, wide)
    runs = []
    for call, baseline in zip(calls, baselines, strict=True):
        given = widen(call, dtype)
        run = execute(function, given, subject=subject, trains=trains, seed=seed, incoming=baseline.incoming)
        for name, tensor in baseline.tensors.items():
            if name not in run.tensors or run.tensors[name].shape != tensor.shape:
                raise TypeError(f"in {dtype} it gives no {name} of shape {list(tensor.shape)}")
        runs.append(run)
    return runs


def widen(call: Call, dtype: torch.dtype = torch.float64) -> Call:
    """The call with its floating tensors in at least ``dtype``; they require a gradient where they did."""
    memo: dict[int, Tensor] = {}

    def once(tensor: Tensor) -> Tensor:
        if id(tensor) not in memo:
            wide = torch.promote_types(tensor.dtype, dtype) if tensor.dtype in _WIDE else tensor.dtype
            memo[id(tensor)] = tensor.detach().to(wide).requires_grad_(tensor.requires_grad)
        return memo[id(tensor)]

    return Call(args=map_tensors(once, call.args), kwargs=map_tensors(once, dict(call.kwargs)))


def _is_half(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.element_size() < 4


@contextmanager
def float64() -> Iterator[None]:
    """:class:`Float64Mode`, with float64 as the default dtype of tensors made from Python numbers."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with Float64Mode():
            yield
    finally:
        torch.set_default_dtype(before)


def _wide_dtype(dtype: torch.dtype) -> torch.dtype:
    return _WIDE.get(dtype, dtype)


def _widened(value: Any) -> Any:
    if isinstance(value, torch.dtype):
        return _wide_dtype(value)
    if isinstance(value, Tensor):
        return value.to(_wide_dtype(value.dtype)) if value.dtype in _WIDE else value
    if type(value) in (tuple, list):
        return type(value)(_widened(item) for item in value)
    return value
