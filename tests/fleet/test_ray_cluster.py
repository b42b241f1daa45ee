"""A Ray cluster of three nodes in this machine, with fake devices of two kinds."""

from __future__ import annotations

import importlib.util
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.counted import LOG, PAUSE, counted
from tests.fleet.replayed import written
from twinkle_tune import tune_model
from twinkle_tune.cli.app import run
from twinkle_tune.environment import current_environment
from twinkle_tune.errors import TuneInterrupted
from twinkle_tune.fleet.ray_devices import RayDevices, RayError
from twinkle_tune.fleet.searching import Search, searched
from twinkle_tune.fleet.spread import NoDeviceError, Spread
from twinkle_tune.mode import Mode
from twinkle_tune.models import load_model
from twinkle_tune.profile.io import load_profile
from twinkle_tune.profile.schema import Profile
from twinkle_tune.search.record import SearchSettings
from twinkle_tune.tune import settle
from twinkle_tune.tune.events import ContestFinished, ContestLost, ContestPlaced, Event

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed"),
]
HERE = current_environment("cpu")
MODELS = ("qwen3-tiny", "llama-tiny")


@dataclass(slots=True)
class Three:
    """The cluster, and where each contest is written down."""

    ray: Any
    cluster: Any
    log: Path
    nodes: dict[str, Any]

    def add(self, name: str, kind: str = "a") -> None:
        """A node with one device."""
        # Whether Triton fuses is part of what a device is, so that this makes another kind of it.
        other = {"TRITON_DEFAULT_FP_FUSION": "1"} if kind == "b" else {}
        self.nodes[name] = self.cluster.add_node(
            num_cpus=1,
            resources={f"twinkle:cpu:{name}": 1},
            env_vars={LOG: str(self.log), PAUSE: "0.3", **other},
        )

    def held(self) -> list[tuple[str, float, float, str]]:
        """Device, beginning, end and kind of each contest since :meth:`forget`."""
        lines = [line for path in self.log.glob("*.jsonl") for line in path.read_text().splitlines()]
        return sorted((device, began_s, ended_s, kind) for device, began_s, ended_s, kind in map(json.loads, lines))

    def forget(self) -> None:
        """What was written down is of the past."""
        for path in self.log.glob("*.jsonl"):
            path.unlink()

    def spread(self, **options: Any) -> Spread:
        """Contests on the devices that are as this process is."""
        return Spread(RayDevices(ray=self.ray, **{"wanted": HERE, **options}))


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    """Two devices of this kind, one of another, a node each."""
    ray = importlib.import_module("ray")
    cluster = importlib.import_module("ray.cluster_utils").Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1}
    )  # fmt: skip
    made = Three(ray=ray, cluster=cluster, log=tmp_path_factory.mktemp("log"), nodes={})
    for name, kind in (("a1", "a"), ("a2", "a"), ("b1", "b")):
        made.add(name, kind)
    ray.init(
        address=cluster.address,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"worker_process_setup_hook": "tests.fleet.counted.set_up"},
    )
    yield made
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module", autouse=True)
def _short_steps() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settle, "SECONDS", 0.1)
        yield


def profiled(model: str, executor: Spread | None = None, on_event: Any = None, **options: Any) -> Profile:
    """A profile by the counting clock."""
    loaded = load_model(model, "cpu", None, None, (1,), (16,), Mode.INFERENCE)
    with counted():
        return tune_model(
            loaded.model,
            loaded.inputs,
            candidates="torch",
            executor=executor,
            on_event=on_event or (lambda event: None),
            **options,
        )


def selections(profile: Profile) -> list[tuple[Any, ...]]:
    """What was chosen for each call, with its figures."""
    found = [(c.slot.name, c.workload.key, c.status, c.selection) for c in profile.contests]
    return [(*place, s.winner, s.ratio, s.low, s.high, s.rounds) for *place, s in found]


def is_apart(held: list[tuple[str, float, float, str]]) -> bool:
    """Whether no device held two contests at once."""
    return all(one[0] != next_[0] or one[2] <= next_[1] for one, next_ in pairwise(held))


@pytest.mark.parametrize("model", MODELS)
def test_selections_are_those_of_one_process(three: Three, model: str) -> None:
    """On both devices of the right kind at once, never two on one, none on the other kind; each says where it was."""
    here = profiled(model)
    three.forget()
    with three.spread() as executor:
        there = profiled(model, executor)
    assert selections(there) == selections(here)
    assert any(contest.selection.winner != "original" for contest in there.contests)
    assert {contest.environment for contest in there.contests if contest.trials} == {HERE.fingerprint}
    held = three.held()
    assert {kind for *_, kind in held} == {HERE.fingerprint}
    assert len({device for device, *_ in held}) == 2
    assert is_apart(held)
    assert any(one[0] != other[0] and one[1] < other[1] < one[2] for one in held for other in held)


def test_two_contests_at_once_on_a_device_would_be_seen() -> None:
    """The test above can fail."""
    assert is_apart([("a", 0.0, 1.0, "k"), ("a", 1.0, 2.0, "k"), ("b", 0.5, 1.5, "k")])
    assert not is_apart([("a", 0.0, 1.0, "k"), ("a", 0.9, 2.0, "k"), ("b", 0.5, 1.5, "k")])


def test_a_node_that_is_killed_changes_nothing_but_the_time(three: Three) -> None:
    """What it held is held elsewhere, what had ended stays ended, and the selections are the same."""
    here = profiled("qwen3-tiny")
    three.add("a3")
    lost: list[ContestLost] = []
    ends: list[int] = []
    on: dict[str, int] = {}
    killed = threading.Event()

    def listen(event: Event) -> None:
        match event:
            case ContestPlaced():
                on[event.device] = event.index
                if event.device == "twinkle:cpu:a3" and ends and not killed.is_set():
                    killed.set()
                    three.cluster.remove_node(three.nodes.pop("a3"), allow_graceful=False)
            case ContestLost():
                lost.append(event)
            case ContestFinished():
                ends.append(event.index)

    with three.spread() as executor:
        there = profiled("qwen3-tiny", executor, listen)
    assert killed.is_set()
    assert [(event.device, event.goes_on) for event in lost] == [("twinkle:cpu:a3", True)]
    assert sorted(ends) == sorted(set(ends))
    assert selections(there) == selections(here)


def test_a_process_that_is_killed_is_replaced(three: Three) -> None:
    """Its contest is held again, and its device takes others."""
    here = profiled("qwen3-tiny")
    three.forget()
    lost: list[ContestLost] = []
    begun: list[str] = []
    with three.spread() as executor:
        devices: Any = executor.devices

        def listen(event: Event) -> None:
            if isinstance(event, ContestPlaced):
                begun.append(event.device)
                if len(begun) == 4:
                    process = devices._actors[event.device].process
                    pid = three.ray.get(process.where.remote())[1] if devices._actors[event.device].index is None else 0
                    if pid:
                        os.kill(pid, 9)
            if isinstance(event, ContestLost):
                lost.append(event)

        there = profiled("qwen3-tiny", executor, listen)
    assert len(lost) == 1
    assert begun.count(lost[0].device) > 2
    assert selections(there) == selections(here)


def test_another_kind_alone_is_no_device_for_the_run(three: Three, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says in what the devices that are there differ."""
    monkeypatch.setattr("twinkle_tune.fleet.spread.PATIENCE_S", 15.0)
    with monkeypatch.context() as patch:
        patch.setenv("TRITON_DEFAULT_FP_FUSION", "0")
        wanted = current_environment("cpu")
        with (
            three.spread(wanted=wanted) as executor,
            pytest.raises(NoDeviceError, match=r"twinkle:cpu:(a1|a2|b1): fp_fusion (default|1) there, 0 here"),
        ):
            profiled("qwen3-tiny", executor)


def test_ctrl_c_keeps_what_is_finished(three: Three) -> None:
    """The profile that it leaves has each contest that had ended, and devices are free for the next run."""
    finished: list[int] = []

    def listen(event: Event) -> None:
        if isinstance(event, ContestFinished):
            finished.append(event.index)
            if len(finished) == 3:
                raise KeyboardInterrupt

    with three.spread() as executor, pytest.raises(TuneInterrupted) as stopped:
        profiled("qwen3-tiny", executor, listen)
    kept: Any = stopped.value.profile
    assert len(kept.contests) >= 3
    until_s = time.monotonic() + 30
    while time.monotonic() < until_s and three.ray.available_resources().get("twinkle:cpu:a1") != 1:
        time.sleep(0.2)
    assert three.ray.available_resources()["twinkle:cpu:a1"] == 1


def test_a_plan_makes_profiles_on_a_device_of_another_kind(
    three: Three, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command runs on that device's machine; what comes back is of its environment."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plan = tmp_path / "plan.toml"
    plan.write_text(
        f"""
models = ["tests.fleet.gated:small"]
devices = ["twinkle:cpu:b1"]
executor = "ray://{three.ray.get_runtime_context().gcs_address}"
[options]
candidates = "torch"
ways = false
budget = "40s"
"""
    )
    code = run(["fleet", str(plan)])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    (path,) = (tmp_path / "plan").rglob("*.json")
    made = load_profile(path)
    assert made.environment.fp_fusion == "1"
    assert {contest.environment for contest in made.contests if contest.trials} == {made.environment.fingerprint}


def search_of(folder: Path, budget: int) -> Search:
    """Of any op: the workers replay a landscape."""
    return Search(
        op="rms_norm", dims={"rows": 8, "width": 8}, dtype="float32", variant="", trains=False,
        settings=SearchSettings(budget=budget), known=(), study=str(folder / "study"),
    )  # fmt: skip


def test_a_search_is_split_by_config(three: Three, tmp_path: Path) -> None:
    """Both devices of the right kind time half of the budget, no config twice; the other kind times none."""
    for path in three.log.glob("*.searched"):
        path.unlink()
    said: list[str] = []
    found = searched(three.ray.get_runtime_context().gcs_address, "cpu", search_of(tmp_path, 12), said.append)
    timed = [(process, config) for what, process, config in written(three.log) if what == "timed"]
    assert sorted(Counter(process for process, _ in timed).values()) == [6, 6]
    assert len({config for _, config in timed}) == 12
    assert found["forward"].config is not None
    assert found["forward"].config == found["forward"].agreed
    names = ("twinkle:cpu:a1", "twinkle:cpu:a2")
    assert sorted(said) == [f"{name}: {what}" for name in names for what in ("done", "searches, one of 2")]


def test_a_config_of_a_killed_worker_is_tried_by_another(three: Three, tmp_path: Path) -> None:
    """It goes on with that one's share as well, and what was timed is not timed again."""
    for path in three.log.glob("*.searched"):
        path.unlink()
    killed: list[tuple[int, tuple[int, ...]]] = []

    def kill() -> None:
        until_s = time.monotonic() + 60
        while time.monotonic() < until_s:
            begun = Counter(process for what, process, _ in written(three.log) if what == "begins")
            victim = next((process for process, count in begun.items() if count == 3 and len(begun) == 2), None)
            if victim is not None:
                os.kill(victim, 9)
                its = [each for what, process, each in written(three.log) if (what, process) == ("begins", victim)]
                killed.append((victim, its[-1]))
                return
            time.sleep(0.02)

    killer, said = threading.Thread(target=kill), list[str]()
    killer.start()
    found = searched(three.ray.get_runtime_context().gcs_address, "cpu", search_of(tmp_path, 12), said.append)
    killer.join()
    ((victim, config),) = killed
    timed = [(process, each) for what, process, each in written(three.log) if what == "timed"]
    assert len(timed) == len({each for _, each in timed}) == 12
    assert config in {each for process, each in timed if process != victim}
    assert sum("lost twinkle:cpu:a" in line for line in said) == 1
    assert found["forward"].config is not None


def test_no_device_for_a_search_says_which_there_are(
    three: Three, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And in what they differ."""
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "0")
    with pytest.raises(RayError, match=r"no device for the search \(twinkle:cpu:a1: fp_fusion default there, 0 here"):
        searched(three.ray.get_runtime_context().gcs_address, "cpu", search_of(tmp_path, 12), lambda line: None)
