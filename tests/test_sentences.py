"""Sentences are for people: whatever decides is a word of its own, and code that reads a sentence again is found."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pytest

from tests.report import fabricate, scenes
from twinkle_tune.export.choice import by_class, by_kernel_name
from twinkle_tune.profile.io import load_profile
from twinkle_tune.profile.past import is_lasting
from twinkle_tune.profile.schema import Profile
from twinkle_tune.report.compare import changes
from twinkle_tune.report.derive import shapes
from twinkle_tune.report.recommend import Reason, recommend
from twinkle_tune.tune.verdict import verdict_of
from twinkle_tune.tune.verify import compare

ROOT = Path(__file__).parents[1]
SENTENCES = frozenset({"reason", "left_race", "config_origin", "ended", "stale", "verdict"})
"""Names of what holds a sentence for people. (Notes are compared by the terminal, which tells nothing twice.)"""
READING = frozenset(
    {"startswith", "endswith", "find", "index", "split", "partition", "rpartition"} | {"match", "search", "fullmatch"}
)
OF_OLD = "twinkle_tune/profile/upgrade.py"
"""Reads what schema 1 told in sentences alone."""
SHIPPED = sorted((ROOT / "profiles").glob("*/*.json"))
REWORDED = ("reason", "left_race", "config_origin", "note", "verdict", "notes")


def name_of(node: ast.AST) -> str:
    """The last part of a name: "reason" of ``outcome.reason``; "" for anything else."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def readings(tree: ast.AST) -> Iterator[int]:
    """Lines in which a sentence is searched, cut, or held against a text of the code."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr=method, value=value), args=args) if method in READING:
                # Held against a sentence that was just made, so as not to say it twice, it decides nothing.
                is_made = bool(args) and all(isinstance(each, ast.Name) and each.id.islower() for each in args)
                if name_of(value) in SENTENCES and not is_made:
                    yield node.lineno
                if set(map(name_of, args)) & SENTENCES:
                    yield node.lineno
            case ast.Compare(left=left, ops=[ast.In() | ast.NotIn()], comparators=[right]):
                if name_of(right) in SENTENCES and isinstance(left, ast.Constant | ast.JoinedStr):
                    yield node.lineno
            case ast.Compare(left=left, ops=[ast.Eq() | ast.NotEq()], comparators=[ast.Constant(value=str(text))]):
                if name_of(left) in SENTENCES and text and text not in get_args(Reason):
                    yield node.lineno


@pytest.mark.parametrize(
    "code",
    [
        "if outcome.reason.startswith('raised '): pass",
        "if reason.startswith(_RAISED): pass",
        "if 'OutOfMemoryError' in reason: pass",
        "if selection.reason == 'no time': pass",
        "found = pattern.match(trial.config_origin)",
    ],
)
def test_reading_a_sentence_is_seen(code: str) -> None:
    """The search below finds each way in which code has read a reason."""
    assert list(readings(ast.parse(code)))


@pytest.mark.parametrize("path", sorted(ROOT.glob("twinkle_tune/**/*.py")), ids=lambda path: path.stem)
def test_no_code_reads_a_sentence(path: Path) -> None:
    """No file but the one for schema 1 searches or cuts a reason, or compares it with a text."""
    found = list(readings(ast.parse(path.read_text(encoding="utf-8"))))
    where = str(path.relative_to(ROOT))
    assert bool(found) == (where == OF_OLD), f"{where}: lines {found} read a sentence; add a field that says it"


def reworded(value: Any, draw: random.Random, name: str = "") -> Any:
    """A value in which each sentence is other words; an empty one stays empty."""
    if isinstance(value, str):
        words = ("raised", "took more", "no clear winner", "smaller, but", "taken back", "tomatoes")
        return f"{draw.choice(words)} {draw.random()}" if value and name in REWORDED else value
    if isinstance(value, tuple):
        return tuple(reworded(each, draw, name) for each in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: reworded(getattr(value, f.name), draw, f.name) for f in fields(value)})
    return value


def decided(profile: Profile, before: Profile) -> list[object]:
    """Everything that code decides by a profile."""
    choices = [choose(profile) for choose in (by_kernel_name, by_class)]
    found = recommend(profile)
    return [
        [(contest.status, contest.is_whole, is_lasting(contest)) for contest in profile.contests],
        (found.kind, found.reason, found.run),
        [(change.where, change.kind) for change in changes(before, profile)],
        [(each.rules, each.text) for each in shapes(profile)],
        [(choice.entries, [(out.where, out.winner) for out in choice.left_out]) for choice in choices],
        [[problem.kind for problem in compare(contest, contest, profile.aim).problems] for contest in profile.winners],
        verdict_of(profile.contests, profile.steps, profile.aim, profile.run).partition(":")[0],
    ]


MADE = [fabricate.normal(), fabricate.all_rejected(), scenes.large(40), *scenes.versions()]


@pytest.mark.parametrize("profile", [*MADE, *map(load_profile, SHIPPED)], ids=lambda profile: profile.model.name)
def test_other_words_decide_the_same(profile: Profile) -> None:
    """With each reason reworded at random, to the words of other cases too, nothing is classified otherwise."""
    told = decided(profile, profile)
    for seed in range(5):
        other = reworded(profile, random.Random(seed))
        assert other != profile
        assert decided(other, profile) == told
