"""Sources as they were tried: at the commit, and with the config, that a trial wrote down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, Self, runtime_checkable

from twinkle_tune.outcome import Trial
from twinkle_tune.slot import Source
from twinkle_tune.source.hub import pinned


@runtime_checkable
class Configurable(Source, Protocol):
    """A source whose code has tunable parameters."""

    @property
    def config(self) -> Mapping[str, int] | None:
        """Their values by name; None for its own default for each call."""

    def with_config(self, config: Mapping[str, int]) -> Self:
        """The same code with these values."""


def config_of(source: Source) -> Mapping[str, int] | None:
    """The config of a source that was given one, else None."""
    return source.config if isinstance(source, Configurable) else None


def configured(source: Source, config: Mapping[str, int] | None) -> Source:
    """A tunable source with a config; any other source, or no config, as it is."""
    return source if config is None or not isinstance(source, Configurable) else source.with_config(config)


def as_tried(source: Source, trial: Trial | None) -> Source:
    """A source as in a trial, whatever a branch points to or a default is by now; without a trial as it is."""
    return source if trial is None else configured(pinned(source, trial.commit), trial.config)
