"""Tuning, binding and restoring leave no trace in a model: all that can be reached from it is compared, to the bit."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.capture.test_untouched import STATE, model_with
from tests.capture.trace import trace_of
from tests.catalog import catalog_families, encoder_families
from tests.today import of_today
from tests.tune.toy import Norm, norm
from twinkle_tune import kernelize_model, restore_model, tune_model
from twinkle_tune.errors import RegistrationError, TuneInterrupted
from twinkle_tune.kernel import Registry, register_external_layer, register_layer_kernel
from twinkle_tune.measure.race import RaceSettings
from twinkle_tune.mode import Mode
from twinkle_tune.testing import with_winner
from twinkle_tune.tune import settle
from twinkle_tune.tune.events import ContestStarted, Event

FAST = ("llama", "qwen3", "gemma2", "phi", "gpt2", "opt", "bert", "modernbert", "t5", "bart", "whisper", "vit")
MORE = (
    *("qwen2", "mistral", "gemma", "gemma3_text", "phi3", "olmo", "olmo2", "granite", "starcoder2", "stablelm"),
    *("cohere", "cohere2", "glm", "glm4", "helium", "smollm3", "arcee", "exaone4", "nemotron", "gpt_neox"),
    *("persimmon", "mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "granitemoe", "seed_oss", "ministral", "t5-gated"),
    *("deberta", "wav2vec2"),
)


@pytest.fixture(autouse=True)
def _short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole model is timed for a moment only."""
    monkeypatch.setattr(settle, "SECONDS", 0.05)


def family(name: str, mode: Mode) -> tuple[nn.Module, dict[str, Any]]:
    """A tiny model of transformers, with inputs."""
    if name in encoder_families.FAMILIES:
        return encoder_families.tiny(name), encoder_families.inputs_of(name, trains=mode.trains)
    ids = torch.randint(3, 64, (2, 12), generator=torch.Generator().manual_seed(1))
    return catalog_families.tiny(name), {"input_ids": ids} | ({"labels": ids} if mode.trains else {})


def tuned_and_back(model: nn.Module, inputs: object, mode: Mode, **more: Any) -> None:
    """Profile the model, bind whatever was right, run it, restore it."""
    options: dict[str, Any] = {"candidates": ["torch"], "budget_s": 1.0, "settings": RaceSettings(max_rounds=9)} | more
    try:
        profile = tune_model(model, inputs, mode=mode, **options)
    except RegistrationError:  # torch has nothing for any of its slots
        profile = tune_model(model, inputs, mode=mode, **(options | {"candidates": []}))
    kernelize_model(model, profile=with_winner(profile))
    restore_model(model)


def unchanged(model: nn.Module, inputs: object, mode: Mode, **options: Any) -> None:
    """Hold that nothing of the model and of the process's streams of random numbers is another afterwards."""
    first = next(model.parameters())
    first.grad = torch.full_like(first, 0.5)
    before, streams = trace_of(model), (torch.get_rng_state().tolist(), random.getstate())
    tuned_and_back(model, inputs, mode, **options)
    after = trace_of(model)
    assert {
        path: (before.get(path), after.get(path)) for path in before | after if before.get(path) != after.get(path)
    } == {}
    assert (torch.get_rng_state().tolist(), random.getstate()) == streams


@pytest.mark.parametrize("name", of_today(FAST, 3))
def test_a_family_is_as_it_was(name: str) -> None:
    """Of a third of the families a day: every weight, buffer, attribute, flag and gradient, to the bit."""
    mode = Mode.TRAIN if FAST.index(name) % 2 else Mode.INFERENCE
    unchanged(*family(name, mode), mode)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [Mode.INFERENCE, Mode.TRAIN])
@pytest.mark.parametrize("name", [*FAST, *MORE])
def test_every_family_is_as_it_was(name: str, mode: Mode) -> None:
    """The same of more families, in both modes."""
    unchanged(*family(name, mode), mode)


@pytest.mark.parametrize("kind", STATE)
def test_a_model_with_state_of_its_own_is_as_it_was(kind: str) -> None:
    """Whatever a forward changes of its module, there is none of it after tuning."""
    model = nn.Sequential(model_with(kind), nn.LayerNorm(4)).train()
    model[1].eval()
    unchanged(model, torch.ones(2, 4), Mode.TRAIN, candidates=[], budget_s=0.2)


def test_dynamic_rotary_tables_are_as_they_were() -> None:
    """A model whose rotary table was made anew for long inputs computes afterwards what it computed before."""
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    model = catalog_families.tiny("llama", rope_parameters=rope)
    model.model.rotary_emb.original_max_seq_len = model.model.rotary_emb.max_seq_len_cached = 8  # type: ignore[union-attr]
    unchanged(model, {"input_ids": torch.randint(3, 64, (1, 24))}, Mode.INFERENCE)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_run_that_ends_early_leaves_nothing(error: type[BaseException]) -> None:
    """Ctrl-C in the middle of a contest, or a listener that raises, leaves the model as it was."""
    model, inputs = family("llama", Mode.TRAIN)
    before = trace_of(model)

    def stop(event: Event) -> None:
        if isinstance(event, ContestStarted):
            raise error

    with contextlib.suppress(error, TuneInterrupted):
        tune_model(model, inputs, mode=Mode.TRAIN, candidates=["torch"], budget_s=2.0, on_event=stop)
    assert trace_of(model) == before


is_open: list[int] = []
"""Holds something while the model of the last test runs."""


def failing(how: str) -> Callable[..., torch.Tensor]:
    """An original that cannot be run by itself."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        if how == "wide" and x.dtype is torch.float64:
            raise NotImplementedError("float32 alone")
        if how == "garbage" and x.dtype is torch.float64:
            return torch.full_like(x, 2.7e122)
        if how == "alone" and not is_open:
            raise RuntimeError("it is called from outside of the model")
        return norm(self, x)

    return forward


@pytest.mark.parametrize("how", ["wide", "garbage", "alone"])
def test_what_the_original_raises_ends_no_run(how: str) -> None:
    """A layer that cannot be checked, or not be called by itself, is inconclusive with its cause; the rest is tuned."""

    class Odd(Norm):
        forward = failing(how)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.odd, self.plain = Odd(16), Norm(16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            is_open.append(1)
            try:
                return self.plain(self.odd(x))  # type: ignore[no-any-return]
            finally:
                is_open.pop()

    registry = Registry()
    for layer, name in ((Odd, "Odd"), (Norm, "Norm")):
        register_external_layer(layer, name, registry=registry)
        register_layer_kernel(name, layer_impl=norm, device="cpu", registry=registry)
    profile = tune_model(
        Model().eval(), torch.randn(8, 16), registry=registry, candidates=["impl"], settings=RaceSettings(max_rounds=9)
    )
    found = {contest.slot.name: contest for contest in profile.contests}
    assert found["Norm"].trials
    if how == "alone":
        assert (
            "inconclusive: the original raised RuntimeError: it is called from outside" in found["Odd"].selection.reason
        )
    assert found["Odd"].selection.winner in ("original", "impl:norm")


class Ragged(nn.Module):
    """Calls its norm with a nested tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.plain = nn.LayerNorm(16), Norm(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, 16) to (rows, 16)."""
        nested: Any = torch.nested.nested_tensor([x[:2], x[2:]], layout=torch.jagged)
        return self.plain(self.norm(nested).values())  # type: ignore[no-any-return]


class Sparse(nn.Module):
    """Multiplies with a weight that has no strides."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, 16).relu().to_sparse_csr(), requires_grad=False)
        self.plain = Norm(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, 16) to (rows, 16)."""
        return self.plain((self.weight @ x.t()).t())  # type: ignore[no-any-return]


@pytest.mark.parametrize("make", [Ragged, Sparse, lambda: torch.compile(nn.Sequential(Norm(16)), backend="eager")])
def test_a_model_of_any_form_is_tuned(make: Callable[[], nn.Module]) -> None:
    """Nested tensors, sparse weights and torch.compile's wrapper end no run: the layer beside them has its contest."""
    registry = Registry()
    for layer, name in ((Norm, "Norm"), (Sparse, "Sparse")):
        register_external_layer(layer, name, registry=registry)
        register_layer_kernel(name, layer_impl=norm, device="cpu", registry=registry)
    profile = tune_model(
        make().eval(),
        torch.randn(6, 16),
        registry=registry,
        candidates=["impl"],
        settings=RaceSettings(max_rounds=9),
        budget_s=3.0,
    )
    assert "Norm" in {contest.slot.name for contest in profile.contests}
