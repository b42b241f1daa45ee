"""Which of the steps that were made up a model takes.

A user's inputs say what a model can be given; what a prefill, a decode step or a loss would be given is our own guess.
A guess that the model does not take is no reason to end a run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from twinkle_tune.capture.step import Step
from twinkle_tune.errors import CaptureError, in_a_line


def taken(steps: Sequence[Step], run: Callable[[Step], object]) -> tuple[tuple[Step, ...], tuple[tuple[str, str], ...]]:
    """Run each step once: the steps that the model takes, and the labels of those that it does not, with the reason.

    In the place of a made-up step that fails comes what it was made from, where there is such a one.

    Args:
        steps: from :func:`twinkle_tune.capture.step.make_steps`.
        run: runs a step of the model, and raises where it fails.

    Raises:
        CaptureError: a step failed that was not made up, or none is left.
        torch.OutOfMemoryError: there is no room for a step.
    """
    kept: list[Step] = []
    left_out: list[tuple[str, str]] = []
    for step in steps:
        try:
            run(step)
        except CaptureError as error:
            if not step.is_made_up or isinstance(error.__cause__, torch.OutOfMemoryError):
                raise
            left_out.append((step.label, in_a_line(error.__cause__ or error, 300)))
            if step.instead is not None:
                run(step.instead)
                kept.append(step.instead)
            continue
        kept.append(step)
    if not kept:
        raise CaptureError(f"{left_out[0][0]}: the model does not take it ({left_out[0][1]}); give other inputs")
    return tuple(kept), tuple(left_out)
