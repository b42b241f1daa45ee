"""What the whole model said to the same question is not asked again: by the journal of a killed run, by the store."""

from __future__ import annotations

import copy
import importlib
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.report.fabricate import empty
from tests.strategy.planted import compiled_by
from tests.told import Told, told_clock
from tests.tune.pretended import Pretended, pretended_profile, selections
from tests.tune.test_choose import contest
from tests.tune.test_setups import LARGE, Both, Long, Slow, one, twice
from tests.tune.toy import QUICK
from twinkle_tune import load_profile, tune_model
from twinkle_tune.capture.held_out import tried_steps
from twinkle_tune.capture.optimizer import OptimizerStep
from twinkle_tune.capture.step import Step, make_steps
from twinkle_tune.cause import Cause
from twinkle_tune.cli.app import run
from twinkle_tune.contest import model as model_stage
from twinkle_tune.environment import current_environment
from twinkle_tune.errors import TuneInterrupted
from twinkle_tune.kernel import Registry, register_external_layer, register_layer_kernel
from twinkle_tune.kernel.model_digest import digest_as_it_stands
from twinkle_tune.mode import Mode
from twinkle_tune.objective import Aim, Objective
from twinkle_tune.profile.outcomes import StoreDamagedError
from twinkle_tune.profile.run import RunFacts
from twinkle_tune.profile.schema import Profile, StepResult
from twinkle_tune.profile.setup import CompiledStep, Setup
from twinkle_tune.profile.store import Store
from twinkle_tune.profile.stores import store_place
from twinkle_tune.profile.whole import WholeAnswer, WholeQuestion, Won
from twinkle_tune.report import head
from twinkle_tune.terms import Terms
from twinkle_tune.tune import asking as asking_module
from twinkle_tune.tune import ways as ways_module
from twinkle_tune.tune import whole as whole_module
from twinkle_tune.tune.asking import Asking
from twinkle_tune.tune.budget import Budget
from twinkle_tune.tune.choose import keep_original
from twinkle_tune.tune.events import WaysTimed
from twinkle_tune.tune.journal import Journal, JournalError, read_journal
from twinkle_tune.tune.memory import Memory
from twinkle_tune.tune.ways import Ways

settle_module: Any = importlib.import_module("twinkle_tune.tune.settle")
setups_module: Any = importlib.import_module("twinkle_tune.tune.setups")
INPUTS = [torch.randn(4, 8), torch.randn(6, 8)]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch, compiled_anew: None) -> None:
    """Few rounds, and nothing compiled before and after."""
    monkeypatch.setattr(model_stage, "_ROUNDS", 20)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the whole model is asked for now, as it comes: "ways LABEL", and "timed LABEL" for each timing."""
    asked: list[str] = []
    hold, timed = ways_module._held_in, whole_module._time_step

    def in_step(hall: Any, tried: Any, tell: Any) -> Ways:
        asked.append(f"ways {tried.step.label}")
        return hold(hall, tried, tell)

    def time_step(stage: Any, step: Step, *rest: Any) -> StepResult:
        asked.append(f"timed {step.label}")
        return timed(stage, step, *rest)

    monkeypatch.setattr(ways_module, "_held_in", in_step)
    monkeypatch.setattr(whole_module, "_time_step", time_step)
    return asked


def tuned(model: nn.Module | None = None, inputs: Any = None, **options: Any) -> Profile:
    """A profile with ways of the long model."""
    chosen: dict[str, Any] = {"registry": Registry(), "settings": QUICK, "candidates": ["original"], "ways": True}
    return tune_model(model or Long(), INPUTS if inputs is None else inputs, **(chosen | options))


def gain(profile: Profile) -> Any:
    """What a profile says that is applied, with the figures behind it."""
    return profile.setups, profile.verdict, [(step.label, step.tuned_us, step.ratio) for step in profile.steps]


def seen_then(profile: Profile) -> list[list[tuple[str, int, float | None]]]:
    """Of each contest the calls, and the share while the model ran: those beside it come from what was timed last."""
    return [[(seen.step, seen.calls, seen.in_model) for seen in contest.seen] for contest in profile.contests]


def test_a_second_run_asks_nothing_again(held: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No way is compiled and no step timed: the same setups, figures and verdict, which say of when they are."""
    graphs = compiled_by(monkeypatch, lambda graph: twice)
    store = Store(tmp_path / "s")
    first = tuned(store=store)
    assert len(first.setups) == 2
    assert held
    assert graphs
    assert not any([step.measured for step in first.steps] + [way.measured for way in first.compiled])
    held.clear()
    graphs.clear()
    timed: list[WaysTimed] = []
    second = tuned(store=store, on_event=lambda event: timed.append(event) if isinstance(event, WaysTimed) else None)
    assert (held, graphs) == ([], [])
    assert gain(second) == gain(first)
    assert [event.compiled for event in timed] == [
        tuple(way for way in second.compiled if way.label == step.label) for step in second.steps
    ]
    assert [replace(way, measured="") for way in second.compiled] == list(first.compiled)
    when = [step.measured for step in second.steps] + [way.measured for way in second.compiled]
    assert all(each.startswith("20") for each in when)
    assert first.run is not None
    assert second.run is not None
    # Of each of two steps the contest and the other sizes, and both steps together.
    assert (first.run.recalled_whole, second.run.recalled_whole) == (0, 5)
    assert load_profile(second.save(tmp_path / "p.json")) == second
    (told,) = [note for note in head.notes(second) if note.startswith("Taken from the store")]
    assert told.endswith("the whole model in forward, forward #2; its ways of running in forward, forward #2.")
    assert not [note for note in head.notes(first) if note.startswith("Taken from the store")]


def test_the_same_contests_are_held_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By the shares of then: were they measured anew, others might be let go, and other winners be asked about."""
    registry, store = Registry(), Store(tmp_path / "s")
    layered(registry)
    first = tune_model(Both(), LARGE, registry=registry, settings=QUICK, store=store)
    monkeypatch.setattr("twinkle_tune.tune.tune.bounds_of", None)
    second = tune_model(Both(), LARGE, registry=registry, settings=QUICK, store=store)
    assert seen_then(second) == seen_then(first)
    assert [step.alone_us for step in second.steps] == [step.alone_us for step in first.steps]
    with pytest.raises(TypeError):
        tune_model(Both(), LARGE[:8], registry=registry, settings=QUICK, store=store)
    with pytest.raises(TypeError):
        tune_model(Both(), LARGE, registry=registry, settings=QUICK)


def test_a_step_more_asks_for_that_step_and_for_all_together(
    held: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What was found of the first inputs stands when others come beside them."""
    compiled_by(monkeypatch, lambda graph: twice)
    store = Store(tmp_path / "s")
    (label,) = (step.label for step in tuned(inputs=INPUTS[0], store=store).steps)
    held.clear()
    made = tuned(store=store)
    assert held[0] == f"ways {made.steps[1].label}"
    assert f"ways {label}" not in held
    assert {"timed " + step.label for step in made.steps} == set(held[1:])


def test_fresh_asks_again_and_replaces(held: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is taken; what comes of it is found by the next run."""
    compiled_by(monkeypatch, lambda graph: twice)
    tuned(store=Store(tmp_path / "s"))
    count = len(held)
    fresh = tuned(store=Store(tmp_path / "s", reuse=False))
    assert len(held) >= 2 * count - 2
    held.clear()
    assert gain(tuned(store=Store(tmp_path / "s"))) == gain(fresh)
    assert held == []


def layered(registry: Registry) -> None:
    """A kernel that wins the contest of the slow layer."""
    register_external_layer(Slow, "Slow", registry=registry)
    register_layer_kernel("Slow", layer_impl=one, device="cpu", registry=registry)


def telling(forward: Callable[..., Tensor], clock: Told, time_us: float) -> Callable[..., Tensor]:
    """A forward that tells a clock how long it takes, unless it is compiled."""

    def told(self: nn.Module, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            clock.us += time_us
        return forward(self, x)

    return told


def test_what_the_winners_gain_is_taken_with_the_ways(
    held: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The contest's winner, the kernels inside of the way that won, and the figures of both are those of the first."""
    clock = told_clock(monkeypatch)
    for kind in (Slow, Both):
        monkeypatch.setattr(kind, "forward", telling(kind.forward, clock, 400.0))

    def made(graph: Any) -> Callable[..., Any]:
        operations = sum(node.op == "call_function" for node in graph.graph.nodes)

        def run_it(*args: Any) -> tuple[Tensor]:
            clock.us += 300.0 if operations > 60 else 50.0
            return (args[-1] * 4.0,)

        return run_it

    compiled_by(monkeypatch, made)
    store, profiles = Store(tmp_path / "s"), []
    for _ in range(2):
        registry = Registry()
        layered(registry)
        held.clear()
        profiles.append(tune_model(Both(), LARGE, registry=registry, settings=QUICK, ways=True, store=store))
    first, second = profiles
    assert held == []
    assert [setup.kernels for setup in first.setups] == [True]
    assert gain(second) == gain(first)
    assert [c.selection.winner for c in second.contests] == [c.selection.winner for c in first.contests]
    assert second.run is not None
    # The winners, the ways, the kernels inside, the other sizes, and all together.
    assert second.run.recalled_whole == 5


@pytest.mark.parametrize("is_resumed", [False, True])
def test_winners_that_were_taken_back_are_so_again(
    is_resumed: bool, held: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The whole model lost with them: the run after it does not bind them, and says when that was found out."""

    def lost(model: nn.Module, steps: Any, profile: Profile, *rest: Any, **options: Any) -> tuple[StepResult, ...]:
        figures: dict[str, Any] = {"original_us": (1.0,), "tuned_us": (1.2,), "ratio": 1.2, "low": 1.1, "high": 1.3}
        return tuple(StepResult(label=step.label, **(figures if profile.winners else {})) for step in steps)

    monkeypatch.setattr(settle_module, "time_steps", lost)
    store, journal = Store(tmp_path / "s"), Journal(tmp_path / "j")

    def profiled(**more: Any) -> Profile:
        registry = Registry()
        layered(registry)
        return tune_model(Both(), LARGE, registry=registry, settings=QUICK, **more)

    first = profiled(journal=journal) if is_resumed else profiled(store=store)
    journal.close()
    assert [contest.status for contest in first.contests] == ["taken back"]
    monkeypatch.setattr(settle_module, "time_steps", None)
    second = profiled(**({"journal": Journal(tmp_path / "j", resume=True)} if is_resumed else {"store": store}))
    assert [contest.status for contest in second.contests] == ["taken back"]
    before, after = (made.contests[0].selection.reason for made in (first, second))
    assert after == before if is_resumed else after.startswith(f"{before}; measured 20")
    assert second.verdict == first.verdict


def test_who_was_taken_back_among_the_ways_is_so_again(
    held: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A way that won its step and gained nothing when bound runs in no later profile either, with the same reason."""
    compiled_by(monkeypatch, lambda graph: twice)

    def slow(model: nn.Module, steps: Any, *rest: Any, **options: Any) -> tuple[StepResult, ...]:
        return tuple(
            StepResult(label=s.label, original_us=(1.0,), tuned_us=(1.1,), ratio=1.1, low=1.05, high=1.2) for s in steps
        )

    monkeypatch.setattr(setups_module, "time_steps", slow)
    first = tuned(store=Store(tmp_path / "s"))
    monkeypatch.setattr(setups_module, "time_steps", None)
    second = tuned(store=Store(tmp_path / "s"))
    assert first.setups == second.setups == ()
    assert [way.taken_back for way in second.compiled] == [way.taken_back for way in first.compiled]
    assert any(way.taken_back for way in second.compiled)


# The journal


def pressing(count: int, stop: Callable[[], None]) -> Callable[[object], None]:
    """A listener that ends the run when the ways of so many steps were timed."""
    left = [count]

    def told(event: object) -> None:
        left[0] -= isinstance(event, WaysTimed)
        if left[0] == 0 and isinstance(event, WaysTimed):
            stop()

    return told


def interrupt() -> None:
    """Ctrl-C."""
    raise KeyboardInterrupt


def kill() -> None:
    """The process is gone without a word."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_run_that_was_stopped_among_the_ways_goes_on(
    held: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The step that was over is not held again; the one that was cut is. Without --resume the journal is no one's."""
    compiled_by(monkeypatch, lambda graph: twice)
    journal = Journal(tmp_path / "j")
    with pytest.raises(TuneInterrupted):
        tuned(journal=journal, on_event=pressing(2, interrupt))
    journal.close()
    labels = list(held)
    with pytest.raises(JournalError, match="holds 0 finished contests and 1 answer of the whole model of a run that"):
        Journal(tmp_path / "j")
    held.clear()
    journal = Journal(tmp_path / "j", resume=True)
    assert journal.tally == "0 finished contests and 1 answer of the whole model"
    made = tuned(journal=journal)
    assert held[0] == labels[1]
    assert labels[0] not in held
    assert len(made.setups) == 2
    assert made.run is not None
    assert made.run.recalled_whole == 1
    assert not any(way.measured for way in made.compiled), "it is the same run"


def _killed(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_stage, "_ROUNDS", 20)
        compiled_by(patch, lambda graph: twice)
        tuned(journal=Journal(folder / "j"), on_event=pressing(2, kill))


def test_a_run_that_was_killed_among_the_ways_goes_on(
    held: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By SIGKILL in a process of its own: its journal is whole up to the last step that was over."""
    torch.manual_seed(0)
    child = os.fork()
    if not child:
        try:
            _killed(tmp_path)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    found = read_journal(tmp_path / "j")
    assert found is not None
    assert [bool(answer.compiled) for answer in found.answers.values()] == [False, True]
    compiled_by(monkeypatch, lambda graph: twice)
    made = tuned(journal=Journal(tmp_path / "j", resume=True))
    assert [each for each in held if each.startswith("ways")] == [f"ways {made.steps[1].label}"]
    assert len(made.setups) == 2


@pytest.mark.parametrize("damage", ["cut", "within", "nonsense"])
def test_damage_is_told(damage: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An answer that is cut off at the journal's end is passed over; one within, and one of the store, is an error."""
    compiled_by(monkeypatch, lambda graph: twice)
    path, store = tmp_path / "j", Store(tmp_path / "s")
    journal = Journal(path)
    tuned(journal=journal, store=store)
    journal.close()
    text = path.read_text()
    if damage == "cut":
        path.write_text(text[:-300])
        whole, found = text.count('"whole"'), read_journal(path)
        assert found is not None
        assert len(found.answers) == whole - 1
    elif damage == "within":
        path.write_text(text.replace('"compiled": [{"label"', '"compiled": [{"mabel"', 1))
        with pytest.raises(JournalError, match=r"line 3 is damaged .*compiled.0.label.* --fresh"):
            Journal(path, resume=True)
    else:
        with sqlite3.connect(tmp_path / "s") as base:
            base.execute("UPDATE outcomes SET contest = '{\"whole\": {}, \"more\": 1}' WHERE slot LIKE 'whole model%'")
            base.execute("UPDATE outcomes SET contest = '{\"whole\": {\"steps\": 1}}' WHERE slot LIKE 'whole model%'")
        with pytest.raises(StoreDamagedError, match=r"entry .*steps"):
            tuned(store=store)


# What is asked


class Set(nn.Module):
    """A model with settings of many kinds."""

    def __init__(self, width: int = 4, share: float = 0.5) -> None:
        super().__init__()
        self.width, self.share = width, share
        self.inner = nn.Sequential(nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(rows, width) to the same."""
        return self.inner(x) * self.share  # type: ignore[no-any-return]


class Other(Set):
    """The same with other code."""

    def forward(self, x: Tensor) -> Tensor:
        """(rows, width) to the same."""
        return self.inner(x) * self.share * 1.0  # type: ignore[no-any-return]


def _frozen(model: nn.Module) -> None:
    next(model.parameters()).requires_grad_(False)


CHANGES: dict[str, Callable[[Set], object]] = {
    "a frozen parameter": _frozen,
    "a train flag inside": lambda model: model.inner.eval(),
    "another dtype": lambda model: model.inner[0].half(),
    "a plain setting": lambda model: setattr(model, "share", 0.25),
    "a layer more": lambda model: model.inner.append(nn.Identity()),
    "another class": lambda model: setattr(model, "__class__", Other),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_model_is_another_one_by_all_but_its_weights(change: str) -> None:
    """What may change how fast a way is, or whether it is right; other weights alone do not."""
    model = Set()
    digest = digest_as_it_stands(model)
    assert digest
    assert digest_as_it_stands(Set()) == digest
    changed = copy.deepcopy(model)
    CHANGES[change](changed)
    assert digest_as_it_stands(changed) not in (digest, "")


def test_code_that_was_put_in_another_s_place_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forward of an installed class that somebody replaced, on the class; on the instance nothing is remembered."""
    digest = digest_as_it_stands(Set())
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: x)
    assert digest_as_it_stands(Set()) not in (digest, "")
    monkeypatch.undo()
    assert digest_as_it_stands(Set()) == digest
    hooked, replaced = Set(), Set()
    hooked.inner.register_forward_hook(lambda module, args, output: output)
    replaced.inner.forward = lambda x: x  # type: ignore[method-assign]
    assert digest_as_it_stands(hooked) == digest_as_it_stands(replaced) == ""


QUESTION = WholeQuestion(
    what="ways",
    model="m",
    steps=(("forward", "1"),),
    terms=Terms(mode=Mode.INFERENCE, device="cpu"),
    environment="e",
    process=(("threads", "1"),),
    winners=(),
    originals=(),
    ways=(("compile", "1"),),
    calls=None,
    setups="",
    tool="t",
)
WON = Won(slot="s", workload="w", instances=(), steps=("forward",), winner="a", config=(), candidates=(("a", "1"),))


def test_an_answer_is_of_its_question_alone() -> None:
    """A question that differs in anything has another key; the seed is no part of it."""
    others: dict[str, Any] = {
        "what": "all",
        "model": "n",
        "steps": (("forward", "2"),),
        "terms": replace(QUESTION.terms, aim=Aim(objective=Objective.MEMORY)),
        "environment": "f",
        "process": (("threads", "2"),),
        "winners": (WON,),
        "originals": (("s", "1"),),
        "ways": (("compile", "2"),),
        "calls": 7,
        "setups": "s",
        "tool": "u",
    }
    assert others.keys() == {field.name for field in fields(QUESTION)}
    keys = {replace(QUESTION, **{name: value}).key for name, value in others.items()}
    more: dict[str, Any] = {
        "slot": "t",
        "workload": "v",
        "instances": ("0",),
        "steps": (),
        "winner": "b",
        "config": (("size", "1"),),
        "candidates": (("a", "2"),),
    }
    assert more.keys() == {field.name for field in fields(WON)}
    won = [replace(WON, **{name: value}) for name, value in more.items()]
    keys |= {replace(QUESTION, winners=(each,)).key for each in won}
    assert len(keys | {QUESTION.key}) == len(others) + len(won) + 1
    assert replace(QUESTION, terms=replace(QUESTION.terms, seed=7)).key == QUESTION.key


def _step(inputs: Any, mode: Mode = Mode.INFERENCE, optimizer: OptimizerStep | None = None) -> Step:
    return make_steps(_Masked(), inputs, mode, "cpu", optimizer)[0]


class _Masked(nn.Module):
    """Takes ids and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 4)

    def forward(self, input_ids: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
        """(B, S) to (B, S, 4)."""
        found: Tensor = self.table(input_ids) * scale
        return found if mask is None else found * mask[..., None]


def test_a_step_is_another_one_by_what_it_is_run_on() -> None:
    """By the form of its inputs, by a mask's values and by the optimizer; which tokens there are does not matter."""
    ids, mask = torch.ones(2, 3, dtype=torch.long), torch.ones(2, 3, dtype=torch.long)
    holes = mask.clone()
    holes[0, 0] = 0
    steps = [
        _step((ids,)),
        _step((ids[:1],)),
        _step((ids, mask)),
        _step((ids, holes)),
        _step({"input_ids": ids, "mask": mask}),
        _step({"input_ids": ids, "scale": 2.0}),
        _step((ids,), Mode.TRAIN, OptimizerStep()),
        _step((ids,), Mode.TRAIN, OptimizerStep(torch.optim.SGD)),
    ]
    digests = [asking_module._digest_of_step(_Masked(), step) for step in steps]
    assert len(set(digests)) == len(digests)
    assert asking_module._digest_of_step(_Masked(), _step((ids * 2,))) == digests[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert asking_module._digest_of_step(_Masked(), _step((ids,))) != digests[0]


# What is remembered


@pytest.fixture
def asks(tmp_path: Path) -> Iterator[Asking]:
    """A run's questions, with a journal and a store."""
    journal = Journal(tmp_path / "j")
    journal.begin({"model": "m"})
    run_of: Any = SimpleNamespace(
        model=Long(),
        terms=Terms(mode=Mode.INFERENCE, device="cpu"),
        memory=Memory(journal, Store(tmp_path / "s")),
        budget=Budget(),
        calls=None,
        neighbour=None,
        tell=lambda event: None,
    )
    yield Asking(run=run_of, environment="e", model="m")
    journal.close()


OPEN = CompiledStep(label="forward", way="compile", ratio=0.8, low=0.6, high=1.1, original_us=(2.0,))
CLEAR = replace(OPEN, high=0.9)
WINS = Setup(label="forward", way="compile", calls=(), model="m")


def _out(cause: Cause) -> CompiledStep:
    return CompiledStep(label="forward", way="compile", problem="it is out", cause=cause)


@pytest.mark.parametrize(
    ("found", "late", "kept"),
    [
        (Ways(compiled=(CLEAR,), setups=(WINS,)), False, (True, True)),
        (Ways(compiled=(CLEAR, replace(OPEN, way="compile blocks")), setups=(WINS,)), False, (True, True)),
        (Ways(compiled=(replace(OPEN, ratio=0.99),)), False, (True, True)),
        (Ways(compiled=(_out("wrong"),)), False, (True, True)),
        (Ways(compiled=(OPEN,)), False, (True, False)),
        (Ways(compiled=(_out("raised"),)), False, (True, False)),
        (Ways(compiled=(_out("out of memory"), CLEAR), setups=(WINS,)), False, (True, False)),
        (Ways(compiled=(_out("not timed"),)), False, (False, False)),
        (Ways(compiled=(_out("inconclusive"),)), False, (False, False)),
        (Ways(compiled=(CLEAR,), setups=(WINS,)), True, (False, False)),
        (Ways(), False, (False, False)),
    ],
    ids=[
        "won", "one clear, one open", "not faster", "wrong", "noise left it open", "raised", "no memory", "not timed",
        "inconclusive", "over after its time", "none fits",
    ],
)  # fmt: skip
def test_what_is_final_is_kept(found: Ways, late: bool, kept: tuple[bool, bool], asks: Asking, tmp_path: Path) -> None:
    """By the same run all that was decided, by others what would come out again; what time cut short by nobody."""
    (tried,) = tried_steps(asks.run.model, torch.randn(4, 8), Mode.INFERENCE, "cpu")
    assert asks.ways(tried, 0.0 if late else 1e12, lambda: found) == found
    journal = asks.run.memory.journal
    assert journal is not None
    assert (journal.finished == 1, len(Store(tmp_path / "s").rows()) == 1) == kept
    anew = Ways(compiled=(_out("crashed"),))
    assert asks.ways(tried, 1e12, lambda: anew) == (found if kept[0] else anew)


def test_a_kernel_that_gave_way_to_a_way_does_so_again(asks: Asking) -> None:
    """The answer of all together tells whose contests were taken back beside the ways; the others stay as they are."""
    won = tuple(contest(slot, original_us=100.0, ratio=0.8) for slot in "ST")
    before = replace(empty(), contests=won)
    lost = keep_original(won[0], "it was slower", "taken back")
    step = StepResult(label="forward", original_us=(2.0,), tuned_us=(1.0,), ratio=0.5, low=0.5, high=0.5)
    after = replace(before, setups=(WINS,), contests=(lost, won[1]), steps=(step,))
    ways, (tried,) = Ways(setups=(WINS,)), tried_steps(asks.run.model, torch.randn(4, 8), Mode.INFERENCE, "cpu")
    assert asks.together(before, ways, [tried.step], lambda: after, is_whole=True) == after
    known = asks.together(before, ways, [tried.step], lambda: before, is_whole=True)
    assert [each.selection.status for each in known.contests] == ["taken back", won[1].selection.status]
    assert "it was slower" in known.contests[0].selection.reason
    assert known.setups == (WINS,)


def test_without_a_memory_no_digest_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run from Python, without journal and store, is asked nothing that it does not need."""
    monkeypatch.setattr(asking_module, "digest_as_it_stands", None)
    run_of: Any = SimpleNamespace(memory=Memory(None, None))
    assert asking_module.asking(run_of, current_environment("cpu")).model == ""


def test_winners_that_noise_decided_on_are_asked_for_again(tmp_path: Path) -> None:
    """A whole model that was not timed with them, or gains nothing clear, is no answer for another run."""
    store = Store(tmp_path / "s")
    first = pretended_profile(Pretended(), store=store)
    assert first.winners
    assert not [row for row in store.rows() if row.slot.startswith("whole model: winners")]
    again = pretended_profile(Pretended(), store=store)
    assert [winner for _, winner in selections(again)]
    assert again.run is not None
    assert again.run.recalled_whole == 0


# The commands


def test_the_store_s_commands_know_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are listed by what was asked, written out beside the contests, and removed."""
    path = store_place()
    assert isinstance(path, Path)
    Store(path).keep_whole(QUESTION, WholeAnswer(compiled=(CLEAR,), setups=(WINS,)))
    assert run(["store", "list"]) == 0
    assert "whole model: ways, forward" in capsys.readouterr().out
    assert run(["store", "export", str(tmp_path / "o.jsonl")]) == 0
    (line,) = (tmp_path / "o.jsonl").read_text().splitlines()
    assert '"whole": {"steps": [], "contests": [], "compiled": [{"label": "forward"' in line
    assert run(["store", "prune"]) == 0
    assert Store(path).rows() == ()


def test_a_run_says_how_much_it_knew() -> None:
    """The count of answers is a figure of the run; a profile from before has none."""
    assert RunFacts(took_s=1.0).recalled_whole is None
