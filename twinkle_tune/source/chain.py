"""Whether a layer's forward runs some of its children one after another, for certain: read off its source.

A kernel that stands for them runs in the place of the first, and in the places of the others nothing does. That is
right only where a call of the first is always followed by calls of the others on its result, and where nothing else
sees the children or that result. So no more is taken than can be seen in the text.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

_OPAQUE = frozenset({"super", "locals", "vars", "eval", "exec", "__class__"})
_UNSURE = (
    ast.Try, ast.TryStar, ast.Yield, ast.YieldFrom, ast.Await, ast.Global, ast.Nonlocal, ast.Lambda,
    ast.AsyncFunctionDef, ast.ClassDef,
)  # fmt: skip


def why_no_chain(forward: Callable[..., Any], layer: type, names: tuple[str, ...]) -> str:
    """Why a kernel cannot stand for the children in a layer's forward; "" where it can.

    Args:
        forward: of the layer.
        layer: its class.
        names: of the children, in their order.
    """
    tree = _tree(forward)
    if tree is None:
        return "has no source of its own that could be read, so that nobody knows how it runs its modules"
    within = [node for statement in tree.body for node in ast.walk(statement)]
    if any(isinstance(n, (*_UNSURE, ast.FunctionDef)) or getattr(n, "id", None) in _OPAQUE for n in within):
        return "has a function, a try or a look at itself inside, so that nobody knows how it runs its modules"
    arguments = [*tree.args.posonlyargs, *tree.args.args]
    me = arguments[0].arg if arguments else ""
    reads = [node for node in ast.walk(tree) if _read(node, me) is not None]
    if len(reads) != sum(isinstance(node, ast.Name) and node.id == me for node in ast.walk(tree)):
        return f"writes on {me}, or hands it on: what it writes would be lost"
    for name in sorted({read for node in reads if (read := _read(node, me)) and read not in names}):
        if name.startswith("_") or hasattr(layer, name):
            return f"uses {me}.{name}, which may look at the modules that the kernel stands for"
    for name in names:
        if sum(_read(node, me) == name for node in reads) != 1:
            return f"does not use {me}.{name} exactly once"
    for first, second in pairwise(names):
        if not any(_follows(node, me, first, second) for node in ast.walk(tree)):
            return f"does not run {me}.{second} right after {me}.{first}, on its result and whatever happens"
    return ""


def _tree(forward: Callable[..., Any]) -> ast.FunctionDef | None:
    if not inspect.isfunction(forward) or hasattr(forward, "__wrapped__"):
        return None
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(forward))).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        return None
    return tree if isinstance(tree, ast.FunctionDef) and not tree.decorator_list else None


def _read(node: ast.AST, me: str) -> str | None:
    """The name of what is read of ``self`` here; None where this is no reading."""
    is_reading = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    return node.attr if is_reading and isinstance(node.value, ast.Name) and node.value.id == me else None  # type: ignore[attr-defined]


def _follows(node: ast.AST, me: str, first: str, second: str) -> bool:
    """Whether it is ``self.second(self.first(...))``, or a block with ``x = self.first(...)`` and then, for certain,
    ``self.second(x)``, after which nobody has that x."""
    if isinstance(node, ast.Call) and _read(node.func, me) == second:
        return len(node.args) == 1 and not node.keywords and _is_call(node.args[0], me, first)
    blocks = (getattr(node, field, None) for field in ("body", "orelse"))
    pairs = (pair for block in blocks if isinstance(block, list) for pair in pairwise(block))
    return any(_hands_on(one, then, me, (first, second)) for one, then in pairs)


def _hands_on(one: ast.stmt, then: ast.stmt, me: str, names: tuple[str, str]) -> bool:
    if not isinstance(one, ast.Assign) or not _is_call(one.value, me, names[0]):
        return False
    (target, *more) = one.targets
    if more or not isinstance(target, ast.Name):
        return False
    kept = target.id
    if isinstance(then, ast.Assign):
        if len(then.targets) != 1 or not isinstance(then.targets[0], ast.Name) or then.targets[0].id != kept:
            return False
    elif not isinstance(then, ast.Return):
        return False
    if then.value is None or sum(isinstance(n, ast.Name) and n.id == kept for n in ast.walk(then.value)) != 1:
        return False
    return any(
        _is_call(call, me, names[1]) and len(call.args) == 1 and not call.keywords
        and isinstance(call.args[0], ast.Name) and call.args[0].id == kept
        for call in _sure(then.value)
    )  # fmt: skip


def _is_call(node: ast.AST, me: str, name: str) -> bool:
    return isinstance(node, ast.Call) and _read(node.func, me) == name


def _sure(node: ast.expr) -> Iterator[ast.Call]:
    """The calls in an expression that are made whenever it is worked out."""
    if isinstance(node, ast.Call):
        yield node
        inside: list[ast.expr] = [*node.args, *(keyword.value for keyword in node.keywords)]
    elif isinstance(node, ast.BinOp):
        inside = [node.left, node.right]
    else:
        inside = [*node.elts] if isinstance(node, ast.Tuple) else []
    for each in inside:
        yield from _sure(each)
