"""Text generated on a cache of a fixed size, which a way has in the place of the one that grows."""

from __future__ import annotations

import copy
import inspect
import pickle
from dataclasses import replace
from functools import partial
from types import MethodType
from typing import Any

import pytest
import torch
from torch import nn
from transformers import DynamicCache, GenerationConfig, StaticCache

from tests.catalog.catalog_families import tiny
from tests.catalog.encoder_families import tiny as encoder_decoder
from tests.fake_cuda import FakeDevice, replaying
from tests.kernel.test_generation import TOKENS, Asked, prompt, says, spied
from tests.kernel.test_setups import calls_in, profile_of
from tests.today import of_today
from tests.told import told_clock
from tests.tune.toy import QUICK
from twinkle_tune import kernelize_model, kernelize_report, restore_model, tune_model
from twinkle_tune.capture.generate import Generate
from twinkle_tune.contest import model as model_stage
from twinkle_tune.kernel import Registry
from twinkle_tune.kernel.kernelize import bind_plan
from twinkle_tune.kernel.plan import Plan
from twinkle_tune.kernel.setups import WayIn, way_layers
from twinkle_tune.profile.schema import Profile
from twinkle_tune.strategy import on_cuda
from twinkle_tune.strategy.backend import Backend
from twinkle_tune.strategy.compile_model import CompileModel
from twinkle_tune.strategy.device_graphs import DeviceGraphs
from twinkle_tune.strategy.static_cache import capacity_for, why_not_static

pytestmark = pytest.mark.usefixtures("compiled_anew")

FAMILIES = ("qwen3", "llama", "gemma3_text", "phi", "gpt2")
PROMPT = prompt(1, 8, padded=False)
ASKED: dict[str, Any] = {
    **PROMPT, "max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False, "pad_token_id": 0
}  # fmt: skip


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is for CUDA devices is for the CPU."""
    monkeypatch.setattr(on_cuda, "KIND", "cpu")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    """A device whose replays compute."""
    return replaying(monkeypatch)


def shown(model: Any, way: str, *asked: Asked) -> Profile:
    """A profile in which a way with such a cache won the generation from some prompts."""
    seen = [call for each in asked for call in calls_in(model, partial(says, model, each))]
    profile = profile_of(model, way, calls=list(dict.fromkeys(seen)))
    return replace(profile, setups=tuple(replace(setup, cache="static") for setup in profile.setups))


def counted(monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], list[int]]:
    """Lists that grow with each graph that is made, and with each of its calls."""
    made: list[int] = []

    def compiler(graph: Any, inputs: Any) -> Any:
        made.append(1)
        return graph.forward

    return made, spied(monkeypatch, compiler)


@pytest.mark.parametrize("family", of_today(FAMILIES, 5))
@pytest.mark.parametrize("rows", of_today([1, 3], 2))
def test_it_says_what_the_original_says(family: str, rows: int, allowed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Token for token, one row, and three padded on the left, at lengths that were shown and between, by one code."""
    hold_to_the_original(family, rows, rows > 1, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("padded", [False, True])
def test_every_family_says_what_the_original_says(
    family: str, rows: int, padded: bool, allowed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them, with a mask and without."""
    hold_to_the_original(family, rows, padded, monkeypatch)


def hold_to_the_original(family: str, rows: int, padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bind a way with such a cache for two lengths, and compare what it says at these and between."""
    graphs, calls = counted(monkeypatch)
    model: Any = tiny(family, num_hidden_layers=2)
    asked = [prompt(rows, length, padded=padded) for length in (4, 8, 6)]
    said = [says(model, each) for each in asked]
    kernelize_model(model, profile=shown(model, "compile", *asked[:2]))
    for _ in range(2):
        for each, text in zip(asked, said, strict=True):
            before = len(calls)
            assert torch.equal(says(model, each), text)
            assert len(calls) - before >= TOKENS - 1  # the prompt is the original's
    # Gemma's sliding window counts in Python, whether it is full: code of its own.
    assert len(graphs) == (2 if family == "gemma3_text" else 1)
    assert str(kernelize_report(model)).startswith("bound  Model: compile + cache:static")
    restore_model(model)
    assert not {"forward", "generate"} & vars(model).keys()
    assert torch.equal(says(model, asked[0]), said[0])


@pytest.fixture
def bound(allowed: None, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[int]]:
    """A model whose generation of a row of eight tokens was shown, and the calls of what was compiled."""
    _, calls = counted(monkeypatch)
    model: Any = tiny("llama", num_hidden_layers=1)
    kernelize_model(model, profile=shown(model, "compile", PROMPT))
    return model, calls


OTHERS: list[dict[str, Any]] = [
    {"cache_implementation": "static"},
    {"cache_implementation": "dynamic"},
    {"generation_config": GenerationConfig(cache_implementation="static")},
    {"use_cache": False},
    {"num_beams": 2},
    {"num_return_sequences": 2, "num_beams": 2},
    {"prompt_lookup_num_tokens": 2},
    {"synced_gpus": False},
]
"""What somebody may ask for who has another generation in mind."""


@pytest.mark.parametrize("more", OTHERS, ids=str)
def test_who_asks_for_anything_else_gets_the_original(more: dict[str, Any], bound: tuple[Any, list[int]]) -> None:
    """A cache, a search, an option that this does not know."""
    model, calls = bound
    said = type(model).generate(model, **ASKED, **more)
    assert torch.equal(model.generate(**ASKED, **more), said)
    assert not calls
    model.generate(**ASKED)
    assert calls


def test_what_the_model_asks_for_counts_as_well(bound: tuple[Any, list[int]]) -> None:
    """Its generation_config, written to after binding, with a call's own settings beside it."""
    model, calls = bound
    said = model.generate(**ASKED)
    assert calls
    calls.clear()
    model.generation_config.cache_implementation = "static"
    assert torch.equal(model.generate(**ASKED), said)
    assert torch.equal(model.generate(PROMPT["input_ids"], GenerationConfig(max_new_tokens=TOKENS)), said)
    assert not calls


def test_a_users_cache_is_the_users(bound: tuple[Any, list[int]]) -> None:
    """One that is given is filled, one that is asked for is of the model's own kind, with and without ``generate``."""
    model, calls = bound
    for cache in (DynamicCache(config=model.config), StaticCache(config=model.config, max_cache_len=16)):
        model.generate(**ASKED, past_key_values=cache)
        assert int(cache.get_seq_length()) == 8 + TOKENS - 1
    made = model.generate(**ASKED, return_dict_in_generate=True)
    assert type(made.past_key_values) is DynamicCache
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(**PROMPT, past_key_values=cache, use_cache=True, logits_to_keep=1)
    assert cache.get_seq_length() == 8
    assert not calls


def test_longer_than_shown_is_the_originals(bound: tuple[Any, list[int]]) -> None:
    """Another number of rows, a longer prompt, more tokens, or a mask: all of that generation, its prompt too."""
    model, calls = bound
    mask = {"attention_mask": torch.tensor([[0, *[1] * 7]])}
    for more in ({"max_new_tokens": TOKENS + 1}, prompt(1, 9, padded=False), prompt(2, 8, padded=False), mask):
        model.generate(**{**ASKED, "min_new_tokens": None, **more})
    assert not calls
    assert torch.equal(
        model.generate(**{**ASKED, "max_new_tokens": 2, "min_new_tokens": 2}), says(model, PROMPT)[:, :10]
    )
    assert calls


def test_a_hook_of_later_ends_it(bound: tuple[Any, list[int]]) -> None:
    """Compiled code would not call it: the original runs, also where it comes amid a generation."""
    model, calls = bound
    said, seen = model.generate(**ASKED), []
    calls.clear()

    def amid(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if ids.shape[1] == 10:
            model.model.layers[0].register_forward_hook(lambda *_: seen.append(1))
        return scores

    assert torch.equal(model.generate(**ASKED, logits_processor=[amid]), said)
    assert len(calls) == 2
    assert len(seen) == TOKENS - 3
    assert torch.equal(model.generate(**ASKED), said)
    assert len(calls) == 2


def test_a_copy_generates_with_its_own_weights(bound: tuple[Any, list[int]]) -> None:
    """In the way; the signature of ``generate`` stays."""
    model, calls = bound
    assert inspect.signature(model.generate) == inspect.signature(MethodType(type(model).generate, model))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(torch.rand_like(parameter) + 0.5)
    said = type(twin).generate(twin, **ASKED)
    assert not torch.equal(said, model.generate(**ASKED))
    before = len(calls)
    assert torch.equal(twin.generate(**ASKED), said)
    assert len(calls) > before


def test_a_pickle_generates_as_its_class_does(allowed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that was bound goes with it."""
    _, calls = counted(monkeypatch)
    model: Any = tiny("gpt2", num_hidden_layers=1)
    kernelize_model(model, profile=shown(model, "compile", PROMPT))
    said = says(model, PROMPT)
    assert calls
    calls.clear()
    assert torch.equal(says(pickle.loads(pickle.dumps(model)), PROMPT), said)
    assert not calls


@pytest.mark.parametrize("at", [1, 3])
def test_a_call_that_fails_is_answered(at: int, allowed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first token's, or a later one's, before it has written: a warning says so, and the text is the original's."""
    calls = [0]

    def compiler(graph: Any, inputs: Any) -> Any:
        def run(*args: Any) -> Any:
            calls[0] += 1
            if calls[0] >= at:
                raise RuntimeError("planted")
            return graph.forward(*args)

        return run

    spied(monkeypatch, compiler)
    model: Any = tiny("llama", num_hidden_layers=1)
    said = says(model, PROMPT)
    kernelize_model(model, profile=shown(model, "compile", PROMPT))
    with pytest.warns(UserWarning, match=r"compile \+ cache:static: a call of it failed .*planted"):
        assert torch.equal(says(model, PROMPT), said)
    assert torch.equal(says(model, PROMPT), said)
    assert calls[0] == at


@pytest.mark.parametrize(("family", "rows"), of_today([("qwen3", 1), ("llama", 3), ("phi", 3)], 3))
def test_device_graphs_replay_the_tokens(family: str, rows: int, device: FakeDevice) -> None:
    """Captured once for a number of rows, at the first generation's second token, and replayed in all later ones."""
    model: Any = tiny(family, num_hidden_layers=2)
    asked = [prompt(rows, length, padded=rows > 1) for length in (4, 8, 6)]
    said = [says(model, each) for each in asked]
    kernelize_model(model, profile=shown(model, "device graphs", *asked[:2]))
    for _ in range(2):
        for each, text in zip(asked, said, strict=True):
            assert torch.equal(says(model, each), text)
    assert device.log.count("capture begins") == 1
    assert device.log.count("replay") == 6 * (TOKENS - 1)
    restore_model(model)
    assert torch.equal(says(model, asked[0]), said[0])


def test_a_cache_is_taken_again_by_one_generation_at_a_time(allowed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that run at once have each their own, and one that ended by an error gives its own back."""
    counted(monkeypatch)
    model: Any = tiny("llama", num_hidden_layers=1)
    kernelize_model(model, profile=shown(model, "compile", PROMPT))
    other = {"input_ids": PROMPT["input_ids"].flip(1)}
    said, inside = says(model, PROMPT), []

    def amid(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if ids.shape[1] == 10:
            inside.append(says(model, other))
        return scores

    assert torch.equal(model.generate(**ASKED, logits_processor=[amid]), said)
    assert torch.equal(inside[0], type(model).generate(model, **{**ASKED, **other}))

    def fails(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        model.generate(**ASKED, logits_processor=[fails])
    assert torch.equal(says(model, PROMPT), said)
    with torch.inference_mode():
        assert torch.equal(says(model, PROMPT), said)
    assert torch.equal(says(model, PROMPT), said)


def test_in_a_contest_every_generation_has_one_and_its_memory_is_told(
    allowed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that gives its cache; the memory that stays between generations is that of one for each size."""
    graphs, calls = counted(monkeypatch)
    model: Any = tiny("llama", num_hidden_layers=2)
    said, backend = says(model, PROMPT), Backend(gives_up=True)
    way = WayIn(strategy=CompileModel(), backend=backend, cache="static")
    bind_plan(model, Plan(layers=way_layers(model, [way])))
    made = model.generate(**ASKED, return_dict_in_generate=True)
    assert torch.equal(made.sequences, said)
    assert type(made.past_key_values) is StaticCache
    assert torch.equal(says(model, PROMPT), said)
    assert len(calls) == 2 * (TOKENS - 1)
    assert len(graphs) == 1
    config = model.config
    head_bytes = 128 * (config.hidden_size // config.num_attention_heads) * 4
    assert backend.held_bytes == 2 * 2 * config.num_key_value_heads * head_bytes
    restore_model(model)


def test_which_models_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others say why not; a model on a CPU is slower on it."""
    model: Any = tiny("llama", num_hidden_layers=1)
    assert why_not_static(model) == "it is for CUDA devices, and the model is on cpu"
    monkeypatch.setattr(on_cuda, "KIND", "cpu")
    assert not why_not_static(model)
    assert why_not_static(nn.Linear(2, 2)) == "the model generates no text"
    assert "two caches" in why_not_static(encoder_decoder("t5"))
    model.generation_config.cache_implementation = "offloaded"
    assert why_not_static(model) == "the model's generation_config asks for a offloaded cache"
    model.generation_config.cache_implementation = None
    monkeypatch.setattr(type(model), "_can_compile_fullgraph", False)
    assert "does not say" in why_not_static(model)
    assert [capacity_for(tokens) for tokens in (1, 128, 129, 160)] == [128, 128, 256, 256]


def test_it_is_refused_where_generate_is_somebody_elses(allowed: None) -> None:
    """Nothing is bound, and the reason is told."""
    model: Any = tiny("llama", num_hidden_layers=1)
    profile = shown(model, "compile", PROMPT)
    model.generate = MethodType(type(model).generate, model)
    with pytest.warns(UserWarning, match="generate was replaced on the instance by somebody else"):
        kernelize_model(model, profile=profile)
    assert "forward" not in vars(model)


def test_who_pays_only_on_such_a_cache_wins_a_contest(device: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Device graphs are refused on a cache that grows; on one of a fixed size they win, are shown at other lengths,
    where nothing is captured anew, and are bound."""
    clock, embed = told_clock(monkeypatch), nn.Embedding.forward

    def slow(self: nn.Embedding, input: torch.Tensor) -> torch.Tensor:
        clock.us += 900.0  # of the host: a replay does not come here
        return embed(self, input)

    monkeypatch.setattr(nn.Embedding, "forward", slow)
    monkeypatch.setattr(Generate.__init__, "__defaults__", (TOKENS,))
    monkeypatch.setattr(model_stage, "_ROUNDS", 20)
    for place in ("way_contest", "way_figures"):
        monkeypatch.setattr(f"twinkle_tune.tune.{place}.STRATEGIES", (DeviceGraphs(),))
    model: Any = tiny("llama", num_hidden_layers=1)
    given = {"input_ids": PROMPT["input_ids"]}
    profile = tune_model(model, given, registry=Registry(), settings=QUICK, candidates=["original"], ways=True)
    found = {step.way: step for step in profile.compiled if step.label.startswith("generate")}
    assert "a cache that grows" in found["device graphs"].problem
    assert found["device graphs + cache:static"].is_clear
    (setup,) = [setup for setup in profile.setups if setup.label.startswith("generate")]
    assert (setup.way, setup.cache) == ("device graphs", "static")
    lengths = {spec.shape for call in setup.calls for spec in call.workload.tensors[:1] if call.cached == 0}
    assert lengths >= {(1, 8), (1, 2), (1, 12)}
    assert not {"forward", "generate"} & vars(model).keys()
    said = says(model, prompt(1, 5, padded=False))
    kernelize_model(model, profile=profile)
    before = device.log.count("replay")
    assert torch.equal(says(model, prompt(1, 5, padded=False)), said)
    assert device.log.count("replay") == before + TOKENS - 1
