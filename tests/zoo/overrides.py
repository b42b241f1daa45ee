"""Fields that the generic rule of :mod:`tests.zoo.shrink` cannot know, by model type. Data alone."""

from __future__ import annotations

from typing import Any

OVERRIDES: dict[str, dict[str, Any]] = {}
