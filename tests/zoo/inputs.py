"""Example inputs of a model, from its configuration and the parameters of its forward."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tests.zoo.shrink import IMAGE, ORDINARY

BATCH, TOKENS, TARGETS = 2, 12, 6
_PIXELS = ("pixel_values", "pixel_values_videos", "images")
_SOUND = ("input_values", "input_features", "input_audio", "audio_values")
_FRAMES = 4
_MELS = ("num_mel_bins", "feature_size", "input_feat_per_channel", "input_dim")
_LANGUAGE = ("CausalLM", "LMHead", "MaskedLM", "ConditionalGeneration")


def attempts(model: nn.Module) -> Iterator[dict[str, Any]]:
    """Keyword arguments that may fit, the likeliest first: forms of pixels and of sound differ between types."""
    names = set(inspect.signature(model.forward).parameters)
    main = getattr(model, "main_input_name", "input_ids")
    text = _text(names, model.config)
    if grid := next((n for n in ("grid_thw", "image_grid_thw") if n in names and not text), None):
        yield from _patches(names, model.config, grid)
    if main in _PIXELS or (main not in names and names & set(_PIXELS)):
        name = main if main in names else next(n for n in _PIXELS if n in names)
        for pixels in _pixels(model):
            yield text | {name: pixels}
            yield {name: pixels}
            if "decoder_input_ids" in names:
                yield {name: pixels} | _targets(model.config)
    if main in _SOUND or (main not in names and names & set(_SOUND)):
        name = main if main in names else next(n for n in _SOUND if n in names)
        for sound in _sound(model, name):
            targets = _targets(model.config) if "decoder_input_ids" in names else {}
            yield {name: sound} | targets
            for mask in names & {"input_features_mask", "attention_mask", "padding_mask", "feature_attention_mask"}:
                yield {name: sound, mask: torch.ones(BATCH, sound.shape[1], dtype=torch.long)} | targets
                yield {name: sound, mask: torch.ones(BATCH, sound.shape[-1], dtype=torch.long)} | targets
            if text:
                yield text | {name: sound}
    if text:
        yield text
        if "pixel_values" in names:
            for pixels in _pixels(model):
                yield text | {"pixel_values": pixels}
        if "input_features" in names:
            for sound in _sound(model, "input_features"):
                yield text | {"input_features": sound}
    if "inputs_embeds" in names and "input_ids" not in names:
        width = getattr(model.config, "hidden_size", 64)
        yield {"inputs_embeds": _normal(BATCH, TOKENS, width)}
    if "hidden_states" in names:
        width = getattr(model.config, "hidden_size", 64)
        yield {"hidden_states": _normal(BATCH, TOKENS, width)}


def with_labels(model: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs of a training step: labels for a language model, none elsewhere (random gradients serve there)."""
    names = inspect.signature(model.forward).parameters
    if "labels" not in names:
        return inputs
    if "decoder_input_ids" in inputs:
        return inputs | {"labels": inputs["decoder_input_ids"].clone()}
    is_language = any(
        word in type(model).__name__ for word in ("CausalLM", "LMHead", "MaskedLM", "ConditionalGeneration")
    )
    if is_language and "input_ids" in inputs:
        return inputs | {"labels": inputs["input_ids"].clone()}
    return inputs


def _text(names: set[str], config: Any) -> dict[str, Any]:
    if "input_ids" not in names:
        return {}
    made: dict[str, Any] = {"input_ids": _ids(TOKENS, config)}
    if "attention_mask" in names:
        made["attention_mask"] = torch.ones(BATCH, TOKENS, dtype=torch.long)
    if "decoder_input_ids" in names:
        made |= _targets(config)
    if "bbox" in names:
        made["bbox"] = torch.tensor([1, 2, 9, 8]).expand(BATCH, TOKENS, 4).contiguous()
    return made


def _targets(config: Any) -> dict[str, Tensor]:
    return {"decoder_input_ids": _ids(TARGETS, config)}


def _ids(length: int, config: Any) -> Tensor:
    """Ordinary tokens, where the vocabulary reaches so far; else any but the first."""
    low, high = ORDINARY
    inner = config.get_text_config() if hasattr(config, "get_text_config") else config
    size = getattr(inner, "vocab_size", None)
    if isinstance(size, int) and size < high:
        low, high = min(low, size // 2), size
    return torch.randint(low, high, (BATCH, length), generator=torch.Generator().manual_seed(0))


def _patches(names: set[str], config: Any, grid: str) -> Iterator[dict[str, Any]]:
    """Two pictures of 4 by 4 patches, as the vision parts of language models take them."""
    patch, frames = getattr(config, "patch_size", 8), getattr(config, "temporal_patch_size", 1)
    channels: int = getattr(config, "in_channels", None) or getattr(config, "num_channels", None) or 3
    name = next((n for n in ("pixel_values", "hidden_states") if n in names), "hidden_states")
    for flat in (channels * frames * patch**2, channels * patch**2):
        yield {name: _normal(BATCH * 16, flat), grid: torch.tensor([[1, 4, 4]] * BATCH)}


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _pixels(model: nn.Module) -> Iterator[Tensor]:
    config = _inner(model.config, ("vision_config", "backbone_config", "encoder", "vision"))
    sizes = [_size(getattr(config, "image_size", None)), (IMAGE, IMAGE), (64, 64), (224, 224)]
    channels = getattr(config, "num_channels", None) or getattr(config, "in_channels", None) or 3
    channels = channels if isinstance(channels, int) else 3
    frames = getattr(config, "num_frames", _FRAMES)
    for height, width in dict.fromkeys(size for size in sizes if size):
        yield _normal(BATCH, channels, height, width)
        yield _normal(BATCH, frames if isinstance(frames, int) else _FRAMES, channels, height, width)
        yield _normal(1, 2, channels, height, width)


def _sound(model: nn.Module, name: str) -> Iterator[Tensor]:
    config = _inner(model.config, ("audio_config", "encoder_config", "encoder", "audio_encoder"))
    mels = next((found for name in _MELS if isinstance(found := getattr(config, name, None), int)), 16)
    longest = getattr(config, "max_source_positions", None)
    length = 2 * longest if isinstance(longest, int) and longest < 1000 else 64
    spectra: list[tuple[int, ...]] = [(BATCH, mels, length), (BATCH, length, mels)]
    waves: list[tuple[int, ...]] = [(BATCH, 6400), (BATCH, 1, 6400)]
    wide = (BATCH, 1024, 128)
    # A waveform taken for a spectrum is one of 6400 by 6400 once it is masked, and takes minutes.
    if name == "input_features":
        shapes = [*spectra, wide, (BATCH, 1, 1024, 128), *waves]
    else:
        shapes = [waves[0], *spectra, waves[1], (BATCH, 1, 1024, 128), wide]
    yield from (_normal(*shape) for shape in shapes)


def _inner(config: Any, names: tuple[str, ...]) -> Any:
    for name in names:
        found = getattr(config, name, None)
        if hasattr(found, "to_dict"):
            return found
    return config


def _size(value: object) -> tuple[int, int] | None:
    if isinstance(value, int):
        return value, value
    if isinstance(value, (list, tuple)) and len(value) >= 2 and all(isinstance(v, int) for v in value):
        return int(value[-2]), int(value[-1])
    return None
