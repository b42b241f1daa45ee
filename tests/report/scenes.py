"""Profiles made by hand that show what a report can be asked to show: large, on a GPU, versions, hostile figures."""

from __future__ import annotations

import random
from dataclasses import replace

from tests.report import fabricate
from twinkle_tune.measure.statistics import paired_ratio
from twinkle_tune.outcome import ParityFigure, Rejection, Selection, Trial
from twinkle_tune.profile.schema import Contest, Profile, Seen, StepResult
from twinkle_tune.slot import Slot, SlotKind
from twinkle_tune.workload import Context, TensorSpec, Workload

SLOTS = ("RMSNorm", "GatedMLP", "transformers.models.qwen3.modeling_qwen3.apply_rotary_pos_emb", "SiLU")


def large(contests: int = 200, seed: int = 0) -> Profile:
    """Many contests on a GPU: five candidates each, 25 rounds, eight row counts to a slot's place."""
    draw = random.Random(seed)
    made = [_contest(index, draw) for index in range(contests)]
    return fabricate.profile(*made, device="cuda", environment=gpu(), steps=_steps(draw), uncalled=())


def gpu() -> object:
    """An environment whose limits are known."""
    return replace(fabricate.environment("cuda"), device_name="NVIDIA H100 80GB HBM3")


def _steps(draw: random.Random) -> tuple[StepResult, ...]:
    return tuple(step(label, ratio, draw) for label, ratio in (("prefill 1x2048", 0.87), ("decode 8x2048", 0.96)))


def step(label: str, ratio: float, draw: random.Random, base_us: float = 9000.0) -> StepResult:
    """A compared step of that ratio, with a percent of noise."""
    original = tuple(round(base_us * draw.gauss(1, 0.01), 2) for _ in range(40))
    tuned = tuple(round(base_us * ratio * draw.gauss(1, 0.01), 2) for _ in range(40))
    found = paired_ratio(tuned, original)
    return StepResult(
        label=label, original_us=original, tuned_us=tuned, ratio=found.ratio, low=found.low, high=found.high
    )


def _contest(index: int, draw: random.Random) -> Contest:
    slot, place = SLOTS[index % 4], index // 32
    rows = 2 ** (index // 4 % 8 + 3)
    is_function = "." in slot
    base_us = 5 + rows / 20
    original = _times(base_us, 1.0, draw)
    speeds = {"compile": 0.75 + 0.1 * (index % 5), "liger": 0.8 + 0.12 * (index % 4), "torch.rms_norm": 1.2}
    trials = [
        fabricate.trial("original", fabricate.measurement(*original, peak_bytes=rows * 8192, parity=()), "original")
    ]
    trials += [_trial(name, speed, base_us, rows, draw) for name, speed in speeds.items()]
    reason = "output: error 0.031 over its limit 0.0078 (point 4) at row 17, column 204"
    trials.append(fabricate.trial("hub.fast_norm", Rejection(stage="parity", reason=reason), "hub"))
    best = min(trials[1:4], key=lambda trial: getattr(trial.outcome, "median_us", 1e9))
    return Contest(
        slot=Slot(
            name=slot, kind=SlotKind.FUNCTION if is_function else SlotKind.LAYER, target=f"package.module:{slot}"
        ),
        instances=() if is_function else tuple(f"model.layers.{4 * place + k}.{slot.lower()}" for k in range(4)),
        seen=(Seen(step="prefill 1x2048", calls=28, share=0.002 + 0.001 * (index % 3)),),
        workload=_workload(slot, rows, place),
        trials=tuple(trials),
        selection=_selection(best, original),
    )


def _trial(name: str, speed: float, base_us: float, rows: int, draw: random.Random) -> Trial:
    parity = tuple(
        ParityFigure(tensor=tensor, point=4, error=limit * draw.uniform(0.01, 0.95), limit=limit)
        for tensor, limit in (("output", 4e-3), ("gradient of weight", 2e-2))
    )
    times = _times(base_us, speed, draw)
    outcome = fabricate.measurement(*times, peak_bytes=rows * 4096, parity=parity)
    return fabricate.trial(name, outcome, name.partition(".")[0])


def _times(base_us: float, ratio: float, draw: random.Random) -> tuple[float, ...]:
    return tuple(round(base_us * ratio * draw.gauss(1, 0.01), 4) for _ in range(25))


def _selection(best: Trial, original: tuple[float, ...]) -> Selection:
    found = paired_ratio(best.outcome.times_us, original)  # type: ignore[union-attr]
    if found.high < 0.97:
        reason = f"{1 - found.ratio:.1%} faster than the original (median of {found.rounds} rounds)"
        return Selection(
            winner=best.candidate, ratio=found.ratio, low=found.low, high=found.high, rounds=25, reason=reason
        )
    if found.low < 1:
        return Selection(
            winner="original", rounds=25, reason="no clear winner after 60 rounds", status="no clear winner"
        )
    return Selection(winner="original", rounds=25, reason="no candidate was at least 2% faster")


def _workload(slot: str, rows: int, place: int) -> Workload:
    def tensor(*shape: int) -> TensorSpec:
        strides = tuple(shape[-1] if index < len(shape) - 1 else 1 for index in range(len(shape)))
        return TensorSpec(dtype="bfloat16", shape=shape, stride=strides)

    settings = {
        "RMSNorm": (("weight", tensor(1024)),),
        "GatedMLP": (("gate_proj.weight", tensor(3072, 1024)), ("down_proj.weight", tensor(1024, 3072))),
    }
    return Workload(
        target=f"package.module:{slot}",
        args=(tensor(1, rows, 1024 + place),) if slot not in settings else (tensor(1, rows, 1024),),
        kwargs=(),
        settings=settings.get(slot, ()),
        context=Context(training=False, grad=False, autocast="", deterministic=False),
    )


def versions() -> tuple[Profile, Profile, Profile]:
    """Three successive versions on one device: a gain, then a regression of the prefill and of one slot."""
    draw = random.Random(1)
    ratios = ((0.95, 0.97), (0.85, 0.96), (0.93, 0.96))
    made = []
    for index, (prefill, decode) in enumerate(ratios):
        contest = fabricate.won()
        speed = (0.85, 0.7, 0.8)[index]
        chosen = replace(contest.selection, ratio=speed, low=speed - 0.01, high=speed + 0.01)
        steps = (step("prefill 1x128", prefill, draw), step("decode 1x128", decode, draw))
        here = replace(fabricate.environment("cuda"), torch=f"2.{11 + index}.0")
        made.append(
            fabricate.profile(
                replace(contest, selection=chosen),
                fabricate.kept(),
                device="cuda",
                environment=here,
                created=f"2025-0{index + 1}-02T03:04:05Z",
                steps=steps,
                verdict=f"1 of 2 contests won by a kernel: prefill 1x128 takes {steps[0].ratio:.3f} of its time.",
            )
        )
    return made[0], made[1], made[2]


def extreme() -> Profile:
    """Figures at the ends of what a profile may hold: tiny and huge times, a limit of zero, no rows, full shares."""
    base = fabricate.won()
    figures = (
        ParityFigure(tensor="output", point=1, error=0.0, limit=0.0),
        ParityFigure(tensor="gradient", point=4, error=1e-300, limit=0.0),
    )
    times = {"original": (1e-3, 2e-3), "huge": (9e12, 8e12), "tiny": (1e-6, 1e-6)}
    trials = [
        fabricate.trial(name, fabricate.measurement(*values, parity=figures, peak_bytes=0), name)
        for name, values in times.items()
    ]
    chosen = Selection(winner="tiny", ratio=1e-3, low=1e-4, high=1e-3, rounds=2, reason="")
    made = [
        replace(
            base,
            workload=fabricate.workload(shape, kwargs=()),
            trials=tuple(trials),
            selection=chosen,
            seen=(Seen(step="a", calls=0, share=1.0),),
        )
        for shape in ((0, 4), (1, 4), (2**40, 4))
    ]
    steps = (StepResult(label="a", original_us=(1e9,), tuned_us=(1e-3,), ratio=1e-12, low=1e-12, high=1e-12),)
    return fabricate.profile(*made, steps=steps, verdict="")
