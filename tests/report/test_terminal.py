"""The report in a terminal: short by default, whole on demand, and readable in any width."""

from __future__ import annotations

import ast
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len

from tests.report import fabricate
from twinkle_tune.errors import TuneError
from twinkle_tune.outcome import Selection, Status
from twinkle_tune.profile.io import load_profile
from twinkle_tune.profile.run import RunFacts
from twinkle_tune.profile.schema import Contest, ModelFacts, Profile, Seen, StepResult
from twinkle_tune.report.brief import brief
from twinkle_tune.report.layout import Column, command, python, table_lines, wrapped
from twinkle_tune.report.terminal import SHORT_LINES, terminal_text
from twinkle_tune.report.view import view
from twinkle_tune.slot import Slot, SlotKind
from twinkle_tune.tune.verdict import verdict_of

WIDTHS = (60, 80, 100, 120)
ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "profiles").glob("*/*.json"))


def held(slot: str, share: float, won: bool, rows: int, *, called: bool = True) -> Contest:
    """A contest of a slot that takes this share of the prefill: two calls of a step of 1005 microseconds."""
    made = fabricate.won() if won else fabricate.kept()
    original = (share * 1005.0 / 2,) * 8 if share else (100.0,) * 8
    rival = "fused" if won else "liger"
    trials = (
        fabricate.trial("original", fabricate.measurement(*original), "original"),
        fabricate.trial(rival, fabricate.measurement(*(0.8 * time for time in original), left_race="" if won else "-")),
        *made.trials[2:],
    )
    seen = (Seen(step="prefill 1x128", calls=2, share=share),) if called else ()
    workload = fabricate.workload((1, rows, 256))
    return replace(
        made,
        trials=trials,
        slot=Slot(name=slot, kind=SlotKind.LAYER, target=f"package.module:{slot}"),
        instances=("model.norm",),
        seen=seen,
        workload=workload,
    )


def large() -> Profile:
    """Twenty-nine contests in four steps: two winners, twelve sizes that the model never calls."""
    contests = [held(f"package.rotary_{n}.apply_rotary_pos_emb", 0.01, False, 128) for n in range(14)]
    contests += [held("RMSNorm", 0.02, True, 64), held("RMSNorm", 0.2, True, 128), held("GatedMLP", 0.435, False, 128)]
    contests += [held("RMSNorm", 0.0, n == 0, n + 1, called=False) for n in range(12)]
    steps = fabricate.normal().steps
    return fabricate.profile(*contests, steps=(*steps, *(replace(steps[0], label=f"prefill {n}x8") for n in (2, 4))))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("full", [False, True])
def test_no_line_is_wider_than_the_terminal(width: int, full: bool) -> None:
    """Short or whole, profiles made by hand, endless names too, and those that ship. Lines to copy stay whole."""
    for profile in (*fabricate.ALL.values(), large(), *map(load_profile, SHIPPED)):
        text = terminal_text(profile, "p.json", width=width, full=full)
        copied = {each.plain for line in _to_copy(profile) for each in (*command(line, width), *python(line, width))}
        assert max(cell_len(line) for line in text.splitlines() if line not in copied) <= width


def _to_copy(profile: Profile) -> list[str]:
    shown = view(profile, "p.json")
    return [*shown.run, shown.then_run, *shown.apply.splitlines(), *shown.reproduce.splitlines()]


@pytest.mark.parametrize("width", WIDTHS)
def test_short_form_fits_a_screen(width: int) -> None:
    """In 80 columns and more thirty lines, with two below it that say what was written; in 60 sentences wrap.

    A profile of four steps may take the two lines for itself.
    """
    for profile in (fabricate.normal(), large(), *map(load_profile, SHIPPED)):
        count = len(terminal_text(profile, "profiles/amd-epyc/p.json", width=width, full=False).splitlines())
        assert count <= SHORT_LINES + (12 if width < 80 else 2 if len(profile.steps) > 2 else 0)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("full", [False, True])
def test_no_word_is_broken(width: int, full: bool) -> None:
    """Names of slots and candidates, shapes and words of sentences each stand whole on one line."""
    text = terminal_text(large(), "p.json", width=width, full=full)
    for word in ("RMSNorm", "fused", "prefill", "GatedMLP", "faster", "original"):
        assert word in text
    lines = text.splitlines()
    assert not any(re.fullmatch(r"\s*\w{1,2}\s*", line) for line in lines)
    if full:
        assert "apply_rotary_pos_emb" in text


def test_short_form_says_what_matters_in_order() -> None:
    """What to do, the whole model in words, the winners by what they save, then what stayed, in a line."""
    text = terminal_text(large(), "p.json", width=120, full=False)
    said = (
        "Apply it. Checked and timed on the whole model. Prefill 1x128: 8.0% faster (7.0% to 9.0% in 2 rounds)",
        "1 more step below.",
        "After an update of torch, or on another machine:\ntwinkle-tune verify p.json qwen3-tiny\n",
        "29 contests (one slot, a layer or function, at one input shape): 3 won by a",
        "0 not tried.",
        "The whole model\n",
        "prefill 1x128: batch 1, 128 tokens; decode 1x128: batch 1, one token after 128",
        "8.0% faster, 1.09×",
        "unchanged: the original runs",
        "What won, by what it saves",
        "40.2 µs, 4.0%",
        "4.02 µs, 0.4%",
        "Largest that kept the original: GatedMLP, 43.5% of prefill 1x128.",
        "12 more sizes tried that this model never called: fused in 1.",
        "--full",
    )
    places = [text.index(each) for each in said]
    assert places == sorted(places)
    assert "apply_rotary_pos_emb" not in text


def ended(slot: str, share: float, status: Status) -> Contest:
    """A contest without a winner that ended so."""
    chosen = Selection(winner="original", reason="as the budget had it", status=status)
    return replace(held(slot, share, False, 8), selection=chosen)


def test_contests_that_ran_out_of_time_are_told_apart() -> None:
    """The largest that was not tried is one that was not tried: neither what was cut short nor what was kept."""
    contests = [ended("RMSNorm", 0.1, "kept"), ended("GatedMLP", 0.4, "cut short")]
    contests += [ended("Activation", 0.2, "not tried"), ended("rotary", 0.3, "not tried")]
    assert brief(fabricate.profile(*contests)).stayed == (
        "Kept the original: RMSNorm, 10.0% of prefill 1x128; cut short: GatedMLP, 40.0% of prefill 1x128; "
        "largest not tried: rotary, 30.0% of prefill 1x128"
    )
    unclear = [ended("RMSNorm", share, "no clear winner") for share in (0.1, 0.2)]
    assert brief(fabricate.profile(*unclear)).stayed == (
        "Largest that kept the original: RMSNorm, 20.0% of prefill 1x128 (no clear winner)"
    )


def test_a_run_that_concluded_nothing_counts_once_and_calls_nothing_unchanged() -> None:
    """The contests are counted in the first sentence alone, what a contest is follows, and no step was timed."""
    contests = [ended("GatedMLP", 0.4, "cut short"), *(ended("RMSNorm", 0.1, "not tried") for _ in range(11))]
    run = RunFacts(took_s=39.0, budget_s=45.0, stopped="budget", needs_s=1488.9)
    profile = fabricate.profile(
        *contests, steps=(StepResult(label="prefill 1x128"),), run=run, complete=False,
        verdict=verdict_of(contests, (), run=run),
    )  # fmt: skip
    text = terminal_text(profile, "p.json", width=80, full=False)
    said = " ".join(text.split())
    assert said.count("12 contests") == said.count("not tried") - 1 == 1
    assert "0 of 12 contests finished, 1 cut short, 11 not tried." in said
    assert "A contest is one slot, a layer or function, at one input shape." in said
    assert "prefill 1x128 not timed with kernels" in said
    assert "unchanged" not in said
    assert "The original runs" not in terminal_text(profile, "p.json")
    partly = replace(profile, contests=(*contests, ended("rotary", 0.1, "kept")))
    assert "prefill 1x128 unchanged so far" in " ".join(terminal_text(partly, full=False).split())


def test_one_contest_alone() -> None:
    """By its number, in full; a number that is not there is one error with the range."""
    text = terminal_text(fabricate.normal(), "p.json", contest=1)
    assert text.startswith("1. RMSNorm · float32[1,128,256]")
    assert "RuntimeError: no compiler found" in text
    assert "2. " not in text
    with pytest.raises(TuneError, match="--contest: got 3, expected 1 to 2"):
        terminal_text(fabricate.normal(), "p.json", contest=3)


def test_narrow_tables_leave_out_columns_and_keep_notes() -> None:
    """In 60 columns the candidates' table has name and ratio; the note stands on a line of its own."""
    lines = terminal_text(fabricate.normal(), "p.json", width=60, contest=1).splitlines()
    head = next(line for line in lines if "Candidate" in line)
    assert "Time ÷ original" in head
    assert "First call" not in head
    assert "      25% behind the leader after 3 rounds" in lines


def test_a_step_that_gains_nothing_is_told_plainly() -> None:
    """Where nothing was compared the step is unchanged, and no ratio is shown as if it were measured."""
    profile = fabricate.profile(fabricate.kept(), steps=(StepResult(label="decode 1x128"),))
    text = terminal_text(profile, "p.json", full=False)
    assert "decode 1x128  unchanged: the original runs" in text
    assert "1.000" not in text


def test_long_words_break_after_dots_alone() -> None:
    """A path longer than the line is broken after a dot, colon or slash; a longer part loses its middle."""
    lines = [line.plain for line in wrapped("Replaces package.module_one.module_two:Class", 24, indent=2)]
    assert lines == ["  Replaces", "  package.module_one.", "  module_two:Class"]
    assert [line.plain for line in wrapped("x" * 50, 20)] == ["x" * 12 + "…" + "x" * 7]


def test_tables_shorten_only_what_may_be() -> None:
    """Ranked columns go first, then the longest name loses its middle, and figures stay whole."""
    columns = (Column(head="Name", least=8), Column(head="Time", right=True), Column(head="Rest", rank=1))
    lines = [line.plain for line in table_lines(columns, [("a_long_name_indeed", "1.00 ms", "more")], 20)]
    assert lines == ["Name            Time", "a_long…deed  1.00 ms"]


def test_a_noisy_run_fits_a_screen_and_says_what_is_uncertain() -> None:
    """Advice, command, notes, two steps, winners and what stayed: 30 lines at 80 columns, and no fact is told twice."""
    times = (1000.0,) * 8
    noisy = {"ratio": 0.98, "low": 0.85, "high": 1.1, "original_us": times, "tuned_us": times}
    steps = tuple(StepResult(label=label, **noisy) for label in ("prefill 1x128", "decode 1x128"))  # type: ignore[arg-type]
    won = replace(fabricate.won(), seen=tuple(Seen(step=s.label, calls=4, share=0.05) for s in steps))
    far = replace(won, seen=(Seen(step="decode 1x128", calls=3, share=0.9),))
    names = ("Qwen3Attention (2 layers)", "Embedding (1 layer)")
    profile = fabricate.profile(
        won,
        far,
        fabricate.kept(),
        steps=steps,
        environment=replace(fabricate.environment(), load=10.8, processors=2),
        model=ModelFacts(name="qwen3-tiny", target="m:M", parameters=1, dtype="float32", unlooked=names),
        verdict=verdict_of((won, far, fabricate.kept()), steps),
    )
    text = terminal_text(profile, "out/qwen3-tiny-cpu.json", width=80, full=False)
    assert len(text.splitlines()) <= SHORT_LINES
    said = " ".join(text.split())
    assert "The share of RMSNorm in decode 1x128 is uncertain: 90.0% while the model ran, 31." in said
    assert said.count("The machine was busy") == 1
    assert "More: twinkle-tune report out/qwen3-tiny-cpu.json --full" in text
    outside = "Not replaceable by themselves, about 38.2% of prefill 1x128 and 7.2% of decode 1x128"
    assert f"{outside}: Qwen3Attention (2 layers), Embedding (1 layer). More:" in said


@pytest.mark.parametrize("width", [20, 40, 60, 80])
def test_a_command_over_several_lines_can_be_copied(width: int) -> None:
    """A shell reads the lines as the whole command; a word longer than a line stays whole, in a line of its own."""
    text = "twinkle-tune profile qwen3-tiny --device cpu --fresh --out out/qwen3-tiny-cpu.json --budget 25m"
    for each in (
        text,
        f"twinkle-tune profile {'a' * 100} --out {'b' * 50}/c.json",
        "twinkle-tune report 'my run/p.json'",
    ):
        lines = [line.plain for line in command(each, width)]
        assert shlex.split("\n".join(lines).replace("\\\n", "")) == shlex.split(each)
        assert all(len(line) <= width or " " not in line.removesuffix(" \\") for line in lines)


@pytest.mark.parametrize("width", [40, 60, 80])
def test_python_over_several_lines_can_be_copied(width: int) -> None:
    """The lines that apply a profile say the same to Python's parser in every width, and a comment stays one."""
    path = f"profiles/{'a-device' * 8}/my profile.json"
    made = view(fabricate.normal(), path)
    lines = [line.plain for text in made.run for line in python(text, width)]
    assert ast.dump(ast.parse("\n".join(lines))) == ast.dump(ast.parse(made.apply))
    assert "\n".join(lines) in terminal_text(fabricate.normal(), path, width=width, full=False)
