"""The winners of a profile as code, each loaded once, and what of the profile does not hold any more."""

from __future__ import annotations

from dataclasses import dataclass, replace

from twinkle_tune.errors import TuneError
from twinkle_tune.kernel.find import contestants
from twinkle_tune.kernel.registry import Registry
from twinkle_tune.mode import Mode
from twinkle_tune.occurrence import Occurrence
from twinkle_tune.profile.schema import Contest
from twinkle_tune.slot import ORIGINAL, Implementation
from twinkle_tune.source.layout import or_original
from twinkle_tune.source.tried import as_tried


@dataclass(frozen=True, slots=True, kw_only=True)
class Stale:
    """An entry of a profile that does not hold any more: a slot's winner, and why."""

    slot: str
    winner: str
    what: str

    def is_of(self, contest: Contest) -> bool:
        """Whether it is said of this contest's winner."""
        return (self.slot, self.winner) == (contest.slot.name, contest.selection.winner)

    def __str__(self) -> str:
        return f"{self.slot} ({self.winner}): {self.what}"


class Resolver:
    """Loads winners once each, and notes the entries that do not hold any more."""

    def __init__(self, device: str, mode: Mode, registry: Registry) -> None:
        self.stale: list[Stale] = []
        self.device = device
        self._mode, self.registry = mode, registry
        self.registered_functions = {f"{module}:{function}" for module, function in registry.functions}
        self._notes: dict[int, str] = {}
        self._loaded: dict[int, Implementation | None] = {}

    def winner(self, contest: Contest, occurrence: Occurrence) -> Implementation | None:
        """The winner's implementation; None where it is the original or does not hold any more."""
        if contest.selection.winner == ORIGINAL:
            return None
        if id(contest) not in self._loaded:
            try:
                self._loaded[id(contest)] = self._load(contest, occurrence)
            except TuneError as error:
                self.note(contest, str(error))
                self._loaded[id(contest)] = None
        return self._loaded[id(contest)]

    def why(self, contest: Contest) -> str:
        """Why a contest leaves its workload with the original."""
        return self._notes.get(id(contest), contest.selection.reason)

    def note(self, contest: Contest, what: str) -> None:
        """Note that an entry is stale, once."""
        self._notes[id(contest)] = what
        stale = Stale(slot=contest.slot.name, winner=contest.selection.winner, what=what)
        if stale not in self.stale:
            self.stale.append(stale)

    def _load(self, contest: Contest, occurrence: Occurrence) -> Implementation | None:
        slot, original = occurrence.slot, occurrence.original
        competing = {c.name: c for c in contestants(occurrence, self.device, self._mode, self.registry)}
        tried = {trial.candidate: trial for trial in contest.trials}
        sources = {name: as_tried(c.source, tried.get(name)) for name, c in competing.items()}
        for name in (ORIGINAL, contest.selection.winner):
            if name not in competing:
                self.note(contest, f"no candidate {name!r} is registered for it here; register it, or profile again")
                return None
            recorded = contest.trial(name).digest
            now = sources[name].digest(slot, original)
            if recorded != now:
                self.note(contest, f"the code of {name!r} changed ({recorded} then, {now} now); profile again")
                return None
        loaded = sources[contest.selection.winner].load(slot, original)
        unfit = loaded.unfit_for(self._mode)
        if unfit:
            self.note(contest, unfit)
            return None
        return replace(loaded, call=or_original(loaded.call)) if loaded.converts else loaded
