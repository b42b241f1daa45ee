"""``twinkle-tune profile``: what reaches the tuner, what is written, and what is left alone when it fails."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from tests.report.fabricate import normal
from twinkle_tune.cli.app import run
from twinkle_tune.errors import CaptureError, TuneInterrupted
from twinkle_tune.mode import Mode
from twinkle_tune.outcome import Selection
from twinkle_tune.profile.fuller import is_fuller
from twinkle_tune.profile.io import load_profile
from twinkle_tune.profile.run import RunFacts
from twinkle_tune.profile.schema import Profile
from twinkle_tune.profile.setup import Setup


@dataclass(kw_only=True)
class Tuner:
    """Stands in for tune_model: remembers what it was given, and gives or raises what it was told to."""

    result: Profile | BaseException = field(default_factory=normal)
    given: dict[str, Any] = field(default_factory=dict)

    def __call__(self, model: nn.Module, example_inputs: list[Any], **options: Any) -> Profile:
        self.given = {"model": model, "inputs": example_inputs, **options}
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


@pytest.fixture
def tuner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Tuner:
    """A tuner that takes no time, and an empty folder to run in."""
    stand_in, module = Tuner(), ModuleType("twinkle_tune.tune.tune")
    module.__dict__["tune_model"] = stand_in
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.chdir(tmp_path)
    return stand_in


def profile(*options: str) -> int:
    """The command on the smallest preset."""
    return run(["profile", "llama-tiny", "--device", "cpu", "--layers", "1", "--seq-len", "8", *options])


def test_options_reach_the_tuner(tuner: Tuner) -> None:
    """Mode, sizes, candidates and budget arrive parsed."""
    options = [
        "--mode",
        "train",
        "--batch",
        "1,2",
        "--candidates",
        "compile, liger",
        "--budget",
        "5m",
        "--dtype",
    ]
    assert profile(*options, "bfloat16") == 0
    given = tuner.given
    assert [tuple(each["labels"].shape) for each in given["inputs"]] == [(1, 8), (2, 8)]
    assert (given["mode"], given["device"], given["name"]) == (Mode.TRAIN, "cpu", "llama-tiny (1 layer)")
    assert (given["candidates"], given["budget_s"]) == (("compile", "liger"), 300.0)
    assert callable(given["on_event"])
    assert given["model"].training
    assert str(given["model"].dtype) == "torch.bfloat16"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), True),
        (("--mode", "train"), True),
        (("--mode", "compile"), False),
        (("--objective", "memory"), False),
        (("--no-ways",), False),
        (("--ways", "--objective", "memory"), True),
    ],
)
def test_ways_compete_where_they_can_be_chosen(options: tuple[str, ...], expected: bool, tuner: Tuner) -> None:
    """By time, in modes that do not compile anyway, unless it is said otherwise."""
    assert profile(*options) == 0
    assert tuner.given["ways"] is expected


def test_the_objective_reaches_the_tuner(tuner: Tuner) -> None:
    """Objective and slowdown arrive parsed; without them it is time, and a profile by memory has its own file."""
    assert profile() == 0
    assert (tuner.given["objective"], tuner.given["slowdown"]) == ("time", None)
    assert profile("--objective", "balanced", "--slowdown", "1.25") == 0
    assert (tuner.given["objective"], tuner.given["slowdown"]) == ("balanced", 1.25)
    assert profile("--objective", "memory") == 0
    assert tuner.given["objective"] == "memory"
    written = {path.name for path in Path("profiles").glob("*/*.json")}
    assert written == {f"llama-tiny-inference{end}.json" for end in ("", "-memory", "-balanced")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--objective", "space"), "objective: got 'space', expected one of time, memory, balanced"),
        (("--slowdown", "1.2"), "slowdown: got 1.2 with the objective time, expected it with balanced alone"),
        (("--objective", "memory", "--slowdown", "2"), "slowdown: got 2.0 with the objective memory"),
        (("--objective", "balanced", "--slowdown", "0.9"), "slowdown: got 0.9, expected a number of at least 1"),
        (("--objective", "balanced", "--slowdown", "much"), "--slowdown: got 'much', expected a number"),
    ],
)
def test_a_bad_objective_is_refused(
    tuner: Tuner, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    """One line that says what was expected, exit code 2, and nothing is tuned."""
    assert profile(*options) == 2
    assert message in capsys.readouterr().err
    assert not tuner.given


def test_profile_and_reports_are_written(tuner: Tuner, capsys: pytest.CaptureFixture[str]) -> None:
    """The profile that was made is saved, each report is rendered, and it is said where they are."""
    assert profile("--out", "deep/p.json", "--report", "r.md", "--report", "pages/r.html") == 0
    made = load_profile("deep/p.json")
    assert made.command.startswith("twinkle-tune profile llama-tiny --device cpu")
    assert replace(made, command=normal().command) == tuner.result
    assert Path("r.md").stat().st_size > 0
    assert "<html" in Path("pages/r.html").read_text(encoding="utf-8")
    out = capsys.readouterr().out
    assert all(f"wrote {path}\n" in out for path in ("deep/p.json", "r.md", "pages/r.html"))


@pytest.mark.parametrize(("option", "expected"), [("--dynamic", True), ("--no-dynamic", False)])
def test_dynamic_shapes_reach_the_tuner(tuner: Tuner, option: str, *, expected: bool) -> None:
    """Both forms of the option are told apart, and from leaving it out."""
    assert profile("--mode", "compile", "--out", "p.json", option) == 0
    assert tuner.given["dynamic"] is expected
    assert profile("--mode", "compile", "--out", "p.json") == 0
    assert tuner.given["dynamic"] is None


def test_compiled_code_is_kept_in_a_folder(
    tuner: Tuner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All that the run compiles, and what it did not; what fails there costs no profile."""
    made: list[str] = []

    def compile_all(model: Any, inputs: Any, profile: Profile) -> None:
        made.append(os.environ["TORCHINDUCTOR_CACHE_DIR"])
        raise OSError("no space left")

    monkeypatch.setattr("twinkle_tune.tune.artifacts.compile_all", compile_all)
    assert profile("--out", "p.json", "--artifacts", "code") == 0
    assert made == [str(Path("code").absolute())]
    told = capsys.readouterr().err
    assert "not all could be compiled (OSError: no space left)" in told
    assert f"set TORCHINDUCTOR_CACHE_DIR={Path('code').absolute()} where" in told
    assert Path("p.json").exists()


def test_micro_batches_reach_the_tuner(tuner: Tuner) -> None:
    """One, unless more are asked for."""
    assert profile("--mode", "train", "--out", "p.json", "--accumulate", "4") == 0
    assert tuner.given["accumulate"] == 4
    assert profile("--mode", "train", "--out", "p.json") == 0
    assert tuner.given["accumulate"] == 1


@pytest.mark.parametrize("text", ["bf16", "bfloat16"])
def test_autocast_is_on_while_it_is_tuned(tuner: Tuner, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """And off again afterwards; the profile has a name of its own."""
    seen: list[bool] = []

    def noted(*args: Any, **options: Any) -> Profile:
        seen.append(torch.is_autocast_enabled("cpu"))
        return normal()

    monkeypatch.setattr(Tuner, "__call__", noted)
    assert profile("--autocast", text) == 0
    assert seen == [True]
    assert not torch.is_autocast_enabled("cpu")
    (path,) = Path("profiles").rglob("*.json")
    assert path.name == "llama-tiny-inference-bfloat16.json"
    assert profile("--autocast", "half") == 2


def test_profiles_are_filed_by_device(tuner: Tuner) -> None:
    """Without --out, profile and report are filed by device and named after model and mode."""
    assert profile("--report", "md") == 0
    (made,) = Path("profiles").rglob("*.json")
    assert made.name == "llama-tiny-inference.json"
    assert Path("reports", made.parent.name, "llama-tiny-inference.md").is_file()


def test_json_is_all_there_is_on_stdout(tuner: Tuner, capsys: pytest.CaptureFixture[str]) -> None:
    """With --json stdout is the profile as it is saved; nothing shows the progress."""
    assert profile("--out", "p.json", "--json") == 0
    out = capsys.readouterr().out
    assert out == Path("p.json").read_text(encoding="utf-8")
    assert json.loads(out)["schema"] == 2
    assert tuner.given["on_event"] is None


def test_an_interrupted_run_keeps_what_was_finished(tuner: Tuner, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C saves the finished contests, says so, and ends with exit code 130."""
    partial = replace(normal(), complete=False)
    tuner.result = TuneInterrupted(partial)
    assert profile("--out", "p.json") == 130
    assert replace(load_profile("p.json"), command=normal().command) == partial
    assert "2 finished contests kept in p.json" in capsys.readouterr().err


def test_an_interrupted_run_leaves_an_older_profile(tuner: Tuner) -> None:
    """Ctrl-C never replaces a profile that was there with a partial one."""
    Path("p.json").write_text("older", encoding="utf-8")
    tuner.result = TuneInterrupted(normal())
    assert profile("--out", "p.json") == 130
    assert Path("p.json").read_text(encoding="utf-8") == "older"
    assert replace(load_profile("p.partial.json"), command="") == replace(normal(), command="")


@pytest.mark.parametrize("stop", [TuneInterrupted(None), KeyboardInterrupt()])
def test_interrupted_before_anything(tuner: Tuner, stop: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C before the first contest is finished writes nothing and says that."""
    tuner.result = stop
    assert profile("--out", "p.json") == 130
    assert not Path("p.json").exists()
    assert "nothing was written" in capsys.readouterr().err


def _stopped(held: int, of: int = 4) -> Profile:
    """A run whose budget ran out after some contests."""
    late = Selection(winner="original", reason="not tried", status="not tried")
    contests = [normal().contests[0] if n < held else replace(normal().contests[0], trials=(), selection=late)
                for n in range(of)]  # fmt: skip
    run = RunFacts(took_s=30.0, budget_s=30.0, stopped="budget", needs_s=200.0)
    return replace(normal(), complete=False, run=run, contests=tuple(contests))


def test_a_stopped_run_goes_beside_a_fuller_profile(tuner: Tuner, capsys: pytest.CaptureFixture[str]) -> None:
    """A budget that ran out never costs a whole profile, or one with more contests, unless that is asked for."""
    tuner.result = normal()
    assert profile("--out", "p.json") == 0
    whole = Path("p.json").read_bytes()
    tuner.result = _stopped(1)
    assert profile("--out", "p.json") == 0
    assert Path("p.json").read_bytes() == whole
    assert not load_profile("p.partial.json").complete
    told = capsys.readouterr()
    assert (
        "p.json stays as it was: 2 of its 2 contests are finished, of this run's 1 of 4; this one goes beside it"
        in told.err
    )
    assert "wrote p.partial.json" in told.out
    assert profile("--out", "p.json", "--force") == 0
    assert not load_profile("p.json").complete


def test_a_stopped_run_replaces_one_that_held_less(tuner: Tuner) -> None:
    """Of two runs without enough time the one that came further stays."""
    for held, expected in ((2, 2), (3, 3), (1, 3)):
        tuner.result = _stopped(held)
        assert profile("--out", "p.json") == 0
        assert sum(contest.is_whole for contest in load_profile("p.json").contests) == expected


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_partial_profile_is_no_less_kept(tuner: Tuner, interrupted: bool) -> None:
    """Beside a whole profile the fuller of two partial ones stays, whatever stopped the runs; --force replaces all."""

    def stopped(held: int) -> Profile | TuneInterrupted:
        return TuneInterrupted(_stopped(held)) if interrupted else _stopped(held)

    tuner.result = normal()
    assert profile("--out", "p.json") == 0
    for held in (3, 1, 2):
        tuner.result = stopped(held)
        assert profile("--out", "p.json") == (130 if interrupted else 0)
    assert load_profile("p.json").complete
    found = [sum(c.is_whole for c in load_profile(p).contests) for p in ("p.partial.json", "p.partial-2.json")]
    assert found == [3, 2], "the second of the two lesser ones took the place of the first"
    assert sorted(path.name for path in Path().glob("p.*json")) == ["p.json", "p.partial-2.json", "p.partial.json"]


def test_a_stopped_run_with_a_way_is_fuller_than_one_without() -> None:
    """Ways come first: of two runs with as many contests the one that found more of them stays."""
    found = Setup(label="prefill", way="compile", calls=(), model="")
    assert is_fuller(replace(_stopped(1), setups=(found,)), _stopped(1))
    assert not is_fuller(_stopped(1), replace(_stopped(1), setups=(found,)))
    assert is_fuller(_stopped(2), replace(_stopped(1), setups=(found,)))


def test_a_stopped_run_of_another_model_replaces_nothing(tuner: Tuner) -> None:
    """However little is in the older one, it is of something else."""
    tuner.result = _stopped(1)
    assert profile("--out", "p.json") == 0
    tuner.result = replace(_stopped(3), model=replace(normal().model, target="another:Model"))
    assert profile("--out", "p.json") == 0
    assert load_profile("p.json").model == normal().model
    assert load_profile("p.partial.json").model.target == "another:Model"


def test_loading_is_said_before_it_is_done(tuner: Tuner, capsys: pytest.CaptureFixture[str]) -> None:
    """The first line says what takes so long; with --json nothing is said."""
    assert profile("--out", "p.json") == 0
    assert capsys.readouterr().err.startswith("Loading llama-tiny ...\n")
    assert profile("--out", "p.json", "--json") == 0
    assert "Loading" not in capsys.readouterr().err


def test_bars_of_transformers_are_hidden() -> None:
    """While a model is loaded there are none; afterwards there are again."""
    import transformers

    from twinkle_tune.models.bars import without_bars

    enabled = transformers.utils.logging.is_progress_bar_enabled
    was = enabled()
    with without_bars():
        assert not enabled()
    assert enabled() == was


def test_a_failed_run_leaves_everything_alone(tuner: Tuner, capsys: pytest.CaptureFixture[str]) -> None:
    """An error while tuning is one line, and an older profile stays as it was."""
    Path("p.json").write_text("older", encoding="utf-8")
    tuner.result = CaptureError("model: the forward raised ValueError; check the inputs")
    assert profile("--out", "p.json", "--report", "r.html") == 2
    assert Path("p.json").read_text(encoding="utf-8") == "older"
    assert [path.name for path in Path().iterdir()] == ["p.json"]
    assert capsys.readouterr().err.endswith(
        "\ntwinkle-tune: error: model: the forward raised ValueError; check the inputs\n"
    )


def test_nothing_is_tuned_that_could_not_be_saved(tuner: Tuner) -> None:
    """A path that cannot be written is refused before the work, not after it."""
    Path("file").touch()
    assert profile("--out", "file/p.json") == 2
    assert profile("--report", "file/r.html") == 2
    assert tuner.given == {}
