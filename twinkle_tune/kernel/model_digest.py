"""A digest of a model as it stands: all but its weights that what is measured of the whole of it depends on."""

from __future__ import annotations

import functools
import hashlib
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from twinkle_tune.environment import package_version
from twinkle_tune.kernel.setups import digest_of_model
from twinkle_tune.kernel.watched import has_hooks
from twinkle_tune.source.digest import digest_code, digest_text
from twinkle_tune.workload import describe, digest_of, module_settings


def digest_as_it_stands(model: nn.Module) -> str:
    """16 hexadecimal digits of a model's classes and their code, its settings, and the form of its parameters.

    Stricter than :func:`~twinkle_tune.kernel.setups.digest_of_model`, which says for which models a profile is:
    train flags, frozen parameters, dtypes and code count here, too. Weights do not, as in the contests of slots.

    Returns:
        "" where a model cannot be told by this: a module of it has hooks, or a forward of its own.
    """
    if any(has_hooks(module) or "forward" in vars(module) for module in model.modules()):
        return ""
    kinds = {base for module in model.modules() for base in type(module).__mro__ if base is not object}
    code = {text for kind in kinds for text in _code_of(kind)}
    return digest_text(digest_of_model(model), digest_of(list(_form_of(model))), *sorted(code))


def _form_of(model: nn.Module) -> Iterator[object]:
    """All that is set, as plain data: each module's flag and settings, the forms of tensors, and how text is made."""
    for module in model.modules():
        # A transformers model has its configuration; of any other module the attributes are told.
        yield module.training, [(name, asdict(node)) for name, node in module_settings(module)]
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        yield name, str(tensor.dtype), list(tensor.shape), tensor.requires_grad
    for name in ("config", "generation_config"):
        held: Any = getattr(model, name, None)
        if callable(getattr(held, "to_dict", None)):
            yield name, asdict(describe(held.to_dict()))


def _code_of(kind: type) -> Iterator[str]:
    """What tells a class's code from another: of an installed package its version and the file, else a digest."""
    package = kind.__module__.partition(".")[0]
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    if file is None or not _is_installed(file):
        yield digest_code(kind)
        return
    # To follow all that a transformers model uses of its package takes some ten seconds.
    yield f"{package} {package_version(package)}"
    yield f"{kind.__module__} {_digest_of_file(file)}"
    forward = vars(kind).get("forward")
    if callable(forward) and forward.__module__ != kind.__module__:
        yield digest_code(forward)  # put there by somebody else


@functools.lru_cache(maxsize=1024)
def _digest_of_file(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]


def _is_installed(file: str) -> bool:
    places = (sysconfig.get_paths()[name] for name in ("purelib", "platlib"))
    return any(Path(file).is_relative_to(place) for place in places)
