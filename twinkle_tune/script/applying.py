"""Applying the kept profiles of a script's models, at their first calls."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import nn

from twinkle_tune.call.drawn import random_kept
from twinkle_tune.errors import in_a_line
from twinkle_tune.kernel.kernelize import kernelize_model, kernelize_report
from twinkle_tune.mode import Mode
from twinkle_tune.script.recording import ModelSeen, Recording
from twinkle_tune.tune.kept import place_of, stored


@dataclass(slots=True, eq=False)
class _Outcome:
    """What became of a model.

    Attributes:
        bound: how many places run something else than their originals; 0 for none.
        mode: for which mode that is; None where nothing is kept for it.
        is_whole: whether the run that made its profile was not stopped.
        is_kept: whether this run keeps one for the next.
        notes: what went wrong.
    """

    bound: int = 0
    mode: Mode | None = None
    is_whole: bool = True
    is_kept: bool = False
    notes: dict[str, None] = field(default_factory=dict)


class Applying:
    """Looks for the profile of each model when it is called in a way that it was not called in before.

    What is for training stays, once it is there: with gradients off the originals run then. Whatever goes wrong is a
    note, and the originals run.
    """

    def __init__(self) -> None:
        self._outcomes: dict[str, _Outcome] = {}
        self._trains: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._applied: weakref.WeakSet[nn.Module] = weakref.WeakSet()

    def found(self, model: nn.Module, seen: ModelSeen, *, trains: bool, autocast: str) -> None:
        """A model is about to be called, for the first time so."""
        outcome = self._outcomes.setdefault(seen.digest, _Outcome())
        if model in self._trains:
            return
        notes = outcome.notes
        mode = Mode.TRAIN if trains else Mode.INFERENCE
        try:
            with warnings.catch_warnings(record=True) as heard, random_kept(), torch.inference_mode(False):
                warnings.simplefilter("always")
                profile = stored(place_of(model, mode, seen.device, notes.setdefault, autocast), notes.setdefault)
                if profile is not None:
                    kernelize_model(model, profile=profile)
            notes |= {str(each.message): None for each in heard if each.category is UserWarning}
        except Exception as error:  # of the disk, of a kernel's source: the script goes on with the originals
            notes[in_a_line(error, 300)] = None
            return
        if profile is not None:
            outcome.mode, outcome.bound = mode, len(kernelize_report(model).bound)
            outcome.is_whole = profile.complete
            self._applied.add(model)
            if trains:
                self._trains.add(model)

    def is_applied(self, model: nn.Module) -> bool:
        """Whether a kept profile is applied to a model."""
        return model in self._applied

    def kept(self, digest: str) -> None:
        """A model of this form has a profile from now on, which won in its own steps."""
        self._outcomes[digest].is_kept = True

    def lines(self, recording: Recording) -> Iterator[str]:
        """What became of each model, a line each, and the notes."""
        for digest in dict.fromkeys(model.digest for model in recording.models):
            models = [model for model in recording.models if model.digest == digest]
            outcome = self._outcomes.get(digest, _Outcome())
            yield f"{models[-1].text}; {_told(outcome)}"
            yield from outcome.notes


def _told(outcome: _Outcome) -> str:
    if outcome.is_kept:
        return "what won in its steps is kept for the next run"
    if outcome.mode is None:
        return "no profile is kept for it here: 'twinkle-tune run --then profile' makes one"
    stopped = "" if outcome.is_whole else "; its run was stopped: --then profile with more --budget may find more"
    if not outcome.bound:
        return f"its profile ({outcome.mode}) keeps the originals{stopped}"
    places = (
        "1 place does not run its original"
        if outcome.bound == 1
        else f"{outcome.bound} places do not run their originals"
    )
    return f"its profile ({outcome.mode}) is applied: {places}{stopped}"
