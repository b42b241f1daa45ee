"""Facts of the model that a run is about."""

from __future__ import annotations

from torch import nn

from twinkle_tune.kernel.registry import Registry
from twinkle_tune.kernel.shared import main_dtype
from twinkle_tune.kernel.unlooked import unlooked
from twinkle_tune.profile.schema import ModelFacts
from twinkle_tune.workload import target_of


def model_facts(model: nn.Module, name: str, registry: Registry) -> ModelFacts:
    """What a profile says of a model that is called ``name``; ``registry`` says which of its layers are slots."""
    return ModelFacts(
        name=name,
        target=target_of(type(model)),
        parameters=sum(p.numel() for p in model.parameters()),
        dtype=main_dtype(model),
        unlooked=unlooked(model, registry),
    )
