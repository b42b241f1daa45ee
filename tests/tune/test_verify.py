"""A profile held against the present: what holds, what went stale, what is wrong, what is slower."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.tune.toy import QUICK, Norm, Two, norm, norm_taking, spin
from twinkle_tune import kernelize_model, restore_model, tune_model
from twinkle_tune.errors import TuneError
from twinkle_tune.kernel import Registry, register_external_layer, register_layer_kernel
from twinkle_tune.profile.schema import Profile
from twinkle_tune.tune.verify import Verification, verify_profile

QUICKLY: dict[str, bool] = {}
"""How the contestant behaves now: its code, and so its digest, is the same."""


def moody(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Fast and right, unless told otherwise."""
    if QUICKLY.get("slow"):
        spin(400)
    return norm(self, x) * (1.01 if QUICKLY.get("wrong") else 1.0)


def registry_of(*impls: Callable[..., torch.Tensor]) -> Registry:
    """A registry in which the norm has these contestants."""
    made = Registry()
    register_external_layer(Norm, "Norm", registry=made)
    for impl in impls:
        register_layer_kernel("Norm", layer_impl=impl, device="cpu", registry=made)
    return made


@pytest.fixture(scope="module")
def profile() -> Profile:
    """A profile in which the contestant won both norms."""
    made = tune_model(Two(), torch.randn(8, 16), registry=registry_of(moody), settings=QUICK, candidates=["impl"])
    assert len(made.winners) == 2
    return made


@pytest.fixture(autouse=True)
def _usual_mood() -> None:
    QUICKLY.clear()


def verified(profile: Profile, *impls: Callable[..., torch.Tensor], model: nn.Module | None = None) -> Verification:
    """The profile checked with these contestants registered."""
    return verify_profile(profile, model or Two(), torch.randn(8, 16), registry=registry_of(*impls))


def kinds(found: Verification) -> set[str]:
    """What kinds of problems there are."""
    return {problem.kind for check in found.checks for problem in check.problems}


def test_a_profile_holds_where_it_was_made(profile: Profile) -> None:
    """Nothing changed: every winner is checked, right and faster, and the model is left as it was."""
    model = Two()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = verified(profile, moody, model=model)
    assert found.holds
    assert [check.contest for check in found.checks] == list(profile.winners)
    assert all(check.high is not None and check.high < 1 for check in found.checks)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize(("mood", "words"), [("wrong", "parity: point"), ("slow", "of the original's time")])
def test_a_winner_that_became_wrong_or_slow_fails(profile: Profile, mood: str, words: str) -> None:
    """The same code that computes something else, or takes longer, is found by checking and timing it again."""
    QUICKLY[mood] = True
    found = verified(profile, moody)
    assert not found.holds
    assert kinds(found) == {mood}
    assert words in found.checks[0].problems[0].text


def test_another_environment_is_stale_and_still_checked(profile: Profile) -> None:
    """A profile of another torch does not hold; what changed is named, and parity and speed are told all the same."""
    older = replace(profile, environment=replace(profile.environment, torch="1.0"))
    found = verified(older, moody)
    assert not found.holds
    assert "torch: 1.0 then" in found.stale[0]
    assert kinds(found) == set()
    assert all(check.ratio is not None for check in found.checks)


def test_changed_code_is_named(profile: Profile) -> None:
    """A winner whose digest is another is stale, once, with both digests."""
    (first, *rest) = profile.contests
    name = first.selection.winner
    trials = tuple(replace(t, digest="0" * 16) if t.candidate == name else t for t in first.trials)
    found = verified(replace(profile, contests=(replace(first, trials=trials), *rest)), moody)
    assert found.stale == ()
    assert [bool(check.problems) for check in found.checks] == [True, False]
    assert f"the code of {name!r} changed ({'0' * 16} then" in found.checks[0].problems[0].text


def test_a_winner_that_is_gone_and_calls_that_are_not_made(profile: Profile) -> None:
    """A candidate that is not registered, and a workload that the model does not call, are stale."""
    gone = verified(profile, norm_taking(lambda x: 10))
    assert kinds(gone) == {"stale"}
    assert "no candidate 'impl:moody' is registered" in gone.checks[0].problems[0].text
    elsewhere = verify_profile(profile, Two(), torch.randn(4, 16), registry=registry_of(moody))
    assert kinds(elsewhere) == {"stale"}
    assert "makes no such call" in elsewhere.checks[0].problems[0].text


def test_a_profile_without_winners_holds(profile: Profile) -> None:
    """Where the original won everywhere there is nothing to check."""
    assert verified(replace(profile, contests=()), moody) == Verification(checks=(), stale=())


def test_a_kernelized_model_is_refused(profile: Profile) -> None:
    """A model with kernels bound is an error that says what to do."""
    model, known = Two(), registry_of(moody)
    kernelize_model(model, profile=profile, registry=known)
    with pytest.raises(TuneError, match="restore_model"):
        verify_profile(profile, model, torch.randn(8, 16), registry=known)
    restore_model(model)


def test_an_original_that_cannot_be_tried_is_inconclusive(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that raises by itself ends nothing: each of its winners is neither right nor wrong, and the cause is told."""
    running: list[bool] = []
    whole, alone = Two.forward, Norm.forward

    def in_the_model(self: Two, x: torch.Tensor) -> torch.Tensor:
        running.append(True)
        try:
            return whole(self, x)
        finally:
            running.pop()

    def there_alone(self: Norm, x: torch.Tensor) -> torch.Tensor:
        if not running:
            raise RuntimeError("where is the model?")
        return alone(self, x)

    monkeypatch.setattr(Two, "forward", in_the_model)
    monkeypatch.setattr(Norm, "forward", there_alone)
    found = verified(profile, moody)
    assert not found.holds
    assert kinds(found) == {"inconclusive"}
    assert all("where is the model?" in problem.text for check in found.checks for problem in check.problems)
