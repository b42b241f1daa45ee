"""Whole runs in the compile modes: what each contest was timed on, what it is worth, and what is left behind."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.report import fabricate
from tests.tune import blocks
from tests.tune.blocks import SHORT, Stack, inside, observed, opaque, registry_of, task_of, terms_of
from twinkle_tune.capture.capture import capture
from twinkle_tune.capture.step import make_steps
from twinkle_tune.contest.copies import Copies
from twinkle_tune.errors import ModeError
from twinkle_tune.kernel.find import find_slots
from twinkle_tune.kernel.plan_profile import plan_profile
from twinkle_tune.kernel.registry import default_registry
from twinkle_tune.measure.clock import clock_for
from twinkle_tune.measure.race import RaceSettings
from twinkle_tune.mode import Mode
from twinkle_tune.models import load_model
from twinkle_tune.outcome import Measurement
from twinkle_tune.profile.io import load_profile
from twinkle_tune.profile.schema import Contest, Profile, Seen, TimedOn
from twinkle_tune.profile.store import Store
from twinkle_tune.report.compare import changes
from twinkle_tune.report.derive import parts
from twinkle_tune.report.markdown import markdown_text
from twinkle_tune.report.terminal import terminal_text
from twinkle_tune.strategy.backend import Backend
from twinkle_tune.tune.choose import saved_us
from twinkle_tune.tune.isolated import Isolated
from twinkle_tune.tune.memory import Memory, question_of
from twinkle_tune.tune.tune import tune_model
from twinkle_tune.tune.verify import verify_profile
from twinkle_tune.tune.whole import time_steps

X = torch.ones(4, 8)
BLOCK = TimedOn(block="Layer", path="layers.0", calls=2)


@pytest.fixture(autouse=True)
def no_inductor(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Graphs are run as they are in this process; a worker process has Inductor."""
    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", lambda graph, inputs, **options: graph.forward)
    monkeypatch.setattr("twinkle_tune.tune.settle.SECONDS", 1.0)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def on_block(contest: Contest, **changes: Any) -> Contest:
    """A fabricated contest, as if a block had been timed."""
    return replace(contest, timed_on=replace(BLOCK, **changes))


def test_a_block_s_saving_counts_by_calls_of_the_block() -> None:
    """Two calls of the slot a block are one time of the block saved, not two."""
    alone = replace(fabricate.won(), seen=(Seen(step="forward", calls=56, share=0.1),))
    assert saved_us(on_block(alone)) == pytest.approx(saved_us(alone) / 2)
    assert saved_us(on_block(alone, calls=1)) == pytest.approx(saved_us(alone))
    assert saved_us(replace(alone, timed_on=TimedOn(why_alone="no block"))) == pytest.approx(saved_us(alone))


def qwen3() -> Any:
    """A tiny Qwen3 of two layers, with a prompt."""
    return load_model("qwen3-tiny", "cpu", None, 2, (1,), (8,), Mode.COMPILE)


def test_a_decoder_s_slots_lie_in_its_layers() -> None:
    """Norms, MLPs and rotary embedding of a layer are timed on it, whose call can be repeated; the last norm is not."""
    loaded = qwen3()
    steps = make_steps(loaded.model, loaded.inputs, Mode.COMPILE, "cpu")
    found = capture(loaded.model, steps, find_slots(loaded.model, default_registry), "cpu", blocks=True).observations
    layer = [o for o in found if o.block is not None]
    alone = [o for o in found if o.block is None]
    assert {o.instances for o in alone} == {("model.norm",)}
    assert {o.block.name for o in layer if o.block} == {"Qwen3DecoderLayer"}
    places = {o.block.places: o.block.calls for o in layer if o.block and o.slot.name == "RMSNorm"}
    assert places == {
        ("input_layernorm", "post_attention_layernorm"): 2,
        ("self_attn.q_norm",): 1,
        ("self_attn.k_norm",): 1,
    }
    with torch.no_grad():
        for each in layer:
            assert each.block is not None
            Copies(each.block, each.slot)  # calls it twice, with its cache


@pytest.mark.slow
def test_a_run_leaves_no_trace() -> None:
    """After a run in mode compile forwards, functions, outputs and torch's settings are what they were."""
    module: Any = inspect.getmodule(type(qwen3().model))
    loaded = qwen3()
    before = {name: value for name, value in vars(module).items() if callable(value)}
    limit = torch._dynamo.config.recompile_limit
    settings = RaceSettings(max_rounds=12)
    with torch.no_grad():
        expected = loaded.model(**loaded.inputs[0]).logits
        profile = tune_model(
            loaded.model,
            loaded.inputs,
            mode="compile",
            candidates=["torch.rms_norm"],
            settings=settings,
        )
        assert torch.equal(loaded.model(**loaded.inputs[0]).logits, expected)
    timed = {(c.slot.name, c.instances[-1:]): c.block for c in profile.contests}
    assert timed["RMSNorm", ("model.norm",)] == ""
    assert timed["RMSNorm", ("model.layers.1.post_attention_layernorm",)] == "Qwen3DecoderLayer"
    assert all(c.timed_on is not None for c in profile.contests)
    measured = [t.outcome for c in profile.contests for t in c.trials if isinstance(t.outcome, Measurement)]
    assert len(measured) > len(profile.contests)
    assert {m.graph_breaks for m in measured} == {0}
    assert not any("forward" in part.__dict__ for part in loaded.model.modules())
    assert {name: value for name, value in vars(module).items() if callable(value)} == before
    assert torch._dynamo.config.recompile_limit == limit
    kept = torch._C._dynamo.eval_frame._debug_get_cache_entry_list
    assert not any(kept(type(part).forward.__code__) for part in loaded.model.modules())


def tuned(model: Stack, registry: Any, **options: Any) -> Profile:
    """A run in mode compile with short races."""
    return tune_model(model, X, mode="compile", registry=registry, settings=SHORT, candidates=["impl"], **options)


@pytest.mark.slow
def test_a_winner_is_bound_timed_and_verified(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """A winner on its block wins the whole compiled model, is saved with what was timed, and holds when verified."""
    monkeypatch.setattr(blocks, "SPLIT_US", blocks.REST_US)
    model, registry = Stack(), registry_of(opaque)
    profile = load_profile(tuned(model, registry, dynamic=False).save(tmp_path / "p.json"))
    assert profile.dynamic is False
    assert {c.block for c in profile.winners} == {"Layer", ""}
    assert [t.outcome.recompilations for c in profile.contests for t in c.trials if isinstance(t.outcome, Measurement)]
    (step,) = profile.steps
    # Of the fastest rounds: on a busy machine the others may scatter.
    assert min(step.tuned_us) < min(step.original_us)
    checks = verify_profile(profile, model, X, registry=registry, settings=SHORT)
    assert checks.holds, checks


def test_a_function_s_winner_is_not_compiled_again_each_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Binding and restoring by turns compiles the whole model twice, not once a round: the dispatcher stays."""
    graphs: list[object] = []

    class Counting(Backend):
        def __call__(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
            graphs.append(graph)
            return graph.forward

    def quick(x: torch.Tensor) -> torch.Tensor:
        return 1 + x

    model, registry = Stack(), registry_of(functions=(quick,))
    steps = make_steps(model, X, Mode.COMPILE, "cpu")
    profile = tuned(model, registry)
    (contest,) = profile.contests
    name = next(t.candidate for t in contest.trials if t.candidate.endswith("quick"))
    won = replace(contest, selection=replace(contest.selection, winner=name, ratio=0.9, low=0.9, high=0.9))
    profile = replace(profile, contests=(won,))
    plan = plan_profile(model, profile, "cpu", Mode.COMPILE, registry)
    assert plan.functions
    monkeypatch.setattr("twinkle_tune.tune.whole.Backend", Counting)
    results = time_steps(model, steps, profile, plan, clock_for("cpu"), lambda event: None, seed=0, seconds=0.2)
    assert len(results[0].tuned_us) >= 6
    assert len(graphs) == 2


def test_dynamic_is_part_of_the_question() -> None:
    """What was measured with dynamic shapes, or on a block, answers no other question; other modes ask as before."""
    registry = registry_of(opaque)
    seen = inside(observed(Stack(), X, registry))
    candidates = task_of(seen, registry).candidates

    def key(observation: Any, mode: Mode = Mode.COMPILE, dynamic: bool | None = None) -> str:
        return question_of(observation, candidates, terms_of(mode, dynamic), "here").key

    alone = replace(seen, block=None)
    assert seen.block is not None
    other = replace(seen, block=replace(seen.block, calls=1))
    keys = [key(seen), key(seen, dynamic=True), key(seen, dynamic=False), key(alone), key(other)]
    assert len(set(keys)) == len(keys)
    assert key(seen) == key(inside(observed(Stack(), X, registry)))
    assert key(seen, Mode.INFERENCE) == key(alone, Mode.INFERENCE)


def test_the_store_keeps_what_was_timed(tmp_path: Path) -> None:
    """An outcome on a block serves equal blocks of other models; one that fell back to the slot alone is not kept."""
    registry = registry_of(opaque)
    seen = inside(observed(Stack(), X, registry))
    assert seen.block is not None
    candidates = task_of(seen, registry).candidates
    moved = replace(seen, block=replace(seen.block, path="encoder.layers.0"))
    question = question_of(seen, candidates, terms_of(), "here")
    assert question_of(moved, candidates, terms_of(), "here").key == question.key
    memory = Memory(None, Store(tmp_path / "store"))
    won = replace(fabricate.won(), trials=fabricate.won().trials[:2])
    memory.keep(question, replace(won, timed_on=TimedOn(why_alone="no memory")))
    assert memory.recall(question, moved) is None
    memory.keep(question, on_block(won))
    found = memory.recall(question, moved)
    assert found is not None
    assert found.timed_on == replace(BLOCK, path="encoder.layers.0")


def test_dynamic_without_compiling_is_an_error() -> None:
    """In a mode that compiles nothing there is nothing to be dynamic."""
    with pytest.raises(ModeError, match="dynamic: got True in mode inference"):
        tune_model(Stack(), X, mode="inference", dynamic=True)


def test_reports_never_show_a_block_s_time_as_the_slot_s() -> None:
    """Times of a block are marked in every table, the contest says what was timed, and what compiling came to."""
    base = fabricate.won()
    fused = base.trial("fused").outcome
    assert isinstance(fused, Measurement)
    counted = replace(fused, graph_breaks=2, recompilations=1)
    trials = tuple(replace(t, outcome=counted) if t.candidate == "fused" else t for t in base.trials)
    alone = replace(fabricate.kept(), timed_on=TimedOn(why_alone="no part of the model that repeats is around it"))
    profile = replace(fabricate.normal(), contests=(on_block(replace(base, trials=trials)), alone), dynamic=True)
    for text in (markdown_text(profile), " ".join(terminal_text(profile).split())):
        assert "µs (block)" in text
        assert "are of Layer (layers.0), compiled with the candidate in it; it makes 2 calls of the slot" in text
        assert "Compiled and timed alone: no part of the model" in text
    told = markdown_text(profile)
    assert "2 graph breaks, the original 0" in told
    assert "compiled anew 1 times at calls that are alike, the original 0" in told
    assert "Dynamic shapes: on" in told
    # The slot's share shrinks by what the block saved of the step, not by the block's ratio.
    table = parts(profile)
    row = table[(table["step"] == "prefill 1x128") & (table["slot"] == "RMSNorm")].iloc[0]
    (step,) = (s for s in profile.steps if s.label == "prefill 1x128")
    saved = 0.2 * 103.5 * 4 / 2 / sorted(step.original_us)[len(step.original_us) // 2]
    assert row["before"] - row["after"] == pytest.approx(min(saved, 0.125), rel=0.05)


def test_contests_that_their_block_alone_tells_apart_stay_apart() -> None:
    """Two profiles are compared contest by contest, also where only what was timed differs."""
    one = on_block(fabricate.won())
    profile = replace(fabricate.normal(), contests=(one, replace(one, timed_on=TimedOn())))
    assert sum(change.where.startswith("RMSNorm") for change in changes(profile, profile)) == 2


@pytest.mark.slow
def test_a_worker_process_times_the_block() -> None:
    """Apart from this process, compiled by Inductor, the contest is of the block as well, and says so."""
    registry = registry_of(opaque, functions=(blocks.shifted_too,))
    function, gain = (
        task_of(o, registry)
        for o in sorted(observed(Stack(), X, registry), key=lambda o: (len(o.instances), o.module is not None))
        if o.block is not None
    )
    with Isolated() as executor:
        first = executor.hold(gain, lambda event: None)
        second = executor.hold(replace(gain, again=True), lambda event: None)
        third = executor.hold(function, lambda event: None)
    assert third.timed_on == replace(BLOCK, calls=1)
    assert all(isinstance(trial.outcome, Measurement) for trial in third.trials)
    for contest in (first, second):
        assert contest.timed_on == BLOCK
        assert contest.selection.winner == "original"
        assert isinstance(contest.trial("original").outcome, Measurement)
