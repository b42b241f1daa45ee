"""Modes and needs: which kernel may run in which mode, by one table, and what a kernel must be able to do."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kernels
import pytest
import torch
from kernels import Mode, use_kernel_mapping
from torch import nn

from tests.kernel.named import Adds, Scale, Shifted, shown
from twinkle_tune.errors import ModeError, RegistrationError
from twinkle_tune.kernel import (
    Registry,
    kernelize_model,
    kernelize_report,
    kernelized,
    register_layer_kernel,
)
from twinkle_tune.mode import FALLBACKS, parse_mode, parse_registered_mode

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "coming-from-kernels.md"
ASKED = (
    Mode.INFERENCE,
    Mode.TRAINING,
    Mode.INFERENCE | Mode.TORCH_COMPILE,
    Mode.TRAINING | Mode.TORCH_COMPILE,
)
REGISTERED = (*ASKED, Mode.FALLBACK)
ABLE = {"can_torch_compile": True}


@pytest.fixture(autouse=True)
def _own_mapping() -> Iterator[None]:
    with use_kernel_mapping({}, inherit_mapping=False):
        yield


def run_here(mode: Mode, registry: Registry | None = None) -> float:
    """What a model adds that is kernelized here."""
    model = nn.Sequential(Scale())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kernelize_model(model, mode=mode, device="cpu", registry=registry)
    return shown(model)


def run_there(mode: Mode) -> float:
    """What a model adds that the kernels package kernelizes."""
    return shown(kernels.kernelize(nn.Sequential(Scale()), mode=mode, device="cpu"))


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("registered", REGISTERED)
def test_every_pair(registered: Mode, asked: Mode) -> None:
    """A kernel registered or mapped for one mode runs in another where the table says so: as with kernels itself."""
    kernel = Adds(1, **ABLE)
    expected = float(parse_registered_mode(registered) in FALLBACKS[parse_mode(asked)])
    registry = Registry()
    register_layer_kernel("Scale", layer_impl=kernel.load(), device="cpu", mode=registered, registry=registry)
    assert run_here(asked, registry) == expected
    with use_kernel_mapping({"Scale": {"cpu": {registered: kernel}}}):
        assert (run_here(asked), run_there(asked)) == (expected, expected)


@pytest.mark.parametrize("asked", ASKED)
def test_the_closest_of_several(asked: Mode) -> None:
    """Of all that may run the closest does, whichever was registered last; without it the next: as with kernels."""
    remaining = {mode: Adds(number, **ABLE) for number, mode in enumerate(REGISTERED, start=1)}
    numbers = {parse_registered_mode(mode): number for number, mode in enumerate(REGISTERED, start=1)}
    for expected in FALLBACKS[parse_mode(asked)]:
        registry = Registry()
        for mode, kernel in remaining.items():
            register_layer_kernel("Scale", layer_impl=kernel.load(), device="cpu", mode=mode, registry=registry)
        assert run_here(asked, registry) == numbers[expected]
        with use_kernel_mapping({"Scale": {"cpu": dict(remaining)}}):
            assert (run_here(asked), run_there(asked)) == (numbers[expected], numbers[expected])
        remaining = {mode: k for mode, k in remaining.items() if parse_registered_mode(mode) != expected}


@pytest.mark.parametrize("word", ["compile", Mode.TORCH_COMPILE])
def test_for_torch_compile_alone(word: object) -> None:
    """ "compile" and TORCH_COMPILE alone speak of torch.compile: such a kernel does not serve plain inference."""
    registry = Registry()
    register_layer_kernel("Scale", layer_impl=Adds(1).load(), device="cpu", mode=word, registry=registry)
    assert [run_here(mode, registry) for mode in ASKED] == [0, 0, 1, 0]


def table() -> str:
    """The table of the documentation."""
    names = {None: "`FALLBACK`, or no mode"} | {
        parse_mode(mode): "`" + str(mode).replace("Mode.", "").replace("|", " | ") + "`" for mode in ASKED
    }
    lines = ["| registered for | " + " | ".join(f"asked {names[m].replace('|', '+')}" for m in FALLBACKS) + " |"]
    lines.append("|---" * (len(FALLBACKS) + 1) + "|")
    for registered in (*FALLBACKS, None):
        cells = [str(o.index(registered) + 1) if registered in o else "never" for o in FALLBACKS.values()]
        lines.append(f"| {names[registered].replace('|', '+')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def test_the_documentation_prints_the_table() -> None:
    """The page has the very table that decides."""
    assert table() in PAGE.read_text(encoding="utf-8")


NO_BACKWARD = {"has_backward": False}
NOT_COMPILED = {"can_torch_compile": False}
NEEDS: dict[str, tuple[dict[str, Any], dict[str, Any], bool, str]] = {
    "no backward, a model in training": (NO_BACKWARD, {}, True, "has_backward=False and the model is in training mode"),
    "no backward, needed": (NO_BACKWARD, {"needs_backward": True}, False, "has_backward=False and needs_backward is"),
    "no backward, needed in inference": (
        NO_BACKWARD,
        {"needs_backward": True, "mode": "inference"},
        False,
        "has_backward=False and needs_backward is",
    ),
    "no backward, training": (NO_BACKWARD, {"mode": "train"}, False, "has_backward=False and the mode is train"),
    "no backward, evaluation": (NO_BACKWARD, {}, False, ""),
    "no backward, not needed": (NO_BACKWARD, {"needs_backward": False}, True, ""),
    "no backward, not needed in training": (NO_BACKWARD, {"needs_backward": False, "mode": "train"}, True, ""),
    "no backward, asked for inference": (NO_BACKWARD, {"mode": Mode.INFERENCE}, True, ""),
    "a backward, a model in training": ({}, {}, True, ""),
    "not compiled": (NOT_COMPILED, {}, False, ""),
    "not compiled, needed": (
        NOT_COMPILED,
        {"needs_torch_compile": True},
        False,
        "can_torch_compile=False and needs_torch_compile is True",
    ),
    "not compiled, compiled mode, not needed": (
        NOT_COMPILED,
        {"needs_torch_compile": False, "mode": "compile"},
        False,
        "",
    ),
    "both needed": (NO_BACKWARD, {"needs_backward": True, "needs_torch_compile": True}, False, "needs_backward is"),
}


@pytest.mark.parametrize("case", NEEDS)
def test_needs(case: str) -> None:
    """What a kernel must be able to do: said, or by the mode, or because the model is in training mode."""
    members, arguments, training, refusal = NEEDS[case]
    kernel = Adds(1, **members)
    for mapping in ({"Scale": {"cpu": kernel}}, {"Scale": {"cpu": {Mode.FALLBACK: kernel}}}):
        model = nn.Sequential(Scale()).train(training)
        with use_kernel_mapping(mapping):
            if not refusal:
                kernelize_model(model, use_fallback=False, **arguments)
                assert shown(model) == 1
                continue
            with pytest.raises(RegistrationError, match=refusal):
                kernelize_model(model, use_fallback=False, **arguments)
            with pytest.warns(UserWarning, match=refusal):
                kernelize_model(model, **arguments)
            assert shown(model) == 0


def test_needs_choose_the_mode() -> None:
    """Without a mode, needs that are said choose among kernels for several modes."""
    kernel = {mode: Adds(number, **ABLE) for number, mode in enumerate(ASKED, start=1)}
    model = nn.Sequential(Scale())
    with use_kernel_mapping({"Scale": {"cpu": kernel}}):
        for backward in (False, True):
            for compiled in (False, True):
                kernelize_model(model, needs_backward=backward, needs_torch_compile=compiled)
                assert shown(model) == 1 + backward + 2 * compiled


def test_needs_against_a_profile(tmp_path: Path) -> None:
    """A need that the profile's mode does not have is an error, and the model is as it was."""
    from tests.kernel.toys import Model, profile

    model = Model()
    for need in ("needs_backward", "needs_torch_compile"):
        with pytest.raises(ModeError, match=rf"{need}: got True, and the profile is for mode inference; profile in"):
            kernelize_model(model, profile=profile([]), **{need: True})  # type: ignore[arg-type]
    assert kernelize_report(model).bound == ()


class NoBackward:
    """A repository object whose layer adds one, and whose result knows nothing of its input."""

    def __init__(self, *, honest: bool) -> None:
        class Layer(nn.Module):
            has_backward = not honest

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x.detach() + 1

        self.cls = Layer

    def load(self) -> type[nn.Module]:
        """The layer."""
        return self.cls


def gradient(model: nn.Module) -> float:
    """The gradient that reaches an input through a model; 0 where none does."""
    x = torch.ones(1, requires_grad=True)
    y = model(x).sum()
    if y.requires_grad:
        y.backward()
    return 0.0 if x.grad is None else float(x.grad)


def test_a_model_in_training_has_its_gradients() -> None:
    """The default of the guide: what is bound to a model in training goes back; told so, it need not."""
    model = nn.Sequential(Scale())
    with use_kernel_mapping({"Scale": {"cpu": NoBackward(honest=True)}}), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kernelize_model(model)
        assert (shown(model), gradient(model)) == (0, 1)
        kernelize_model(model, needs_backward=False)
        assert (shown(model), gradient(model)) == (1, 0)
    with use_kernel_mapping({"Scale": {"cpu": Adds(1)}}):
        kernelize_model(model, use_fallback=False)
        assert (shown(model), gradient(model)) == (1, 1)


@pytest.mark.parametrize("kind", ["layer", "function"])
def test_put_into_training_later(kind: str) -> None:
    """A kernel without a backward that is bound for inference steps aside once the model trains, and says so once."""
    model: nn.Module = nn.Sequential(Scale()) if kind == "layer" else Shifted()
    name = "Scale" if kind == "layer" else "shift"
    with use_kernel_mapping({name: {"cpu": NoBackward(honest=True)}}):
        kernelize_model(model.eval(), mode="inference", device="cpu", use_fallback=False)
    assert (shown(model), gradient(model)) == (1, 0)
    model.train()
    with pytest.warns(UserWarning, match=r"has no backward and was bound for inference; the model is in training") as c:
        assert [gradient(model), gradient(model)] == [1, 1]
    assert len(c) == 1
    assert shown(model) == 1  # gradients are off
    assert gradient(model.eval()) == 0
    model.eval()
    with use_kernel_mapping({name: {"cpu": NoBackward(honest=True)}}), warnings.catch_warnings():
        warnings.simplefilter("error")
        with kernelized(model, mode="inference", device="cpu", use_fallback=False, needs_backward=False):
            assert gradient(model.train()) == 0
    assert gradient(model) == 1
