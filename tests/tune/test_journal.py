"""Nothing that was finished is lost: the journal, what it takes over, and runs that are killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.tune.pretended import WIDTHS, Pretended, Wide, pretended_profile, registry, selections
from tests.tune.toy import norm
from twinkle_tune.errors import TuneInterrupted
from twinkle_tune.kernel import register_layer_kernel
from twinkle_tune.measure.race import RaceSettings
from twinkle_tune.profile.schema import Profile
from twinkle_tune.tune.events import ContestFinished, Event
from twinkle_tune.tune.journal import Journal, JournalError, journal_path, read_journal

ROOT = Path(__file__).parents[2]


def stopping_after(contests: int) -> Callable[[Event], None]:
    """A listener that presses Ctrl-C after so many contests."""
    left = [contests]

    def listen(event: Event) -> None:
        left[0] -= isinstance(event, ContestFinished)
        if left[0] == 0 and isinstance(event, ContestFinished):
            raise KeyboardInterrupt

    return listen


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """The journal of a run that was stopped after three contests."""
    journal = Journal(journal_path(tmp_path / "p.json"))
    with pytest.raises(TuneInterrupted):
        pretended_profile(Pretended(), journal, on_event=stopping_after(3))
    journal.close()
    return journal.path


def test_a_stopped_run_goes_on_where_it_stopped(stopped: Path) -> None:
    """Only the contests that are not in the journal are held; the selections are those of a run without a stop."""
    executor, journal = Pretended(), Journal(stopped, resume=True)
    profile = pretended_profile(executor, journal)
    whole = Pretended()
    assert selections(profile) == selections(pretended_profile(whole))
    assert (len(executor.held), len(whole.held)) == (len(WIDTHS) - 3, len(WIDTHS))
    assert profile.complete
    journal.remove()
    assert not stopped.exists()


def test_a_journal_is_never_lost_silently(stopped: Path) -> None:
    """Without resume a journal with contests is an error that says both ways on; fresh replaces it."""
    before = stopped.read_bytes()
    with pytest.raises(JournalError, match=r"holds 3 finished contests .* --resume, or begin anew with --fresh"):
        Journal(stopped)
    assert stopped.read_bytes() == before
    executor = Pretended()
    pretended_profile(executor, Journal(stopped, fresh=True))
    assert len(executor.held) == len(WIDTHS)


def test_a_journal_without_contests_is_no_obstacle(tmp_path: Path) -> None:
    """A run that was stopped before its first contest leaves nothing to decide."""
    path = tmp_path / "p.json.journal"
    with pytest.raises(KeyboardInterrupt):
        pretended_profile(_Stopping(), Journal(path))
    assert read_journal(path) is not None
    Journal(path)


class _Stopping(Pretended):
    def hold(self, *rest: Any) -> Any:
        """Ctrl-C at once."""
        raise KeyboardInterrupt


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "another model": ({"model": nn.Sequential(Wide())}, r"model: Wide .* then, Sequential .* now"),
    "another mode": ({"mode": "train"}, r"mode: inference then, train now"),
    "other settings": ({"settings": RaceSettings(min_gain=0.1)}, r"min_gain: 0.02 then, 0.1 now"),
    "another objective": ({"objective": "memory"}, r"objective: time then, memory now"),
    "other shapes when compiled": ({"mode": "compile", "dynamic": True}, r"dynamic: None then, True now"),
    "another seed": ({"seed": 7}, r"seed: 0 then, 7 now"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_the_journal_of_another_run_is_refused(stopped: Path, case: str) -> None:
    """A run of another model, mode, settings or seed says in what it differs, takes nothing over, changes nothing."""
    options, message = OTHERS[case]
    before = stopped.read_bytes()
    with pytest.raises(JournalError, match=rf"the run to go on with was another \(.*{message}.*--fresh"):
        pretended_profile(Pretended(), Journal(stopped, resume=True), **options)
    assert stopped.read_bytes() == before


def test_another_environment_is_refused(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outcomes of another environment are not taken over, and the message names what changed."""
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "0")
    with pytest.raises(JournalError, match="fp_fusion: default then, 0 now"):
        pretended_profile(Pretended(), Journal(stopped, resume=True))


def test_contests_with_another_field_of_candidates_are_held_again(stopped: Path) -> None:
    """A contest whose candidates, or their code, are not those of the journal is held again, the others are not."""
    more = registry()
    register_layer_kernel("Quick", layer_impl=lambda self, x: norm(self, x), device="cpu", registry=more)
    executor = Pretended()
    pretended_profile(executor, Journal(stopped, resume=True), registry=more)
    assert len(executor.held) == len(WIDTHS)


def test_a_journal_cut_anywhere_is_read_up_to_there(stopped: Path) -> None:
    """Whatever a crash leaves of the last lines: what was whole is there, no more, and nothing is an error."""
    whole = stopped.read_bytes()
    ends = [index + 1 for index, byte in enumerate(whole) if byte == ord("\n")]
    assert len(ends) == 5, "the header, what the steps consist of, three contests"
    for length in {*range(0, len(whole), 97), *ends, *(end - 1 for end in ends)}:
        stopped.write_bytes(whole[:length])
        found = read_journal(stopped)
        lines = sum(end <= length for end in ends)
        assert (found is None) == (lines == 0)
        assert found is None or len(found.contests) + len(found.answers) == lines - 1


def test_after_a_torn_line_the_next_one_is_whole(stopped: Path) -> None:
    """A run that goes on writes over the rest of a line that was cut short; a last line of nonsense is passed over."""
    for tail in (b'{"question": "abc", "contest": {"slo', b"\0" * 400 + b"\n"):
        stopped.write_bytes(stopped.read_bytes()[:-200] + tail)
        journal = Journal(stopped, resume=True)
        pretended_profile(Pretended(), journal)
        journal.close()
        found = read_journal(stopped)
        assert found is not None
        assert len(found.contests) == len(WIDTHS)
        assert found.end_bytes == stopped.stat().st_size


def test_damage_within_is_told(stopped: Path) -> None:
    """A damaged line that is not the last, or a header of another version, is an error with file and line."""
    lines = stopped.read_bytes().split(b"\n")
    stopped.write_bytes(b"\n".join([lines[0], lines[1][:-9], *lines[2:]]))
    with pytest.raises(JournalError, match=rf"^{stopped}: line 2 is damaged .*; move it away, or .* --fresh$"):
        Journal(stopped, resume=True)
    stopped.write_bytes(b"\n".join([lines[0].replace(b'"journal": 1', b'"journal": 9'), *lines[1:]]))
    with pytest.raises(JournalError, match=r"line 1 is damaged .*got journal 9, expected 1"):
        Journal(stopped, resume=True)


def test_only_its_owner_reads_it(stopped: Path) -> None:
    """The file's mode is 0600, also where an older one was open to others; a link is not followed."""
    assert stopped.stat().st_mode & 0o777 == 0o600
    stopped.chmod(0o644)
    pretended_profile(Pretended(), Journal(stopped, resume=True))
    assert stopped.stat().st_mode & 0o777 == 0o600
    link = stopped.with_name("link.journal")
    link.symlink_to(stopped.with_name("elsewhere"))
    with pytest.raises(JournalError, match="cannot be written"):
        pretended_profile(Pretended(), Journal(link))
    assert not stopped.with_name("elsewhere").exists()


def test_one_run_at_a_time(stopped: Path) -> None:
    """A second run with the same journal is refused while the first writes to it."""
    first = Journal(stopped, resume=True)
    pretended_profile(Pretended(), first)
    with pytest.raises(JournalError, match="another run writes to it"):
        pretended_profile(Pretended(), Journal(stopped, resume=True))
    first.close()


def test_a_full_disk_is_told_and_loses_nothing(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a line cannot be written the run ends with what to do, and what was finished before can be read."""
    journal, write = Journal(stopped, resume=True), os.pwrite

    def full(file: int, data: bytes, at: int) -> int:
        if len(data) < 100:
            raise OSError(28, "No space left on device")
        return write(file, data[:-50], at)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(JournalError, match=r"No space left on device.*; 3 finished contests stay in it: make room"):
        pretended_profile(Pretended(), journal)
    monkeypatch.undo()
    journal.close()
    found = read_journal(stopped)
    assert found is not None
    assert len(found.contests) == 3


def test_the_budget_s_end_is_no_outcome(tmp_path: Path) -> None:
    """Contests that the budget cut short are held again by the run that goes on."""
    path = tmp_path / "p.json.journal"
    journal = Journal(path)
    profile = pretended_profile(Pretended(), journal, budget_s=0.0)
    journal.close()
    assert all("time budget" in c.selection.reason for c in profile.contests)
    assert Journal(path).finished == 0


@pytest.mark.parametrize(
    ("kills", "seed"), [(6, 1), pytest.param(50, 2, marks=pytest.mark.slow)], ids=["6 times", "50 times"]
)
def test_killed_at_any_moment(tmp_path: Path, kills: int, seed: int) -> None:
    """Runs killed with SIGKILL at random moments leave only whole files, and go on to the same selections."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.tune.pretended", str(tmp_path), str(kills), str(seed)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=500,
    )
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["killed"] >= kills
    assert told["resumed"] >= kills // 4
    assert (told["problems"], told["different"], told["left"]) == ([], 0, [])


def test_the_pretended_runs_choose_kernels() -> None:
    """What the tests of this file compare has winners and originals in it."""
    torch.manual_seed(0)
    profile: Profile = pretended_profile(Pretended())
    assert {contest.selection.winner == "original" for contest in profile.contests} == {True, False}
