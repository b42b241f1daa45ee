"""Slots and candidates: the places in a model that can be filled, and what could fill them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from twinkle_tune.device import capability
from twinkle_tune.mode import Mode, Needs, distance

ORIGINAL = "original"
"""The name of the candidate that is always there and wins ties."""
ATTENTION = "attn_implementation"
"""The slot that a transformers model is by its switch of that name. Slots inside of it stay their own."""
HEAD = "lm_head+loss"
"""The slot that a language model is by its last layer and its loss. Slots inside of it stay their own."""
CONVERTS = "it reads weights in another layout than the layer has them"
"""What is noted at a candidate that does."""
MODEL = "Model"
"""What reports call the place of a way of running the whole model."""
OF_THE_MODEL = frozenset({ATTENTION, HEAD, MODEL})
"""Slots that are a whole model."""


class SlotKind(StrEnum):
    """What a slot replaces."""

    LAYER = "layer"
    """The forward of instances of a module class; bound per instance."""
    FUNCTION = "function"
    """A function of a module, or a method of a class; patched for the whole process."""
    PATTERN = "pattern"
    """A piece of a block's graph, with the block's own children in it; bound with the block's forward."""

    @property
    def takes_module(self) -> bool:
        """Whether a candidate takes a module first: the layer, or the piece."""
        return self is not SlotKind.FUNCTION


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A replaceable place.

    Attributes:
        name: the kernel name of a layer ("RMSNorm"), or "module.function".
        kind: layer, function or pattern.
        target: "module:qualified.name" of the class or function that is replaced, or of the piece's class.
    """

    name: str
    kind: SlotKind
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Implementation:
    """Loaded code of a candidate.

    Attributes:
        call: for a layer ``forward(self, ...)`` that takes the module first; for a function its replacement.
        has_backward: whether it claims to support gradients.
        can_torch_compile: whether it claims to work under torch.compile.
        per_shape: whether it is made anew for each shape while the model runs (torch.compile): it is then bound to
            the shapes that were measured and to no others.
        within_measured: whether it is another algorithm than the original, whose cost grows otherwise with the size:
            it is then bound from the least to the largest size that was measured.
        converts: whether it reads weights in another layout than the layer has them: it is then bound only where it was
            compared with the original.
    """

    call: Callable[..., Any]
    has_backward: bool = True
    can_torch_compile: bool = True
    per_shape: bool = False
    within_measured: bool = False
    converts: bool = False

    def unfit_for(self, mode: Mode) -> str:
        """Why it must not compete in ``mode`` by its own claims; "" if it may."""
        return self.lacks(Needs.of(mode))

    def lacks(self, needs: Needs) -> str:
        """What of ``needs`` it cannot do by its own claims; "" if nothing."""
        if needs.backward and not self.has_backward:
            return f"it declares has_backward=False and {needs.backward}"
        if needs.torch_compile and not self.can_torch_compile:
            return f"it declares can_torch_compile=False and {needs.torch_compile}"
        return ""


class Source(Protocol):
    """Where a candidate's code comes from. See :mod:`twinkle_tune.source` for the kinds there are."""

    @property
    def kind(self) -> str:
        """One of original, impl, local, hub, repo, torch, triton, compile, liger, switch."""

    def load(self, slot: Slot, original: Callable[..., Any]) -> Implementation:
        """The code that can stand in for ``original`` (a class's unbound forward, or a function).

        Raises:
            SourceError: it cannot be had, or cannot take the original's place.
        """

    def digest(self, slot: Slot, original: Callable[..., Any]) -> str:
        """A hash of the code that changes when the code does.

        Raises:
            SourceError: the code cannot be had.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One implementation for a slot.

    Attributes:
        name: unique in its slot, stable from run to run: a profile refers to it.
        source: where the code comes from.
        device: the only device that it is for; None for every device.
        modes: the modes that it is for; empty for every mode. It also serves those that fall back to them
            (:data:`twinkle_tune.mode.FALLBACKS`).
        alone: whether it serves its modes alone.
        capabilities: the least and the most compute capability (90 for 9.0) that it is for; None for all of them.
    """

    name: str
    source: Source
    device: str | None = None
    modes: frozenset[Mode] = field(default=frozenset())
    alone: bool = False
    capabilities: tuple[int, int] | None = None

    def competes(self, device: str, mode: Mode) -> bool:
        """Whether it may compete on this device in this mode."""
        return self.is_for(device) and self.distance(mode) is not None

    def is_for(self, device: str) -> bool:
        """Whether it is for this device, and for the compute capability that it has."""
        if self.device not in (None, device) or self.capabilities is None:
            return self.device in (None, device)
        here = capability(device)
        return here is not None and self.capabilities[0] <= here <= self.capabilities[1]

    def distance(self, mode: Mode) -> int | None:
        """How far its modes are from ``mode``, 0 the closest; None where it must not run in it."""
        return None if self.alone and mode not in self.modes else distance(self.modes, mode)


def closest(candidates: Iterable[Candidate], mode: Mode) -> Candidate | None:
    """Which of the candidates for a device runs without a profile; None if none may.

    The one for the narrowest range of compute capabilities, of these the one whose mode is the closest, of these the
    one that was registered last.
    """

    def order(numbered: tuple[int, Candidate]) -> tuple[int, int, int]:
        number, candidate = numbered
        least, most = candidate.capabilities or (0, sys.maxsize)
        return most - least, candidate.distance(mode) or 0, -number

    fitting = [(number, each) for number, each in enumerate(candidates) if each.distance(mode) is not None]
    return min(fitting, key=order)[1] if fitting else None
