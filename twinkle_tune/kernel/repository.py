"""A layer of a Hub repo, for a mapping of the ``kernels`` package: as its documents write it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from twinkle_tune.slot import Slot, SlotKind
from twinkle_tune.source.hub import HubSource


@dataclass(frozen=True, slots=True)
class LayerRepository:
    """A layer of a kernel repo on the Hub; stands in a mapping where ``kernels.LayerRepository`` does.

    It takes what the documents of ``kernels`` show, which the package itself does not take any more: no pin at all, and
    a range of versions. What has no pin, and none in ``kernels.lock``, is not loaded: the original stays, and a
    warning says what to give.

    Attributes:
        repo_id: "organisation/name".
        layer_name: the layer in it.
        revision: branch, tag or commit.
        version: a whole number (the branch ``vN``), a dotted version or a range (">=0.0.3,<0.1").
        trust_remote_code: whether its publisher is trusted, or the repos that are.

    Raises:
        RegistrationError: both revision and version, or what is no repo or version.
    """

    repo_id: str
    layer_name: str
    revision: str | None = None
    version: int | str | None = None
    trust_remote_code: bool | Sequence[str] = False

    def __post_init__(self) -> None:
        if not isinstance(self.trust_remote_code, bool):
            # For its hash: kernels keeps what it has loaded by repository.
            object.__setattr__(self, "trust_remote_code", tuple(self.trust_remote_code))
        _ = self.source  # checks the arguments

    @property
    def source(self) -> HubSource:
        """The same as a source of candidates."""
        trust = self.trust_remote_code
        return HubSource(
            repo_id=self.repo_id,
            name=self.layer_name,
            revision=self.revision,
            version=self.version,
            trusted=trust if isinstance(trust, bool) else self.repo_id in trust,
        )

    def load(self) -> Callable[..., Any]:
        """The layer's class, for ``kernels.kernelize``.

        Raises:
            SourceError: it cannot be had.
        """
        found: Any = self.source.found(Slot(name=self.layer_name, kind=SlotKind.LAYER, target=""))
        return found  # type: ignore[no-any-return]
