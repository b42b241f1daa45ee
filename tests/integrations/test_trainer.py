"""transformers' Trainer with the callback: the training that it is without, with other kernels inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from tests.integrations.trainings import QuickTuning, quick_tuning, small, train
from twinkle_tune import kernelize_report, load_profile
from twinkle_tune.errors import TuneError
from twinkle_tune.integrations.transformers import KEY, TwinkleCallback
from twinkle_tune.script import training
from twinkle_tune.script.outermost import _plain

WHOLE: dict[str, Any] = {
    "bf16": True,
    "gradient_accumulation_steps": 2,
    "gradient_checkpointing": True,
    "max_steps": 20,
}


@pytest.fixture
def tuning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> QuickTuning:
    """A quick tuning, and a cache folder of the test's own."""
    return quick_tuning(monkeypatch, tmp_path)


def assert_losses_near(one: list[float], other: list[float]) -> None:
    """The losses of two trainings in bfloat16 are apart by its roundings, which grow with the steps."""
    assert len(one) == len(other) > 1
    for mine, its in zip(one, other, strict=True):
        assert its == pytest.approx(mine, rel=2e-2)


def test_tuned_in_the_first_run_applied_in_the_second_and_resumed(tuning: QuickTuning, tmp_path: Path) -> None:
    """20 steps with accumulation, checkpointing, LoRA and bfloat16: losses, columns, files, and the random numbers."""
    pytest.importorskip("peft")
    plain = train(tmp_path / "plain", lora=True, **WHOLE)
    first = train(tmp_path / "first", [TwinkleCallback()], lora=True, **WHOLE)
    (seen,) = tuning.seen
    assert (seen.autocast, seen.optimizer, seen.total) == ("bfloat16", "AdamW", 2)
    saves = WHOLE | {"save_strategy": "steps", "save_steps": 10}
    second = train(tmp_path / "second", [TwinkleCallback()], lora=True, **saves)
    resumed = train(
        tmp_path / "resumed", [TwinkleCallback()], lora=True, resume=tmp_path / "second" / "checkpoint-10", **WHOLE
    )
    assert len(tuning.seen) == 1
    for other in (first, second, resumed):
        assert kernelize_report(other.trainer.model).bound
        assert_losses_near(plain.losses, other.losses)
        assert other.columns == plain.columns
        assert other.files == plain.files
    assert second.drawn == plain.drawn == first.drawn
    assert [entry[KEY] > 0 for entry in second.trainer.state.log_history if KEY in entry] == [True]
    assert nn.Module.__call__ is _plain


def test_float16_on_a_cpu(tuning: QuickTuning, tmp_path: Path) -> None:
    """With ``fp16=True`` accelerate opens no autocast on a CPU: what is tuned so is kept and found as such."""
    plain = train(tmp_path / "plain", lora=False, fp16=True, max_steps=2)
    for folder in ("first", "second"):
        other = train(tmp_path / folder, [TwinkleCallback()], lora=False, fp16=True, max_steps=2)
        assert kernelize_report(other.trainer.model).bound
        assert_losses_near(plain.losses, other.losses)
        assert [seen.autocast for seen in tuning.seen] == [""]


def test_a_profile_by_its_path(tuning: QuickTuning, tmp_path: Path) -> None:
    """What is given is applied, and nothing is tuned; evaluation and prediction alone change nothing."""
    first = train(tmp_path / "first", [TwinkleCallback()], lora=False, max_steps=2)
    (kept,) = (tmp_path / "cache" / "models").glob("*.json")
    plain = train(tmp_path / "plain", lora=False, max_steps=4)
    for given in (kept, str(kept), load_profile(kept)):
        other = train(tmp_path / "other", [TwinkleCallback(profile=given)], lora=False, max_steps=4)
        assert kernelize_report(other.trainer.model).bound
        assert_losses_near(plain.losses, other.losses)
        assert other.files == plain.files == first.files
    assert len(tuning.seen) == 1


@pytest.mark.parametrize("place", ["tuned", "kernelize_model", "place_of", "stored"])
def test_whatever_fails_the_training_goes_on(
    place: str, tuning: QuickTuning, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A planted failure at each stage leaves the losses of the plain training, to the last digit."""
    plain = train(tmp_path / "plain", lora=False, max_steps=3)
    monkeypatch.setattr(training, place, lambda *args, **options: 1 / 0)
    other = train(tmp_path / "other", [TwinkleCallback()], lora=False, max_steps=3)
    assert other.losses == plain.losses
    assert nn.Module.__call__ is _plain


def test_refused(tmp_path: Path) -> None:
    """A wrong argument is told when the callback is made."""
    wrong: Any = 3
    with pytest.raises(TuneError, match="profile: got a int, expected 'auto', a path or a Profile"):
        TwinkleCallback(profile=wrong)
    with pytest.raises(TuneError):
        TwinkleCallback(profile=tmp_path / "nowhere.json")
    with pytest.raises(TuneError, match="budget"):
        TwinkleCallback(budget="soon")
    assert small() is not None
