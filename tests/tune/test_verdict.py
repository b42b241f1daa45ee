"""The sentence at the head of a profile, and how it tells what was not tried from what was kept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.report import fabricate
from twinkle_tune.contest.selected import interpreted, not_timed, not_tried, selection_of
from twinkle_tune.measure.paired import Decision
from twinkle_tune.outcome import Measurement, Outcome, Rejection, Selection, Status, Trial, Untimed
from twinkle_tune.profile.run import RunFacts
from twinkle_tune.profile.schema import Contest, StepResult
from twinkle_tune.tune.course import run_facts
from twinkle_tune.tune.gain import time_words
from twinkle_tune.tune.verdict import round_up_s, verdict_of
from twinkle_tune.words import span

TIMED = fabricate.measurement(*(100.0,) * 8)
REFUSED = Rejection(stage="parity", reason="output: wrong")
LATE = not_tried()
RIGHT = Untimed(cause="budget", right=True, reason="not timed")


def _decision(**changes: object) -> Decision:
    made = Decision(winner="original", reason="no candidate was at least 2% faster", left=(("a", "slow"),), rounds=8)
    return replace(made, **changes)  # type: ignore[arg-type]


def _trials(*rivals: Outcome) -> list[Trial]:
    return [
        fabricate.trial("original", TIMED, "original"),
        *(fabricate.trial(name, outcome) for name, outcome in zip("abc", rivals, strict=False)),
    ]


@pytest.mark.parametrize(
    ("rivals", "decision", "status"),
    [
        ((), _decision(reason="there was no candidate"), "nothing to gain"),
        ((TIMED, REFUSED), _decision(), "kept"),
        ((TIMED,), _decision(unclear=True, reason="no clear winner after 8 rounds"), "no clear winner"),
        ((REFUSED, REFUSED), _decision(), "all refused"),
        ((LATE, LATE), _decision(), "not tried"),
        ((REFUSED, LATE), _decision(), "not tried"),
        ((TIMED, LATE), _decision(), "cut short"),
        ((RIGHT,), _decision(stopped=True, rounds=0), "cut short"),
        ((TIMED,), _decision(stopped=True, reason="out of time budget after 8 rounds"), "cut short"),
        ((interpreted(),), _decision(reason="there was no candidate"), "kept"),
        ((REFUSED, interpreted()), _decision(), "kept"),
    ],
)
def test_the_status_of_a_contest_without_a_winner(
    rivals: tuple[Outcome, ...], decision: Decision, status: Status
) -> None:
    """What became of it follows from its outcomes and from what ended its race, not from a sentence."""
    assert selection_of(decision, _trials(*rivals)).status == status


def test_a_race_without_a_winner_says_what_it_could_have_seen() -> None:
    """Sixty rounds that scatter by 10% leave gains of several percent open, and the selection says from where on."""
    chance = [90.0, 110.0, 95.0, 105.0] * 15
    trials = [
        fabricate.trial("original", fabricate.measurement(*(100.0,) * 60), "original"),
        fabricate.trial("a", fabricate.measurement(*chance)),
    ]
    decision = _decision(unclear=True, rounds=60, reason="no clear winner after 60 rounds")
    visible = selection_of(decision, trials).visible_gain
    assert visible is not None
    assert 0.04 < visible < 0.12


def test_a_right_candidate_whose_time_ran_out_is_not_refused() -> None:
    """After no round nothing is known of its speed: it is untimed, and right; who raised while timed is refused."""
    stopped = _decision(stopped=True, rounds=0, left=(("a", "x"), ("b", "raised while it was timed")), failed=("b",))
    late = not_timed("a", stopped)
    assert isinstance(late, Untimed)
    assert (late.cause, late.right) == ("budget", True)
    assert late.reason == "not timed: the budget ran out; it passed the numerical check"
    assert isinstance(not_timed("b", stopped), Rejection)


def _contest(status: Status, *, rival: Outcome = TIMED) -> Contest:
    base = fabricate.kept()
    trials = () if status == "not tried" else tuple(_trials(rival))
    return replace(base, trials=trials, selection=Selection(winner="original", reason=status, status=status))


def test_a_stopped_run_concludes_nothing() -> None:
    """The verdict says the budget, how much was finished and what would be enough, and not to keep the original."""
    contests = [_contest("kept"), *(_contest("not tried") for _ in range(11))]
    run = RunFacts(took_s=30.2, budget_s=30.0, stopped="budget", needs_s=231.0)
    assert verdict_of(contests, (), run=run) == (
        "Stopped by the 30 s budget: 1 of 12 contests finished, 11 not tried. No conclusion yet. "
        "About 4 min would be enough."
    )
    assert "1 of 3 contests finished, 1 cut short, 1 not tried" in verdict_of(
        [_contest("kept"), _contest("cut short"), _contest("not tried")], (), run=run
    )


def test_a_stopped_run_with_a_winner_says_what_it_found() -> None:
    """What was measured is said all the same."""
    step = StepResult(label="forward", original_us=(2.0,), tuned_us=(1.0,), ratio=0.9, low=0.85, high=0.95)
    run = RunFacts(took_s=30.2, budget_s=30.0, stopped="budget")
    told = verdict_of([fabricate.won(), _contest("not tried")], [step], run=run)
    assert (
        "1 of 2 contests finished, 1 not tried. So far: 1 of 2 contests won by a kernel (RMSNorm): forward 10.0%"
        in told
    )
    assert told.endswith("A larger --budget would be enough.")


def test_noise_is_said_with_the_gain_that_would_have_been_seen() -> None:
    """Who was too noisy to tell is counted apart from who was kept."""
    noisy = _contest("no clear winner")
    noisy = replace(noisy, selection=replace(noisy.selection, visible_gain=0.06))
    assert verdict_of([_contest("kept"), noisy], ()) == (
        "Keep the original: none of 2 contests found a kernel that is right and clearly faster; "
        "1 was too noisy to tell (this run could have seen gains from 6%)."
    )


def test_what_all_of_a_run_would_take_follows_from_what_was_done() -> None:
    """Two contests of two candidates took 20 s: ten more take 100 s more, and a block its minute to compile."""
    held, late = _contest("kept"), _contest("not tried")
    block = replace(late, slot=replace(late.slot, name="Block"))
    facts = run_facts(
        [held, held, *[late] * 10], lambda contest: 2, took_s=30, contests_s=20, budget_s=30
    )  # fmt: skip
    assert (facts.stopped, facts.needs_s) == ("budget", 130.0)
    facts = run_facts([held, block], lambda contest: 2, took_s=30, contests_s=20, budget_s=30)
    assert (facts.needs_s, facts.torch_needs_s) == (110.0, None)
    facts = run_facts(
        [held, held, late], lambda contest: 5, torch=lambda contest: 1,
        took_s=30, contests_s=20, budget_s=30,
    )  # fmt: skip
    assert (facts.needs_s, facts.torch_needs_s) == (55.0, 40.0), "six of torch's and originals at 5 s, and 10 s beside"
    facts = run_facts([held], lambda contest: 2, took_s=30, contests_s=20, budget_s=None)
    assert (facts.stopped, facts.needs_s, facts.recalled) == ("", None, 0)


def test_who_was_checked_and_not_timed_says_how_long_one_takes() -> None:
    """Original and rival of a contest that was cut short took 20 s together: it and another one take 40 s more."""
    facts = run_facts(
        [_contest("cut short", rival=RIGHT), _contest("not tried")], lambda contest: 2,
        took_s=30, contests_s=20, budget_s=30,
    )  # fmt: skip
    assert facts.needs_s == 70.0
    facts = run_facts(
        [_contest("cut short", rival=LATE), _contest("not tried")], lambda contest: 2,
        took_s=30, contests_s=20, budget_s=30,
    )  # fmt: skip
    assert facts.needs_s == 110.0, "who was not even checked took no time"


def test_what_was_known_before_says_nothing_of_the_time() -> None:
    """Of three contests two came from the store: the 20 s are of the third alone, and one more takes as long."""
    held, late = _contest("kept"), _contest("not tried")
    known = [replace(held, instances=(name,)) for name in "ab"]
    facts = run_facts(
        [*known, held, late], lambda contest: len(held.trials), took_s=30, contests_s=20, budget_s=30,
        recalled=lambda contest: contest in known,
    )  # fmt: skip
    assert (facts.needs_s, facts.recalled) == (50.0, 2)
    facts = run_facts(
        [*known, late], lambda contest: 2, took_s=1, contests_s=0, budget_s=1,
        recalled=lambda contest: contest in known,
    )  # fmt: skip
    assert facts.needs_s is None, "nothing was done by which to tell"


def test_a_block_that_had_no_time_is_not_tried() -> None:
    """A contest that was held but for one candidate leaves the run incomplete, and names the candidate."""
    mixed = replace(fabricate.won(), trials=(*fabricate.won().trials, fabricate.trial("late", LATE)))
    assert not mixed.is_whole
    facts = run_facts([mixed], lambda contest: 6, took_s=3, contests_s=2, budget_s=4)
    assert facts.stopped == "budget"
    assert "0 of 1 contests finished, 1 without a turn for late." in verdict_of([mixed], (), run=facts)


def test_seconds_as_people_say_them() -> None:
    """An estimate is rounded up to what it is known to."""
    assert [span(s) for s in (0.5, 30, 60, 90, 240, 7200)] == ["0.5 s", "30 s", "1 min", "1 min 30 s", "4 min", "2 h"]
    assert [round_up_s(s) for s in (29, 31, 121, 181, 3601)] == [30, 60, 180, 240, 4500]


def test_a_ratio_as_people_say_it() -> None:
    """Faster with how many times, slower, or between what it may be."""
    assert time_words(0.972, 0.96, 0.98) == "2.8% faster (1.03x)"
    assert time_words(1.04, 1.01, 1.05) == "4.0% slower"
    assert time_words(1.0, 0.97, 1.04) == "not measurably faster (between 3.0% faster and 4.0% slower)"


def test_old_profiles_mean_what_they_meant() -> None:
    """Without the field, what became of a contest is read as before it was there."""
    assert fabricate.won().status == "won"
    assert fabricate.kept().status == "kept"
    assert replace(fabricate.kept(), trials=()).status == "not tried"
    assert isinstance(fabricate.won().trial("fused").outcome, Measurement)
