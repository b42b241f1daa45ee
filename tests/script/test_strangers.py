"""Five scripts as strangers write them, each unchanged: plain, recorded, and with what is kept for its models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from torch import nn

from tests.script.scripted import STRANGERS, Done, keep_winners, quick_winners, recorded, run_here, run_plain
from tests.today import by_day
from twinkle_tune.kernel.plan_profile import plan_profile
from twinkle_tune.kernel.registry import default_registry
from twinkle_tune.script import session
from twinkle_tune.script.recording import ModelSeen
from twinkle_tune.script.rival_ways import Rival

SCRIPTS = ("plain_loop", "trainer_lora", "generation", "classifier", "two_models")
FORMS = {
    "plain_loop": ["Net (train, autocast bfloat16, AdamW): 24 calls in 2 forms"],
    "trainer_lora": ["PeftModelForCausalLM (train, autocast bfloat16, AdamW): 8 calls in 1 form"],
    "generation": ["LlamaForCausalLM (inference): 16 calls in 12 forms"],
    "classifier": ["Classifier (train, SGD): 10 calls in 1 form"],
    "two_models": ["Generator (train, Adam): 8 calls in 1 form", "Discriminator (train, Adam): 24 calls in 2 forms"],
}


def assert_same_results(one: Done, other: Done) -> None:
    """The same lines; numbers with a point (losses) are apart by roundings, all else (tokens, counts) not at all."""
    assert one.code == other.code == 0, other.err
    assert len(one.results) == len(other.results) > 1
    for mine, its in zip(one.results, other.results, strict=True):
        for word, theirs in zip(mine.split(), its.split(), strict=True):
            if "." in word and not mine.startswith("random"):
                assert float(theirs) == pytest.approx(float(word), rel=2e-2, abs=1e-3), (mine, its)
            else:
                assert word == theirs, (mine, its)


@pytest.mark.parametrize("name", SCRIPTS)
def test_recorded(name: str, tmp_path: Path) -> None:
    """It says what it says when nobody watches, to the last digit and the last random number; its models are found."""
    if name == "trainer_lora":
        pytest.importorskip("peft")
    script = STRANGERS / f"{name}.py"
    plain, watched = run_plain(script, tmp_path), run_here(script, tmp_path)
    assert plain.results == watched.results
    assert plain.code == watched.code == 0
    assert [line.partition(";")[0] for line in watched.told] == FORMS[name]
    assert recorded()["ended"] == "exit code 0"


@pytest.mark.parametrize("name", SCRIPTS)
def test_online(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raced inside of its own steps it says what it says, and draws as many random numbers."""
    if name == "trainer_lora":
        pytest.importorskip("peft")
    judged: list[str] = []

    def rivals_of(model: nn.Module, seen: ModelSeen, seconds: float | None) -> Mapping[str, Rival]:
        profile = quick_winners(model, seen)
        judged.append(seen.name)
        plan = plan_profile(model, profile, profile.device, profile.mode, default_registry)
        return {"all": Rival(plan=plan, profile=profile)} if plan.layers or plan.functions else {}

    monkeypatch.setattr(session, "rivals_of", rivals_of)
    script = STRANGERS / f"{name}.py"
    plain, raced = run_plain(script, tmp_path), run_here("--then", "online", script, tmp_path)
    assert_same_results(plain, raced)
    assert bool(judged) is (name != "generation")  # whose two prompts are too few
    assert any(", online: " in line for line in raced.told)


@pytest.mark.parametrize("name", by_day(SCRIPTS, 2))
def test_applied(name: str, tmp_path: Path) -> None:
    """With every right rival bound that its models have, its results are the original's, and as many are drawn."""
    if name == "trainer_lora":
        pytest.importorskip("peft")
    script = STRANGERS / f"{name}.py"
    plain = run_plain(script, tmp_path)
    models = keep_winners(script, tmp_path)
    applied = run_here(script, tmp_path)
    assert_same_results(plain, applied)
    assert len(applied.told) == len(models)
    assert any("is applied" in line for line in applied.told), applied.told
