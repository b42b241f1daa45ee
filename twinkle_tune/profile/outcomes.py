"""What every store of past outcomes does, wherever it keeps them: contests, and what the whole model said."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TypeVar

from twinkle_tune.errors import ProfileError, TuneError
from twinkle_tune.profile.format import SCHEMA
from twinkle_tune.profile.past import Question, contest_from_text, contest_text
from twinkle_tune.profile.schema import Contest
from twinkle_tune.profile.whole import WholeAnswer, WholeQuestion, answer_from_text, answer_text

STORE_VARIABLE = "TWINKLE_TUNE_STORE"
"""Environment variable: the store's file, the URL of a server, or "off" for none."""

Value = TypeVar("Value")

_WHOLE = '{"whole"'
"""How the text of an answer of the whole model begins; a contest's begins with its slot."""
_AT_ONCE = 500
"""So many entries are read at a time where all of them are."""


class StoreError(TuneError):
    """The store cannot be opened, read or written, or is damaged."""


class StoreAwayError(StoreError):
    """The store's server does not answer."""


class StoreDamagedError(StoreError):
    """The store, or an entry of it, is not what was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A contest of the store; ``measured`` is the UTC time, ISO 8601, to the second."""

    contest: Contest
    measured: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of the store's listing."""

    key: str
    measured: str
    slot: str
    workload: str
    mode: str
    device: str
    environment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Row):
    """A line with its question and its outcome, both as JSON; the fields are the columns, in order."""

    question: str
    contest: str

    @property
    def values(self) -> tuple[str, ...]:
        """Of the columns, in order."""
        return astuple(self)


class Outcomes(ABC):
    """Past outcomes by their questions. Several processes may use one store at once.

    Attributes:
        where: what it is, for people: a file, or a server's URL without its password.
        reuse: whether outcomes are taken from it; if not, new ones replace them.
    """

    where: str
    reuse: bool

    def recall(self, question: Question) -> Stored | None:
        """The outcome of a question; None if there is none, or none is wanted.

        Raises:
            StoreDamagedError: the store, or the entry, is damaged.
            StoreError: it cannot be read now.
        """
        row = self._found(question.key) if self.reuse else None
        return None if row is None else Stored(contest=self._read(row[1], question.key), measured=row[0])

    def recall_whole(self, question: WholeQuestion) -> WholeAnswer | None:
        """The answer to a question about the whole model, which says when it was measured; None as for a contest.

        Raises:
            StoreDamagedError, StoreError: as :meth:`recall`.
        """
        row = self._found(question.key) if self.reuse else None
        return None if row is None else self._read_whole(row[1], question.key).measured_at(row[0])

    def keep(self, question: Question, contest: Contest) -> None:
        """Put an outcome in, in the place of an older one of the same question.

        Raises:
            StoreError: it cannot be written.
        """
        self._put(_entry(question, question.slot, question.workload, contest_text(contest)))

    def keep_whole(self, question: WholeQuestion, answer: WholeAnswer) -> None:
        """Put an answer in, in the place of an older one of the same question.

        Raises:
            StoreError: it cannot be written.
        """
        self._put(_entry(question, question.title, question.model, answer_text(answer)))

    @abstractmethod
    def rows(self) -> tuple[Row, ...]:
        """What is in it, newest first.

        Raises:
            StoreError: it cannot be read.
        """

    def export(self) -> Iterator[str]:
        """Every entry as a line of JSON: key, time, question and contest (or "whole", an answer), each checked.

        Raises:
            StoreError: it cannot be read, or an entry is damaged.
        """
        rows = iter(self.rows())
        while some := list(islice(rows, _AT_ONCE)):
            texts = self._texts([row.key for row in some])
            for row in some:
                if row.key in texts:  # or it was pruned meanwhile
                    yield self._line(row, *texts[row.key])

    def prune(self, older_than_s: float = 0.0) -> int:
        """Remove entries older than so many seconds (all by default); returns how many.

        Raises:
            StoreError: it cannot be written.
        """
        try:
            oldest = _time(datetime.now(UTC) - timedelta(seconds=older_than_s))
        except OverflowError:  # before the first year; nothing is as old
            return 0
        return self._drop(oldest)

    @abstractmethod
    def close(self) -> None:
        """Let go of it."""

    @abstractmethod
    def _found(self, key: str) -> tuple[str, str] | None:
        """When an outcome was measured, and its text; None if there is none."""

    @abstractmethod
    def _put(self, entry: Entry) -> None:
        """Write an entry, in the place of one with its key."""

    @abstractmethod
    def _texts(self, keys: Sequence[str]) -> dict[str, tuple[str, str]]:
        """Question and outcome of these, by key; those that are not there are left out."""

    @abstractmethod
    def _drop(self, oldest: str) -> int:
        """Remove what was measured then or before; returns how many."""

    @property
    def _advice(self) -> str:
        """What to do with a damaged entry."""
        return f"move {self.where} away, or remove the entries with 'twinkle-tune store prune'"

    def _line(self, row: Row, question: str, text: str) -> str:
        is_whole = text.startswith(_WHOLE)
        (self._read_whole if is_whole else self._read)(text, row.key)
        outcome = json.loads(text)
        line = {
            "schema": SCHEMA,
            "key": row.key,
            "measured": row.measured,
            "question": json.loads(question),
            **(outcome if is_whole else {"contest": outcome}),
        }
        return json.dumps(line)

    def _read(self, text: str, key: str) -> Contest:
        return self._checked(contest_from_text, text, key)

    def _read_whole(self, text: str, key: str) -> WholeAnswer:
        return self._checked(answer_from_text, text, key)

    def _checked(self, read: Callable[[str, str, str], Value], text: str, key: str) -> Value:
        try:
            return read(text, f"{self.where}: entry {key}", self._advice)
        except ProfileError as error:
            told = f"{error}" if self._advice in str(error) else f"{error}; {self._advice}"
            raise StoreDamagedError(told) from error


def _entry(question: Question | WholeQuestion, slot: str, workload: str, text: str) -> Entry:
    return Entry(
        key=question.key,
        measured=_time(datetime.now(UTC)),
        slot=slot,
        workload=workload,
        mode=str(question.terms.mode),
        device=question.terms.device,
        environment=question.environment,
        question=json.dumps(question.told),
        contest=text,
    )


def _time(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")
