"""What candidates leave behind in a process that they share with the run: it is put back, and they are refused."""

from __future__ import annotations

import sys
from collections import defaultdict
from typing import Any

from twinkle_tune.contest.watch import MeddledError
from twinkle_tune.outcome import Phase
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.tune.state import State, changes_since, noted_since, put_back, state_now
from twinkle_tune.tune.task import Task


class Looks:
    """Looks at what each candidate leaves behind. What it puts back, and what it makes of a change, is another's."""

    def __init__(self, task: Task) -> None:
        """For one contest."""
        self._extra = shared_code(task)
        self._state: State | None = None
        self._last = ORIGINAL
        self._notes: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self.at: tuple[str, Phase] | None = None

    def begins(self, candidate: str, stage: Phase) -> Phase:
        """As :meth:`Watch.begins`; raises for the stage before."""
        self._look()
        if self._state is not None and candidate != self._last:
            # Not earlier: what it has put into the environment it may need again in its next stage.
            put_back(self._state, everything=False)
        self._last, self.at = candidate, (candidate, stage)
        return stage

    def noticed(self, candidate: str) -> tuple[str, ...]:
        """As :meth:`Watch.noticed`."""
        return tuple(self._notes[candidate])

    def _look(self) -> None:
        """Look at what the stage that is over, that of ``at``, has left behind."""
        raise NotImplementedError


class HereWatch(Looks):
    """Looks at what each candidate leaves behind in the process of the run, and puts it back.

    Threads are not looked at: in this process others start some as well.
    """

    def ends(self, candidate: str) -> None:
        """As :meth:`Watch.ends`; raises MeddledError where the candidate changed what all share."""
        self._look()

    def goes_on(self) -> None:
        """Nothing."""

    def _look(self) -> None:
        at, self.at = self.at, None
        if at is None:
            return
        name, stage = at
        if name == ORIGINAL or self._state is None:
            # The original's changes are the state that others start from.
            if stage != "timing":
                self._state = state_now(self._extra)
            return
        changed = changes_since(self._state, threads=False)
        notes = noted_since(self._state)
        self._notes[name].update(dict.fromkeys(notes))
        if changed:
            put_back(self._state, everything=True)
        if changed or notes:
            self._state = state_now(self._extra)  # what cannot be put back is not the next one's doing
        if changed:
            raise MeddledError(f"{changed}, which others in the process share")


def shared_code(task: Task) -> list[tuple[str, Any]]:
    """The module or class of the original's code, in which a replaced function would reach the others."""
    module, target = task.observation.module, task.observation.slot.target
    space: Any = sys.modules.get(target.partition(":")[0]) if module is None else type(module)
    return [] if space is None else [(getattr(space, "__qualname__", target.partition(":")[0]), space)]
