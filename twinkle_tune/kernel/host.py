"""The forward of a module in whose graph pieces stand: a block with a fused residual add and norm, for example.

It is for the forms of calls that were traced (:mod:`twinkle_tune.graph.form`); all other calls are the class's own
forward's. The children are the module's own, whatever stands there when it is called; a piece is made anew where one
of its children was replaced, and left out where that is another kind of child.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from twinkle_tune.graph.form import Form
from twinkle_tune.graph.pattern import Place
from twinkle_tune.graph.rewrite import compiled
from twinkle_tune.graph.trace import Traced
from twinkle_tune.graph.watched import PLAIN, Read, is_as_read
from twinkle_tune.kernel.patch import bind_forward
from twinkle_tune.kernel.record import Binding
from twinkle_tune.kernel.watched import has_global_hooks

Pieces = tuple[nn.Module, ...]
Kernel = tuple[Callable[..., Any], Binding]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Variant:
    """A host's forward for one form of calls.

    Attributes:
        form: the form.
        forward: of the host, its pieces, and what the form is given.
        places: of the pieces.
        kernels: what runs at each of them, None for the pattern's own operations.
        settings: plain attributes of the host, which the graph may hold as constants.
        read: what the graph was made with beside tensors.
        code: the forward of the host's class, whose graph it is.
        kinds: of each child of each piece its class, and that one's forward.
    """

    form: Form
    forward: Callable[..., Any]
    places: tuple[Place, ...]
    kernels: tuple[Kernel | None, ...]
    settings: Mapping[str, object]
    read: Read
    code: Any
    kinds: tuple[tuple[tuple[str, str, type[nn.Module], Any], ...], ...]

    @classmethod
    def of(cls, traced: Traced, form: Form, places: Sequence[Place], kernels: Sequence[Kernel | None]) -> Variant:
        """Of a traced host, whose graph is rewritten.

        Raises:
            GraphError: there is no room for a piece in the order of the operations.
        """
        host = traced.module
        return cls(
            form=form,
            forward=compiled(traced, [place.match for place in places]),
            places=tuple(places),
            kernels=tuple(kernels),
            settings={n: v for n, v in vars(host).items() if isinstance(v, PLAIN) and n != "training"},
            read=traced.read,
            code=type(host).forward,
            kinds=tuple(
                tuple((own, path, kind := type(host.get_submodule(path)), kind.forward) for own, path in parts)
                for parts in (place.match.modules.items() for place in places)
            ),
        )

    def pieces(self, host: nn.Module) -> Pieces | None:
        """The pieces, with the host's children as they are now; None where a child is of another kind."""
        made = []
        for place, kernel, kinds in zip(self.places, self.kernels, self.kinds, strict=True):
            for _, path, kind, forward in kinds:
                if type(host.get_submodule(path)) is not kind or kind.forward is not forward:
                    return None
            piece = place.piece(host, self.form)
            if kernel is not None:
                bind_forward(piece, *kernel)
            made.append(piece)
        return tuple(made)


class Host:
    """What is bound to a host. Called with the module first, as what stands in a layer is."""

    calls_parts = True
    """It calls the module's children, whatever stands there: nobody else need look whether they are as they were."""

    def __init__(self, *variants: Variant) -> None:
        self.variants = variants
        self._made: weakref.WeakKeyDictionary[nn.Module, list[Pieces | None]] = weakref.WeakKeyDictionary()

    def __call__(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """The forward with its pieces, where the call has a form that was traced."""
        if not torch.compiler.is_compiling():
            for index, variant in enumerate(self.variants):
                if variant.form.fits(args, kwargs, training=module.training):
                    pieces = self._pieces(module, index, variant)
                    if pieces is not None:
                        return variant.forward(module, pieces, *args, **kwargs)
        return type(module).forward(module, *args, **kwargs)

    def hold(self, module: nn.Module, pieces: Sequence[Pieces]) -> None:
        """Let these be a host's pieces, for each variant, as long as its children stay."""
        self._made[module] = list(pieces)

    def why_not(self, module: nn.Module) -> str:
        """Why no call of the module runs a piece any more; "" where one may."""
        if any(self._pieces(module, index, variant) is not None for index, variant in enumerate(self.variants)):
            return ""
        return "a child or a setting was replaced after it was bound: the original runs; kernelize again"

    def _pieces(self, module: nn.Module, index: int, variant: Variant) -> Pieces | None:
        if type(module).forward is not variant.code or has_global_hooks():
            return None
        if not variant.settings.items() <= module.__dict__.items() or not is_as_read(module, variant.read):
            return None
        made = self._made.get(module)
        if made is None:
            made = self._made[module] = [None] * len(self.variants)
        pieces = made[index]
        if pieces is None or not _hold(pieces, variant, module):
            pieces = made[index] = variant.pieces(module)
        return pieces


def _hold(pieces: Pieces, variant: Variant, host: nn.Module) -> bool:
    """Whether the pieces' children are still the host's."""
    for piece, kinds in zip(pieces, variant.kinds, strict=True):
        for own, path, kind, forward in kinds:
            there = host._modules.get(path) if "." not in path else host.get_submodule(path)
            if piece._modules[own] is not there or kind.forward is not forward:
                return False
    return True
