"""push, pull, index and profile --from-hub: a profile goes to a collection on the local Hub, and comes back."""

from __future__ import annotations

import importlib
import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.hub.client import use
from tests.hub.server import LocalHub
from twinkle_tune.cli.app import run
from twinkle_tune.kernel import kernelize_model, kernelize_report
from twinkle_tune.profile.collection import LIST, read_list
from twinkle_tune.profile.hub import open_shelf, parse_place
from twinkle_tune.profile.hub import push as pushed
from twinkle_tune.profile.io import load_profile
from twinkle_tune.profile.schema import Contest, Profile

REPO = "friends/profiles"
TOY = """
import torch
from torch import nn


class Norm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), 1e-6

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class Toy(nn.Sequential):
    pass


def make():
    torch.manual_seed(0)
    return Toy(Norm(WIDTH), nn.Linear(WIDTH, WIDTH)), [torch.randn(4, WIDTH)]
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local_hub: LocalHub) -> Path:
    """A folder with a model, in which commands run, and a Hub."""
    (tmp_path / "toy_shared.py").write_text(TOY.replace("WIDTH", "8"))
    (tmp_path / "toy_wider.py").write_text(TOY.replace("WIDTH", "16"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def profiled(out: str, *options: str, model: str = "toy_shared:make") -> Profile:
    """Profile the model in this process."""
    assert run(["profile", model, "--device", "cpu", "--in-process", "--no-ways", "--out", out, *options]) == 0
    return load_profile(out)


def elsewhere(profile: Profile, winner: str = "") -> Profile:
    """The same as if it had been made with another torch; everywhere ``winner`` won, if one is named."""
    made = replace(profile, environment=replace(profile.environment, torch="2.12.0"))
    if not winner:
        return made
    contests = [
        replace(c, selection=replace(c.selection, winner=winner, status="won")) if len(c.trials) > 1 else c
        for c in made.contests
    ]
    return replace(made, contests=tuple(contests))


def test_there_and_back(toy: Path, local_hub: LocalHub, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A pushed profile is pulled with another cache as it is; with another one in its place, that one is."""
    made = profiled("p.json", "--candidates", "torch")
    assert run(["push", "p.json", REPO]) == 0
    told = capsys.readouterr().out
    commit = local_hub.datasets[REPO].branches["main"]
    assert f"pushed to {REPO}: profiles/" in told
    assert f"at commit {commit}" in told
    use(monkeypatch, local_hub, toy / "other")
    monkeypatch.setenv("TWINKLE_COLLECTION", REPO)
    assert run(["pull", "toy_shared:make", "--device", "cpu", "--out", "back.json"]) == 0
    assert load_profile("back.json") == made
    told = capsys.readouterr().out
    assert f"{REPO} at commit {commit[:12]}, published by friends: {made.verdict}" in told
    assert run(["pull", "toy_wider:make", "--device", "cpu", "--out", "none.json"]) == 2
    assert "it has none of this model class" in capsys.readouterr().err
    assert not Path("none.json").exists()


def with_winner(made: Profile) -> tuple[str, Contest]:
    """A rival of the norm, and its contest."""
    norm = next(c for c in made.contests if len(c.trials) > 1)
    return norm.trials[1].candidate, norm


def test_from_the_nearest_what_won_there_is_tried(toy: Path, local_hub: LocalHub, capsys: Any) -> None:
    """profile --from-hub tries what won there, and nothing else, and says what was confirmed."""
    made = profiled("p.json", "--candidates", "torch")
    rival, norm = with_winner(made)
    far = elsewhere(made, rival).save("far.json")
    pushed(far, load_profile(far), parse_place(REPO))
    found = profiled("near.json", "--fresh", "--from-hub", REPO)
    told = capsys.readouterr().err
    assert f"starting from {REPO} at commit" in told
    tried = [t.candidate for c in found.contests if c.slot == norm.slot for t in c.trials]
    assert tried == ["original", rival]
    assert found.environment.fingerprint == made.environment.fingerprint
    assert found.run is not None
    assert found.run.started_from in told
    assert found.run.started_from.split(": ")[1].startswith("1 of its 1 winners tried here, ")


@pytest.mark.parametrize("fact", ["torch", "device_name"])
def test_the_nearest_is_pulled_and_never_bound_untried(
    toy: Path, local_hub: LocalHub, monkeypatch: pytest.MonkeyPatch, capsys: Any, fact: str
) -> None:
    """With another torch, or another CPU, the nearest is written, and it is said what differs. Its winners are bound
    after they were tried, and not before. A profile of this machine is not lost to it."""
    made = profiled("p.json", "--candidates", "torch")
    rival, norm = with_winner(made)
    changed: dict[str, Any] = {fact: "2.12.0"}
    far = replace(elsewhere(made, rival), environment=replace(made.environment, **changed)).save("far.json")
    there = load_profile(far)
    pushed(far, there, parse_place(REPO))
    assert run(["pull", "toy_shared:make", REPO, "--device", "cpu", "--out", "back.json"]) == 0
    told = capsys.readouterr().err
    assert f"{fact}: 2.12.0 then" in told
    assert f"twinkle-tune profile toy_shared:make --from-hub {REPO}" in told
    assert "kernelize_model(model, profile='back.json', example_inputs=...)" in told
    assert load_profile("back.json") == there

    model, (x,) = importlib.import_module("toy_shared").make()
    with pytest.warns(UserWarning, match=rf"made in another environment .*{fact}: 2.12.0 then.*example_inputs="):
        kernelize_model(model, profile="back.json")
    assert not kernelize_report(model).bound
    monkeypatch.setattr("twinkle_tune.tune.tried.Isolated", lambda **options: nullcontext())
    with pytest.warns(UserWarning, match=rf"{fact}: 2.12.0 then.*1 of its 1 winners tried here"):
        kernelize_model(model, profile="back.json", example_inputs=[x])
    assert {binding.slot for binding in kernelize_report(model).bound} <= {norm.slot.name}

    assert run(["pull", "toy_shared:make", REPO, "--device", "cpu", "--out", "p.json"]) == 2
    assert "p.json was made on this machine; nothing was written" in capsys.readouterr().err
    assert load_profile("p.json") == made
    assert run(["pull", "toy_shared:make", REPO, "--device", "cpu"]) == 0
    assert [load_profile(file) for file in Path("profiles").rglob("*.json")] == [there]


def test_where_the_original_won_nobody_competes(toy: Path, local_hub: LocalHub) -> None:
    """A call that the neighbour's original won has no contest here."""
    made = profiled("p.json", "--candidates", "torch")
    contests = tuple(
        replace(c, selection=replace(c.selection, winner="original", status="kept")) for c in made.contests
    )
    far = replace(elsewhere(made), contests=contests).save("far.json")
    pushed(far, load_profile(far), parse_place(REPO))
    found = profiled("near.json", "--fresh", "--from-hub", REPO)
    assert {t.candidate for c in found.contests for t in c.trials} <= {"original"}
    assert not found.winners


def test_the_page(toy: Path, local_hub: LocalHub, capsys: Any) -> None:
    """index prints a table a device, with links to the profiles; with --push it becomes the README; texts of a profile
    stay texts."""
    made = profiled("p.json", "--candidates", "torch")
    named = replace(made, model=replace(made.model, name="<b>|[x](y)")).save("odd.json")
    for file in (Path("p.json"), named):
        pushed(file, load_profile(file), parse_place(REPO))
    far = elsewhere(made).save("far.json")
    pushed(far, load_profile(far), parse_place(REPO))
    capsys.readouterr()
    assert run(["index", REPO]) == 0
    page = capsys.readouterr().out
    rows = [line for line in page.splitlines() if line.startswith("| ") and "](profiles/" in line]
    assert len(rows) == 3
    assert sum("2.12.0" in row for row in rows) == 1
    assert r"\<b\>\|\[x\]\(y\)" in page
    assert all(row.count(" | ") == 5 for row in rows)
    assert run(["index", REPO, "--push"]) == 0
    head = local_hub.datasets[REPO].commits[local_hub.datasets[REPO].branches["main"]]
    assert head["README.md"].decode().strip() == page.strip()
    assert len(read_list(head[LIST], "").profiles) == len(open_shelf(parse_place(REPO)).collection.profiles) == 3


@pytest.mark.usefixtures("toy")
def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """No collection, no such profile, no such repo: one line each, exit code 2."""
    Path("half.json").write_text(json.dumps({"schema": 1})[:5])
    cases = {
        ("index",): "got no collection, expected owner/name; name it, or set TWINKLE_COLLECTION",
        ("index", "nobody"): "got 'nobody', expected 'hub:owner/name'",
        ("index", "no/body"): "the Hub has no such collection of profiles",
        ("push", "none.json", REPO): "none.json: cannot be read as a profile",
        ("push", "half.json", REPO): "half.json: not valid JSON",
        ("pull", "toy_shared:make", "no/body", "--device", "cpu"): "the Hub has no such collection of profiles",
        ("profile", "toy_shared:make", "--device", "cpu", "--from-hub", "no/body"): "no such collection of profiles",
    }
    for words, message in cases.items():
        assert run(list(words)) == 2
        assert message in capsys.readouterr().err
