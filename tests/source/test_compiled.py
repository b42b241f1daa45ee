"""torch.compile's candidate: each has compiled code of its own, and one that was not compiled is not timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.tune.toy import QUICK
from twinkle_tune import tune_model
from twinkle_tune.kernel import Registry
from twinkle_tune.outcome import Rejection
from twinkle_tune.slot import Slot, SlotKind
from twinkle_tune.source import compiled
from twinkle_tune.source.compiled import CompileSource

WIDTHS = range(8, 88, 8)


class Own(nn.LayerNorm):
    """A class outside of torch's files."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class Disabled(nn.LayerNorm):
    """A layer whose author keeps torch.compile out."""

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many inputs each graph had that was compiled; nothing is really compiled."""
    made: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        made.append(len(inputs))
        return graph.forward

    monkeypatch.setattr(compiled, "Inductor", lambda: backend)
    yield made
    torch.compiler.reset()


@pytest.mark.parametrize(
    "make",
    [
        Own,
        nn.LayerNorm,
        nn.RMSNorm,
        lambda width: nn.Linear(width, width),
        lambda width: nn.GroupNorm(2, width),
        lambda width: nn.PReLU(width),
    ],
    ids=["own", "LayerNorm", "RMSNorm", "Linear", "GroupNorm", "PReLU"],
)
def test_ten_widths_are_ten_compiled_functions(make: Callable[[int], Any], graphs: list[int]) -> None:
    """Also of torch's own layers, which torch.compile would call from one function for all of them."""
    before = torch._dynamo.config.get_config_copy()
    for width in WIDTHS:
        module = make(width)
        slot = Slot(name="Layer", kind=SlotKind.LAYER, target="torch.nn:LayerNorm")
        loaded = CompileSource().load(slot, type(module).forward)
        given = torch.randn(4, width)
        with torch.no_grad():
            torch.testing.assert_close(loaded.call(module, given), module(given))
    assert len(graphs) == len(WIDTHS)
    assert torch._dynamo.config.get_config_copy() == before


def test_functions_of_torch_and_builtin_ones(graphs: list[int]) -> None:
    """A function of torch's files in Python, one in C, and one behind a decorator of torch's."""
    slot = Slot(name="function", kind=SlotKind.FUNCTION, target="torch.nn.functional:softmax")
    functions: list[Callable[..., Any]] = [lambda x: F.softmax(x, -1), F.gelu, F.normalize, torch.no_grad()(F.softmin)]
    for function in functions:
        call = CompileSource().load(slot, function).call
        more = {"dim": -1} if function is functions[-1] else {}
        for width in (8, 16):
            x = torch.randn(4, width)
            torch.testing.assert_close(call(x, **more), function(x, **more))
    assert len(graphs) >= len(functions)


def refusal(model: nn.Module) -> str:
    """Why torch.compile's candidate is refused for the model's one slot."""
    profile = tune_model(
        model, torch.randn(4, 16), mode="inference", device="cpu", registry=Registry(), settings=QUICK,
        candidates=["compile"],
    )  # fmt: skip
    (contest,) = profile.contests
    (outcome,) = [trial.outcome for trial in contest.trials if trial.candidate == "compile"]
    return f"{outcome.stage}: {outcome.reason}" if isinstance(outcome, Rejection) else "none"


def test_what_ran_uncompiled_is_refused_with_that_cause() -> None:
    """Where torch.compile is switched off, and for a layer that is disabled for it: not timed against itself."""
    expected = "first call: torch.compile ran it uncompiled: at the first call no graph was made of it"
    with torch.compiler.set_stance("force_eager"):
        assert refusal(nn.Sequential(nn.LayerNorm(16))).startswith(expected)
    assert refusal(nn.Sequential(Disabled(16))).startswith(expected)
