"""Profiles of a tiny Llama in which Hub kernels won, made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from tests.coexistence.tiny import known, tiny_llama
from tests.kernel.toys import layer_contest
from tests.kernel.toys import profile as profile_of
from tests.report import fabricate
from twinkle_tune.outcome import Selection
from twinkle_tune.profile.schema import Contest, Profile
from twinkle_tune.slot import ORIGINAL

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "kernels-community/activation"


def hub(layer: str = "RMSNorm", commit: str = COMMIT) -> str:
    """The name of a Hub candidate at a commit."""
    return f"hub:{REPO}:{layer}@{commit}"


def norms(winner: str, *, rows: int = 12, source: str = "hub") -> Contest:
    """A contest of all norms at a row count."""
    return _contest(LlamaRMSNorm, "RMSNorm", winner, rows, source)


def mlps(winner: str, *, rows: int = 12, source: str = "hub") -> Contest:
    """A contest of all MLPs."""
    return _contest(LlamaMLP, "GatedMLP", winner, rows, source)


def _contest(kind: type, slot: str, winner: str, rows: int, source: str) -> Contest:
    model = tiny_llama()
    paths = [path for path, module in model.named_modules() if type(module) is kind]
    contest = layer_contest(model, paths, rows, ORIGINAL, known(mlp=True), slot=slot)
    if winner == ORIGINAL:
        return contest
    trial = fabricate.trial(winner, fabricate.measurement(8.0, 8.1, 8.2), source)
    if source == "hub":
        _, repo, place = winner.split(":")
        layer, _, pin = place.partition("@")
        trial = replace(trial, repo=repo, layer=layer, commit=pin if len(pin) == 40 else "")
    chosen = Selection(winner=winner, ratio=0.8, low=0.7, high=0.9, rounds=3, reason="faster")
    return replace(contest, trials=(*contest.trials, trial), selection=chosen)


def profile(*contests: Contest, **changes: Any) -> Profile:
    """A profile of this machine's CPU."""
    return profile_of(contests, **changes)


def on_h100(*contests: Contest) -> Profile:
    """The same, as if it had been measured on an H100."""
    return fabricate.profile(*contests, device="cuda")
