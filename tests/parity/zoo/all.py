"""The whole zoo, and a judge for any of its ops on any seed."""

from __future__ import annotations

import torch

from tests.parity.zoo.ops import OPS
from tests.parity.zoo.scaled import LOSSES
from tests.parity.zoo.wrong import Wrong
from tests.parity.zoo.wrong_conduct import CONDUCT
from tests.parity.zoo.wrong_first import FIRST
from tests.parity.zoo.wrong_more import MORE
from twinkle_tune.call.arguments import Call, snapshot, vary
from twinkle_tune.parity.calls import kin_calls, parity_calls
from twinkle_tune.parity.check import Judge

WRONG: tuple[Wrong, ...] = (*FIRST, *MORE, *CONDUCT)
EVERY = {**OPS, **LOSSES}


def call_of(op: str, dtype: torch.dtype, trains: bool, seed: int) -> Call:
    """The captured call of a seed: other values for each."""
    _, args = EVERY[op].make(dtype, trains)
    return vary(snapshot(args, {}), seed=1000 * seed)


def zoo_judge(op: str, dtype: torch.dtype, trains: bool, seed: int, *, strict: bool = False) -> Judge:
    """A judge as a contest makes it."""
    call = call_of(op, dtype, trains, seed)
    return Judge(
        EVERY[op].original,
        parity_calls(call, 1000 * seed),
        module=EVERY[op].make(dtype, trains)[0],
        trains=trains,
        seed=seed,
        kin=kin_calls(call, 1000 * seed),
        strictness="strict" if strict else "normal",
    )
