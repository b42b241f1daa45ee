"""A callback for Lightning's Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from twinkle_tune.profile.schema import Profile
from twinkle_tune.script.training import InTraining

KEY = "twinkle_kernels"
"""Logged once: how many places do not run their originals."""


class TwinkleCallback(Callback):  # type: ignore[misc]
    """Lets a Lightning Trainer fit with the kernels that are right and faster on its models, batches and machine.

    ``Trainer(callbacks=[TwinkleCallback()])``. The models are those that ``training_step`` calls: the LightningModule
    itself (``self(x)``), or parts of it (``self.generator(x)``). Where a profile is kept for one it is applied at its
    first call. Where there is none, it is tuned after the first step of the optimizer, once. Whatever goes wrong is a
    line, and the originals run. In a run of several processes nothing is tuned.
    """

    def __init__(self, profile: str | Path | Profile = "auto", budget: float | str | None = "5m") -> None:
        """Nothing is done before the training begins.

        Args:
            profile: one, its path, or "auto": what is kept for the models, and where nothing is, what is found.
            budget: seconds that tuning may take, or a text such as "5m"; None for no limit.

        Raises:
            TuneError: the budget is no span of time.
            ProfileError: the profile cannot be read.
        """
        self._run = InTraining(profile, budget, lambda line: rank_zero_info(f"twinkle_tune: {line}"))
        self._is_logged = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Everything is prepared: look at what the steps call."""
        self._run.begin_inside(pl_module, may_tune=trainer.world_size <= 1)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *others: Any) -> None:
        """After a step of the optimizer: tune, where nothing was kept."""
        del others
        if trainer.global_step > 0:
            self._run.step_ended()
        if self._run.bound is not None and not self._is_logged:
            self._is_logged = True
            pl_module.log(KEY, float(self._run.bound))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look no more."""
        del trainer, pl_module
        self._run.end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Look no more."""
        del trainer, pl_module, exception
        self._run.end()
