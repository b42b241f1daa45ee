"""Attention that a forward writes out, found in a graph by what is computed: products of queries and keys, scaled and
masked, their softmax, and the sum of values that it weighs.

Between the two products each step is read for itself, in whatever order: a factor (before the mask), a mask that is
added, filled in or chosen by a condition, a cast, the softmax, a dropout. How queries, keys and values got their form
(split, transposed, repeated, turned) is none of it: the piece takes what the products take. Scores or weights that are
read elsewhere, as where a layer returns its weights, are no place: whoever reads them must get them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from twinkle_tune.catalog.linear_act import may_hold as may_hold
from twinkle_tune.graph.match import Match
from twinkle_tune.graph.pattern import Place
from twinkle_tune.graph.trace import Traced

WRITTEN = "WrittenAttention"
"""The slot's name."""
_FUNCTIONS: dict[Any, str] = {
    operator.matmul: "matmul", torch.matmul: "matmul", torch.bmm: "matmul",
    operator.mul: "mul", torch.mul: "mul", operator.imul: "mul",
    operator.truediv: "div", torch.div: "div", operator.itruediv: "div",
    operator.add: "add", torch.add: "add", operator.iadd: "add",
    F.softmax: "softmax", torch.softmax: "softmax", F.dropout: "dropout", torch.dropout: "dropout",
    torch.where: "where", torch.masked_fill: "fill", operator.eq: "eq", torch.eq: "eq",
    operator.invert: "not", torch.logical_not: "not", torch.bitwise_not: "not",
}  # fmt: skip
_METHODS = {
    "matmul": "matmul", "bmm": "matmul", "mul": "mul", "mul_": "mul", "div": "div", "div_": "div",
    "add": "add", "add_": "add", "softmax": "softmax", "masked_fill": "fill", "masked_fill_": "fill", "where": "where",
    "to": "to", "type": "to", "type_as": "to", "float": "float", "eq": "eq", "logical_not": "not", "bool": "bool",
}  # fmt: skip
SOFTMAX = ("softmax", "child_softmax")
_WHOLE = slice(None)


class Step(NamedTuple):
    """One step from the scores to the weights.

    Attributes:
        name: mul, div, add, fill (where the condition is true), keep (where it is not filled), to, softmax, dropout; or
            a child that is called, as which the piece has it.
        value: a constant of it; None where there is none, or where it is given with each call.
        cut: of a mask that is cut from a buffer how many dimensions stand before its rows and columns; -1 for another.
        flips: whether such a buffer is not zero where the condition is false.
        takes: how many of the call's further inputs it takes.
    """

    name: str
    value: Any = None
    cut: int = -1
    flips: bool = False
    takes: int = 0


class WrittenAttention(nn.Module):
    """The piece.

    Attributes:
        steps: what is done with the scores, as text.
    """

    steps: str

    def __init__(self, steps: tuple[Step, ...]) -> None:
        super().__init__()
        self._steps = steps
        self.steps = "; ".join(_told(step) for step in steps)

    def forward(self, q: Tensor, keys: Tensor, *given: Any) -> Tensor:
        """q (..., queries, width), keys (..., width, keys), what the steps take, values (..., keys, wide)."""
        scores, place = q @ keys, 0
        for step in self._steps:
            scores = _done(self, step, scores, given[place : place + step.takes])
            place += step.takes
        made: Tensor = scores @ given[place]
        return made


def condition(step: Step, given: tuple[Any, ...]) -> Tensor:
    """Where a step fills or keeps: given with the call, or cut from a buffer (by slices of its rows and columns)."""
    mask: Tensor = given[0]
    if step.cut < 0:
        return mask
    mask = mask[(*(_WHOLE,) * step.cut, *given[1:3])]
    return mask == 0 if step.flips else mask.bool()


def filling(step: Step, given: tuple[Any, ...]) -> Any:
    """What a step fills in."""
    return given[-1] if step.value is None else step.value


def _done(piece: WrittenAttention, step: Step, scores: Tensor, given: tuple[Any, ...]) -> Any:
    value = given[0] if given and step.value is None else step.value
    match step.name:
        case "mul":
            return scores * value
        case "div":
            return scores / value
        case "add":
            return scores + value
        case "fill":
            return scores.masked_fill(condition(step, given), filling(step, given))
        case "keep":
            return torch.where(condition(step, given), scores, filling(step, given))
        case "to":
            return scores.type_as(value) if isinstance(value, Tensor) else scores.to(value)
        case "softmax":
            return torch.softmax(scores, -1, dtype=value)
        case "dropout":
            return F.dropout(scores, *value)
    return piece._modules[step.name](scores)  # type: ignore[misc]


def _told(step: Step) -> str:
    cut = "" if step.cut < 0 else f" of {step.cut}{' zeros' if step.flips else ''}"
    return f"{step.name}{cut}{'' if step.value is None else f' {step.value}'}"


def find(traced: Traced) -> tuple[Place, ...]:
    """Where a graph has attention written out, and nobody reads its scores or weights."""
    order = {node: number for number, node in enumerate(traced.graph.nodes)}
    return tuple(place for node in order if (place := _at(traced, node, order)) is not None)


class _Read(NamedTuple):
    """A step with what it takes, the nodes that it is, and the scores that it starts from."""

    step: Step
    scores: Any
    inputs: tuple[Any, ...]
    nodes: tuple[fx.Node, ...]
    child: str = ""


def _at(traced: Traced, node: fx.Node, order: dict[fx.Node, int]) -> Place | None:
    if _name(node) != "matmul" or len(node.args) != 2 or node.kwargs:
        return None
    weights, values = node.args
    found = _back(traced, weights)
    if found is None or not isinstance(values, fx.Node):
        return None
    products, reads = found
    children = {read.step.name: read.child for read in reads if read.child}
    several = len(children) != sum(bool(read.child) for read in reads)
    if several or sum(read.step.name in SOFTMAX for read in reads) != 1:
        return None
    nodes = {products, *(each for read in reads for each in read.nodes), node}
    match = Match(
        nodes=tuple(sorted(nodes, key=order.__getitem__)),
        inputs=(*products.args, *(each for read in reads for each in read.inputs), values),
        outputs=(node,),
        modules=children,
    )
    return Place(name=WRITTEN, match=match, prototype=WrittenAttention(tuple(read.step for read in reads)))


def _back(traced: Traced, node: Any) -> tuple[fx.Node, tuple[_Read, ...]] | None:
    """From weights, or scores on the way to them, to the product that they come from, and the steps between."""
    if not isinstance(node, fx.Node) or len(node.users) != 1:
        return None
    if _name(node) == "matmul":
        is_plain = len(node.args) == 2 and not node.kwargs and all(isinstance(arg, fx.Node) for arg in node.args)
        return (node, ()) if is_plain else None
    for read in _readings(traced, node):
        found = _back(traced, read.scores)
        if found is not None:
            return found[0], (*found[1], read)
    return None


def _readings(traced: Traced, node: fx.Node) -> Iterator[_Read]:
    args, kwargs = node.args, dict(node.kwargs)
    name = _name(node)
    if node.op == "call_module":
        yield from _of_child(traced, node)
    elif name in ("mul", "div", "add") and len(args) == 2 and not kwargs:
        for scores, other in (args, args[::-1])[: 1 if name == "div" else 2]:
            if isinstance(other, fx.Node) or type(other) in (int, float):
                yield _with(name, node, scores, other)
    elif name == "fill" and len(args) == 3 and not kwargs and isinstance(args[1], fx.Node):
        yield _filled(traced, "fill", node, args[0], args[1], args[2])
    elif name == "where" and len(args) == 3 and not kwargs:
        scores, mask = args[:2] if node.op == "call_method" else args[1::-1]
        if isinstance(mask, fx.Node):
            yield _filled(traced, "keep", node, scores, mask, args[2])
    elif name == "float" and len(args) == 1:
        yield _Read(Step("to", torch.float32), args[0], (), (node,))
    elif name == "to" and len(args) == 2 and not kwargs and isinstance(args[1], (fx.Node, torch.dtype)):
        yield _with("to", node, args[0], args[1])
    elif name == "softmax":
        dim, dtype = args[1] if len(args) > 1 else kwargs.get("dim"), kwargs.get("dtype")
        if dim == -1 and (dtype is None or isinstance(dtype, torch.dtype)) and len(args) <= 2:
            yield _Read(Step("softmax", dtype), args[0], (), (node,))
    elif name == "dropout" and args:
        named = dict(zip(("p", "training", "inplace"), args[1:], strict=False)) | kwargs
        p, training = named.get("p", 0.5), named.get("training", True)
        if type(p) is float and type(training) is bool and not named.get("inplace", False):
            yield _Read(Step("dropout", (p, training)), args[0], (), (node,))


def _of_child(traced: Traced, node: fx.Node) -> Iterator[_Read]:
    child = traced.module.get_submodule(str(node.target))
    if len(node.args) != 1 or node.kwargs:
        return
    name = "child_dropout" if type(child).forward is nn.Dropout.forward else ""
    if isinstance(child, nn.Softmax) and type(child).forward is nn.Softmax.forward and child.dim == -1:
        name = "child_softmax"
    if name:
        yield _Read(Step(name), node.args[0], (), (node,), str(node.target))


def _with(name: str, node: fx.Node, scores: Any, other: Any) -> _Read:
    if isinstance(other, fx.Node):
        return _Read(Step(name, takes=1), scores, (other,), (node,))
    return _Read(Step(name, other), scores, (), (node,))


def _filled(traced: Traced, name: str, node: fx.Node, scores: Any, mask: fx.Node, value: Any) -> _Read:
    cut = _cut(traced, mask) if len(mask.users) == 1 else None
    given = (value,) if isinstance(value, fx.Node) else ()
    constant = None if given else value
    if cut is None:
        return _Read(Step(name, constant, takes=1 + len(given)), scores, (mask, *given), (node,))
    before, flips, inputs, nodes = cut
    return _Read(Step(name, constant, before, flips, 3 + len(given)), scores, (*inputs, *given), (*nodes, node))


def _cut(traced: Traced, mask: fx.Node) -> tuple[int, bool, tuple[Any, ...], tuple[fx.Node, ...]] | None:
    """How a mask is cut from a buffer: dimensions before, whether zeros are true, buffer and bounds, and the nodes."""
    flips, nodes, node, index = False, [], mask, None
    while isinstance(node, fx.Node) and node.op != "get_attr":
        name = _name(node)
        is_zero = name == "eq" and len(node.args) == 2 and type(node.args[1]) in (int, float, bool) and not node.args[1]
        if is_zero or name == "not":
            flips = not flips
        elif name == "getitem" and index is None:
            index = node.args[1]
        elif name != "bool":
            return None
        nodes.append(node)
        if node is not mask and len(node.users) != 1:
            return None
        node = node.args[0]  # type: ignore[assignment]
    if not isinstance(node, fx.Node) or not isinstance(index, tuple) or len(index) < 2:
        return None
    if any(each.target is operator.invert for each in nodes) and not _is_bool(traced.module, str(node.target)):
        return None
    *front, rows, columns = index
    sliced = all(isinstance(each, slice) and each.step is None for each in index)
    if not sliced or any(each != _WHOLE for each in front) or columns.start not in (None, 0):
        return None
    return len(front), flips, (node, rows, columns), tuple(nodes)


def _is_bool(module: nn.Module, path: str) -> bool:
    owner, _, name = path.rpartition(".")
    buffer = module.get_submodule(owner)._buffers.get(name)
    return buffer is not None and buffer.dtype == torch.bool


def _name(node: fx.Node) -> str:
    if node.op == "call_function":
        target: Callable[..., Any] = node.target  # type: ignore[assignment]
        return "getitem" if target is operator.getitem else _FUNCTIONS.get(target, "")
    return _METHODS.get(str(node.target), "") if node.op == "call_method" else ""
