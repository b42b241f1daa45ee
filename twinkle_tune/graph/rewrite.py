"""Putting something else in a pattern's place in a graph."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

from twinkle_tune.errors import GraphError
from twinkle_tune.graph.match import Match
from twinkle_tune.graph.trace import ITSELF, Traced

Insert = Callable[[fx.Graph, Match], Sequence[fx.Node]]
"""Adds nodes to a graph, at its insertion point, that compute a match's outputs; gives those that do."""


def put(traced: Traced, match: Match, insert: Insert) -> None:
    """Replace a match in a graph by what is inserted.

    Raises:
        GraphError: an input is made later than an output is read, so there is no place for it; the graph is as before.
    """
    graph, order = traced.graph, {node: place for place, node in enumerate(traced.graph.nodes)}
    own = set(match.nodes)
    readers = [user for node in match.outputs for user in node.users if user not in own]
    before = min((order[n], n) for n in readers)[1] if readers else match.nodes[-1].next
    last = match.nodes[-1].next
    place = last if order.get(last, len(order)) <= order[before] else before
    late = [n for n in match.inputs if isinstance(n, fx.Node) and order[n] >= order.get(place, len(order))]
    if late:
        raise GraphError(
            f"{type(traced.module).__qualname__}: the pattern at node {match.nodes[0].name!r} cannot be one step: "
            f"its input {late[0].name!r} is made after its output is read at {before.name!r}; match less at a time"
        )
    with graph.inserting_before(place):
        made = insert(graph, match)
    for old, new in zip(match.outputs, made, strict=True):
        old.replace_all_uses_with(new, delete_user_cb=lambda user: user not in own)
    for node in reversed(match.nodes):
        if not node.users:
            graph.erase_node(node)


def inlined(replacement: Traced) -> Insert:
    """The nodes of a replacement's graph, whose children are those that the match has under their names."""

    def insert(graph: fx.Graph, match: Match) -> Sequence[fx.Node]:
        stands: dict[fx.Node, Any] = {}
        placeholders = [node for node in replacement.graph.nodes if node.op == "placeholder"]
        stands.update(zip(placeholders, match.inputs, strict=True))
        for node in replacement.graph.nodes:
            if node.op == "output":
                given = fx.node.map_arg(node.args[0], lambda n: stands[n])
                return list(given) if isinstance(given, (tuple, list)) else [given]
            if node.op != "placeholder":
                stands[node] = graph.node_copy(node, lambda n: stands[n])
                if node.op in ("call_module", "get_attr"):
                    stands[node].target = _target(str(node.target), match)
        raise GraphError("replacement: it gives nothing, expected what the pattern gives")

    return insert


def _target(path: str, match: Match) -> str:
    for own, place in match.modules.items():
        if path == own or path.startswith(f"{own}."):
            return place + path[len(own) :]
    known = ", ".join(match.modules) or "none"
    raise GraphError(
        f"replacement: it uses {path!r}, which the pattern does not have (it has {known}); give the pattern a child of "
        "that name, so that it is known which one of the model's is meant"
    )


def compiled(traced: Traced, places: Sequence[Match]) -> Callable[..., Any]:
    """A forward that calls pieces in the places of matches: of the module, the pieces, then what its form is given.

    The graph is rewritten for that.

    Raises:
        GraphError: there is no place for a piece in the order of the nodes.
    """
    graph = traced.graph
    itself = [node for node in graph.nodes if node.op == "get_attr" and node.target == ITSELF]
    with graph.inserting_before(next(iter(graph.nodes))):
        module = graph.placeholder("_module") if itself else None
        pieces = graph.placeholder("_pieces")
    for node in itself:
        node.replace_all_uses_with(module)
        graph.erase_node(node)
    # From the last one on: what is put in the place of an earlier one is then what a later one reads.
    for index, match in reversed(list(enumerate(places))):

        def insert(graph: fx.Graph, match: Match, index: int = index) -> Sequence[fx.Node]:
            piece = graph.call_function(operator.getitem, (pieces, index))
            made = graph.call_method("forward", (piece, *match.inputs))
            if len(match.outputs) == 1:
                return [made]
            return [graph.call_function(operator.getitem, (made, place)) for place in range(len(match.outputs))]

        put(traced, match, insert)
    graph.lint()
    code = graph.python_code("self")
    names = dict(code.globals)
    exec(compile(code.src, f"<twinkle_tune graph of {type(traced.module).__qualname__}>", "exec"), names)
    forward: Callable[..., Any] = names["forward"]
    if not itself:
        return forward
    return lambda module, pieces, *args, **kwargs: forward(module, module, pieces, *args, **kwargs)
