"""What ranks do that tune a tensor-parallel model: ``python -m tests.tune.split_cases FOLDER`` writes it there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import LlamaForCausalLM

import tests.shorter  # noqa: F401
from tests import ranks
from tests.coexistence.tiny import bind, gradients, known, logits, tiny_llama, tokens
from twinkle_tune.kernel import kernelize_model, kernelize_report
from twinkle_tune.tune.tune import tune_model

WORLD = 2


def parallel() -> LlamaForCausalLM:
    """The tiny Llama, with its matrices split over the ranks."""
    rank = str(dist.get_rank())
    os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=str(WORLD), LOCAL_WORLD_SIZE=str(WORLD))
    model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(FOLDER / "model", tp_plan="auto").eval()
    assert type(model.model.layers[0].mlp.up_proj.weight).__name__ == "DTensor"
    return model


def as_plain(model: torch.nn.Module, plain: torch.nn.Module) -> bool:
    """Whether a model gives the logits and the gradients of another one, which is whole."""
    mine = {
        name: each.full_tensor() if hasattr(each, "full_tensor") else each for name, each in gradients(model).items()
    }
    theirs = gradients(plain)
    torch.testing.assert_close(logits(model), logits(plain), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
    return True


def tuned(rank: int) -> ranks.Told:
    """Tuned and kernelized together."""
    model = parallel()
    profile = tune_model(model, {"input_ids": tokens()}, candidates="torch", group=dist.group.WORLD)
    kernelize_model(model, profile=profile, group=dist.group.WORLD)
    return {
        "slots": {
            contest.slot.name: [contest.selection.status, contest.selection.reason, len(contest.trials)]
            for contest in profile.contests
        },
        "kept": [kept.reason for kept in kernelize_report(model).kept],
        "right": as_plain(model, tiny_llama()),
    }


def alone(rank: int) -> ranks.Told:
    """Tuned by each for itself."""
    try:
        tune_model(parallel(), {"input_ids": tokens()})
    except Exception as error:
        return {"raised": f"{type(error).__name__}: {error}"}
    return {"raised": ""}


def bound(rank: int) -> ranks.Told:
    """Bound by a profile of the whole model, with a kernel for the norms and one for the MLP, both wrong to be seen."""
    model = bind(parallel(), mlp=True, group=dist.group.WORLD)
    report = kernelize_report(model)
    return {"kept": [kept.reason for kept in report.kept], "right": as_plain(model, bind(tiny_llama()))}


CASES = ranks.cases_of(alone, tuned, bound)
FOLDER = Path()

if __name__ == "__main__":
    FOLDER = Path(sys.argv[1])
    known(mlp=True)
    tiny_llama().save_pretrained(FOLDER / "model")
    sys.exit(ranks.forked(CASES, WORLD, FOLDER))
