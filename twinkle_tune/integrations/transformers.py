"""A callback for transformers' Trainer, and for those that are one: Seq2SeqTrainer, TRL's SFTTrainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from twinkle_tune.profile.schema import Profile
from twinkle_tune.script.training import InTraining

KEY = "twinkle_kernels"
"""In the first entry of the Trainer's log: how many places do not run their originals."""
_logger = logging.get_logger("transformers.trainer")


class TwinkleCallback(TrainerCallback):  # type: ignore[misc]
    """Lets a Trainer train with the kernels that are right and faster on its model, its batches and this machine.

    ``Trainer(..., callbacks=[TwinkleCallback()])``. Where a profile is kept for the model it is applied before the
    first step. Where there is none, the first step runs as always; then the model is tuned on its batches, once, the
    profile is kept for later runs and applied. Weights, gradients, the optimizer, the data and random numbers
    are as they would be without. What was done is said by the Trainer's logger, on level "info", and as
    ``twinkle_kernels`` in its log. Whatever goes wrong is a warning of that logger, and the originals run.

    In a run of several processes (DDP, FSDP) nothing is tuned; what is kept, or given, is applied.
    """

    def __init__(self, profile: str | Path | Profile = "auto", budget: float | str | None = "5m") -> None:
        """Nothing is done before the training begins.

        Args:
            profile: one, its path, or "auto": what is kept for the model, and where nothing is, what is found.
            budget: seconds that tuning may take, or a text such as "5m"; None for no limit.

        Raises:
            TuneError: the budget is no span of time.
            ProfileError: the profile cannot be read.
        """
        self._run = InTraining(profile, budget, self._tell)
        self._is_logged = False

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **others: Any,
    ) -> None:
        """Everything is prepared: apply, or look at the first step."""
        del state, control, others
        if model is not None:
            casts_to_half = args.fp16 and args.device.type != "cpu"  # where accelerate opens no autocast to float16
            autocast = "bfloat16" if args.bf16 else "float16" if casts_to_half else ""
            self._run.begin(model, autocast, may_tune=args.world_size <= 1)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """Between two steps: tune, where nothing was kept."""
        del args, state, control, others
        self._run.step_ended()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **others: Any,
    ) -> None:
        """The first time after it was decided the log says what runs."""
        del args, control, others
        if self._is_logged or self._run.bound is None:
            return
        self._is_logged = True
        for entry in (logs, state.log_history[-1] if state.log_history else None):
            if entry is not None:
                entry[KEY] = self._run.bound

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Look no more."""
        del args, state, control, others
        self._run.end()

    @staticmethod
    def _tell(line: str) -> None:
        level = _logger.warning if line.startswith(("the originals run", "original kept")) else _logger.info
        level(f"twinkle_tune: {line}")
