"""Which version this is, for the front door, and for what profiles and outcomes say of the tool that made them."""

from __future__ import annotations

__version__ = "0.1.0"

TOOL = f"twinkle_tune {__version__}"
