"""A way of running the whole model that fails when it is bound: the original answers the call, and all after it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.catalog.catalog_families import tiny
from tests.kernel.test_setups import calls_in, profile_of, x
from tests.strategy.planted import Layers, compiled_by
from twinkle_tune import kernelize_model, kernelize_report
from twinkle_tune.mode import Mode

pytestmark = pytest.mark.usefixtures("compiled_anew")

WAYS = ("compile", "compile dynamic", "compile blocks")


def failing(monkeypatch: pytest.MonkeyPatch, at: int, first: Callable[..., object] = lambda *args: None) -> list[int]:
    """Let compiled graphs raise at one of their calls, counted together; gives the calls. ``first`` runs before it."""
    calls: list[int] = []

    def made(graph: Any) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            calls.append(1)
            if len(calls) == at:
                first(*args)
                raise RuntimeError("planted")
            return graph.forward(*args)

        return run

    compiled_by(monkeypatch, made)
    return calls


@pytest.mark.parametrize("way", WAYS)
def test_a_call_that_fails_is_answered_by_the_original(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fiftieth of sixty: each is right, one warning says why, and the way runs no more."""
    calls = failing(monkeypatch, 50)
    model, given = Layers().eval(), x()
    with torch.no_grad(), warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        before = model(given)
        kernelize_model(model, profile=profile_of(model, way, ((given,), {})))
        for _ in range(60):
            torch.testing.assert_close(model(given), before)
        assert torch.equal(model(given), before)
    (told,) = [str(each.message) for each in heard if issubclass(each.category, UserWarning)]
    assert told == f"{way}: a call of it failed (RuntimeError: planted); the original runs instead"
    assert len(calls) == 50
    report = kernelize_report(model)
    assert [binding for binding in report.bound if not binding.path] == []
    assert "a call of it failed (RuntimeError: planted): the original runs" in str(report)


@pytest.mark.parametrize("way", WAYS)
def test_a_failing_step_of_training_is_the_originals(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients of the call that failed are the original's, each once."""
    failing(monkeypatch, 5 if way == "compile blocks" else 1)
    model, twin, given = Layers(), Layers(), x()
    twin.load_state_dict(model.state_dict())
    profile = profile_of(model, way, calls=calls_in(model, lambda: model(given)))
    kernelize_model(model, profile=replace(profile, mode=Mode.TRAIN))

    def trained(model: Layers) -> list[Tensor | None]:
        model.zero_grad()
        model(given).square().sum().backward()
        return [parameter.grad for parameter in model.parameters()]

    with pytest.warns(UserWarning, match="a call of it failed"):
        first = trained(model)
    torch.testing.assert_close(first, trained(twin))
    torch.testing.assert_close(trained(model), trained(twin))


def test_a_call_whose_input_was_written_to_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be made once more. The error says who runs there, and the next call is the original's."""

    def write(*args: Any) -> None:
        next(arg for arg in args if isinstance(arg, Tensor) and arg.shape == (4, 8)).add_(1)

    calls = failing(monkeypatch, 2, write)
    model, given = Layers().eval(), x()
    kernelize_model(model, profile=profile_of(model, "compile", ((given,), {})))
    with torch.no_grad():
        model(given)
        with pytest.raises(RuntimeError, match="planted") as raised:
            model(given)
        assert any("'compile' is bound in place of the original" in note for note in raised.value.__notes__)
        assert torch.equal(model(given), type(model).forward(model, given))
    assert len(calls) == 2
    assert "a call of it failed" in str(kernelize_report(model))


@pytest.mark.parametrize(("at", "answers"), [(1, True), (2, False)], ids=["first block", "second block"])
def test_a_cache_that_was_begun_is_not_begun_again(at: int, answers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a prompt with a cache: before anything was written into it the original answers, afterwards the error does."""
    model: Any = tiny("llama")
    ids = torch.randint(3, 60, (1, 8))

    def run() -> Any:
        with torch.no_grad():
            return model.generate(ids, max_new_tokens=4, do_sample=False)

    said = run()
    calls = calls_in(model, run)
    failing(monkeypatch, at)
    kernelize_model(model, profile=profile_of(model, "compile blocks", calls=calls))
    if answers:
        with pytest.warns(UserWarning, match="a call of it failed"):
            assert torch.equal(run(), said)
    else:
        with pytest.raises(RuntimeError, match="planted"):
            run()
    assert torch.equal(run(), said)


def test_what_the_original_raises_too_is_no_failure_of_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user hears the original's own error, and the way stays."""
    failing(monkeypatch, 2)
    model, given = Layers().eval(), x()
    kernelize_model(model, profile=profile_of(model, "compile", ((given,), {})))
    with torch.no_grad():
        model(given)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "tanh", lambda x: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                model(given)
        model(given)
    assert kernelize_report(model).bound
