"""What torch.compile made for a profile, kept in a folder: a process that is pointed at it compiles nothing anew.

It is inductor's own cache, of a folder of its own: what torch.compiler.save_cache_artifacts keeps has no compiled C++
in it, and the compiler, for which a user waits, runs all the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from twinkle_tune.capture.held_out import tried_steps
from twinkle_tune.capture.step import make_steps
from twinkle_tune.kernel.kernelize import kernelize_model, restore_model
from twinkle_tune.kernel.registry import Registry
from twinkle_tune.profile.schema import Profile
from twinkle_tune.tune.flags import without_trace
from twinkle_tune.tune.whole import runner_of

PLACE = "TORCHINDUCTOR_CACHE_DIR"
_TRITON = "TRITON_CACHE_DIR"
"""Left alone it lies below the other; torch sets it by itself."""


@contextmanager
def compiled_into(folder: Path) -> Iterator[None]:
    """While this is open compiled code is kept in a folder, and taken from there."""
    before = {name: os.environ.get(name) for name in (PLACE, _TRITON)}
    os.environ[PLACE] = str(folder.absolute())
    os.environ.pop(_TRITON, None)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def compile_all(model: nn.Module, example_inputs: object, profile: Profile, registry: Registry | None = None) -> None:
    """Run each step twice with a profile applied, so that its code is made: a run that took its answers from the store
    has compiled nothing. The model is left restored.

    Args:
        model: with its originals.
        example_inputs: as of :func:`twinkle_tune.tune_model`.
        profile: of the model, made here.
        registry: what is registered; the default registry if not given.
    """
    mode, device, several = profile.mode, profile.device, profile.accumulate or 1
    with without_trace(model, mode):
        steps = make_steps(model, example_inputs, mode, device, accumulate=several)
        if profile.setups:
            tried = tried_steps(model, example_inputs, mode, device, accumulate=several)
            steps = (*steps, *(each.step for each in tried))
        taken = {result.label for result in profile.steps if not result.left_out}
        try:
            kernelize_model(model, mode, device, profile=profile, registry=registry)
            runner = runner_of(model, profile.terms)
            for step in {step.label: step for step in steps if step.label in taken}.values():
                for _ in range(2):
                    step.run(runner)
        finally:
            restore_model(model)


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
