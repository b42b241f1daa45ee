"""The search's own record: an Optuna study, in memory or in a journal that a killed search goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from twinkle_tune.errors import TuneError
from twinkle_tune.ops.space import Config, Space
from twinkle_tune.outcome import Rejection
from twinkle_tune.search.record import Tried

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

_STALE_LOCK_S = 5
"""A lock that old is one of a killed process: nobody holds it for longer than one write."""
_RUNS = "runs"
"""Name of the constraint that configs violate which were refused."""


class SearchJournal:
    """What was tried, in order; each entry is on the disk before the next config is touched.

    A config that was being tried when the process ended is tried once more. If the process ends then too, it is
    refused: a kernel can take its process with it.
    """

    def __init__(self, space: Space, name: str, path: Path | None = None) -> None:
        """Open the journal of one search, or begin it.

        Args:
            space: its configs.
            name: equal for searches with the same question; a file may hold several.
            path: the file; None for a journal that ends with the process.

        Raises:
            TuneError: the file cannot be read or written.
        """
        from optuna.distributions import CategoricalDistribution

        self._distributions: dict[str, BaseDistribution] = {
            each.name: CategoricalDistribution(each.values) for each in space.parameters
        }
        self._study = _study(name, path)
        self._running = -1
        self.tried = _history(self._study.get_trials(deepcopy=False))

    def begin(self, config: Config, how: str) -> None:
        """Write down that a config is about to be tried."""
        from optuna.trial import TrialState, create_trial

        trial = create_trial(
            state=TrialState.RUNNING,
            params=dict(config),
            distributions=self._distributions,
            user_attrs={"how": how},
        )
        self._study.add_trial(trial)
        self._running = len(self._study.get_trials(deepcopy=False)) - 1

    def end(self, tried: Tried) -> None:
        """Write down what came of the config that was begun last."""
        from optuna.trial import Trial, TrialState

        if tried.refused is None:
            self._study.tell(self._running, tried.time_us)
        else:
            frozen = self._study.get_trials(deepcopy=False)[self._running]
            trial = Trial(self._study, frozen._trial_id)
            trial.set_constraint(_RUNS, 1.0)
            trial.set_user_attr("refused", [tried.refused.stage, tried.refused.reason])
            self._study.tell(self._running, state=TrialState.FAIL)
        self.tried.append(tried)


def _history(trials: list[FrozenTrial]) -> list[Tried]:
    from optuna.trial import TrialState

    found: list[Tried] = []
    interrupted: list[dict[str, Any]] = []
    for trial in trials:
        if trial.state == TrialState.RUNNING:
            interrupted.append(trial.params)
            if interrupted.count(trial.params) == 2:
                refused = Rejection(stage="first call", reason="the process ended twice while it was tried")
                found.append(Tried(config=dict(trial.params), how=trial.user_attrs["how"], refused=refused))
        elif trial.state.is_finished():
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


def _study(name: str, path: Path | None) -> Study:
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it announces each study that it creates
    try:
        storage = None if path is None else _storage(path)
        sampler = optuna.samplers.RandomSampler(seed=0)  # never asked: configs are proposed by propose.py
        return optuna.create_study(study_name=name, storage=storage, load_if_exists=True, sampler=sampler)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TuneError(
            f"{path}: cannot be used as the journal of a search ({error}), expected one written by twinkle_tune; "
            "move it away or name another"
        ) from error
    finally:
        optuna.logging.set_verbosity(before)


def _storage(path: Path) -> BaseStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    path.parent.mkdir(parents=True, exist_ok=True)
    _mend(path)
    lock = JournalFileOpenLock(str(path), grace_period=_STALE_LOCK_S)
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def _mend(path: Path) -> None:
    """Cut off a last line that a killed process left unfinished: what is written next would become part of it."""
    if not path.exists():
        return
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)
