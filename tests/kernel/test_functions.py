"""Functions are one for the whole process: each owner's replacements, and how each is undone alone."""

from __future__ import annotations

import gc
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.kernel.toys import Model, added, function_contest, function_registry, profile
from tests.source.repos import module_at
from twinkle_tune.errors import BindError, RegistrationError
from twinkle_tune.kernel import (
    kernelize_model,
    kernelize_report,
    register_function_kernel,
    restore_model,
)
from twinkle_tune.kernel.functions import bind_functions, original_function, unbind_functions
from twinkle_tune.kernel.kernelize import bind_plan, unbound
from twinkle_tune.kernel.place import find_place
from twinkle_tune.kernel.plan_profile import plan_profile
from twinkle_tune.profile.schema import Profile
from twinkle_tune.slot import ORIGINAL, Slot, SlotKind

pytestmark = pytest.mark.usefixtures("little_garbage")
TEXT = '''
import random


def scale(x, by=2.0):
    """The original."""
    return x * by


def other(x):
    return x


shuffled = random.Random(0).random


class Base:
    def method(self, x):
        return (self, x)

    @staticmethod
    def static(x):
        return x

    @classmethod
    def of_class(cls, x):
        return (cls, x)

    class Inner:
        def method(self, x):
            return x


class Child(Base):
    pass
'''
NAME = "my_pkg_functions"
TARGET = f"{NAME}:scale"


@pytest.fixture
def module(tmp_path: Path) -> Iterator[Any]:
    """A module whose functions are replaced."""
    (tmp_path / "functions.py").write_text(TEXT)
    yield module_at(tmp_path / "functions.py", NAME)
    gc.collect()  # models of the test that are garbage release their functions
    sys.modules.pop(NAME, None)


def _slot(path: str = "scale") -> Slot:
    return Slot(name=f"{NAME}.{path}", kind=SlotKind.FUNCTION, target=f"{NAME}:{path}")


def times_three(x: Any, by: Any = 2.0) -> Any:
    """A kernel that shows."""
    return x * 3


def times_five(x: Any, by: Any = 2.0) -> Any:
    """Another kernel that shows."""
    return x * 5


def _ones(rows: int, width: int = 8) -> torch.Tensor:
    return torch.ones(rows, width)


def _shows(module: Any, rows: int, width: int = 8) -> int:
    return int(module.scale(_ones(rows, width)).flatten()[0])


def _profile(module: Any, impl: Callable[..., Any], rows: tuple[int, ...], width: int = 8) -> tuple[Profile, Any]:
    known = function_registry(NAME, "scale", impl)
    name = known.function(NAME, "scale")[0].name
    original = original_function(TARGET)
    return profile(function_contest(TARGET, original, (_ones(n, width),), name, known) for n in rows), known


def _bind(model: nn.Module, module: Any, impl: Callable[..., Any], rows: tuple[int, ...], width: int = 8) -> None:
    made, known = _profile(module, impl, rows, width)
    kernelize_model(model, profile=made, registry=known, use_fallback=False)


def test_restore_gives_the_very_function_back(module: Any) -> None:
    """After restoring, the module holds the very object of before, and no other of its names was touched."""
    before = dict(vars(module))
    model = Model()
    _bind(model, module, times_three, (4,))
    assert module.scale is not before["scale"]
    restore_model(model)
    assert dict(vars(module)) == before


def test_calls_of_no_family_go_to_the_original(module: Any) -> None:
    """A bound function's winner takes the calls that were measured; every other goes to the original."""
    model = Model()
    _bind(model, module, times_three, (2, 4))
    assert [_shows(module, rows) for rows in (1, 2, 3, 4, 5)] == [2, 3, 3, 3, 2]
    assert _shows(module, 4, width=9) == 2
    assert int(module.scale(7, by=1)) == 7
    assert int(module.scale(_ones(4), 2.0)[0, 0]) == 2
    assert [(b.slot, b.candidate, b.rows) for b in kernelize_report(model).bound] == [
        (f"{NAME}.scale", "impl:times_three", "2 to 4: impl:times_three")
    ]


def test_calls_that_want_gradients(module: Any) -> None:
    """A call that wants gradients does not go to a family that was seen without; its gradient is the original's."""
    model = Model()
    _bind(model, module, times_three, (4,))
    x = _ones(4).requires_grad_()
    module.scale(x).sum().backward()
    assert x.grad is not None
    assert int(x.grad[0, 0]) == 2
    with torch.no_grad():
        assert int(module.scale(x)[0, 0]) == 3


def test_two_models(module: Any) -> None:
    """Binding a second model changes no call of the first; restoring one leaves the other bound."""
    first, second = Model(), Model()
    _bind(first, module, times_three, (2, 4))
    _bind(second, module, times_five, (4, 8), width=8)
    _bind_before = [_shows(module, rows) for rows in (2, 3, 4)]
    assert _bind_before == [3, 3, 3]
    assert _shows(module, 8) == 2  # of the first's family: it measured no winner there
    restore_model(first)
    assert [_shows(module, rows) for rows in (2, 4, 6, 8)] == [2, 5, 5, 5]
    restore_model(second)
    assert _shows(module, 4) == 2


def test_two_models_of_different_widths(module: Any) -> None:
    """Two models whose calls differ in more than rows each have their own winner, in either order of restoring."""
    for order in ((0, 1), (1, 0)):
        models = (Model(), Model())
        _bind(models[0], module, times_three, (4,), width=8)
        _bind(models[1], module, times_five, (4,), width=16)
        assert (_shows(module, 4, 8), _shows(module, 4, 16)) == (3, 5)
        restore_model(models[order[0]])
        assert (_shows(module, 4, 8), _shows(module, 4, 16)) == ((2, 5) if order[0] == 0 else (3, 2))
        restore_model(models[order[1]])
        assert (_shows(module, 4, 8), _shows(module, 4, 16)) == (2, 2)


def test_second_kernelize_keeps_the_first_place(module: Any) -> None:
    """Kernelizing the first model again leaves it the first: the second does not take its calls."""
    first, second = Model(), Model()
    _bind(first, module, times_three, (4,))
    _bind(second, module, times_five, (4,))
    _bind(first, module, times_three, (4, 8))
    assert [_shows(module, rows) for rows in (4, 8)] == [3, 3]
    restore_model(first)
    assert _shows(module, 4) == 5
    restore_model(second)


def test_unbound_for_a_while_and_back_in_its_place(module: Any) -> None:
    """A model whose functions were put aside has them again after an error, before those of a model bound later; a
    report, too, and garbage releases them."""
    first, second = Model(), Model()
    _bind(first, module, times_three, (4,))
    _bind(second, module, times_five, (4,))
    with unbound(first):
        assert not kernelize_report(first).bound
        assert _shows(module, 4) == 5
        with unbound(second):
            assert _shows(module, 4) == 2
        assert _shows(module, 4) == 5
    with pytest.raises(KeyboardInterrupt), unbound(first):
        raise KeyboardInterrupt
    assert _shows(module, 4) == 3
    assert kernelize_report(first).bound
    del first
    gc.collect()
    assert _shows(module, 4) == 5
    restore_model(second)
    assert _shows(module, 4) == 2


def test_garbage_releases(module: Any) -> None:
    """A model that is garbage releases its functions; another model's stay."""
    first, second = Model(), Model()
    _bind(first, module, times_three, (4,), width=8)
    _bind(second, module, times_five, (4,), width=16)
    del first
    gc.collect()
    assert (_shows(module, 4, 8), _shows(module, 4, 16)) == (2, 5)
    del second
    gc.collect()
    assert module.scale.__doc__ == "The original."


def test_binding_again_and_again_leaves_nothing(module: Any) -> None:
    """A function bound and restored 300 times: no finalizer more that waits for the model's end."""
    model, known = Model(), function_registry(NAME, "scale", times_three)
    finalizers = len(weakref.finalize._registry)  # type: ignore[attr-defined]
    for _ in range(300):
        kernelize_model(model, mode="inference", device="cpu", registry=known)
        restore_model(model)
    assert len(weakref.finalize._registry) == finalizers  # type: ignore[attr-defined]


def test_kernels_without_a_profile_take_every_call(module: Any) -> None:
    """What a model binds without a profile takes every call but those of families bound before it."""
    first, second = Model(), Model()
    _bind(first, module, times_three, (4,))
    kernelize_model(second, mode="inference", device="cpu", registry=function_registry(NAME, "scale", times_five))
    assert (_shows(module, 4), _shows(module, 5, 9)) == (3, 5)
    restore_model(second)
    assert (_shows(module, 4), _shows(module, 5, 9)) == (3, 2)


def test_foreign_patch_on_top(module: Any) -> None:
    """A patch that somebody put over ours is refused when we bind, and left alone, with a warning, when we restore."""
    first, second = Model(), Model()
    _bind(first, module, times_three, (4,))
    ours = module.scale

    def foreign(x: Any, by: Any = 2.0) -> Any:
        return ours(x, by) + 100

    module.scale = foreign
    with pytest.raises(
        BindError, match=rf"{TARGET} was replaced by someone else after .*; undo that replacement first"
    ):
        _bind(second, module, times_five, (4,))
    with pytest.raises(BindError):
        _bind(first, module, times_five, (4,))
    with pytest.warns(UserWarning, match=rf"{TARGET} was replaced by someone else after .*: left as it is"):
        restore_model(first)
    assert module.scale is foreign


def test_foreign_patch_below(module: Any) -> None:
    """A patch that was there before ours is the original that comes back."""

    def foreign(x: Any, by: Any = 2.0) -> Any:
        return x * 7

    module.scale = foreign
    model = Model()
    _bind(model, module, times_three, (4,))
    assert (_shows(module, 4), _shows(module, 5)) == (3, 7)
    restore_model(model)
    assert module.scale is foreign


def test_restored_under_a_foreign_patch_with_another_owner(module: Any) -> None:
    """Also where another model is still bound, a restore that could not be carried out is told."""
    first, second = Model(), Model()
    _bind(first, module, times_three, (4,))
    _bind(second, module, times_five, (4,), width=16)
    module.scale = times_five
    with pytest.warns(UserWarning, match=r"was replaced by someone else"):
        restore_model(first)
    with pytest.warns(UserWarning, match=r"was replaced by someone else"):
        restore_model(second)


@pytest.mark.parametrize("before", [False, True])
def test_all_or_nothing(module: Any, before: bool) -> None:
    """Where one function of several cannot be bound, none is; what was bound before is bound as before."""
    model, other = Model(), Model()
    if before:
        bind_functions(model, {_slot(): times_three})
        bind_functions(other, {_slot(): times_five})
    shows = _shows(module, 4)
    state = dict(vars(module))
    wanted = {_slot(): times_five, _slot("other"): len, _slot("missing"): len}
    with pytest.raises(RegistrationError, match=r"has no function 'missing'"):
        bind_functions(model, wanted)
    assert _shows(module, 4) == shows
    assert module.other is state["other"]
    unbind_functions(model)
    assert _shows(module, 4) == (5 if before else 2)
    unbind_functions(other)
    assert _shows(module, 4) == 2
    assert module.scale.__doc__ == "The original."


def test_all_or_nothing_with_layers(module: Any) -> None:
    """Where a function cannot be bound, the model's layers and functions are those of before."""
    from tests.kernel.toys import Norm, plus_one, registry
    from twinkle_tune.kernel import register_layer_kernel

    model = Model()
    known = registry(plus_one)
    register_function_kernel(func_name="scale", target_module=NAME, func_impl=times_three, registry=known)
    kernelize_model(model, mode="inference", device="cpu", registry=known)
    report = kernelize_report(model)
    assert (added(model.layers[0].narrow, 2), _shows(module, 4)) == (1.0, 3)
    register_layer_kernel("Norm", layer_impl=lambda self, x: Norm.forward(self, x) + 9, device="cpu", registry=known)
    register_function_kernel(func_name="bit_length", target_module="numbers", func_impl=len, registry=known)
    register_function_kernel(func_name="int.bit_length", target_module="builtins", func_impl=len, registry=known)
    with (
        pytest.warns(UserWarning, match=r"'numbers' has no function 'bit_length'"),
        pytest.raises(BindError, match=r"int.bit_length cannot be replaced \(.*\); register a Python function that"),
    ):
        kernelize_model(model, mode="inference", device="cpu", registry=known)
    assert (added(model.layers[0].narrow, 2), _shows(module, 4)) == (1.0, 3)
    assert kernelize_report(model) is report
    restore_model(model)
    assert _shows(module, 4) == 2


PLACES: dict[str, tuple[str, Callable[..., Any]]] = {
    "method": ("Base.method", lambda self, x: ("kernel", self, x)),
    "inherited method": ("Child.method", lambda self, x: ("kernel", self, x)),
    "nested class": ("Base.Inner.method", lambda self, x: ("kernel", self, x)),
    "staticmethod": ("Base.static", lambda x: ("kernel", x)),
    "inherited staticmethod": ("Child.static", lambda x: ("kernel", x)),
    "classmethod": ("Base.of_class", lambda cls, x: ("kernel", cls, x)),
    "inherited classmethod": ("Child.of_class", lambda cls, x: ("kernel", cls, x)),
    "bound method of a module": ("shuffled", lambda: ("kernel",)),
}


@pytest.mark.parametrize("case", PLACES)
def test_methods(module: Any, case: str) -> None:
    """A method, of whichever kind, is replaced as that kind, for the class named alone, and put back."""
    path, impl = PLACES[case]
    owner = module
    for part in path.split(".")[:-1]:
        owner = getattr(owner, part)
    name = path.split(".")[-1]
    before = [dict(vars(cls)) for cls in (module.Base, module.Child, module.Base.Inner)]
    register_function_kernel(func_name=path, target_module=NAME, func_impl=impl)
    kernelize_model(None, mode="inference", device="cpu", use_fallback=False)
    if owner is module:
        assert module.shuffled() == ("kernel",)
    else:
        instance = owner()
        expected = {"method": ("kernel", instance, 1), "static": ("kernel", 1), "of_class": ("kernel", owner, 1)}[name]
        assert getattr(instance, name)(1) == expected
        if name != "method":
            assert getattr(owner, name)(1) == expected
        if owner is module.Child:
            assert "kernel" not in (getattr(module.Base(), name)(1) if name != "static" else ())
    restore_model(None)
    assert [dict(vars(cls)) for cls in (module.Base, module.Child, module.Base.Inner)] == before
    assert isinstance(module.shuffled(), float)


def test_original_behind_a_replacement(module: Any) -> None:
    """What a profile compares with, and the dispatcher falls back to, is the original, also while it is replaced."""
    original = module.scale
    model = Model()
    _bind(model, module, times_three, (4,))
    assert original_function(TARGET) is original
    assert find_place(TARGET).function is not original
    restore_model(model)


def test_original_winners_bind_nothing(module: Any) -> None:
    """A function whose contests the original won stays the very function, and the report says why."""
    known = function_registry(NAME, "scale", times_three)
    model, original = Model(), module.scale
    made = profile([function_contest(TARGET, original, (_ones(4),), ORIGINAL, known)])
    kernelize_model(model, profile=made, registry=known, use_fallback=False)
    assert module.scale is original
    assert [(k.slot, k.reason) for k in kernelize_report(model).kept] == [
        (f"{NAME}.scale", "no candidate was clearly faster")
    ]


def test_restoring_what_is_not_bound(module: Any) -> None:
    """Restoring a model that bound nothing changes nothing and says nothing."""
    first = Model()
    _bind(first, module, times_three, (4,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        restore_model(Model())
        restore_model(None)
    assert _shows(module, 4) == 3
    restore_model(first)


def test_bound_and_restored_in_turn_it_is_compiled_twice(module: Any) -> None:
    """A compiled model is compiled once with the kernel and once without, however often a plan is bound.

    Beyond torch.compile's limit of eight it would run eagerly, and be timed so.
    """
    from torch._dynamo.utils import counters

    class Caller(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return module.scale(x)

    model = Caller()
    made, known = _profile(module, times_three, (4,))
    plan = plan_profile(model, made, made.device, made.mode, known)
    torch.compiler.reset()
    counters.clear()
    runner = torch.compile(model, backend="eager")
    with torch.no_grad():
        for _ in range(10):
            bind_plan(model, plan)
            assert int(runner(_ones(4))[0, 0]) == 3
            restore_model(model)
            assert int(runner(_ones(4))[0, 0]) == 2
    assert counters["stats"]["unique_graphs"] == 2
