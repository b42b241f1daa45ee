"""A call that is as the one before it runs as that did, without being asked in full; any other call is asked."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.kernel.embedded import ROWS, Embedded
from twinkle_tune.kernel import setups
from twinkle_tune.kernel.going import Case
from twinkle_tune.kernel.setup_calls import Asked, are_between, call_of, forms_of
from twinkle_tune.kernel.setups import Root


class Reader(Embedded):
    """Looks like a language model, and answers who ran it."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, use_cache: bool | None = None) -> str:
        """The original."""
        return "original"


def prompt(length: int = 8, *, rows: int = 1, value: int = 0, **more: Any) -> dict[str, Any]:
    """A prompt."""
    return {"input_ids": torch.full((rows, length), value), "use_cache": True} | more


def rooted(model: nn.Module) -> Root:
    """A root with a way for prompts of 8 to 16 tokens, one for those with a mask, one for two rows."""
    shown = {
        "alone": [prompt(8), prompt(16)],
        "masked": [prompt(8, attention_mask=torch.ones(1, 8))],
        "two": [prompt(8, rows=2)],
    }
    with torch.no_grad():
        forms = {way: list(forms_of([call_of(model, (), given) for given in calls])) for way, calls in shown.items()}
    cases = [
        Case(call=lambda *_, way=way, **__: way, way=way, steps_aside=False, form=form)
        for way, own in forms.items()
        for form in own
    ]
    return Root(model, cases, falls_back=True)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each call that is asked in full."""
    found: list[int] = []

    class Counted(Asked):
        def __init__(self, *given: Any) -> None:
            found.append(1)
            super().__init__(*given)

    monkeypatch.setattr(setups, "Asked", Counted)
    return found


NEXT: dict[str, tuple[dict[str, Any], bool]] = {
    "the same": (prompt(), True),
    "other values": (prompt(value=ROWS - 1), True),
    "longer": (prompt(9), False),
    "too long": (prompt(17), False),
    "two rows": (prompt(rows=2), False),
    "three rows": (prompt(rows=3), False),
    "a mask": (prompt(attention_mask=torch.ones(1, 8)), False),
    "another plain value": (prompt(use_cache=False), False),
    "a number for a flag": (prompt(use_cache=1), False),
    "another dtype": (prompt(input_ids=torch.zeros(1, 8, dtype=torch.int32)), False),
    "no tensor": (prompt(input_ids=[[0] * 8]), False),
    "another kind of tensor": (prompt(input_ids=nn.Parameter(torch.zeros(1, 8))), False),
    "an index beyond the vocabulary": (prompt(value=ROWS), False),
    "an index below it": (prompt(value=-1), False),
    "in another order": (dict(reversed(prompt().items())), False),
}


@pytest.mark.parametrize("call", NEXT)
def test_what_differs_in_more_than_values_is_asked(call: str, asked: list[int]) -> None:
    """It runs as it does in a model that was never called before; and the call after it, too."""
    model, (given, is_again) = Reader().eval(), NEXT[call]
    root = rooted(model)
    with torch.no_grad():
        expected = rooted(model)(model, **given)
        assert root(model, **prompt()) == "alone"
        asked.clear()
        assert root(model, **given) == expected
        assert len(asked) == (not is_again)
        assert root(model, **prompt()) == "alone"


def test_by_position_is_another_call(asked: list[int]) -> None:
    """Which is known as well when it comes again."""
    model = Reader().eval()
    root, ids = rooted(model), torch.zeros(1, 8, dtype=torch.int64)
    with torch.no_grad():
        for expected in (1, 1):
            assert root(model, ids, None, True) == "alone"
            assert len(asked) == expected
        assert root(model, ids, use_cache=True) == "alone"
        assert root(model, torch.full((1, 8), ROWS), use_cache=True) == "original"


CHANGES: dict[str, Callable[[Reader], object]] = {
    "training": lambda model: model.train(),
    "a hook": lambda model: model.layers[1].register_forward_hook(lambda *args: None),
    "a class's forward": lambda model: setattr(type(model.layers[2]), "forward", lambda self, x: x),
    "weights of another dtype": lambda model: model.double(),
    "a block was exchanged": lambda model: setattr(model.layers, "1", nn.Identity()),
    "a block more": lambda model: model.layers.append(nn.Identity()),
}
STATES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "gradients": torch.enable_grad,
    "forward-mode derivatives": torch.autograd.forward_ad.dual_level,
    "autocast": lambda: torch.autocast("cpu"),
}


@pytest.mark.parametrize("what", [*CHANGES, *STATES])
def test_what_changed_is_seen_at_once(what: str) -> None:
    """Of the model or of the process."""
    model = Reader().eval()
    root = rooted(model)
    with torch.no_grad():
        assert root(model, **prompt()) == "alone"
        if what in CHANGES:
            CHANGES[what](model)
        with STATES.get(what, nullcontext)():
            assert root(model, **prompt()) == "original"


def test_under_a_transform_the_original_runs() -> None:
    """Compiled code takes no tensors of one."""
    model = Reader().eval()
    root = rooted(model)
    found: list[str] = []

    def asks(x: Tensor) -> Tensor:
        found.append(root(model, **prompt()))
        return x

    with torch.no_grad():
        assert root(model, **prompt()) == "alone"
        torch.func.vmap(asks)(torch.zeros(2))
    assert found == ["original"]


def test_weights_that_want_gradients_are_seen(asked: list[int]) -> None:
    """With gradients on that nobody wants a call is as one without: as long as nobody wants any."""
    model = Reader().eval().requires_grad_(False)
    root = rooted(model)
    for _ in range(2):
        assert root(model, **prompt()) == "alone"
    assert len(asked) == 2
    model.requires_grad_(True)
    assert root(model, **prompt()) == "original"


def test_another_model_is_asked_by_itself() -> None:
    """A copy shares the root."""
    model, other = Reader().eval(), Reader().eval()
    root = rooted(model)
    other.layers[0].register_forward_hook(lambda *args: None)
    with torch.no_grad():
        assert [root(each, **prompt()) for each in (model, other, model)] == ["alone", "original", "alone"]


@pytest.mark.parametrize("writes", [True, False])
def test_a_call_that_fails_is_begun_again_where_nothing_was_written(*, writes: bool) -> None:
    """Else its error is raised; the way is not taken again either way."""
    model, is_bad = Reader().eval(), [False]

    def run(model: nn.Module, input_ids: Tensor, **given: Any) -> str:
        if is_bad[0]:
            if writes:
                input_ids.add_(1)
            raise RuntimeError("it failed")
        return "alone"

    with torch.no_grad():
        (form,) = forms_of([call_of(model, (), prompt())])
    root = Root(model, [Case(call=run, way="alone", steps_aside=False, form=form)], falls_back=True)
    with torch.no_grad():
        assert root(model, **prompt()) == "alone"
        is_bad[0] = True
        if writes:
            with pytest.raises(RuntimeError, match="it failed"):
                root(model, **prompt())
        else:
            with pytest.warns(UserWarning, match="it failed"):
                assert root(model, **prompt()) == "original"
        is_bad[0] = False
        assert root(model, **prompt()) == "original"


def test_what_was_exchanged_is_not_held() -> None:
    """A block's weights are freed at once, also where they know it; put back before that, the model is as it was."""
    model = Reader().eval()
    block = model.layers[1] = nn.Sequential(nn.Linear(4, 4))
    object.__setattr__(block[0], "parent", block)
    root = rooted(model)
    with torch.no_grad():
        for exchanged in (False, True, False):
            model.layers[1] = nn.Identity() if exchanged else block
            assert root(model, **prompt()) == ("original" if exchanged else "alone")
    model.layers[1], held = nn.Identity(), weakref.ref(block[0])
    del block
    gc.collect()
    assert held() is None


def test_a_layer_that_was_taken_out_and_put_back_runs_as_before() -> None:
    """Taking one out gives the list another dictionary."""
    model = Reader().eval()
    root = rooted(model)
    with torch.no_grad():
        assert root(model, **prompt()) == "alone"
        layer = model.layers.pop(-1)
        assert root(model, **prompt()) == "original"
        model.layers.append(layer)
        assert root(model, **prompt()) == "alone"


def test_a_call_that_gives_a_name_twice_fails_as_it_does_by_itself() -> None:
    """As often as it is made; the way stays."""
    model = Reader().eval()
    root, ids = rooted(model), torch.zeros(1, 8, dtype=torch.int64)
    with torch.no_grad():
        for _ in range(3):
            with pytest.raises(TypeError, match="multiple values"):
                _run_as(root, model, ids)
    assert not root.broken


def _run_as(root: Root, model: Reader, ids: Tensor) -> None:
    """A call whose way takes the forward's parameters."""
    case = root._cases[0]
    root._cases = [replace(case, call=lambda model, input_ids, use_cache=None: "alone")]
    root(model, ids, input_ids=ids, use_cache=True)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
@pytest.mark.parametrize("is_first", [True, False])
def test_what_is_no_dense_tensor_is_another_call(dtype: torch.dtype, *, is_first: bool) -> None:
    """A nested one has no shape to compare, of a sparse one nobody can say whether its indices are right."""
    model = Reader().eval()
    root = rooted(model)
    parts = [torch.zeros(2, dtype=dtype), torch.zeros(3, dtype=dtype)]
    with torch.no_grad():
        for given in (torch.nested.nested_tensor(parts), torch.zeros(1, 8, dtype=dtype).to_sparse()):
            if not is_first:
                assert root(model, **prompt()) == "alone"
            assert root(model, **prompt(input_ids=given)) == "original"


def test_where_another_way_won_with_gradients_each_call_is_asked(asked: list[int]) -> None:
    """Which of both a call is for depends on what the weights want."""
    model = Reader().eval()
    root = rooted(model)
    (form,) = forms_of([call_of(model, (), prompt())])  # with gradients
    way = "with gradients"
    root._cases = [*root._cases, replace(root._cases[0], way=way, call=lambda *_, **__: way, form=form)]
    for _ in range(2):
        assert root(model, **prompt()) == way
    assert len(asked) == 2
    model.requires_grad_(False)
    assert root(model, **prompt()) == "original"


@pytest.mark.parametrize("shape", [(1, 8), (3, 8), (1, 600), (8,), (2, 2, 2), (0, 8)])
@pytest.mark.parametrize(("value", "is_right"), [(0, True), (ROWS - 1, True), (-1, False), (ROWS, False)])
def test_indices_are_between(shape: tuple[int, ...], value: int, *, is_right: bool) -> None:
    """Wherever the one is that is not, of few and of many; of none all are."""
    for place in (0, -1):
        indices = torch.zeros(shape, dtype=torch.int64)
        if not indices.numel():
            assert are_between(indices, 0, ROWS)
            continue
        indices.view(-1)[place] = value
        assert are_between(indices, 0, ROWS) is is_right
