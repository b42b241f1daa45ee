"""A way of running the whole model runs for the calls for which it was shown, and for no others."""

from __future__ import annotations

import gc
import inspect
import threading
import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.catalog.catalog_families import tiny
from tests.report import fabricate
from tests.strategy.planted import Layer, Layers, compiled_by
from tests.today import by_day
from twinkle_tune import kernelize_model, kernelize_report, load_profile, restore_model
from twinkle_tune.environment import current_environment
from twinkle_tune.errors import StaleProfileError
from twinkle_tune.kernel.setup_calls import call_of
from twinkle_tune.kernel.setups import digest_of_model
from twinkle_tune.mode import Mode
from twinkle_tune.profile.schema import Profile
from twinkle_tune.profile.setup import ModelCall, Setup
from twinkle_tune.workload import target_of

pytestmark = pytest.mark.usefixtures("compiled_anew")

WAYS = ("compile", "compile dynamic", "compile blocks")


def profile_of(
    model: nn.Module, way: str, *given: tuple[tuple[Any, ...], dict[str, Any]], calls: Sequence[ModelCall] = ()
) -> Profile:
    """A profile in which a way won with gradients off, shown for some calls of (args, kwargs) or for described ones."""
    with torch.no_grad():
        shown = (*calls, *(call_of(model, args, kwargs) for args, kwargs in given))
    normal = fabricate.normal()
    setup = Setup(label="forward", way=way, calls=shown, model=digest_of_model(model))
    return replace(
        normal,
        model=replace(normal.model, target=target_of(type(model))),
        contests=(),
        steps=(),
        setups=(setup,),
        mode=Mode.INFERENCE,
        device="cpu",
        environment=current_environment("cpu"),
    )


def x(rows: int = 4, dtype: torch.dtype = torch.float32) -> Tensor:
    """Inputs of a model of blocks."""
    return torch.randn(rows, 8, dtype=dtype)


@pytest.mark.parametrize("way", WAYS)
def test_it_is_bound_told_and_undone(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's signature stays, its report names the way, and restored it is the original to the bit."""
    graphs = compiled_by(monkeypatch)
    model = Layers().eval()
    given, signature = x(), inspect.signature(model.forward)
    with torch.no_grad():
        before = model(given)
        kernelize_model(model, profile=profile_of(model, way, ((given,), {})))
        torch.testing.assert_close(model(given), before)
        torch.testing.assert_close(model(x=given), before)
    assert graphs
    assert inspect.signature(model.forward) == signature
    report = kernelize_report(model)
    assert str(report).startswith(f"bound  Model: {way} (rows: forward)")
    restore_model(model)
    with torch.no_grad():
        assert torch.equal(model(given), before)
    assert kernelize_report(model).bound == ()


def exchanged(model: Any, inner: nn.Module) -> Any:
    """The model with something else in a block."""
    model.layers[1].inner = inner
    return model


def keeps(model: Layers) -> dict[str, Callable[[], object]]:
    """Calls for which nothing was shown, by what is other about them."""
    return {
        "batch": lambda: model(x(5)),
        "dtype": lambda: model.double()(x(dtype=torch.float64)),
        "argument": lambda: model(x(), scale=2.0),
        "training": lambda: model.train()(x()),
        "autocast": lambda: torch.autocast("cpu")(model)(x()),
        "gradients": lambda: torch.enable_grad()(model)(x()),
        "hook": lambda: (model.layers[1].register_forward_hook(lambda *args: None), model(x())),
        "exchanged": lambda: exchanged(model, nn.Sequential(nn.Linear(8, 8)))(x()),
    }


@pytest.mark.parametrize("other", keeps(Layers()))
@pytest.mark.parametrize("way", WAYS)
def test_all_else_runs_the_original(way: str, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was not there when the way was timed: nothing is compiled for such a call."""
    graphs = compiled_by(monkeypatch)
    model = Layers().eval()
    kernelize_model(model, profile=profile_of(model, way, ((x(),), {})))
    with torch.no_grad():
        keeps(model)[other]()
    assert not graphs


def test_between_the_sizes_that_were_shown_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengths between the least and the largest, batches that were shown alone."""
    graphs = compiled_by(monkeypatch)
    model: Any = tiny("llama", num_hidden_layers=1)
    ids = torch.randint(3, 60, (2, 16))
    calls = [((), {"input_ids": ids[:1, :length], "use_cache": False}) for length in (4, 16)]
    with torch.no_grad():
        kernelize_model(model, profile=profile_of(model, "compile dynamic", *calls))
        for rows, length, runs in ((1, 9, True), (2, 9, False), (1, 3, False), (1, 4, True)):
            before = len(graphs)
            model(input_ids=ids[:rows, :length], use_cache=False)
            assert (len(graphs) > 0) is (runs or before > 0)
            assert runs or len(graphs) == before


def calls_in(model: nn.Module, run: Callable[[], object]) -> list[ModelCall]:
    """The model's calls while something runs."""
    seen: list[ModelCall] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(call_of(module, args, kwargs))

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    run()
    handle.remove()
    return seen


@pytest.mark.parametrize("way", by_day(WAYS, 3))
def test_generation_says_the_same(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Token for token, with and without a mask that pads on the left; beyond the cache that was shown it is eager."""
    graphs = compiled_by(monkeypatch)
    model: Any = tiny("llama")
    ids = torch.randint(3, 60, (3, 8))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0

    def said(tokens: int, **more: Any) -> Tensor:
        text: Tensor = model.generate(ids, max_new_tokens=tokens, do_sample=False, **more)
        return text

    asked: list[dict[str, Any]] = [{}, {"attention_mask": mask}]
    plain = [said(12, **more) for more in asked]
    calls = [call for more in asked for call in calls_in(model, lambda m=more: said(6, **m))]  # type: ignore[misc]
    kernelize_model(model, profile=profile_of(model, way, calls=calls))
    for more, text in zip(asked, plain, strict=True):
        assert torch.equal(said(12, **more), text)
    made = len(graphs)
    assert made
    with torch.no_grad():
        cache = model(ids, use_cache=True).past_key_values
        model(ids[:, :1], past_key_values=cache)
        for _ in range(12):
            model(ids[:, :1], past_key_values=cache)
    assert len(graphs) <= made + 4  # the first ones without position_ids, each once a block at most


@pytest.mark.parametrize("way", by_day(WAYS, 3))
@pytest.mark.parametrize("reentrant", [True, False])
def test_training_under_checkpointing_is_the_originals(
    way: str, reentrant: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpointing that is turned on later: loss and gradients are those of the original."""
    graphs = compiled_by(monkeypatch)
    model, twin = (tiny("llama").train() for _ in range(2))
    ids = torch.randint(3, 60, (2, 8))
    given = {"input_ids": ids, "labels": ids, "use_cache": False}

    def trained(model: Any) -> tuple[Tensor, list[Tensor]]:
        model.zero_grad()
        loss = model(**given).loss
        loss.backward()
        return loss.detach(), [p.grad.clone() for p in model.parameters()]

    profile = profile_of(model, way, calls=[call_of(model, (), given)])
    kernelize_model(model, profile=replace(profile, mode=Mode.TRAIN))
    for checkpointed in (False, True):
        if checkpointed:
            for each in (model, twin):
                each.gradient_checkpointing_enable({"use_reentrant": reentrant})  # type: ignore[operator]
        loss, gradients = trained(twin)
        again, others = trained(model)
        assert graphs
        torch.testing.assert_close(again, loss)
        for one, other in zip(gradients, others, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_a_user_who_compiles_the_model_compiles_the_original(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One compiler is enough: the way steps aside."""
    graphs = compiled_by(monkeypatch)
    model, given = Layers().eval(), x()
    with torch.no_grad():
        before = model(given)
        kernelize_model(model, profile=profile_of(model, way, ((given,), {})))
        torch.testing.assert_close(torch.compile(model, backend="eager")(given), before)
    assert not graphs


def test_a_model_that_cannot_be_compiled_runs_its_original(monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers, warns once, and the report says that nothing runs compiled; later calls do not try again.

    Tried is the code called from C++, and called from Python.
    """
    tries = []

    def refuses(graph: object) -> Callable[..., Any]:
        tries.append(graph)
        raise RuntimeError("no compiler found")

    compiled_by(monkeypatch, refuses)
    model, given = Layers().eval(), x()
    with torch.no_grad():
        before = model(given)
        kernelize_model(model, profile=profile_of(model, "compile", ((given,), {})))
        with pytest.warns(UserWarning, match=r"compile: the model could not be compiled \(.*no compiler found"):
            assert torch.equal(model(given), before)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(model(given), before)
    assert len(tries) == 2
    report = kernelize_report(model)
    assert report.bound == ()
    assert "no compiler found): the original runs" in str(report)


@pytest.mark.parametrize("way", by_day(WAYS, 3))
def test_a_backward_may_do_what_the_originals_may(way: str) -> None:
    """Twice over a retained graph, and to be differentiated itself: as the original does, from real compiled code."""
    model, twin = Layers(2), Layers(2)
    twin.load_state_dict(model.state_dict())
    given = x().requires_grad_()
    profile = profile_of(model, way, calls=[call_of(model, (given,), {})])
    kernelize_model(model, profile=replace(profile, mode=Mode.TRAIN))

    def trained(model: Layers) -> Tensor:
        loss = model(given).square().sum()
        for keeps in (True, False):
            torch.autograd.backward(loss, retain_graph=keeps)
        (slope,) = torch.autograd.grad(model(given).square().sum(), given, create_graph=True)
        torch.autograd.backward(slope.square().sum())
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    torch.testing.assert_close(trained(model), trained(twin), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bad", [-1, 64])
def test_an_index_beyond_the_vocabulary_is_the_originals_error(bad: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled code would end the process."""
    compiled_by(monkeypatch)
    model, ids = tiny("llama", num_hidden_layers=1), torch.randint(3, 60, (1, 8))
    kernelize_model(model, profile=profile_of(model, "compile", ((), {"input_ids": ids})))
    wrong = ids.clone()
    wrong[0, 5] = bad
    with torch.no_grad():
        model(input_ids=ids)
        with pytest.raises(IndexError, match="index out of range"):
            model(input_ids=wrong)


def test_a_users_mistake_does_not_disable_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the original raises too is the call's fault: the next right call runs compiled."""
    graphs = compiled_by(monkeypatch)

    class Two(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a * 2 + b

    model = Two().eval()
    shown: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((torch.randn(1, rows), torch.randn(1, rows)), {}) for rows in (4, 16)
    ]
    kernelize_model(model, profile=profile_of(model, "compile dynamic", *shown))
    with torch.no_grad():
        with pytest.raises(RuntimeError, match="size of tensor a"):
            model(torch.randn(1, 9), torch.randn(1, 7))
        model(torch.randn(1, 9), torch.randn(1, 9))
    assert graphs
    assert kernelize_report(model).bound


def test_on_the_meta_device_the_original_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked there that it cannot answer."""
    graphs = compiled_by(monkeypatch)
    model = Layers().eval()
    kernelize_model(model, profile=profile_of(model, "compile", ((x(),), {})))
    with torch.no_grad():
        assert model.to("meta")(x().to("meta")).device.type == "meta"
    assert not graphs


def test_a_forward_that_a_class_gets_later_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the model's class, and of one inside: compiled code is of the older one."""
    compiled_by(monkeypatch)
    model, given = Layers().eval(), x()
    kernelize_model(model, profile=profile_of(model, "compile", ((given,), {})))
    with torch.no_grad():
        model(given)
        with monkeypatch.context() as patched:
            patched.setattr(Layer, "forward", lambda self, x: x)
            assert torch.equal(model(given), given)
        with monkeypatch.context() as patched:
            patched.setattr(Layers, "forward", lambda self, x, scale=1.0: x + 1)
            assert torch.equal(model(given), given + 1)
            other = x(5)  # for which the way never ran
            assert torch.equal(model(other), other + 1)


def test_a_block_that_was_exchanged_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is watched is held by nobody."""
    compiled_by(monkeypatch)
    model = Layers().eval()
    kernelize_model(model, profile=profile_of(model, "compile", ((x(),), {})))
    weight = weakref.ref(model.layers[3].inner[0].weight)  # type: ignore[index,union-attr]
    model.layers[3] = nn.Identity()
    gc.collect()
    assert weight() is None


def test_a_hook_for_all_modules_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """As often as by the original."""
    graphs, heard = compiled_by(monkeypatch), []
    model, given = Layers().eval(), x()
    kernelize_model(model, profile=profile_of(model, "compile", ((given,), {})))
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *args: heard.append(1))
    try:
        with torch.no_grad():
            model(given)
    finally:
        handle.remove()
    assert len(heard) == sum(1 for _ in model.modules()) - 1  # the list of layers is not called
    assert not graphs


def test_errors_of_the_model_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the model raises on a bad call it raises as without the way, and the way stays."""
    compiled_by(monkeypatch)
    model, given = Layers().eval(), x()
    kernelize_model(model, profile=profile_of(model, "compile", ((given,), {})))
    with torch.no_grad():
        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            model(torch.randn(4, 9))
        model(given)
    assert kernelize_report(model).bound


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda model: setattr(model.layers[0], "inner", nn.Sequential(nn.Linear(8, 8), nn.Identity())),
            "changed since",
        ),
        (lambda model: model.layers[0].register_forward_hook(lambda *args: None), "layers.0 has hooks"),
        (lambda model: setattr(model.layers[0], "forward", lambda x: x), "forward of layers.0 was replaced"),
    ],
    ids=["layers", "hook", "forward"],
)
def test_another_model_keeps_its_original(change: Callable[[Any], object], told: str) -> None:
    """Other layers, hooks, forwards of others: nothing is bound, and the reason is told or raised."""
    model = Layers().eval()
    profile = profile_of(model, "compile", ((x(),), {}))
    change(model)
    with pytest.warns(UserWarning, match=told):
        kernelize_model(model, profile=profile)
    assert kernelize_report(model).bound == ()
    with pytest.raises(StaleProfileError, match=told):
        kernelize_model(model, profile=profile, use_fallback=False)


def test_an_unknown_way_is_stale() -> None:
    """A profile of a later version may name one that is not here."""
    model = Layers().eval()
    with pytest.warns(UserWarning, match="no way of running a model by the name 'rockets' here"):
        kernelize_model(model, profile=profile_of(model, "rockets", ((x(),), {})))


def test_a_hook_of_later_runs_the_original_and_the_report_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled code would not call it."""
    compiled_by(monkeypatch)
    model, given, heard = Layers().eval(), x(), []
    with torch.no_grad():
        kernelize_model(model, profile=profile_of(model, "compile", ((given,), {})))
        model(given)
        handle = model.layers[3].register_forward_hook(lambda *args: heard.append(1))
        model(given)
        assert heard == [1]
        assert "or has a hook: the original runs" in str(kernelize_report(model))
        handle.remove()
        model(given)
    assert heard == [1]
    assert kernelize_report(model).bound


def test_it_is_saved_and_read(tmp_path: Any) -> None:
    """A profile with a way comes back as it was."""
    profile = profile_of(Layers().eval(), "compile", ((x(),), {}), ((x(8),), {}))
    assert load_profile(profile.save(tmp_path / "p.json")) == profile


@pytest.mark.parametrize("way", WAYS)
def test_a_bound_model_is_freed_at_once(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the cyclic collector: on a GPU that would be memory."""
    compiled_by(monkeypatch)
    model, given = Layers().eval(), x()
    with torch.no_grad():
        kernelize_model(model, profile=profile_of(model, way, ((given,), {})))
        model(given)
    gone = weakref.ref(model)
    gc.collect()
    gc.disable()
    try:
        del model
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("way", WAYS)
def test_threads_get_right_answers_while_it_is_bound_and_undone(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four threads call the model while another binds and restores it."""
    compiled_by(monkeypatch)
    model, given, wrong = Layers().eval(), x(), []
    profile, ends = profile_of(model, way, ((given,), {})), threading.Event()
    with torch.no_grad():
        before = model(given)

    def call() -> None:
        with torch.no_grad():
            while not ends.is_set():
                if not torch.allclose(model(given), before, atol=1e-6):
                    wrong.append(1)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(15):
        kernelize_model(model, profile=profile)
        restore_model(model)
    ends.set()
    for thread in threads:
        thread.join()
    assert not wrong
