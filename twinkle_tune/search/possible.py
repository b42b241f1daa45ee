"""Whether configs can be searched for here at all: asked once before a run, not found out in each search."""

from __future__ import annotations

import importlib

from twinkle_tune.device import torch_type
from twinkle_tune.errors import TuneError


def check_search_is_possible(device: str) -> None:
    """Refuse a device whose kernels have configs to search for, where the search cannot be imported.

    Otherwise each search would fail by itself and the kernels would compete with their defaults, in a run that looks
    fine.

    Raises:
        TuneError: a package is missing.
    """
    if torch_type(device) != "cuda":
        return
    try:
        importlib.import_module("optuna")
    except ImportError as error:
        raise TuneError(
            f"device {device!r}: the search for the configs of Triton kernels needs optuna, and {error.name or error} "
            "cannot be imported; install it, or put the folder that holds it on PYTHONPATH"
        ) from error
