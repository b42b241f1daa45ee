"""What a whole model runs under, where somebody wrapped its forward: accelerate opens autocast there.

The slots that are the whole model are observed around that wrapping, where autocast is not on yet; the contest is to be
held under what the model itself is called under. So it is looked for where the model calls its parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from twinkle_tune.capture.sites import Site
from twinkle_tune.kernel.measured import casts_to
from twinkle_tune.slot import OF_THE_MODEL


@contextmanager
def autocast_below(sites: Sequence[Site], device_type: str) -> Iterator[dict[Site, str]]:
    """While this is open the model is run; afterwards it holds what autocast casts to inside of each wrapped model."""
    found: dict[Site, str] = {}
    with ExitStack() as undo:
        for site in sites:
            if site.slot.name in OF_THE_MODEL and site.module is not None and "forward" in vars(site.module):
                look = _Look(found, site, device_type)
                for part in site.module.children():
                    undo.callback(part.register_forward_pre_hook(look).remove)
        yield found


class _Look:
    def __init__(self, found: dict[Site, str], site: Site, device_type: str) -> None:
        self._found, self._site, self._device_type = found, site, device_type

    def __call__(self, module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        """Note it, the first time."""
        self._found.setdefault(self._site, casts_to(self._device_type))
