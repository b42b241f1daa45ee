from __future__ import annotations

import torch

from twinkle_tune.kernel.measured import casts_to


def test_what_autocast_casts_to() -> None:
    """Its dtype on the device type; nothing where it is off, and on one that autocast does not know."""
    assert casts_to("cpu") == casts_to("meta") == ""
    with torch.autocast("cpu", torch.bfloat16):
        assert casts_to("cpu") == "bfloat16"
        assert casts_to("meta") == ""
