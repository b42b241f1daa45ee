"""What of a model nothing is tried for: its layers that are no slots, and lie in none."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from torch import nn

from twinkle_tune.catalog.block import BLOCK, blocks_of
from twinkle_tune.kernel.registry import Registry, default_registry

YOURS = "To register your own, see Register a kernel in the docs."
_KINDS = (
    (re.compile(r"norm", re.I), "a norm"),
    (re.compile(r"mlp|ffn|feed_?forward", re.I), "an MLP"),
    (re.compile(r"rot|rope", re.I), "a rotary embedding"),
    (re.compile(r"gelu|silu|swish|activation", re.I), "an activation"),
)


def unlooked(model: nn.Module, registry: Registry | None = None) -> tuple[str, ...]:
    """Classes of the model's layers that are no slots: "MyNorm (3 layers, looks like a norm)", the most frequent first.

    First the model's own, then those of torch that lie in none of them. Not among them are whatever is inside a slot,
    and what holds whole blocks.
    """
    from twinkle_tune.kernel.find import slot_name

    own, torchs = Counter[str](), Counter[str]()
    blocks = blocks_of(model)
    inside: list[str] = []
    named: list[str] = []
    for path, module in model.named_modules():
        if any(path.startswith(place) for place in inside):
            continue
        if slot_name(module, registry or default_registry) not in (None, BLOCK):
            inside.append(f"{path}." if path else "")
        elif path and module not in blocks and not _holds(module, blocks):
            if not _is_torchs(module):
                own[type(module).__name__] += 1
                named.append(f"{path}.")
            elif not list(module.children()) and not path.startswith(tuple(named)):
                torchs[type(module).__name__] += 1
    return tuple(f"{name} ({_told(name, count)})" for found in (own, torchs) for name, count in found.most_common())


def unlooked_text(names: Iterable[str]) -> str:
    """ "No kernel is offered for: MyNorm (3 layers). To register your own: ..."; "" for none."""
    told = ", ".join(names)
    return f"No kernel is offered for: {told}. {YOURS}" if told else ""


def _told(name: str, count: int) -> str:
    like = next((f", looks like {kind}" for known, kind in _KINDS if known.search(name)), "")
    return f"{count} layer{'' if count == 1 else 's'}{like}"


def _is_torchs(module: nn.Module) -> bool:
    return type(module).__module__.split(".")[0] == "torch"


def _holds(module: nn.Module, blocks: frozenset[nn.Module]) -> bool:
    return any(part in blocks for part in module.modules())
