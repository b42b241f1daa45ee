"""One assertion for kernel authors: the judge of a profiling run, with a message that shows where and by how much."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.func import functional_call

from twinkle_tune.call.arguments import Call, map_tensors, named_tensors, snapshot
from twinkle_tune.mode import Mode, parse_mode
from twinkle_tune.parity.calls import kin_calls, parity_calls
from twinkle_tune.parity.check import Judge
from twinkle_tune.parity.verdict import Inconclusive, Pass, Reject, Strictness
from twinkle_tune.slot import Slot, SlotKind
from twinkle_tune.source.fit import implementation_of

_HINTS = {
    2: "all of it is off: look at constants (eps, scale), a forgotten weight or bias, the dtype of the accumulator",
    3: "one slice is off: look at the last block, its mask, and the index of rows, heads or columns",
    4: "single elements are off: look at boundaries between blocks, races between writers, and extreme inputs",
    5: "what is small is off: look for an approximation (tanh for erf), a wrong small constant, or a sum that "
    "cancels in low precision",
    7: "allocate the output in every call: a buffer that is kept is lost to the first caller at the second call",
}

_TOO_NEW_A_NUMPY = "only 0-dimensional arrays can be converted to Python scalars"
"""What numpy from 2.4 on says to the interpreter of Triton 3.6, for a loop with a bound that is an argument."""


def assert_parity(
    candidate: Callable[..., Any] | type[nn.Module],
    original: Callable[..., Any] | type[nn.Module],
    *inputs: Any,
    mode: str | Mode = Mode.INFERENCE,
    strictness: Strictness = "normal",
    module: nn.Module | None = None,
    seeds: int = 3,
    **kwargs: Any,
) -> None:
    """Fail unless ``candidate`` computes what ``original`` computes, by the rule of docs/how-we-check.md.

    The inputs are one example of a call. The judge makes others from it: for each seed new values of the same mean
    and spread, outlier channels and tiny values; one row less; gaps between rows. Nothing that is passed in is
    changed.

    Args:
        candidate: a function; or a layer. A layer's class is called with the original's module as ``self``, as in
            a profiling run, and like there it has no constructor of its own; an instance runs with the original's
            parameters and buffers in place of its own of the same names. With ``module`` (or an original that is a
            layer) a function takes the module first.
        original: a function, a layer, or with ``module`` a layer's class or unbound ``forward``.
        inputs: positional arguments of the call, tensors of any shape, dtype and device among them.
        mode: "inference", "train", "compile" or "train+compile". When training, gradients of the inputs and of the
            parameters are compared; if none of the inputs requires a gradient, all floating ones get one. When
            compiling, the candidate is judged under torch.compile.
        strictness: under "strict", point 5 (by magnitude) refuses as well.
        module: the layer that ``original`` is called with.
        seeds: how many draws of each kind of input.
        kwargs: keyword arguments of the call.

    Raises:
        AssertionError: the candidate is wrong, or the inputs cannot tell (inconclusive); the message says where.
        ValueError, TypeError: the arguments make no call, or the candidate declares that it is not for this mode;
            says which and what to pass.
        ModeError: there is no such mode.
        SignatureError: the candidate cannot take the original's place, so that a run would refuse it.
        Exception: whatever original or candidate raise.
    """
    __tracebackhide__ = True
    wanted = parse_mode(mode)
    if seeds < 1:
        raise ValueError(f"seeds: got {seeds}, expected at least 1")
    layer, reference = _original(original, module)
    judged = _candidate(candidate, layer, reference, wanted)
    _no_tolerances(kwargs, reference)
    call = _call(inputs, kwargs, wanted)
    judge = Judge(
        reference,
        parity_calls(call, 0, seeds),
        module=layer,
        trains=wanted.trains,
        kin=kin_calls(call, 0),
        strictness=strictness,
    )
    run = torch.compile(judged) if wanted.compiles else judged
    try:
        verdict = judge.judge(run, for_kin=judged)
    except Exception as error:
        if _TOO_NEW_A_NUMPY in str(error):
            error.add_note("Triton 3.6's interpreter does not run with numpy 2.4 or newer: pip install 'numpy<2.4'")
        if not isinstance(error, RuntimeError) or "active drivers" not in str(error):
            raise
        raise RuntimeError(
            f"{_name(candidate)}: Triton finds no GPU driver here ({error}); set TRITON_INTERPRET=1 before Triton is "
            "imported, so that its interpreter runs the kernel on the CPU"
        ) from error
    if not isinstance(verdict, Pass):
        raise AssertionError(_message(_name(candidate), _name(original), wanted, strictness, verdict))


def _no_tolerances(kwargs: dict[str, Any], original: Callable[..., Any]) -> None:
    """They would be passed on to the original, whose error says nothing of what is meant."""
    given = sorted({"rtol", "atol"} & kwargs.keys())
    try:
        taken = set(inspect.signature(original).parameters)
    except (ValueError, TypeError):
        taken = set()
    if set(given) - taken:
        raise TypeError(
            f"{', '.join(given)}: there is no tolerance to choose: a candidate may be about as far from the exact "
            'result as the original is in this dtype; leave it out, or ask for strictness="strict"'
        )


def _original(
    original: Callable[..., Any] | type[nn.Module], module: nn.Module | None
) -> tuple[nn.Module | None, Callable[..., Any]]:
    """The layer that the call is made with, and the function that takes it first."""
    if isinstance(original, nn.Module):
        if module is not None and module is not original:
            raise ValueError("module: got a second layer, expected none where the original is a layer; leave it out")
        return original, type(original).forward
    if _is_layer_class(original):
        if module is None:
            raise TypeError(
                f"original: got the class {_name(original)}, expected an instance; pass {_name(original)}(...) or "
                "give the instance as module="
            )
        return module, original.forward
    return module, original


def _as_registered(candidate: Any, original: Callable[..., Any], kind: SlotKind, mode: Mode) -> Callable[..., Any]:
    """What a run would call, by the rules by which a run takes or refuses it."""
    target = f"{getattr(original, '__module__', '')}:{_name(original)}"
    slot = Slot(name=_name(original), kind=kind, target=target)
    loaded = implementation_of(candidate, slot, original, f"candidate {_name(candidate)}")
    if unfit := loaded.unfit_for(mode):
        raise ValueError(f"candidate: {unfit}, where a run leaves it out; test it in a mode that it is for")
    return loaded.call


def _candidate(
    candidate: Callable[..., Any] | type[nn.Module],
    layer: nn.Module | None,
    original: Callable[..., Any],
    mode: Mode,
) -> Callable[..., Any]:
    if _is_layer_class(candidate):
        if layer is None:
            raise TypeError(
                f"candidate: got the class {_name(candidate)} for an original that is a function, expected a "
                "function; pass its instance"
            )
        return _as_registered(candidate, original, SlotKind.LAYER, mode)
    if not isinstance(candidate, nn.Module) or layer is None:
        kind = SlotKind.FUNCTION if layer is None else SlotKind.LAYER
        return _as_registered(candidate, original, kind, mode)
    own, given = (dict(_state(each)) for each in (candidate, layer))
    if own.keys() - given.keys():
        raise ValueError(
            f"candidate: its parameters and buffers {sorted(own.keys() - given.keys())} are none of the original's "
            f"({sorted(given)}), so it cannot be run with the same values; name them alike, or pass a function "
            "that takes the original's module first"
        )

    def with_the_original_s_state(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        state = {name: tensor for name, tensor in _state(module) if name in own}
        return functional_call(candidate, state, args, kwargs)

    return with_the_original_s_state


def _call(inputs: tuple[Any, ...], kwargs: dict[str, Any], mode: Mode) -> Call:
    call = snapshot(inputs, kwargs)
    tensors = [tensor for _, tensor in named_tensors(call)]
    if not tensors:
        raise ValueError("inputs: got no tensor, expected at least one; pass the arguments of one call")
    if not mode.trains or any(tensor.requires_grad for tensor in tensors):
        return call

    def graded(tensor: Tensor) -> Tensor:
        return tensor.requires_grad_() if tensor.is_floating_point() else tensor

    return Call(args=map_tensors(graded, call.args), kwargs=map_tensors(graded, dict(call.kwargs)))


def _message(candidate: str, original: str, mode: Mode, strictness: str, verdict: Reject | Inconclusive) -> str:
    head = f"{candidate} against {original} (mode {mode}, {strictness})"
    if isinstance(verdict, Inconclusive):
        return (
            f"{head}: inconclusive, which is no pass\n"
            f"  why:    {verdict.reason}\n"
            "  hint:   pass larger inputs with varied values, of the magnitudes that the model has"
        )
    lines = [
        f"{head}: refused by point {verdict.point}",
        f"  tensor: {verdict.tensor}",
        f"  where:  {verdict.where or 'the call as a whole'}",
        f"  error:  {verdict.error:.4g}, limit {verdict.limit:.4g}",
        f"  why:    {verdict.reason}",
    ]
    # What is wrong with the form of a result, its reason says by itself.
    lines += [f"  hint:   {_HINTS[verdict.point]}"] if verdict.point in _HINTS else []
    return "\n".join(lines)


def _state(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def _is_layer_class(value: object) -> TypeGuard[type[nn.Module]]:
    return inspect.isclass(value) and issubclass(value, nn.Module)


def _name(value: object) -> str:
    return getattr(value, "__qualname__", type(value).__qualname__)
