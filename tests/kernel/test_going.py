"""A generation's steps go on in the way that one of them was found to run in, and no other call does."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from tests.kernel.embedded import ROWS, Embedded
from twinkle_tune.kernel import setups
from twinkle_tune.kernel.going import Case
from twinkle_tune.kernel.setup_calls import Asked, call_of, forms_of
from twinkle_tune.kernel.setups import Root


class Decoder(Embedded):
    """Looks like a language model, and answers who ran it."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
    ) -> str:
        """The original."""
        return "original"


def held(length: int, cache: DynamicCache | None = None) -> DynamicCache:
    """A cache that holds so many tokens; one that is given is made longer or shorter."""
    cache = DynamicCache() if cache is None else cache
    missing = length - int(cache.get_seq_length())
    if missing > 0:
        cache.update(torch.zeros(1, 1, missing, 2), torch.zeros(1, 1, missing, 2), 0)
    elif missing < 0:
        cache.crop(missing)
    return cache


def step(length: int, cache: DynamicCache | None = None, **more: Any) -> dict[str, Any]:
    """A step of a generation after so many tokens."""
    given = {
        "input_ids": torch.zeros(1, 1, dtype=torch.int64),
        "attention_mask": torch.ones(1, length + 1, dtype=torch.int64),
        "past_key_values": held(length, cache),
        "use_cache": True,
    }
    return given | more


def cases_of(model: nn.Module) -> list[Case]:
    """A way for steps after 4 to 32 tokens, one for those after 64 to 128, one for prompts of 8 to 16."""
    shown = {
        "decode": [step(4), step(32)],
        "decode long": [step(64), step(128)],
        "prefill": [{"input_ids": torch.zeros(1, length, dtype=torch.int64)} for length in (8, 16)],
    }
    with torch.no_grad():
        return [
            Case(call=lambda *_, way=way, **__: way, way=way, steps_aside=False, form=form)
            for way, calls in shown.items()
            for form in forms_of([call_of(model, (), given) for given in calls])
        ]


def rooted(model: nn.Module) -> Root:
    """A root with the ways of :func:`cases_of`."""
    return Root(model, cases_of(model), falls_back=True)


def ids(*shape: int, value: int = 0) -> Tensor:
    """Indices."""
    return torch.full(shape, value)


NEXT: dict[str, Callable[[DynamicCache | None], dict[str, Any]]] = {
    "the next step": lambda cache: step(9, cache),
    "one much later": lambda cache: step(31, cache),
    "the last that was shown": lambda cache: step(32, cache),
    "between two ways": lambda cache: step(48, cache),
    "where another way won": lambda cache: step(100, cache),
    "beyond all": lambda cache: step(200, cache),
    "the same step": lambda cache: step(8, cache),
    "a step back": lambda cache: step(6, cache),
    "from the beginning": lambda cache: step(0, cache),
    "two rows": lambda cache: step(9, cache, input_ids=ids(2, 1)),
    "two tokens": lambda cache: step(9, cache, input_ids=ids(1, 2)),
    "no token": lambda cache: step(9, cache, input_ids=ids(1, 0)),
    "an index beyond the vocabulary": lambda cache: step(9, cache, input_ids=ids(1, 1, value=ROWS)),
    "an index below it": lambda cache: step(9, cache, input_ids=ids(1, 1, value=-1)),
    "the last index": lambda cache: step(9, cache, input_ids=ids(1, 1, value=ROWS - 1)),
    "another argument": lambda cache: step(9, cache, logits_to_keep=1),
    "none where a tensor was": lambda cache: step(9, cache, attention_mask=None),
    "no indices at all": lambda cache: step(9, cache, input_ids=None),
    "one argument less": lambda cache: {n: v for n, v in step(9, cache).items() if n != "attention_mask"},
    "in another order": lambda cache: dict(reversed(step(9, cache).items())),
}


@pytest.mark.parametrize("goes_on", [True, False], ids=["with its cache", "with another cache"])
@pytest.mark.parametrize("call", NEXT)
def test_the_call_after_a_step_runs_as_if_it_were_the_first(call: str, *, goes_on: bool) -> None:
    """Also the step after that: whatever came between."""
    model = Decoder().eval()
    after, cache = rooted(model), held(8)
    with torch.no_grad():
        assert after(model, **step(8, cache)) == "decode"
        given = NEXT[call](cache if goes_on else None)
        expected = rooted(model)(model, **given)
        assert after(model, **given) == expected
        last = step(given["past_key_values"].get_seq_length() + 1, given["past_key_values"])
        assert after(model, **last) == rooted(model)(model, **last)


def test_by_position_the_call_is_asked_in_full() -> None:
    """Whether the step before was by name or by position."""
    model = Decoder().eval()
    root, cache = rooted(model), held(8)
    with torch.no_grad():
        for length in (8, 9, 48, 10):
            for by_position in (0, 4, 1, 0):
                given = step(length, cache)
                args = [given.pop(name) for name in list(given)[:by_position]]
                assert root(model, *args, **given) == ("original" if length == 48 else "decode")


def _hook(model: Decoder) -> None:
    model.layers[1].register_forward_hook(lambda *args: None)


def _exchange(model: Decoder) -> None:
    model.layers[1] = nn.Identity()


def _another_forward(model: Decoder) -> None:
    type(model.layers[2]).forward = lambda self, x: x


CHANGES: dict[str, Callable[[Decoder], object]] = {
    "training": lambda model: model.train(),
    "a hook": _hook,
    "a class's forward": _another_forward,
    "weights of another dtype": lambda model: model.double(),
    "weights on another device": lambda model: model.to("meta"),
    "a block was exchanged": _exchange,
    "a block more": lambda model: model.layers.append(nn.Identity()),
}
STATES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "gradients": torch.enable_grad,
    "forward-mode derivatives": torch.autograd.forward_ad.dual_level,
    "autocast": lambda: torch.autocast("cpu"),
}
IN_THE_MIDDLE = ("training", "a hook", "a class's forward", "gradients", "forward-mode derivatives")
"""What is seen between two steps of one generation; compiled code's own guards see the rest."""


@pytest.mark.parametrize("what", [*CHANGES, *STATES])
def test_what_changes_is_seen_by_the_next_generation(what: str) -> None:
    """And some of it at the next step."""
    model = Decoder().eval()
    root, cache = rooted(model), held(8)
    with torch.no_grad():
        assert root(model, **step(8, cache)) == "decode"
        if what in CHANGES:
            CHANGES[what](model)
        with STATES.get(what, nullcontext)():
            if what in IN_THE_MIDDLE:
                assert root(model, **step(9, cache)) == "original"
            assert root(model, **step(9)) == "original"


def test_another_model_is_asked_by_itself() -> None:
    """A copy shares the root."""
    model, other = Decoder().eval(), Decoder().eval()
    root, cache = rooted(model), held(8)
    other.layers[0].register_forward_hook(lambda *args: None)
    with torch.no_grad():
        assert root(model, **step(8, cache)) == "decode"
        assert root(other, **step(9, cache)) == "original"
        assert root(model, **step(10, cache)) == "decode"


def test_a_way_that_broke_is_not_gone_on_with() -> None:
    """The original runs from there on; what another way is for, that way."""
    model = Decoder().eval()
    root, cache = rooted(model), held(8)
    with torch.no_grad():
        assert root(model, **step(8, cache)) == "decode"
        root.broken["decode"] = "it broke"
        assert root(model, **step(9, cache)) == "original"
        assert root(model, **step(100, cache)) == "decode long"


def test_a_generation_asks_every_form_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one asks again."""
    asked = []

    class Counted(Asked):
        def __init__(self, *given: Any) -> None:
            asked.append(1)
            super().__init__(*given)

    monkeypatch.setattr(setups, "Asked", Counted)
    model = Decoder().eval()
    root = rooted(model)
    with torch.no_grad():
        for cache in (held(4), held(4)):
            assert {root(model, **step(length, cache)) for length in range(4, 30)} == {"decode"}
    assert len(asked) == 2


def test_a_cache_is_not_held() -> None:
    """What a generation went on with is freed with its last reference, and its successor at the same place is new."""
    model = Decoder().eval()
    root = rooted(model)
    with torch.no_grad():
        given = step(8)
        cache = weakref.ref(given["past_key_values"])
        assert root(model, **given) == "decode"
        del given
        assert cache() is None
        assert root(model, **step(9, input_ids=ids(1, 1, value=ROWS))) == "original"


@pytest.mark.parametrize("written", ["input_ids", "past_key_values", ""])
def test_a_step_that_fails_is_begun_again_where_nothing_was_written(written: str) -> None:
    """Else its error is raised; the way is not taken again either way."""
    model, is_bad, cache = Decoder().eval(), [False], held(8)

    def run(model: nn.Module, **given: Any) -> str:
        if is_bad[0]:
            if written == "input_ids":
                given[written].add_(1)
            elif written:
                held(20, given[written])
            raise RuntimeError("it failed")
        return "decode"

    form = cases_of(model)[0].form
    root = Root(model, [Case(call=run, way="decode", steps_aside=False, form=form)], falls_back=True)
    with torch.no_grad():
        assert root(model, **step(8, cache)) == "decode"
        is_bad[0] = True
        if written:
            with pytest.raises(RuntimeError, match="it failed"):
                root(model, **step(9, cache))
        else:
            with pytest.warns(UserWarning, match="it failed"):
                assert root(model, **step(9, cache)) == "original"
    assert list(root.broken) == ["decode"]
