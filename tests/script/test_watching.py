"""Watching a part of a script: what is found, and that nothing of it is touched."""

from __future__ import annotations

import gc
import os
import sys
import threading
import weakref
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from tests.capture.tiny_models import tiny
from tests.zoo.quick import SETTINGS, Quick
from twinkle_tune import watching
from twinkle_tune.errors import CaptureError, ModelError
from twinkle_tune.mode import Mode

PLAIN_CALL, PLAIN_REGISTER = nn.Module.__call__, nn.Module.register_parameter


class Counted(nn.Module):
    """Two layers, and how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)
        self.called = 0

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        """(rows, 4) to (rows, 2)."""
        self.called += 1
        return self.second(checkpoint(self.first, x, use_reentrant=False) * scale)  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def torch_is_as_it_was() -> Any:
    """Whatever a test does, torch's classes are their own afterwards."""
    yield
    assert nn.Module.__call__ is PLAIN_CALL
    assert nn.Module.register_parameter is PLAIN_REGISTER


def test_forms_counts_and_states() -> None:
    """Calls that look alike are one form; grad mode, train flag and autocast are told; the optimizer is found."""
    model = Counted()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    with watching(model) as watched:
        for rows in (3, 3, 5):
            nn.MSELoss()(model(torch.randn(rows, 4)), torch.zeros(rows, 2)).backward()
            optimizer.step()
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            model.eval()(torch.randn(3, 4), scale=2.0)
    (seen,) = watched.recording.models
    assert (seen.name, seen.total, seen.mode, seen.optimizer) == ("Counted", 4, Mode.TRAIN, "SGD")
    assert [(c.count, c.trains, c.autocast) for c in seen.calls] == [
        (2, True, ""),
        (1, True, ""),
        (1, False, "bfloat16"),
    ]
    assert model.called == 4
    assert "float32[3,4], autocast bfloat16" in str(watched)
    assert watched.recording._repr_html_().count("<tr>") == 4
    made = watched._watch.pairs()[0][2]
    assert made is not None
    assert made(model.parameters()).defaults["momentum"] == 0.5


def test_nothing_of_the_script_is_touched() -> None:
    """No random number is drawn, no hook set, no gradient and no version of a tensor is another than without it."""

    def steps() -> tuple[Any, ...]:
        torch.manual_seed(3)
        model = Counted()
        x = torch.randn(3, 4, requires_grad=True)
        for _ in range(3):
            model(x).sum().backward()
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()]
        attributes = [sorted(vars(module)) for module in model.modules()]
        return torch.rand(1), x.grad, [p.grad for p in model.parameters()], x._version, hooks, attributes, model.called

    plain = steps()
    with watching(SimpleNamespace(other=nn.Linear(1, 1)), calls=2):
        watched = steps()
    assert str(plain) == str(watched)


def test_a_model_is_not_kept_alive() -> None:
    """What was watched is freed as soon as the script lets go of it."""
    model = nn.Linear(4, 4)
    gone = weakref.ref(model)
    with watching(model) as watched:
        model(torch.randn(2, 4))
        gc.disable()
        try:
            del model
            assert gone() is None
        finally:
            gc.enable()
    assert watched.recording.models[0].total == 1


def test_a_pipeline_and_parts_of_a_model() -> None:
    """The modules of what is no module itself are named as it names them; parts of a model are none by themselves."""
    pipeline = SimpleNamespace(unet=Counted(), scheduler=object(), text=nn.Linear(2, 2))
    with watching(pipeline) as watched:
        pipeline.unet.first(torch.randn(1, 4))  # a part first, the whole after it
        pipeline.unet(torch.randn(1, 4))
        pipeline.unet.second(torch.randn(1, 4))
        pipeline.text(torch.randn(1, 2))
        Counted()(torch.randn(1, 4))  # none of the pipeline's
    assert [(m.path, m.name, m.total) for m in watched.recording.models] == [
        ("unet", "Counted", 1),
        ("text", "Linear", 1),
    ]


def test_wrappers_and_compiled_models() -> None:
    """Behind torch.compile and its like is the model; compiled while it is watched, it is compiled once."""
    model, compiled = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), 0

    def backend(graph: Any, inputs: Any) -> Any:
        nonlocal compiled
        compiled += 1
        return graph.forward

    torch._dynamo.reset()
    fast: Any = torch.compile(model, backend=backend, fullgraph=True)
    with watching(model, calls=2) as watched:
        for _ in range(2):
            fast(torch.randn(2, 4))
    (seen,) = watched.recording.models
    assert (seen.name, seen.total) == ("Sequential", 2)
    assert compiled == 1
    fast(torch.randn(2, 4))
    assert compiled <= 2
    torch._dynamo.reset()


def test_what_is_no_call_of_a_script() -> None:
    """Tracing, exporting, counting op by op and running for shapes alone are none, and get what they got."""
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.randn(2, 4)
    plain = str(torch.fx.symbolic_trace(model).graph)
    with watching(model) as watched:
        assert str(torch.fx.symbolic_trace(model).graph) == plain
        torch.export.export(model, (x,))
        torch.jit.trace(model, x, check_trace=False)  # type: ignore[no-untyped-call]
        torch.func.vmap(model)(x)
        with FlopCounterMode(display=False) as counter:
            model(x)
        with FakeTensorMode(allow_non_fake_inputs=True):
            model(torch.empty(2, 4))
    assert watched.recording.models == ()
    assert counter.get_total_flops() == 2 * (2 * 4 * 4 + 2 * 4 * 2)


def test_behind_ddp_is_the_model(tmp_path: Path) -> None:
    """A model that DDP wraps is recorded as itself."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)  # type: ignore[attr-defined]
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = nn.Linear(4, 2)
        wrapped = nn.parallel.DistributedDataParallel(model)
        with watching(model) as watched:
            wrapped(torch.randn(2, 4)).sum().backward()
        ((core, seen, _),) = watched._watch.pairs()
        assert core is model
        assert (seen.name, seen.total, seen.mode) == ("Linear", 1, Mode.TRAIN)
    finally:
        torch.distributed.destroy_process_group()


def test_a_growing_cache_is_one_prompt() -> None:
    """Generation is recorded as a prompt, whose begun cache is left out, and calls that go on with a cache."""
    model: Any = tiny("llama")
    with watching(model) as watched:
        model.generate(torch.randint(3, 60, (2, 8)), max_new_tokens=4, do_sample=False)
    (seen,) = watched.recording.models
    (prompt,) = seen.of_its_mode
    assert dict(prompt.workload.kwargs).keys() <= {"input_ids", "attention_mask"}
    assert sum(c.count for c in seen.calls if c.continues) == 3


def test_recording_stops_and_begins_again_with_a_new_model() -> None:
    """After so many calls torch is as it was; a model that is built later is found all the same."""
    first = Counted()
    with watching(SimpleNamespace(first=first), calls=3) as watched:
        for _ in range(5):
            first(torch.randn(1, 4))
        assert nn.Module.__call__ is PLAIN_CALL
        nn.ReLU()  # no weights, no news
        assert nn.Module.__call__ is PLAIN_CALL
        Counted()
        assert nn.Module.__call__ is not PLAIN_CALL
    assert watched.recording.models[0].total == 3


def test_a_step_after_the_recorded_ones() -> None:
    """It runs one function of ours: the one that is told of each step of an optimizer."""
    model = Counted()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step() -> None:
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()

    def looks(frame: FrameType, event: str, arg: object) -> None:
        if event == "call" and f"twinkle_tune{os.sep}script" in frame.f_code.co_filename:
            ours.append(frame.f_code.co_name)

    counted: list[list[str]] = []
    with watching(model, calls=2):
        for _ in range(4):
            ours: list[str] = []
            sys.setprofile(looks)
            step()
            sys.setprofile(None)
            counted.append([name for name in ours if name != "<genexpr>"])
    assert len(counted[0]) > 10
    assert counted[2] == counted[3] == ["_stepped"]


def test_threads_and_errors() -> None:
    """A model that raises is watched on, and other threads' calls are outermost by themselves."""
    model = Counted()
    with watching(model) as watched:
        with pytest.raises(RuntimeError):
            model(torch.randn(1, 7))
        others = [threading.Thread(target=model, args=(torch.randn(1, 4),)) for _ in range(3)]
        for thread in others:
            thread.start()
        for thread in others:
            thread.join()
    assert watched.recording.models[0].total == 4


def test_what_cannot_be_described_is_not_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error while a call is described ends the watching, not the call; who asks then is told."""
    monkeypatch.setattr("twinkle_tune.script.watch.observe", lambda *args: 1 / 0)
    model = Counted()
    with watching(model) as watched:
        assert model(torch.randn(2, 4)).shape == (2, 2)
        assert nn.Module.__call__ is PLAIN_CALL
    with pytest.raises(ModelError, match="division by zero"):
        watched.tune()


def test_tuning_what_was_seen() -> None:
    """The profile is of the calls: their sizes, mode and autocast, and the inputs lie within what was seen."""
    model: Any = tiny("llama")
    taken: list[Any] = []
    with watching(model) as watched:
        ids = torch.randint(5, 9, (2, 6))
        labels = ids.masked_fill(ids == 5, -100)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model.train()(input_ids=ids, labels=labels).loss.backward()
    model.register_forward_pre_hook(lambda m, args, kwargs: taken.append(kwargs), with_kwargs=True)
    profile = watched.tune(candidates="torch", settings=SETTINGS, executor=Quick(), optimizer=False, budget_s=60)
    assert profile.mode is Mode.TRAIN
    assert {c.workload.context.autocast for c in profile.contests if c.slot.kind == "layer"} == {"bfloat16"}
    assert taken[0]["input_ids"].shape == (2, 6)
    assert set(taken[0]["input_ids"].flatten().tolist()) <= set(range(5, 9))
    assert taken[0]["labels"].min() == -100


def test_real_inputs_are_kept_on_request() -> None:
    """What cannot be made of a form is an error that says so; kept, it is what was given."""

    class Held:
        """An argument that is known by its class alone."""

    class Odd(nn.Linear):
        def forward(self, input: Tensor, held: Held | None = None) -> Tensor:
            """(rows, 4) to (rows, 4)."""
            return super().forward(input)

    model, x = Odd(4, 4).eval(), torch.randn(3, 4)
    with watching(model) as made, torch.no_grad():
        model(x, held=Held())
    with pytest.raises(CaptureError, match=r"held was a .*Held.* keep real inputs"):
        made.tune()
    with watching(model, keep_inputs=True) as kept, torch.no_grad():
        model(x, held=Held())
        x.zero_()
    (calls,) = kept.recording.models[0].calls
    assert calls.kept is not None
    assert calls.kept.kwargs["input"].abs().sum() > 0


def test_refused() -> None:
    """What holds no module, or none that was called, is refused with what to do."""
    with pytest.raises(ModelError, match="got a PosixPath that holds no module"), watching(Path()):
        pass
    with watching(Counted()) as watched:
        pass
    with pytest.raises(ModelError, match="got 0 models that were called"):
        watched.tune()
