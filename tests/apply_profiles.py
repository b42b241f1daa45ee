"""Run by test_families in a process of its own: apply each profile of a folder and say what came of it, as JSON."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.capture.tiny_models import inputs_of, tiny
from twinkle_tune import kernelize_model, kernelize_report, load_profile, restore_model
from twinkle_tune.call.arguments import Call
from twinkle_tune.parity.check import check
from twinkle_tune.profile.schema import Profile


def say(path: Path) -> dict[str, object]:
    """What applying one profile does to the model it was made of."""
    profile = load_profile(path)
    family = path.stem.split(" ")[0]
    model, inputs = tiny(family).train(profile.mode.trains), inputs_of(profile.mode)
    before = outputs_and_gradients(model, inputs, profile)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kernelize_model(model, profile=profile)
        bound = [str(binding) for binding in kernelize_report(model).bound]
        restore_model(model)
    verdict = check(
        run, lambda module, **kwargs: with_kernels(module, profile, **kwargs), [Call(args=(), kwargs=inputs)],
        module=model, trains=profile.mode.trains,
    )  # fmt: skip
    after = outputs_and_gradients(model, inputs, profile)
    return {
        "bound": bound,
        "verdict": type(verdict).__name__,
        "detail": str(verdict)[:500],
        "restored": all(torch.equal(a, b) for a, b in zip(before, after, strict=True)),
        "warnings": [str(w.message) for w in caught],
    }


def run(model: nn.Module, **inputs: Any) -> Tensor:
    """The logits, or the loss where there are labels."""
    made = model(**inputs, use_cache=False)
    return made.loss if "labels" in inputs else made.logits  # type: ignore[no-any-return]


def with_kernels(model: nn.Module, profile: Profile, **inputs: Any) -> Tensor:
    """The same with the profile's winners bound."""
    kernelize_model(model, profile=profile, use_fallback=False)
    try:
        return run(model, **inputs)
    finally:
        restore_model(model)


def outputs_and_gradients(model: nn.Module, inputs: dict[str, Tensor], profile: Profile) -> list[Tensor]:
    """Logits or loss, and in train mode the gradient of every parameter."""
    if not profile.mode.trains:
        with torch.no_grad():
            return [run(model, **inputs)]
    loss = run(model, **inputs)
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [loss, *torch.autograd.grad(loss, parameters)]


if __name__ == "__main__":
    torch.manual_seed(0)
    print(json.dumps({path.stem: say(path) for path in sorted(Path(sys.argv[1]).glob("*.json"))}))
