"""A sample of the zoo, another one each day: model types that held are built, profiled, bound, compared, restored."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from typing import Any

import pytest
import torch
import transformers

from tests.today import AGAIN, of_today
from tests.zoo.__main__ import read, sampled
from tests.zoo.alone import tried_alone
from tests.zoo.build import build
from tests.zoo.inputs import with_labels
from tests.zoo.names import Kind, kind_of
from tests.zoo.page import DATA, PAGE, page
from tests.zoo.state import differences, noted
from tests.zoo.trial import tried

SEED = os.environ.get("ZOO_SEED") or datetime.now(UTC).strftime("%Y-%m-%d")
SIZE = 15
DRAWS = 1000
DEAREST = 40
"""Types that samples have seldom or never, of which ``make slow`` tries another one each day."""


@cache
def _costs_s() -> dict[str, float]:
    """What each type that held took in one mode, the dearest first."""
    kept = json.loads(DATA.read_text(encoding="utf-8"))["results"]
    costs = {record["name"]: record["seconds"] / len(record["modes"]) for record in kept if record["verdict"] == "held"}
    return dict(sorted(costs.items(), key=lambda item: -item[1]))


def _cost_s(names: Iterable[str]) -> float:
    return sum(_costs_s()[name] for name in names)


@cache
def _names(seed: str) -> list[str]:
    """The sample of a day, the cheapest of many: a few types take minutes each."""
    return min((sampled(_costs_s(), SIZE, f"{seed} {number}") for number in range(DRAWS)), key=_cost_s)


def test_another_sample_each_day() -> None:
    """Each has 15 types, other ones than the day before, and takes at most 0.6 of what 15 take on the average."""
    days = [_names(f"2026-11-{day}") for day in range(20, 27)]
    assert {len(set(names)) for names in days} == {SIZE}
    assert all(set(one) != set(other) for one, other in itertools.pairwise(days))
    assert max(map(_cost_s, days)) <= 0.6 * SIZE * _cost_s(_costs_s()) / len(_costs_s())


# By their number, so that all processes of a test session collect the same tests.
@pytest.mark.parametrize("number", range(SIZE))
def test_todays_sample_holds(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A model type that held before holds today: in inference, every right rival bound, compared and restored."""
    name = _names(SEED)[number]
    again = f"ZOO_SEED={SEED} python -m pytest 'tests/zoo/test_zoo.py::test_todays_sample_holds[{number}]'"
    try:
        kind = kind_of(name)
    except KeyError:
        pytest.skip(f"transformers {transformers.__version__} has no model type {name}")
    with capsys.disabled():
        print(f" {name}" if number else f" seed {SEED}, repeat it with ZOO_SEED={SEED}: {name}", end="", flush=True)
    result = tried(kind, train=False)
    assert result.verdict == "held", f"{name}: {result.message}{result.faults}; again: {again}"


@pytest.mark.slow
def test_one_of_the_dearest_holds() -> None:
    """As above, for those that hardly fit into a sample."""
    (name,) = of_today(list(_costs_s())[:DEAREST], DEAREST)
    result = tried(kind_of(name), train=False)
    assert result.verdict == "held", f"{name}: {result.message}{result.faults}; {AGAIN}"


def test_the_page_says_what_the_data_says() -> None:
    """docs/zoo.md is what is made of reports/zoo.json, which stays small."""
    text = DATA.read_text(encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page(json.loads(text)), "run 'python -m tests.zoo --page'"
    assert len(text.encode()) < 300_000


def test_the_page_counts_types_with_pieces() -> None:
    """Of types that were tried before there were pieces of graphs it says so; of others in how many they were found."""
    data = json.loads(DATA.read_text(encoding="utf-8"))
    (first, *rest) = [{**record, "slots": {}} for record in data["results"]]
    assert "tried before, and have none" in page({**data, "results": [first, *rest]})
    text = page({**data, "results": [{**first, "slots": {"AddNorm": 2}}, *rest]})
    assert "among their places: 1." in text
    assert "tried before" not in text


def test_a_change_is_seen() -> None:
    """A weight, a buffer, a plain attribute, a flag or a random number that moved is named."""
    model: Any = torch.nn.Sequential(torch.nn.BatchNorm1d(4))
    changes: tuple[tuple[Any, str], ...] = (
        (lambda: torch.nn.init.zeros_(model[0].weight), "0.weight"),
        (lambda: model[0].running_mean.add_(1), "0.running_mean"),
        (lambda: setattr(model[0], "momentum", 0.5), "0: momentum"),
        (lambda: model.eval(), ": training"),
        (lambda: setattr(model[0], "seen", [1]), "0: seen"),
        (lambda: torch.rand(()), "random: torch"),
    )
    for change, name in changes:
        before = noted(model)
        assert differences(before, noted(model)) == []
        change()
        assert any(found.startswith(name) for found in differences(before, noted(model))), name


def test_a_wrong_kernel_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rival that is right when it is judged and wrong in the model makes the type's verdict a fault."""
    from tests.zoo import trial

    monkeypatch.setattr(trial, "too_far", lambda *_: "the outputs are off")
    result = tried(kind_of("llama"), train=False)
    assert result.verdict == "fault"
    assert all("the outputs are off" in fault for fault in result.faults)


def test_a_type_that_ends_its_process_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ends, or does not end, is the verdict of its type, and nobody else's."""
    from tests.zoo import alone

    kind = Kind(name="any", config_class=object, model_class=object)
    monkeypatch.setattr(alone, "tried", lambda _: os._exit(3))
    assert tried_alone(kind)["faults"] == ["the process: ended with exit code 3"]
    monkeypatch.setattr(alone, "tried", lambda _: time.sleep(60))
    assert tried_alone(kind, hangs_s=0.2)["message"] == "hung: stopped after 0.2 s"
    monkeypatch.setattr(alone, "tried", lambda _: any(False for _ in iter(int, 1)))
    assert tried_alone(kind, cpu_s=1)["message"] == "stopped after 1 s of CPU time"


@pytest.mark.parametrize("name", ["llama", "bert", "t5"])
def test_inputs_of_training_have_labels(name: str) -> None:
    """Language models get labels, so that the tool trains them on their own loss."""
    built = build(kind_of(name))
    labelled = with_labels(built.model, built.inputs)
    assert labelled["labels"].shape == labelled["decoder_input_ids" if name == "t5" else "input_ids"].shape


def test_results_are_read_by_their_last_line(tmp_path: Any) -> None:
    """A type that was tried twice has its second verdict, and a run that was stopped goes on with the rest."""
    path = tmp_path / "zoo.jsonl"
    path.write_text("".join(json.dumps({"name": "a", "verdict": v}) + "\n" for v in ("fault", "held")))
    assert read(path) == {"a": {"name": "a", "verdict": "held"}}
    assert sampled("cab", 2, "x") == sampled("bca", 2, "x")
