"""Models through transformers: from a preset's figures, a local directory or the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from twinkle_tune.errors import ModelError, in_a_line
from twinkle_tune.models.architecture import class_of
from twinkle_tune.models.presets import PRESETS, find_preset

_STACKS = ("num_hidden_layers", "num_decoder_layers", "encoder_layers", "decoder_layers")
"""Names of the numbers of layers: an encoder's and a decoder's are cut alike."""
_INSTALL = "install it with: pip install 'twinkle_tune[transformers]'"


def is_pretrained(spec: str) -> bool:
    """Whether the name is a directory or has the form of a Hub id (owner/name)."""
    return is_folder(spec) or (spec.count("/") == 1 and all(spec.split("/")))


def is_folder(spec: str) -> bool:
    """Whether there is a directory of that name."""
    try:
        return Path(spec).is_dir()
    except (OSError, ValueError):  # a name that is too long, or none
        return False


def preset_config(name: str) -> Any:
    """The transformers configuration of a preset.

    Raises:
        ModelError: transformers is missing or too old for the architecture.
    """
    preset = find_preset(name)
    transformers = _transformers(name)
    if not hasattr(transformers, preset.config):
        raise ModelError(
            f"{name}: transformers {transformers.__version__} has no {preset.config}, "
            f"expected 5.17 or newer; {_INSTALL}"
        )
    return getattr(transformers, preset.config)(**preset.figures)


def pretrained_config(spec: str) -> Any:
    """The configuration of a local directory or Hub id.

    Raises:
        ModelError: it cannot be had.
    """
    transformers = _transformers(spec)
    try:
        return transformers.AutoConfig.from_pretrained(spec)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _unavailable(spec, error) from error


def shorten(config: Any, spec: str, layers: int | None) -> None:
    """Cut each stack of the configuration to its first ``layers`` layers; None leaves them whole.

    Raises:
        ModelError: the number is below 1 or above what there is.
    """
    if layers is None:
        return
    text = config.get_text_config()
    parts = [config, text, *(getattr(config, name, None) for name in getattr(config, "sub_configs", {}))]
    whole = getattr(text, "num_hidden_layers", None)
    if not isinstance(whole, int):
        raise ModelError(f"{spec}: --layers {layers}: the configuration names no number of layers; leave it out")
    if not 1 <= layers <= whole:
        raise ModelError(f"{spec}: --layers: got {layers}, expected 1 to {whole}, the layers that the model has")
    for part in parts:
        if part is not None:
            _cut(part, layers)


def _cut(config: Any, layers: int) -> None:
    for name in _STACKS:
        whole = getattr(config, name, None)
        if not isinstance(whole, int) or layers >= whole:
            continue
        setattr(config, name, layers)
        for other, value in vars(config).copy().items():
            # Lists with an entry for each layer: layer_types, mlp_layer_types, no_rope_layers, ...
            if "layer" in other and isinstance(value, list) and len(value) == whole:
                setattr(config, other, value[:layers])


def build(config: Any, spec: str, *, device: str, dtype: torch.dtype, seed: int) -> nn.Module:
    """A model with random weights, made on its device and in its dtype: nothing is moved.

    The process's random state is as before.

    Raises:
        ModelError: transformers has no class for the configuration, or the memory does not suffice.
    """
    _transformers(spec)
    made_by = class_of(config)
    make = getattr(made_by, "from_config", None) or made_by._from_config
    kind = torch.device(device).type
    with torch.random.fork_rng(device_type="cuda" if kind in ("cpu", "meta") else kind), torch.device(device):
        torch.manual_seed(seed)
        try:
            model: nn.Module = make(config, dtype=dtype)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise _too_large(spec, device, error) from error
        except (ValueError, KeyError, ImportError) as error:
            raise ModelError(
                f"{spec}: no model can be made of its configuration ({in_a_line(error)}); expected one of an "
                "architecture that transformers has; or write a factory that returns (module, inputs)"
            ) from error
    return model


def download(spec: str, config: Any, *, device: str, dtype: torch.dtype) -> nn.Module:
    """The model with its published weights.

    Raises:
        ModelError: the weights cannot be had, or the memory does not suffice.
    """
    _transformers(spec)
    try:
        model: nn.Module = class_of(config).from_pretrained(spec, config=config, dtype=dtype)
        return model.to(device)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _too_large(spec, device, error) from error
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _unavailable(spec, error) from error


def _transformers(spec: str) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ModelError(
            f"{spec}: presets, directories and Hub ids need transformers, which cannot be imported "
            f"({error}); {_INSTALL}"
        ) from error
    return transformers


def _unavailable(spec: str, error: Exception) -> ModelError:
    if is_folder(spec):
        made = f"AutoModelForCausalLM.from_config(AutoConfig.from_pretrained({spec!r}))"
        return ModelError(
            f"{spec}: cannot be loaded ({in_a_line(error)}); expected a transformers checkpoint (config.json and "
            f"weights); for random weights write a function that returns {made}, and name it, as module:function"
        )
    return ModelError(
        f"{spec}: cannot be loaded; tried the local cache and the Hugging Face Hub: {in_a_line(error)}; expected a "
        f"model that is cached, or can be reached and read; presets need no network: {', '.join(PRESETS)}"
    )


def _too_large(spec: str, device: str, error: BaseException) -> ModelError:
    return ModelError(
        f"{spec}: does not fit into the memory of {device} ({in_a_line(error)}); shorten it with --layers, "
        "or choose a smaller --dtype"
    )
