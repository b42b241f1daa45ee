"""Profiles made by hand, for tests of reports: nothing here was measured."""

from __future__ import annotations

from dataclasses import replace

from twinkle_tune.environment import Environment
from twinkle_tune.mode import Mode
from twinkle_tune.outcome import (
    Conditions,
    DeviceState,
    Measurement,
    Outcome,
    ParityFigure,
    Rejection,
    Selection,
    Timings,
    Trial,
)
from twinkle_tune.profile.schema import Contest, ModelFacts, Profile, Seen, StepResult
from twinkle_tune.profile.shares import with_shares
from twinkle_tune.slot import Slot, SlotKind
from twinkle_tune.workload import Context, Plain, TensorSpec, Workload

HOSTILE = (
    "<script>alert('x')</script> | [red]*bold*[/red] `code` \\| \x1b[31m\n# heading <img src=http://example.org/x>"
)
LONG = "a_very_long_candidate_name_" * 12


def environment(device: str = "cpu") -> Environment:
    """A machine that does not exist."""
    gpu = device == "cuda"
    return Environment(
        device=device,
        device_name="Fabricated GPU 80GB" if gpu else "Fabricated CPU @ 2.00GHz",
        capability="9.0" if gpu else "",
        memory_bytes=80 * 2**30 if gpu else 0,
        threads=2,
        torch="2.13.0",
        triton="3.9.0",
        runtime="13.0" if gpu else "",
        fp_fusion="default",
        python="3.11.9",
        system="Linux x86_64",
    )


def workload(
    *shapes: tuple[int, ...],
    dtype: str = "float32",
    kwargs: tuple[tuple[str, Plain], ...] = (),
    autocast: str = "",
) -> Workload:
    """A call with one contiguous tensor a shape."""
    return Workload(
        target="package.module:RMSNorm",
        args=tuple(TensorSpec(dtype=dtype, shape=shape, stride=_strides(shape)) for shape in shapes),
        kwargs=kwargs,
        settings=(),
        context=Context(training=False, grad=False, autocast=autocast, deterministic=False),
    )


def measurement(*times_us: float, peak_bytes: int | None = None, left_race: str = "", **changes: object) -> Measurement:
    """A measurement with two parity figures; the gradient is the one closer to its limit."""
    parity = (
        ParityFigure(tensor="output", point=2, error=1.5e-7, limit=6.0e-7),
        ParityFigure(tensor="gradient of weight", point=4, error=4.0e-6, limit=5.0e-6),
    )
    made = Measurement(
        times_us=times_us, first_call_us=1500.0, peak_bytes=peak_bytes, parity=parity, left_race=left_race
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def trial(candidate: str, outcome: Outcome, source: str = "impl") -> Trial:
    """A trial of a candidate."""
    return Trial(candidate=candidate, source=source, digest="0123456789abcdef", outcome=outcome)


def contest(
    *trials: Trial, selection: Selection, shape: tuple[int, ...] = (1, 128, 256), slot: str = "RMSNorm"
) -> Contest:
    """A contest of one layer slot at three places, seen in a prefill."""
    return Contest(
        slot=Slot(name=slot, kind=SlotKind.LAYER, target="package.module:RMSNorm"),
        instances=tuple(f"model.layers.{index}.input_layernorm" for index in range(4)),
        seen=(
            Seen(step="prefill 1x128", calls=4, share=0.125),
            Seen(step="decode 1x128", calls=4, share=0.0625),
        ),
        workload=workload(shape),
        trials=trials,
        selection=selection,
    )


def won() -> Contest:
    """The candidate "fused" takes 0.8 of the original's time; one left early, two were refused."""
    original = tuple(100.0 + index for index in range(8))
    return contest(
        trial("original", measurement(*original), "original"),
        trial("fused", measurement(*(0.8 * time for time in original), peak_bytes=1 << 20)),
        trial("slow", measurement(150.0, 160.0, 170.0, left_race="25% behind the leader after 3 rounds")),
        trial("compile", Rejection(stage="first call", reason="RuntimeError: no compiler found"), "compile"),
        trial("wrong", Rejection(stage="parity", reason="output: error 0.5 over its limit 6e-07 (point 2)")),
        selection=Selection(winner="fused", ratio=0.8, low=0.79, high=0.81, rounds=8, reason="faster in all 8 rounds"),
    )


def kept() -> Contest:
    """A function slot that the original keeps."""
    return replace(
        contest(
            trial("original", measurement(50.0, 51.0, 52.0), "original"),
            trial(
                "liger",
                measurement(51.0, 51.5, 51.0, deterministic=False, left_race="not 2% faster"),
                "liger",
            ),
            selection=Selection(winner="original", rounds=3, reason="no candidate was clearly faster"),
        ),
        slot=Slot(name="package.rotary", kind=SlotKind.FUNCTION, target="package.module:rotary"),
        instances=(),
        workload=workload((1, 4, 128, 64), (1, 2, 128, 64), (1, 128, 64), (1, 128, 64), (1, 128), dtype="bfloat16"),
    )


def profile(*contests: Contest, device: str = "cpu", **changes: object) -> Profile:
    """A complete profile of these contests, with one compared step and one that was not compared; shares as made and
    read profiles have them."""
    made = Profile(
        tool="twinkle_tune 0.1.0",
        created="2025-01-02T03:04:05Z",
        command="twinkle-tune profile qwen3-tiny --mode inference --device cpu --dtype float32 --batch 1 --seq-len 128",
        complete=True,
        model=ModelFacts(name="qwen3-tiny", target="package.module:Model", parameters=1_234_567, dtype="float32"),
        mode=Mode.INFERENCE,
        device=device,
        environment=environment(device),
        verdict="2 of 4 slots changed; the prefill takes 8.0% less time.",
        steps=(
            StepResult(
                label="prefill 1x128",
                original_us=(1000.0, 1010.0),
                tuned_us=(920.0, 930.0),
                ratio=0.92,
                low=0.91,
                high=0.93,
            ),
            StepResult(label="decode 1x128"),
        ),
        contests=contests,
        uncalled=("RMSNorm model.norm",),
    )
    return with_shares(replace(made, **changes))  # type: ignore[arg-type]


def normal() -> Profile:
    """Two contests, one won."""
    return profile(won(), kept())


def empty() -> Profile:
    """Interrupted before anything was finished."""
    return profile(complete=False, steps=(), uncalled=(), verdict="Nothing was finished.")


def all_rejected() -> Profile:
    """One contest in which even the original could not be judged."""
    refusal = Rejection(stage="parity", reason="inconclusive: a control passed")
    return profile(
        contest(
            trial("original", refusal, "original"),
            trial("fused", refusal),
            selection=Selection(winner="original", reason="nothing could be judged"),
        )
    )


def one_sample() -> Profile:
    """One round: hardly a figure."""
    return profile(
        contest(
            trial("original", measurement(10.0), "original"),
            trial("fused", measurement(9.0, parity=())),
            selection=Selection(winner="original", rounds=1, reason="one round says nothing"),
        )
    )


def hot() -> Profile:
    """On a GPU that grew hot in the second race of one of two contests."""
    calm = Conditions(
        before=DeviceState(clock_mhz=1980.0, temperature_c=51.0),
        after=DeviceState(clock_mhz=1965.0, temperature_c=58.0),
    )
    throttled = Conditions(
        before=calm.after,
        after=DeviceState(clock_mhz=1410.0, temperature_c=88.0, throttling="hardware thermal slowdown"),
        repeated=("the clock rate went from 1965 to 1410 MHz",) * 2,
    )
    again = (trial("original", measurement(100.0), "original"), trial("fused", measurement(80.0)))
    return profile(
        replace(won(), confirmation=again, conditions=(calm, throttled)),
        replace(
            kept(), conditions=(calm,), timings=(Timings(candidate="original", cold_us=(60.0, 61.0), host_us=9.0),)
        ),
        device="cuda",
    )


def hostile() -> Profile:
    """Every text that someone else can choose is an attack or endless."""
    original = won()
    evil = contest(
        trial("original", measurement(10.0, 11.0), "original"),
        trial(HOSTILE, measurement(9.0, 9.5, left_race=HOSTILE), HOSTILE),
        trial(LONG, Rejection(stage="load", reason=f"{HOSTILE} {LONG * 9}")),
        selection=Selection(winner=HOSTILE, ratio=0.9, low=0.86, high=0.9, rounds=2, reason=HOSTILE),
        slot=HOSTILE,
    )
    return profile(
        replace(evil, instances=(HOSTILE, LONG, "", "x", "y"), seen=(Seen(step=HOSTILE, calls=1, share=1.0),)),
        original,
        model=ModelFacts(name=HOSTILE, target=LONG, parameters=3, dtype="float32"),
        verdict=HOSTILE,
        steps=(StepResult(label=HOSTILE),),
        uncalled=(HOSTILE, LONG),
    )


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.insert(0, step)
        step *= size
    return tuple(strides)


ALL = {
    "normal": normal(),
    "empty": empty(),
    "all rejected": all_rejected(),
    "one sample": one_sample(),
    "hot": hot(),
    "hostile": hostile(),
}
"""Every profile above, by name."""
