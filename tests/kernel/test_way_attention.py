"""A way with another attention of the model's own: traced so, while the model's configuration is never written."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.catalog.catalog_families import tiny
from tests.strategy.planted import compiled_by
from tests.told import Told
from twinkle_tune import kernelize_report, restore_model
from twinkle_tune.capture.held_out import tried_steps
from twinkle_tune.catalog.attention import SEES_SWITCH, other_attentions
from twinkle_tune.contest import model as model_stage
from twinkle_tune.kernel.kernelize import bind_plan
from twinkle_tune.kernel.plan import Plan, with_ways
from twinkle_tune.kernel.setup_calls import call_of
from twinkle_tune.kernel.setups import WayIn, backend_of, digest_of_model, setup_layers, way_layers
from twinkle_tune.mode import Mode
from twinkle_tune.profile.setup import Setup
from twinkle_tune.strategy.compile_blocks import CompileBlocks
from twinkle_tune.strategy.compile_model import CompileModel
from twinkle_tune.terms import Terms
from twinkle_tune.tune.way_contest import Hall
from twinkle_tune.tune.ways import Ways, time_ways

pytestmark = pytest.mark.skipif(
    not SEES_SWITCH, reason=f"compiled code of torch {torch.__version__} does not see the attention that is set"
)

IDS = torch.arange(16).view(1, 16)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch, compiled_anew: None) -> None:
    """Few rounds, and nothing compiled before and after."""
    monkeypatch.setattr(model_stage, "_ROUNDS", 20)


def is_eager(graph: Any) -> bool:
    """Whether the attention is written out in a graph."""
    return not any("scaled_dot_product" in str(node.target) for node in graph.graph.nodes)


def found_by(monkeypatch: pytest.MonkeyPatch, took_us: Callable[[bool], float]) -> Ways:
    """What came of the ways in a prefill, if graphs take so long, with the attention written out and without.

    A prompt takes 40 ms more in the model as it is: a way that compiles is faster by far.
    """
    clock, embed = Told(), nn.Embedding.forward

    def slow(self: nn.Embedding, input: Tensor) -> Tensor:
        if not torch.compiler.is_compiling() and input.shape[-1] > 1:
            clock.us += 40_000.0
        return embed(self, input)

    def made(graph: Any) -> Callable[..., Any]:
        call = graph.forward

        def run(*args: Any) -> Any:
            clock.us += took_us(is_eager(graph))
            return call(*args)

        return run

    monkeypatch.setattr(nn.Embedding, "forward", slow)
    compiled_by(monkeypatch, made)
    model = tiny("qwen3", num_hidden_layers=1)
    prefill, *_ = tried_steps(model, {"input_ids": IDS}, Mode.INFERENCE, "cpu")
    terms = Terms(mode=Mode.INFERENCE, device="cpu")
    hall = Hall(model=model, clock=clock, terms=terms, seconds=0.0)
    return time_ways(hall, [replace(prefill, held_out=(), between=())], lambda event: None)


def bound(ways: Ways) -> Any:
    """A model with what won."""
    model = tiny("qwen3", num_hidden_layers=1)
    layers = setup_layers(model, ways.setups)
    assert not isinstance(layers, str)
    bind_plan(model, with_ways(Plan(), layers))
    return model


@pytest.mark.parametrize(
    ("took_us", "attention"),
    [(lambda eager: 500.0 if eager else 8_000.0, "eager"), (lambda eager: 8_000.0 if eager else 500.0, "")],
    ids=["the other is faster", "its own is faster"],
)
def test_the_faster_attention_runs_in_the_way_that_won(
    took_us: Callable[[bool], float], attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told by the setup's and the report's name; the answers stay, the switch is not touched, all is undone."""
    ways = found_by(monkeypatch, took_us)
    (setup,) = ways.setups
    assert (setup.attention, setup.name) == (attention, "compile + attn:eager" if attention else "compile")
    told = {step.way: step.ratio for step in ways.compiled}
    assert (told["compile + attn:eager"] < told["compile"]) == bool(attention)
    with torch.no_grad():
        before = tiny("qwen3", num_hidden_layers=1)(IDS).logits
        model = bound(ways)
        assert kernelize_report(model).bound[0].candidate == setup.name
        torch.testing.assert_close(model(IDS).logits, before)
        assert model.config._attn_implementation == "sdpa"
        restore_model(model)
        assert torch.equal(model(IDS).logits, before)


def test_nobody_sees_the_switch_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is traced and while it runs the configuration reads as ever: other threads may run the model."""
    graphs = compiled_by(monkeypatch)
    model = tiny("qwen3", num_hidden_layers=1)
    seen, over = set(), threading.Event()

    def watch() -> None:
        while not over.is_set():
            seen.add(model.config.__dict__["_attn_implementation_internal"])

    way = WayIn(strategy=CompileModel(), backend=backend_of(gives_up=True, attention="eager"), attention="eager")
    bind_plan(model, with_ways(Plan(), way_layers(model, [way])))
    often = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        with torch.no_grad():
            for _ in range(30):
                model(IDS)
    finally:
        over.set()
        thread.join()
        sys.setswitchinterval(often)
    assert graphs
    assert all(map(is_eager, graphs))
    assert seen == {"sdpa"}


def test_who_switches_the_attention_gets_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured is another attention than the one that is asked for now; the report says so."""
    model = bound(found_by(monkeypatch, lambda eager: 500.0))
    assert kernelize_report(model).bound
    with torch.no_grad():
        model.set_attn_implementation("eager")
        calls = compiled_by(monkeypatch)
        model(IDS)
    assert not calls
    assert any("attention switched" in str(kept) for kept in kernelize_report(model).kept)


@pytest.mark.parametrize("name", ["rockets", "sdpa", "someone/kernel"])
def test_an_attention_that_is_not_offered_is_not_set(name: str) -> None:
    """A profile may come from anywhere: what it names is looked up in what the model offers beside its own."""
    model = tiny("qwen3", num_hidden_layers=1)
    shown = call_of(model, (), {"input_ids": IDS})
    setup = Setup(label="prefill", way="compile", calls=(shown,), model=digest_of_model(model), attention=name)
    assert setup_layers(model, [setup]) == f"the model has no attention by the name {name!r} to switch to"


def test_blocks_by_themselves_get_no_other_attention() -> None:
    """The model makes the masks outside of them, for the attention that its configuration names."""
    assert CompileModel().traces_all
    assert not CompileBlocks().traces_all


def test_which_attentions_there_are() -> None:
    """Those that the model's own switch takes, but for the one that is set; none where there is no such switch."""
    assert other_attentions(tiny("qwen3", num_hidden_layers=1)) == ("eager",)
    assert other_attentions(nn.Linear(2, 2)) == ()
