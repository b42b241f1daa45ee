"""What may go wrong between a script's one line and its calls: the original answers, and one warning says why."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.strategy.planted import compiled_by
from tests.today import of_today
from tests.tune.test_setups import Long, twice
from twinkle_tune import kernelize_report, load_profile, optimize_model, restore_model
from twinkle_tune.contest import model as model_stage
from twinkle_tune.profile import folders
from twinkle_tune.tune import optimize

X = torch.randn(4, 8)


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A cache folder of the test's own, few rounds, contests in this process, nothing compiled before and after."""
    monkeypatch.setenv("TWINKLE_TUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(model_stage, "_ROUNDS", 20)
    monkeypatch.setattr(optimize, "Isolated", lambda **options: nullcontext())
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def stored(tmp_path: Path) -> list[Path]:
    """The profiles that are kept."""
    return list((tmp_path / "cache" / "models").glob("*.json"))


def called(model: nn.Module) -> tuple[Tensor, list[str]]:
    """The answer of a model that is optimized at its first call, and of a second one, with the warnings' texts."""
    with warnings.catch_warnings(record=True) as heard, torch.no_grad():
        warnings.simplefilter("always")
        optimize_model(model.eval(), candidates="original")
        answer: Tensor = model(X)
        assert torch.equal(model(X), answer)
    return answer, [str(each.message) for each in heard if issubclass(each.category, UserWarning)]


def planted(*args: Any, **kwargs: Any) -> None:
    """Fails."""
    raise RuntimeError("planted")


def full(*args: Any, **kwargs: Any) -> None:
    """Fails as a disk without room does."""
    raise OSError(28, "No space left on device")


def broken_store(patch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is kept is a folder: the disk does not give it."""
    (path,) = stored(tmp_path)
    path.unlink()
    path.mkdir()


STAGES: dict[str, tuple[bool, Callable[[pytest.MonkeyPatch, Path], object], str]] = {
    "the store cannot be read": (True, broken_store, "Is a directory"),
    "tuning": (False, lambda patch, path: patch.setattr(optimize, "tune_model", planted), "planted"),
    "a contest": (False, lambda patch, path: patch.setattr("twinkle_tune.tune.setups.time_ways", planted), "planted"),
    "binding what is stored": (
        True,
        lambda patch, path: patch.setattr(import_module("twinkle_tune.kernel.kernelize"), "bind_plan", planted),
        "planted",
    ),
    "binding one forward": (
        True,
        lambda patch, path: patch.setattr(import_module("twinkle_tune.kernel.kernelize"), "bind_forward", planted),
        "planted",
    ),
    "compiling at the first call": (
        True,
        lambda patch, path: patch.setattr("torch._inductor.compile_fx.compile_fx", planted),
        "could not be compiled .*planted",
    ),
    "a compiled call": (
        True,
        lambda patch, path: compiled_by(patch, lambda graph: planted),
        "planted",
    ),
    "writing the profile": (
        False,
        lambda patch, path: patch.setattr("twinkle_tune.profile.json_text.write_file", full),
        "the profile is not kept .*No space left",
    ),
    "a disk without room": (
        False,
        lambda patch, path: patch.setattr(folders, "_try", full),
        "No space left",
    ),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_failure_at_each_stage_is_one_warning(stage: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The call that tunes and those after it say what the original says."""
    is_stored, plant, told = STAGES[stage]
    compiled_by(monkeypatch, lambda graph: twice)
    if is_stored:
        optimize_model(Long().eval(), X, candidates="original")
        torch._dynamo.reset()
    plant(monkeypatch, tmp_path)
    model = Long()
    answer, heard = called(model)
    assert torch.equal(answer, X * 2.0)
    (text,) = heard
    assert re.search(told, text)


@pytest.mark.parametrize("damage", of_today(["{", "{}", "truncated", "other"], 4))
def test_a_damaged_profile_is_tuned_anew(damage: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One warning says so, and the next script finds a whole one."""
    compiled_by(monkeypatch, lambda graph: twice)
    optimize_model(Long().eval(), X, candidates="original")
    (path,) = stored(tmp_path)
    text = path.read_text()
    damaged = {"truncated": text[: len(text) // 2], "other": text.replace('"forward"', "1")}
    path.write_text(damaged.get(damage, damage))
    model = Long()
    answer, heard = called(model)
    torch.testing.assert_close(answer, X * 2.0)
    (told,) = heard
    assert "the model is tuned anew (ProfileError: " in told
    assert kernelize_report(model).bound
    assert load_profile(path).setups
    assert called(Long())[1] == []


def test_a_stored_profile_is_applied_without_a_contest_or_a_compilation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing is tuned, and no call of the model is made before the user's own, which compiles."""
    graphs = compiled_by(monkeypatch, lambda graph: twice)
    optimize_model(Long().eval(), X, candidates="original")
    torch._dynamo.reset()
    graphs.clear()
    runs: list[int] = []
    monkeypatch.setattr(optimize, "tune_model", planted)
    monkeypatch.setattr(Long, "forward", counted(Long.forward, runs))
    model = Long()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimize_model(model.eval(), X)
        assert (graphs, runs) == ([], [])
        assert kernelize_report(model).bound
        with torch.no_grad():
            torch.testing.assert_close(model(X), X * 2.0)
    assert len(graphs) == 1
    restore_model(model)


def counted(forward: Callable[..., Any], runs: list[int]) -> Callable[..., Any]:
    """A forward that counts its runs."""

    def run(self: nn.Module, x: Tensor) -> Any:
        runs.append(1)
        return forward(self, x)

    return run
