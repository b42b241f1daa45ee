"""A kernel that stands for several children of a layer, one after another: a candidate for the layer around them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from twinkle_tune.slot import Implementation, Slot, Source
from twinkle_tune.source.digest import digest_text
from twinkle_tune.source.hub import commit_of, pinned
from twinkle_tune.source.layout import Children


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildrenSource:
    """A kernel of any source, in the place of some children of a layer.

    Attributes:
        source: where the kernel comes from. Beside its class is its layout, whose constructor takes the children.
        names: of the children, in the order in which the layer runs them.
    """

    source: Source
    names: tuple[str, ...]

    @property
    def kind(self) -> str:
        """That of the kernel's source."""
        return self.source.kind

    def load(self, slot: Slot, original: Callable[..., Any]) -> Implementation:
        """The forward of the layer, with the kernel among its children."""
        return self.source.load(slot, Children(names=self.names, forward=original))

    def digest(self, slot: Slot, original: Callable[..., Any]) -> str:
        """Digest of the kernel, the children's names, and of the layer's own forward, which runs around it."""
        return digest_text(self.source.digest(slot, original), *self.names)

    def commit(self) -> str:
        """The commit of a kernel of the Hub; "" of any other."""
        return commit_of(self.source)

    def at(self, commit: str) -> ChildrenSource:
        """The same with the kernel at a commit."""
        return replace(self, source=pinned(self.source, commit))
