"""A part of a script under observation: ``with watching(model) as watched:``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from twinkle_tune.errors import ModelError
from twinkle_tune.profile.schema import Profile
from twinkle_tune.script.recording import ModelSeen, Recording
from twinkle_tune.script.tuning import tuned
from twinkle_tune.script.watch import CALLS, Watch, parts_of


class Watched:
    """What a part of a script calls its models with.

    Attributes:
        recording: what was seen; it grows while the ``with`` block runs, and is what it is afterwards.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    @property
    def recording(self) -> Recording:
        """What was seen until now, as one frozen value."""
        return self._watch.recording

    def tune(self, path: str | None = None, **options: Any) -> Profile:
        """Tune a model that was seen, on inputs like those that it was called with.

        Its mode, autocast and optimizer are those of the calls.

        Args:
            path: which model, where several were seen: as :attr:`ModelSeen.path` has it ("unet").
            options: as of :func:`twinkle_tune.tune_model`; those of the calls may be given otherwise.

        Raises:
            ModelError: no model was seen, several were and none is named, or the named one is not there.
            CaptureError: no call can be made again: keep real inputs (``keep_inputs=True``).
            TuneError: as of :func:`twinkle_tune.tune_model`.
        """
        model, seen, optimizer = self._one(path)
        return tuned(model, seen, **{"optimizer": optimizer} | options)

    def _one(self, path: str | None) -> tuple[nn.Module, ModelSeen, Any]:
        if self._watch.problem is not None:
            raise ModelError(
                f"watching: a call could not be described ({self._watch.problem})"
            ) from self._watch.problem
        found = self._watch.pairs()
        if path is not None:
            found = [each for each in found if each[1].path == path]
        if len(found) == 1:
            return found[0]
        there = ", ".join(repr(seen.path) for _, seen, _ in self._watch.pairs()) or "none"
        raise ModelError(
            f"watching: got {len(found)} models that were called, expected one (there: {there}); "
            "name it by its path, or call the model within the block"
        )

    def __str__(self) -> str:
        return str(self.recording)


@contextmanager
def watching(model: object, *, calls: int = CALLS, keep_inputs: bool = False) -> Iterator[Watched]:
    """Watch a part of a script: which models it calls, with what, how often, and with which optimizer.

    Nothing is called twice, and nothing of the model or of the process is changed: no hooks, no random numbers drawn,
    no weights. The first calls are described, which takes some tenths of a millisecond each; later ones cost nothing.

    Args:
        model: a module, or whatever holds modules: a diffusers pipeline. Calls of its modules from outside of any
            module are looked at, through wrappers (torch.compile, DDP) as well.
        calls: that are described after a new model came up.
        keep_inputs: whether a copy of the arguments of each form is kept, to tune on real inputs.

    Raises:
        ModelError: it holds no module.
    """
    within = parts_of(model)
    if not within:
        raise ModelError(
            f"watching: got a {type(model).__name__} that holds no module, expected a model or a pipeline; "
            "pass the module that is called"
        )
    watch = Watch(within=within, calls=calls, keep_inputs=keep_inputs)
    del model, within  # this frame lives as long as the block
    watch.begin()
    try:
        yield Watched(watch)
    finally:
        watch.end()
