"""Kernels that read weights in another layout: what their ``self`` is, what flows back, and what is refused."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.source import layouts
from tests.source.layouts import Block, GatedMLP, Norm
from twinkle_tune.errors import SignatureError
from twinkle_tune.slot import Slot, SlotKind
from twinkle_tune.source.children import ChildrenSource
from twinkle_tune.source.direct import ImplSource
from twinkle_tune.workload import target_of

CONFIG = (8, 12)
LAYERS: dict[str, tuple[type[nn.Module], Callable[[], nn.Module]]] = {
    "a renamed weight": (layouts.Renamed, lambda: Norm(8)),
    "two as one": (layouts.Merged, lambda: GatedMLP(CONFIG)),
    "the other way round": (layouts.Transposed, lambda: GatedMLP(CONFIG)),
    "one as two": (layouts.Halves, lambda: Norm(8)),
}


def loaded(kernel: type[nn.Module], module: nn.Module, *children: str) -> Callable[..., Any]:
    """A kernel as it is loaded for a layer, or for some of its children."""
    slot = Slot(name="x", kind=SlotKind.LAYER, target=target_of(type(module)))
    source: Any = ImplSource(impl=kernel)
    if children:
        source = ChildrenSource(source=source, names=children)
    made = source.load(slot, type(module).forward)
    assert made.converts
    assert not made.can_torch_compile
    return made.call  # type: ignore[no-any-return]


def gradients(call: Callable[..., Any], module: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """The output, and the gradients of the input and of the layer's parameters."""
    x = x.clone().requires_grad_()
    out = call(module, x)
    return [out, *torch.autograd.grad(out.pow(2).sum(), [x, *module.parameters()])]


@pytest.mark.parametrize("case", LAYERS)
def test_it_computes_and_goes_back_as_the_layer(case: str) -> None:
    """Output and gradients are the layer's, whose parameters keep their names, objects and values."""
    kernel, make = LAYERS[case]
    module, x = make(), torch.randn(3, 8)
    before = {name: (id(p), p.detach().clone()) for name, p in module.named_parameters()}
    call = loaded(kernel, module)
    expected = gradients(type(module).forward, module, x)
    for mine, its in zip(gradients(call, module, x), expected, strict=True):
        torch.testing.assert_close(mine, its)
    for name, parameter in module.named_parameters():
        assert id(parameter) == before[name][0]
        assert torch.equal(parameter, before[name][1])
    assert list(module.state_dict()) == list(before)


def test_what_becomes_of_the_weights_counts() -> None:
    """A step of training, other values, another dtype and a copy of the layer: the kernel reads what is there now."""
    module, x = GatedMLP(CONFIG), torch.randn(3, 8)
    call = loaded(layouts.Merged, module)
    call(module, x)
    with torch.no_grad():
        module.gate_proj.weight.mul_(2)
    torch.testing.assert_close(call(module, x), module(x))
    module.load_state_dict(GatedMLP(CONFIG).state_dict(), assign=True)
    torch.testing.assert_close(call(module, x), module(x))
    twin = copy.deepcopy(module).double()
    torch.testing.assert_close(call(twin, x.double()), twin(x.double()))
    torch.testing.assert_close(call(module, x), module(x))


def test_settings_and_modules_are_the_layer_s() -> None:
    """A setting that changes, a module that is exchanged for one of its class, train() and eval(): the next call has
    them."""
    norm, x = Norm(8), torch.randn(3, 8)
    call = loaded(layouts.Renamed, norm)
    call(norm, x)
    norm.variance_epsilon = 1.0
    torch.testing.assert_close(call(norm, x), norm(x))
    cases = ((layouts.Makes, GatedMLP(CONFIG), ()), (layouts.NormMLP, Block(CONFIG), ("norm", "mlp")))
    for kernel, layer, children in cases:
        mlp: Any = getattr(layer, "mlp", layer)
        mlp.act_fn = layouts.Scaling()
        call = loaded(kernel, layer, *children)
        call(layer, x)
        layer.eval()
        torch.testing.assert_close(call(layer, x), layer(x))
        mlp.act_fn = layouts.Scaling().eval()
        mlp.act_fn.factor = 5.0
        torch.testing.assert_close(call(layer, x), layer(x))
        mlp.up_proj.weight = mlp.gate_proj.weight
        torch.testing.assert_close(call(layer, x), layer(x))


def test_threads_share_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that began while another ran, and that goes on after it, reads its weights all the same."""
    module, x = GatedMLP(CONFIG), torch.randn(3, 8)
    call, expected = loaded(layouts.Merged, module), module(x)
    inside, over = threading.Event(), threading.Event()
    found: list[torch.Tensor] = []
    thread = threading.Thread(target=lambda: found.append(call(module, x)))
    silu = nn.SiLU.forward

    def meeting(self: nn.SiLU, given: torch.Tensor) -> torch.Tensor:
        if threading.current_thread() is thread:
            inside.set()
            over.wait(2)
        else:
            thread.start()
            inside.wait(2)
        return silu(self, given)

    monkeypatch.setattr(nn.SiLU, "forward", meeting)
    torch.testing.assert_close(call(module, x), expected)
    over.set()
    thread.join(2)
    torch.testing.assert_close(found[0], expected)


def test_a_kernel_that_writes_on_its_self_raises() -> None:
    """What it wrote would be lost: its self is there for one call."""
    module = Norm(8)
    with pytest.raises(AttributeError, match=r"the kernel writes self.last, expected that it only reads"):
        loaded(layouts.Writes, module)(module, torch.zeros(3, 8))


def test_of_children_that_are_not_alike_in_training_none_is_run() -> None:
    """The kernel's self is in training or it is not."""
    module = Block(CONFIG)
    module.norm.eval()
    with pytest.raises(SignatureError, match="of norm, mlp some are in training and some are not"):
        loaded(layouts.NormMLP, module, "norm", "mlp")(module, torch.zeros(3, 8))


def test_a_layer_that_is_gone_is_not_kept() -> None:
    """What stands in for the layer goes with it; making it draws no random number."""
    for kernel, cls, children in ((layouts.Merged, GatedMLP, ()), (layouts.NormMLP, Block, ("norm", "mlp"))):
        module: nn.Module = cls(CONFIG)
        state = torch.get_rng_state()
        call = loaded(kernel, module, *children)
        call(module, torch.zeros(3, 8))
        assert torch.equal(torch.get_rng_state(), state)
        gone = weakref.ref(module)
        del module
        gc.collect()
        assert gone() is None


def test_a_kernel_for_two_modules() -> None:
    """It runs within the layer's own forward, and goes back as both; the layer has its children as they were."""
    module, x = Block(CONFIG), torch.randn(3, 8)
    children = dict(module.named_modules())
    call = loaded(layouts.NormMLP, module, "norm", "mlp")
    for mine, its in zip(gradients(call, module, x), gradients(Block.forward, module, x), strict=True):
        torch.testing.assert_close(mine, its)
    assert dict(module.named_modules()) == children
    assert "forward" not in module.__dict__


REFUSED: dict[str, tuple[type[nn.Module], tuple[str, ...], str]] = {
    "another operation": (layouts.Stranger, (), r"its conversion does Doubles; expected WeightRenaming, and"),
    "one that is not understood": (layouts.Interleaved, (), r"its conversion does Interleave\(dim=0\)"),
    "a pattern": (layouts.Guessed, (), r"speaks of '\(a\|b\).weight', which is no plain name"),
    "a weight that nothing makes": (layouts.Unfit, (), r"nothing of its conversion_mapping makes 'bias'"),
    "a constructor that raises": (layouts.Raises, (), r"the constructor of RaisesLayout raised RuntimeError: no such"),
    "no layout for two modules": (layouts.Alone, ("norm", "mlp"), r"there is no class AloneLayout beside it"),
    "a weight left where it was": (layouts.Forgets, ("norm", "mlp"), r"leaves 'mlp.down_proj.weight', expected all of"),
    "a setting of its own": (
        layouts.Names,
        (),
        r"NamesLayout: its constructor sets 'eps', which the layer does not",
    ),
    "a module of its own": (
        layouts.Makes,
        (),
        r"MakesLayout: its constructor makes 'act_fn', a Scaling, expected Li",
    ),
    "a module that is not there": (layouts.NormMLP, ("norm", "ffn"), r"Block has no module 'ffn'; name its own"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_expressed_is_refused_by_name(case: str) -> None:
    """A rule, a pattern or a layout that does not fit is told with what would."""
    kernel, children, message = REFUSED[case]
    module = Block(CONFIG) if children else GatedMLP(CONFIG) if kernel is layouts.Makes else Norm(8)
    with pytest.raises(SignatureError, match=message):
        loaded(kernel, module, *children)(module, torch.zeros(3, 8))


def test_digests_hold_the_layout() -> None:
    """Two layouts beside the same forward are different code, and so are other children."""
    slot = Slot(name="x", kind=SlotKind.LAYER, target="a:B")
    both = [ImplSource(impl=kernel).digest(slot, Norm.forward) for kernel in (layouts.Merged, layouts.Swapped)]
    assert both[0] != both[1]
    inner = ImplSource(impl=layouts.NormMLP)
    over = [ChildrenSource(source=inner, names=names).digest(slot, Norm.forward) for names in (("a", "b"), ("b", "a"))]
    assert over[0] != over[1]
