"""Code from the Hugging Face Hub, through the ``kernels`` client."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from twinkle_tune.errors import RegistrationError, SourceError
from twinkle_tune.slot import Implementation, Slot
from twinkle_tune.source.digest import digest_text
from twinkle_tune.source.fit import implementation_of
from twinkle_tune.source.package import find_in

TRUST_VARIABLE = "TWINKLE_TRUST_REMOTE_CODE"
"""Environment variable: YES lets repos of publishers that the Hub does not know as trusted run. Default NO."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSource:
    """A layer or function of a kernel repo on the Hub.

    Attributes:
        repo_id: "organisation/name".
        name: the layer or function in it.
        revision: branch, tag or commit; or None.
        version: the kernel's version, an integer; or None. Exactly one of the two is needed to load.
    """

    repo_id: str
    name: str
    revision: str | None = None
    version: int | str | None = None
    kind: str = "hub"

    def __post_init__(self) -> None:
        if self.revision is not None and self.version is not None:
            raise RegistrationError(
                f"{self.repo_id}: got both revision={self.revision!r} and version={self.version!r}, "
                "expected one of them; drop one"
            )

    def load(self, slot: Slot, original: Callable[..., Any]) -> Implementation:
        """Download what is not cached, import it, and take the layer or function out of it, checked by form."""
        what = f"{slot.kind} {self.name} of {self.repo_id}"
        return implementation_of(find_in(self._kernel(), self.name, slot, what), slot, original, what)

    def digest(self, slot: Slot, original: Callable[..., Any]) -> str:
        """Digest of the repo, the commit that was loaded and the name."""
        return digest_text(self.repo_id, commit_of(self._kernel(), self.repo_id), self.name)

    def _kernel(self) -> ModuleType:
        pin = self._pin()
        try:
            from kernels import get_kernel
        except ImportError as error:
            raise SourceError(f"{self.repo_id}: Hub kernels need the kernels package; pip install kernels") from error
        # The client and the libraries below it raise errors of many kinds (network, trust, no build that fits).
        try:
            kernel: ModuleType = get_kernel(self.repo_id, **pin, trust_remote_code=trusts_remote_code())
        except Exception as error:
            raise SourceError(
                f"{self.repo_id}: cannot be had from the Hub ({type(error).__name__}: {error}); check the network, "
                f"the name and the version; {TRUST_VARIABLE}=YES trusts publishers that the Hub does not know"
            ) from error
        return kernel

    def _pin(self) -> dict[str, Any]:
        if self.revision is not None:
            return {"revision": self.revision}
        if self.version is None:
            raise SourceError(
                f"{self.repo_id}: got neither revision nor version, expected one of them so that it is known "
                "which code runs; register it with revision='main' or version=1"
            )
        if not str(self.version).isdecimal():
            raise SourceError(
                f"{self.repo_id}: got version={self.version!r}, expected a whole number as Hub kernels have today; "
                "register it with version=1, or with revision= a tag or commit"
            )
        return {"version": int(self.version)}


def trusts_remote_code() -> bool:
    """Whether the environment says to trust remote code."""
    return os.environ.get(TRUST_VARIABLE, "NO").strip().upper() in ("YES", "TRUE", "1", "ON")


def commit_of(kernel: ModuleType, repo_id: str) -> str:
    """The commit that a loaded Hub kernel came from.

    Raises:
        SourceError: the client does not tell.
    """
    from kernels import get_loaded_kernels

    for loaded in get_loaded_kernels():
        if loaded.module is kernel and loaded.repo_info is not None:
            return str(loaded.repo_info.revision)
    raise SourceError(f"{repo_id}: the kernels package does not tell which commit was loaded; give revision=<commit>")
