"""Example inputs for any transformers model, by what its forward takes and its configuration says of sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

_IMAGE_SIZE, _CHANNELS = 224, 3
_SAMPLES = 16000
"""One second of sound, as most such models hear it."""
_DECODER_TOKENS = 32
_CLASSIFIERS = ("ForImageClassification", "ForSequenceClassification", "ForAudioClassification")


class Unknown(Exception):
    """What a model is to be called with is not known; the message says what is missing."""


def model_inputs(model: nn.Module, batch: int, seq_len: int, *, trains: bool) -> dict[str, Tensor]:
    """Keyword arguments for one call of a transformers model, the same each time.

    Text is int64 tokens ``[batch, seq_len]``; images are float32 ``[batch, channels, height, width]``, videos
    ``[batch, frames, channels, height, width]``; sound is float32 samples ``[batch, samples]``, or a spectrogram of
    the size that the configuration names. An encoder-decoder gets decoder tokens as well. Where it trains, a model
    that takes labels gets those of its kind.

    Raises:
        Unknown: the model's main input is of none of these kinds, or a size is named nowhere.
    """
    config: Any = getattr(model, "config", None)
    takes = signature(model.forward).parameters
    main = str(getattr(model, "main_input_name", "input_ids"))
    generator = torch.Generator().manual_seed(0)
    names = [main] if main not in ("input_ids", "pixel_values") else []
    names += [name for name in ("input_ids", "pixel_values") if name == main or (name in takes and _is_both(model))]
    made: dict[str, Tensor] = {}
    for name in names:
        match name:
            case "input_ids":
                made[name] = _tokens(config, batch, seq_len, generator)
            case "pixel_values" | "pixel_values_videos":
                made[name] = torch.randn(_image_shape(config, batch), generator=generator)
            case "input_values" | "input_features":
                made[name] = torch.randn(_sound_shape(config, batch, name), generator=generator)
            case _:
                raise Unknown(f"its main input is {name!r}")
    length = seq_len if main == "input_ids" else _DECODER_TOKENS
    made |= dict(_beside(model, config, takes, made, batch, length, generator, trains=trains))
    return made


def _beside(
    model: nn.Module,
    config: Any,
    takes: Mapping[str, Any],
    made: Mapping[str, Tensor],
    batch: int,
    length: int,
    generator: torch.Generator,
    *,
    trains: bool,
) -> Iterator[tuple[str, Tensor]]:
    """Decoder tokens and labels, for the models that have them."""
    name = type(model).__name__
    if "decoder_input_ids" in takes and getattr(config, "is_encoder_decoder", False):
        tokens = _tokens(config, batch, length, generator)
        yield "decoder_input_ids", tokens
        if trains and "labels" in takes and "ForConditionalGeneration" in name:
            yield "labels", tokens.clone()
    elif trains and "labels" in takes and name.endswith(_CLASSIFIERS):
        yield "labels", torch.randint(0, max(int(config.num_labels), 1), (batch,), generator=generator)
    elif trains and "labels" in takes and "input_ids" in made and name.endswith(("ForCausalLM", "ForMaskedLM")):
        yield "labels", made["input_ids"].clone()


def text_positions(config: Any) -> int | None:
    """How many tokens the model's positions allow; None where its configuration sets no limit."""
    found = getattr(_text(config), "max_position_embeddings", None)
    return found if isinstance(found, int) else None


def _is_both(model: nn.Module) -> bool:
    """Whether text and images are compared, as CLIP does: not what may be given an image beside its text."""
    towers = hasattr(model, "get_text_features") and hasattr(model, "get_image_features")
    return towers or hasattr(getattr(model, "config", None), "projection_dim")


def _text(config: Any) -> Any:
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _tokens(config: Any, batch: int, length: int, generator: torch.Generator) -> Tensor:
    vocabulary = getattr(_text(config), "vocab_size", None) or getattr(config, "vocab_size", None)
    if not isinstance(vocabulary, int):
        raise Unknown("its configuration names no vocab_size")
    return torch.randint(0, vocabulary, (batch, length), generator=generator)


def _image_shape(config: Any, batch: int) -> tuple[int, ...]:
    vision = getattr(config, "vision_config", config)
    size = getattr(vision, "image_size", None) or _IMAGE_SIZE
    height, width = (size, size) if isinstance(size, int) else tuple(size)[:2]
    channels = getattr(vision, "num_channels", None) or _CHANNELS
    frames = getattr(vision, "num_frames", None)
    if isinstance(frames, int):
        return (batch, frames, channels, height, width)
    return (batch, channels, height, width)


def _sound_shape(config: Any, batch: int, name: str) -> tuple[int, ...]:
    bins = getattr(config, "num_mel_bins", None)
    if bins is None and name == "input_features":
        raise Unknown("its configuration names no num_mel_bins")
    if bins is None:
        return (batch, _SAMPLES)
    if name == "input_values":  # a spectrogram, time first
        return (batch, getattr(config, "max_length", None) or 1024, bins)
    positions = getattr(config, "max_source_positions", None)
    if not isinstance(positions, int):
        raise Unknown("its configuration names no max_source_positions")
    return (batch, bins, 2 * positions)  # two frames a position, as Whisper's convolutions take them
