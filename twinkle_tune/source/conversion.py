"""How the weights of a layout are made of a layer's own: what transformers' ``conversion_mapping`` says, for one layer.

Understood are renamings and converters that concatenate, chunk or transpose, each of which gradients flow through; a
pattern is a plain name. Everything else is refused by name. What no rule speaks of keeps its name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from twinkle_tune.errors import SignatureError

_PLAIN = re.compile(r"\w+(\.\w+)*")
_EXPECTED = "expected WeightRenaming, and WeightConverter of Concatenate, Chunk and Transpose, with plain names"
Step = Callable[[list[Tensor]], list[Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """One weight of a layout.

    Attributes:
        sources: names of the layer's weights that it is made of.
        steps: what is done with them, one after another.
        index: which of the results it is.
    """

    sources: tuple[str, ...]
    steps: tuple[Step, ...] = ()
    index: int = 0

    def of(self, weights: Mapping[str, Tensor]) -> Tensor:
        """The weight, of the layer's as they are now."""
        tensors = [weights[name] for name in self.sources]
        for step in self.steps:
            tensors = step(tensors)
        return tensors[self.index]


def conversion_of(layout: type[nn.Module], names: tuple[str, ...], place: str, what: str) -> dict[str, Made]:
    """What each weight of a layout is made of, by its name there.

    Args:
        layout: the layout's class; its rules are in ``conversion_mapping``.
        names: of the layer's weights.
        place: what the names of the layout's weights begin with there ("norm." of a kernel that stands in ``norm``).
        what: how messages name the kernel.

    Raises:
        SignatureError: a rule is none of those that are understood, or fits the layer's weights in part only.
    """
    made: dict[str, Made] = {}
    left = list(names)
    for rule in getattr(layout, "conversion_mapping", None) or ():
        sources, targets = (_plain(_listed(rule, key), what) for key in ("source_patterns", "target_patterns"))
        steps = tuple(_step(each, len(targets), what) for each in getattr(rule, "operations", None) or ())
        if not steps and len(sources) != len(targets):
            raise SignatureError(f"{what}: its conversion of {sources[0]!r} has no operation; {_EXPECTED}")
        for group in _groups(sources, targets, left, is_renaming=not steps, what=what):
            used, prefix, tail = group
            left = [name for name in left if name not in used]
            for index, target in enumerate(targets):
                made[_at(prefix, target, tail)] = Made(sources=tuple(used), steps=steps, index=index)
    made |= {name: Made(sources=(name,)) for name in left}
    return {_inside(name, place, what): each for name, each in made.items()}


def _groups(
    sources: list[str], targets: list[str], names: list[str], *, is_renaming: bool, what: str
) -> list[tuple[list[str], str, str]]:
    """The weights that a rule speaks of, each time with what stands before the rule's names, or what they have more."""
    found: dict[tuple[str, str], list[str]] = {}
    for source in sources:
        for name in names:
            if name == source or name.endswith(f".{source}"):
                found.setdefault((name[: len(name) - len(source)], ""), []).append(name)
            elif source.endswith(f".{name}"):
                found.setdefault(("", source[: len(source) - len(name)]), []).append(name)
    for used in found.values():
        if len(used) != len(sources) or (is_renaming and len(sources) > 1):
            raise SignatureError(
                f"{what}: its conversion of {', '.join(sources)} fits {', '.join(used)} alone; {_EXPECTED}"
            )
    return [(used, prefix, tail) for (prefix, tail), used in found.items()]


def _at(prefix: str, target: str, more: str) -> str:
    """A rule's target as a name among the layer's weights."""
    return prefix + (target.removeprefix(more) if more else target)


def _inside(name: str, place: str, what: str) -> str:
    if not name.startswith(place):
        raise SignatureError(f"{what}: its conversion leaves {name!r}, expected all of {place}*; convert it as well")
    return name.removeprefix(place)


def _listed(rule: Any, key: str) -> list[str]:
    found = getattr(rule, f"_original_{key}", None) or getattr(rule, key, None) or []
    return [found] if isinstance(found, str) else list(found)


def _plain(patterns: list[str], what: str) -> list[str]:
    names = [pattern.replace("\\.", ".") for pattern in patterns]
    for name in names or [""]:
        if not _PLAIN.fullmatch(name):
            raise SignatureError(f"{what}: its conversion speaks of {name!r}, which is no plain name; {_EXPECTED}")
    return names


def _step(operation: Any, targets: int, what: str) -> Step:
    kind, dim = type(operation).__name__, getattr(operation, "dim", 0)
    if kind == "Concatenate":
        return lambda tensors: [torch.cat(tensors, dim=dim)]
    if kind == "Transpose" and not operation.check_dims:
        dims = operation.dim0, operation.dim1
        return lambda tensors: [tensor.transpose(*dims).contiguous() for tensor in tensors]
    if kind == "Chunk" and operation.num_shards_attribute is None:
        return lambda tensors: [part.contiguous() for part in tensors[0].chunk(targets, dim=dim)]
    raise SignatureError(f"{what}: its conversion does {operation!r:.80}; {_EXPECTED}")
