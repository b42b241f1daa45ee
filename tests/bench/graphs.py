"""Device graphs against eager and torch.compile's reduce-overhead: small batches, where launches cost the host time.

``python -m tests.bench.graphs`` on a CUDA machine, at most ``--minutes``: one row of a tiny Qwen3 and of Qwen3-0.6B
generating on a static cache (greedy), and of an encoder of BERT's size. The step of a generation is what one token
more costs; its answers must be token for token those of eager. reduce-overhead comes last: it takes longest to begin.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from twinkle_tune.kernel.kernelize import bind_plan, restore_model
from twinkle_tune.kernel.plan import Plan
from twinkle_tune.kernel.setups import WayIn, way_layers
from twinkle_tune.measure.clock import clock_for
from twinkle_tune.models.load import load
from twinkle_tune.strategy.backend import Backend
from twinkle_tune.strategy.device_graphs import DeviceGraphs

SHORT, LONG = 16, 80
"""New tokens of a generation: what one more costs is told by both."""
_PROMPT, _TIMES = 32, 3
Run = Callable[[], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """How one way fared in a case.

    Attributes:
        case, way: their names.
        first_s: seconds of its first call, with whatever is compiled and captured.
        step_us: microseconds of a step.
        apart: how far its answer is from eager's: tokens that differ, or the largest difference over the largest value.
        problem: why there are no figures.
    """

    case: str
    way: str
    first_s: float = 0.0
    step_us: float = 0.0
    apart: float = 0.0
    problem: str = ""

    def line(self, eager_us: float) -> str:
        """As it is printed."""
        if self.problem:
            return f"{self.case} | {self.way} | {self.problem}"
        ratio = f"{self.step_us / eager_us:.3f} of eager" if eager_us else "-"
        return (
            f"{self.case} | {self.way} | {self.step_us:.0f} us a step, {ratio} | first call {self.first_s:.1f} s | "
            f"apart {self.apart:.2g}"
        )


@contextmanager
def eager(model: Any) -> Iterator[Any]:
    """The model as it is."""
    yield model


@contextmanager
def graphs(model: Any) -> Iterator[Any]:
    """The model in device graphs, for every call."""
    way = WayIn(strategy=DeviceGraphs(), backend=Backend(gives_up=True))
    bind_plan(model, Plan(layers=way_layers(model, [way])))
    try:
        yield model
    finally:
        restore_model(model)


@contextmanager
def reduce_overhead(model: Any) -> Iterator[Any]:
    """The model compiled as torch advises for small batches; ``generate`` compiles its steps so by itself."""
    compiled: Any = torch.compile(model, mode="reduce-overhead")
    try:
        yield compiled
    finally:
        torch.compiler.reset()


WAYS: dict[str, Callable[[Any], Any]] = {
    "eager": eager,
    "device graphs": graphs,
    "reduce-overhead": reduce_overhead,
}


def generation(name: str, model: Any, device: str, way: str) -> Row:
    """One way of generating text."""
    vocabulary = model.config.vocab_size
    prompt = torch.randint(3, vocabulary, (1, _PROMPT), generator=torch.Generator().manual_seed(0)).to(device)

    def says(runner: Any, tokens: int) -> Tensor:
        # What torch.compile wraps has the model's own generate, which compiles the steps on a static cache itself.
        is_compiled = way == "reduce-overhead"
        asked = {"cache_implementation": "static", "disable_compile": not is_compiled, "do_sample": False}
        said: Tensor = model.generate(prompt, max_new_tokens=tokens, min_new_tokens=tokens, pad_token_id=0, **asked)
        return said

    expected = says(model, SHORT) if way == "eager" else _expected[name]
    _expected[name] = expected
    with WAYS[way](model) as runner:
        first_s, said = _timed(lambda: says(runner, SHORT), device)
        took = {tokens: _median_s(lambda tokens=tokens: says(runner, tokens), device) for tokens in (SHORT, LONG)}  # type: ignore[misc]
    step_us = 1e6 * (took[LONG] - took[SHORT]) / (LONG - SHORT)
    return Row(case=name, way=way, first_s=first_s, step_us=step_us, apart=int((said != expected).sum()))


_expected: dict[str, Tensor] = {}


def encoder(name: str, model: nn.Module, device: str, way: str) -> Row:
    """One way of running an encoder."""
    ids = torch.randint(3, 1000, (1, 128), generator=torch.Generator().manual_seed(0)).to(device)
    clock = clock_for(device)
    with torch.no_grad(), WAYS[way](model) as runner:
        first_s, answer = _timed(lambda: runner(input_ids=ids).last_hidden_state.clone(), device)
        answer = runner(input_ids=ids).last_hidden_state.clone()
        call = lambda: runner(input_ids=ids)  # noqa: E731
        step_us = clock.burst_us(call, clock.block_calls(call))
    expected = answer if way == "eager" else _expected[name]
    _expected[name] = expected
    apart = float((answer.float() - expected.float()).abs().max() / expected.float().abs().max())
    return Row(case=name, way=way, first_s=first_s, step_us=step_us, apart=apart)


def cases(device: str) -> Iterator[tuple[str, Callable[[], nn.Module], Callable[..., Row]]]:
    """Names, what makes a model, and what times it."""
    from transformers import BertConfig, BertModel

    yield "generate qwen3-tiny", lambda: load("qwen3-tiny", device=device, dtype="bfloat16"), generation
    yield "encoder of BERT's size 1x128", lambda: BertModel(BertConfig()).to(device, torch.bfloat16).eval(), encoder
    yield "generate qwen3-0.6b", lambda: load("qwen3-0.6b", device=device, dtype="bfloat16"), generation


def measured(device: str, ends_s: float, told: Callable[[Row], object]) -> list[Row]:
    """All rows; none is begun after ``ends_s`` of the monotonic clock."""
    rows: list[Row] = []
    for name, made, take in cases(device):
        model = made()
        for way in WAYS:
            if time.monotonic() >= ends_s:
                row = Row(case=name, way=way, problem="no time was left")
            else:
                try:
                    row = take(name, model, device, way)
                except Exception as error:  # one way's failure is its own
                    row = Row(case=name, way=way, problem=f"{type(error).__name__}: {error}"[:300])
            rows.append(row)
            told(row)
        del model
    return rows


def _timed(run: Run, device: str) -> tuple[float, Tensor]:
    _wait(device)
    began_s = time.perf_counter()
    answer = run()
    _wait(device)
    return time.perf_counter() - began_s, answer


def _median_s(run: Run, device: str) -> float:
    _timed(run, device)
    return median(_timed(run, device)[0] for _ in range(_TIMES))


def _wait(device: str) -> None:
    clock_for(device).synchronize()


def main() -> int:
    """Measure, print and write; 1 where device graphs have no figure, or a wrong answer."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.graphs", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=4.0, help="no way is begun later (default: 4)")
    parser.add_argument("--out", type=Path, default=Path("out/gpu"), help="folder for graphs.json (default: out/gpu)")
    asked = parser.parse_args()
    eager_us: dict[str, float] = {}

    def told(row: Row) -> None:
        if row.way == "eager":
            eager_us[row.case] = row.step_us
        print(row.line(eager_us.get(row.case, 0.0)), flush=True)

    rows = measured("cuda", time.monotonic() + 60 * asked.minutes, told)
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "graphs.json").write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    own = [row for row in rows if row.way == "device graphs"]
    return int(any(row.problem or row.apart > 0.05 for row in own))


if __name__ == "__main__":
    sys.exit(main())
