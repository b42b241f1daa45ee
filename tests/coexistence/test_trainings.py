"""Trainers and pipelines of other libraries: what is tuned or watched in them, and that they do what they did."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.coexistence.tiny import bind, known, profile, tiny_llama, tokens
from tests.integrations.trainings import SETTINGS, Numbers, QuickTuning, quick_tuning, small, train
from twinkle_tune import kernelize_model, kernelize_report, restore_model, watching
from twinkle_tune.mode import Mode


@pytest.fixture
def tuning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> QuickTuning:
    """A quick tuning, and a cache folder of the test's own."""
    return quick_tuning(monkeypatch, tmp_path)


def near(one: list[float], other: list[float]) -> bool:
    """Whether the losses of two trainings are the same, but for roundings."""
    return len(one) == len(other) > 1 and other == pytest.approx(one, rel=1e-2)


# transformers


def test_trainer_with_the_callback(tuning: QuickTuning, tmp_path: Path) -> None:
    """The first run tunes on its first step, the second one applies what was kept: losses and files are the same."""
    from twinkle_tune.integrations.transformers import TwinkleCallback

    settings: dict[str, Any] = {"bf16": True, "gradient_accumulation_steps": 2, "max_steps": 4}
    plain, first, second = (
        train(tmp_path / str(index), callbacks, lora=False, **settings)
        for index, callbacks in enumerate(([], [TwinkleCallback()], [TwinkleCallback()]))
    )
    assert len(tuning.seen) == 1
    assert kernelize_report(second.trainer.model).bound
    assert near(plain.losses, first.losses)
    assert near(plain.losses, second.losses)
    assert plain.files == second.files


def test_seq2seq_trainer(tuning: QuickTuning, tmp_path: Path) -> None:
    """An encoder and decoder is tuned on its first step; losses, and what is generated to evaluate it, are the same."""
    from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, T5Config, T5ForConditionalGeneration

    from twinkle_tune.integrations.transformers import TwinkleCallback

    def trained(callbacks: list[Any]) -> tuple[list[float], list[list[int]], Any]:
        torch.manual_seed(0)
        config = T5Config(
            vocab_size=64, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
        )
        model = T5ForConditionalGeneration(config)
        arguments = Seq2SeqTrainingArguments(
            output_dir=str(tmp_path), max_steps=4, predict_with_generate=True, generation_max_length=6, **SETTINGS
        )
        rows = [{name: row[name] for name in ("input_ids", "labels")} for row in map(Numbers().__getitem__, range(16))]
        trainer = Seq2SeqTrainer(model=model, args=arguments, train_dataset=rows, callbacks=callbacks)
        trainer.train()
        losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
        return losses, trainer.predict(rows[:4]).predictions.tolist(), model

    plain, first, second = trained([]), trained([TwinkleCallback()]), trained([TwinkleCallback()])
    assert len(tuning.seen) == 1
    for losses, generated, model in (first, second):
        assert kernelize_report(model).bound
        assert near(plain[0], losses)
        assert generated == plain[1]


def test_trainer_under_torch_compile(tuning: QuickTuning, tmp_path: Path) -> None:
    """With ``torch_compile=True`` what is kept is bound before the model is compiled."""
    from twinkle_tune.integrations.transformers import TwinkleCallback

    train(tmp_path / "first", [TwinkleCallback()], lora=False, max_steps=2)
    settings: dict[str, Any] = {"torch_compile": True, "torch_compile_backend": "eager", "max_steps": 3}
    torch._dynamo.reset()
    plain = train(tmp_path / "plain", lora=False, **settings)
    torch._dynamo.reset()
    other = train(tmp_path / "other", [TwinkleCallback()], lora=False, **settings)
    torch._dynamo.reset()
    assert kernelize_report(other.trainer.model).bound
    assert near(plain.losses, other.losses)


def test_sft_trainer(tuning: QuickTuning, tmp_path: Path) -> None:
    """TRL's trainer, which puts a forward of its own on the model, is tuned below it."""
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    from twinkle_tune.integrations.transformers import TwinkleCallback

    def losses(callbacks: list[Any]) -> list[float]:
        rows = datasets.Dataset.from_list(
            [{"input_ids": row["input_ids"].tolist()} for row in map(Numbers().__getitem__, range(16))]
        )
        arguments = trl.SFTConfig(output_dir=str(tmp_path), max_steps=4, max_length=12, **SETTINGS)
        tokenizer = _tokenizer()
        trainer = trl.SFTTrainer(
            model=small(), args=arguments, train_dataset=rows, callbacks=callbacks, processing_class=tokenizer
        )
        trainer.train()
        return [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]

    plain, first, second = losses([]), losses([TwinkleCallback()]), losses([TwinkleCallback()])
    assert len(tuning.seen) == 1
    assert near(plain, first)
    assert near(plain, second)


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"w{index}": index for index in range(64)}
    made = Tokenizer(models.WordLevel(words, unk_token="w0"))
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="w0", eos_token="w1")


# accelerate


@pytest.mark.parametrize("when", ["before", "after"])
def test_accelerate_prepare(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers are bound below accelerate's autocast, whether they are bound before ``prepare`` or after it."""
    accelerate = pytest.importorskip("accelerate")
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)  # an earlier Trainer's autocast
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="no")
    model = tiny_llama()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if when == "before":
        bind(model)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    if when == "after":
        kernelize_model(accelerator.unwrap_model(prepared), profile=profile(), registry=known())
    assert len(kernelize_report(accelerator.unwrap_model(prepared)).bound) == 5
    alone = tiny_llama()
    bind(alone)
    for each in (prepared, alone):
        loss = each(input_ids=tokens(), labels=tokens()).loss
        accelerator.backward(loss)
    assert torch.equal(prepared.lm_head.weight.grad, alone.lm_head.weight.grad)
    optimizer.step()
    restore_model(accelerator.unwrap_model(prepared))
    assert not kernelize_report(prepared).bound


# Lightning


def test_lightning(tuning: QuickTuning, tmp_path: Path) -> None:
    """The model that ``training_step`` calls is found, tuned after the first step, and applied at once later."""
    lightning = pytest.importorskip("lightning.pytorch")
    from twinkle_tune.integrations.lightning import KEY, TwinkleCallback

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = small()
            self.losses: list[float] = []

        def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
            loss: Tensor = self.model(input_ids=batch["input_ids"], labels=batch["labels"]).loss
            self.losses.append(float(loss.detach()))
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    def fit(callbacks: list[Any]) -> Any:
        module = Module()
        trainer = lightning.Trainer(
            max_steps=4, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            callbacks=callbacks, default_root_dir=tmp_path, precision="bf16-mixed", enable_model_summary=False,
        )  # fmt: skip
        torch.manual_seed(0)
        trainer.fit(module, torch.utils.data.DataLoader(Numbers(), batch_size=2))
        assert not callbacks or trainer.callback_metrics[KEY] > 0
        return module

    plain, first, second = fit([]), fit([TwinkleCallback()]), fit([TwinkleCallback()])
    (seen,) = tuning.seen
    assert (seen.name, seen.autocast, seen.optimizer) == ("LlamaForCausalLM", "bfloat16", "AdamW")
    assert kernelize_report(second.model).bound
    assert near(plain.losses, first.losses)
    assert near(plain.losses, second.losses)


# Pipelines


def test_diffusers_pipeline() -> None:
    """A pipeline's modules are found by their names, called as it calls them."""
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
    )  # fmt: skip
    pipeline = diffusers.DDPMPipeline(unet=unet, scheduler=diffusers.DDPMScheduler(num_train_timesteps=10))
    pipeline.set_progress_bar_config(disable=True)

    def images() -> Any:
        made = torch.Generator().manual_seed(0)
        return pipeline(batch_size=1, num_inference_steps=3, output_type="np", generator=made).images

    plain = images()
    with watching(pipeline) as watched:
        assert (images() == plain).all()
    (seen,) = watched.recording.models
    assert (seen.path, seen.name, seen.total, seen.mode) == ("unet", "UNet2DModel", 3, Mode.INFERENCE)
    tuned = watched.tune("unet", candidates="original", budget_s=5, progress=False)
    kernelize_model(pipeline.unet, profile=tuned)
    assert (images() == plain).all()


def test_sentence_transformers(tmp_path: Path) -> None:
    """What ``encode`` calls is found, can be tuned on what it is given, and encodes as before."""
    library = pytest.importorskip("sentence_transformers")
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32,
    )  # fmt: skip
    BertModel(config).save_pretrained(tmp_path)
    _tokenizer().save_pretrained(tmp_path)
    model = library.SentenceTransformer(str(tmp_path), device="cpu")
    sentences = ["w3 w4 w5", "w6 w7"]
    plain = model.encode(sentences)
    with watching(model) as watched:
        assert (model.encode(sentences) == plain).all()
    (seen,) = watched.recording.models
    assert (seen.name, seen.total, seen.mode) == ("SentenceTransformer", 1, Mode.INFERENCE)
    kernelize_model(model, profile=watched.tune(candidates="original", budget_s=5, progress=False))
    assert (model.encode(sentences) == plain).all()


def test_two_models_of_a_pipeline_are_named() -> None:
    """Where several were called, the one that is meant is named."""
    pipeline = SimpleNamespace(encoder=nn.Linear(4, 4).eval(), decoder=nn.Linear(4, 2).eval())
    with watching(pipeline) as watched, torch.no_grad():
        pipeline.decoder(pipeline.encoder(torch.ones(2, 4)))
    assert watched.tune("decoder", candidates="original", budget_s=5, progress=False).model.parameters == 10
