"""Facts of the model that a run is about."""

from __future__ import annotations

from collections import Counter

from torch import nn

from twinkle_tune.kernel.registry import Registry
from twinkle_tune.kernel.unlooked import unlooked
from twinkle_tune.profile.schema import ModelFacts
from twinkle_tune.workload import target_of


def model_facts(model: nn.Module, name: str, registry: Registry) -> ModelFacts:
    """What a profile says of a model that is called ``name``; ``registry`` says which of its layers are slots."""
    return ModelFacts(
        name=name,
        target=target_of(type(model)),
        parameters=sum(p.numel() for p in model.parameters()),
        dtype=_main_dtype(model),
        unlooked=unlooked(model, registry),
    )


def _main_dtype(model: nn.Module) -> str:
    counts: Counter[str] = Counter()
    for parameter in model.parameters():
        counts[str(parameter.dtype).removeprefix("torch.")] += parameter.numel()
    return counts.most_common(1)[0][0] if counts else ""
