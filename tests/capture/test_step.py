from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

from tests.capture.tiny_models import FAMILIES, WINDOW, tiny, token_ids
from twinkle_tune.capture.step import make_steps
from twinkle_tune.errors import CaptureError, DeviceError
from twinkle_tune.mode import Mode


class Mixer(nn.Module):
    """Takes nested containers and a keyword, gives a dict with one output that has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, pair: dict[str, Any], *, scale: float = 1.0) -> dict[str, Any]:
        out = self.linear(pair["left"][0]) * scale + pair["right"]
        return {"out": (out,), "count": torch.tensor(3), "other": [out.detach()]}


def _mixer_inputs() -> tuple[dict[str, Any]]:
    return ({"left": [torch.ones(2, 4)], "right": torch.ones(4)},)


def _cache_lengths(model: nn.Module) -> list[int]:
    """A list that each forward appends the length of its cache to."""
    seen: list[int] = []

    def note(_: nn.Module, __: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        cache = kwargs.get("past_key_values")
        seen.append(0 if cache is None else cache.get_seq_length())

    model.register_forward_pre_hook(note, with_kwargs=True)
    return seen


@pytest.mark.parametrize("family", FAMILIES)
def test_decode_is_repeatable(family: str) -> None:
    """Every decode run meets a cache of the prefill's length and gives the same bits, sliding windows too."""
    model = tiny(family)
    decode = make_steps(model, token_ids(2, 6), Mode.INFERENCE, "cpu")[1]
    lengths = _cache_lengths(model)
    runs: list[Any] = [decode.run(model) for _ in range(4)]
    assert lengths == [0, 6, 6, 6, 6]
    assert all(torch.equal(run.logits, runs[0].logits) for run in runs)
    assert [run.past_key_values.get_seq_length() for run in runs] == [7] * 4


@pytest.mark.parametrize("family", FAMILIES)
def test_decode_continues_the_prefill(family: str) -> None:
    """A decode step computes what a forward over the sequence and the new token computes for that token."""
    model, ids = tiny(family), token_ids(2, WINDOW + 3)
    prefill, decode = make_steps(model, ids, Mode.INFERENCE, "cpu")
    decoded: Any = decode.run(model)
    with torch.no_grad():
        whole = model(torch.cat([ids, ids[:, -1:]], dim=1)).logits
    torch.testing.assert_close(decoded.logits[:, -1], whole[:, -1], rtol=1e-4, atol=1e-5)
    prefilled: Any = prefill.run(model)
    torch.testing.assert_close(prefilled.logits[:, -1], whole[:, -2], rtol=1e-4, atol=1e-5)
    assert prefilled.logits.shape[1] == 1
    assert prefilled.past_key_values.get_seq_length() == WINDOW + 3


def test_decode_extends_mask_and_positions() -> None:
    """A padded batch decodes as a plain forward with the mask and positions one longer does."""
    model, ids = tiny("qwen3"), token_ids(2, 6)
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[0, :2] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "labels": ids}
    decoded: Any = make_steps(model, inputs, Mode.INFERENCE, "cpu")[1].run(model)
    with torch.no_grad():
        whole = model(
            torch.cat([ids, ids[:, -1:]], dim=1),
            attention_mask=torch.cat([mask, torch.ones(2, 1, dtype=torch.long)], dim=1),
            position_ids=torch.cat([positions, positions[:, -1:] + 1], dim=1),
        ).logits
    torch.testing.assert_close(decoded.logits[:, -1], whole[:, -1], rtol=1e-4, atol=1e-5)
    assert decoded.loss is None


def test_a_changed_forward_changes_the_step() -> None:
    """No step keeps outputs: binding another forward between two runs is seen by the second."""
    model = tiny("qwen3")
    for step in make_steps(model, token_ids(), Mode.INFERENCE, "cpu"):
        before: Any = step.run(model)
        norm: Any = model.get_submodule("model.norm")
        norm.forward = lambda hidden: hidden * 0
        after: Any = step.run(model)
        del norm.forward
        assert before.logits.any()
        assert not after.logits.any()


@pytest.mark.parametrize("family", FAMILIES)
def test_train_leaves_no_gradient(family: str) -> None:
    """A train step runs a backward; every .grad is the same object with the same bits as before, or None."""
    model = tiny(family).train()
    first = next(model.parameters())
    kept = torch.randn_like(first)
    first.grad, copied = kept, kept.clone()
    hits: list[int] = []
    first.register_hook(lambda grad: hits.append(1))  # type: ignore[no-untyped-call]
    (step,) = make_steps(model, token_ids(2, 5), Mode.TRAIN, "cpu")
    outputs: list[Any] = [step.run(model) for _ in range(2)]
    assert step.label == "train 2x5"
    assert len(hits) == 2
    assert outputs[0].loss.requires_grad
    assert first.grad is kept
    assert torch.equal(kept, copied)
    assert all(p.grad is None for p in model.parameters() if p is not first)
    assert model.training


def test_train_without_a_loss_uses_fixed_gradients() -> None:
    """Without a loss the backward starts from the same random gradients at every run."""
    grads: list[torch.Tensor] = []
    model = Mixer()
    model.linear.weight.register_hook(grads.append)  # type: ignore[no-untyped-call]
    (step,) = make_steps(model, _mixer_inputs(), Mode.TRAIN, "cpu")
    step.run(model)
    with torch.no_grad():
        step.run(model)
    assert step.label == "train"
    assert torch.equal(grads[0], grads[1])
    assert grads[0].any()


def test_train_gives_an_input_no_gradient() -> None:
    """A user's input tensor that requires a gradient takes part in the backward but gets no .grad."""
    model, x = nn.Linear(4, 4), torch.ones(2, 4, requires_grad=True)
    seen: list[bool] = []
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0].requires_grad))
    make_steps(model, x, Mode.TRAIN, "cpu")[0].run(model)
    assert seen == [True]
    assert x.grad is None


def test_running_statistics_do_not_move() -> None:
    """A batch norm's statistics are what they were after any number of runs, in train and inference."""
    for mode in (Mode.TRAIN, Mode.INFERENCE):
        model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).train()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        (step,) = make_steps(model, torch.randn(8, 4), mode, "cpu")
        for _ in range(3):
            step.run(model)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        assert model.training


def test_inputs_are_the_same_at_every_run() -> None:
    """A model that writes into its inputs changes neither the user's tensors nor the next run's."""

    class Writes(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.add_(1).clone()

    x = torch.zeros(3)
    (step,) = make_steps(Writes(), x, Mode.INFERENCE, "cpu")
    outputs: list[Any] = [step.run(Writes()) for _ in range(2)]
    assert torch.equal(outputs[0], outputs[1])
    assert not x.any()


def test_labels_of_several_points() -> None:
    """Each point has its own label: by its size where the shapes tell it, else by number."""
    linear = nn.Linear(4, 4)
    assert _labels(linear, [torch.ones(2, 4), (torch.ones(3, 4),)]) == ["forward", "forward #2"]
    sized = ["forward 2x5", "forward 1x7"]
    assert _labels(linear, [torch.ones(2, 5, 4), {"input": torch.ones(1, 7, 4)}]) == sized
    assert _labels(nn.Embedding(64, 4), token_ids(2, 3)) == ["forward 2x3"]
    points = [token_ids(1, 3), {"input_ids": token_ids(2, 4)}, (token_ids(1, 3),)]
    expected = ["prefill 1x3", "decode 1x3", "prefill 2x4", "decode 2x4", "prefill 1x3 #2", "decode 1x3 #2"]
    assert _labels(tiny("qwen3"), points) == expected


def _labels(model: nn.Module, inputs: object) -> list[str]:
    return [step.label for step in make_steps(model, inputs, Mode.COMPILE, "cpu")]


def test_inference_keeps_the_train_flag() -> None:
    """The step runs in the train flag that the caller set, without gradients."""
    model = tiny("qwen3").train()
    outputs: Any = make_steps(model, token_ids(), Mode.INFERENCE, "cpu")[0].run(model)
    assert model.training
    assert not outputs.logits.requires_grad


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (None, "got None, expected a tensor"),
        ([], "got an empty list"),
        ([[torch.ones(2, 4)]], r"example_inputs\[0\]: got a list.*write positional arguments as a tuple"),
        ({1: torch.ones(2, 4)}, r"got a dict with keys \[1\]"),
        ({"inptu": torch.ones(2, 4)}, r"arguments \['inptu'\].*forward is forward\(input"),
        ((torch.ones(2, 4), 3), "got 2 positional"),
    ],
)
def test_bad_inputs_are_named(inputs: object, message: str) -> None:
    """Inputs of another form, or that the forward does not take, are refused with what was got."""
    with pytest.raises(CaptureError, match=message):
        make_steps(nn.Linear(4, 4), inputs, Mode.INFERENCE, "cpu")


def test_bad_devices_are_named() -> None:
    """An unknown device, a bad index and a model that is elsewhere each have their own message."""
    with pytest.raises(DeviceError, match="got 'gpu'"):
        make_steps(nn.Linear(4, 4), torch.ones(2, 4), Mode.INFERENCE, "gpu")
    with pytest.raises(CaptureError, match="got 'cpu:x'"):
        make_steps(nn.Linear(4, 4), torch.ones(2, 4), Mode.INFERENCE, "cpu:x")
    with pytest.raises(CaptureError, match=re.escape("parameters are on cpu, expected cuda; call model.to('cuda:0')")):
        make_steps(nn.Linear(4, 4), torch.ones(2, 4), Mode.INFERENCE, "cuda:0")


def test_nothing_to_train_is_said() -> None:
    """A train step whose outputs require no gradient is an error that names both ways out."""
    model = nn.Linear(4, 4).requires_grad_(False)
    (step,) = make_steps(model, torch.ones(2, 4), Mode.TRAIN, "cpu")
    with pytest.raises(CaptureError, match=r"requires a gradient.*mode='inference'"):
        step.run(model)


def test_a_cache_among_the_inputs_is_refused() -> None:
    """A cache of the user's would grow at each run: the message says to leave it out."""
    model = tiny("qwen3")
    inputs = {"input_ids": token_ids(), "past_key_values": object()}
    with pytest.raises(CaptureError, match="got past_key_values"):
        make_steps(model, inputs, Mode.INFERENCE, "cpu")


def test_a_model_without_a_cache_says_so() -> None:
    """A language model that gives no cache has no decode step, and the error says what to do."""

    class NoCache(nn.Module):
        def forward(self, input_ids: torch.Tensor, past_key_values: Any = None, use_cache: bool = True) -> torch.Tensor:
            return input_ids.float()

        def generate(self) -> None: ...

    prefill, decode = make_steps(NoCache(), token_ids(), Mode.INFERENCE, "cpu")
    prefill.run(NoCache())
    with pytest.raises(CaptureError, match="NoCache gave no past_key_values"):
        decode.run(NoCache())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", [Mode.INFERENCE, Mode.TRAIN])
def test_steps_on_cuda(mode: Mode) -> None:
    """Inputs given on the CPU reach a model on CUDA, and a repeated run has the same shapes."""
    model = tiny("gemma3").to("cuda")
    for step in make_steps(model, token_ids(), mode, "cuda"):
        runs: list[Any] = [step.run(model) for _ in range(2)]
        assert runs[0].logits.is_cuda
        assert runs[0].logits.shape == runs[1].logits.shape
