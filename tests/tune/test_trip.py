"""How far a model travels: the files that it passes from ``tune_model`` to the first contest.

``python -m tests.tune.test_trip`` prints them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from traceback import walk_stack
from types import FrameType
from typing import Any

import torch
from torch import nn

import twinkle_tune
from tests.tune.toy import QUICK, Two
from twinkle_tune.contest.contest import contest
from twinkle_tune.tune.tune import tune_model

PACKAGE = f"{Path(twinkle_tune.__file__).parent}/"
MOST_FILES = 20


class Arrived(BaseException):
    """The trip is over: nobody needs the contest itself."""


@dataclass
class Trip:
    """What a run passes on its way to the first contest, as paths within the package.

    Attributes:
        stack: files of the calls that the first contest is held within, its own included.
        given: files with a function that was given the model itself.
        entered: files with a function that was called at all.
    """

    model: object
    stack: set[str] = field(default_factory=set)
    given: set[str] = field(default_factory=set)
    entered: set[str] = field(default_factory=set)

    def follow(self, frame: FrameType, event: str, argument: Any) -> None:
        """As :func:`sys.setprofile` takes it."""
        if event != "call" or not frame.f_code.co_filename.startswith(PACKAGE):
            return
        name = frame.f_code.co_filename.removeprefix(PACKAGE)
        self.entered.add(name)
        if any(value is self.model for value in frame.f_locals.values()):
            self.given.add(name)
        if frame.f_code is contest.__code__:
            files = {above.f_code.co_filename for above, _ in walk_stack(frame)}
            self.stack = {file.removeprefix(PACKAGE) for file in files if file.startswith(PACKAGE)}
            raise Arrived


def trip() -> Trip:
    """The trip of a small model with two layers and a function, nested as models are."""
    model = nn.Sequential(Two())
    found = Trip(model)
    sys.setprofile(found.follow)
    try:
        tune_model(model, torch.randn(4, 16), settings=QUICK, progress=False)
    except Arrived:
        return found
    finally:
        sys.setprofile(None)
    raise AssertionError("no contest was held")


def test_a_model_passes_few_files_before_its_first_contest() -> None:
    """The calls around the first contest lie in few files, and few files are given the model itself."""
    found = trip()
    assert found.stack
    assert len(found.stack) <= MOST_FILES, sorted(found.stack)
    assert len(found.given) <= MOST_FILES, sorted(found.given)


if __name__ == "__main__":
    made = trip()
    for what in ("stack", "given", "entered"):
        print(f"{what}: {len(getattr(made, what))}")
        print("  " + " ".join(sorted(getattr(made, what))))
