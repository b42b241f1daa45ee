"""A script from its first model's call to its end: watched, with what is kept for its models, or tuned afterwards."""

from __future__ import annotations

import os
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from twinkle_tune.errors import TuneError, in_a_line, one_line
from twinkle_tune.kernel.plan import Plan
from twinkle_tune.profile.folders import usable_folder
from twinkle_tune.profile.outcomes import STORE_VARIABLE, Outcomes
from twinkle_tune.profile.schema import Profile
from twinkle_tune.profile.stores import store_at, store_place
from twinkle_tune.script.applying import Applying
from twinkle_tune.script.online import Online, Rivals
from twinkle_tune.script.raced import Won, raced_profile
from twinkle_tune.script.recording import ModelSeen, Recording
from twinkle_tune.script.rivals import rivals_of
from twinkle_tune.script.saved import Written
from twinkle_tune.script.tuning import is_still, tuned
from twinkle_tune.script.watch import CALLS, Watch
from twinkle_tune.tune.budget import seconds_of
from twinkle_tune.tune.isolated import Isolated
from twinkle_tune.tune.kept import keep, place_of

Then = Literal["apply", "profile", "online"]
_pids: list[int] = []
"""The process that a session watches: one that was forked may have a session of its own."""
MOST_MODELS = 4
"""That are tuned after a script: those with most parameters and calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is to be done with a script's models.

    Attributes:
        then: "apply" what is kept for them, while the script runs; "profile": tune them after it, and keep that;
            "online": where nothing is kept, race inside of the script's own steps.
        budget: seconds that tuning all of them may take, or a text such as "5m"; None for no limit.
        calls: that are recorded after a new model came up.
        keep_inputs: whether tuning is on copies of real inputs, not on made ones.
        record: where the recording goes; None for the cache folder.
        script: what is run: a file or a module, and its arguments.
    """

    then: Then = "apply"
    budget: float | str | None = "5m"
    calls: int = CALLS
    keep_inputs: bool = False
    record: Path | None = None
    script: tuple[str, ...] = field(default_factory=lambda: tuple(sys.argv) or ("",))


class Session:
    """A script's run. Whatever goes wrong in here is a line on stderr: the script does not notice.

    Of several ranks (RANK in the environment) the first one alone tells, writes down and tunes; all apply what is kept.
    """

    def __init__(self, asked: Asked) -> None:
        """Nothing is watched yet.

        Raises:
            TuneError: the budget is no span of time.
        """
        self.asked = asked
        self._seconds = seconds_of(asked.budget)
        self._pid, self._is_begun = os.getpid(), False
        self._applying = Applying() if asked.then != "profile" else None
        self._races: list[Online] = []
        self._speaks = os.environ.get("RANK", "0") == "0"
        self._written = Written(asked.record, asked.script, tell)
        self._watch = Watch(
            calls=asked.calls,
            keep_inputs=asked.keep_inputs or asked.then == "online",
            holds=asked.then == "profile",
            found=None if self._applying is None else self._found,
            grown=(lambda: self._written.write(self._watch.recording)) if self._speaks else None,
        )

    def begin(self) -> None:
        """Watch the process, unless another session does."""
        if not _pids or _pids[-1] != self._pid:
            _pids.append(self._pid)
            self._is_begun = True
            self._watch.begin()

    def called(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Callable[[], None] | None:
        """A call that began before the session did: as of :class:`~twinkle_tune.script.outermost.Listens`."""
        return self._watch.called(module, args, kwargs) if self._is_begun else None

    def end(self, how: str, *, is_fine: bool) -> None:
        """The script has ended: write down what was seen, say what became of it, and tune if that was asked for.

        Args:
            how: it ended, in words.
            is_fine: whether it did what it was to do; else nothing is tuned.
        """
        if os.getpid() != self._pid:
            return
        _pids[:] = [pid for pid in _pids if pid != self._pid]
        self._watch.end()
        for race in self._races:
            race.end()
        if not self._speaks:
            return
        if self._watch.problem is not None:
            tell(f"watching stopped early: {in_a_line(self._watch.problem, 200)}")
        recording = self._watch.recording
        if not recording.models:
            return
        self._written.write(recording, ended=how)
        if self._applying is not None:
            for line in self._applying.lines(recording):
                tell(line)
        elif is_fine:
            self._tune(recording)
        else:
            tell(f"nothing is tuned, since the script ended with {how}; recorded: {self._written.path}")

    def _found(self, model: nn.Module, seen: ModelSeen, *, trains: bool, autocast: str) -> None:
        assert self._applying is not None
        self._applying.found(model, seen, trains=trains, autocast=autocast)
        before = next((race for race in reversed(self._races) if race.model is model), None)
        is_applied = self._applying.is_applied(model)
        if before is not None and is_applied:
            before.cancel()
        if self.asked.then != "online" or is_applied or (before is not None and (before.trains or not trains)):
            return
        if before is not None:  # it was evaluated first, and is trained now
            before.end("the model is trained")
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            tell(f"{seen.name} is not raced: ranks would wait for each other; what is kept is applied")
            return
        rivals, won = self._raced(weakref.ref(model), seen.digest)
        self._races.append(Online(model, rivals, tell, trains=trains, won=won))
        self._races[-1].begin()

    def _raced(self, ref: weakref.ref[nn.Module], digest: str) -> tuple[Rivals, Callable[[Won], None]]:
        """What judges the rivals of a model, and what keeps the profile of the one that stays."""
        profiles: dict[str, Profile] = {}

        def model_seen() -> tuple[nn.Module, ModelSeen] | None:
            return next(((core, seen) for core, seen, _ in self._watch.pairs() if core is ref()), None)

        def judged() -> Mapping[str, Plan]:
            found = model_seen()
            rivals = rivals_of(*found, self._seconds) if found is not None else {}
            profiles.update({name: rival.profile for name, rival in rivals.items()})
            return {name: rival.plan for name, rival in rivals.items()}

        def keep_winner(won: Won) -> None:
            found = model_seen()
            if found is None or not self._speaks:
                return
            core, seen = found
            profile, autocast = raced_profile(profiles[won.name], won), seen.autocast
            keep(profile, place_of(core, seen.mode, seen.device, tell, autocast), tell)
            assert self._applying is not None
            self._applying.kept(digest)

        return judged, keep_winner

    def _tune(self, recording: Recording) -> None:
        found = sorted(self._watch.pairs(), key=lambda each: -each[1].total * each[1].parameters)[:MOST_MODELS]
        left = len({model.digest for model in recording.models}) - len(found)
        seconds = None if self._seconds is None else self._seconds / max(1, len(found))
        for model, seen, optimizer in found:
            try:
                self._tune_one(model, seen, optimizer, seconds)
            except KeyboardInterrupt:
                tell(f"interrupted: {seen.name} is not tuned, nor what would come after it")
                return
            except Exception as error:  # of the user's model, the compiler, the disk
                tell(f"{seen.name} is not tuned: {in_a_line(error, 400)}")
        if left:
            tell(f"{left} more were called less, or are smaller: not tuned; watch a part of the script for those")

    def _tune_one(self, model: nn.Module, seen: ModelSeen, optimizer: Any, seconds: float | None) -> None:
        if not is_still(model, seen):
            tell(f"{seen.name} is not tuned: its settings or layers are others than when it was called first")
            return
        tell(f"tuning {seen.text}")
        path = place_of(model, seen.mode, seen.device, tell, seen.autocast)
        began_s = time.monotonic()
        with Isolated(ahead=True) as executor:
            profile = tuned(
                model, seen, optimizer, budget_s=seconds, ways=True, executor=executor, store=_past_outcomes()
            )
        keep(profile, path, tell)
        for line in str(profile).splitlines():
            tell(line)
        took = time.monotonic() - began_s
        tell(f"took {took:.0f} s; kept for the next run: {path} ('twinkle-tune report' shows it)")


def _past_outcomes() -> Outcomes | None:
    """The store of past outcomes, so that a run goes on where one before it was stopped; None where there is none."""
    try:
        place = store_place() if os.environ.get(STORE_VARIABLE) else store_place(folder=usable_folder(tell))
        return None if place is None else store_at(place)
    except TuneError as error:
        tell(f"no store: {in_a_line(error, 200)}")
        return None


def tell(text: str) -> None:
    """One line to people, on stderr; where nobody can be told any more, nothing happens."""
    try:
        sys.stderr.write(f"twinkle-tune: {one_line(text, 2000)}\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass
