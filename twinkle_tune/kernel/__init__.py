"""Registering kernels and applying them to models."""

from twinkle_tune.kernel.batch import register_kernels
from twinkle_tune.kernel.function import apply_function_kernel, register_function_kernel
from twinkle_tune.kernel.kernelize import (
    KernelizeReport,
    kernelize_model,
    kernelize_report,
    kernelized,
    restore_model,
)
from twinkle_tune.kernel.layer import register_external_layer, register_layer_kernel
from twinkle_tune.kernel.pattern import graph_report, replace_pattern
from twinkle_tune.kernel.registry import Registry

__all__ = [
    "KernelizeReport",
    "Registry",
    "apply_function_kernel",
    "graph_report",
    "kernelize_model",
    "kernelize_report",
    "kernelized",
    "register_external_layer",
    "register_function_kernel",
    "register_kernels",
    "register_layer_kernel",
    "replace_pattern",
    "restore_model",
]
