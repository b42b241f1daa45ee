"""Code that is already in the process: the original itself, an implementation given in Python, a repo object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from twinkle_tune.environment import package_version
from twinkle_tune.errors import SourceError
from twinkle_tune.slot import Implementation, Slot
from twinkle_tune.source.digest import digest_code, digest_text
from twinkle_tune.source.fit import implementation_of
from twinkle_tune.source.layout import layout_of


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginalSource:
    """The code that the model came with."""

    kind: str = "original"

    def load(self, slot: Slot, original: Callable[..., Any]) -> Implementation:
        """The original."""
        return Implementation(call=original)

    def digest(self, slot: Slot, original: Callable[..., Any]) -> str:
        """Digest of the original's code: it changes when another version of the library brings another."""
        return digest_code(original)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImplSource:
    """A class or function given in Python.

    Attributes:
        impl: an nn.Module class without a constructor, or a function (of the module, for a layer).
        kind: "impl", or for built-in candidates what they are made of ("torch", "liger", "triton").
        requires: why it cannot be used here and now ("" if it can), asked when it is loaded.
        package: the installed package that it calls by name and whose version is part of the digest; "" for none.
    """

    impl: Callable[..., Any]
    kind: str = "impl"
    requires: Callable[[], str] | None = None
    package: str = ""

    def load(self, slot: Slot, original: Callable[..., Any]) -> Implementation:
        """The implementation, checked by form. Raises SourceError where it is missing something."""
        missing = self.requires() if self.requires else ""
        if missing:
            raise SourceError(missing)
        return implementation_of(self.impl, slot, original, f"{self.kind} {_name(self.impl)}")

    def digest(self, slot: Slot, original: Callable[..., Any]) -> str:
        """Digest of its code and of what it uses from its own package, and of the version of what it wraps."""
        code = _digest(self.impl)
        return digest_text(code, package_version(self.package)) if self.package else code


class Repo(Protocol):
    """A repo object: anything with ``load()`` that gives a class or function."""

    def load(self) -> Callable[..., Any]:
        """The class or function."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoSource:
    """A repo object, such as a ``kernels.LayerRepository``."""

    repo: Repo
    kind: str = "repo"

    def load(self, slot: Slot, original: Callable[..., Any]) -> Implementation:
        """What the repo's ``load()`` gives, checked by form."""
        return implementation_of(self._loaded(), slot, original, f"repo object {self.repo!r:.120}")

    def digest(self, slot: Slot, original: Callable[..., Any]) -> str:
        """Digest of what ``load()`` gives."""
        return _digest(self._loaded())

    def _loaded(self) -> Callable[..., Any]:
        # A repo's load may do anything (a download, an import): whatever goes wrong in it is told as its failure.
        try:
            return self.repo.load()
        except Exception as error:
            raise SourceError(
                f"repo object {self.repo!r:.120}: load() raised {type(error).__name__}: {error}; "
                "call its load() alone to see why"
            ) from error


def _digest(loaded: object) -> str:
    """Digest of a kernel's code, and of its layout's where it has one."""
    layout = layout_of(loaded)
    return digest_code(loaded) if layout is None else digest_text(digest_code(loaded), digest_code(layout))


def _name(obj: object) -> str:
    return str(getattr(obj, "__qualname__", type(obj).__qualname__))
