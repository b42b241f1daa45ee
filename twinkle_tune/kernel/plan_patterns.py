"""From a profile's winners for pieces of blocks to the forwards of those blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from twinkle_tune.errors import GraphError
from twinkle_tune.graph.form import Form
from twinkle_tune.kernel.host import Host, Kernel, Variant
from twinkle_tune.kernel.patch import replaced_by_another
from twinkle_tune.kernel.paths import contests_at
from twinkle_tune.kernel.pieces import Piece, traced_pieces
from twinkle_tune.kernel.plan import Kept
from twinkle_tune.kernel.record import Binding
from twinkle_tune.kernel.resolve import Resolver
from twinkle_tune.profile.schema import Contest, Profile
from twinkle_tune.slot import ORIGINAL, SlotKind
from twinkle_tune.workload import Plain, Workload, module_settings, signature_of

Layer = tuple[nn.Module, Callable[..., Any], Binding]
Entry = Callable[[str, nn.Module, Sequence[Contest], Resolver], "tuple[Callable[..., Any], Binding] | Kept"]
"""What is bound to a module, by path, for contests that speak of it; or why nothing is."""


def plan_patterns(
    model: nn.Module, profile: Profile, resolver: Resolver, entry_of: Entry
) -> tuple[tuple[Layer, ...], tuple[Kept, ...]]:
    """The forwards of the blocks with winners in them, each traced again as it is now, and what keeps its original."""
    contests = [contest for contest in profile.contests if contest.slot.kind is SlotKind.PATTERN]
    planned: list[Layer] = []
    kept: list[Kept] = []
    placed: set[int] = set()
    for path, host in model.named_modules() if contests else ():
        spoken_of = contests_at(path, contests, host_path)
        if not spoken_of:
            continue
        if replaced_by_another(host):
            reason = "the forward of its block was replaced on the instance by somebody else"
            kept.append(Kept(slot=f"{spoken_of[0].slot.name} {path}", reason=reason))
            placed |= {id(contest) for contest in spoken_of}
            continue
        variants, bound = [], []
        for text in dict.fromkeys(form_of(contest.workload) for contest in spoken_of):
            of_form = [contest for contest in spoken_of if form_of(contest.workload) == text]
            made = _variant(path, host, Form.read(text), of_form, resolver, entry_of)
            placed |= made.placed
            kept += made.kept
            if made.variant is not None:
                variants.append(made.variant)
                bound += made.bound
        if variants:
            planned.append((host, Host(*variants), _as_one(path, bound)))
    for contest in contests:
        if id(contest) not in placed and contest.selection.winner != ORIGINAL:
            where = ", ".join(contest.instances[:3])
            resolver.note(contest, f"the model has no such piece at {where}; is it the one that was profiled?")
    return tuple(planned), tuple(kept)


def beside_pieces(layers: tuple[Layer, ...], pieces: tuple[Layer, ...]) -> tuple[tuple[Layer, ...], tuple[Kept, ...]]:
    """Both, but for pieces of blocks that have a forward bound as a whole."""
    taken = {id(module) for module, _, _ in layers}
    lost = [binding for module, _, binding in pieces if id(module) in taken]
    reason = "a winner stands in the place of the whole layer"
    return (
        (*layers, *(each for each in pieces if id(each[0]) not in taken)),
        tuple(Kept(slot=f"{b.slot} {b.path}", reason=reason) for b in lost),
    )


def host_path(instance: str) -> str:
    """The path of the block that a piece stands in."""
    return instance.rpartition(":")[0]


def form_of(workload: Workload) -> str:
    """The form of the block's calls in which a piece was measured."""
    node = dict(workload.settings).get("graph_form")
    return str(node.value) if isinstance(node, Plain) else ""


class _Made:
    """What came of one form of a host's calls."""

    def __init__(self) -> None:
        self.variant: Variant | None = None
        self.bound: list[Binding] = []
        self.kept: list[Kept] = []
        self.placed: set[int] = set()


def _variant(
    path: str, host: nn.Module, form: Form, contests: Sequence[Contest], resolver: Resolver, entry_of: Entry
) -> _Made:
    made = _Made()
    try:
        traced, pieces = traced_pieces(path, host, form, resolver.registry)
    except GraphError as error:
        for contest in contests:
            resolver.note(contest, str(error))
        made.placed |= {id(contest) for contest in contests}
        return made
    chosen: list[tuple[Piece, Kernel]] = []
    for piece in pieces:
        signature = signature_of(piece.slot.target, module_settings(piece.module))
        spoken_of = contests_at(piece.path, [c for c in contests if c.slot == piece.slot])
        fitting = [c for c in spoken_of if c.workload.signature == signature]
        made.placed |= {id(contest) for contest in spoken_of}
        if not fitting:
            for contest in spoken_of:
                resolver.note(contest, f"{piece.path}: its norms or settings changed; profile again")
            continue
        entry = entry_of(piece.path, piece.module, fitting, resolver)
        if isinstance(entry, Kept):
            made.kept.append(entry)
        else:
            chosen.append((piece, entry))
            made.bound.append(entry[1])
    if chosen:
        made.variant = Variant.of(traced, form, [p.place for p, _ in chosen], [kernel for _, kernel in chosen])
    return made


def _as_one(path: str, bound: Sequence[Binding]) -> Binding:
    return Binding(
        slot=", ".join(dict.fromkeys(b.slot for b in bound)),
        path=path,
        candidate=", ".join(dict.fromkeys(b.candidate for b in bound)),
        rows="; ".join(dict.fromkeys(b.rows for b in bound)),
    )
