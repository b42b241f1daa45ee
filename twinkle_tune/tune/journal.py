"""The journal of a run: finished contests on disk as they come, so that a run can be killed and go on.

JSON lines. The first is the header, which says of what the run is; each other is a finished contest with the key
of its question, or an answer of the whole model with that of its own. A line is written and synchronised before the
next contest begins. What stands behind the last line's end, or a last line that cannot be read, is where the process or
the machine died, and is passed over.

Format history (the number is :data:`JOURNAL_SCHEMA`):

1. The first.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twinkle_tune.environment import Environment, changes
from twinkle_tune.errors import ProfileError, TuneError
from twinkle_tune.profile.checked import from_data
from twinkle_tune.profile.format import SCHEMA
from twinkle_tune.profile.json_text import to_data
from twinkle_tune.profile.past import Question, contest_from_data
from twinkle_tune.profile.schema import Contest, ModelFacts
from twinkle_tune.profile.strict import json_value
from twinkle_tune.profile.whole import WholeAnswer, WholeQuestion, answer_from_data
from twinkle_tune.terms import Terms
from twinkle_tune.version import TOOL

JOURNAL_SCHEMA = 1
_ADVICE = "move it away, or begin anew with --fresh"


class JournalError(TuneError):
    """A journal cannot be written, is damaged, or is of another run."""


Header = dict[str, Any]
"""Of what a run is, as JSON has it: its outcomes are taken over by a run that says the same."""


def header_of(model: ModelFacts, environment: Environment, terms: Terms, contests: Iterable[Question]) -> Header:
    """The header of a run that is to hold these contests; they are there for the reader, each has a key of its own."""
    return {
        "journal": JOURNAL_SCHEMA,
        "schema": SCHEMA,
        "tool": TOOL,
        "model": to_data(model),
        "environment": to_data(environment),
        **terms.told,
        "seed": terms.seed,
        "contests": [question.told for question in contests],
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a journal holds: its header, contests and answers by the keys of their questions, and where the next line
    goes.
    """

    header: Header
    contests: Mapping[str, Contest] = field(default_factory=dict)
    answers: Mapping[str, WholeAnswer] = field(default_factory=dict)
    end_bytes: int


def journal_path(profile: str | Path) -> Path:
    """Where the journal of a profile is: beside it."""
    path = Path(profile)
    return path.with_name(f"{path.name}.journal")


def read_journal(path: str | Path) -> Written | None:
    """What a journal holds; None where there is none, or its header was never written whole.

    Raises:
        JournalError: it cannot be read, or a line before the last is damaged.
    """
    path = Path(path)
    try:
        whole = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise JournalError(f"{path}: cannot be read as a journal ({error}); {_ADVICE}") from error
    lines = whole.split(b"\n")[:-1]  # what follows the last line's end was not written whole
    header, contests, answers, end_bytes = None, {}, {}, 0
    for number, line in enumerate(lines, start=1):
        try:
            data = json_value(line.decode())
            where = f"{path}: line {number}"
            if header is None:
                header = _header(data, where)
            elif "whole" in data:
                answers[str(data["question"])] = answer_from_data(data["whole"], where, _ADVICE)
            else:
                contests[str(data["question"])] = contest_from_data(data["contest"], where, _ADVICE)
        except (ValueError, KeyError, TypeError, ProfileError) as error:
            if number == len(lines) and number > 1:
                break
            raise JournalError(f"{path}: line {number} is damaged ({error}); {_ADVICE}") from error
        end_bytes += len(line) + 1
    if header is None:
        return None
    return Written(header=header, contests=contests, answers=answers, end_bytes=end_bytes)


class Journal:
    """Writes finished contests down, and what the whole model said, and knows those of the run before.

    One process at a time holds a journal; it is created for its owner alone (mode 0600).
    """

    def __init__(self, path: str | Path, *, resume: bool = False, fresh: bool = False) -> None:
        """Look at what is there; nothing is written yet.

        Args:
            path: of the journal; see :func:`journal_path`.
            resume: go on with what it holds.
            fresh: what it holds may be lost.

        Raises:
            JournalError: there are finished contests and neither is asked for, or it cannot be read.
        """
        self.path = Path(path)
        self._written = None if fresh else read_journal(self.path)
        self._contests = dict(self._written.contests) if self._written is not None else {}
        self._answers = dict(self._written.answers) if self._written is not None else {}
        self._file: int | None = None
        self._end_bytes = 0
        if self.finished and not resume:
            raise JournalError(
                f"{self.path} holds {self.tally} of a run that was not "
                "finished; go on with it by --resume, or begin anew with --fresh"
            )

    @property
    def finished(self) -> int:
        """How many contests, and answers of the whole model, were found in it or written since."""
        return len(self._contests) + self._said

    @property
    def tally(self) -> str:
        """The same in words: "3 finished contests", "1 finished contest and 2 answers of the whole model"."""
        count, answers = len(self._contests), self._said
        told = f"{count} finished contest{'' if count == 1 else 's'}"
        return f"{told} and {answers} answer{'' if answers == 1 else 's'} of the whole model" if answers else told

    @property
    def _said(self) -> int:
        # Shares are measured within a second, before anything else.
        return sum(not answer.shares for answer in self._answers.values())

    def begin(self, header: Header) -> None:
        """Hold what is there against the run that begins, and be ready to write.

        Raises:
            JournalError: it is of another run, another process has it, or it cannot be written.
        """
        if self._written is not None and self.finished:
            differ = differences(self._written.header, header)
            if differ:
                raise JournalError(
                    f"{self.path}: the run to go on with was another ({'; '.join(differ)}), expected the same; "
                    "repeat its options in its environment, or begin anew with --fresh"
                )
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            _lock(self._file)
            os.fchmod(self._file, 0o600)
        except BlockingIOError as error:
            self.close()
            raise JournalError(
                f"{self.path}: another run writes to it; wait for its end, or choose another --out"
            ) from error
        except OSError as error:
            self.close()
            raise self._unwritable(error) from error
        if self._written is not None and self.finished:
            self._end_bytes = self._written.end_bytes
        else:
            self._append(header)
            _sync_folder(self.path.parent)

    def recall(self, question: Question) -> Contest | None:
        """The finished contest that answers a question; None if there is none."""
        return self._contests.get(question.key)

    def keep(self, question: Question, contest: Contest) -> None:
        """Write a finished contest down; when this returns it is on the disk.

        Raises:
            JournalError: it cannot be written (a full disk); what was written before stays readable.
        """
        self._append({"question": question.key, "contest": to_data(contest)})
        self._contests[question.key] = contest

    def recall_whole(self, question: WholeQuestion) -> WholeAnswer | None:
        """The answer to a question about the whole model; None if there is none."""
        return self._answers.get(question.key)

    def keep_whole(self, question: WholeQuestion, answer: WholeAnswer) -> None:
        """Write an answer of the whole model down, as :meth:`keep` a contest.

        Raises:
            JournalError: as there.
        """
        self._append({"question": question.key, "whole": to_data(answer)})
        self._answers[question.key] = answer

    def close(self) -> None:
        """Let go of the file, which stays for a run that resumes."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def remove(self) -> None:
        """Remove it: the profile was written whole."""
        self.path.unlink(missing_ok=True)
        self.close()

    def _append(self, data: object) -> None:
        if self._file is None:
            raise JournalError(f"{self.path}: got a contest before the run began; call begin() first")
        line = (json.dumps(data, allow_nan=False) + "\n").encode()
        try:
            # Also over the rest of a line that was cut short.
            os.ftruncate(self._file, self._end_bytes)
            done = 0
            while done < len(line):
                done += os.pwrite(self._file, line[done:], self._end_bytes + done)
            os.fsync(self._file)
        except OSError as error:
            raise self._unwritable(error) from error
        self._end_bytes += len(line)

    def _unwritable(self, error: OSError) -> JournalError:
        kept = f"{self.tally} stay in it: make room and go on with --resume"
        return JournalError(
            f"{self.path}: the journal cannot be written ({error}); {kept if self.finished else 'choose another --out'}"
        )


def differences(then: Header, now: Header) -> list[str]:
    """In what two runs differ so that outcomes of one are none of the other; empty if in nothing."""
    told_then, told_now = _told(then), _told(now)
    environments = told_then.pop("environment"), told_now.pop("environment")
    pairs = {name: (told_then.get(name), told_now.get(name)) for name in {**told_now, **told_then}}
    return [
        *(f"{name}: {was} then, {now_is} now" for name, (was, now_is) in pairs.items() if was != now_is),
        *(changes(*environments) if told_then.get("device") == told_now["device"] else ()),
    ]


def _told(header: Header) -> dict[str, Any]:
    """What is compared of a header: the model in words, each setting of the race by its name, the rest as it is."""
    told = {name: value for name, value in header.items() if name not in ("settings", "contests")}
    model = from_data(ModelFacts, header["model"], "model", _ADVICE)
    told["model"] = f"{model.name} ({model.target}, {model.parameters} parameters, {model.dtype})"
    told["environment"] = from_data(Environment, header["environment"], "environment", _ADVICE)
    return told | dict(header["settings"])


def _header(data: object, where: str) -> Header:
    if not isinstance(data, dict):
        raise ValueError("got no table")
    for name, expected in (("journal", JOURNAL_SCHEMA), ("schema", SCHEMA)):
        if data.get(name) != expected:
            raise ValueError(f"got {name} {data.get(name)!r}, expected {expected}")
    _told(data)
    return data


def _lock(file: int) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return  # a file system without locks; the command line holds one of its own elsewhere


def _sync_folder(folder: Path) -> None:
    # A new file is lost with its folder's entry, however well it was synchronised itself. Not every file system
    # can do that for a folder; the journal is then as safe as the file system is.
    with suppress(OSError):
        entry = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(entry)
        finally:
            os.close(entry)
