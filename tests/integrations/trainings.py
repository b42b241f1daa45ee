"""Tiny trainings by transformers' Trainer, and a tuning that is quick and lets every right rival win."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from tests.script.scripted import quick_winners
from twinkle_tune.profile.schema import Profile
from twinkle_tune.script import training
from twinkle_tune.script.recording import ModelSeen

SETTINGS: dict[str, Any] = {
    "per_device_train_batch_size": 2, "learning_rate": 1e-2, "logging_steps": 1, "report_to": [], "use_cpu": True,
    "disable_tqdm": True, "save_strategy": "no",
}  # fmt: skip


class Numbers(torch.utils.data.Dataset[dict[str, Any]]):
    """Rows of numbers, with a column that the model does not take."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids = (torch.arange(12) * (index + 1)) % 61 + 2
        return {"input_ids": ids, "labels": ids, "text_id": index}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a training left."""

    losses: list[float]
    columns: set[str]
    files: dict[str, list[tuple[str, tuple[int, ...]]]]
    trainer: Trainer
    drawn: float


def small(*, lora: bool = False) -> nn.Module:
    """A tiny Llama, always with the same weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    model: nn.Module = LlamaForCausalLM(config)
    if lora:
        from peft import LoraConfig, get_peft_model

        targets = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        model = get_peft_model(model, targets)
    return model


def train(
    folder: Path, callbacks: Iterable[TrainerCallback] = (), *, lora: bool, resume: Path | None = None, **settings: Any
) -> Trained:
    """Train the tiny Llama and save it."""
    model = small(lora=lora)
    columns: set[str] = set()
    # Not the model's own call: accelerate puts its own forward there.
    embedding = model.get_submodule("base_model.model.model" if lora else "model")
    embedding.register_forward_pre_hook(lambda m, args, kwargs: columns.update(kwargs), with_kwargs=True)
    arguments = TrainingArguments(output_dir=str(folder), **(SETTINGS | settings))
    trainer = Trainer(model=model, args=arguments, train_dataset=Numbers(), callbacks=list(callbacks))
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    trainer.save_model(str(folder / "saved"))
    files = {
        path.name: [(name, tuple(tensor.shape)) for name, tensor in sorted(load_file(path).items())]
        if path.suffix == ".safetensors"
        else []
        for path in sorted((folder / "saved").iterdir())
    }
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    return Trained(losses=losses, columns=columns, files=files, trainer=trainer, drawn=float(torch.rand(1)))


class QuickTuning:
    """Stands in for the tuning of a model: no race, every right rival wins. Counts."""

    def __init__(self) -> None:
        self.seen: list[ModelSeen] = []

    def __call__(self, model: nn.Module, seen: ModelSeen, **options: Any) -> Profile:
        """A profile in which every right rival won."""
        self.seen.append(seen)
        return quick_winners(model, seen)


def quick_tuning(monkeypatch: pytest.MonkeyPatch, folder: Path) -> QuickTuning:
    """What stands in for tuning from now on; profiles are kept below the folder."""
    monkeypatch.setenv("TWINKLE_TUNE_CACHE", str(folder / "cache"))
    stand_in = QuickTuning()
    monkeypatch.setattr(training, "tuned", stand_in)
    return stand_in
