"""Registering layers and functions from one mapping, as a configuration file gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

from twinkle_tune.errors import DeviceError, ModeError, RegistrationError
from twinkle_tune.kernel.function import register_function_kernel
from twinkle_tune.kernel.layer import register_layer_kernel
from twinkle_tune.kernel.registry import Registry, default_registry


def register_kernels(
    config: Mapping[str, Mapping[str, Mapping[str, Any]]], *, registry: Registry | None = None
) -> None:
    """Register every kernel of ``{"layers": {name: arguments}, "functions": {name: arguments}}``.

    A layer's arguments are those of :func:`register_layer_kernel` without ``kernel_name``; a function's those of
    :func:`register_function_kernel` without ``func_name``. All of them or, on an error, none.

    Raises:
        RegistrationError, DeviceError, ModeError: the message names the entry.
    """
    _expect_mapping("config", config)
    kinds: dict[str, tuple[str, Callable[..., None]]] = {
        "layers": ("kernel_name", register_layer_kernel),
        "functions": ("func_name", register_function_kernel),
    }
    unknown = sorted(config.keys() - kinds.keys())
    if unknown:
        raise RegistrationError(
            f"config: got {', '.join(unknown)}, expected 'layers' and 'functions'; check the spelling"
        )
    # Registered aside first, so that a bad entry leaves nothing behind.
    for into in (Registry(), registry or default_registry):
        for kind, (name_argument, register) in kinds.items():
            _expect_mapping(f"config: {kind}", config.get(kind, {}))
            for name, arguments in config.get(kind, {}).items():
                _register(
                    f"{kind}.{name}",
                    register,
                    {name_argument: name, **_known(f"{kind}.{name}", register, arguments)},
                    into,
                )


def _register(where: str, register: Callable[..., None], arguments: dict[str, Any], registry: Registry) -> None:
    try:
        register(**arguments, registry=registry)
    except (RegistrationError, DeviceError, ModeError) as error:
        raise type(error)(f"config: {where}: {error}") from error
    except TypeError as error:
        raise RegistrationError(f"config: {where}: {error}") from error


def _expect_mapping(where: str, value: object) -> None:
    if not isinstance(value, Mapping):
        raise RegistrationError(f"{where}: got {type(value).__name__}, expected a mapping of names to arguments")


def _known(where: str, register: Callable[..., None], arguments: Mapping[str, Any]) -> dict[str, Any]:
    _expect_mapping(f"config: {where}", arguments)
    known = signature(register).parameters.keys() - {"registry", "kernel_name", "func_name"}
    unknown = sorted(set(arguments) - known)
    if unknown:
        raise RegistrationError(
            f"config: {where}: got {', '.join(unknown)}, expected some of {', '.join(sorted(known))}"
        )
    return dict(arguments)
