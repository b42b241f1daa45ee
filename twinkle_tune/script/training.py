"""A training that somebody else runs: what is kept for its model is applied, or it is tuned after the first step."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from twinkle_tune.call.drawn import random_kept
from twinkle_tune.errors import TuneError, in_a_line
from twinkle_tune.kernel.kernelize import kernelize_model, kernelize_report
from twinkle_tune.kernel.patch import replaced_by_another
from twinkle_tune.mode import Mode
from twinkle_tune.profile.io import load_profile
from twinkle_tune.profile.schema import Profile
from twinkle_tune.script.recording import ModelSeen
from twinkle_tune.script.tuning import tuned
from twinkle_tune.script.watch import Watch, inner_of
from twinkle_tune.tune.budget import seconds_of
from twinkle_tune.tune.isolated import Isolated
from twinkle_tune.tune.kept import keep, place_of, stored
from twinkle_tune.tune.place import available
from twinkle_tune.workload import target_of

AUTO = "auto"


class InTraining:
    """Applies a profile to a model before its training, or finds one on its first step.

    Whatever goes wrong is a line, and the originals run.

    Attributes:
        bound: how many places run something else than their originals; None until that is decided.
    """

    def __init__(self, profile: str | Path | Profile, budget: float | str | None, tell: Callable[[str], None]) -> None:
        """Nothing is applied yet.

        Args:
            profile: one, its path, or "auto": what is kept for the model; where nothing is, it is made and kept.
            budget: seconds that this may take, or a text such as "5m"; None for no limit.
            tell: is given a line for what was done, and for what went wrong.

        Raises:
            TuneError: the budget is no span of time, or the profile is none of these.
            ProfileError: it cannot be read.
        """
        if not isinstance(profile, (str, Path, Profile)):
            raise TuneError(f"profile: got a {type(profile).__name__}, expected 'auto', a path or a Profile")
        self._profile = load_profile(profile) if isinstance(profile, (str, Path)) and profile != AUTO else profile
        self._seconds = seconds_of(budget)
        self._tell = tell
        self._watch: Watch | None = None
        self._may_tune = True
        self._done: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self.bound: int | None = None

    def begin(self, model: nn.Module, autocast: str, *, may_tune: bool = True) -> None:
        """Before the first step, of a trainer that calls the model.

        Args:
            model: as the trainer prepared it.
            autocast: the dtype that autocast casts to in its steps; "" for off.
            may_tune: whether it may be tuned, where nothing is kept: of several processes each would find its own.
        """
        core, self._may_tune = inner_of(model), may_tune
        with self._whatever_happens():
            profile = self._profile if isinstance(self._profile, Profile) else None
            if profile is None:
                profile = stored(self._place(core, available(None, core), autocast), self._tell)
            if profile is not None:
                self._apply(core, profile)
            else:
                self._watch = Watch(within={"": core}, keep_inputs=True)
                self._watch.begin()

    def begin_inside(self, module: nn.Module, *, may_tune: bool = True) -> None:
        """Before the first step, of a trainer that calls a step of a module, which calls one or more models in it.

        Args:
            module: whatever holds the models.
            may_tune: as of :meth:`begin`.
        """
        self._may_tune = may_tune
        with self._whatever_happens():
            if isinstance(self._profile, Profile):
                target = self._profile.model.target
                part = next((each for each in module.modules() if target_of(type(each)) == target), module)
                self._apply(part, self._profile)
            else:
                self._watch = Watch(within={"": module}, keep_inputs=True, found=self._found)
                self._watch.begin()

    def step_ended(self) -> None:
        """After each step of the optimizer; what is to be done is done after the first."""
        watch, self._watch = self._watch, None
        if watch is None:
            return
        watch.end()
        with self._whatever_happens():
            if watch.problem is not None:
                raise watch.problem
            trained = [each for each in watch.pairs() if each[1].mode.trains]
            if not trained:
                self._tell("the originals run: no step of the training was seen")
            new = [each for each in trained if each[0] not in self._done]
            if new and not self._may_tune:
                self._tell("the originals run: no profile is kept, and nothing is tuned in a run of several processes")
                return
            for core, seen, optimizer in new:
                seconds = None if self._seconds is None else self._seconds / len(new)
                ways = not replaced_by_another(core)  # else none could be bound
                with Isolated(ahead=True) as executor:
                    profile = tuned(core, seen, optimizer=optimizer, budget_s=seconds, ways=ways, executor=executor)
                keep(profile, self._place(core, seen.device, seen.autocast), self._tell)
                self._apply(core, profile)

    def end(self) -> None:
        """After the training: nothing is watched any more. What is bound stays."""
        if self._watch is not None:
            self._watch.end()
            self._watch = None

    @contextmanager
    def _whatever_happens(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of the model, the compiler, the disk: the training goes on with the originals
            self._tell(f"the originals run: {in_a_line(error, 300)}")

    def _found(self, model: nn.Module, seen: ModelSeen, *, trains: bool, autocast: str) -> None:
        if trains and model not in self._done:
            with self._whatever_happens():
                profile = stored(self._place(model, seen.device, autocast), self._tell)
                if profile is not None:
                    self._apply(model, profile)

    def _place(self, model: nn.Module, device: str, autocast: str) -> Path:
        return place_of(model, Mode.TRAIN, device, self._tell, autocast)

    def _apply(self, model: nn.Module, profile: Profile) -> None:
        with warnings.catch_warnings(record=True) as heard, random_kept(), torch.inference_mode(False):
            warnings.simplefilter("always")
            kernelize_model(model, profile=profile)
        for line in dict.fromkeys(str(each.message) for each in heard if each.category is UserWarning):
            self._tell(line)
        self._done.add(model)
        bound = len(kernelize_report(model).bound)
        self.bound = bound + (self.bound or 0)
        self._tell(f"{type(model).__name__}: {bound} places do not run their originals. {profile.verdict}")
