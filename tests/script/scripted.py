"""Scripts that are run in the test's own process, as ``python -m twinkle_tune.run`` runs them."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from tests.zoo.quick import SETTINGS, Quick
from twinkle_tune import tune_model
from twinkle_tune.kernel.find import contestants, find_slots
from twinkle_tune.profile.folders import cache_folder
from twinkle_tune.profile.schema import Profile
from twinkle_tune.run import main
from twinkle_tune.script.made import examples_of, plain_device
from twinkle_tune.script.program import Program, run_program
from twinkle_tune.script.recording import ModelSeen
from twinkle_tune.script.tuning import autocast_as
from twinkle_tune.script.watch import Watch
from twinkle_tune.testing import with_winner
from twinkle_tune.tune.kept import keep, place_of

STRANGERS = Path(__file__).parent / "strangers"
_RESULTS = ("loss", "tokens", "random", "seen", "epoch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a script left: its exit code, its output, and what stands on stderr."""

    code: int
    out: str
    err: str

    @property
    def results(self) -> list[str]:
        """The lines that hold losses, tokens, counts and draws."""
        return [line for line in self.out.splitlines() if line.startswith(_RESULTS)]

    @property
    def told(self) -> list[str]:
        """What we said, without our name."""
        mine = "twinkle-tune: "
        return [line.removeprefix(mine) for line in self.err.splitlines() if line.startswith(mine)]


@contextmanager
def as_main() -> Iterator[None]:
    """What a script changes of the process's idea of itself is put back."""
    main_module, argv, path = sys.modules["__main__"], sys.argv, sys.path[:]
    sys.path.insert(0, "")  # the place that a script's folder takes
    try:
        yield
    finally:
        sys.modules["__main__"], sys.argv, sys.path[:] = main_module, argv, path


def run_here(*words: object) -> Done:
    """``python -m twinkle_tune.run`` with these words, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with as_main(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(word) for word in words])
        except SystemExit as left:
            code = left.code
    assert isinstance(code, int)
    return Done(code=code, out=out.getvalue(), err=err.getvalue())


def run_plain(script: Path, *words: object) -> Done:
    """A script with nobody watching, in this process."""
    out, err = io.StringIO(), io.StringIO()
    program = Program(name=str(script), is_module=False, arguments=tuple(map(str, words)))
    with as_main(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        ended = run_program(program)
    return Done(code=ended.code, out=out.getvalue(), err=err.getvalue())


def keep_winners(script: Path, *words: object) -> list[ModelSeen]:
    """Keep a profile for each of a script's models in which every right rival has won; what was seen of them."""
    watch = Watch(holds=True)
    watch.begin()
    try:
        done = run_plain(script, *words)
    finally:
        watch.end()
    assert done.code == 0, done.err
    assert watch.problem is None
    for model, seen, _ in watch.pairs():
        place = place_of(model, seen.mode, seen.device, print, seen.autocast)
        keep(quick_winners(model, seen), place, print)
    return list(watch.recording.models)


def quick_winners(model: nn.Module, seen: ModelSeen) -> Profile:
    """A profile of a model on what it was called with, in which every right rival has won."""
    names = {c.name for found in find_slots(model) for c in contestants(found, "cpu", seen.mode)}
    wanted = ["torch"] if any(name.startswith("torch.") for name in names) else ["original"]
    with autocast_as(seen):
        profile = tune_model(
            model, examples_of(seen, plain_device(model)), mode=seen.mode, candidates=wanted, settings=SETTINGS,
            executor=Quick(), budget_s=60,
        )  # fmt: skip
    return with_winner(profile)


def recorded() -> dict[str, Any]:
    """The one recording in the cache folder."""
    (path,) = (cache_folder() / "recordings").glob("*.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found
