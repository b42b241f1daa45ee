"""What was found out on the whole model before, and what decides whether that still answers the question."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from twinkle_tune.errors import ProfileError
from twinkle_tune.profile.checked import from_data
from twinkle_tune.profile.json_text import to_data
from twinkle_tune.profile.meaning import check_whole
from twinkle_tune.profile.schema import Contest, Seen, StepResult
from twinkle_tune.profile.setup import CompiledStep, Setup
from twinkle_tune.profile.strict import json_value
from twinkle_tune.terms import Terms
from twinkle_tune.workload import digest_of

METHOD = 5
"""Counts up when the whole model is judged, timed or decided on otherwise: no answer of before is taken then."""

What = Literal["shares", "winners", "ways", "kernels", "sizes", "all"]
"""What was asked of the whole model: how much of its steps passes in which calls; whether the winners of contests gain
in it; how ways of running it fare in a step; how the one that won it does with the winners inside; at which other
sizes it may run; whether both together gain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Won:
    """A contest with a winner, as the whole model is asked about it.

    Attributes:
        slot, workload, instances: as of the contest.
        steps: labels of those in which it was seen.
        winner: the candidate's name.
        config: values of its tunable parameters; empty where it has none.
        candidates: name and digest of each that competed: who has the next turn is among them.
    """

    slot: str
    workload: str
    instances: tuple[str, ...]
    steps: tuple[str, ...]
    winner: str
    config: tuple[tuple[str, str], ...]
    candidates: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What passes in calls that look the same, by which contests are chosen: the same shares, the same contests.

    Attributes:
        slot, workload, instances: as of a contest.
        seen: the steps that make the calls, with their shares.
        bounds: label of each step, and share of it that a perfect kernel could save.
    """

    slot: str
    workload: str
    instances: tuple[str, ...]
    seen: tuple[Seen, ...]
    bounds: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeQuestion:
    """Everything that an answer of the whole model depends on.

    Attributes:
        what: is asked.
        model: digest of it as it stands, less its weights.
        steps: label of each step, and digest of what it is run on.
        terms: of the run, less its seed.
        environment: the fingerprint of the machine and its libraries.
        process: what all code of it shares (number of threads, precision of products), by name.
        winners: of the contests.
        originals: slot, and digest of its original, of every contest.
        ways: name and digest of each way that may compete; none where the winners alone are asked about.
        calls: how often each step will be run; None for no limit.
        setups: digest of the setups that won, where more is asked about them; "" elsewhere.
        tool: name and version of this package.
    """

    what: What
    model: str
    steps: tuple[tuple[str, str], ...]
    terms: Terms
    environment: str
    process: tuple[tuple[str, str], ...]
    winners: tuple[Won, ...]
    originals: tuple[tuple[str, str], ...]
    ways: tuple[tuple[str, str], ...]
    calls: int | None
    setups: str
    tool: str

    @property
    def title(self) -> str:
        """What it asks about, for a listing: "whole model: ways, prefill 1x128"."""
        return f"whole model: {self.what}, {', '.join(label for label, _ in self.steps)}"

    @property
    def told(self) -> dict[str, Any]:
        """The question as plain data, for files: the terms beside the rest."""
        told = asdict(self) | {"method": METHOD} | self.terms.told
        del told["terms"]
        return told

    @property
    def key(self) -> str:
        """16 hexadecimal digits, equal where an answer of one is an answer of the other."""
        return digest_of(self.told)


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeAnswer:
    """What came of a question.

    Attributes:
        steps: the whole model's figures; empty for "ways" and "kernels".
        contests: of "winners", those that had one, as they are afterwards; of "all", those that were taken back.
        compiled: of "ways" and "kernels", how each fared; of "all", those that were taken back.
        setups: of "ways" and "kernels", the one that won; of "sizes", the same with the calls of other sizes; of "all",
            those that gain.
        shares: of "shares", what was seen; ``steps`` has the times of the model alone.
    """

    steps: tuple[StepResult, ...] = ()
    contests: tuple[Contest, ...] = ()
    compiled: tuple[CompiledStep, ...] = ()
    setups: tuple[Setup, ...] = ()
    shares: tuple[Share, ...] = ()

    def measured_at(self, when: str) -> WholeAnswer:
        """The same, whose figures say when they were measured, and that they are taken from the store."""
        contests = []
        for contest in self.contests:
            chosen = contest.selection
            reason = f"{chosen.reason}; measured {when}, taken from the store"
            contests.append(replace(contest, selection=replace(chosen, reason=reason)))
        return replace(
            self,
            steps=tuple(replace(step, measured=when) if step.tuned_us else step for step in self.steps),
            contests=tuple(contests),
            compiled=tuple(replace(step, measured=when) for step in self.compiled),
        )


def answer_text(answer: WholeAnswer) -> str:
    """An answer as one line of JSON.

    Raises:
        ValueError: it holds a number or text that JSON lacks.
    """
    return json.dumps({"whole": to_data(answer)}, allow_nan=False)


def answer_from_text(text: str, where: str, advice: str) -> WholeAnswer:
    """Read and check an answer; ``where`` names it in messages, ``advice`` ends them.

    Raises:
        ProfileError: it is no JSON, or does not say what an answer must.
    """
    try:
        data = json_value(text)["whole"]
    except (ValueError, KeyError, TypeError) as error:
        raise ProfileError(f"{where}: not valid JSON ({error}), expected an answer; {advice}") from error
    return answer_from_data(data, where, advice)


def answer_from_data(data: object, where: str, advice: str) -> WholeAnswer:
    """As :func:`answer_from_text`, of parsed JSON.

    Raises:
        ProfileError: as there.
    """
    answer = from_data(WholeAnswer, data, where, advice)
    check_whole(answer.steps, answer.compiled, answer.contests, where)
    return answer
