"""A layer with a tunable candidate whose speed is told by its config, and an op to search that config with.

Its module is importable by name, so that worker processes and processes that apply a profile have it too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.tune.toy import Norm, norm, spin
from twinkle_tune.kernel import Registry, register_external_layer
from twinkle_tune.ops.op import Op, OpCall
from twinkle_tune.ops.space import Config, Dims, Parameter, Space
from twinkle_tune.slot import Candidate, Implementation, Slot
from twinkle_tune.workload import Workload

DEFAULT = {"block": 1, "back_block": 1}
LOG = "TESTS_TUNABLE_LOG"
"""Names the file to which every process adds a line for each config that a search calls."""
BROKEN = "TESTS_TUNABLE_BROKEN"
"""Set where no config runs."""
SLOW = "TESTS_TUNABLE_SLOW"
"""Seconds that each config takes when a process calls it for the first time, as one that has to be compiled."""
_called: set[int] = set()
ran: list[Config | None] = []
"""Configs with which the layer was called in this process."""


def spun_us(config: Config, rows: int) -> float:
    """Block 4 is fastest for few rows, block 2 for many; the original takes 200."""
    return {1: 150.0, 2: 90.0 if rows < 64 else 40.0, 4: 40.0 if rows < 64 else 90.0, 8: 1.0}[config["block"]]


def _apply(x: Tensor, config: Config | None = None) -> Tensor:
    chosen = DEFAULT if config is None else config
    with Path(os.environ[LOG]).open("a", encoding="utf-8") as log:
        log.write(f"{os.getpid()} {chosen['block']} {chosen['back_block']}\n")
    if chosen["block"] not in _called:
        _called.add(chosen["block"])
        time.sleep(float(os.environ.get(SLOW, "0")))
    if chosen["block"] == 8 or BROKEN in os.environ:
        raise RuntimeError("no such tile")
    spin(spun_us(chosen, x.shape[0]))
    return x * 2


def _inputs(dims: Dims, dtype: torch.dtype, device: str, seed: int, variant: str) -> tuple[Tensor]:
    return (torch.randn(dims["rows"], dims["width"], generator=torch.Generator().manual_seed(seed)).to(dtype),)


OP = Op(
    name="doubling",
    formula="2 x",
    dims=("rows", "width"),
    space=lambda dims: Space(
        parameters=(Parameter(name="block", values=(1, 2, 4, 8)), Parameter(name="back_block", values=(1, 2)))
    ),
    default=lambda dims, architecture: DEFAULT,
    inputs=_inputs,
    reference=lambda x: x * 2,
    apply=_apply,
    launch=lambda *args: ((), ()),
    moved_bytes=lambda dims, itemsize, backward: 0,
    variants={"": {}},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunable:
    """A source as that of our own kernels; ``told`` says whether its calls tell the op's sizes."""

    config: Mapping[str, int] | None = None
    told: bool = True
    kind: str = "spinning"

    def with_config(self, config: Mapping[str, int]) -> Tunable:
        """The same with a config."""
        return replace(self, config=config)

    def op_call(self, workload: Workload) -> OpCall | None:
        """The doubling of the first tensor."""
        x = workload.tensors[0]
        dims = {"rows": x.rows, "width": x.shape[-1]}
        return OpCall(op=OP, dims=dims, dtype=getattr(torch, x.dtype)) if self.told else None

    def load(self, slot: Slot, original: Callable[..., Any]) -> Implementation:
        """A right norm that takes as long as its config says."""
        config = self.config

        def forward(self: nn.Module, x: Tensor) -> Tensor:
            ran.append(config)
            spin(spun_us(config or DEFAULT, x.numel() // x.shape[-1]))
            return norm(self, x)

        return Implementation(call=forward)

    def digest(self, slot: Slot, original: Callable[..., Any]) -> str:
        """Of the config alone."""
        return f"spinning {sorted((self.config or {}).items())}"


def registry(source: Tunable | None = None) -> Registry:
    """The layer with its tunable candidate, named "spinning"."""
    made = Registry()
    register_external_layer(Norm, "Norm", registry=made)
    made.add_layer("Norm", Candidate(name="spinning", source=source or Tunable()))
    return made


def model() -> nn.Module:
    """One norm."""
    torch.manual_seed(0)
    return nn.Sequential(Norm(16))
