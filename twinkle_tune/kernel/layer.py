"""Registering kernels for layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from twinkle_tune.errors import RegistrationError
from twinkle_tune.kernel.registry import Registry, choose_source, default_registry, make_candidate
from twinkle_tune.source.children import ChildrenSource
from twinkle_tune.source.direct import Repo


def register_layer_kernel(
    kernel_name: str,
    repo_path: str | Path | None = None,
    package_name: str | None = None,
    layer_name: str | None = None,
    repo_id: str | None = None,
    version: int | str | None = None,
    revision: str | None = None,
    device: object = "cuda",
    mode: object = None,
    *,
    layer_impl: type[nn.Module] | Callable[..., Any] | None = None,
    children: Sequence[str] = (),
    repo: Repo | None = None,
    registry: Registry | None = None,
) -> None:
    """Register a kernel for the layers named ``kernel_name``: one more contestant for their slot.

    Exactly one source is given: a plain Python package on disk (``repo_path`` and ``package_name``), a local
    repo in the layout of the ``kernels`` package (``repo_path`` alone), a Hub repo (``repo_id`` with ``revision``
    or ``version``), a class of this process (``layer_impl``) or a repo object with ``load()`` (``repo``). Nothing is
    loaded now.

    Args:
        kernel_name: the name that classes are bound to with :func:`register_external_layer`, or that they carry
            as ``kernel_layer_name``, or that the catalog knows ("RMSNorm", "GatedMLP", ...).
        layer_name: the class in the package or repo; ``kernel_name`` if not given.
        device: the device that it is for: a name, or a ``kernels.Device``, which may limit the compute capability.
        mode: "train", "inference", "compile", "train+compile" or a ``kernels.Mode``; None for every mode.
        children: names of modules of the layer, one after another in its forward, that the kernel stands for: it runs
            in their place, within the layer's own forward. Beside its class is a class ``{Name}Layout``, whose
            constructor takes these modules (:mod:`twinkle_tune.source.layout`).
        registry: where to register; the default registry if not given.

    Raises:
        RegistrationError: none or several sources, both revision and version, or an instance in place of a class.
        DeviceError, ModeError: an unknown device or mode.
    """
    if isinstance(layer_impl, nn.Module):
        name = type(layer_impl).__qualname__
        raise RegistrationError(
            f"layer kernel {kernel_name!r}: got an instance of {name}, expected the class, whose forward runs on each "
            f"layer of the model; pass layer_impl={name}"
        )
    source = choose_source(
        f"layer kernel {kernel_name!r}",
        layer_name or kernel_name,
        impl=layer_impl,
        repo=repo,
        repo_path=repo_path,
        package_name=package_name,
        repo_id=repo_id,
        revision=revision,
        version=version,
    )
    if isinstance(children, str) or not all(isinstance(name, str) and name.isidentifier() for name in children):
        raise RegistrationError(
            f"layer kernel {kernel_name!r}: children: got {children!r:.80}, expected names of modules of the layer, "
            "such as ('norm', 'mlp'); name its own"
        )
    if children:
        source = ChildrenSource(source=source, names=tuple(children))
    (registry or default_registry).add_layer(kernel_name, make_candidate(source, device=device, mode=mode))


def register_external_layer(
    layer_class: type[nn.Module], kernel_name: str, *, registry: Registry | None = None
) -> None:
    """Bind a layer class to a kernel name: its instances take the kernels registered or mapped under that name.

    In the default registry the class carries the name as ``kernel_layer_name`` too, so that ``kernels.kernelize`` sees
    it; ``default_registry.clear()`` takes it off again.

    Raises:
        RegistrationError: it is no module class, or it is bound to another name already.
    """
    (registry or default_registry).bind_external(layer_class, kernel_name)
