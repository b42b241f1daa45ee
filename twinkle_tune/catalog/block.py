"""The blocks of a model: the layers of layers that it repeats, such as a decoder's.

Compiled as one, a block gains more than its parts do, as torch.compile fuses the additions and norms between them; and
all blocks of a model share the code ("regional compilation"). Whatever has a slot inside competes as well, and of a
block and its parts the better total wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn

from twinkle_tune.workload import Entries, Items, Named, Node, Workload

BLOCK = "Block"
"""The slot's name."""
_LISTS = (nn.ModuleList, nn.Sequential)


def blocks_of(model: nn.Module) -> frozenset[nn.Module]:
    """The elements of lists and sequences of modules that are of one class and hold layers which hold layers."""
    found = set()
    for module in model.modules():
        if isinstance(module, _LISTS) and len({type(part) for part in module}) == 1:
            found |= {part for part in module if any(child._modules for child in part.children())}
    return frozenset(part for part in found if not isinstance(part, _LISTS))


def outermost_blocks(model: nn.Module) -> tuple[nn.Module, ...]:
    """The blocks that lie in no other, in the model's order."""
    found = blocks_of(model)
    inside = {part for block in found for part in block.modules() if part is not block}
    return tuple(part for part in model.modules() if part in found and part not in inside)


def repeats(workload: Workload) -> bool:
    """Whether the call can be made again and again: it is given nothing but tensors and plain values.

    A cache of keys and values is neither, and each call makes it longer.
    """
    return not any(_is_object(node) for node in (*workload.args, *(node for _, node in workload.kwargs)))


def _is_object(node: Node) -> bool:
    return (isinstance(node, Named) and node.kind == "object") or any(map(_is_object, _inside(node)))


def _inside(node: Node) -> Iterator[Node] | Iterable[Node]:
    match node:
        case Items():
            return node.items
        case Entries():
            return (value for _, value in node.entries)
        case _:
            return ()


def composites(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Path and module of all that has children of its own and a forward: what may be one graph."""
    for path, part in module.named_modules():
        plain = (nn.ModuleList, nn.ModuleDict, nn.Sequential, nn.ParameterList)
        if part._modules and not isinstance(part, plain) and type(part).forward is not nn.Module.forward:
            yield path, part
