"""The tables that a profile can be shown as."""

from __future__ import annotations

from typing import Literal

Table = Literal["samples", "trials", "selections", "steps", "parity", "conditions", "timings"]
"""The tables that ``profile.to_frame()`` gives."""
