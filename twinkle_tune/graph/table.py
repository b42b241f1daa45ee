"""A graph as a table of text."""

from __future__ import annotations

from torch import fx

from twinkle_tune.graph.trace import Traced


def table(traced: Traced) -> str:
    """One line a node: what it does, its name, what it calls, its arguments, the class of a child that is called."""
    rows = [("opcode", "name", "target", "arguments", "class")]
    for node in traced.graph.nodes:
        named = [f"{name}={value}" for name, value in node.kwargs.items()]
        kind = type(traced.module.get_submodule(str(node.target))).__qualname__ if node.op == "call_module" else ""
        rows.append((node.op, node.name, _target(node), ", ".join([*map(str, node.args), *named]), kind))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _target(node: fx.Node) -> str:
    if node.op != "call_function":
        return str(node.target)
    return str(getattr(node.target, "__qualname__", None) or getattr(node.target, "__name__", node.target))
