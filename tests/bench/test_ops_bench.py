"""The bench of our ops runs, and its page and files have their form. What the figures are is not asked here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.bench import ops
from tests.bench.op_page import mean_gain, page, shortfalls
from tests.bench.op_points import ROWS, WIDTHS, dims_of, drawn, rows_that_fit, widths, with_rows
from tests.bench.op_race import Measured, Timed, copy_rate, faults, race
from tests.bench.op_rivals import COMPILED, EAGER, LIGER, OURS, TUNED, Rival, rivals_of
from tests.bench.op_tuned import tuned_config
from twinkle_tune.measure.clock import clock_for
from twinkle_tune.measure.statistics import Ratio
from twinkle_tune.ops.all import all_ops, op_named, op_names
from twinkle_tune.ops.op import Op

_QUICK = ["--device", "cpu", "--quick", "--no-compile", "--seconds", "0"]


def _timed(time_us: float, over_ours: float = 1.0) -> Timed:
    ratio = Ratio(ratio=over_ours, low=over_ours, high=over_ours, rounds=6)
    return Timed(median_us=time_us, peak_bytes=2**20, over_ours=ratio)


def _point(**changes: object) -> Measured:
    """256 MiB in 100 us, where a copy takes 80 us; Liger takes twice as long, torch.compile as long."""
    point = Measured(
        op="rms_norm", variant="", model="Mistral-7B", dims={"rows": 16384, "width": 4096}, rows_wanted=16384,
        backward=False, moved_bytes=2**28, copy_bytes_per_us=2**28 / 80,
        times={OURS: _timed(100.0), LIGER: _timed(200.0, 2.0), COMPILED: _timed(100.0)}, left_out={}, date="2026-01-01",
    )  # fmt: skip
    return replace(point, **changes)  # type: ignore[arg-type]


def test_every_op_has_four_widths_and_all_of_its_sizes() -> None:
    """An op that is added without sizes fails here, not on the GPU."""
    assert set(WIDTHS) == set(op_names())
    for op in all_ops():
        found = widths(op, "cuda", quick=False)
        assert len(found) == 4
        for each in found:
            assert set(dims_of(op, each, 1)) == set(op.dims)
            assert op.moved_bytes(dims_of(op, each, 32), 2, True) > 0


@pytest.mark.parametrize("name", op_names())
def test_inputs_of_any_number_of_rows_are_those_of_the_op(name: str) -> None:
    """Repeated rows have the shapes, strides and gradients of what the op itself would have made."""
    op = op_named(name)
    width = widths(op, "cpu", quick=True)[0]
    for rows in (1, 32, 200):
        found = with_rows(drawn(op, width, "cpu"), rows)
        expected = op.inputs(dims_of(op, width, rows), torch.bfloat16, "cpu", 0, "")
        for ours, theirs in zip(found, expected, strict=True):
            assert isinstance(ours, Tensor) == isinstance(theirs, Tensor)
            if isinstance(ours, Tensor):
                facts = [(x.shape, x.dtype, x.requires_grad, x.stride()) for x in (ours, theirs)]
                assert facts[0][:3] == facts[1][:3]
                assert rows == 1 or facts[0] == facts[1]


def test_fewer_rows_where_the_logits_would_not_fit() -> None:
    """Halved until they fit into 90% of the memory; other ops and a CPU keep theirs."""
    logits = widths(op_named("cross_entropy"), "cuda", quick=False)[-1]
    found = rows_that_fit(logits, ROWS[-1], 80 * 10**9)
    assert found in (ROWS[-1] // 2, ROWS[-1] // 4)
    assert found * 262144 * 24 <= 72 * 10**9 < 2 * found * 262144 * 24
    assert rows_that_fit(logits, ROWS[-1], None) == ROWS[-1]
    assert rows_that_fit(widths(op_named("rms_norm"), "cuda", quick=False)[-1], ROWS[-1], 10**6) == ROWS[-1]


def test_a_quick_run_measures_every_op(tmp_path: Path) -> None:
    """Two numbers of rows, forward and backward, eager and ours; marked as a CPU's, under a name of its own."""
    assert ops.main([*_QUICK, "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*/ops-quick.json")
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data["device"] == "cpu"
    points = data["points"]
    assert len(points) == 4 * len(op_names())
    assert {(point["op"], point["backward"]) for point in points} == {
        (name, backward) for name in op_names() for backward in (False, True)
    }
    for point in points:
        assert set(point["times"]) == {EAGER, OURS}
        assert set(point["left_out"]) == {COMPILED, LIGER}
        assert point["times"][EAGER]["over_ours"]["rounds"] >= 6
    text = path.with_suffix(".md").read_text(encoding="utf-8")
    assert "says nothing about a GPU" in text
    assert text.count("| tiny |") == len(points)


def test_figures_of_other_ops_stay(tmp_path: Path) -> None:
    """One op a command; and nothing is kept that was made with other versions."""
    for name in ("silu_and_mul", "rms_norm"):
        ops.main([*_QUICK, "--op", name, "--out", str(tmp_path)])
    (path,) = tmp_path.glob("*/ops-quick.json")
    data = json.loads(path.read_text(encoding="utf-8"))
    assert [point["op"] for point in data["points"]] == ["rms_norm"] * 4 + ["silu_and_mul"] * 4
    path.write_text(json.dumps({**data, "torch": "0.1"}), encoding="utf-8")
    ops.main([*_QUICK, "--op", "silu_and_mul", "--out", str(tmp_path)])
    assert {point["op"] for point in json.loads(path.read_text(encoding="utf-8"))["points"]} == {"silu_and_mul"}


def test_figures_of_other_sizes_stay(tmp_path: Path) -> None:
    """A command for some rows alone times those alone, and keeps the others of the op."""
    silu = [*_QUICK, "--op", "silu_and_mul", "--out", str(tmp_path)]
    for rows in ("1,32", "32", "2"):
        assert ops.main([*silu, "--rows", rows]) == 0
    (path,) = tmp_path.glob("*/ops-quick.json")
    points = json.loads(path.read_text(encoding="utf-8"))["points"]
    assert sorted((point["rows_wanted"], point["backward"]) for point in points) == [
        (rows, backward) for rows in (1, 2, 32) for backward in (False, True)
    ]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--model", "GPT-1"], "got 'GPT-1', expected one of BERT-base"),
        (["--rows", "32,few"], "got '32,few', expected"),
    ],
)
def test_a_size_that_is_none_is_refused(options: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With what there is, before anything is timed."""
    with pytest.raises(SystemExit):
        ops.main([*_QUICK, *options])
    assert why in capsys.readouterr().err


def test_an_interrupted_run_writes_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the second op: the first one's figures, and that an op was wrong, are written."""

    def run(op: Op, bench: ops.Bench, _: object) -> None:
        if bench.wrong:
            raise KeyboardInterrupt
        bench.wrong[op.name] = "a wrong value"

    monkeypatch.setattr(ops, "run", run)
    assert ops.main([*_QUICK, "--out", str(tmp_path)]) == 1
    (path,) = tmp_path.glob("*/ops-quick.json")
    assert list(json.loads(path.read_text(encoding="utf-8"))["wrong"].values()) == ["a wrong value"]


def test_no_point_begins_when_time_is_up(tmp_path: Path) -> None:
    """Without any time there is a page, and it says so."""
    assert ops.main([*_QUICK, "--op", "rms_norm", "--minutes", "0", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*/ops-quick.md")
    assert "time was up for 4 points" in path.read_text(encoding="utf-8")


def test_a_cpu_gives_no_figures_of_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    """The whole bench is refused there, with what to do instead."""
    with pytest.raises(SystemExit):
        ops.main(["--device", "cpu"])
    assert "--quick" in capsys.readouterr().err


@pytest.mark.parametrize("name", op_names())
def test_what_models_write_is_the_ops_formula(name: str) -> None:
    """The eager rival computes the same; one that does not is found out, as is ours."""
    op = op_named(name)
    inputs = with_rows(drawn(op, widths(op, "cpu", quick=True)[0], "cpu"), 32)
    rivals, _ = rivals_of(op, "cpu", compiles=False, config=None)
    eager = next(rival for rival in rivals if rival.name == EAGER)
    assert faults(op, inputs, [eager]) == {}

    def off(*args: Tensor) -> object:
        made = eager.function(*args)
        return tuple(y * 1.1 for y in made) if isinstance(made, tuple) else made * 1.1

    found = faults(op, inputs, [replace(eager, function=off), Rival(name=OURS, function=off)])
    assert set(found) == {EAGER, OURS}


def test_a_tuned_config_competes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept for this device is a rival beside the default, and is not searched again."""
    monkeypatch.chdir(tmp_path)
    op, clock = op_named("rms_norm"), clock_for("cpu")
    dims = {"rows": 8, "width": 96}
    assert tuned_config(op, dims, "cpu", clock, backward=True, timings=0) == (None, {})
    # On a CPU every config is the formula: the default stays, or what a busy machine makes of another, and is kept.
    found, left_out = tuned_config(op, dims, "cpu", clock, backward=False, timings=2)
    (path,) = tmp_path.glob("profiles/*/ops/rms_norm.json")
    data = json.loads(path.read_text(encoding="utf-8"))
    (kept,) = data["configs"]
    assert found in (None, kept["config"])
    assert left_out == {}
    kept["config"]["warps"] = 4 if kept["config"]["warps"] == 8 else 8
    path.write_text(json.dumps(data), encoding="utf-8")
    before = path.read_bytes()
    config, left_out = tuned_config(op, dims, "cpu", clock, backward=True, timings=2)
    assert (config, left_out, path.read_bytes()) == (kept["config"], {}, before)
    assert TUNED in {rival.name for rival in rivals_of(op, "cpu", compiles=False, config=config)[0]}
    data["environment"]["torch"] = "0.1"
    path.write_text(json.dumps(data), encoding="utf-8")
    assert "another environment" in tuned_config(op, dims, "cpu", clock, backward=True, timings=2)[1]["the search"]


def test_a_rival_that_raises_is_left_out() -> None:
    """The others are timed, and one that writes over its inputs does not reach theirs."""

    def breaks(x: Tensor, weight: Tensor) -> Tensor:
        raise RuntimeError("no room")

    def overwrites(x: Tensor, weight: Tensor) -> Tensor:
        return x.detach().fill_(7.0)

    op = op_named("rms_norm")
    inputs = with_rows(drawn(op, widths(op, "cpu", quick=True)[0], "cpu"), 4)
    before = inputs[0].detach().clone()
    others = [Rival(name="a", function=breaks), Rival(name="b", function=overwrites, writes_over=True)]
    rivals = [*others, Rival(name=OURS, function=op.apply)]
    timed, left_out = race(rivals, inputs, clock_for("cpu"), backward=False, seconds=0.0)
    assert set(timed) == {"b", OURS}
    assert left_out == {"a": "RuntimeError: no room"}
    assert torch.equal(inputs[0], before)
    assert copy_rate("cpu", clock_for("cpu")) > 0


def test_the_page_says_where_ours_falls_short() -> None:
    """Means, single points behind Liger, and bandwidth of large calls that are bound by memory; of the tuned config."""
    good = _point(moved_bytes=2**28, times={**_point().times, OURS: _timed(90.0)})
    assert mean_gain([good, _point()], LIGER) == pytest.approx(2.0)
    assert shortfalls([good]) == []
    assert [line for line in shortfalls([_point()]) if "80% of copy bandwidth at 256 MiB" in line]
    assert shortfalls([_point(moved_bytes=2**25)]) == []
    assert shortfalls([_point(op="fused_linear_cross_entropy")]) == []
    assert shortfalls([_point(times={**_point().times, TUNED: _timed(90.0)})]) == []
    behind = replace(good, times={**good.times, LIGER: _timed(85.0, 0.94)})
    lines = shortfalls([behind])
    assert [line for line in lines if "0.94 times as fast as Liger (0.94 to 0.94)" in line]
    assert [line for line in lines if "the aim is 1.10" in line]
    broken = _point(times={}, left_out={OURS: "RuntimeError: no"})
    assert [line for line in shortfalls([broken]) if "ours did not run: RuntimeError: no" in line]


def test_the_page_holds_every_point_and_what_was_left_out() -> None:
    """Also fewer rows than asked for, ops that are wrong, and points that there was no time for."""
    fewer = _point(rows_wanted=32768, backward=True, left_out={EAGER: "OutOfMemoryError: no"})
    text = "\n".join(page("Here.", "cuda", [_point(), fewer], {"rope": "off by one"}, 3))
    assert "**Wrong, and not timed**: rope: off by one" in text
    assert "time was up for 3 points" in text
    assert "32768 rows would not have fitted into memory (rms_norm 16384x4096 forward+backward)" in text
    assert "eager: OutOfMemoryError: no" in text
    assert text.count("| 16384x4096 | Mistral-7B |") == 2
