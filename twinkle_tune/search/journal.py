"""The search's own record: an Optuna study, in memory, in a journal to go on from, or shared by several workers.

Where it is shared, a config is claimed by writing down that it is being tried, and reading what is there then: of two
trials of one config the lower number has it. Numbers are given one by one, in the journal by its lock and on a server
by that of the study's row. So exactly one worker has each config, and needs nothing but the study for it.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twinkle_tune.ops.space import Config, Space
from twinkle_tune.outcome import Rejection
from twinkle_tune.search.record import SharedStudy, Tried
from twinkle_tune.search.storage import open_study, usable
from twinkle_tune.search.worker import Leases, worker_name

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

SILENT_S = 10.0
"""A study in which nothing happened for so long has no other worker."""
_RUNS = "runs"
"""Name of the constraint that configs violate which were refused."""
_WINNER = "winner"
"""Attribute of a trial that times nothing, and tells whom a worker's final race found the best."""


class SearchJournal:
    """What was tried, in order; each entry is on the disk before the next config is touched.

    A config that was being tried when the process ended is tried once more. If the process ends then too, it is
    refused: a kernel can take its process with it.

    Attributes:
        tried: what came to an end, of other workers too.
        claimed: what other workers are trying, as of the last look.
        left: of a shared study, configs that a worker was trying that is gone, and how each was found: others try them.
    """

    def __init__(self, space: Space, name: str, place: Path | SharedStudy | None = None) -> None:
        """Open the journal of one search, or begin it.

        Args:
            space: its configs.
            name: equal for searches with the same question; a place may hold several.
            place: a file of its own, or a study that is shared; None for a journal that ends with the process.

        Raises:
            TuneError: the place cannot be read or written.
        """
        from optuna.distributions import CategoricalDistribution

        self._distributions: dict[str, BaseDistribution] = {
            each.name: CategoricalDistribution(each.values) for each in space.parameters
        }
        self._place, self._space = place, space
        self._shared = isinstance(place, SharedStudy)
        self._worker = worker_name()
        self._leases = Leases()
        self._study = open_study(name, place)
        self._running: FrozenTrial | None = None
        self.tried: list[Tried] = []
        self.claimed: list[Tried] = []
        self.left: list[tuple[Config, str]] = []
        self._timed, self._own = 0, 0
        self._read()
        self._heard, self._heard_s = len(self.tried), time.monotonic()

    def seed(self, seed: int) -> int:
        """Of what is drawn at random: of a shared study each worker draws otherwise, or all would want the same."""
        if not isinstance(self._place, SharedStudy):
            return seed
        digest = hashlib.sha256(f"{seed}/{self._place.worker or self._worker}".encode()).digest()
        return int.from_bytes(digest[:6], "big")

    def look(self) -> None:
        """See what other workers did and are doing; nothing where there are none."""
        if not self._shared:
            return
        self._read()
        # What this worker tried itself says nothing of the others.
        heard = len(self.tried) - self._own
        if self.claimed or heard != self._heard:
            self._heard, self._heard_s = heard, time.monotonic()

    def leaves_to_others(self, timings: int) -> bool:
        """Whether this worker has timed its share of so many, and the looks saw others at work not long ago."""
        if not isinstance(self._place, SharedStudy) or self._timed < self._place.share(timings):
            return False
        return time.monotonic() - self._heard_s < SILENT_S

    def begin(self, config: Config, how: str, most: float = math.inf) -> bool:
        """Write down that a config is about to be tried.

        Returns:
            Whether it is this worker's: False where another one has it, or where so many as ``most`` were timed or are
            being tried.
        """
        trial = self._add(config, {"how": how})
        if self._shared:
            before = [each for each in self._trials() if each.number < trial.number]
            living = self._living(before)
            is_taken = any(
                _has_come_to_an_end(each) or each.number in living for each in before if each.params == trial.params
            )
            if is_taken or sum(_was_timed(each) or each.number in living for each in before) >= most:
                self._tell(trial, None)
                return False
        self._running = trial
        return True

    def end(self, tried: Tried) -> None:
        """Write down what came of the config that was begun last."""
        from optuna.trial import Trial, TrialState

        assert self._running is not None
        if tried.refused is None:
            with usable(self._place):
                self._study.tell(self._running.number, tried.time_us)
        else:
            with usable(self._place):
                trial = Trial(self._study, self._running._trial_id)
                trial.set_constraint(_RUNS, 1.0)
                trial.set_user_attr("refused", [tried.refused.stage, tried.refused.reason])
            self._tell(self._running, TrialState.FAIL)
        self._running = None
        self._timed += tried.refused is None
        self._own += 1
        self.tried.append(tried)

    def let_go(self) -> None:
        """Leave the config that was begun last to the other workers, of which there may be some."""
        if self._shared and self._running is not None:
            self._tell(self._running, None)
        self._running = None

    def agreed(self, winner: Config) -> Config:
        """The winner that the workers go on with: that of whose final race was over first. Alone, one's own."""
        if not self._shared:
            return winner
        self._tell(self._add(winner, {_WINNER: True}), None)
        told = [trial.params for trial in self._trials() if trial.user_attrs.get(_WINNER)]
        return next((config for config in told if not self._space.unfit(config)), winner)

    def _read(self) -> None:
        trials = self._trials()
        living = self._living(trials) if self._shared else set()
        self.tried = _history([trial for trial in trials if trial.number not in living])
        self.claimed = [_tried(trial) for trial in trials if trial.number in living]
        gone = [trial for trial in trials if self._shared and _is_claim(trial) and trial.number not in living]
        self.left = [(dict(trial.params), str(trial.user_attrs["how"])) for trial in gone]

    def _trials(self) -> list[FrozenTrial]:
        with usable(self._place):
            return self._study.get_trials(deepcopy=False)

    def _living(self, trials: Sequence[FrozenTrial]) -> set[int]:
        claims = [(trial.number, str(trial.user_attrs.get("worker", ""))) for trial in trials if _is_claim(trial)]
        return self._leases.living(claims)

    def _add(self, config: Config, told: dict[str, Any]) -> FrozenTrial:
        from optuna.trial import TrialState, create_trial

        claim = secrets.token_hex(8)
        trial = create_trial(
            state=TrialState.RUNNING,
            params=dict(config),
            distributions=self._distributions,
            user_attrs={**told, "worker": self._worker, "claim": claim},
        )
        with usable(self._place):
            self._study.add_trial(trial)
        return next(each for each in reversed(self._trials()) if each.user_attrs.get("claim") == claim)

    def _tell(self, trial: FrozenTrial, state: Any) -> None:
        """End a trial without a time; with the state None as one that nobody is to count."""
        from optuna.trial import TrialState

        with usable(self._place):
            self._study.tell(trial.number, state=state or TrialState.PRUNED)


def _is_claim(trial: FrozenTrial) -> bool:
    from optuna.trial import TrialState

    return trial.state == TrialState.RUNNING and not trial.user_attrs.get(_WINNER)


def _has_come_to_an_end(trial: FrozenTrial) -> bool:
    from optuna.trial import TrialState

    return trial.state in (TrialState.COMPLETE, TrialState.FAIL)


def _was_timed(trial: FrozenTrial) -> bool:
    from optuna.trial import TrialState

    return trial.state == TrialState.COMPLETE


def _history(trials: Sequence[FrozenTrial]) -> list[Tried]:
    found: list[Tried] = []
    interrupted: list[dict[str, Any]] = []
    for trial in trials:
        if _is_claim(trial):
            interrupted.append(trial.params)
            if interrupted.count(trial.params) == 2:
                refused = Rejection(stage="first call", reason="the process ended twice while it was tried")
                found.append(Tried(config=dict(trial.params), how=trial.user_attrs["how"], refused=refused))
        elif _has_come_to_an_end(trial):
            found.append(_tried(trial))
    return found


def _tried(trial: FrozenTrial) -> Tried:
    stage, reason = trial.user_attrs.get("refused", ("", ""))
    return Tried(
        config=dict(trial.params),
        how=trial.user_attrs["how"],
        time_us=trial.value,
        refused=Rejection(stage=stage, reason=reason) if stage else None,
    )
