"""What is recommended: apply, do not bother, or measure again, with the reason and what to run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.report import fabricate
from twinkle_tune.contest.selected import interpreted
from twinkle_tune.mode import Mode
from twinkle_tune.objective import Objective
from twinkle_tune.outcome import Selection
from twinkle_tune.profile.run import RunFacts
from twinkle_tune.profile.schema import Contest, Profile, Seen, StepResult
from twinkle_tune.profile.setup import CompiledStep
from twinkle_tune.report import head
from twinkle_tune.report.recommend import recommend, visible_step_gain
from twinkle_tune.report.render import render
from twinkle_tune.report.terminal import terminal_text

ALONE = StepResult(label="prefill 1x128")

UNTRIED = " Other ways of running the whole model were not tried: --ways."


def _step(ratio: float, low: float, high: float) -> StepResult:
    times = (1000.0,) * 8
    return StepResult(label="prefill 1x128", original_us=times, tuned_us=times, ratio=ratio, low=low, high=high)


def _kept(status: str = "kept", share: float = 0.5, visible_gain: float | None = None) -> Contest:
    chosen = Selection(winner="original", reason="x", status=status, visible_gain=visible_gain)  # type: ignore[arg-type]
    seen = (Seen(step="prefill 1x128", calls=4, share=share),)
    return replace(fabricate.kept(), selection=chosen, seen=seen)


def _stopped(command: str = "twinkle-tune profile qwen3-tiny --budget 30s --device cpu", **changes: object) -> Profile:
    run = RunFacts(took_s=30.0, budget_s=30.0, stopped="budget", needs_s=200.0)
    contests = (_kept(), replace(_kept("not tried"), trials=()))
    made = fabricate.profile(*contests, steps=(ALONE,), run=run, complete=False, command=command)
    return replace(made, **changes)  # type: ignore[arg-type]


def test_a_clear_gain_of_the_whole_model_is_applied() -> None:
    """With the lines to copy, and the gain in words."""
    found = recommend(fabricate.normal(), "out/p.json")
    assert (found.kind, found.reason, found.title) == ("apply", "gain", "Apply it")
    assert "kernelize_model(model, mode='inference', device='cpu', profile='out/p.json')" in found.run
    assert "# The winners run with gradients off: in torch.no_grad()" in found.run
    assert found.why == "Checked and timed on the whole model. Prefill 1x128: 8.0% faster (7.0% to 9.0% in 2 rounds)."
    assert found.then == "After an update of torch, or on another machine:"
    assert found.then_run == "twinkle-tune verify out/p.json qwen3-tiny"
    assert found.whole == "prefill 1x128 8.0% faster (1.09x); decode 1x128 not timed with the winners"


def test_each_compared_step_is_told_with_its_interval() -> None:
    """No clear difference is said as that; a level is named where the rounds suffice for it."""
    even = replace(_step(0.996, 0.988, 1.009), label="decode 1x128")
    found = recommend(fabricate.profile(fabricate.won(), steps=(_step(0.972, 0.964, 0.982), even)))
    assert found.why == (
        "Checked and timed on the whole model. Prefill 1x128: 2.8% faster (95% interval 1.8% to 3.6%). "
        "Decode 1x128: no clear difference."
    )


def test_a_factory_is_named_for_verify() -> None:
    """A profile's code is not run because a profile names it: the line to copy has the model."""
    made = fabricate.profile(fabricate.won(), command="twinkle-tune profile --device cpu toy:make")
    made = replace(made, model=replace(made.model, name="toy:make"))
    assert recommend(made, "p.json").then_run == "twinkle-tune verify p.json toy:make"
    assert recommend(replace(made, command=""), "my p.json").then_run == "twinkle-tune verify 'my p.json'"


def test_a_busy_machine_is_told_with_what_it_means() -> None:
    """A clear gain is clear all the same; where there is none, noise may hide it; memory does not depend on it."""
    busy = replace(fabricate.environment(), load=1.5, processors=2)

    def note(**changes: object) -> str:
        made = replace(fabricate.profile(fabricate.won(), environment=busy), **changes)  # type: ignore[arg-type]
        return next(note for note in head.notes(made) if note.startswith("The machine was busy"))

    assert note() == (
        "The machine was busy at first (load 1.5 on 2 processors). What prefill 1x128 gains is clear all the same; "
        "smaller gains may hide."
    )
    assert note(steps=(ALONE,)).endswith("That may hide gains: measure again when it is quiet.")
    assert "do not depend on it" in note(objective=Objective.MEMORY)


def test_the_contests_are_counted_with_what_a_contest_is() -> None:
    """None that was not tried is said too; of an interrupted run that number is not known."""
    what = "(one slot, a layer or function, at one input shape)"
    assert head.contests_text(fabricate.normal()) == (
        f"2 contests {what}: 1 won by a kernel (right and clearly faster), 1 kept the original, 0 not tried."
    )
    ended = replace(fabricate.normal(), complete=False)
    assert head.contests_text(ended).endswith("1 kept the original, the rest not tried.")
    assert head.contests_text(fabricate.empty()) == ""


def test_labels_of_steps_are_explained_once_a_kind() -> None:
    """A decode is one token after its length; a name of somebody's own is left as it is."""
    labels = ("prefill 2x8", "prefill 4x8", "decode 2x8", "train 1x128", "forward", "prefill late", "generate 1x4+2")
    made = fabricate.profile(steps=tuple(StepResult(label=label) for label in labels))
    assert head.steps_text(made) == (
        "prefill 2x8: batch 2, 8 tokens; decode 2x8: batch 2, one token after 8; train 1x128: batch 1, 128 tokens; "
        "generate 1x4+2: batch 1, a prompt of 4 tokens, and 2 new ones"
    )


def test_a_step_that_was_left_out_was_not_run() -> None:
    """Nothing is called unchanged that was not run, or that winners changed and nobody timed."""
    left_out = StepResult(label="decode 1x8", left_out="the model does not take it (IndexError: no cache)")
    made = fabricate.profile(_kept(), steps=(ALONE, left_out))
    told = "decode 1x8 not run: the model does not take it (IndexError: no cache)"
    assert recommend(made).whole == f"prefill 1x128 unchanged; {told}"
    assert told in str(made)
    assert "decode 1x8 was not run: the model does not take it" in " ".join(head.notes(made))
    for form in (terminal_text(made, full=False), render(made, "md"), render(made, "html")):
        assert "not run: the model does not take it" in " ".join(str(form).split())
    assert "No kernel won for `prefill 1x128`: the original" in str(render(made, "md"))
    untimed = fabricate.profile(fabricate.won(), steps=(StepResult(label="prefill 1x128"), ALONE), complete=False)
    assert recommend(untimed).whole.startswith("prefill 1x128 not timed with the winners")


def test_a_run_without_time_is_measured_again_with_more() -> None:
    """The command is the run's own with the budget that would be enough."""
    found = recommend(_stopped())
    assert (found.kind, found.reason) == ("measure again", "budget")
    assert found.run == "twinkle-tune profile qwen3-tiny --device cpu --budget 4m"
    assert "1 of 2 contests finished, 1 not tried" in found.why
    assert "budget_s='4m')" in recommend(_stopped(command="")).run


def test_to_measure_again_needs_no_budget() -> None:
    """A run that came to its end within a small budget had few rounds for the whole model: the next one has more."""
    made = fabricate.profile(
        _kept("no clear winner", 0.5, 0.1), steps=(ALONE,), command="twinkle-tune profile m --budget 5s"
    )
    assert recommend(made).run == "twinkle-tune profile m"


def test_a_used_up_budget_is_no_interruption() -> None:
    """The facts have the one count of what the budget sufficed for, no note repeats it, and nobody interrupted it."""
    assert not [note for note in head.notes(_stopped()) if "contests" in note or "interrupted" in note]
    assert dict(head.facts(_stopped()))["Run"] == "budget of 30 s used up: 1 of 2 contests finished, 1 not tried"
    ended = replace(_stopped(), run=RunFacts(took_s=12.0, stopped="interrupted"))
    assert "The run was interrupted" in " ".join(head.notes(ended))
    assert dict(head.facts(ended))["Run"] == "interrupted, 12 s"
    done = replace(_stopped(), run=RunFacts(took_s=252.0), complete=True)
    assert dict(head.facts(done))["Run"] == "complete, 4 min 12 s"
    assert dict(head.facts(fabricate.normal()))["Run"] == "complete"


def test_what_takes_less_is_a_whole_command_with_its_time() -> None:
    """Torch's own candidates alone, where they take less, and where the run was not narrowed already."""

    def fewer(torch_needs_s: float | None, command: str = "twinkle-tune profile m --budget 30s") -> tuple[str, str]:
        run = RunFacts(took_s=30.0, budget_s=30.0, stopped="budget", needs_s=600.0, torch_needs_s=torch_needs_s)
        found = recommend(_stopped(command=command, run=run))
        return found.then, found.then_run

    assert fewer(100.0) == (
        "Or torch's own candidates alone, about 2 min:",
        "twinkle-tune profile m --candidates torch --budget 2m",
    )
    assert fewer(None) == fewer(700.0) == fewer(100.0, "twinkle-tune profile m --candidates=a") == ("", "")
    assert fewer(100.0, "") == ("", "")


def test_what_the_reason_says_is_no_note_beside_it() -> None:
    """A busy machine, and an interruption, are told once: in the reason where it names them, else in a note."""
    busy = replace(fabricate.environment(), load=9.0, processors=2)
    noisy = fabricate.profile(_kept("no clear winner", 0.5, 0.1), steps=(ALONE,), environment=busy)
    for made, told in ((noisy, "machine was busy"), (fabricate.empty(), "was interrupted")):
        text = " ".join(terminal_text(made, full=False, width=300).split())
        assert text.count(told) == 1
    quiet = fabricate.profile(_kept(), steps=(ALONE,), environment=busy)
    assert "machine was busy" in terminal_text(quiet, full=False, width=300)


def test_a_stopped_run_is_told_once_and_as_today_words_it() -> None:
    """What stopped the run, and what is enough, is the reason, and no form repeats it or an older wording."""
    made = replace(_stopped(), verdict="Stopped by the 30 s budget, as older code worded it.")
    for form in (terminal_text(made, full=False), render(made, "md"), render(made, "html"), str(made)):
        assert "older code" not in str(form)
    for form in (terminal_text(made, full=False), render(made, "md"), str(made), made._repr_html_()):
        assert " ".join(str(form).split()).count("Stopped by the 30 s budget") == 1
    assert "About 4 min would be enough." in recommend(made).why


def test_every_form_says_how_next_to_what_to_do() -> None:
    """The lines to apply a profile with, or the command that measures again, stand below the advice."""
    applied = fabricate.normal()
    for form in (
        terminal_text(applied, "p.json", full=False),
        render(applied, "md", "p.json"),
        render(applied, "html"),
    ):
        text = " ".join(str(form).replace("&#39;", "'").split())
        assert (
            text.index("Apply it") < text.index("model = kernelize_model(model, mode='inference'") < text.index("Step")
        )
    for form in (terminal_text(_stopped(), full=False), render(_stopped(), "md"), render(_stopped(), "html")):
        text = " ".join(str(form).split())
        assert "twinkle-tune profile qwen3-tiny --device cpu --budget 4m" in text
    assert "    twinkle-tune" not in terminal_text(fabricate.profile(_kept(), steps=(ALONE,)), full=False)


def test_a_gain_of_a_stopped_run_is_applied_and_says_that_there_may_be_more() -> None:
    """What was measured holds, though not everything was."""
    found = recommend(_stopped(contests=(fabricate.won(),), steps=(_step(0.9, 0.88, 0.92),)))
    assert found.kind == "apply"
    assert "more may be found" in found.why


def test_an_interrupted_run_is_finished() -> None:
    """It is no reason to leave the original."""
    found = recommend(fabricate.empty())
    assert (found.kind, found.reason) == ("measure again", "interrupted")


def test_a_step_outside_of_slots_is_no_bother() -> None:
    """Where replaceable places take 10% of each step, nothing for them is worth a change."""
    found = recommend(fabricate.profile(_kept(share=0.1), steps=(ALONE,)))
    assert (found.kind, found.reason, found.run) == ("do not bother", "outside", "")
    assert found.why.startswith("90.0% or more")


def test_contests_that_kept_the_original_are_no_bother() -> None:
    """They were held, and nothing was better."""
    found = recommend(fabricate.profile(_kept(), _kept(), steps=(ALONE,)))
    assert (found.kind, found.reason) == ("do not bother", "kept")
    assert found.why == "Each of 2 contests kept the original: no kernel was right and clearly faster." + UNTRIED


def test_who_asked_for_ways_is_not_sent_there() -> None:
    """Nor who asked for a mode that compiles, or for memory."""
    kept = fabricate.profile(_kept(), steps=(ALONE,))
    assert recommend(kept).why.endswith(UNTRIED)
    way = CompiledStep(label=ALONE.label, ratio=1.1, low=1.05, high=1.2)
    for other in (
        replace(kept, compiled=(way,)),
        replace(kept, mode=Mode.COMPILE),
        replace(kept, objective=Objective.MEMORY),
    ):
        assert "--ways" not in recommend(other).why


def test_a_way_that_noise_may_hide_is_measured_again() -> None:
    """One that seems to take half the time is no reason not to bother; one that seems to save nothing is."""
    kept = fabricate.profile(_kept(), steps=(ALONE,))
    way = CompiledStep(label=ALONE.label, ratio=0.5, low=0.3, high=1.2)
    found = recommend(replace(kept, compiled=(replace(way, way="compile blocks", ratio=0.9), way)))
    assert (found.kind, found.reason) == ("measure again", "noise")
    assert "prefill 1x128: compile took 0.500 (0.300 to 1.200) of the time" in found.why
    assert "Stop what else runs" in found.why
    assert recommend(replace(kept, compiled=(replace(way, ratio=0.999),))).kind == "do not bother"
    assert (
        recommend(replace(kept, compiled=(replace(way, problem="it is off", cause="wrong"),))).kind == "do not bother"
    )


def test_winners_that_the_whole_model_took_back_are_named() -> None:
    """They were right and faster by themselves: to say that no kernel was would contradict the counts below."""
    back = _kept()
    back = replace(back, selection=replace(back.selection, status="taken back"))
    found = recommend(fabricate.profile(_kept(), back, steps=(ALONE,)))
    assert (found.kind, found.reason) == ("do not bother", "kept")
    assert found.why == (
        "Kernels won 1 of 2 contests by themselves; with them no step of the whole model became faster and stayed "
        "right, so the originals run." + UNTRIED
    )


def test_noise_that_may_hide_a_gain_is_measured_again() -> None:
    """Half of a step in which gains under 10% could not be seen may hide 5% of it; a hundredth may not."""
    noisy = fabricate.profile(_kept("no clear winner", 0.5, 0.1), steps=(ALONE,))
    found = recommend(noisy)
    assert (found.kind, found.reason) == ("measure again", "noise")
    assert "up to 5.0% of a step" in found.why
    assert "Stop what else runs" in found.why
    busy = replace(noisy, environment=replace(noisy.environment, load=9.0, processors=2))
    assert "load 9.0 on 2 processors" in recommend(busy).why
    assert recommend(fabricate.profile(_kept("no clear winner", 0.01, 0.1), steps=(ALONE,))).kind == "do not bother"


def test_winners_without_a_clear_gain() -> None:
    """A wide interval is measured again, a narrow one around nothing is no bother."""
    wide = recommend(fabricate.profile(fabricate.won(), steps=(_step(1.0, 0.9, 1.1),)))
    assert (wide.kind, wide.reason) == ("measure again", "noise")
    assert "gains from 9.1% would have been seen" in wide.why
    narrow = recommend(fabricate.profile(fabricate.won(), steps=(_step(0.998, 0.99, 1.001),)))
    assert (narrow.kind, narrow.reason) == ("do not bother", "small gain")


def test_winners_that_save_little_by_themselves_are_no_bother() -> None:
    """A wide interval hides no gain that the winners could not make: a fifth of a slot that takes 1% of the step."""
    little, times = replace(fabricate.won(), seen=(Seen(step="prefill 1x128", calls=1, share=0.01),)), (10_000.0,) * 8
    wide = replace(_step(1.0, 0.9, 1.1), original_us=times, tuned_us=times)
    found = recommend(fabricate.profile(little, steps=(wide,)))
    assert (found.kind, found.reason) == ("do not bother", "small gain")
    assert (
        found.why
        == "With the winners no step was clearly faster; by themselves they save at most 0.2% of one." + UNTRIED
    )


def test_a_kernel_in_the_interpreter_is_not_called_slow() -> None:
    """Where the original was kept, who was right and could not be timed is told beside it, and what to do."""
    kept = _kept()
    kept = replace(kept, trials=(*kept.trials, fabricate.trial("impl:Fast", interpreted(), "impl")))
    assert (
        recommend(fabricate.profile(kept, steps=(ALONE,)))
        .why.removesuffix(UNTRIED)
        .endswith("1 ran in Triton's interpreter and could not be timed here: profile on a GPU.")
    )


def test_by_memory_a_smaller_step_is_applied() -> None:
    """The objective decides what a gain is: half the memory at more time is one."""
    step = replace(_step(1.2, 1.19, 1.21), original_peak_bytes=2**20, tuned_peak_bytes=2**19)
    found = recommend(fabricate.profile(fabricate.won(), steps=(step,), objective=Objective.MEMORY))
    assert found.kind == "apply"
    assert "0.500 of its peak memory" in found.whole


def test_what_a_step_could_have_shown() -> None:
    """Its interval, moved to lie under 1."""
    assert visible_step_gain(_step(1.0, 0.9, 1.25)) == pytest.approx(0.2)
    assert visible_step_gain(ALONE) is None


def test_every_fabricated_profile_has_a_recommendation() -> None:
    """Whatever a profile says, there is something to do with it."""
    for profile in fabricate.ALL.values():
        assert recommend(profile).why
