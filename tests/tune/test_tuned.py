"""Configs in contests: found before a candidate is judged, kept in the profile, applied without another search."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.tune import tunable
from tests.tune.toy import QUICK, Norm
from twinkle_tune import kernelize_model, kernelize_report, load_profile, tune_model
from twinkle_tune.outcome import Measurement, Trial
from twinkle_tune.profile.past import is_lasting
from twinkle_tune.profile.schema import Contest, Profile
from twinkle_tune.testing import with_winner
from twinkle_tune.tune import settle
from twinkle_tune.tune.isolated import Isolated
from twinkle_tune.tune.limits import Limits
from twinkle_tune.tune.verify import verify_profile

BEST = {"block": 4, "back_block": 1}
ROWS = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where searches write what they call; the whole model is timed for a moment only."""
    monkeypatch.setenv(tunable.LOG, str(tmp_path / "log"))
    monkeypatch.setattr(settle, "SECONDS", 0.1)
    return tmp_path / "log"


def tuned(source: tunable.Tunable | None = None, inputs: object = ROWS, **options: object) -> Profile:
    """A profile of one norm with its tunable candidate alone."""
    known = tunable.registry(source)
    return tune_model(tunable.model(), inputs, registry=known, settings=QUICK, candidates=["spinning"], **options)  # type: ignore[arg-type]


def trial(contest: Contest) -> Trial:
    """Of the tunable candidate."""
    return contest.trial("spinning")


def test_the_best_config_is_found_and_kept(log: Path, tmp_path: Path) -> None:
    """It competes with the config of the search, of which the profile has values and origin, and wins with it."""
    (contest,) = tuned().contests
    assert contest.selection.winner == "spinning"
    assert trial(contest).config == BEST
    assert "faster than the default, 3 of 4 configs timed" in trial(contest).config_origin
    assert {each.config for each in contest.trials if each.candidate == "original"} == {None}
    confirmed = next(each for each in contest.confirmation if each.candidate == "spinning")
    assert (confirmed.config, confirmed.digest) == (BEST, trial(contest).digest)


def test_a_search_going_forward_leaves_the_backward_s_parameters(log: Path) -> None:
    """No config differs from the default in what begins with back_."""
    tuned()
    assert {line.split()[2] for line in log.read_text().splitlines()} == {"1"}


def test_a_profile_is_applied_in_another_process_without_a_search(log: Path, tmp_path: Path) -> None:
    """From the file, the winner runs with its config, and no config is tried; no search or compiler is imported."""
    path = tuned().save(tmp_path / "profile.json")
    assert trial(load_profile(path).contests[0]).config == BEST
    log.unlink()
    code = (
        "import json, sys, torch\n"
        "from tests.tune import tunable\n"
        "from twinkle_tune import kernelize_model, load_profile\n"
        "profile = load_profile(sys.argv[1])\n"
        "model = kernelize_model(tunable.model(), profile=profile, registry=tunable.registry())\n"
        "with torch.no_grad(): model(torch.randn(8, 16))\n"
        "print(json.dumps([tunable.ran, [name for name in ('optuna', 'torch._dynamo') if name in sys.modules]]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True, cwd=Path.cwd(), timeout=300
    )
    assert json.loads(done.stdout) == [[BEST], []]
    assert not log.exists()


def test_a_config_that_was_changed_in_the_profile_is_not_applied(tmp_path: Path) -> None:
    """The digest was of the config that was judged, whichever that was."""
    made = with_winner(tuned(), candidate="spinning")
    config = trial(made.contests[0]).config or tunable.DEFAULT
    path = made.save(tmp_path / "profile.json")
    path.write_text(path.read_text().replace(f'"block": {config["block"]}', '"block": 8'))
    with pytest.warns(UserWarning, match="the code of 'spinning' changed"):
        bound = kernelize_model(tunable.model(), profile=load_profile(path), registry=tunable.registry())
    assert not kernelize_report(bound).bound


def test_each_row_count_has_its_own_config(log: Path) -> None:
    """Two observed shapes with two configs of one candidate: bound by rows, between them by which one is nearer."""
    many = torch.randn(128, 16, generator=torch.Generator().manual_seed(0))
    profile = tuned(inputs=[ROWS, many])
    assert [(c.workload.rows, trial(c).config) for c in profile.contests] == [
        (8, BEST),
        (128, {"block": 2, "back_block": 1}),
    ]
    bound = kernelize_model(tunable.model(), profile=profile, registry=tunable.registry())
    blocks = []
    for rows in (1, 8, 31, 33, 128, 1000):
        tunable.ran.clear()
        with torch.no_grad():  # as it was measured
            bound(torch.randn(rows, 16))
        blocks += [None if config is None else config["block"] for config in tunable.ran]
    assert blocks == [4, 4, 4, 2, 2, 2]
    assert [binding.candidate for binding in kernelize_report(bound).bound] == ["spinning"]


def test_a_worker_process_searches_and_tells_the_config(log: Path) -> None:
    """The search runs there and not here; the second race, in another worker, is run with what it found."""
    with Isolated() as executor:
        (contest,) = tuned(executor=executor).contests
        searching = {int(line.split()[0]) for line in log.read_text().splitlines()}
    assert "tried in the process" not in contest.selection.reason
    # Which one is the fastest in another process is told by its clock, on a busy machine now this, now that one.
    assert trial(contest).config in (BEST, {"block": 2, "back_block": 1})
    assert len(searching) == 1
    assert os.getpid() not in searching
    assert [each.config for each in contest.confirmation] == [None, trial(contest).config]


def test_a_default_that_stayed_is_not_searched_again(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker of the second race takes the candidate as it was timed in the first."""
    monkeypatch.setenv(tunable.BROKEN, "1")
    with Isolated() as executor:
        (contest,) = tuned(executor=executor).contests
    assert [each.config for each in contest.confirmation] == [None, None]
    assert len({line.split()[0] for line in log.read_text().splitlines()}) == 1


@pytest.mark.slow
def test_a_long_search_is_not_taken_for_a_hanging_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker's limit is for each config: all together take longer."""
    monkeypatch.setenv(tunable.SLOW, "3")
    with Isolated(Limits(first_call_s=8.0)) as executor:
        (contest,) = tuned(executor=executor).contests
    assert trial(contest).config == BEST


def test_one_call_is_searched_once(log: Path) -> None:
    """Two contests of one op with equal sizes: what the first one found holds for the second."""
    model = torch.nn.Sequential(Norm(16), Norm(16, eps=1e-5))
    tuned_twice = tune_model(model, ROWS, registry=tunable.registry(), settings=QUICK, candidates=["spinning"])
    first, second = tuned_twice.contests
    assert trial(first).config == trial(second).config == BEST
    assert [line.split()[1] for line in log.read_text().splitlines()].count("8") == 1


def test_where_no_config_runs_the_default_has_its_turn(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial says that none runs, and has no config; the candidate itself, which runs, is judged as ever."""
    monkeypatch.setenv(tunable.BROKEN, "1")
    (contest,) = tuned().contests
    assert trial(contest).config is None
    assert "none of 4 configs tried runs" in trial(contest).config_origin
    assert "no such tile" in trial(contest).config_origin
    assert isinstance(trial(contest).outcome, Measurement)


def test_a_search_ends_with_its_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """With calls of a tenth of a second and little time, it is cut short, says so, and is no lasting outcome."""
    monkeypatch.setattr(tunable, "spun_us", lambda config, rows: 1e5)
    # Seconds of this process's own work: on a busy machine the clock on the wall runs on while others do theirs.
    monkeypatch.setattr(time, "monotonic", time.process_time)
    began_s = time.monotonic()
    (contest,) = tuned(budget_s=3.0).contests
    assert time.monotonic() - began_s < 6.0
    assert trial(contest).config_origin.startswith("cut short: ")
    assert contest.selection.winner == "original"
    assert not is_lasting(contest)


def test_a_call_that_tells_no_sizes_has_the_default(log: Path) -> None:
    """Nothing is searched, and the trial says why."""
    (contest,) = tuned(tunable.Tunable(told=False)).contests
    assert trial(contest).config is None
    assert trial(contest).config_origin == "the default: the call does not tell the op's sizes"
    assert not log.exists()
    assert is_lasting(contest)


def test_verify_runs_a_winner_with_its_config(log: Path) -> None:
    """And does not search."""
    profile = tuned()
    log.unlink()
    checked = verify_profile(profile, tunable.model(), ROWS, registry=tunable.registry(), settings=QUICK)
    assert not [problem for check in checked.checks for problem in check.problems]
    assert not log.exists()
    assert checked.checks[0].ratio is not None
    assert checked.checks[0].ratio < 1
