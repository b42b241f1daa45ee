"""Whole models with the winners: ``python -m tests.bench.models`` profiles models and times them against rivals.

On a CPU (``make families``) tiny models of four families and a wide one, with ways of running the whole model; on a
CUDA device (``make gpu``) the models and shapes that people run. Profiles go to profiles/<device>/, figures to
reports/<device>/models.{json,md}. It fails where a profile that was accepted makes a step slower than the original:
where the whole interval lies over 1.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import geometric_mean

import torch

from tests.bench.rivals import OURS, Timed, rivals_of, timed
from twinkle_tune import tune_model
from twinkle_tune.cli.options import profile_path, slug
from twinkle_tune.environment import current_environment
from twinkle_tune.mode import Mode
from twinkle_tune.models import load_model
from twinkle_tune.models.inputs import example_inputs
from twinkle_tune.profile.schema import Profile
from twinkle_tune.tune.isolated import Isolated


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model, a mode and the shapes of a run: (batch, sequence length).

    Attributes:
        spec: how the model is loaded, where not by its name.
        ways: whether ways of running the whole model compete, in the steps in which they do.
    """

    model: str
    mode: Mode
    shapes: tuple[tuple[int, int], ...]
    dtype: str
    layers: int | None = None
    spec: str = ""
    ways: bool = False

    @property
    def name(self) -> str:
        """As the files are named."""
        return f"{self.model}-{self.mode}"


NO_MORE, AHEAD = 1.02, 0.98
"""Of the best rival's time: what no step is to take more than, and what one takes at most that is ahead."""
TINY = ("qwen3-tiny", "llama-tiny", "gemma3-tiny", "phi-tiny")
WIDE = "qwen3-wide"
CPU_CASES = tuple(
    Case(
        model=model,
        mode=mode,
        shapes=((1, 128),),
        dtype="float32",
        spec="tests.bench.wide:qwen3_wide" if model == WIDE else "",
        ways=True,
    )
    for model in (*TINY, WIDE)
    for mode in (Mode.INFERENCE, Mode.TRAIN)
)
CUDA_CASES = tuple(
    Case(model=model, mode=mode, shapes=shapes, dtype="bfloat16")
    for model in ("qwen3-0.6b", "llama-3.2-1b")
    for mode, shapes in (
        (Mode.INFERENCE, ((1, 2048), (32, 128))),
        (Mode.TRAIN, ((4, 1024),)),
        (Mode.COMPILE, ((1, 2048),)),
    )
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases of a device; 1 where an accepted profile is slower than the original."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.models", description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--layers", type=int, default=None, help="keep only the first layers")
    parser.add_argument("--seconds", type=float, default=4.0, help="of timing, for a step and a rival")
    parser.add_argument("--candidates", default=None, help="only these compete, separated by commas")
    parser.add_argument("--budget", default=None, help="of each profile, such as 90s or 5m; none by default")
    parser.add_argument("--out", type=Path, default=Path(), help="profiles/ and reports/ are written below this folder")
    asked = parser.parse_args(arguments)
    cases = [c for c in (CPU_CASES if asked.device == "cpu" else CUDA_CASES) if asked.only in c.name]
    if not cases:
        parser.error(f"--only: got {asked.only!r}, which no case of {asked.device} has in its name")
    machine = current_environment(asked.device).device_name
    rows = kept(asked.device, {case.name for case in cases}, asked.out)
    for case in cases:
        results, profile = run(case, asked.device, machine, asked)
        rows += [{"case": case.name, "bound": _bound(profile, result.step), **asdict(result)} for result in results]
        print(f"{case.name}: {profile.verdict}", flush=True)
        # After each case: a run that is stopped leaves what it has.
        write(asked.device, rows, asked.out)
    slower = [row for row in rows if _is_slower(row)]
    for row in slower:
        print(f"SLOWER than the original: {row['case']} {row['step']}")
    return 1 if slower else 0


def run(case: Case, device: str, machine: str, asked: argparse.Namespace) -> tuple[list[Timed], Profile]:
    """Profile a case, keep the profile, and time the model with it against its rivals."""
    layers = asked.layers or case.layers
    loaded = load_model(case.spec or case.model, device, case.dtype, layers, (1,), (128,), case.mode)
    inputs = list(_inputs(case, loaded.model, device))
    candidates = asked.candidates.split(",") if asked.candidates else None
    with Isolated() as executor:
        profile = tune_model(
            loaded.model, inputs, mode=case.mode, device=device, name=case.model, candidates=candidates,
            executor=executor, budget_s=asked.budget, ways=case.ways,
        )  # fmt: skip
    path: Path = asked.out / profile_path(machine, case.model, case.mode)
    path.parent.mkdir(parents=True, exist_ok=True)
    profile.save(path)
    rivals = rivals_of(loaded.model, profile, compiles=case.ways)
    results = timed(rivals, inputs, profile.terms, asked.seconds, as_ways=case.ways)
    del loaded, rivals
    gc.collect()
    torch._dynamo.reset()
    if device == "cuda":
        torch.cuda.empty_cache()
    return results, profile


def _bound(profile: Profile, step: str) -> str:
    """What runs in a step in the original's place; "" for nothing."""
    ways = [setup.way for setup in profile.setups if setup.label == step]
    kernels = [c.selection.winner for c in profile.winners if step in {seen.step for seen in c.seen}]
    return ", ".join(dict.fromkeys((*ways, *kernels)))


def _inputs(case: Case, model: torch.nn.Module, device: str) -> Iterator[dict[str, torch.Tensor]]:
    for batch, seq_len in case.shapes:
        yield from example_inputs(model, (batch,), (seq_len,), case.mode, device)


def _made(device: str) -> dict[str, object]:
    environment = current_environment(device)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "device": environment.device_name,
        "torch": environment.torch,
        "threads": environment.threads,
        "load": environment.load,
    }


def kept(device: str, running: Container[str], folder: Path) -> list[dict[str, object]]:
    """The rows of today's other cases, where they were made here: cases may be run one by one."""
    now = _made(device)
    path = folder / "reports" / slug(str(now["device"])) / "models.json"
    if not path.exists():
        return []
    then = json.loads(path.read_text(encoding="utf-8"))
    is_alike = all(then[name] == now[name] for name in now if name != "load")
    return [row for row in then["rows"] if row["case"] not in running] if is_alike else []


def write(device: str, rows: Sequence[dict[str, object]], folder: Path) -> None:
    """The figures as JSON and as a page."""
    made = _made(device)
    out = folder / "reports" / slug(str(made["device"]))
    out.mkdir(parents=True, exist_ok=True)
    (out / "models.json").write_text(json.dumps({**made, "rows": rows}, indent=2) + "\n", encoding="utf-8")
    (out / "models.md").write_text(_page(made, rows), encoding="utf-8")


def _page(made: dict[str, object], rows: Sequence[dict[str, object]]) -> str:
    what = "Measured on a CPU; says nothing about a GPU." if "cpu" in str(made["torch"]) else ""
    lines = [
        "# Whole models with the winners, against their rivals",
        "",
        "Made by `python -m tests.bench.models`. A figure is a step's time over another's: the median of rounds in "
        "which all rivals were timed one after the other in random order, with its interval (at least 95%). In the "
        "compile modes the original is the compiled original.",
        "",
        f"{made['date']}, {made['device']}, torch {made['torch']}, {made['threads']} CPU threads, load "
        f"{made['load']} at the end. {what}".strip(),
        "",
        *_short(rows),
        "## Every rival",
        "",
        "| model and mode | step | rival | time | over the original's |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        mine_us = row["median_us"]
        assert isinstance(mine_us, float)
        time = f"{mine_us / 1000:.3g} ms"
        lines.append(f"| {row['case']} | {row['step']} | {row['rival']} | {time} | {_interval(row['against'])} |")
    return "\n".join(lines) + "\n"


def _short(rows: Sequence[dict[str, object]]) -> Iterator[str]:
    """A line for each step of ours, and the geometric means by kind of step."""
    ours = [row for row in rows if row["rival"] == OURS]
    yield "| model and mode | step | what runs | over the original's | best rival | over the best rival's | slower |"
    yield "|---|---|---|---|---|---|---|"
    for row in ours:
        slower = "YES" if _is_slower(row) else "no" if row["bound"] else "the original"
        yield (
            f"| {row['case']} | {row['step']} | {row['bound'] or 'the original'} | {_interval(row['against'])} "
            f"| {row['best']} | {_interval(row['against_best'])} | {slower} |"
        )
    yield ""
    yield "*The original*: nothing won the step: two copies of one model are compared, and what differs is noise."
    yield ""
    yield "| steps, tiny models | steps | over the original's, geometric mean | over the best rival's | at most |"
    yield "|---|---|---|---|---|"
    tiny = [row for row in ours if "tiny" in str(row["case"])]
    for kind in dict.fromkeys(str(row["step"]).split()[0] for row in tiny):
        same = [row for row in tiny if str(row["step"]).startswith(kind + " ")]
        best = [_ratio(row["against_best"]) for row in same]
        mean, mean_best = geometric_mean([_ratio(row["against"]) for row in same]), geometric_mean(best)
        yield f"| {kind} | {len(same)} | {mean:.3f} | {mean_best:.3f} | {max(best):.3f} |"
    yield ""
    ratios = [_ratio(row["against_best"]) for row in ours]
    within, ahead = sum(ratio <= NO_MORE for ratio in ratios), sum(ratio <= AHEAD for ratio in ratios)
    yield (
        f"In {within} of {len(ours)} steps what runs takes at most {NO_MORE} of the best rival's time (goal: all), in "
        f"{ahead} at most {AHEAD} (goal: in a third)."
    )
    yield ""


def _ratio(figure: object) -> float:
    assert isinstance(figure, dict)
    return float(figure["ratio"])


def _interval(figure: object) -> str:
    assert isinstance(figure, dict)
    return f"{figure['ratio']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


def _is_slower(row: dict[str, object]) -> bool:
    """Whether winners were bound, and the whole interval lies over 1."""
    against = row["against"]
    assert isinstance(against, dict)
    return bool(row["bound"]) and row["rival"] == OURS and float(against["low"]) > 1.0


if __name__ == "__main__":
    sys.exit(main())
