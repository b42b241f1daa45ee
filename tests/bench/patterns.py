"""What patterns alone gain: ``make patterns``, or ``python -m tests.bench.patterns``.

Four tiny families on a CPU, run eagerly, prefill and training step: the original, the winners among patterns alone, the
fastest right rival in each pattern's place (a winner or not), the winners among layers and functions alone, and all
winners as a profiling run gives them. One model is bound and restored in turn, in random order, within one run. It
writes reports/patterns.{json,md}, and fails where the goal is missed. ``--quick`` shows that it runs: its figures say
nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import geometric_mean
from unittest.mock import patch

from torch import nn

from tests.bench.models import TINY
from tests.bench.page import Made, made, made_line, write
from tests.bench.rivals import Rival, timed
from twinkle_tune import restore_model, tune_model
from twinkle_tune.capture.hosts import NONE
from twinkle_tune.environment import current_environment
from twinkle_tune.kernel.kernelize import bind_plan
from twinkle_tune.kernel.pieces import usual_pieces
from twinkle_tune.kernel.plan import Plan
from twinkle_tune.kernel.plan_profile import plan_profile
from twinkle_tune.kernel.registry import default_registry
from twinkle_tune.measure.race import RaceSettings
from twinkle_tune.measure.statistics import Ratio
from twinkle_tune.mode import Mode
from twinkle_tune.models import load_model
from twinkle_tune.profile.schema import Profile
from twinkle_tune.slot import SlotKind
from twinkle_tune.testing import with_winner
from twinkle_tune.tune.executor import Executor
from twinkle_tune.tune.little import Little

GOAL = 0.93
"""Of the original's time, in the geometric mean over the families."""
KINDS = ("prefill", "train")
PATTERNS, PLACED, LAYERS, ALL = "patterns", "patterns, each place", "layers and functions", "all"
SAID = {
    PATTERNS: "the winners among patterns, where no other slot competed",
    PLACED: "in each pattern's place the fastest right rival, whether it was clearly faster or not",
    LAYERS: "the winners among layers and functions, where no pattern competed",
    ALL: "the winners of a usual profiling run",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A rival's time for a step of a family: over the original's, beside it in the same rounds.

    Attributes:
        bound: what ran in the original's place, with its slot; empty for nothing.
    """

    family: str
    kind: str
    step: str
    rival: str
    bound: str
    median_us: float
    against: Ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """How long, and on how much of each model."""

    seq_len: int
    layers: int | None
    seconds: float
    settings: RaceSettings


FULL = Asked(seq_len=128, layers=None, seconds=6.0, settings=RaceSettings())
QUICK = Asked(seq_len=8, layers=1, seconds=0.05, settings=RaceSettings(max_rounds=12))


@contextmanager
def patterns_alone() -> Iterator[None]:
    """Inside, runs hold contests of patterns and of nothing else, each of them however little it could save."""
    tune = "twinkle_tune.tune.tune"
    with patch(f"{tune}.find_slots", lambda *a, **k: ()), patch(f"{tune}.little_of", lambda *a: Little()):
        yield


@contextmanager
def no_patterns() -> Iterator[None]:
    """Inside, runs hold no contest of a pattern."""
    with patch("twinkle_tune.tune.tune.find_hosts", lambda *a, **k: NONE):
        yield


def rivals_of(
    model: nn.Module, inputs: object, mode: Mode, settings: RaceSettings, executor: Executor | None = None
) -> dict[str, Profile]:
    """A profile for each rival, of torch's own candidates."""

    def found(wanted: str = "torch") -> Profile:
        return tune_model(
            model, inputs, mode=mode, device="cpu", candidates=[wanted], settings=settings, executor=executor
        )

    with patterns_alone():  # where they have no place there is nobody of torch to ask for
        patterns = found("torch" if usual_pieces(model, default_registry) else "original")
    with no_patterns():
        layers = found()
    assert all(contest.slot.kind is SlotKind.PATTERN for contest in patterns.contests)
    assert not any(contest.slot.kind is SlotKind.PATTERN for contest in layers.contests)
    return {PATTERNS: patterns, PLACED: with_winner(patterns), LAYERS: layers, ALL: found()}


@contextmanager
def bound(model: nn.Module, plan: Plan, in_vain: Plan) -> Iterator[None]:
    """Inside, a plan is bound; before it another was, for all rivals the same.

    Binding leaves the processor's caches cold: beside an original before which nothing was bound, rivals without any
    winner took 1.03 and 1.05 of its time.
    """
    bind_plan(model, in_vain)
    restore_model(model)
    bind_plan(model, plan)
    try:
        yield
    finally:
        restore_model(model)


def run(family: str, mode: Mode, asked: Asked) -> list[Row]:
    """Profile a family, and time all rivals in its steps, one after the other in random order."""
    loaded = load_model(family, "cpu", "float32", asked.layers, (1,), (asked.seq_len,), mode)
    profiles = rivals_of(loaded.model, loaded.inputs, mode, asked.settings)
    plans = {"original": Plan()} | {
        name: plan_profile(loaded.model, profile, "cpu", mode, default_registry) for name, profile in profiles.items()
    }
    rivals = [
        Rival(name=name, model=loaded.model, around=partial(bound, loaded.model, plan, plans[ALL]))
        for name, plan in plans.items()
    ]
    return [
        Row(
            family=family,
            kind=each.step.split()[0],
            step=each.step,
            rival=each.rival,
            bound=_bound(profiles[each.rival], each.step) if each.rival in profiles else "",
            median_us=each.median_us,
            against=each.against,
        )
        for each in timed(rivals, loaded.inputs, profiles[ALL].terms, asked.seconds)
    ]


def _bound(profile: Profile, step: str) -> str:
    won = (f"{c.slot.name.rpartition('.')[2]} {c.selection.winner}" for c in profile.winners if _is_in(c.seen, step))
    return ", ".join(dict.fromkeys(won))


def _is_in(seen: Sequence[object], step: str) -> bool:
    return any(getattr(each, "step", None) == step for each in seen)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the families, write both files; 1 where the patterns' goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.patterns", description=__doc__)
    parser.add_argument("--only", default="", help="families whose name holds this text")
    parser.add_argument("--quick", action="store_true", help="one layer, short races: whether it runs")
    parser.add_argument("--out", type=Path, default=Path("reports"), help="where the files go")
    given = parser.parse_args(arguments)
    families = [family for family in TINY if given.only in family]
    if not families:
        parser.error(f"--only: got {given.only!r}, which no family has in its name ({', '.join(TINY)})")
    rows: list[Row] = []
    for family in families:
        for mode in (Mode.INFERENCE, Mode.TRAIN):
            rows += run(family, mode, QUICK if given.quick else FULL)
            for row in rows[-len(SAID) :]:
                print(f"{family} {row.step}, {row.rival}: {_interval(row.against)} {row.bound}", flush=True)
    facts, load = made("cpu"), current_environment("cpu").load
    means = {kind: {rival: _mean(rows, kind, rival) for rival in SAID} for kind in KINDS}
    met = all(means[kind][PATTERNS] <= GOAL for kind in KINDS)
    data = {**facts, "load": load, "quick": given.quick, "goal": GOAL, "met": met, "means": means}
    write(
        given.out,
        "patterns",
        {**data, "rows": [asdict(row) for row in rows]},
        page(facts, load, rows, quick=given.quick),
    )
    return 0 if met else 1


def _mean(rows: Sequence[Row], kind: str, rival: str) -> float:
    return geometric_mean([row.against.ratio for row in rows if (row.kind, row.rival) == (kind, rival)])


def page(facts: Made, load: float, rows: Sequence[Row], *, quick: bool) -> list[str]:
    """The lines of the page."""
    quickly = " (with `--quick`: **the figures say nothing**)" if quick else ""
    return [
        "# What patterns alone gain, run eagerly",
        "",
        f"Made by `make patterns`{quickly}. A figure is a step's time over the original's: the median of rounds in "
        "which all rivals were timed one after the other in random order on one model, with its interval (at least "
        "95%). Candidates are torch's own operations; nothing is compiled.",
        "",
        f"{made_line(facts)} Load {load} at the end.",
        "",
        "| rival | what it is |",
        "|---|---|",
        *(f"| {name} | {what} |" for name, what in SAID.items()),
        "",
        f"The goal is {GOAL} for patterns alone.",
        "",
        "| geometric mean of the families | prefill | training step | goal |",
        "|---|---|---|---|",
        *(_means(rows, rival) for rival in SAID),
        "",
        "| family | step | rival | what ran | time | over the original's |",
        "|---|---|---|---|---|---|",
        *map(_line, rows),
        "",
        "*The original* beside a rival's name: nothing won there, the same code is compared, and what differs is "
        "noise. In Phi patterns have no place: none of its blocks "
        "[norms a sum](../docs/catalog.md#sums-and-norms-of-a-block).",
    ]


def _line(row: Row) -> str:
    what, time = row.bound or "the original", f"{row.median_us / 1000:.3g} ms"
    return f"| {row.family} | {row.step} | {row.rival} | {what} | {time} | {_interval(row.against)} |"


def _means(rows: Sequence[Row], rival: str) -> str:
    means = [_mean(rows, kind, rival) for kind in KINDS]
    goal = "" if rival != PATTERNS else "met" if max(means) <= GOAL else f"MISSED by {max(means) - GOAL:.3f}"
    return f"| {rival} | {means[0]:.3f} | {means[1]:.3f} | {goal} |"


def _interval(ratio: Ratio) -> str:
    return f"{ratio.ratio:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"


if __name__ == "__main__":
    sys.exit(main())
