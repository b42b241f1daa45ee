"""Binding the attention that won: by batch, sequence length and mask, as the calls were that were measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from twinkle_tune.catalog.attention import continues
from twinkle_tune.kernel.dispatch import rules_of
from twinkle_tune.profile.schema import Contest
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.workload import Plain, TensorSpec, Workload

Call = Callable[..., Any]
Case = tuple[int, bool]
"""Batch, and whether an attention mask is given."""


def attention_dispatcher(found: Sequence[tuple[Contest, Call | None]], original: Call) -> tuple[Call, str, str] | None:
    """A forward that calls the winner for the calls that were measured; None where the original won all of them.

    Between two measured sequence lengths of one batch their winner runs where both agree. Any other call, one that
    goes on with a cache included, is the original's; so is every call while the switch is set to something else than
    when the winners were measured.

    Args:
        found: each contest with its winner's forward; None for the original.

    Returns:
        The forward, the winners' names, and what runs where, in words.
    """
    points: dict[Case, list[tuple[int, str]]] = {}
    calls: dict[str, Call] = {}
    for contest, call in found:
        size = _size_of(contest.workload)
        if size is not None:
            winner = ORIGINAL if call is None else contest.selection.winner
            points.setdefault(size[0], []).append((size[1], winner))
            calls |= {} if call is None else {winner: call}
    rules = {case: rules_of(measured) for case, measured in sorted(points.items())}
    steps = {case: tuple((r.low, r.high, calls[r.winner]) for r in made) for case, made in rules.items() if made}
    if not steps:
        return None
    told = [
        f"{case[0]}x{r.low}" + (f" to {case[0]}x{r.high}" if r.high > r.low else "") + f": {r.winner}"
        for case, made in rules.items()
        for r in made
    ]
    winners = dict.fromkeys(rule.winner for made in rules.values() for rule in made)
    measured = dict(found[0][0].workload.settings).get("attn_implementation")
    return _dispatcher(steps, original, getattr(measured, "value", None)), ", ".join(winners), "; ".join(told)


def _dispatcher(steps: Mapping[Case, Sequence[tuple[int, int, Call]]], original: Call, measured: object) -> Call:
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        size = _size(args, kwargs) if self.config._attn_implementation == measured else None
        if size is not None:
            for low, high, call in steps.get(size[0], ()):
                if low <= size[1] <= high:
                    return call(self, *args, **kwargs)
        return original(self, *args, **kwargs)

    return forward


def _size(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Case, int] | None:
    ids = args[0] if args else kwargs.get("input_ids")
    ids = kwargs.get("inputs_embeds") if ids is None else ids
    cache = kwargs.get("past_key_values")
    if len(args) > 1 or not isinstance(ids, torch.Tensor) or ids.dim() < 2:
        return None
    if cache is not None and not (hasattr(cache, "get_seq_length") and cache.get_seq_length() == 0):
        return None
    return (ids.shape[0], kwargs.get("attention_mask") is not None), ids.shape[1]


def _size_of(workload: Workload) -> tuple[Case, int] | None:
    named = dict(workload.kwargs)
    found = (*workload.args[:1], named.get("input_ids"), named.get("inputs_embeds"))
    ids = next((node for node in found if isinstance(node, TensorSpec)), None)
    if ids is None or len(workload.args) > 1 or len(ids.shape) < 2 or continues(workload):
        return None
    masked = named.get("attention_mask", Plain(value=None)) != Plain(value=None)
    return (ids.shape[0], masked), ids.shape[1]
