"""Whom an export can be for. In a file of its own, so that the command line knows it without importing torch."""

from __future__ import annotations

from enum import StrEnum


class Form(StrEnum):
    """Whom an export is for."""

    HF_KERNELS = "hf-kernels"
    TRANSFORMERS = "transformers"
    TWINKLE = "twinkle"
