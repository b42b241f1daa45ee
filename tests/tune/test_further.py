"""Further times of the original and the winner: taken after the race, paired, watched, and never in anybody's way."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from tests.measure.test_clock import NEEDS_CUDA
from tests.tune.hostile import late_hang
from tests.tune.test_choose import contest
from tests.tune.test_confirm import always_fast
from tests.tune.toy import QUICK, Norm, norm_taking
from twinkle_tune import tune_model
from twinkle_tune.contest import further as further_module
from twinkle_tune.contest.further import ROUNDS, Timed, further_times
from twinkle_tune.contest.watch import Unwatched
from twinkle_tune.kernel import Registry, register_external_layer, register_layer_kernel
from twinkle_tune.measure.between import BetweenCpuClock
from twinkle_tune.measure.clock import Call, CpuClock
from twinkle_tune.measure.clocks import slot_clock
from twinkle_tune.outcome import Phase, Timings
from twinkle_tune.profile.schema import Profile
from twinkle_tune.tune.isolated import Isolated
from twinkle_tune.tune.limits import Limits
from twinkle_tune.tune.wire import result_data, result_of


class Diary(Unwatched):
    """A watch that writes down who was at work."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def begins(self, candidate: str, stage: Phase) -> Phase:
        """Noted."""
        self.told.append(f"{candidate} begins {stage}")
        return stage

    def ends(self, candidate: str) -> None:
        """Noted."""
        self.told.append(f"{candidate} ends")


class Told(CpuClock):
    """A clock that takes a call's word for its time."""

    def burst_us(self, call: Call, block_calls: int) -> float:
        """What the call returns."""
        time_us = call()
        assert isinstance(time_us, float)
        return time_us


def taken(
    monkeypatch: pytest.MonkeyPatch, calls: dict[str, Callable[[], float]], hot_us: float = 10.0, **options: Any
) -> tuple[dict[str, Timings], list[str]]:
    """The further times of some calls by what they say themselves, and the watch's diary."""
    monkeypatch.setattr(further_module, "_cold_clock", lambda device: Told())
    diary = Diary()
    timed = {name: Timed(step=call, hot_us=hot_us) for name, call in calls.items()}
    options = {"began_s": time.monotonic(), **options}
    made = further_times(timed, "cpu", CpuClock(), diary, **options)
    return {each.candidate: each for each in made}, diary.told


def test_rounds_are_paired_and_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have a figure of every round, each burst lies between the watch's beginning and end, in no fixed order."""
    made, told = taken(monkeypatch, {"original": lambda: 30.0, "fast": lambda: 20.0})
    assert made["original"].cold_us == (30.0,) * ROUNDS
    assert made["fast"].cold_us == (20.0,) * ROUNDS
    assert all(
        begun == f"{ended.removesuffix(' ends')} begins timing"
        for begun, ended in zip(told[::2], told[1::2], strict=True)
    )
    first = [told[index].split()[0] for index in range(2, len(told), 4)]
    assert set(first) == {"original", "fast"}


def test_what_raises_is_a_note_and_the_other_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that fails on another clock has no figure there and says why; the original keeps its own."""

    def failing() -> float:
        raise RuntimeError("operation not permitted")

    made, told = taken(monkeypatch, {"original": lambda: 30.0, "fast": failing})
    assert made["original"].cold_us == (30.0,) * ROUNDS
    assert (made["fast"].cold_us, made["fast"].notes) == ((), ("cold caches: RuntimeError: operation not permitted",))
    assert told.count("fast ends") == 1


def test_without_time_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A contest whose time is over takes none; a call that is long against its contest is left out, and says so."""
    calls = {"original": lambda: 30.0}
    assert taken(monkeypatch, calls, ends_s=time.monotonic()) == ({}, [])
    made, told = taken(monkeypatch, calls, hot_us=1e6)
    assert made["original"].notes == ("cold caches: left out, one round takes too long",)
    assert told == []


def test_their_time_is_a_share_of_the_contests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of 30 ms end after the 0.1 s that a young contest allows; an old one has all nine."""

    def slow() -> float:
        time.sleep(0.03)
        return 30_000.0

    young, _ = taken(monkeypatch, {"original": slow}, hot_us=30_000.0)
    assert 1 <= len(young["original"].cold_us) <= 4
    old, _ = taken(monkeypatch, {"original": slow}, hot_us=30_000.0, began_s=time.monotonic() - 60)
    assert len(old["original"].cold_us) == ROUNDS


def tuned(impl: Callable[..., torch.Tensor], mode: str = "inference") -> Profile:
    """A profile of one norm with one contestant."""
    registry = Registry()
    register_external_layer(Norm, "Norm", registry=registry)
    register_layer_kernel("Norm", layer_impl=impl, device="cpu", registry=registry)
    model, x = nn.Sequential(Norm(16)), torch.randn(8, 16)
    return tune_model(model, x, mode=mode, registry=registry, settings=QUICK, candidates=["impl"])


def test_a_winner_and_its_original_have_them() -> None:
    """After the second race both have cold times, which pair; no figure of a GPU on a CPU."""
    (found,) = tuned(always_fast).contests
    assert [each.candidate for each in found.timings] == ["original", found.selection.winner]
    original, winner = found.timings
    assert 1 <= len(original.cold_us) == len(winner.cold_us) <= ROUNDS
    assert min(original.cold_us) > 200
    assert (original.graph_us, original.host_us, original.forward_us) == ((), None, None)


def test_where_the_original_stays_it_alone_has_them() -> None:
    """A loser's further times are of no interest."""
    (found,) = tuned(norm_taking(lambda x: 400)).contests
    assert [each.candidate for each in found.timings] == ["original"]


def test_training_has_forward_and_backward_apart() -> None:
    """The original's 200 us pass in its forward; both figures are there for both."""
    (found,) = tuned(always_fast, "train").contests
    original, winner = found.timings
    assert original.forward_us is not None
    assert original.backward_us is not None
    assert original.forward_us > max(200, winner.forward_us or math.inf)
    assert winner.backward_us is not None


def test_they_come_back_from_a_worker() -> None:
    """What a worker sends as JSON is read as the same values."""
    known = Timings(candidate="fast", cold_us=(1.0, 2.5), host_us=3.0, backward_us=0.0, notes=("CUDA graph: no",))
    sent = json.loads(json.dumps(result_data(replace(contest("N", original_us=1.0, ratio=0.9), timings=(known,)))))
    assert result_of(sent).timings == (known,)
    sent["timings"][0]["cold_us"] = ["soon"]
    with pytest.raises(ValueError, match="soon"):
        result_of(sent)


@pytest.mark.slow
def test_who_hangs_there_is_caught_by_the_time_limits() -> None:
    """A winner that never returns from its further times is ended with its process, and keeps nobody waiting."""
    registry = Registry()
    register_external_layer(Norm, "Norm", registry=registry)
    register_layer_kernel("Norm", layer_impl=late_hang, device="cpu", registry=registry)
    limits = Limits(import_s=30.0, first_call_s=30.0, call_s=3.0)
    with Isolated(limits) as executor:
        profile = tune_model(
            nn.Sequential(Norm(16)),
            torch.randn(8, 16),
            registry=registry,
            settings=QUICK,
            candidates=["impl"],
            executor=executor,
        )
    (found,) = profile.contests
    assert found.selection.winner == "original"
    assert "not confirmed" in found.selection.reason
    assert "did not finish" in found.selection.reason
    assert [each.candidate for each in found.timings] == ["original"]


def test_forward_and_backward_take_a_few_calls_only() -> None:
    """On a CPU a pass is timed in blocks of at most 5 calls and 5 rounds, however short it is."""
    made = {"forward": 0, "both": 0}

    def call(which: str) -> Callable[[], None]:
        def counted() -> None:
            made[which] += 1

        return counted

    timed = {"original": Timed(step=call("both"), hot_us=1.0, forward=call("forward"))}
    further_times(timed, "cpu", BetweenCpuClock(), Unwatched(), began_s=time.monotonic())
    assert 5 * 6 <= made["forward"] <= 5 * 6
    assert made["both"] <= 5 * 6 + 2 * ROUNDS


@pytest.mark.gpu
@NEEDS_CUDA
def test_on_a_gpu_a_graph_and_the_host_have_their_figures() -> None:
    """A small kernel's launch takes longer than its work; a call that waits for the device cannot be captured."""
    x = torch.randn(64, device="cuda")
    timed = {
        "original": Timed(step=lambda: x + 1, hot_us=10.0),
        "waiting": Timed(step=lambda: (x + 1).sum().item(), hot_us=30.0),
    }
    original, waiting = further_times(timed, "cuda", slot_clock("cuda"), Unwatched(), began_s=time.monotonic() - 60)
    assert len(original.graph_us) == len(original.cold_us) == ROUNDS
    assert (original.host_us or 0) > min(original.graph_us)
    assert waiting.graph_us == ()
    assert "cannot be captured in a CUDA graph" in waiting.notes[0]
    assert torch.randn(4, device="cuda").isfinite().all(), "a failed capture must leave the generator usable"
