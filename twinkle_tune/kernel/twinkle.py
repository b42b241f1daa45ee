"""The call of today's Twinkle: one function, and a mapping of what takes the place of what."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any, TypeVar

from torch import nn

from twinkle_tune.device import parse_device
from twinkle_tune.errors import RegistrationError
from twinkle_tune.kernel.kernelize import kernelize_model
from twinkle_tune.kernel.planned import device_of
from twinkle_tune.kernel.registry import Registry, make_candidate
from twinkle_tune.slot import Source
from twinkle_tune.source.direct import ImplSource
from twinkle_tune.source.hub import HubSource

Model = TypeVar("Model", bound=nn.Module)
_KEYS = "a module class or a path such as 'package.module.function'"


def kernelize(
    model: Model,
    mapping: Mapping[type[nn.Module] | str, Any] | None = None,
    *,
    mode: object = None,
    device: object = None,
    use_fallback: bool = True,
    needs_backward: bool | None = None,
    needs_torch_compile: bool | None = None,
) -> Model:
    """:func:`kernelize_model` under the name, and with the mapping, of Twinkle and of ``kernels``.

    Args:
        model: any module; kernelized in place and returned.
        mapping: by class (of each layer that has its forward) or by the path of a function ("package.module.function",
            "package.module.Class.method"): a class or function, what :func:`hub` gives, or such values by the
            name of a device, of which a missing one is passed over. None: what is registered and mapped elsewhere.
        mode, device, use_fallback, needs_backward, needs_torch_compile: as of :func:`kernelize_model`.

    Raises:
        RegistrationError: a key or value is none of these; nothing is bound then.
        DeviceError, ModeError, BindError: as :func:`kernelize_model`.
    """
    registry = None
    if mapping is not None:
        registry = _registry_of(mapping, parse_device(device) if device is not None else device_of(model))
    return kernelize_model(
        model,
        mode,
        device,
        use_fallback,
        registry=registry,
        needs_backward=needs_backward,
        needs_torch_compile=needs_torch_compile,
    )


def hub(
    ref: str,
    *,
    revision: str | None = None,
    version: int | None = None,
    backend: str | None = None,
    trust_remote_code: bool = False,
) -> HubSource:
    """A layer or function of a Hub repo as a value of :func:`kernelize`'s mapping: "organisation/name:Layer".

    Raises:
        RegistrationError: another form, not exactly one of revision and version, or a backend: the build that fits
            this machine is taken.
    """
    repo_id, colon, name = ref.rpartition(":")
    if not (colon and repo_id and name):
        raise RegistrationError(f"ref: got {ref!r}, expected 'organisation/name:Layer'; name the layer after a colon")
    if (revision is None) == (version is None):
        raise RegistrationError(
            f"{ref}: got revision={revision!r} and version={version!r}, expected exactly one of them; give one"
        )
    if backend is not None:
        raise RegistrationError(f"{ref}: got backend={backend!r}, expected none: the build that fits is taken; drop it")
    return HubSource(repo_id=repo_id, name=name, revision=revision, version=version, trusted=trust_remote_code)


def _registry_of(mapping: Mapping[Any, Any], device: str) -> Registry:
    if not isinstance(mapping, Mapping):
        raise RegistrationError(f"mapping: got a {type(mapping).__name__}, expected a dict by {_KEYS}")
    registry = Registry()
    for key, value in mapping.items():
        while isinstance(value, Mapping):
            value = value.get(device)
        if value is None:
            continue
        candidate = make_candidate(_source_of(key, value), device=device, mode=None)
        if isinstance(key, str):
            registry.add_function(*_split(key), candidate)
        else:
            name = f"{key.__module__}.{key.__qualname__}" if isinstance(key, type) else repr(key)
            registry.bind_external(key, name)
            registry.add_layer(name, candidate)
    return registry


def _source_of(key: object, value: Any) -> Source:
    if isinstance(value, HubSource):
        return value
    if not callable(value) or isinstance(value, nn.Module):
        raise RegistrationError(
            f"mapping: {getattr(key, '__qualname__', key)}: got {value!r:.80}, expected a class, a function, or "
            "hub('organisation/name:Layer', version=1)"
        )
    return ImplSource(impl=value)


def _split(path: str) -> tuple[str, str]:
    """Module, and function in it, of a dotted path: the longest beginning that can be imported is the module."""
    parts = path.split(".")
    for count in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:count])
        if _imported(name, path) is not None:
            return name, ".".join(parts[count:])
    raise RegistrationError(f"mapping: got {path!r}, expected {_KEYS}; none of its beginnings can be imported")


def _imported(name: str, path: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            return None
        raise RegistrationError(f"mapping: {path!r}: importing {name} raised {error}; install what it needs") from error
    except Exception as error:
        raise RegistrationError(
            f"mapping: {path!r}: importing {name} raised {type(error).__name__}: {error}; import it alone to see why"
        ) from error
