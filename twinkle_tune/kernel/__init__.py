"""Registering kernels and applying them to models.

The names of the ``kernels`` package that its documents show are here, too (``Mode``, ``Device``,
``use_kernel_mapping``, ...): its own, imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twinkle_tune.kernel.batch import register_kernels
from twinkle_tune.kernel.function import apply_function_kernel, register_function_kernel
from twinkle_tune.kernel.kernel_config import register_kernel_config
from twinkle_tune.kernel.kernelize import (
    KernelizeReport,
    kernelize_model,
    kernelize_report,
    kernelized,
    restore_model,
)
from twinkle_tune.kernel.layer import register_external_layer, register_layer_kernel
from twinkle_tune.kernel.pattern import graph_report, register_pattern_kernel, replace_pattern
from twinkle_tune.kernel.registry import Registry
from twinkle_tune.kernel.repository import LayerRepository

# After the module of that name, in whose place the function stands: ``twinkle.kernel.kernelize`` is a function.
from twinkle_tune.kernel.twinkle import hub, kernelize

if TYPE_CHECKING:
    CUDAProperties: Any
    Device: Any
    FuncRepository: Any
    KernelizeFallback: Any
    LocalFuncRepository: Any
    LocalLayerRepository: Any
    LockedFuncRepository: Any
    LockedLayerRepository: Any
    Mode: Any
    ROCMProperties: Any
    register_kernel_mapping: Any
    replace_kernel_forward_from_hub: Any
    use_kernel_forward_from_hub: Any
    use_kernel_func_from_hub: Any
    use_kernel_mapping: Any
    use_kernelized_func: Any

__all__ = [
    "KernelizeReport",
    "LayerRepository",
    "Registry",
    "apply_function_kernel",
    "graph_report",
    "hub",
    "kernelize",
    "kernelize_model",
    "kernelize_report",
    "kernelized",
    "register_external_layer",
    "register_function_kernel",
    "register_kernel_config",
    "register_kernels",
    "register_layer_kernel",
    "register_pattern_kernel",
    "replace_pattern",
    "restore_model",
]

OF_KERNELS = (
    "CUDAProperties",
    "Device",
    "FuncRepository",
    "KernelizeFallback",
    "LocalFuncRepository",
    "LocalLayerRepository",
    "LockedFuncRepository",
    "LockedLayerRepository",
    "Mode",
    "ROCMProperties",
    "register_kernel_mapping",
    "replace_kernel_forward_from_hub",
    "use_kernel_forward_from_hub",
    "use_kernel_func_from_hub",
    "use_kernel_mapping",
    "use_kernelized_func",
)
"""Names of the ``kernels`` package that are importable from here."""


def __getattr__(name: str) -> object:
    if name not in OF_KERNELS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import kernels
    except ImportError as error:
        raise ImportError(f"twinkle_tune.kernel.{name} is of the kernels package; pip install kernels") from error
    return getattr(kernels, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *OF_KERNELS})
