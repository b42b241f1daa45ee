"""Kernels that read weights in another layout: a class ``{Name}Layout`` beside the kernel's, as transformers has it.

A layout has a constructor, which says what the kernel's ``self`` holds, and ``conversion_mapping``, which says what its
weights are made of. The layer here keeps its own parameters, under their names: what the kernel reads is made of them
at each call. So their gradients are the kernel's, a weight that was trained, loaded or moved counts, and there is
nothing to undo.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call

from twinkle_tune.call.drawn import random_kept
from twinkle_tune.errors import SignatureError, in_a_line
from twinkle_tune.source.conversion import Made, conversion_of

Weights = Mapping[str, Tensor]
_BOOKKEEPING = frozenset(vars(nn.Module())) | {"forward"}


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
    """The forward of a kernel for a layer whose weights are in the layout that the model came with."""
    standing: WeakKeyDictionary[nn.Module, _Standing] = WeakKeyDictionary()

    def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if module not in standing:
            own = dict(_weights(module))
            made = conversion_of(layout, tuple(own), "", what)
            standing[module] = _stand_in(kernel, layout, _arguments(layout, module), module, made, what)
        return standing[module].run(module, args, kwargs)

    return _with_signature(forward, kernel)


def in_place_of(kernel: Any, layout: type[nn.Module] | None, children: Children, what: str) -> Callable[..., Any]:
    """The forward of a layer in which a kernel stands for several of its children: the first one's place is its own."""
    if layout is None:
        raise SignatureError(
            f"{what}: there is no class {kernel.__name__}Layout beside it, expected one: its constructor takes the "
            f"modules {', '.join(children.names)}, and says what the kernel holds of them"
        )
    first, *others = children.names
    standing: WeakKeyDictionary[nn.Module, _Standing] = WeakKeyDictionary()

    def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if module not in standing:
            missing = [name for name in children.names if name not in module._modules]
            if missing:
                raise SignatureError(f"{what}: {type(module).__name__} has no module {missing[0]!r}; name its own")
            own = tuple(f"{name}.{key}" for name in children.names for key, _ in _weights(module._modules[name]))
            made = conversion_of(layout, own, f"{first}.", what)
            modules = [module._modules[name] for name in children.names]
            standing[module] = _stand_in(kernel, layout, modules, None, made, what)
        kept = standing[module]
        # The layer itself is not touched: another thread may be in it.
        twin = object.__new__(type(module))
        twin.__dict__ = {**module.__dict__, "_modules": {**module._modules, first: _Caller(kept, module)}}
        twin._modules |= {name: nn.Identity() for name in others}
        return children.forward(twin, *args, **kwargs)

    return forward


@dataclass(frozen=True, slots=True)
class _Standing:
    """What a kernel's ``self`` is for one layer, and how its weights are made of the layer's."""

    self_: nn.Module
    made: Mapping[str, Made]

    def run(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        own = dict(_weights(module))
        self.self_.training = module.training
        return functional_call(self.self_, {to: made.of(own) for to, made in self.made.items()}, args, dict(kwargs))


class _Caller(nn.Module):
    """Stands among the children of a layer's twin, and runs the kernel with the layer's weights."""

    def __init__(self, standing: _Standing, module: nn.Module) -> None:
        super().__init__()
        self.__dict__["_run"] = standing, module  # no child of it: it is the other way round

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        standing, module = self.__dict__["_run"]
        return standing.run(module, args, kwargs)


def _weights(module: nn.Module | None) -> list[tuple[str, Tensor]]:
    return [] if module is None else [*module.named_parameters(), *module.named_buffers()]


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


def _stand_in(
    kernel: type[nn.Module],
    layout: type[nn.Module],
    arguments: Mapping[str, Any] | list[Any] | None,
    of: nn.Module | None,
    made: Mapping[str, Made],
    what: str,
) -> _Standing:
    """Make what a kernel's ``self`` is: of the layout's constructor, and of the plain settings of the layer.

    Where the layer lacks an argument of the constructor (a width that it does not keep) it stands in for what the
    constructor would have set: it has the settings already, and the conversion has the weights.
    """
    cls = type(layout.__name__, (layout,), {"forward": kernel.forward})
    if arguments is None:
        standing: nn.Module = object.__new__(cls)
        nn.Module.__init__(standing)
        standing._modules |= of._modules if of is not None else {}
    else:
        try:
            with random_kept(), torch.device("meta"):
                standing = cls(*arguments) if isinstance(arguments, list) else cls(**arguments)
        except Exception as error:
            raise SignatureError(
                f"{what}: the constructor of {layout.__name__} raised {in_a_line(error, 200)}"
            ) from error
    settings = {} if of is None else {n: v for n, v in vars(of).items() if n not in _BOOKKEEPING and n[:1] != "_"}
    standing.__dict__.update(settings)
    for name in made:
        owner, _, leaf = name.rpartition(".")
        if not owner and leaf not in standing._parameters and leaf not in standing._buffers:
            standing.register_parameter(leaf, nn.Parameter(torch.empty(0, device="meta")))
    has = {name for name, _ in _weights(standing)}
    if wrong := sorted(has ^ made.keys()):
        holds = "nothing of its conversion_mapping makes" if wrong[0] in has else "it has no place for"
        raise SignatureError(f"{what}: {layout.__name__}: {holds} {wrong[0]!r}; its conversion does not fit this layer")
    return _Standing(standing, made)


def _with_signature(forward: Callable[..., Any], kernel: type[nn.Module]) -> Callable[..., Any]:
    """Let it be seen to take what the kernel's forward takes."""
    forward.__signature__ = inspect.signature(kernel.forward)  # type: ignore[attr-defined]
    return forward
