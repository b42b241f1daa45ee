"""Patterns as users write them: a function of tensors, or a module whose children stand for the model's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from twinkle_tune.errors import GraphError
from twinkle_tune.graph.form import Form
from twinkle_tune.graph.match import Match, matches
from twinkle_tune.graph.trace import Traced, required_of, trace, trace_function

Written = nn.Module | type[nn.Module] | Callable[..., Any]
"""A module, a class that is made without arguments, or a function."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pattern:
    """What is looked for.

    Attributes:
        name: for messages and reports.
        traced: its graph; the module is empty where it was written as a function.
        function: the function that it was written as; None for a module.
    """

    name: str
    traced: Traced
    function: Callable[..., Any] | None

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of what it takes."""
        return tuple(str(n.target) for n in self.traced.graph.nodes if n.op == "placeholder")


def read(written: Written, what: str) -> Pattern:
    """A pattern as it was written.

    Args:
        what: how messages name it: "pattern" or "replacement".

    Raises:
        GraphError: it is neither a module nor a function, or cannot be one graph.
    """
    module = instance(written, what)
    if module is not None:
        traced = trace(module, Form.usual(type(module).forward, training=module.training))
        return Pattern(name=type(module).__qualname__, traced=traced, function=None)
    assert not isinstance(written, nn.Module)
    name = getattr(written, "__qualname__", repr(written))
    return Pattern(name=name, traced=trace_function(written), function=written)


def instance(written: Written, what: str) -> nn.Module | None:
    """The module that was given, or made of the class that was given; None for a function.

    Raises:
        GraphError: it is neither a module nor a function, or a class that is not made without arguments.
    """
    if isinstance(written, nn.Module):
        return written
    if isinstance(written, type) and issubclass(written, nn.Module):
        try:
            return written()
        except TypeError as error:
            raise GraphError(
                f"{what}: {written.__qualname__} cannot be made without arguments ({error}); pass an instance"
            ) from error
    if callable(written) and not isinstance(written, type):
        return None
    raise GraphError(f"{what}: got {written!r:.80}, expected a torch module or a function of tensors")


def check_fits(pattern: Pattern, replacement: Written) -> None:
    """Refuse a replacement that is given other things than its pattern.

    Raises:
        GraphError: it takes another number of inputs, or has parts that the pattern does not have.
    """
    module = instance(replacement, "replacement")
    forward = replacement if module is None else module.forward
    assert callable(forward)
    taken = required_of(forward)
    if pattern.function is None and module is None:
        taken = taken[1:]  # the piece, whose children are the pattern's
    names = [p.name for p in taken]
    if len(names) != len(pattern.inputs) and not any(p.kind is p.VAR_POSITIONAL for p in taken):
        raise GraphError(
            f"replacement: it takes {_listed(names)}, the pattern {pattern.name} takes {_listed(pattern.inputs)}; "
            "give it the same inputs in the same order"
        )
    if module is None:
        return
    parts = {name for name, _ in module.named_children()}
    own = {name for name, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))}
    extra = sorted((parts | own) - {name for name, _ in pattern.traced.module.named_children()})
    if extra:
        raise GraphError(
            f"replacement: it has {_listed(extra)}, which the pattern {pattern.name} has not: nothing of the model "
            "would stand for it; give the pattern a child of that name"
        )


def piece(prototype: nn.Module, children: Mapping[str, nn.Module]) -> nn.Module:
    """A module of a pattern's class that holds the model's own children in the places of the pattern's."""
    made = object.__new__(type(prototype))
    made.__dict__.update(prototype.__dict__)
    for own in ("_parameters", "_buffers"):
        made.__dict__[own] = dict(prototype.__dict__[own])
    made.__dict__["_modules"] = {**prototype._modules, **children}
    return made


def _listed(names: Any) -> str:
    return ", ".join(names) or "nothing"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Place:
    """Where a pattern stands in a module's graph.

    Attributes:
        name: of the pattern.
        match: the place.
        prototype: a module of the pattern's class, set as this place is; :meth:`piece` fills in the children.
    """

    name: str
    match: Match
    prototype: nn.Module

    @property
    def node(self) -> str:
        """The name of the last result, which is unique in its graph."""
        return self.match.outputs[-1].name

    def piece(self, host: nn.Module, form: Form) -> nn.Module:
        """What computes the pattern in calls of one form, with the children of one host.

        The form is among its settings: by them a profile tells for which calls it was measured.
        """
        made = piece(self.prototype, {own: host.get_submodule(path) for own, path in self.match.modules.items()})
        made.__dict__.update(training=form.training, graph_form=form.text)
        return made


class FunctionPiece(nn.Module):
    """The piece of a pattern that was written as a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        """What the function gives."""
        return self.function(*inputs)


def places(traced: Traced, pattern: Pattern) -> tuple[Place, ...]:
    """Every place of a pattern in a graph.

    Raises:
        GraphError: places overlap.
    """
    prototype = pattern.traced.module if pattern.function is None else FunctionPiece(pattern.function)
    return tuple(Place(name=pattern.name, match=m, prototype=prototype) for m in matches(traced, pattern.traced))
