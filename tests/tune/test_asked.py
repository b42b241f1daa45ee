"""What tune_model is asked, in the forms that people write, and what it prints."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from tests.tune.toy import Norm, norm
from twinkle_tune import (
    graph_report,
    kernelize_model,
    kernelize_report,
    optimize_model,
    replace_pattern,
    restore_model,
    tune_model,
)
from twinkle_tune.errors import ModelError, TuneError
from twinkle_tune.kernel import Registry, register_external_layer, register_layer_kernel
from twinkle_tune.measure.race import RaceSettings
from twinkle_tune.profile.outcomes import StoreError
from twinkle_tune.profile.schema import Profile
from twinkle_tune.profile.shares import original_us
from twinkle_tune.tune.budget import budget_of, seconds_of
from twinkle_tune.tune.journal import JournalError
from twinkle_tune.tune.left_out import left_out_notes
from twinkle_tune.tune.progress import is_notebook, is_watched

QUICK = RaceSettings(warmup_rounds=0, max_rounds=8, error_rate=0.1)


def _tuned(**options: Any) -> Profile:
    registry = Registry()
    register_external_layer(Norm, "Norm", registry=registry)
    register_layer_kernel("Norm", layer_impl=norm, device="cpu", registry=registry)
    return tune_model(
        nn.Sequential(Norm(16)),
        torch.randn(4, 16),
        registry=registry,
        settings=QUICK,
        **{"candidates": "impl", **options},
    )


@pytest.mark.parametrize(
    ("budget", "seconds"),
    [(None, None), (90, 90.0), (0.5, 0.5), ("90", 90.0), ("90s", 90.0), ("5m", 300.0), ("1.5h", 5400.0)],
)
def test_a_budget_is_seconds_or_a_text(budget: float | str | None, seconds: float | None) -> None:
    """As on the command line."""
    assert seconds_of(budget) == seconds


@pytest.mark.parametrize("budget", ["soon", "", "0m", "-5s", -1, math.inf, math.nan])
def test_another_budget_is_refused(budget: float | str) -> None:
    """With what was got and what was expected."""
    with pytest.raises(TuneError, match=r"budget_s: got .*, expected seconds, or a time such as '90s'"):
        seconds_of(budget)


def test_one_name_is_a_list_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    """A text is not taken letter by letter, and with progress a line is printed for the contest."""
    profile = _tuned(candidates="impl", budget_s="10m", progress=True)
    (contest,) = profile.contests
    assert [trial.candidate for trial in contest.trials] == ["original", "impl:norm"]
    assert profile.run is not None
    assert (profile.run.budget_s, profile.run.stopped) == (600.0, "")
    assert profile.complete
    assert capsys.readouterr().err.startswith("[1/1] Norm [4,16] ")


def test_nothing_is_printed_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    """Off a terminal the default is silence."""
    _tuned()
    assert capsys.readouterr() == ("", "")


def test_shares_of_a_profile_are_made_of_its_times() -> None:
    """Calls x the original's median ÷ the step's median, to the digits that are kept."""
    profile = _tuned()
    (contest,), (step,) = profile.contests, profile.steps
    times_us = sorted(step.original_us or step.alone_us)
    middle_us = (times_us[(len(times_us) - 1) // 2] + times_us[len(times_us) // 2]) / 2
    assert contest.seen[0].share == pytest.approx(min(1.0, (original_us(contest) or 0.0) / middle_us), abs=2e-4)


DOES: dict[str, Callable[[Any], object]] = {
    "tune_model": lambda model: tune_model(model, torch.zeros(1)),
    "kernelize_model": kernelize_model,
    "kernelize_report": kernelize_report,
    "restore_model": restore_model,
    "optimize_model": optimize_model,
    "graph_report": graph_report,
    "replace_pattern": lambda model: replace_pattern(model, torch.relu, torch.relu),
}


@pytest.mark.parametrize("does", DOES)
@pytest.mark.parametrize("model", ["my-llama", "Qwen/Qwen3-0.6B"])
def test_a_name_is_no_model(model: str, does: str) -> None:
    """The error says how to load it, and the command that takes names."""
    with pytest.raises(ModelError, match=r"expected a torch module; load it first .*'twinkle-tune profile") as error:
        DOES[does](model)
    assert model in str(error.value)


@pytest.mark.parametrize("name", ["executor", "registry", "settings"])
def test_what_is_of_another_type_is_told(name: str) -> None:
    """Before anything is done: a path is no executor."""
    given: Any = {name: "a/path"}
    with pytest.raises(TuneError, match=rf"{name}: got 'a/path', expected a \w+; leave it out"):
        tune_model(torch.nn.Identity(), torch.zeros(1), **given)


def test_what_is_no_module_is_no_model() -> None:
    """A function is told from a module before anything is done."""
    made: Any = len
    with pytest.raises(ModelError, match="got a builtin_function_or_method, expected a torch module"):
        tune_model(made, torch.zeros(1))


def test_a_notebook_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernel's shell tells; a terminal's does not make one."""
    module = ModuleType("IPython")
    shell = type("ZMQInteractiveShell", (), {})()
    module.__dict__["get_ipython"] = lambda: shell
    monkeypatch.setitem(sys.modules, "IPython", module)
    assert is_notebook()
    assert is_watched()
    module.__dict__["get_ipython"] = lambda: None
    assert not is_notebook()


def test_blocks_that_a_budget_leaves_out_are_said_at_the_start() -> None:
    """One line with their share; none where there are none."""
    from types import SimpleNamespace

    from twinkle_tune.profile.schema import Seen

    block: Any = SimpleNamespace(seen=(Seen(step="forward", calls=2, share=0.97),))
    (note,) = left_out_notes(budget_of(30, 1, 6.0), [block])
    assert note == "budget 30 s: blocks (97% of the step) need 60 s or more and are left out"
    assert left_out_notes(budget_of(30, 1, 6.0), []) == ()


def test_a_path_is_no_journal_and_no_store() -> None:
    """Each is one error that says what to open it with."""
    with pytest.raises(JournalError, match=r"journal: got 'path', expected a Journal; open it with Journal\(path\)"):
        _tuned(journal="path")
    with pytest.raises(StoreError, match=r"store: got 'path', expected a Store; open it with Store\(path\)"):
        _tuned(store="path")
