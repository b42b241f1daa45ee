"""The benches run, and their pages and files have their form. What the figures are is not asked here."""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch

from tests.bench import aa, models, regret, runs
from tests.bench.again import spread
from tests.bench.earlier import ROOT
from tests.bench.forms import FAMILIES
from tests.bench.page import binomial_upper, quantile
from tests.bench.peak import peak_mib
from tests.bench.stores import STORES, opening_time
from twinkle_tune.cli.options import slug


@pytest.mark.parametrize(("found", "tried", "upper"), [(0, 300, 1 - 0.05 ** (1 / 300)), (3, 3, 1.0), (1, 2, 0.95**0.5)])
def test_the_upper_bound_is_clopper_and_pearsons(found: int, tried: int, upper: float) -> None:
    """At the bound so few would be found with probability 5%: by hand for none, all, and one of two."""
    # One of two: P(at most one) = 1 - rate**2 = 0.05.
    assert binomial_upper(found, tried) == pytest.approx(upper, rel=1e-9)


def test_a_quantile_is_one_of_the_values() -> None:
    """Of 1 to 40 the 38th is the smallest that 95% do not exceed."""
    assert quantile(list(range(1, 41)), 0.95) == 38


def test_all_planned_contests_are_at_least_300() -> None:
    """With every kind of contest repeated as planned there are 300 or more."""
    assert len(aa.OPS) * 2 * sum(idle + loaded for idle, loaded in aa.REPEATS.values()) >= 300
    assert sum(len(family.sizes) for family in FAMILIES.values()) >= 40


@pytest.mark.parametrize("name", FAMILIES)
def test_forms_compute_the_same(name: str) -> None:
    """Four to eight forms of a family agree with the original of its contest, at its two smallest sizes."""
    family = FAMILIES[name]
    torch.manual_seed(0)
    for size, forms in islice(family.contests(), 2):
        inputs = family.inputs(*size, "cpu")
        assert 4 <= len(forms) == len(family.forms) <= 8
        for form in forms.values():
            torch.testing.assert_close(form(*inputs), forms["original"](*inputs), rtol=1e-3, atol=1e-4)


def test_quick_aa_writes_its_page(tmp_path: Path) -> None:
    """Two and six contestants, idle and loaded; the files count the same contests."""
    assert aa.main(["--quick", "--out", str(tmp_path)]) in (0, 1)
    data = json.loads((tmp_path / "aa.json").read_text(encoding="utf-8"))
    runs = data["runs"]
    assert {(run["contest"]["contestants"], run["contest"]["loaded"]) for run in runs} == {
        (contestants, loaded) for contestants in (2, 6) for loaded in (False, True)
    }
    assert data["contests"] == len(runs)
    assert 0 <= data["share"] <= data["upper"] <= 1
    assert f"in {len(runs)} contests" in (tmp_path / "aa.md").read_text(encoding="utf-8")


def test_an_interrupted_aa_writes_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C ends it after the contests that are over; without any there is nothing to write."""
    planned = aa.Planned(op="softmax", aim_us=5.0, rows=1, contestants=2, loaded=False)
    over = aa.Run(contest=planned, call_us=5.0, winner="original", reason="", rounds=6, bursts=8.0, seconds=0.1)
    ends: list[aa.Run | None] = [over, None]

    def run_one(*_: object) -> aa.Run:
        end = ends.pop(0)
        if end is None:
            raise KeyboardInterrupt
        return end

    monkeypatch.setattr(aa, "plan", lambda *_, **__: [planned] * 3)
    monkeypatch.setattr(aa, "run_one", run_one)
    assert aa.main(["--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "aa.json").read_text(encoding="utf-8"))["contests"] == 1
    assert "interrupted after 1 of 3 contests" in capsys.readouterr().out
    ends.append(None)
    assert aa.main(["--out", str(tmp_path / "none")]) == 1
    assert not (tmp_path / "none").exists()


def test_quick_regret_writes_its_page(tmp_path: Path) -> None:
    """Each contest has a real race and replayed ones, and the best has no regret."""
    assert regret.main(["--quick", "--out", str(tmp_path)]) in (0, 1)
    data = json.loads((tmp_path / "regret.json").read_text(encoding="utf-8"))
    for each in data["contests"]:
        assert each["real"]["regret"] >= 0
        assert sum(each["replays"]["chosen"].values()) == each["replays"]["races"] == regret.REPLAYS
        assert (each["replays"]["most"] == 0) == (set(each["replays"]["chosen"]) == {each["best"]})
    assert "| real | 3 |" in (tmp_path / "regret.md").read_text(encoding="utf-8")


def test_the_busy_process_is_reaped() -> None:
    """The loading process runs while it is wanted and is gone afterwards."""
    with aa.busy_core() as process:
        assert process.poll() is None
    assert process.poll() is not None


def test_the_page_of_runs_compares_the_winners_that_matter() -> None:
    """A winner that saved over 1% of a step in one of the two is named with both; a smaller one is not."""
    then = runs.Run(wall_s=100.0, cpu_s=90.0, load=0.5, contests=12, winners={"norm": 0.03, "rope": 0.005})
    now = runs.Run(wall_s=30.0, cpu_s=27.0, load=0.6, contests=12, winners={"rope": 0.004})
    lines = runs._page("here", [], {"tiny": [(then, now)]}, busy=False)
    assert "| tiny | 100 | 30 | 90 | 27 | 12, 12 | 0.5, 0.6 |" in lines
    assert lines[-1] == "| tiny | norm | 1 of 1 | 3.0% | 0 of 1 | - |"


def test_a_store_is_opened_and_asked() -> None:
    """Each figure of stores has its samples, also of a small one: what is there was found, what is not was not."""
    assert all(bool(figure.samples) != bool(figure.skipped) for figure in (measure(900) for measure in STORES))
    assert not opening_time(900).skipped


def test_shares_of_runs_are_compared_where_they_matter() -> None:
    """What is in all runs and 5% of a step in one of them: the largest over the smallest."""
    runs = [{"mlp": 0.5, "norm": 0.06, "tiny": 0.001}, {"mlp": 0.4, "norm": 0.03, "tiny": 0.01, "once": 0.9}]
    assert spread(runs) == 2.0
    assert spread([{"tiny": 0.001}, {"tiny": 0.002}]) == 1.0


def test_the_peak_is_of_a_command_and_what_it_starts() -> None:
    """150 MiB that the child of a child holds for a second are seen, once."""
    holds = "import sys, time; held = bytearray(150 << 20); time.sleep(1)"
    starts = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {holds!r}], check=True)"
    assert 150 < peak_mib([sys.executable, "-c", starts], ROOT) < 250


def test_cases_that_are_run_one_by_one_come_into_one_page(tmp_path: Path) -> None:
    """Rows of other cases stay where they are of today and of this machine; those of the cases that run now do not."""
    facts = models._made("cpu")
    path = tmp_path / "reports" / slug(str(facts["device"])) / "models.json"
    path.parent.mkdir(parents=True)
    rows = [{"case": "one"}, {"case": "other"}]
    for made, left in ((facts, rows[1:]), ({**facts, "date": "2026-01-01"}, []), ({**facts, "threads": -1}, [])):
        path.write_text(json.dumps({**made, "rows": rows}), encoding="utf-8")
        assert models.kept("cpu", {"one"}, tmp_path) == left
    assert models.kept("cpu", {"one"}, tmp_path / "empty") == []
