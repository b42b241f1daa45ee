"""Where a pattern stands in a graph: a search over nodes, by what they compute and not by their names.

- A placeholder of the pattern stands for anything; twice in the pattern, it stands for the same thing.
- A call of a child stands for a call of any child of that class with the same plain settings (eps, probability of a
  dropout, kind of an activation) and the same parameters there, whatever their sizes. Twice in the pattern, it is the
  same child. Its parameters, read in the pattern, are that child's.
- Constants are equal. What lies inside of the pattern has no reader outside of it.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from twinkle_tune.errors import GraphError
from twinkle_tune.graph.trace import Traced

_ONE = {
    operator.add: "add", torch.add: "add", operator.mul: "mul", torch.mul: "mul", operator.sub: "sub", torch.sub: "sub",
    operator.truediv: "div", torch.div: "div", operator.matmul: "matmul", torch.matmul: "matmul",
}  # fmt: skip
"""Functions that are the same as the tensor's method of that name."""
_EITHER_WAY = frozenset({"add", "mul"})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Match:
    """A pattern's place in a graph.

    Attributes:
        nodes: of the graph, in its order, without the inputs.
        inputs: what the pattern's placeholders stand for: nodes or constants.
        outputs: nodes of the graph that the pattern gives.
        modules: path in the pattern and path in the module of each child that is called or read.
    """

    nodes: tuple[fx.Node, ...]
    inputs: tuple[Any, ...]
    outputs: tuple[fx.Node, ...]
    modules: Mapping[str, str]


def matches(traced: Traced, pattern: Traced) -> tuple[Match, ...]:
    """Every place of a pattern in a graph, from the first node on.

    Raises:
        GraphError: the pattern computes nothing, or two places share a node.
    """
    outputs = _outputs(pattern)
    found: list[Match] = []
    taken: dict[fx.Node, Match] = {}
    for node in traced.graph.nodes:
        match = next(_from(traced, pattern, outputs, node), None)
        if match is None:
            continue
        shared = next((n for n in match.nodes if n in taken), None)
        if shared is not None:
            raise GraphError(
                f"{type(traced.module).__qualname__}: the pattern overlaps itself at node {shared.name!r}, expected "
                "places that share no node; make the pattern larger, or such that it ends elsewhere"
            )
        taken |= dict.fromkeys(match.nodes, match)
        found.append(match)
    return tuple(found)


def _outputs(pattern: Traced) -> tuple[fx.Node, ...]:
    (given,) = next(node for node in pattern.graph.nodes if node.op == "output").args
    outputs = tuple(given) if isinstance(given, (tuple, list)) else (given,)
    if not all(isinstance(node, fx.Node) and node.op not in ("placeholder", "get_attr") for node in outputs):
        raise GraphError(f"pattern: it gives {given!r:.80}, expected one or more results of operations")
    return outputs


def _from(traced: Traced, pattern: Traced, outputs: tuple[fx.Node, ...], node: fx.Node) -> Iterator[Match]:
    """Matches whose first output is a node."""
    for search in _Search(traced, pattern).pair(outputs[0], node):
        for whole in _further(search, outputs[1:]):
            made = whole.match(outputs)
            if made is not None:
                yield made


def _further(search: _Search, outputs: tuple[fx.Node, ...]) -> Iterator[_Search]:
    """With the outputs that the first one does not lead to found as well."""
    if not outputs:
        yield search
        return
    for node in [search.nodes[outputs[0]]] if outputs[0] in search.nodes else search.traced.graph.nodes:
        for found in search.pair(outputs[0], node):
            yield from _further(found, outputs[1:])


@dataclass(frozen=True, slots=True, eq=False)
class _Search:
    """What stands for what so far; each step gives the searches that go on from here."""

    traced: Traced
    pattern: Traced
    nodes: Mapping[fx.Node, Any] = field(default_factory=dict)
    modules: Mapping[str, str] = field(default_factory=dict)

    def pair(self, own: Any, other: Any) -> Iterator[_Search]:
        """With something of the pattern standing for something of the graph."""
        if not isinstance(own, fx.Node):
            yield from self._constants(own, other)
        elif own in self.nodes:
            if _is_same(self.nodes[own], other):
                yield self
        elif own.op == "placeholder":
            yield self._with(own, other)
        elif isinstance(other, fx.Node):
            yield from self._nodes(own, other)

    def _with(self, own: fx.Node, other: Any) -> _Search:
        return _Search(self.traced, self.pattern, {**self.nodes, own: other}, self.modules)

    def _constants(self, own: Any, other: Any) -> Iterator[_Search]:
        if isinstance(own, (tuple, list)) and type(own) is type(other) and len(own) == len(other):
            yield from self._all(list(zip(own, other, strict=True)))
        elif type(own) is type(other) and own == other:
            yield self

    def _all(self, pairs: list[tuple[Any, Any]]) -> Iterator[_Search]:
        if not pairs:
            yield self
            return
        for search in self.pair(*pairs[0]):
            yield from search._all(pairs[1:])

    def _nodes(self, own: fx.Node, other: fx.Node) -> Iterator[_Search]:
        if own.op in ("get_attr", "call_module"):
            if own.op != other.op:
                return
            search = self._attribute(own, other) if own.op == "get_attr" else self._child(own, other)
            if search is None:
                return
        else:
            if _operation(own) is None or _operation(own) != _operation(other):
                return
            search = self
        if len(own.args) != len(other.args) or own.kwargs.keys() != other.kwargs.keys():
            return
        named = [(own.kwargs[name], other.kwargs[name]) for name in own.kwargs]
        orders = [other.args]
        if _operation(own) in _EITHER_WAY and len(other.args) == 2:
            orders.append(other.args[::-1])
        for args in orders:
            pairs = [*zip(own.args, args, strict=True), *named]
            yield from search._with(own, other)._all(pairs)

    def _attribute(self, own: fx.Node, other: fx.Node) -> _Search | None:
        owner, _, name = str(own.target).rpartition(".")
        place, _, named = str(other.target).rpartition(".")
        if not owner:
            return self  # the pattern's own parameter: any parameter
        return self._paired(owner, place) if name == named else None

    def _child(self, own: fx.Node, other: fx.Node) -> _Search | None:
        return self._paired(str(own.target), str(other.target))

    def _paired(self, own: str, other: str) -> _Search | None:
        if own in self.modules or other in self.modules.values():
            return self if self.modules.get(own) == other else None
        if not _alike(self.pattern.module.get_submodule(own), self.traced.module.get_submodule(other)):
            return None
        return _Search(self.traced, self.pattern, self.nodes, {**self.modules, own: other})

    def match(self, outputs: tuple[fx.Node, ...]) -> Match | None:
        """The match, if what lies inside of it has no reader outside."""
        inside = {n: o for n, o in self.nodes.items() if n.op != "placeholder"}
        mine = set(inside.values())
        free = {inside[node] for node in outputs}
        for node in mine - free:
            if node.op != "get_attr" and not set(node.users) <= mine:
                return None
        placeholders = [node for node in self.pattern.graph.nodes if node.op == "placeholder"]
        if not all(node in self.nodes for node in placeholders):
            return None
        return Match(
            nodes=tuple(node for node in self.traced.graph.nodes if node in mine),
            inputs=tuple(self.nodes[node] for node in placeholders),
            outputs=tuple(inside[node] for node in outputs),
            modules=dict(self.modules),
        )


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, fx.Node) or isinstance(other, fx.Node):
        return one is other
    return type(one) is type(other) and bool(one == other)


def _operation(node: fx.Node) -> Any:
    if node.op == "call_function":
        return _ONE.get(node.target, node.target)  # type: ignore[arg-type]
    return node.target if node.op == "call_method" else None


def _alike(own: nn.Module, other: nn.Module) -> bool:
    """Whether a child is of the same class, set alike but for its sizes, with the same parameters there."""
    if type(own) is not type(other) or _settings(own) != _settings(other):
        return False
    there = [{n for n, p in module._parameters.items() if p is not None} for module in (own, other)]
    parts = [[(n, type(p)) for n, p in module.named_modules()][1:] for module in (own, other)]
    return there[0] == there[1] and parts[0] == parts[1]


def _settings(module: nn.Module) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(module).items()
        if name != "training" and not name.startswith("_") and (value is None or isinstance(value, (bool, float, str)))
    }
