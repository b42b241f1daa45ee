"""What of a model nothing is tried for: its own layers that are no slots, and lie in none."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from torch import nn

from twinkle_tune.catalog.block import BLOCK, blocks_of
from twinkle_tune.kernel.registry import Registry, default_registry

_KINDS = (
    (re.compile(r"norm", re.I), "a norm"),
    (re.compile(r"mlp|ffn|feed_?forward", re.I), "an MLP"),
    (re.compile(r"rot|rope", re.I), "a rotary embedding"),
    (re.compile(r"gelu|silu|swish|activation", re.I), "an activation"),
)
_COUNT = re.compile(r"\((\d+)\)$")


def unlooked(model: nn.Module, registry: Registry | None = None) -> tuple[str, ...]:
    """Classes of the model's own layers that are no slots, with their counts: "MyNorm (3)", the most frequent first.

    Not among them are torch's own layers, whatever is inside a slot, and what holds whole blocks.
    """
    from twinkle_tune.kernel.find import slot_name

    found: Counter[str] = Counter()
    blocks = blocks_of(model)
    inside: list[str] = []
    for path, module in model.named_modules():
        if any(path.startswith(place) for place in inside):
            continue
        if slot_name(module, registry or default_registry) not in (None, BLOCK):
            inside.append(f"{path}." if path else "")
        elif path and module not in blocks and not _is_torchs(module) and not _holds(module, blocks):
            found[type(module).__name__] += 1
    return tuple(f"{name} ({count})" for name, count in found.most_common())


def unlooked_text(names: Iterable[str]) -> str:
    """ "No kernel is offered for: MyNorm (3 layers). You can register your own for MyNorm (...)."; "" for none."""
    told = list(names)
    if not told:
        return ""
    like = [(name.partition(" ")[0], kind) for name in told for known, kind in _KINDS if known.search(name)]
    hint = ", ".join(f"{name} (it looks like {kind})" for name, kind in like)
    layers = ", ".join(_COUNT.sub(lambda found: f"({_layers(int(found[1]))})", name) for name in told)
    yours = f"You can register your own{f' for {hint}' if hint else ''}: see Register a kernel in the docs."
    return f"No kernel is offered for: {layers}. {yours}"


def _layers(count: int) -> str:
    return "1 layer" if count == 1 else f"{count} layers"


def _is_torchs(module: nn.Module) -> bool:
    return type(module).__module__.split(".")[0] == "torch"


def _holds(module: nn.Module, blocks: frozenset[nn.Module]) -> bool:
    return any(part in blocks for part in module.modules())
