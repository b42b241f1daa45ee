"""The winners of another machine's profile, tried on a model here before ``kernelize_model`` binds them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from twinkle_tune.errors import TuneError, in_a_line
from twinkle_tune.kernel.elsewhere import Tried
from twinkle_tune.kernel.kernelize import unbound
from twinkle_tune.kernel.plan import Kept
from twinkle_tune.kernel.registry import Registry
from twinkle_tune.outcome import UNDECIDED, Rejection
from twinkle_tune.profile.folders import usable_folder
from twinkle_tune.profile.outcomes import STORE_VARIABLE, Outcomes
from twinkle_tune.profile.schema import Contest, Profile
from twinkle_tune.profile.stores import store_at, store_place
from twinkle_tune.slot import ATTENTION, HEAD, MODEL
from twinkle_tune.tune.autocast import autocast_to
from twinkle_tune.tune.isolated import Isolated
from twinkle_tune.tune.neighbour import Neighbour
from twinkle_tune.tune.tune import tune_model
from twinkle_tune.workload import call_text

BUDGET = "2m"
"""How long the contests may take; what is left of it for none keeps the original."""
_MOST_MICRO_BATCHES = 64
"""Of a training step at most so many are run here: each costs its time, whatever number the profile names."""
_NO_CALL = "the model makes no such call with these inputs; give inputs of the sizes that were profiled"


def tried(model: nn.Module, example_inputs: object, there: Profile, whose: str, registry: Registry) -> Tried:
    """Let each winner of a profile compete with the original alone, as :func:`twinkle_tune.tune_model` does.

    Nobody else competes. What this machine has found out before, in an earlier call as well, is not held again.
    Meanwhile the model has its originals; afterwards it has again what was bound to it.

    Raises:
        CaptureError: the model cannot be run on the inputs.
        TuneError: of the contests.
    """
    won = {contest.slot.name for contest in there.winners}
    neighbour = Neighbour(profile=there, whose=whose, alone=True)
    problems: list[str] = []
    with (
        unbound(model),
        _store(problems) as store,
        autocast_to(max(there.autocasts, default=""), there.device),
        Isolated() as executor,
    ):
        here = tune_model(
            model, example_inputs, mode=there.mode, device=there.device, name=there.model.name, budget_s=BUDGET,
            progress=False, registry=registry, executor=executor, store=store, attention=ATTENTION in won,
            head=HEAD in won, ways=bool(there.setups), objective=there.objective, slowdown=there.slowdown,
            dynamic=there.dynamic, accumulate=min(there.accumulate or 1, _MOST_MICRO_BATCHES),
            neighbour=neighbour,
        )  # fmt: skip
    told = "; ".join((neighbour.told(here.contests, here.setups), *problems))
    return Tried(profile=here, told=told, lost=(*_lost(there, here), *_lost_ways(there, here)))


@contextmanager
def _store(problems: list[str]) -> Iterator[Outcomes | None]:
    """The store of past outcomes; None where there is none, and everything is tried anew. A wrong one is a problem."""
    store = None
    try:
        place = store_place(folder=usable_folder(lambda line: None))
        store = None if place is None else store_at(place)
    except TuneError as error:
        if os.environ.get(STORE_VARIABLE):
            problems.append(f"no store of past outcomes: {in_a_line(error, 200)}")
    try:
        yield store
    finally:
        if store is not None:
            store.close()


def _lost(there: Profile, here: Profile) -> Iterator[Kept]:
    """The winners that are not winners here."""
    held = {_key(contest): contest for contest in here.contests}
    for contest in there.winners:
        now, winner = held.get(_key(contest)), contest.selection.winner
        if now is None:
            why = _NO_CALL
        elif now.selection.winner == winner:
            continue
        elif winner not in [trial.candidate for trial in now.trials] and now.status not in UNDECIDED:
            why = f"no candidate {winner!r} is registered for it here; register it"
        else:
            lost = [trial.outcome for trial in now.trials if trial.candidate == winner]
            refused = next((f"{each.stage}: {each.reason}" for each in lost if isinstance(each, Rejection)), "")
            why = refused or now.selection.reason
        yield Kept(slot=f"{contest.slot.name} {call_text(contest.workload)} ({winner})", reason=why)


def _lost_ways(there: Profile, here: Profile) -> Iterator[Kept]:
    won = {(setup.label, setup.way) for setup in here.setups}
    for setup in there.setups:
        if (setup.label, setup.way) not in won:
            records = [way for way in here.compiled if (way.label, way.way) == (setup.label, setup.way)]
            found = [way.problem or way.taken_back or f"it takes {way.ratio:.3f} of the time" for way in records]
            yield Kept(slot=f"{MODEL} {setup.label} ({setup.way})", reason=found[0] if found else _NO_CALL)


def _key(contest: Contest) -> tuple[str, str]:
    return contest.slot.target, contest.workload.key
