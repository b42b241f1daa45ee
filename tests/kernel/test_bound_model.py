"""A bound model is the model: what others read of it, what it takes, and when the original runs."""

from __future__ import annotations

import copy
import gc
import inspect
import multiprocessing
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.coexistence.tiny import bind, tiny_llama, tokens
from tests.kernel.toys import Model, Norm, NormedRows, inputs, layer_contest, norms, plus_one, profile, registry
from twinkle_tune import kernelize_model, kernelize_report, restore_model
from twinkle_tune.kernel import Registry, register_external_layer, register_layer_kernel
from twinkle_tune.kernel.kernelize import bind_plan
from twinkle_tune.kernel.plan_profile import plan_profile
from twinkle_tune.profile.schema import Profile

ONE = "impl:plus_one"


class Gated(nn.Module):
    """A layer with more than one parameter of its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, hidden_states: torch.Tensor, scale: float = 1.0, *, residual: Any = None) -> torch.Tensor:
        """Gate times up."""
        out: torch.Tensor = torch.sigmoid(self.gate(hidden_states)) * self.up(hidden_states) * scale
        return out if residual is None else out + residual


class Scaled(nn.Module):
    """A layer without parameters that takes whatever it is given."""

    def forward(self, x: torch.Tensor, **more: Any) -> torch.Tensor:
        """Twice x."""
        return x * 2


def gated_kernel(self: Gated, x: torch.Tensor, by: float = 1.0, *, residual: Any = None) -> torch.Tensor:
    """A kernel with names of its own that shows."""
    return Gated.forward(self, x, by, residual=residual) + 1


def scaled_kernel(self: Scaled, x: torch.Tensor, **more: Any) -> torch.Tensor:
    """A kernel that shows."""
    return x * 2 + 1


LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[..., Any]]] = {
    "norm": (lambda: Norm(8), plus_one),
    "gated": (Gated, gated_kernel),
    "scaled": (Scaled, scaled_kernel),
}


def _bound(name: str, grad: bool = False, **profiled: Any) -> nn.Module:
    """A layer whose kernel won a contest, bound by that profile; without gradients unless they are wanted."""
    make, kernel = LAYERS[name]
    model, known = nn.Sequential(make()), Registry()
    register_external_layer(type(model[0]), "Layer", registry=known)
    register_layer_kernel("Layer", layer_impl=kernel, device="cpu", registry=known)
    winner = known.layer("Layer")[0].name
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=profiled.get("autocast", False)):
        made = profile([layer_contest(model, ("0",), 4, winner, known, slot="Layer", grad=grad)])
    kernelize_model(model, profile=made, registry=known, use_fallback=False)
    layer: nn.Module = model[0]
    model.requires_grad_(grad)
    return layer


def _shows(layer: nn.Module, *args: Any, **kwargs: Any) -> float:
    """What is added to what the class's own forward gives."""
    out = layer(*args, **kwargs) - type(layer).forward(layer, *args, **kwargs)
    return round(float(out.detach().float().mean()), 2)


@pytest.mark.parametrize("name", LAYERS)
def test_signature_name_and_documentation(name: str) -> None:
    """A bound forward shows the class's signature, name and documentation, and nothing says that it wraps another."""
    layer = _bound(name)
    plain = LAYERS[name][0]()
    assert inspect.signature(layer.forward) == inspect.signature(plain.forward)
    assert (layer.forward.__name__, layer.forward.__doc__) == ("forward", plain.forward.__doc__)
    assert layer.forward.__qualname__ == plain.forward.__qualname__
    assert not hasattr(layer.forward, "__wrapped__")


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("with_profile", [False, True])
def test_arguments_by_the_originals_names(name: str, with_profile: bool) -> None:
    """A bound layer takes its arguments by the names of the original's parameters."""
    make, kernel = LAYERS[name]
    layer = _bound(name) if with_profile else make()
    if not with_profile:
        known = Registry()
        register_external_layer(type(layer), "Layer", registry=known)
        register_layer_kernel("Layer", layer_impl=kernel, device="cpu", registry=known)
        kernelize_model(layer, mode="inference", device="cpu", registry=known)
    first = next(iter(inspect.signature(layer.forward).parameters))
    with torch.no_grad():
        # Of a layer's only argument the name says nothing: the kernel gets it by position, as it was measured. Among
        # several, measured by position and given by name is not what was measured.
        takes_one = len(inspect.signature(layer.forward).parameters) == 1
        expected = 1.0 if takes_one or not with_profile else 0.0
        assert _shows(layer, **{first: inputs(4)}) == expected
        assert _shows(layer, inputs(4)) == 1.0


@pytest.mark.parametrize("name", LAYERS)
def test_what_was_not_measured_is_the_originals(name: str) -> None:
    """Another dtype, autocast, gradients that are wanted, more arguments: the original; as measured: the winner."""
    layer, x = _bound(name), inputs(4)
    with torch.no_grad():
        assert _shows(layer, x) == 1.0
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert _shows(layer, x) == 0.0
        assert _shows(copy.deepcopy(layer).double(), x.double()) == 0.0
    assert _shows(layer, x.clone().requires_grad_()) == 0.0
    assert _shows(layer, x) == 1.0  # nothing here wants a gradient


@pytest.mark.parametrize("name", LAYERS)
def test_measured_with_gradients_or_under_autocast(name: str) -> None:
    """What was measured with gradients is not bound without them, what was measured under autocast not outside."""
    x = inputs(4).requires_grad_()
    trained = _bound(name, grad=True)
    assert _shows(trained, x) == 1.0
    with torch.no_grad():
        assert _shows(trained, x) == 0.0
        cast = _bound(name, autocast=True)
        assert _shows(cast, x) == 0.0
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert _shows(cast, x) == 1.0
        with torch.autocast("cpu", dtype=torch.float16):
            assert _shows(cast, x) == 0.0


def test_further_arguments_are_the_originals() -> None:
    """A keyword or a plain value beyond the measured ones goes to the original."""
    gated, scaled, x = _bound("gated"), _bound("scaled"), inputs(4)
    with torch.no_grad():
        assert _shows(gated, x, 2.0) == _shows(gated, x, scale=2.0) == _shows(gated, x, residual=x) == 0.0
        assert _shows(scaled, x, output_attentions=True) == 0.0


class _Quantised(torch.Tensor):
    """A weight that computes in its own way."""


def test_a_quantised_weight_below_is_the_originals() -> None:
    """A weight that becomes a subclass of Tensor, in a submodule of the same class: the original, and it is said."""
    layer: Any = _bound("gated")
    with torch.no_grad():
        weight = layer.gate.weight.as_subclass(_Quantised)
        layer.gate._parameters["weight"] = weight
        assert _shows(layer, inputs(4)) == 0.0


def test_a_bias_that_comes_later_is_the_originals() -> None:
    """A submodule that had no bias and got one: a kernel that reads its weight alone would leave it out."""
    layer: Any = Gated()
    layer.gate.bias = None
    known = Registry()
    register_external_layer(Gated, "Gated", registry=known)
    register_layer_kernel("Gated", layer_impl=gated_kernel, device="cpu", registry=known)
    kernelize_model(layer, mode="inference", device="cpu", registry=known)
    with torch.no_grad():
        assert _shows(layer, inputs(4)) == 1.0
        layer.gate.bias = nn.Parameter(torch.ones(8))
        assert _shows(layer, inputs(4)) == 0.0


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpointed_layer_computes_the_same_twice(reentrant: bool) -> None:
    """In the backward, outside of any forward, the same runs that ran the first time: the gradients say so."""
    layer, x = _bound("gated", grad=True), inputs(4)
    given = x.clone().requires_grad_()
    ran: list[torch.Tensor] = []

    def run(value: torch.Tensor) -> torch.Tensor:
        ran.append(layer(value).detach())
        out: torch.Tensor = layer(value) * layer(value)
        return out

    out: Any = checkpoint(run, given, use_reentrant=reentrant)
    out.sum().backward()
    assert len(ran) == 2
    assert torch.equal(ran[0], ran[1])


def _raising(self: Norm, x: torch.Tensor) -> torch.Tensor:
    raise ValueError("of the kernel")


def _recursive(self: Norm, x: torch.Tensor) -> Any:
    return self(x)


@pytest.mark.parametrize(("kernel", "kind"), [(_raising, ValueError), (_recursive, RecursionError)])
def test_an_error_says_whose_it_is(kernel: Callable[..., Any], kind: type[Exception]) -> None:
    """An error out of a kernel keeps its type, and a note names slot, kernel and the way back, once."""
    model = Model(layers=1)
    kernelize_model(model, mode="inference", device="cpu", registry=registry(kernel))
    with pytest.raises(kind) as caught:
        model(inputs(4))
    (note,) = caught.value.__notes__
    assert "Norm layers.0.narrow" in note
    assert f"impl:{kernel.__name__}" in note
    assert "restore_model(model)" in note


def _plan(model: nn.Module) -> tuple[Profile, Registry]:
    known = registry(plus_one)
    return profile([layer_contest(model, [p for p in norms(model) if "narrow" in p], 4, ONE, known)]), known


def test_a_deleted_model_is_freed_at_once() -> None:
    """Every module of a kernelized model is gone with the model, without the cyclic collector; so are its copies."""
    _plan(Model())  # what torch imports when it first probes a layer holds on to it for a while
    gc.collect()
    gc.disable()
    try:
        makes: tuple[Callable[[], Any], ...] = (Model, lambda: bind(tiny_llama(), mlp=True))
        for make in makes:
            model: Any = make()
            if isinstance(model, Model):
                made, known = _plan(model)
                kernelize_model(model, profile=made, registry=known, use_fallback=False)
            twin = copy.deepcopy(model)
            bound = [weakref.ref(m) for m in (*model.modules(), *twin.modules()) if "forward" in vars(m)]
            assert len(bound) >= 4
            del model, twin
            assert not [ref for ref in bound if ref() is not None]
    finally:
        gc.enable()


def test_binding_again_and_again_leaves_nothing() -> None:
    """One model bound and restored 300 times: no finalizer more, and its modules are as before."""
    model = Model()
    made, known = _plan(model)
    plan = plan_profile(model, made, made.device, made.mode, known)
    before = [dict(vars(m)) for m in model.modules()]
    finalizers = len(weakref.finalize._registry)  # type: ignore[attr-defined]
    for _ in range(300):
        bind_plan(model, plan)
        restore_model(model)
    assert len(weakref.finalize._registry) == finalizers  # type: ignore[attr-defined]
    assert [dict(vars(m)) for m in model.modules()] == before


def test_threads_call_while_another_binds() -> None:
    """Eight threads call a model while another binds and restores it: each answer is one of the two right ones."""
    model, x = Model(layers=1), inputs(4)
    made, known = _plan(model)
    plan = plan_profile(model, made, made.device, made.mode, known)
    with torch.no_grad():
        answers = [model(x)]
        bind_plan(model, plan)
        answers.append(model(x))
    wrong: list[object] = []
    done = threading.Event()

    def call() -> None:
        with torch.no_grad():
            while not done.is_set():
                try:
                    out = model(x)
                except Exception as error:
                    wrong.append(error)
                    return
                wrong.extend([] if any(torch.equal(out, answer) for answer in answers) else [out])

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(1000):
        bind_plan(model, plan)
        restore_model(model)
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("method", [m for m in ("fork", "spawn") if m in multiprocessing.get_all_start_methods()])
def test_workers_of_a_data_loader(method: str) -> None:
    """A forked worker has the kernels, a spawned one (pickled) the originals; neither disturbs the model."""
    layer = _bound("norm")
    loader = torch.utils.data.DataLoader(NormedRows(layer), num_workers=1, multiprocessing_context=method)
    got = torch.cat(list(loader))
    with torch.no_grad():
        plain = Norm.forward(layer, inputs(4))  # type: ignore[arg-type]
        assert torch.allclose(got, plain + (method == "fork"))
        assert _shows(layer, inputs(4)) == 1.0


class _Adapted(nn.Linear):
    """Another class in a submodule's place."""


def test_the_report_says_what_runs() -> None:
    """A layer that was exchanged, restored by itself or has another's forward is no longer told as bound."""
    model = bind(tiny_llama(), mlp=True)
    language: Any = model
    assert len(kernelize_report(model).bound) == 7
    language.model.norm = copy.deepcopy(tiny_llama().model.norm)
    restore_model(language.model.layers[0].input_layernorm)
    language.model.layers[1].mlp.gate_proj = _Adapted(8, 16, bias=False)
    report = kernelize_report(model)
    assert len(report.bound) == 4
    assert {kept.slot for kept in report.kept} == {
        "RMSNorm model.norm",
        "RMSNorm model.layers.0.input_layernorm",
        "GatedMLP model.layers.1.mlp",
    }


def test_accelerate_takes_the_function_and_binds_it_again() -> None:
    """What accelerate does in prepare(): the kernels run below its autocast until they are restored."""
    accelerate = pytest.importorskip("accelerate")
    model = nn.Sequential(Norm(8))[0]
    kernelize_model(model, mode="inference", device="cpu", registry=registry(plus_one))
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    prepared = accelerate.Accelerator(mixed_precision="bf16", cpu=True).prepare(model)
    with torch.no_grad():
        plain = Norm.forward(model, inputs(4))  # type: ignore[arg-type]
        assert torch.allclose(prepared(inputs(4)), plain + 1, atol=1e-5)
        assert kernelize_report(model).bound
        with pytest.warns(UserWarning, match="was replaced by somebody else"):
            restore_model(model)
        assert torch.allclose(prepared(inputs(4)), plain, atol=1e-5)
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


def test_a_whole_model_with_labels_and_generate() -> None:
    """A bound language model trains and generates; its signature has the parameters of the class's forward."""
    model = bind(tiny_llama(), mlp=True)
    language: Any = model
    assert inspect.signature(model.forward) == inspect.signature(tiny_llama().forward)
    language(input_ids=tokens(), labels=tokens()).loss.backward()
    assert language.generate(tokens(), max_new_tokens=2, do_sample=False, pad_token_id=0).shape == (2, 8)
