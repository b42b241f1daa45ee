"""Whether a loaded class or function can stand in a slot: checked by form, before anything of it is run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from twinkle_tune.errors import SignatureError
from twinkle_tune.slot import Implementation, Slot
from twinkle_tune.source.layout import Children, in_layout, in_place_of, layout_of
from twinkle_tune.source.named import named_as

_FLAGS = {"has_backward", "can_torch_compile", "kernel_layer_name", "kernel_condition"}
"""Members that a layer may have: what it says of itself, and what a parent that is named for kernels carries."""


def implementation_of(loaded: object, slot: Slot, original: Callable[..., Any], what: str) -> Implementation:
    """The implementation that a loaded object is.

    A layer is a class without a constructor of its own (its ``forward`` is run with the *original's* instance as
    ``self``), or a function that takes the module first. A function is any callable, or a module class that is
    made without arguments. Beside a layer may be its layout (:mod:`twinkle_tune.source.layout`), which has one.

    Args:
        what: how messages name it ("layer Fast of /path/my_kernels").

    Raises:
        SignatureError: it cannot take the original's place.
    """
    call = _forward_of(loaded, what) if slot.kind.takes_module else _function_of(loaded, what)
    layout = layout_of(loaded) if slot.kind.takes_module else None
    if isinstance(original, Children):
        return _converted(in_place_of(loaded, layout, original, what), loaded)
    _check_signature(call, original, slot, what)
    # A method's object comes by position, too.
    is_bound_later = slot.kind.takes_module or "." in slot.target.partition(":")[2]
    if layout is not None:
        return _converted(named_as(in_layout(loaded, layout, what), original, skip=1), loaded)
    return Implementation(
        call=named_as(call, original, skip=int(is_bound_later)),
        has_backward=bool(getattr(loaded, "has_backward", True)),
        can_torch_compile=bool(getattr(loaded, "can_torch_compile", True)),
    )


def _converted(call: Callable[..., Any], loaded: object) -> Implementation:
    """Of a kernel that reads weights in another layout. Nobody has tried to compile its conversion."""
    return Implementation(
        call=call, has_backward=bool(getattr(loaded, "has_backward", True)), can_torch_compile=False, converts=True
    )


def _forward_of(loaded: object, what: str) -> Callable[..., Any]:
    if not isinstance(loaded, type):
        if callable(loaded) and not isinstance(loaded, nn.Module):
            return loaded
        raise SignatureError(f"{what}: got {type(loaded).__name__}, expected an nn.Module class; pass the class itself")
    if not issubclass(loaded, nn.Module):
        raise SignatureError(f"{what}: got a class that is no nn.Module; derive it from torch.nn.Module")
    if loaded.__init__ is not nn.Module.__init__:
        raise SignatureError(
            f"{what}: it has its own constructor, expected none: its forward runs with the original layer as self, "
            "so the constructor would never be called; read what is needed from self in forward"
        )
    # Of nn.Module as it is now: transformers adds members to it.
    extra = sorted(name for name in set(dir(loaded)) - set(dir(nn.Module)) - _FLAGS if not name.startswith("__"))
    if extra:
        raise SignatureError(
            f"{what}: it has members of its own ({', '.join(extra)}), expected only forward: its forward runs with "
            "the original layer as self, which lacks them; make them functions outside the class"
        )
    return loaded.forward


def _function_of(loaded: object, what: str) -> Callable[..., Any]:
    if isinstance(loaded, type) and issubclass(loaded, nn.Module):
        try:
            loaded = loaded()
        except TypeError as error:
            raise SignatureError(
                f"{what}: its constructor takes arguments ({error}), expected none; make it without a constructor"
            ) from error
    if not callable(loaded):
        raise SignatureError(f"{what}: got {type(loaded).__name__}, expected a function or another callable")
    return loaded


def _check_signature(call: Callable[..., Any], original: Callable[..., Any], slot: Slot, what: str) -> None:
    ours, theirs = _parameters(call), _parameters(original)
    if ours is None or theirs is None:
        return
    kinds = {parameter.kind for parameter in ours}
    if inspect.Parameter.VAR_POSITIONAL in kinds and inspect.Parameter.VAR_KEYWORD in kinds:
        return
    if _form(ours) != _form(theirs) or _required(ours) > _required(theirs):
        raise SignatureError(
            f"{what}: its signature is {_text(ours)}, expected that of {slot.target}, {_text(theirs)}; "
            "take the same parameters in the same order"
        )


def _form(parameters: list[inspect.Parameter]) -> list[tuple[object, str]]:
    # A positional argument may have another name: it is given the original's.
    return [(p.kind, p.name if p.kind is p.KEYWORD_ONLY else "") for p in parameters]


def _required(parameters: list[inspect.Parameter]) -> int:
    named = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return sum(p.default is p.empty and p.kind not in named for p in parameters)


def _parameters(call: Callable[..., Any]) -> list[inspect.Parameter] | None:
    """Parameters of a callable; None where it does not tell (a builtin)."""
    inner = call.forward if isinstance(call, nn.Module) else call
    try:
        return list(inspect.signature(inner).parameters.values())
    except (ValueError, TypeError):
        return None


def _text(parameters: list[inspect.Parameter]) -> str:
    return str(inspect.Signature([p.replace(annotation=p.empty) for p in parameters]))
