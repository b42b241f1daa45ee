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
    """ "Not replaceable here: MyNorm (3). MyNorm looks like a norm: register a kernel for it (...)"; "" for none."""
    told = list(names)
    if not told:
        return ""
    like = [(name.partition(" ")[0], kind) for name in told for known, kind in _KINDS if known.search(name)]
    hint = "; ".join(f"{name} looks like {kind}" for name, kind in like)
    how = "register a kernel for it (docs: Register a kernel)"
    return f"Not replaceable here: {', '.join(told)}. {f'{hint}: ' if hint else 'To change that, '}{how}."


def _is_torchs(module: nn.Module) -> bool:
    return type(module).__module__.split(".")[0] == "torch"


def _holds(module: nn.Module, blocks: frozenset[nn.Module]) -> bool:
    return any(part in blocks for part in module.modules())
