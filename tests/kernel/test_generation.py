"""Text that a model generates while it runs another way is the original's, token for token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._inductor import compile_fx as inductor

from tests.catalog.catalog_families import tiny
from tests.catalog.encoder_families import tiny as encoder_decoder
from tests.kernel.test_setups import calls_in, profile_of
from tests.today import of_today
from twinkle_tune import kernelize_model, kernelize_report, restore_model
from twinkle_tune.capture.step import make_steps
from twinkle_tune.mode import Mode
from twinkle_tune.strategy.backend import _takes_limit

pytestmark = pytest.mark.usefixtures("compiled_anew")

FAMILIES = ("qwen3", "llama", "gemma3_text", "phi", "gpt2")
WAYS = ("compile", "compile dynamic", "compile blocks")
TOKENS = 5
Asked = dict[str, Any]


def prompt(batch: int, length: int, *, padded: bool) -> Asked:
    """A prompt, without a mask, or padded on the left with a mask that says so."""
    ids = torch.randint(3, 60, (batch, length), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    return {"input_ids": ids, "attention_mask": mask} if padded else {"input_ids": ids}


ALL = [prompt(batch, length, padded=padded) for batch, length, padded in product((1, 3), (4, 8), (False, True))]
"""Of one and of three rows, short and long, with a mask and without."""


def says(model: Any, asked: Asked, **more: Any) -> Tensor:
    """The prompt and what is generated, greedily."""
    text: Tensor = model.generate(
        **asked, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False, pad_token_id=0, **more
    )
    return text


def spied(monkeypatch: pytest.MonkeyPatch, compiler: Callable[..., Any]) -> list[int]:
    """Let graphs be compiled by a compiler; gives a list that grows at each call of what it made."""
    calls: list[int] = []

    def compile_fx(graph: Any, inputs: Any, **options: Any) -> Callable[..., Any]:
        made = compiler(graph, inputs)

        def run(*args: Any) -> Any:
            calls.append(1)
            return made(*args)

        return run

    monkeypatch.setattr(inductor, "compile_fx", compile_fx)
    return calls


def untouched(graph: Any, inputs: Any) -> Any:
    """No compiler: the graph as it was traced."""
    return graph.forward


def hold_to_the_original(
    model: Any, way: str, calls: list[int], shown: Sequence[Asked], others: Sequence[Asked] = ()
) -> None:
    """Bind a way for the calls of some prompts, and compare what it says to these and to others of sizes between."""
    asked = [*shown, *others]
    caches: list[Asked] = [{}, {"cache_implementation": "static"}]
    said = {(i, j): says(model, each, **cache) for i, each in enumerate(asked) for j, cache in enumerate(caches)}
    seen = [call for each in shown for call in calls_in(model, partial(says, model, each))]
    kernelize_model(model, profile=profile_of(model, way, calls=list(dict.fromkeys(seen))))
    for (i, j), text in said.items():
        before = len(calls)
        assert torch.equal(says(model, asked[i], **caches[j]), text), (asked[i], caches[j])
        # A cache of a fixed size was not shown: the original runs.
        assert (len(calls) - before >= TOKENS) is (j == 0)
    assert kernelize_report(model).bound
    restore_model(model)
    assert torch.equal(says(model, asked[0]), said[0, 0])


@pytest.mark.parametrize("family", of_today(FAMILIES, 5))
@pytest.mark.parametrize("rows", of_today([1, 3], 2))
def test_the_way_says_what_the_original_says(family: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row without a mask, three rows padded on the left; on a cache that grows and on one of a fixed size."""
    calls = spied(monkeypatch, untouched)
    shown = [prompt(rows, length, padded=rows > 1) for length in (4, 8)]
    between = [prompt(rows, 6, padded=rows > 1)]
    hold_to_the_original(tiny(family, num_hidden_layers=1), "compile dynamic", calls, shown, between)


@pytest.mark.skipif(not _takes_limit, reason=f"torch {torch.__version__} compiles at most eight graphs of a function")
@pytest.mark.parametrize(("family", "rows"), of_today(product(["t5", "bart"], [1, 3]), 4))
def test_an_encoder_decoder_says_the_same(family: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its decoder runs the way for encoders' lengths between those that were shown, with a mask, and without."""
    calls = spied(monkeypatch, untouched)
    shown = [prompt(rows, length, padded=rows > 1) for length in (4, 8)]
    between = [prompt(rows, 6, padded=rows > 1)]
    hold_to_the_original(encoder_decoder(family).eval(), "compile dynamic", calls, shown, between)


def test_an_encoder_s_length_beyond_those_shown_is_the_originals(monkeypatch: pytest.MonkeyPatch) -> None:
    """A longer text in the encoder alone: the decoder's calls look as those that were shown but for its states."""
    calls = spied(monkeypatch, untouched)
    model: Any = encoder_decoder("t5").eval()
    shown = [prompt(1, length, padded=False) for length in (4, 8)]
    said = says(model, prompt(1, 9, padded=False))
    seen = [call for each in shown for call in calls_in(model, partial(says, model, each))]
    kernelize_model(model, profile=profile_of(model, "compile", calls=list(dict.fromkeys(seen))))
    assert torch.equal(says(model, prompt(1, 9, padded=False)), said)
    assert not calls
    says(model, prompt(1, 8, padded=False))
    assert calls
    restore_model(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_and_the_step_prefill_make_one_position_s_logits(family: str) -> None:
    """For each row of a prompt the last one's alone; a plain call makes all, which is its answer."""
    model: Any = tiny(family, num_hidden_layers=1)
    made: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda module, args, logits: made.append(logits.shape[1]))
    asked = prompt(3, 8, padded=True)
    says(model, asked)
    assert made == [1] * TOKENS
    prefill, *_ = make_steps(model, {"input_ids": asked["input_ids"]}, Mode.INFERENCE, "cpu")
    made.clear()
    prefill.run(model)
    assert (prefill.label, made) == ("prefill 3x8", [1])
    with torch.no_grad():
        model(**asked)
    assert made == [1, 8]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_compiled_every_way_says_the_same(family: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row and three, with a mask, padded on the left, and without, by inductor."""
    calls = spied(monkeypatch, inductor.compile_fx)
    between = [prompt(rows, 6, padded=padded) for rows in (1, 3) for padded in (False, True)]
    hold_to_the_original(tiny(family), way, calls, ALL, between)
