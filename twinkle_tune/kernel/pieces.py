"""The pieces of a model's blocks for which kernels compete: where they stand, and as slots."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import fx, nn

from twinkle_tune.catalog import add_norm, linear_act, qk_rope, written_attention
from twinkle_tune.catalog.block import blocks_of, composites
from twinkle_tune.catalog.functions import is_slot
from twinkle_tune.errors import GraphError
from twinkle_tune.graph.form import Form
from twinkle_tune.graph.names import Whole
from twinkle_tune.graph.pattern import Place, places
from twinkle_tune.graph.trace import Traced, trace
from twinkle_tune.kernel.host import Host, Variant
from twinkle_tune.kernel.record import replaced_by_another
from twinkle_tune.kernel.registry import Registry
from twinkle_tune.occurrence import Occurrence
from twinkle_tune.slot import Slot, SlotKind
from twinkle_tune.workload import target_of

_CATALOG = (add_norm, linear_act, written_attention, qk_rope)
"""What the catalog looks for in graphs, each with ``find`` and ``may_hold``."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Piece:
    """A piece as it stands in a model.

    Attributes:
        path: that of its host, a colon, and the node that it gives last: "model.layers.0:post_attention_layernorm".
        place: where it is in the host's graph.
        module: what computes it.
    """

    path: str
    place: Place
    module: nn.Module

    @property
    def slot(self) -> Slot:
        """What it is a place of."""
        return Slot(name=self.place.name, kind=SlotKind.PATTERN, target=target_of(type(self.module)))


def hosts_of(model: nn.Module, registry: Registry) -> tuple[tuple[str, nn.Module], ...]:
    """Path and module of what may hold pieces: blocks that repeat and what lies in them, with children of the kind."""
    inside = {id(part) for block in blocks_of(model) for part in block.modules()}
    return tuple(
        (path, part)
        for path, part in composites(model)
        if id(part) in inside
        and not replaced_by_another(part)
        and (registry.patterns or any(each.may_hold(part) for each in _CATALOG))
    )


def places_in(traced: Traced, registry: Registry) -> tuple[Place, ...]:
    """The places of registered patterns in a graph, then those of the catalog's, of which none overlap."""
    found: list[Place] = []
    taken: set[fx.Node] = set()
    for place in (*_registered(traced, registry), *(p for each in _CATALOG for p in each.find(traced))):
        if not taken & set(place.match.nodes):
            taken |= set(place.match.nodes)
            found.append(place)
    return tuple(found)


def _registered(traced: Traced, registry: Registry) -> Iterator[Place]:
    for pattern in registry.patterns:
        try:
            yield from places(traced, pattern)
        except GraphError:
            continue  # it overlaps itself here: nothing of it is a place


def whole_functions(registry: Registry) -> Whole:
    """Which functions stay calls in a graph, because a kernel may be put in their place."""
    registered = frozenset(registry.functions)
    return lambda place, name, value: (place, name) in registered or is_slot(value)


def traced_pieces(path: str, host: nn.Module, form: Form, registry: Registry) -> tuple[Traced, tuple[Piece, ...]]:
    """The graph of a host for calls of a form, and the pieces in it.

    Raises:
        GraphError: it is no graph.
    """
    traced = trace(host, form, whole_functions(registry))
    found = places_in(traced, registry)
    return traced, tuple(Piece(path=f"{path}:{p.node}", place=p, module=p.piece(host, form)) for p in found)


def occurrences_of(pieces: Iterable[Piece]) -> tuple[Occurrence, ...]:
    """The slots that pieces are, each with its instances."""
    instances: dict[Slot, list[tuple[str, nn.Module]]] = {}
    for piece in pieces:
        instances.setdefault(piece.slot, []).append((piece.path, piece.module))
    return tuple(Occurrence(slot=slot, instances=tuple(found)) for slot, found in instances.items())


def usual_pieces(model: nn.Module, registry: Registry) -> tuple[Piece, ...]:
    """The pieces of a model that was not run: as its blocks are called with what they must be given alone."""
    found: list[Piece] = []
    for path, host in hosts_of(model, registry):
        try:
            found += traced_pieces(path, host, Form.usual(type(host).forward, training=host.training), registry)[1]
        except GraphError:
            continue
    return tuple(found)


def standing(hosts: Mapping[nn.Module, list[tuple[Traced, Form, tuple[Piece, ...]]]]) -> dict[nn.Module, Host]:
    """For each host a forward in which these very pieces stand, with the pattern's own operations."""
    made: dict[nn.Module, Host] = {}
    for host, found in hosts.items():
        variants = [
            Variant.of(traced, form, [p.place for p in pieces], [None] * len(pieces)) for traced, form, pieces in found
        ]
        made[host] = Host(*variants)
        made[host].hold(host, [tuple(p.module for p in pieces) for _, _, pieces in found])
    return made
