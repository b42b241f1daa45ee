"""The rules of other tools beside ours, on the zoo: ``python -m tests.parity.table`` writes reports/parity-rules.*.

Every rule sees the same outputs and gradients on the same calls; ours sees what it always looks at besides:
arguments, memory, other sizes and layouts. A rule accepts an implementation if it accepts each tensor of each call.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from tests.parity.rules import RULES, accepts
from tests.parity.zoo.all import WRONG, call_of, zoo_judge
from tests.parity.zoo.ops import OPS
from tests.parity.zoo.right import RIGHT
from tests.parity.zoo.wrong import ALL
from twinkle_tune.environment import current_environment
from twinkle_tune.parity.calls import parity_calls
from twinkle_tune.parity.reference import references
from twinkle_tune.parity.run import Run, Subject, execute
from twinkle_tune.parity.verdict import Pass

FOLDER = Path("reports")
SEED = 0
OURS = {"ours": False, "ours, strict": True}
Key = tuple[str, torch.dtype, bool]


class Stage:
    """One op in one dtype, forward or also backward: its calls, what is right on them, and the judges."""

    def __init__(self, key: Key) -> None:
        self._op, dtype, self._trains = key
        self._module = OPS[self._op].make(dtype, self._trains)[0]
        self._subject = None if self._module is None else Subject.of(self._module, self._module)
        self._calls = parity_calls(call_of(self._op, dtype, self._trains, SEED), 1000 * SEED)
        original = OPS[self._op].original
        self._right = [self._run(original, k) for k in range(len(self._calls))]
        self._truth, _ = references(
            original, self._calls, self._right, module=self._module, trains=self._trains, seed=SEED
        )
        self._judges = {name: zoo_judge(*key, SEED, strict=strict) for name, strict in OURS.items()}

    def verdicts(self, make: Callable[[], Callable[..., Any]]) -> dict[str, bool]:
        """By rule: whether it accepts this implementation."""
        candidate = make()
        try:
            runs = [self._run(candidate, k, like=right) for k, right in enumerate(self._right)]
        except Exception:
            return dict.fromkeys((*RULES, *OURS), False)  # what raises passes nowhere
        found = {name: all(self._tensors(rule, runs)) for name, rule in RULES.items()}
        return found | {name: isinstance(judge.judge(make()), Pass) for name, judge in self._judges.items()}

    def _tensors(self, rule: Any, runs: list[Run]) -> Iterator[bool]:
        for run, right, truth in zip(runs, self._right, self._truth, strict=True):
            mine, theirs, exact = ({**each.outputs, **_graded(each)} for each in (run, right, truth))
            yield run.form == right.form and mine.keys() == theirs.keys()
            yield from (name in mine and accepts(rule, exact[name], b, mine[name]) for name, b in theirs.items())

    def _run(self, function: Callable[..., Any], call: int, *, like: Run | None = None) -> Run:
        return execute(
            function,
            self._calls[call],
            subject=self._subject,
            trains=self._trains,
            seed=SEED,
            incoming=like.incoming if like else None,
        )


def _graded(run: Run) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in run.gradients.items() if tensor is not None}


def main() -> int:
    """Try the whole zoo and write both files; fail if ours accepts a wrong one or refuses a right one."""
    trials = [(_key(w.op, d, w.trains), w.make, w) for w in WRONG for d in w.dtypes]
    trials += [
        (_key(op, d, trains), lambda right=right: right, None)  # type: ignore[misc]
        for op, all_ in RIGHT.items()
        for right in all_
        for d in ALL
        for trains in (False, True)
    ]
    counts = {name: {"wrong": 0, "conduct": 0, "right": 0} for name in (*RULES, *OURS)}
    total = {"wrong": 0, "conduct": 0, "right": 0}
    for key, group in groupby(sorted(trials, key=lambda t: (t[0][0], str(t[0][1]), t[0][2])), key=lambda t: t[0]):
        stage = Stage(key)
        for _, make, wrong in group:
            kind = "right" if wrong is None else "wrong" if wrong.values else "conduct"
            total[kind] += 1
            for name, accepted in stage.verdicts(make).items():
                counts[name][kind] += accepted is (kind != "right")
    _write(counts, total)
    strict_only = sum(len(w.dtypes) for w in WRONG if w.strict)
    ours = counts["ours"]
    return int(ours["wrong"] > strict_only or ours["conduct"] > 0 or ours["right"] > 0)


def _key(op: str, dtype: torch.dtype, trains: bool) -> Key:
    return op, dtype, trains


def _write(counts: dict[str, dict[str, int]], total: dict[str, int]) -> None:
    environment = current_environment("cpu")
    made = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": environment.device_name,
        "torch": environment.torch,
        "python": platform.python_version(),
    }
    FOLDER.mkdir(exist_ok=True)
    data = {**made, "trials": total, "mistaken": counts}
    (FOLDER / "parity-rules.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    rows = [f"| {name} | {c['wrong']} | {c['conduct']} | {c['right']} |" for name, c in counts.items()]
    lines = [
        "# Rules for when a kernel is right",
        "",
        f"Made by `python -m tests.parity.table`: {made['date']}, {made['machine']} (CPU), torch {made['torch']}, "
        f"Python {made['python']}. Counts of verdicts, not timings.",
        "",
        f"A trial is an implementation in a dtype, forward or also backward. There are {total['wrong']} of wrong ones "
        f"whose values are off, {total['conduct']} of wrong ones whose values are right on the captured shape (they "
        "change arguments, keep memory, or are wrong for another size or layout; the other rules do not look there) "
        f"and {total['right']} of right ones, over {len(OPS)} operations. All rules see the same calls.",
        "",
        "| rule | wrong values accepted | wrong conduct accepted | right ones refused |",
        "|---|---:|---:|---:|",
        *rows,
        "",
        "What `ours` accepts in the first column are mistakes that point 5 alone sees: noted on the pass, refused "
        "under strict. The zoo is this project's own and its limits were set while it grew, so the zeros say that the "
        "tests hold, not how the rule does on mistakes that nobody here thought of.",
        "",
    ]
    (FOLDER / "parity-rules.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
