"""A model with winners bound against itself without them: outputs, gradients, generated tokens."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from twinkle_tune import kernelized
from twinkle_tune.capture.point import tensors_in
from twinkle_tune.capture.step import make_steps
from twinkle_tune.contest.agree import FACTOR, disagreement
from twinkle_tune.kernel.plan_profile import plan_profile
from twinkle_tune.kernel.registry import default_registry
from twinkle_tune.mode import Mode
from twinkle_tune.profile.schema import Profile
from twinkle_tune.tune.flags import flags_kept

_NEW_TOKENS = 8


def outputs_of(model: nn.Module, inputs: dict[str, Any], mode: Mode) -> list[Tensor]:
    """The floating outputs; in training the loss and the gradients of all parameters. Nothing is left behind."""
    with flags_kept(model, mode), _seeded():
        if not mode.trains:
            with torch.no_grad():
                return [t.detach().clone() for t in tensors_in(model(**inputs)) if t.is_floating_point()]
        made = [t for t in tensors_in(model(**inputs)) if t.is_floating_point() and t.requires_grad]
        total = torch.stack([t.float().pow(2).mean() for t in made]).sum()
        parameters = [p for p in model.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        return [total.detach(), *(g for g in gradients if g is not None)]


def same_bits(one: list[Tensor], other: list[Tensor]) -> bool:
    """Whether two lists of tensors are equal bit for bit; NaN equals NaN."""
    return len(one) == len(other) and all(
        a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.isnan(), b.isnan())
        and torch.equal(a.nan_to_num(), b.nan_to_num())
        for a, b in zip(one, other, strict=True)
    )  # fmt: skip


def too_far(model: nn.Module, inputs: dict[str, Any], mode: Mode, profile: Profile) -> str:
    """Why a model with a profile's winners does not compute what the original does; "" where it does.

    Each step of the profile is held against what roundings do to the original (see :mod:`twinkle_tune.contest.agree`).
    """
    plan = plan_profile(model, profile, "cpu", mode, default_registry)
    # A step that we made up and that the model does not take stands in the profile with a note, and was never timed.
    taken = {step.label for step in profile.steps if step.alone_us}
    with flags_kept(model, mode):
        for step in (step for step in make_steps(model, [inputs], mode, "cpu") if step.label in taken):
            why = disagreement(model, step, plan)
            if why:
                return f"step {step.label}: {why}"
    return ""


def generated(model: nn.Module, inputs: dict[str, Any], profile: Profile) -> tuple[str, str]:
    """How the next tokens with winners compare with the original's, and why that is wrong ("" where it is not).

    A decoder gets a batch whose second row is padded on the left. Where a token differs, the original's own two best
    logits there must be as close as the two models' logits are apart.
    """
    can = getattr(model, "can_generate", None)
    if can is None or not can() or "input_ids" not in inputs:
        return "", ""
    asked = _to_generate(model, inputs)
    try:
        first, logits = _generate(model, asked)
    except Exception:
        return "", ""  # it cannot by itself
    with kernelized(model, profile=profile):
        second, others = _generate(model, asked)
    if torch.equal(first, second):
        return "same", ""
    for step, (mine, theirs) in enumerate(zip(logits, others, strict=False)):
        picked, other = mine.argmax(-1), theirs.argmax(-1)
        for row in (picked != other).nonzero().flatten().tolist():
            gap = float(mine[row, picked[row]] - mine[row, other[row]])
            finite = mine[row].isfinite() & theirs[row].isfinite()
            apart = float((mine[row] - theirs[row])[finite].abs().max())
            size = float(mine[row][finite].abs().max())
            if gap <= 2 * apart and apart <= FACTOR * 64 * torch.finfo(mine.dtype).eps * size:
                return "a tie", ""
            return "", f"token {step} of row {row} differs: logits {gap:.3g} apart there, models {apart:.3g} apart"
        if not torch.equal(picked, other):
            break
    return "", "tokens differ where the logits pick the same"


def _to_generate(model: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    asked = {name: value for name, value in inputs.items() if not name.startswith(("decoder_", "labels"))}
    if "attention_mask" in asked and not getattr(model.config, "is_encoder_decoder", False) and len(asked) == 2:
        mask = asked["attention_mask"].clone()
        mask[1, :3] = 0
        asked["attention_mask"] = mask
    return asked


def _generate(model: nn.Module, asked: dict[str, Any]) -> tuple[Tensor, tuple[Tensor, ...]]:
    with torch.no_grad(), _seeded():
        made: Any = model.generate(  # type: ignore[operator]
            **asked,
            max_new_tokens=_NEW_TOKENS,
            min_new_tokens=_NEW_TOKENS,
            do_sample=False,
            num_beams=1,
            return_dict_in_generate=True,
            output_logits=True,
        )
    return made.sequences, tuple(each.float() for each in made.logits)


@contextmanager
def _seeded() -> Iterator[None]:
    """What a model draws is the same in each run, of whatever generator."""
    states = random.getstate(), numpy.random.get_state()
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        random.seed(0)
        numpy.random.seed(0)
        try:
            yield
        finally:
            random.setstate(states[0])
            numpy.random.set_state(states[1])
