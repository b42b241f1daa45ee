"""A tiny model of a type, with inputs that its own forward takes; or why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tests.zoo.inputs import attempts
from tests.zoo.names import Kind
from tests.zoo.shrink import tiny_config

MOST_PARAMETERS = 30_000_000
_LEVELS = (0, 1, 2)


class CannotBuildError(Exception):
    """No model of the type comes of its configuration here."""


class OwnForwardError(Exception):
    """The model is there, and takes none of the inputs that were made for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A model in evaluation state, inputs for it, and how small its configuration was made."""

    model: nn.Module
    inputs: dict[str, Any]
    level: int


def build(kind: Kind) -> Built:
    """A model of random weights, the same ones each time, on the CPU in float32.

    Raises:
        CannotBuildError, OwnForwardError: with the library's own message of the smallest configuration.
    """
    problems: list[Exception] = []
    for level in _LEVELS:
        try:
            return _built(kind, level)
        except (CannotBuildError, OwnForwardError) as error:
            problems.append(error)
    # A model that was there and did not run tells more than one that was not.
    raise next((p for p in problems if isinstance(p, OwnForwardError)), problems[0])


def _built(kind: Kind, level: int) -> Built:
    try:
        config = tiny_config(kind.config_class, level)
        with torch.device("meta"):
            size = sum(p.numel() for p in kind.model_class(config).parameters())
        if size > MOST_PARAMETERS:
            raise CannotBuildError(f"{size:,} parameters, more than {MOST_PARAMETERS:,}")
        torch.manual_seed(0)
        model = kind.model_class(tiny_config(kind.config_class, level)).eval()
    except CannotBuildError:
        raise
    except Exception as error:
        raise CannotBuildError(said(error)) from error
    first: Exception | None = None
    for inputs in attempts(model):
        try:
            with torch.no_grad():
                model(**inputs)
            return Built(model=model, inputs=inputs, level=level)
        except Exception as error:
            first = first or error
    if first is None:
        raise OwnForwardError(f"no inputs are known for {type(model).__name__}.forward")
    raise OwnForwardError(said(first)) from first


def said(error: BaseException) -> str:
    """An exception in one line of at most 240 characters."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:240]
