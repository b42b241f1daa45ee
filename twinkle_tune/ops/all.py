"""The ops that there are, each imported when it is asked for."""

from __future__ import annotations

import importlib

from twinkle_tune.errors import ConfigError
from twinkle_tune.ops.op import Op

# Name of an op, and the folder whose op.py holds it in OPS.
_FOLDERS = {
    "rms_norm": "rms_norm",
    "fused_add_rms_norm": "fused_add_rms_norm",
    "layer_norm": "layer_norm",
    "silu_and_mul": "act_and_mul",
    "gelu_and_mul": "act_and_mul",
    "rope": "rope",
    "cross_entropy": "cross_entropy",
    "fused_linear_cross_entropy": "fused_linear_cross_entropy",
    "linear_act": "linear_act",
    "attention": "attention",
}


def op_names() -> tuple[str, ...]:
    """The names of all ops; imports nothing."""
    return tuple(_FOLDERS)


def all_ops() -> tuple[Op, ...]:
    """Every op."""
    return tuple(op_named(name) for name in _FOLDERS)


def op_named(name: str) -> Op:
    """The op of this name.

    Raises:
        ConfigError: there is none.
    """
    if name not in _FOLDERS:
        raise ConfigError(f"op: got {name!r}, expected one of {', '.join(_FOLDERS)}; see docs/ops")
    module = importlib.import_module(f"twinkle_tune.ops.{_FOLDERS[name]}.op")
    op: Op = next(each for each in module.OPS if each.name == name)
    return op
