"""An implementation that a model of transformers has built in, behind a switch of its configuration."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from twinkle_tune.environment import package_version
from twinkle_tune.slot import Implementation, Slot
from twinkle_tune.source.digest import digest_text

SDPA_BACKENDS = {
    "flash": "FLASH_ATTENTION",
    "efficient": "EFFICIENT_ATTENTION",
    "cudnn": "CUDNN_ATTENTION",
    "math": "MATH",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchSource:
    """The original with a switch of its ``config`` set otherwise, for the length of each call.

    The switch is put back after the call, so that whoever reads it in between finds what he set. Where a backward will
    run parts of the forward once more (gradient checkpointing) that would be too early: there it is left alone.

    Attributes:
        knob: "attn_implementation" or "experts_implementation".
        value: "eager", "sdpa", "flex_attention", "grouped_mm", ...
        backend: of "sdpa", one of :data:`SDPA_BACKENDS`; "" leaves the choice to torch.
    """

    knob: str
    value: str
    backend: str = ""
    kind: str = "switch"

    def load(self, slot: Slot, original: Callable[..., Any]) -> Implementation:
        """A forward that sets the switch, calls the original, and puts the switch back."""
        attribute, value, backend = f"_{self.knob}_internal", self.value, self.backend

        def forward(module: Any, *args: Any, **kwargs: Any) -> Any:
            if torch.is_grad_enabled() and recomputes(module):
                return original(module, *args, **kwargs)
            config = module.config
            before = getattr(config, attribute)
            setattr(config, attribute, value)
            try:
                with _backend(backend):
                    return original(module, *args, **kwargs)
            finally:
                setattr(config, attribute, before)

        return Implementation(call=forward, within_measured=True)

    def digest(self, slot: Slot, original: Callable[..., Any]) -> str:
        """Digest of the setting and of the versions of the packages that hold what it stands for."""
        versions = (package_version("transformers"), package_version("torch"))
        return digest_text(self.knob, self.value, self.backend, *versions)


def recomputes(module: nn.Module) -> bool:
    """Whether a part of the module is run once more in the backward."""
    return any(
        getattr(part, "gradient_checkpointing", False) is True or type(part).__name__ == "CheckpointWrapper"
        for part in module.modules()
    )


def _backend(name: str) -> AbstractContextManager[object]:
    if not name:
        return nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    chosen: AbstractContextManager[object] = sdpa_kernel(getattr(SDPBackend, SDPA_BACKENDS[name]))
    return chosen
