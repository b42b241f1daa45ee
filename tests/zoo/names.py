"""Which model types there are, and which class of transformers stands for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_PREFERRED = (
    "SEQ_TO_SEQ_CAUSAL_LM",
    "SPEECH_SEQ_2_SEQ",
    "MASKED_LM",
    "CAUSAL_LM",
    "IMAGE_TEXT_TO_TEXT",
    "MULTIMODAL_LM",
    "CTC",
    "SEQUENCE_CLASSIFICATION",
    "IMAGE_CLASSIFICATION",
    "AUDIO_CLASSIFICATION",
    "VIDEO_CLASSIFICATION",
    "ZERO_SHOT_IMAGE_CLASSIFICATION",
    "OBJECT_DETECTION",
    "SEMANTIC_SEGMENTATION",
    "DEPTH_ESTIMATION",
)
"""Heads in the order in which they are looked for; then the base model, then whatever there is. An encoder-decoder has
a class for its decoder alone as well, and an encoder one that makes it a decoder: the natural form comes first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A model type: its name, its configuration's class, the model's class, and other names of the same two."""

    name: str
    config_class: Any
    model_class: Any
    aliases: tuple[str, ...] = ()


def all_kinds() -> tuple[tuple[Kind, ...], dict[str, str]]:
    """Every model type of the installed transformers, in the library's order; and those without a class, with why."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

    found: dict[tuple[str, str], Kind] = {}
    without: dict[str, str] = {}
    for name in CONFIG_MAPPING_NAMES:
        class_name = next(_class_names(name), None)
        if class_name is None:
            without[name] = "no automatic class of transformers makes a model of it"
            continue
        try:
            config_class, model_class = CONFIG_MAPPING[name], _class(class_name)
        except Exception as error:
            without[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            continue
        key = (config_class.__name__, class_name)
        if key in found:
            first = found[key]
            found[key] = Kind(
                name=first.name,
                config_class=config_class,
                model_class=model_class,
                aliases=(*first.aliases, name),
            )
        else:
            found[key] = Kind(name=name, config_class=config_class, model_class=model_class)
    return tuple(found.values()), without


def kind_of(name: str) -> Kind:
    """The model type of a name, without a walk through all others.

    Raises:
        KeyError: no such type, or no class for it.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    class_name = next(_class_names(name), None)
    if class_name is None:
        raise KeyError(f"{name}: no model type of transformers with a model class; see `python -m tests.zoo --list`")
    return Kind(name=name, config_class=CONFIG_MAPPING[name], model_class=_class(class_name))


def _class_names(name: str) -> Iterator[str]:
    from transformers.models.auto import modeling_auto

    first = [f"MODEL_FOR_{each}_MAPPING_NAMES" for each in _PREFERRED] + ["MODEL_MAPPING_NAMES"]
    rest = sorted(each for each in vars(modeling_auto) if each.endswith("_MAPPING_NAMES") and each not in first)
    for mapping in (*first, *rest):
        held = getattr(modeling_auto, mapping).get(name) if mapping != "CONFIG_MAPPING_NAMES" else None
        if held is not None:
            yield held if isinstance(held, str) else held[0]


def _class(name: str) -> Any:
    import transformers

    return getattr(transformers, name)
