"""Find out which kernels are faster and still right on your model, and apply those.

Nothing heavy is imported before it is used: the names below are loaded on first access.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from twinkle_tune.offered import offer
from twinkle_tune.version import __version__ as __version__

if TYPE_CHECKING:
    from twinkle_tune.kernel import (
        apply_function_kernel,
        graph_report,
        kernelize_model,
        kernelize_report,
        kernelized,
        register_external_layer,
        register_function_kernel,
        register_kernels,
        register_layer_kernel,
        register_pattern_kernel,
        replace_pattern,
        restore_model,
    )
    from twinkle_tune.profile.io import load_profile
    from twinkle_tune.profile.schema import Profile
    from twinkle_tune.script.watching import watching
    from twinkle_tune.tune.optimize import optimize_model
    from twinkle_tune.tune.tune import tune_model

_HOMES = {
    "apply_function_kernel": "twinkle_tune.kernel",
    "graph_report": "twinkle_tune.kernel",
    "kernelize_model": "twinkle_tune.kernel",
    "kernelize_report": "twinkle_tune.kernel",
    "kernelized": "twinkle_tune.kernel",
    "register_external_layer": "twinkle_tune.kernel",
    "register_function_kernel": "twinkle_tune.kernel",
    "register_kernels": "twinkle_tune.kernel",
    "register_layer_kernel": "twinkle_tune.kernel",
    "register_pattern_kernel": "twinkle_tune.kernel",
    "replace_pattern": "twinkle_tune.kernel",
    "restore_model": "twinkle_tune.kernel",
    "load_profile": "twinkle_tune.profile.io",
    "Profile": "twinkle_tune.profile.schema",
    "optimize_model": "twinkle_tune.tune.optimize",
    "tune_model": "twinkle_tune.tune.tune",
    "watching": "twinkle_tune.script.watching",
}

# What earlier rooms are to do of later ones, which they do not know; this file stands above all.
offer(
    text="twinkle_tune.report.summary:summary_text",
    html="twinkle_tune.report.summary:summary_html",
    table="twinkle_tune.report.frames:table",
    tried="twinkle_tune.tune.tried:tried",
)

__all__ = [
    "Profile",
    "apply_function_kernel",
    "graph_report",
    "kernelize_model",
    "kernelize_report",
    "kernelized",
    "load_profile",
    "optimize_model",
    "register_external_layer",
    "register_function_kernel",
    "register_kernels",
    "register_layer_kernel",
    "register_pattern_kernel",
    "replace_pattern",
    "restore_model",
    "tune_model",
    "watching",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
