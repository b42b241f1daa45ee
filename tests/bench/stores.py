"""What a store of a million outcomes costs: opening it, and finding one; made with a contest of a shipped profile."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path

from tests.bench.earlier import ROOT
from tests.bench.figure import Figure
from twinkle_tune.profile.io import load_profile
from twinkle_tune.profile.past import Question, contest_text
from twinkle_tune.profile.schema import Contest, Profile
from twinkle_tune.profile.store import Store
from twinkle_tune.version import TOOL

OUTCOMES = 1_000_000
_PROFILE = ROOT / "profiles" / "amd-epyc" / "qwen3-tiny-inference.json"
_LOOKUPS, _OPENINGS = 300, 15


def opening_time(outcomes: int = OUTCOMES) -> Figure:
    """From nothing to the first outcome that could be asked for."""
    path, samples = _filled(outcomes), []
    for _ in range(_OPENINGS if path else 0):
        began = time.perf_counter()
        store = Store(path or "")
        samples.append((time.perf_counter() - began) * 1e3)
        store.close()
    return _figure(f"open a store of {outcomes:,} outcomes", samples, 50)


def lookup_time(outcomes: int = OUTCOMES) -> Figure:
    """An outcome that is there: found, read and checked."""
    return _lookups(f"find one of {outcomes:,} outcomes, read and check it", outcomes, is_there=True)


def miss_time(outcomes: int = OUTCOMES) -> Figure:
    """An outcome that is not there."""
    return _lookups(f"find that none of {outcomes:,} outcomes is the one", outcomes, is_there=False)


STORES = (opening_time, lookup_time, miss_time)


def _lookups(name: str, outcomes: int, *, is_there: bool) -> Figure:
    path, samples = _filled(outcomes), []
    if path is not None:
        with closing(Store(path)) as store:
            for number in range(0, outcomes, max(1, outcomes // _LOOKUPS)):
                question = _question(number if is_there else outcomes + number)
                began = time.perf_counter()
                found = store.recall(question)
                samples.append((time.perf_counter() - began) * 1e3)
                assert (found is not None) == is_there
    return _figure(name, samples, 1)


def _figure(name: str, samples: list[float], goal: float) -> Figure:
    skipped = "" if samples else "skipped: no room for it on the disk of temporary files"
    return Figure(name=name, unit="ms", samples=tuple(samples), goal=goal, skipped=skipped)


_folders: list[tempfile.TemporaryDirectory[str]] = []
"""Of the stores that were filled; they go with the process."""


@cache
def _filled(outcomes: int) -> Path | None:
    """A store with so many outcomes; None where it would take over half of the disk's room."""
    text, folder = contest_text(_contest()), tempfile.TemporaryDirectory()
    if 3 * outcomes * len(text) > shutil.disk_usage(folder.name).free:
        return None
    _folders.append(folder)
    path = Path(folder.name, "store.sqlite")
    Store(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as base:
        base.execute("PRAGMA journal_mode=OFF")  # written once, not twice
        base.execute("PRAGMA synchronous=OFF")
        base.execute("BEGIN")
        base.executemany("INSERT INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", _rows(outcomes, text))
        base.execute("COMMIT")
    return path


def _rows(outcomes: int, text: str) -> Iterator[tuple[str, ...]]:
    told, chance = json.dumps(_question(0).told), random.Random(0)
    for number in range(outcomes):
        measured = f"2026-01-01T{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}Z"
        # Keys are digests: those that nobody asks for may as well be drawn, which takes a hundredth of the time.
        key = f"{chance.getrandbits(64):016x}" if number % (max(1, outcomes // _LOOKUPS)) else _question(number).key
        asked = _asked()
        yield key, measured, asked.slot, f"{number:016x}", "inference", "cpu", asked.environment, told, text


@cache
def _profile() -> Profile:
    return load_profile(_PROFILE)


def _contest() -> Contest:
    """The contest of middle size."""
    by_size = sorted(_profile().contests, key=lambda contest: len(contest_text(contest)))
    return by_size[len(by_size) // 2]


@cache
def _asked() -> Question:
    contest, profile = _contest(), _profile()
    candidates = tuple((trial.candidate, trial.digest) for trial in contest.trials)
    return Question(
        slot=contest.slot.name,
        workload="",
        terms=profile.terms,
        environment=profile.environment.fingerprint,
        candidates=candidates,
        tool=TOOL,
    )


def _question(number: int) -> Question:
    return replace(_asked(), workload=f"{number:016x}")
