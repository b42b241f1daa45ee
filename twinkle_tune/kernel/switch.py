"""Binding what won for a whole model, its attention or its head: by batch, sequence length and mask, and by what else
the calls were given that were measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from twinkle_tune.catalog.attention import continues
from twinkle_tune.kernel.dispatch import Choice, Rule, rules_of
from twinkle_tune.kernel.forward import signature_of_forward
from twinkle_tune.kernel.measured import Accepts, State, accepts_of
from twinkle_tune.profile.schema import Contest
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.workload import Plain, TensorSpec, Workload

Call = Callable[..., Any]
_OF_THE_SIZE = frozenset({"input_ids", "inputs_embeds", "past_key_values"})
"""What :func:`_size` looks at."""
_NEUTRAL = frozenset({"use_cache", "return_dict", "logits_to_keep", "cache_position"})
"""Arguments that change nothing in how the attention or the loss is computed. (The head looks at them itself.)"""
_RETURNS = frozenset({"output_attentions", "output_hidden_states"})
Case = tuple[int, bool]
"""Batch, and whether an attention mask is given."""


def attention_dispatcher(found: Sequence[tuple[Contest, Call | None]], original: Call) -> tuple[Call, str, str] | None:
    """A forward that calls the winner for the calls that were measured; None where the original won all of them.

    Between two measured sequence lengths of one batch their winner runs where both agree. Any other call, one that
    goes on with a cache included, is the original's: also one with an argument that was not measured, with padding in
    a mask that had none, under another autocast or grad mode. So is every call while the switch is set to something
    else than when the winners were measured, or while attentions or hidden states are asked of the configuration.

    Args:
        found: each contest with its winner's forward; None for the original.

    Returns:
        The forward, the winners' names, and what runs where, in words.
    """
    calls = {contest.selection.winner: call for contest, call in found if call is not None}
    rules = size_rules((c.workload, ORIGINAL if call is None else c.selection.winner) for c, call in found)
    steps = {
        case: tuple((r.low, r.high, calls[r.winner.candidate]) for r in made) for case, made in rules.items() if made
    }
    asked = _Asked.of([contest.workload for contest, _ in found], original)
    if not steps:
        return None
    winners = dict.fromkeys(rule.winner.candidate for made in rules.values() for rule in made)
    measured = dict(found[0][0].workload.settings).get("attn_implementation")
    return _dispatcher(steps, original, getattr(measured, "value", None), asked), ", ".join(winners), sizes_text(rules)


def size_rules(measured: Iterable[tuple[Workload, str]]) -> dict[Case, tuple[Rule, ...]]:
    """For which sequence lengths which winner of a whole model's slot runs, by batch and mask.

    Args:
        measured: each call that was measured, and the name of its winner.
    """
    points: dict[Case, list[tuple[int, Choice]]] = {}
    for workload, winner in measured:
        size = _size_of(workload)
        if size is not None:
            points.setdefault(size[0], []).append((size[1], Choice(candidate=winner)))
    return {case: rules_of(winners) for case, winners in sorted(points.items())}


def sizes_text(rules: Mapping[Case, Sequence[Rule]]) -> str:
    """ "1x4 to 1x8: attn:eager; 8x128: attn:sdpa": batch by sequence length; the original runs elsewhere."""
    return "; ".join(
        f"{batch}x{rule.low}"
        + (f" to {batch}x{rule.high}" if rule.high > rule.low else "")
        + f": {rule.winner.candidate}"
        for (batch, _), ruled in rules.items()
        for rule in ruled
    )


def _dispatcher(
    steps: Mapping[Case, Sequence[tuple[int, int, Call]]], original: Call, measured: object, asked: _Asked
) -> Call:
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        size = _size(args, kwargs) if self.config._attn_implementation == measured else None
        if size is not None and size[0] in steps and asked.fits(self, args, kwargs):
            for low, high, call in steps[size[0]]:
                if low <= size[1] <= high:
                    return call(self, *args, **kwargs)
        return original(self, *args, **kwargs)

    return forward


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What the measured calls asked for.

    Attributes:
        names: of the model's parameters, in their order.
        forms: by name what each argument may be, of each call that differs in more than sizes; with it the state of
            the process, and whether its mask was without padding.
        returns: settings of the configuration by which more is returned, that were on.
    """

    names: tuple[str, ...]
    forms: tuple[tuple[Mapping[str, Accepts], State, bool], ...]
    returns: frozenset[str]

    @classmethod
    def of(cls, workloads: Sequence[Workload], original: Call) -> _Asked:
        signature = signature_of_forward(original)
        names = () if signature is None else tuple(signature.parameters)[1:]
        forms = []
        for workload in workloads:
            given = dict(zip(names, workload.args, strict=False)) | dict(workload.kwargs)
            mask = given.get("attention_mask")
            accepts = {
                name: accepts_of(node)
                for name, node in given.items()
                if node != Plain(value=None) and name not in _OF_THE_SIZE
            }
            is_whole = isinstance(mask, TensorSpec) and mask.low == 1
            forms.append((accepts, State.of(workload.context), is_whole))
        settings = dict(workloads[0].settings)
        on = frozenset(name for name in _RETURNS if settings.get(name) == Plain(value=True))
        return cls(names=names, forms=tuple(forms), returns=on)

    def fits(self, model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Whether a call asks for what a measured one did, now."""
        if any(getattr(model.config, name, False) is True for name in _RETURNS - self.returns):
            return False
        given = dict(zip(self.names, args, strict=False)) | dict(kwargs)
        given = {name: value for name, value in given.items() if value is not None}
        mask = given.get("attention_mask")
        tensors = [value for value in given.values() if isinstance(value, torch.Tensor)]
        device = tensors[0].device.type if tensors else "cpu"
        return any(
            self._is_asked(accepts, given)
            and state.is_now(model, tensors, device)
            and (not is_whole or mask is None or bool((mask == 1).all()))
            for accepts, state, is_whole in self.forms
        )

    @staticmethod
    def _is_asked(accepts: Mapping[str, Accepts], given: Mapping[str, Any]) -> bool:
        if any(name not in given for name in accepts if name not in _NEUTRAL):
            return False
        for name, value in given.items():
            if name in _OF_THE_SIZE or name in _NEUTRAL:
                continue
            if name in accepts:
                if not accepts[name](value):
                    return False
            elif not (name == "position_ids" and _is_consecutive(value)):
                return False
        return True


def _is_consecutive(positions: Any) -> bool:
    """Whether positions are those that a model counts by itself: 0, 1, 2, ... in each row."""
    if not isinstance(positions, torch.Tensor) or positions.dim() != 2:
        return False
    return bool((positions == torch.arange(positions.shape[1], device=positions.device)).all())


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
