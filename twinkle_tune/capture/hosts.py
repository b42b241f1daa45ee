"""The pieces of a model's blocks as they are called in its steps, and standing there while calls are observed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from twinkle_tune.capture.sites import Site, eagerly, replaced
from twinkle_tune.capture.step import Step
from twinkle_tune.capture.taken import taken
from twinkle_tune.capture.timer import run
from twinkle_tune.errors import GraphError
from twinkle_tune.graph.form import Form
from twinkle_tune.graph.trace import Traced
from twinkle_tune.kernel.host import Host
from twinkle_tune.kernel.pieces import Piece, hosts_of, occurrences_of, standing, traced_pieces
from twinkle_tune.kernel.registry import Registry
from twinkle_tune.occurrence import Occurrence
from twinkle_tune.slot import Slot, SlotKind
from twinkle_tune.workload import target_of

_MOST_FORMS = 4
"""Of the calls of one host; a host that is called in more ways is left alone in the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosts:
    """Blocks with pieces in them.

    Attributes:
        occurrences: the pieces as slots.
        sites: of the hosts.
        forwards: of each host, with its pieces.
    """

    occurrences: tuple[Occurrence, ...] = ()
    sites: tuple[Site, ...] = ()
    forwards: dict[nn.Module, Host] = field(default_factory=dict)

    @contextmanager
    def standing(self) -> Iterator[None]:
        """While this is open the hosts run with their pieces, which then can be observed."""

        def wrap(site: Site, original: Callable[..., Any]) -> Callable[..., Any]:
            assert site.module is not None
            module, host = site.module, self.forwards[site.module]

            def with_pieces(*args: Any, **kwargs: Any) -> Any:
                return host(module, *args, **kwargs)

            return with_pieces

        with replaced(self.sites, wrap):
            yield


NONE = Hosts()


def find_hosts(model: nn.Module, steps: Sequence[Step], registry: Registry) -> Hosts:
    """Run each step once and see how blocks are called; the pieces of those that are graphs. The model stays as it is.

    A step that the model does not take is left to who observes it.
    """
    sites = {part: _site(path, part) for path, part in hosts_of(model, registry)}
    if not sites:
        return NONE
    forms: dict[nn.Module, dict[Form, None]] = {}

    def noted(site: Site, original: Callable[..., Any]) -> Callable[..., Any]:
        assert site.module is not None
        module = site.module

        def call(*args: Any, **kwargs: Any) -> Any:
            known = forms.setdefault(module, {})
            if len(known) < _MOST_FORMS:
                known[Form.of(args, kwargs, training=module.training)] = None
            return original(*args, **kwargs)

        return call

    with eagerly(), replaced(tuple(sites.values()), noted):
        taken(steps, lambda step: run(step, model))
    hosts: dict[nn.Module, list[tuple[Traced, Form, tuple[Piece, ...]]]] = {}
    for host, found in forms.items():
        for form in found:
            try:
                traced, pieces = traced_pieces(sites[host].path, host, form, registry)
            except GraphError:
                continue
            if pieces:
                hosts.setdefault(host, []).append((traced, form, pieces))
    every = [piece for found in hosts.values() for _, _, pieces in found for piece in pieces]
    return Hosts(
        occurrences=occurrences_of(every), sites=tuple(sites[host] for host in hosts), forwards=standing(hosts)
    )


def _site(path: str, module: nn.Module) -> Site:
    target = target_of(type(module))
    return Site(slot=Slot(name="host", kind=SlotKind.LAYER, target=target), path=path, module=module, target=target)
