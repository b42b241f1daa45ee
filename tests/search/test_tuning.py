"""Tuning an op: forward and backward each for itself, judged by the whole rule, without a GPU on a toy op."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.search.benches import ToldClock
from twinkle_tune.measure.clock import Call
from twinkle_tune.ops.all import all_ops
from twinkle_tune.ops.op import Op, OpCall
from twinkle_tune.ops.space import Config, Dims, Parameter, Space
from twinkle_tune.search.record import SearchSettings
from twinkle_tune.search.sides import side
from twinkle_tune.search.tuning import tuned

DIMS = {"rows": 16, "width": 64}
DEFAULT = {"block": 1, "back_block": 1}


class ConfigClock(ToldClock):
    """Tells the time of the config of the last call of the toy; a call is made for it."""

    def __init__(self, last: dict[str, int], times_us: Mapping[str, Mapping[int, float]]) -> None:
        self._last, self._times = last, times_us

    def first_call_us(self, call: Call) -> float:
        """Made, so that what it raises is seen."""
        call()
        return 1.0

    def burst_us(self, call: Call, block_calls: int) -> float:
        """Forward plus, where gradients are wanted, backward."""
        self._last["back"] = 0
        call()
        back = self._times["back_block"][self._last["back_block"]] if self._last["back"] else 0.0
        return self._times["block"][self._last["block"]] + back


def toy(last: dict[str, int], wrong: int = 0) -> Op:
    """x * x, whose time is told by its config; block 8 raises; a ``wrong`` block gives a wrong result."""

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, config: Config) -> Tensor:
            last.update(config)
            ctx.save_for_backward(x)
            if config["block"] == 8:
                raise RuntimeError("no such tile")
            return x * x * (1.5 if config["block"] == wrong else 1.0)

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
            last["back"] = 1
            (x,) = ctx.saved_tensors
            return 2 * x * gradients[0], None

    def inputs(dims: Dims, dtype: torch.dtype, device: str, seed: int, variant: str) -> tuple[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return (torch.randn(dims["rows"], dims["width"], generator=generator).to(dtype).requires_grad_(),)

    values = (1, 2, 4, 8)
    return Op(
        name="square",
        formula="x * x",
        dims=("rows", "width"),
        space=lambda dims: Space(
            parameters=(Parameter(name="block", values=values), Parameter(name="back_block", values=values))
        ),
        default=lambda dims, architecture: DEFAULT,
        inputs=inputs,
        reference=lambda x: x * x,
        apply=lambda x, config: Square.apply(x, config),  # type: ignore[no-untyped-call]
        launch=lambda *args: ((), ()),
        moved_bytes=lambda dims, itemsize, backward: 0,
        variants={"": {}},
    )


def call_of(op: Op) -> OpCall:
    """A small call of it."""
    return OpCall(op=op, dims=DIMS, dtype=torch.float32)


TIMES = {"block": {1: 100.0, 2: 60.0, 4: 80.0, 8: 1.0}, "back_block": {1: 200.0, 2: 220.0, 4: 90.0, 8: 150.0}}


def test_forward_and_backward_are_tuned_each_for_itself() -> None:
    """Four timings a side instead of sixteen for both, and the winner is a config of the whole op."""
    last: dict[str, int] = {}
    results = tuned(call_of(toy(last)), "cpu", ConfigClock(last, TIMES), SearchSettings(budget=20))
    assert results["forward"].config == {"block": 2, "back_block": 1}
    assert results["backward"].config == {"block": 2, "back_block": 4}
    assert results["forward"].size == results["backward"].size == 4
    assert results["backward"].ratio == pytest.approx(150 / 260)


def test_inference_leaves_the_backward_alone() -> None:
    last: dict[str, int] = {}
    results = tuned(call_of(toy(last)), "cpu", ConfigClock(last, TIMES), trains=False)
    assert list(results) == ["forward"]
    assert results["forward"].config == {"block": 2, "back_block": 1}


def test_a_config_that_raises_is_a_reason_and_a_wrong_one_does_not_win() -> None:
    """The seemingly fastest raises, the next is refused by the parity rule, the third wins."""
    last: dict[str, int] = {}
    clock = ConfigClock(last, TIMES)
    (found,) = tuned(call_of(toy(last, wrong=2)), "cpu", clock, trains=False).values()
    assert found.config == {"block": 4, "back_block": 1}
    (raised,) = [each.refused for each in found.tried if each.refused is not None]
    assert raised.reason == "raised RuntimeError: no such tile"
    assert any(each.left.startswith("point ") for each in found.finalists)


def test_a_repeated_run_takes_everything_from_its_journal(tmp_path: Path) -> None:
    """The second run times nothing but the final race: all that was tried is there."""
    runs = []
    for _ in range(2):
        last: dict[str, int] = {}
        clock = ConfigClock(last, TIMES)
        runs.append(tuned(call_of(toy(last)), "cpu", clock, journal=tmp_path / "journal"))
    assert runs[0]["forward"].tried == runs[1]["forward"].tried
    assert runs[0]["backward"].config == runs[1]["backward"].config


@pytest.mark.parametrize("op", all_ops(), ids=lambda op: op.name)
def test_a_side_s_configs_are_the_op_s(op: Op) -> None:
    """Each config of a side, made whole with the default's other side, is one of the op's space."""
    dims = dict.fromkeys(op.dims, 64)
    space, default = op.space(dims), op.default(dims, 90)
    for backward in (False, True):
        part = side(space, default, backward=backward)
        for config in list(part.space.configs())[:50]:
            space.check(part.whole(config))
        assert part.whole(part.part(default)) == dict(default)


def test_memory_that_others_held_for_a_moment_costs_no_config() -> None:
    """A config that runs out of memory once is tried again; one that raises of itself is not."""
    last: dict[str, int] = {}
    raised: list[str] = []

    class Short(ConfigClock):
        def first_call_us(self, call: Call) -> float:
            super().first_call_us(call)
            if last["block"] == 4 and not raised:
                raised.append("once")
                raise torch.OutOfMemoryError("none left")
            return 1.0

    times = {"block": {1: 10.0, 2: 9.0, 4: 5.0, 8: 1.0}, "back_block": {1: 10.0, 2: 10.0, 4: 10.0, 8: 10.0}}
    found = tuned(call_of(toy(last)), "cpu", Short(last, times), trains=False)
    assert raised
    assert found["forward"].config == {"block": 4, "back_block": 1}
    refused = [each.config["block"] for each in found["forward"].tried if each.refused is not None]
    assert refused == [8]
