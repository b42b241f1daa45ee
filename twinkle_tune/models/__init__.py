"""A model's name as the command line takes it, turned into a model and its example inputs."""

from __future__ import annotations

from twinkle_tune.models.inputs import example_inputs
from twinkle_tune.models.load import Loaded, load, load_model, outline, require_device
from twinkle_tune.models.presets import PRESETS, Preset

__all__ = ["PRESETS", "Loaded", "Preset", "example_inputs", "load", "load_model", "outline", "require_device"]
