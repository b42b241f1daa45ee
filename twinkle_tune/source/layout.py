"""Kernels that read weights in another layout: a class ``{Name}Layout`` beside the kernel's, as transformers has it.

A layout has a constructor, which says what the kernel's ``self`` holds, and ``conversion_mapping``, which says what its
weights are made of. The layer here keeps its own parameters, under their names. What the kernel's ``self`` is stands in
for the layer in one call and is made anew for the next: its weights of the layer's as they are now, its settings and
all other children the layer's own. So gradients are the kernel's, whatever becomes of the layer counts, threads share
nothing, and there is nothing to undo.

Of the constructor only the form is kept: which weights stand where. A setting that it alone has is refused, for a
change of the layer's would not reach it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from twinkle_tune.errors import SignatureError
from twinkle_tune.source.chain import why_no_chain
from twinkle_tune.source.stand_in import Form, Parts, form_of, weights_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Children:
    """Children of a layer, one after another, that one kernel stands for; the layer's forward runs around them.

    It is given to a source in the place of the original that is to be replaced.

    Attributes:
        names: of the children, in their order.
        forward: the layer's own.
    """

    names: tuple[str, ...]
    forward: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's own forward."""
        return self.forward(*args, **kwargs)


def layout_of(kernel: object) -> type[nn.Module] | None:
    """The layout of a kernel class: of its name and "Layout", in the same module; None where there is none."""
    if not isinstance(kernel, type):
        return None
    found = getattr(sys.modules.get(kernel.__module__), f"{kernel.__name__}Layout", None)
    return found if isinstance(found, type) and issubclass(found, nn.Module) else None


def in_layout(kernel: Any, layout: type[nn.Module], what: str) -> Callable[..., Any]:
    """The forward of a kernel for a layer whose weights are in the layout that the model came with.

    It raises a SignatureError, before anything ran, for a layer that the layout does not fit.
    """
    forms: WeakKeyDictionary[nn.Module, Form] = WeakKeyDictionary()

    def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        parts = {"": module}
        if module not in forms:
            forms[module] = form_of(kernel, layout, _arguments(layout, module), parts, what)
        return kernel.forward(forms[module].stand_in(parts, forms[module].weights(parts)), *args, **kwargs)

    forward.__signature__ = inspect.signature(kernel.forward)  # type: ignore[attr-defined]
    return forward


def in_place_of(kernel: Any, layout: type[nn.Module] | None, children: Children, what: str) -> Callable[..., Any]:
    """The forward of a layer in which a kernel stands for several of its children: the first one's place is its own.

    It raises a SignatureError, before anything ran, for a layer that the layout does not fit, or whose forward does
    more than read from its ``self`` and run the children one after another.
    """
    if layout is None:
        raise SignatureError(
            f"{what}: there is no class {kernel.__name__}Layout beside it, expected one: its constructor takes the "
            f"modules {', '.join(children.names)}, and says what the kernel holds of them"
        )
    first, *others = children.names
    forms: WeakKeyDictionary[nn.Module, Form] = WeakKeyDictionary()

    def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        parts = _parts(module, children.names, what)
        if module not in forms:
            if why := why_no_chain(children.forward, type(module), children.names):
                raise SignatureError(f"{what}: {type(module).__name__}'s forward {why}")
            forms[module] = form_of(kernel, layout, list(parts.values()), parts, what)
        form = forms[module]
        form.weights(parts)  # raises where they do not fit: once the layer's forward runs it is too late
        # The layer itself is not touched: another thread may be in it.
        twin = object.__new__(type(module))
        twin.__dict__ = {**module.__dict__, "_modules": {**module._modules, first: _Caller(kernel, form, parts)}}
        twin._modules |= {name: nn.Identity() for name in others}
        return children.forward(twin, *args, **kwargs)

    return forward


def or_original(call: Callable[..., Any]) -> Callable[..., Any]:
    """A converting kernel as it is bound: for a layer that it does not fit (any more) the original runs.

    So it does while the model is traced or compiled, which nobody has tried.
    """
    reasons: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()

    def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
            return type(module).forward(module, *args, **kwargs)
        try:
            result = call(module, *args, **kwargs)
        except SignatureError as error:
            reasons[module] = f"{error}: the original runs"
        else:
            if reasons:
                reasons.pop(module, None)
            return result
        return type(module).forward(module, *args, **kwargs)

    forward.why_not = lambda module: reasons.get(module, "")  # type: ignore[attr-defined]
    return forward


class _Caller(nn.Module):
    """Stands among the children of a layer's twin, and runs the kernel with the layer's weights."""

    def __init__(self, kernel: Any, form: Form, parts: Parts) -> None:
        super().__init__()
        self.__dict__["_run"] = kernel, form, parts  # no children of it

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        # Made here and not before: the layer may run its children with gradients on, or off.
        kernel, form, parts = self.__dict__["_run"]
        return kernel.forward(form.stand_in(parts, weights_of(parts)), *args, **kwargs)


def _parts(module: nn.Module, names: tuple[str, ...], what: str) -> dict[str, nn.Module]:
    found = {name: child for name in names if (child := module._modules.get(name)) is not None}
    missing = [name for name in names if name not in found]
    if missing:
        raise SignatureError(f"{what}: {type(module).__name__} has no module {missing[0]!r}; name its own")
    return found


def _arguments(layout: type[nn.Module], module: nn.Module) -> dict[str, Any] | None:
    """What a layout's constructor takes, of what the layer holds; None where the layer lacks something of it."""
    given: dict[str, Any] = {}
    for parameter in list(inspect.signature(layout.__init__).parameters.values())[1:]:
        if parameter.name in vars(module):
            given[parameter.name] = vars(module)[parameter.name]
        elif parameter.name in module._modules:
            given[parameter.name] = module._modules[parameter.name]
        elif parameter.default is parameter.empty:
            return None
    return given
