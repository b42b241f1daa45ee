"""The function that stands as a bound module's forward: the winner for what was measured, the original for all else.

It shows the original's signature, name and documentation. It is bound to the module's record, not to the module (see
:class:`twinkle_tune.kernel.record.Record`); who takes it from there and binds it to the module itself, as accelerate
does, gets the same.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.torch_version import TorchVersion

from twinkle_tune.call.saving import saving_hooks
from twinkle_tune.kernel.measured import Measured, wants_gradients
from twinkle_tune.kernel.parts import unchanged
from twinkle_tune.kernel.record import RECORD, Parts, Record, record_of

Call = Callable[..., Any]
Wrap = Callable[[Call, Call], Call]
_ABSENT = object()
SEES_METHODS = TorchVersion(torch.__version__) >= "2.12"
"""Whether torch.compile sees which function stands at a module as a method of another object. In torch 2.11 it does not
(``findings/``): what is bound later would not run in code compiled before, and what a kernel writes into what it closes
over would be lost."""
_signatures: weakref.WeakKeyDictionary[Any, inspect.Signature | None] = weakref.WeakKeyDictionary()


def bound_forward(call: Call, original: Call, parts: Parts, measured: Measured | None) -> Call:
    """A forward that takes a record (or a module) first.

    Args:
        call: takes the module first.
        original: the class's forward, which gives the signature.
        parts: submodules that must be as they are here; else the class's own forward runs.
        measured: what ``call`` was measured under; None where it is for every call.
    """
    only = _only_parameter(original)
    if measured is not None and measured.dtype is not None:
        made = _for_one_tensor(call, only, parts, measured)
    elif measured is None and only:
        made = _for_one(call, only, parts)
    else:
        made = _for_any(call, parts, measured)
    return dressed(made, original)


def asking(original: Call) -> Call:
    """A forward for where torch.compile does not see methods: it asks its record at each call for the one to run."""

    def of_one(held: Any, x: Any) -> Any:
        run = held.runs if held.__class__ is Record else record_of(held).runs
        return (run or run_original)(held, x)

    def of_any(held: Any, /, *args: Any, **kwargs: Any) -> Any:
        run = held.runs if held.__class__ is Record else record_of(held).runs
        return (run or run_original)(held, *args, **kwargs)

    only = _only_parameter(original)
    return dressed(_with_parameter(of_one, only) if only else of_any, original)


def dressed(made: Call, original: Call) -> Call:
    """The function, with the name, the documentation and the signature of the original."""
    made.__name__, made.__doc__ = "forward", original.__doc__
    made.__qualname__, made.__module__ = getattr(original, "__qualname__", "forward"), original.__module__
    signature = signature_of_forward(original)
    if signature is not None:
        # Not __wrapped__: that is for undoing a wrapping, and accelerate does it.
        made.__signature__ = signature  # type: ignore[attr-defined]
    return made


def signature_of_forward(original: Call) -> inspect.Signature | None:
    """The original's signature, the module first; None where it does not tell."""
    if original not in _signatures:
        try:
            _signatures[original] = inspect.signature(original)
        except (TypeError, ValueError):
            _signatures[original] = None
    return _signatures[original]


def _only_parameter(original: Call) -> str:
    """The name of the one parameter that a forward has beside the module; "" where it has others, or a default."""
    signature = signature_of_forward(original)
    parameters = [] if signature is None else list(signature.parameters.values())[1:]
    if len(parameters) != 1 or parameters[0].kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
        return ""
    return parameters[0].name if parameters[0].default is inspect.Parameter.empty else ""


def _for_one_tensor(call: Call, only: str, parts: Parts, measured: Measured) -> Call:
    """For calls that were measured with one tensor by position.

    The source is generated, so that a call asks no question that was answered when it was bound: all of them together
    cost more than the call of a small function (``make bench`` has the figures). No text from outside is written into
    it. Where the class's forward takes one argument alone, so does this one, under the same name: what Python makes of
    others for each call, a tuple and a dictionary, costs as much as the dearer questions.
    """
    grad, autocast = measured.state.grad, measured.state.autocast
    names: dict[str, Any] = {
        "Record": Record, "Tensor": Tensor, "absent": _ABSENT, "still_bound": _still_bound, "call": call,
        "explain": explain, "run_original": run_original, "dtype": measured.dtype, "wants_gradients": wants_gradients,
        "gradients_are_on": torch.is_grad_enabled, "is_run_again": is_run_again, "unchanged": unchanged,
        # Asks for every device at once, in a third of the time that asking for one takes.
        "autocast_is_on": torch._C._is_any_autocast_enabled, "autocast_dtype_of": torch.get_autocast_dtype,
        "autocast_dtype": getattr(torch, autocast) if autocast else None, "parts": parts,
        "weight": measured.weight, "weight_dtype": measured.weight_dtype,
    }  # fmt: skip
    tests = [
        *([] if only else ["not kwargs and not more"]),
        "self is not None and isinstance(x, Tensor) and x.dtype is dtype",
        "gradients_are_on()" if grad else "(not gradients_are_on() or not wants_gradients(self, (x,)))",
        f"autocast_is_on() is {bool(autocast)}",
        *(["autocast_dtype_of(x.device.type) is autocast_dtype"] if autocast else []),
        *(["getattr(self._parameters.get(weight), 'dtype', None) is weight_dtype"] if measured.weight else []),
        *(["unchanged(self, parts)"] if parts else []),
        *(["not is_run_again()"] if grad else []),
    ]
    lines = [
        f"def forward(held, x{'' if only else '=absent, /, *more, **kwargs'}):",
        "    self = held.module() if held.__class__ is Record else still_bound(held)",
        f"    if {' and '.join(tests)}:",
        "        try:",
        "            return call(self, x)",
        "        except Exception as error:",
        "            explain(error, self)",
        "            raise",
        f"    return run_original(held, {'x' if only else '*(() if x is absent else (x,)), *more, **kwargs'})",
    ]
    exec(compile("\n".join(lines), "<twinkle_tune forward>", "exec"), names)
    return _with_parameter(names["forward"], only)


def _for_one(call: Call, only: str, parts: Parts) -> Call:
    def forward(held: Any, x: Any) -> Any:
        self = held.module() if held.__class__ is Record else _still_bound(held)
        if self is None or (parts and not unchanged(self, parts)):
            return run_original(held, x)
        try:
            return call(self, x)
        except Exception as error:
            explain(error, self)
            raise

    return _with_parameter(forward, only)


def _with_parameter(forward: Any, name: str) -> Call:
    """A function of a record and ``x`` whose second parameter has another name; "" for the same."""
    code = forward.__code__
    if name and name not in code.co_varnames:
        forward.__code__ = code.replace(co_varnames=(code.co_varnames[0], name, *code.co_varnames[2:]))
    made: Call = forward
    return made


def _for_any(call: Call, parts: Parts, measured: Measured | None) -> Call:
    fits = None if measured is None else measured.fits()
    grad = measured is not None and measured.state.grad

    def forward(held: Any, /, *args: Any, **kwargs: Any) -> Any:
        self = held.module() if held.__class__ is Record else _still_bound(held)
        if (
            self is None
            or (parts and not unchanged(self, parts))
            or (fits is not None and not fits(self, args, kwargs))
            or (grad and is_run_again())
        ):
            return run_original(held, *args, **kwargs)
        try:
            return call(self, *args, **kwargs)
        except Exception as error:
            explain(error, self)
            raise

    return forward


def _still_bound(module: nn.Module) -> nn.Module | None:
    # Another library took the function and binds it to the module itself, also after it was restored.
    return module if RECORD in module.__dict__ else None


def run_original(held: Any, /, *args: Any, **kwargs: Any) -> Any:
    """The forward of the module's class, of a record or the module itself."""
    module = held.module() if held.__class__ is Record else held
    if module is None:
        raise ReferenceError("the module of this forward is gone; keep the model, not its forward alone")
    return type(module).forward(module, *args, **kwargs)


def is_run_again() -> bool:
    """Whether a region of reentrant checkpointing is being run again: it ran without gradients the first time.

    What was measured with gradients alone was the original's then, and is the original's now. The other way of
    checkpointing, which saves by hooks, has gradients on both times.
    """
    return torch._C._current_graph_task_id() != -1 and saving_hooks(True) is None


def explain(error: Exception, module: nn.Module) -> None:
    """Note at an error out of a bound kernel where it comes from, and what to do; once."""
    try:
        binding = record_of(module).binding
        if binding is not None:
            note(error, f"{binding.slot} {binding.path}".rstrip(), binding.candidate)
    except RecursionError:
        pass  # No room left to say it down here: a caller further up has some.


def note(error: Exception, slot: str, candidate: str) -> None:
    """Note at an error that a kernel was running, and what to do; once an error."""
    if not any(known.startswith("twinkle_tune: ") for known in getattr(error, "__notes__", ())):
        error.add_note(
            f"twinkle_tune: raised in {slot}, where the kernel {candidate!r} is bound in place of the original; "
            "restore_model(model) puts the originals back"
        )


def _for_several(entries: tuple[tuple[Call, Measured], ...], parts: Parts) -> Call:
    fitting = tuple((call, measured.fits()) for call, measured in entries)

    def forward(held: Any, /, *args: Any, **kwargs: Any) -> Any:
        self = held.module() if held.__class__ is Record else _still_bound(held)
        if self is not None and (not parts or unchanged(self, parts)):
            for call, fits in fitting:
                if fits(self, args, kwargs):
                    try:
                        return call(self, *args, **kwargs)
                    except Exception as error:
                        explain(error, self)
                        raise
        return run_original(held, *args, **kwargs)

    return forward


class Winner:
    """Calls that take the module first, each with what it was measured under; for all else the original.

    Its forwards are made once for all layers that are alike, and every time that it is bound: torch.compile, which
    compares functions, does not compile anew.
    """

    def __init__(self, *entries: tuple[Call, Measured]) -> None:
        self.entries = entries
        self._made: dict[tuple[Parts, Wrap | None], Call] = {}

    def forward(self, original: Call, parts: Parts, wrap: Wrap | None = None) -> Call:
        """As :func:`bound_forward`, of a class; ``wrap`` makes another forward of it and of ``original``."""
        if (parts, wrap) not in self._made:
            made = (
                bound_forward(self.entries[0][0], original, parts, self.entries[0][1])
                if len(self.entries) == 1
                else dressed(_for_several(self.entries, parts), original)
            )
            self._made[parts, wrap] = made if wrap is None else wrap(made, original)
        return self._made[parts, wrap]

    def why_not(self, module: nn.Module) -> str:
        """Why no call of the module runs a winner any more; "" where one may."""
        reasons = [
            measured.why_not(module) or getattr(call, "why_not", lambda module: "")(module)
            for call, measured in self.entries
        ]
        return reasons[0] if all(reasons) else ""

    def __call__(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """As a bound forward."""
        return self.forward(type(module).forward, ())(module, *args, **kwargs)
