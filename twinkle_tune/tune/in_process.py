"""Contests in this process."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import replace

from twinkle_tune.contest.block import BlockStage
from twinkle_tune.contest.call import CallStage, as_observed
from twinkle_tune.contest.compiling import uncapped
from twinkle_tune.contest.contest import contest
from twinkle_tune.contest.watch import Watch
from twinkle_tune.environment import current_environment
from twinkle_tune.peers import from_first, now_s, parts
from twinkle_tune.profile.schema import Contest
from twinkle_tune.slot import ORIGINAL, Candidate
from twinkle_tune.source.tried import config_of, configured
from twinkle_tune.tune.events import Listener
from twinkle_tune.tune.executor import Executor
from twinkle_tune.tune.task import Task
from twinkle_tune.tune.tuned import Configs, Origin
from twinkle_tune.tune.watch import HereWatch


class InProcess(Executor):
    """Runs contests in this process: a candidate that ends the process ends the run.

    In a worker process, a ``watch`` sees to it that somebody knows whose doing that was.
    """

    def __init__(self, watch: Watch | None = None, configs: Configs | None = None) -> None:
        self._watch_of = HereWatch if watch is None else lambda task: watch
        self._configs = Configs() if configs is None else configs

    def hold(self, task: Task, listener: Listener) -> Contest:
        """Hold a contest to its end; what goes wrong in a candidate is a rejection, in the original an error.

        Of several processes that hold it together all have the one that rank 0 wrote down.
        """
        return parts(f"the contest of {task.observation.slot.name}", lambda: self._held(task, listener))[0]

    def _held(self, task: Task, listener: Listener) -> Contest:
        ends_s = math.inf if task.deadline_s is None else now_s() + task.deadline_s
        watch, origins = self._watch_of(task), dict[str, Origin]()

        def ready(candidate: Candidate) -> Candidate:
            def entered() -> tuple[Mapping[str, int] | None, Origin]:
                found, origin = self._configs.entered(
                    candidate, task, stage.clock, watch, trains=stage.trains, ends_s=ends_s
                )
                return config_of(found.source), origin

            config, origins[candidate.name] = from_first(f"the config of {candidate.name}", entered)
            return replace(candidate, source=configured(candidate.source, config))

        terms, context = task.terms, task.observation.workload.context
        with as_observed(context, terms.device), uncapped(compiles=terms.mode.compiles):
            watch.begins(ORIGINAL, "parity")
            stage = _stage_of(task)
            watch.ends(ORIGINAL)
            found = contest(
                stage,
                task.candidates,
                terms,
                watch=watch,
                tell=listener,
                ends_s=ends_s,
                ready=ready,
                further=task.further,
            )
        trials = [(trial, origins.get(trial.candidate, Origin())) for trial in found.trials]
        told = (replace(trial, config_origin=o.text, config_cut_short=o.cut_short) for trial, o in trials)
        fingerprint = current_environment(terms.device).fingerprint
        return task.observation.contest(replace(found, trials=tuple(told), environment=fingerprint))

    @property
    def elsewhere(self) -> str:
        """In this process there is but other memory for the inputs, and code compiled anew."""
        return "in other memory"


def _stage_of(task: Task) -> CallStage:
    # To run the original for a judge, in float64 and on other sizes, takes most of a contest of it alone.
    judges = any(candidate.name != ORIGINAL for candidate in task.candidates)
    if task.terms.mode.compiles:
        return BlockStage(task.observation, task.terms, judges=judges)
    if any(candidate.source.kind == "compile" for candidate in task.candidates):
        # It replaces functions of torch, and whoever looks for such changes looks for the first time after this.
        importlib.import_module("torch._dynamo")
    return CallStage(task.observation, task.terms, judges=judges)
