"""What of a profile a mapping can say: one Hub kernel for a name, or the original. The rest is listed, with reasons."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass

from twinkle_tune.outcome import Measurement
from twinkle_tune.profile.schema import Contest, Profile
from twinkle_tune.slot import CONVERTS, ORIGINAL, Slot, SlotKind
from twinkle_tune.workload import call_text

_COMMIT = re.compile(r"[0-9a-f]{40}")
_WHY_NOT = {
    "impl": "it was given in Python, and no kernel repo holds it",
    "repo": "it came from a repo object, which a file cannot hold",
    "local": "it is in a folder of the machine that was profiled",
    "torch": "it is made of torch's own functions, and no kernel repo holds it",
    "compile": "it is torch.compile of the original, for the shapes that were measured",
    "triton": "it is a kernel of twinkle_tune, and no kernel repo holds it",
    "liger": "it is a kernel of the package liger-kernel, and no kernel repo holds it",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HubKernel:
    """A layer of a repo on the Hub, at a commit."""

    repo_id: str
    layer: str
    commit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LigerKernel:
    """What Twinkle's ``liger_builtin()`` has for a class or function."""


Kernel = HubKernel | LigerKernel


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What one name of a mapping stands for.

    Attributes:
        name: the name of a kernel, or of a class or function where the mapping is one of those.
        classes: "module:qualified.name" of the classes, or of the function, that it replaces.
        kernel: the winner; None where the original stays.
    """

    name: str
    classes: tuple[str, ...]
    kernel: Kernel | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A winner that the mapping cannot express: ``where`` is the slot and the call, ``reason`` says why."""

    where: str
    winner: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Entries of a mapping, ordered by name, and the winners that are not among them."""

    entries: tuple[Entry, ...]
    left_out: tuple[LeftOut, ...]


def kernel_name(slot: Slot) -> str:
    """The name by which a mapping of the kernels package means a layer slot: its class's, else the slot's.

    Only classes of transformers are imported to be asked: a profile is data, and names what it likes.
    """
    module, _, path = slot.target.partition(":")
    if module.split(".")[0] != "transformers":
        return slot.name
    try:
        found: object = importlib.import_module(module)
    except ImportError:
        return slot.name
    for part in path.split("."):
        found = getattr(found, part, None)
    return str(getattr(found, "kernel_layer_name", slot.name))


def by_kernel_name(profile: Profile) -> Choice:
    """For a mapping that has one kernel for all layers of a name."""
    return _choice(profile, kernel_name)


def by_class(profile: Profile) -> Choice:
    """For Twinkle's mapping, which has one kernel for all instances of a class, or for a function.

    Liger's winners are among them: Twinkle has a mapping of Liger's kernels.
    """
    return _choice(profile, lambda slot: slot.target, with_liger=True)


def _choice(profile: Profile, name_of: Callable[[Slot], str], *, with_liger: bool = False) -> Choice:
    groups: dict[str, list[Contest]] = {}
    left_out: list[LeftOut] = []
    of_liger = {c.slot for c in profile.winners if _is_liger(c)} if with_liger else set()
    for contest in profile.contests:
        if contest.slot.kind is SlotKind.LAYER or contest.slot in of_liger:
            groups.setdefault(name_of(contest.slot), []).append(contest)
        elif contest.selection.winner != ORIGINAL:
            what = "a function" if contest.slot.kind is SlotKind.FUNCTION else "a piece of a block's graph"
            left_out.append(_left_out(contest, f"it replaces {what}, and the mapping names layers"))
    entries = []
    for name, contests in sorted(groups.items()):
        kernel, refused = _agreed(contests, with_liger=with_liger)
        left_out += refused
        classes = tuple(sorted({contest.slot.target for contest in contests}))
        entries.append(Entry(name=name, classes=classes, kernel=kernel))
    return Choice(entries=tuple(entries), left_out=tuple(left_out))


def _agreed(contests: list[Contest], *, with_liger: bool) -> tuple[Kernel | None, list[LeftOut]]:
    """The kernel that won all contests of a name; else None, and what is left out and why."""
    found = [
        (contest, LigerKernel() if with_liger and _is_liger(contest) else _hub_kernel(contest)) for contest in contests
    ]
    kernels = {None if isinstance(kernel, str) else kernel for _, kernel in found}
    if len(kernels) == 1:
        agreed = kernels.pop()
        return agreed, [_left_out(contest, why) for contest, why in found if isinstance(why, str)]
    disagreed = "it did not win every contest of this name, and a mapping has one kernel for a name"
    return None, [
        _left_out(contest, kernel if isinstance(kernel, str) else disagreed)
        for contest, kernel in found
        if kernel is not None
    ]


def _is_liger(contest: Contest) -> bool:
    winner = contest.selection.winner
    return winner != ORIGINAL and contest.trial(winner).source == "liger" and "<" not in contest.slot.target


def _hub_kernel(contest: Contest) -> HubKernel | str | None:
    """The winner as a mapping names it, or why it cannot; None where the original won."""
    if contest.selection.winner == ORIGINAL:
        return None
    trial = contest.trial(contest.selection.winner)
    if contest.slot.kind is not SlotKind.LAYER:
        return "it replaces a function, and the mapping names layers"
    if not (trial.source == "hub" and trial.repo and trial.layer):
        return _WHY_NOT.get(trial.source, f"its source is {trial.source!r}, which a mapping does not know")
    if isinstance(trial.outcome, Measurement) and CONVERTS in trial.outcome.notes:
        return f"{CONVERTS}, which a mapping that is read after loading cannot say; give it to KernelConfig"
    if "<" in contest.slot.target:
        return "its class is made inside of a function, where nothing can name it"
    if not _COMMIT.fullmatch(trial.commit):
        return "the profile does not say at which commit it was measured; profile again"
    return HubKernel(repo_id=trial.repo, layer=trial.layer, commit=trial.commit)


def _left_out(contest: Contest, reason: str) -> LeftOut:
    return LeftOut(where=_where(contest), winner=contest.selection.winner, reason=reason)


def _where(contest: Contest) -> str:
    return f"{contest.slot.name} ({contest.slot.target}) at {call_text(contest.workload)}"
