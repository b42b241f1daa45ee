"""Code from the Hugging Face Hub, through the ``kernels`` client."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from twinkle_tune.errors import RegistrationError, SourceError
from twinkle_tune.slot import Implementation, Slot, Source
from twinkle_tune.source.digest import digest_folder, digest_text
from twinkle_tune.source.fit import implementation_of
from twinkle_tune.source.hub_client import is_offline, unfit_client
from twinkle_tune.source.hub_files import SIGNATURE_VARIABLE, Build, build_at, cache_folder, import_build, local_build
from twinkle_tune.source.hub_trust import PUBLISHERS_VARIABLE, TRUST_VARIABLE, check_trust
from twinkle_tune.source.hub_versions import check_version, is_commit, lock_state, remember, resolve
from twinkle_tune.source.package import find_in

_REPO_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
_REFUSED_FOR_S = 120.0
"""A failure is told again without asking the Hub again for so long: a run has many contests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSource:
    """A layer or function of a kernel repo on the Hub.

    Whatever is given is resolved to a commit, once in a process; :meth:`at` pins it.

    Attributes:
        repo_id: "organisation/name".
        name: the layer or function in it.
        revision: branch, tag or commit; or None.
        version: the kernel's version as a whole number, a dotted version, or a range (">=0.0.3,<0.1"); or None. One
            of the two is needed to load, or an entry of ``kernels.lock``.
        trusted: whether whoever registered it vouches for its publisher.
    """

    repo_id: str
    name: str
    revision: str | None = None
    version: int | str | None = None
    trusted: bool = False
    kind: str = "hub"

    def __post_init__(self) -> None:
        if not _REPO_ID.fullmatch(self.repo_id):
            raise RegistrationError(f"repo_id: got {self.repo_id!r:.80}, expected 'organisation/name'; check the name")
        if self.revision is not None and self.version is not None:
            raise RegistrationError(
                f"{self.repo_id}: got both revision={self.revision!r} and version={self.version!r}, "
                "expected one of them; drop one"
            )
        if self.version is not None:
            check_version(self.repo_id, self.version)

    def load(self, slot: Slot, original: Callable[..., Any]) -> Implementation:
        """Fetch what is not cached, import it, and take the layer or function out of it, checked by form."""
        return implementation_of(self.found(slot), slot, original, self._what(slot))

    def found(self, slot: Slot) -> object:
        """The layer or function as it is in the repo, unchecked.

        Raises:
            SourceError: it cannot be had.
        """
        module = import_build(self.repo_id, self._build())
        return find_in(module, self.name, slot, self._what(slot))

    def _what(self, slot: Slot) -> str:
        return f"{slot.kind} {self.name} of {self.repo_id}"

    def digest(self, slot: Slot, original: Callable[..., Any]) -> str:
        """Digest of the repo's name, the layer's, and the build's files as they are on the disk now."""
        return digest_text(self.repo_id, self.name, digest_folder(self._build().folder))

    def commit(self) -> str:
        """The commit that its code is of; "" where LOCAL_KERNELS gives a folder in its place.

        Raises:
            SourceError: the code cannot be had.
        """
        return self._build().commit

    def at(self, commit: str) -> HubSource:
        """The same layer or function at a commit."""
        return replace(self, revision=commit, version=None)

    def _build(self) -> Build:
        try:
            import kernels  # noqa: F401
        except ImportError as error:
            raise SourceError(f"{self.repo_id}: Hub kernels need the kernels package; pip install kernels") from error
        # Everything that the answer depends on.
        key = (self.repo_id, self.revision, self.version, self.trusted, _surroundings())
        found, at = _builds.get(key, (None, 0.0))
        if isinstance(found, SourceError) and time.monotonic() - at > _REFUSED_FOR_S:
            found = None
        if found is None:
            try:
                found = self._find()
            except SourceError as error:
                found = error
            _builds[key] = found, time.monotonic()
        if isinstance(found, SourceError):
            raise SourceError(str(found)) from found.__cause__
        return found

    def _find(self) -> Build:
        if unfit := unfit_client():
            raise SourceError(f"{self.repo_id}: {unfit}")
        local = local_build(self.repo_id)
        if local is not None:
            return local
        if not self.trusted:
            check_trust(self.repo_id)
        cache = cache_folder()
        ref = resolve(self.repo_id, self.revision, self.version, cache)
        found = build_at(self.repo_id, ref.commit, cache)
        # Once it is there whole: what a name means offline must be there.
        remember(self.repo_id, ref.name, ref.commit, cache)
        return found


_builds: dict[object, tuple[Build | SourceError | None, float]] = {}


def forget_builds() -> None:
    """Resolve every name anew: a branch that moved is followed by what is loaded from now on."""
    _builds.clear()


def source_of_repository(repository: object) -> HubSource | None:
    """The source that a repository object of the ``kernels`` package speaks of; None for any other object.

    Understood are LayerRepository and FuncRepository, and their locked forms (at the commit that is locked).
    """
    kind = type(repository)
    if kind.__module__.partition(".")[0] != "kernels" or not hasattr(repository, "_repo_id"):
        return None
    held = vars(repository)
    name = held.get("layer_name") or held.get("func_name")
    if not isinstance(name, str):
        return None
    revision, version = held.get("_revision"), held.get("_version")
    if "kernel_locks" in held:
        revision, version = held["kernel_locks"][held["kernel_dep"]].commit, None
    trust, repo_id = held.get("_trust_remote_code", False), str(held["_repo_id"])
    trusted = trust is True or (isinstance(trust, list) and repo_id in trust)
    return HubSource(repo_id=repo_id, name=name, revision=revision, version=version, trusted=trusted)


def commit_of(source: Source) -> str:
    """The commit of a source that has one, else ""; "" too where its code cannot be had."""
    told = getattr(source, "commit", None)
    try:
        return str(told()) if callable(told) else ""
    except SourceError:
        return ""


def place_of(source: Source) -> tuple[str, str]:
    """The repo of a Hub source, and the layer or function in it; both "" for any other source."""
    return (source.repo_id, source.name) if isinstance(source, HubSource) else ("", "")


def pinned(source: Source, commit: str) -> Source:
    """A source of the Hub at a commit that was written down; any other source, or none written, as it is."""
    at = getattr(source, "at", None)
    return at(commit) if callable(at) and is_commit(commit) else source


def _surroundings() -> tuple[str, ...]:
    from huggingface_hub import constants

    names = ("LOCAL_KERNELS", TRUST_VARIABLE, PUBLISHERS_VARIABLE, SIGNATURE_VARIABLE)
    here = (os.getcwd(), lock_state(), constants.ENDPOINT, str(is_offline()), str(cache_folder()))
    return (*here, *(os.environ.get(name, "") for name in names))
