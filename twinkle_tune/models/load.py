"""From what the user wrote to a model that is ready to be profiled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from twinkle_tune.device import is_available, parse_device, torch_type
from twinkle_tune.errors import DeviceError, ModelError
from twinkle_tune.mode import Mode
from twinkle_tune.models.factory import call_factory, is_factory, move, told
from twinkle_tune.models.inputs import example_inputs, is_decoder, other_inputs, takes_tokens
from twinkle_tune.models.misspelt import refuse_misspelt
from twinkle_tune.models.presets import PRESETS, find_preset
from twinkle_tune.models.pretrained import (
    build,
    download,
    is_pretrained,
    preset_config,
    pretrained_config,
    shorten,
)
from twinkle_tune.words import did_you_mean

DTYPES = ("float32", "bfloat16", "float16", "float64")
"""Names that ``--dtype`` takes."""
_SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "fp64": "float64"}
"""What they are called for short, and may be here."""
_CALLED = {"half": "float16", "float": "float32", "single": "float32", "double": "float64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model on its device, in the state that its mode asks for, and what to call it with.

    Attributes:
        model: in training state where the mode trains, else in evaluation state.
        inputs: each item is one call: a tensor, a tuple of arguments or a dictionary of keyword arguments.
        name: what the user asked for, with the number of layers where it was shortened.
    """

    model: nn.Module
    inputs: list[Any]
    name: str


def load_model(
    spec: str,
    device: str,
    dtype: str | None,
    layers: int | None,
    batches: Sequence[int] | None,
    seq_lens: Sequence[int] | None,
    mode: Mode,
) -> Loaded:
    """Load a model and make its example inputs.

    Args:
        spec: a preset's name, ``package.module:function``, a local directory or a Hub id.
        device: "cpu", "cuda", "cuda:1", ...
        dtype: one of :data:`DTYPES`; None for float32 on cpu and bfloat16 elsewhere (a factory's own dtype).
        layers: keep that many layers of the stack; None for all.
        batches, seq_lens: sizes of the inputs; None for those of the preset, or 1 and 128.
        mode: how it will run.

    Raises:
        ModelError: the model or its inputs cannot be had.
        DeviceError: an unknown device, or one that is not there.
    """
    place, kind = require_device(device), _dtype(dtype)
    if is_factory(spec):
        model, inputs = _from_factory(spec, place, kind, layers)
        if inputs is not None and (batches, seq_lens) != (None, None):
            raise ModelError(f"{spec}: the factory gives its own inputs; leave out --batch and --seq-len")
    else:
        model, inputs = load(spec, device=device, dtype=dtype, layers=layers), None
    if inputs is None and is_decoder(model):
        batches, seq_lens = _sizes(spec, batches, seq_lens)
        inputs = list(example_inputs(model, batches, seq_lens, mode, place))
    elif inputs is None:
        inputs = other_inputs(spec, model, batches, seq_lens, mode, place)
    name = spec if layers is None else f"{spec} ({layers} layer{'' if layers == 1 else 's'})"
    with told(f"{spec}: train() of its module", "a module"):
        model = model.train(mode.trains)
    return Loaded(model=model, inputs=inputs, name=name)


def load(spec: str, *, device: str, dtype: str | None = None, layers: int | None = None, seed: int = 0) -> nn.Module:
    """The model alone, in evaluation state. Arguments and errors as :func:`load_model`.

    Args:
        seed: of a preset's random weights.
    """
    place, kind = require_device(device), _dtype(dtype)
    if is_factory(spec):
        model = _from_factory(spec, place, kind, layers)[0]
        with told(f"{spec}: eval() of its module", "a module"):
            return model.eval()
    kind = kind or (torch.float32 if parse_device(device) == "cpu" else torch.bfloat16)
    config = _config(spec, layers)
    if spec in PRESETS:
        return build(config, spec, device=place, dtype=kind, seed=seed).eval()
    return download(spec, config, device=place, dtype=kind).eval()


def outline(spec: str, *, layers: int | None = None) -> nn.Module:
    """The model's structure, in evaluation state: on the ``meta`` device, without weights or their memory.

    A factory is called as it is: what it makes is its own affair.

    Raises:
        ModelError: as :func:`load_model`.
    """
    if is_factory(spec):
        _refuse_layers(spec, layers)
        model = call_factory(spec)[0]
        with told(f"{spec}: eval() of its module", "a module"):
            return model.eval()
    return build(_config(spec, layers), spec, device="meta", dtype=torch.float32, seed=0).eval()


def require_device(device: str) -> str:
    """The name by which torch knows the device, index included.

    Raises:
        DeviceError: an unknown name, or a device that is not there.
    """
    name = parse_device(device)
    if not is_available(name):
        raise DeviceError(
            f"device: got {device!r}, expected a device that this machine and this build of torch "
            f"({torch.__version__}) have; choose cpu, or see 'twinkle-tune env'"
        )
    _, _, index = str(device).partition(":")
    return f"{torch_type(name)}:{index}" if index else torch_type(name)


def _config(spec: str, layers: int | None) -> Any:
    if spec not in PRESETS:
        refuse_misspelt(spec)
    if spec not in PRESETS and not is_pretrained(spec):
        find_preset(spec)  # raises, and names what is spelled alike
    config = preset_config(spec) if spec in PRESETS else pretrained_config(spec)
    shorten(config, spec, layers)
    return config


def _from_factory(
    spec: str, device: str, dtype: torch.dtype | None, layers: int | None
) -> tuple[nn.Module, list[Any] | None]:
    _refuse_layers(spec, layers)
    model, inputs = call_factory(spec)
    if inputs is None and not takes_tokens(model):
        raise ModelError(
            f"{spec}: the factory returned {type(model).__name__} alone, and what to call it with is "
            "unknown; expected (module, inputs), or a transformers model that takes input_ids"
        )
    with told(f"{spec}: to({device!r}) of its module or inputs", "that they can be moved"):
        return model.to(device, dtype), None if inputs is None else move(inputs, device, dtype)


def _refuse_layers(spec: str, layers: int | None) -> None:
    if layers is not None:
        raise ModelError(f"{spec}: --layers shortens presets and transformers models; let the factory do it")


def _sizes(
    spec: str, batches: Sequence[int] | None, seq_lens: Sequence[int] | None
) -> tuple[Sequence[int], Sequence[int]]:
    preset = PRESETS.get(spec)
    own = (preset.batches, preset.seq_lens) if preset else ((1,), (128,))
    return own[0] if batches is None else batches, own[1] if seq_lens is None else seq_lens


def _dtype(name: str | None) -> torch.dtype | None:
    if name is None:
        return None
    dtype: torch.dtype = getattr(torch, parse_dtype(name))
    return dtype


def parse_dtype(name: str, known: Sequence[str] = DTYPES, *, what: str = "dtype") -> str:
    """A name of ``known`` dtypes, of that or its short form ("bf16").

    Raises:
        ModelError: it is neither.
    """
    whole = _SHORT.get(name.lower(), name)
    if whole in known:
        return whole
    hint = did_you_mean(name, (*known, *_SHORT), _CALLED)
    raise ModelError(f"{what}: got {name!r}, expected one of {', '.join(known)}{hint}")
