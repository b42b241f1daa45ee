"""A language model's head and loss as one slot: the logits of a training step need not exist at once."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree
from transformers import LlamaConfig, LlamaForCausalLM, PhiConfig, PhiForCausalLM
from transformers.loss import loss_utils

from tests.coexistence.tiny import tiny_llama
from tests.told import told_clock
from tests.tune.toy import QUICK
from tests.zoo.quick import SETTINGS, Quick
from twinkle_tune import kernelize_model, kernelize_report, load_profile, restore_model, tune_model
from twinkle_tune.catalog.head import head_contestants, head_place, with_loss
from twinkle_tune.catalog.late_logits import with_late_logits
from twinkle_tune.catalog.pieces import in_pieces
from twinkle_tune.errors import BindError, RegistrationError
from twinkle_tune.kernel import Registry
from twinkle_tune.kernel.find import find_slots
from twinkle_tune.measure.race import RaceSettings
from twinkle_tune.slot import HEAD

FEW = RaceSettings(max_rounds=10, warmup_rounds=0)


def ids(rows: int = 2, length: int = 12) -> Tensor:
    return torch.randint(0, 32, (rows, length), generator=torch.Generator().manual_seed(length))


def step(model: Any, forward: Callable[..., Any] | None = None, **more: Any) -> tuple[Tensor, list[Tensor]]:
    """Loss and gradients of a training step."""
    model.zero_grad()
    inputs = {"input_ids": ids(), "labels": ids(), "use_cache": False, **more}
    outputs = model(**inputs) if forward is None else forward(model, **inputs)
    outputs.loss.backward()
    return outputs.loss.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


class Counted(torch.nn.Linear):
    """A head that counts its calls."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


ASKING: dict[str, Callable[[Any], Any]] = {
    "attribute": lambda o: o.logits,
    "key": lambda o: o["logits"],
    "get": lambda o: o.get("logits"),
    "number": lambda o: o[1],
    "slice": lambda o: o[1:],
    "tuple": lambda o: o.to_tuple(),
    "keys": lambda o: list(o.keys()),
    "values": lambda o: list(o.values()),
    "items": lambda o: dict(o.items()),
    "iteration": lambda o: list(o),
    "in": lambda o: "logits" in o,
    "length": lambda o: len(o),
    "unpacking": lambda o: dict(**o),
    "pytree": lambda o: pytree.tree_leaves(o),
    "text": lambda o: str(o),
}


@pytest.mark.parametrize("how", ASKING)
def test_who_asks_for_the_logits_gets_them(how: str) -> None:
    """However they are asked for, the answer is that of transformers' own output; the head runs once for it."""
    from transformers.modeling_outputs import CausalLMOutputWithPast

    head, hidden, loss = Counted(8, 32, bias=False), torch.randn(1, 3, 8), torch.tensor(1.5)
    below = CausalLMOutputWithPast(hidden_states=(hidden,))
    late = with_late_logits(loss, head, hidden, below)
    plain = CausalLMOutputWithPast(loss=loss, logits=head(hidden), hidden_states=(hidden,))
    head.calls = 0
    expected, found = ASKING[how](plain), ASKING[how](late)
    assert pytree.tree_structure(found) == pytree.tree_structure(expected)
    pairs = zip(pytree.tree_leaves(found), pytree.tree_leaves(expected), strict=True)
    assert all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)
    assert head.calls == 1
    assert torch.equal(late.logits, plain.logits)
    assert head.calls == 1


def test_who_asks_for_the_loss_makes_no_logits() -> None:
    """As a trainer does: by attribute, key, number or get."""
    head = Counted(8, 32, bias=False)
    late = with_late_logits(torch.tensor(1.5), head, torch.randn(1, 3, 8), object())
    assert [float(late.loss), float(late["loss"]), float(late[0]), float(late.get("loss"))] == [1.5] * 4
    assert late.past_key_values is None
    assert head.calls == 0


def test_after_the_optimizers_step_there_are_no_logits() -> None:
    """They would be those of other weights: an error that says what to do, each time; the loss is still there."""
    model: Any = tiny_llama()
    outputs = with_loss(in_pieces)(model, input_ids=ids(), labels=ids(), use_cache=False)
    outputs.loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    for _ in range(2):
        with pytest.raises(BindError, match=r"asked for after the model's weights were changed.* before the optimizer"):
            _ = outputs.logits
    assert outputs["loss"] is outputs.loss


def test_copies_are_plain() -> None:
    """A pickled or copied output is transformers' own, with its logits."""
    head = torch.nn.Linear(8, 32, bias=False)
    with torch.no_grad():
        hidden = torch.randn(1, 3, 8)
        twins: tuple[Callable[[Any], Any], ...] = (copy.copy, lambda o: pickle.loads(pickle.dumps(o)), copy.deepcopy)
        for twin in twins:
            made = twin(with_late_logits(torch.tensor(1.5), head, hidden, object()))
            assert type(made).__module__ == "transformers.modeling_outputs"
            assert torch.equal(made.logits, head(hidden))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("ignored", [0, 3, 200])
def test_pieces_give_the_loss_of_the_whole(reduction: str, ignored: int) -> None:
    """In float64 loss and gradients equal torch's to rounding; with no row that counts too."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 16, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(50, 16, generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 50, (200,), generator=generator)
    target[:ignored] = -100
    expected = F.cross_entropy(x @ weight.T, target, reduction=reduction)
    found = in_pieces(x, weight, target, -100, reduction)
    torch.testing.assert_close(found, expected, equal_nan=True)
    if ignored < 200:
        for mine, right in zip(
            torch.autograd.grad(found * 3, (x, weight)), torch.autograd.grad(expected * 3, (x, weight)), strict=True
        ):
            torch.testing.assert_close(mine, right)


@pytest.mark.parametrize("scale", [1.0, 2.0**15, 65536.0, 2.0**20, 2.0**-10])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("spread", [0.05, 40.0], ids=["usual weights", "large weights"])
def test_a_scaled_loss_has_the_gradients_of_the_original(scale: float, dtype: torch.dtype, spread: float) -> None:
    """Whatever the loss is multiplied with: as near to the exact ones as the original's, and finite where those are."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(128, 16, generator=generator) / spread, torch.randn(3000, 16, generator=generator) * spread
    target = torch.randint(0, 3000, (128,), generator=generator)

    def gradients(loss_of: Callable[..., Tensor], wanted: torch.dtype) -> list[Tensor]:
        given = [t.to(dtype).to(wanted, copy=True).requires_grad_() for t in (x, weight)]
        torch.autograd.backward(loss_of(*given) * scale)
        return [t.grad.double() for t in given if t.grad is not None]

    def plain(a: Tensor, b: Tensor) -> Tensor:
        return F.cross_entropy((a @ b.T).to(torch.promote_types(a.dtype, torch.float32)), target)

    def pieces(a: Tensor, b: Tensor) -> Tensor:
        return in_pieces(a, b, target, -100, "mean")

    right, theirs, ours = gradients(plain, torch.float64), gradients(plain, dtype), gradients(pieces, dtype)
    for exact, original, mine in zip(right, theirs, ours, strict=True):
        known = original.isfinite()
        assert torch.equal(mine.isfinite(), known)
        assert (mine - exact)[known].norm() <= 2 * (original - exact)[known].norm()


def test_gradients_of_gradients_are_refused() -> None:
    """A gradient penalty would go without the part of the head in silence: it is an error."""
    model: Any = tiny_llama()
    for penalised in (model.model.norm.weight, model.lm_head.weight):
        loss = with_loss(in_pieces)(model, input_ids=ids(), labels=ids(), use_cache=False).loss
        (slope,) = torch.autograd.grad(loss, penalised, create_graph=True)
        with pytest.raises(RuntimeError, match="gradient of gradients"):
            torch.autograd.backward(slope.square().sum())


def test_pieces_under_autocast() -> None:
    """Called by itself on float32 it takes autocast's dtype, as the linear layer does."""
    x, weight, target = torch.randn(70, 8).requires_grad_(), torch.randn(9, 8).requires_grad_(), torch.arange(70) % 9
    with torch.autocast("cpu", dtype=torch.bfloat16):
        right, found = F.cross_entropy(F.linear(x, weight), target), in_pieces(x, weight, target, -100, "mean")
    torch.testing.assert_close(found, right, atol=1e-3, rtol=1e-3)
    pairs = zip(torch.autograd.grad(found, (x, weight)), torch.autograd.grad(right, (x, weight)), strict=True)
    for mine, expected in pairs:
        torch.testing.assert_close(mine, expected, atol=1e-3, rtol=2e-2)


@pytest.mark.parametrize(
    "more",
    [{}, {"num_items_in_batch": 7}, {"num_items_in_batch": torch.tensor(7)}, {"shift_labels": ids().roll(-1, 1)}],
    ids=["mean", "items", "tensor", "shifted"],
)
def test_a_step_gives_the_originals_loss_and_gradients(more: dict[str, Any]) -> None:
    """With labels as trainers give them."""
    model: Any = tiny_llama()
    loss, gradients = step(model, **more)
    mine, made = step(model, with_loss(in_pieces), **more)
    torch.testing.assert_close(mine, loss)
    for one, other in zip(made, gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_autocast_is_that_of_the_head() -> None:
    """Under autocast the logits are those of half precision, and so is the loss."""
    model: Any = tiny_llama()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = step(model)
        mine, _ = step(model, with_loss(in_pieces))
    assert mine.dtype == loss.dtype
    torch.testing.assert_close(mine, loss, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("case", ["hook", "replaced", "tuple", "kept", "no labels", "no gradients", "positional"])
def test_everything_unusual_is_the_originals(case: str) -> None:
    """A head with hooks, another head, other arguments: nothing but the original knows what is meant."""
    model: Any = tiny_llama()
    seen: list[object] = []

    def never(*args: Any) -> Tensor:
        seen.append(args)
        raise AssertionError

    inputs: dict[str, Any] = {"input_ids": ids(), "labels": ids(), "use_cache": False}
    args: tuple[Any, ...] = ()
    match case:
        case "hook":
            model.lm_head.register_forward_hook(lambda module, given, out: out)
        case "replaced":
            model.lm_head = torch.nn.Sequential(model.lm_head)
        case "tuple":
            inputs["return_dict"] = False
        case "kept":
            inputs["logits_to_keep"] = 4
            inputs["labels"] = ids(2, 4)
        case "no labels":
            inputs["labels"] = None
        case "positional":
            args = (inputs.pop("input_ids"),)
    forward = with_loss(never)
    with torch.set_grad_enabled(case != "no gradients"):
        found, expected = forward(model, *args, **inputs), type(model).forward(model, *args, **inputs)
    for mine, right in zip(pytree.tree_leaves(found), pytree.tree_leaves(expected), strict=True):
        assert not isinstance(mine, Tensor) or torch.equal(mine, right)
    assert not seen


def test_only_models_with_such_a_head_have_the_slot() -> None:
    """A head with a bias is none, and asking for it is an error that says so."""
    assert head_place(torch.nn.Linear(2, 2)) is None
    config = PhiConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=32)
    phi = PhiForCausalLM(config)
    assert head_place(phi) is None
    with pytest.raises(RegistrationError, match=r"PhiForCausalLM has no head and loss that can be one, .* leave the h"):
        find_slots(phi, Registry(), head=True)
    with pytest.raises(RegistrationError, match="attention, head: got both, expected one of them"):
        find_slots(tiny_llama(), Registry(), attention=True, head=True)
    assert HEAD in [target.slot.name for target in find_slots(tiny_llama(), Registry(), head=True)]
    assert HEAD not in [target.slot.name for target in find_slots(tiny_llama(), Registry())]
    assert [candidate.name for candidate in head_contestants(tiny_llama(), "cpu")] == ["torch.chunked"]


def test_contested_applied_and_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a slow original the pieces win, are bound for the measured calls alone, and are taken out again."""
    slow_loss, clock = loss_utils.fixed_cross_entropy, told_clock(monkeypatch)

    def slow(*args: Any, **kwargs: Any) -> Any:
        clock.us += 6_000.0
        return slow_loss(*args, **kwargs)

    monkeypatch.setattr(loss_utils, "fixed_cross_entropy", slow)
    model: Any = tiny_llama()
    loss, gradients = step(model)
    profile = tune_model(
        model, {"input_ids": ids()}, mode="train", registry=Registry(), settings=QUICK,
        candidates=["torch.chunked"], head=True,
    )  # fmt: skip
    (won,) = profile.winners
    assert (won.slot.name, won.selection.winner) == (HEAD, "torch.chunked")
    kernelize_model(model, profile=load_profile(profile.save(tmp_path / "p.json")), use_fallback=False)
    assert [b.slot for b in kernelize_report(model).bound] == [HEAD]
    ran = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        ran.append(args)
        return slow_loss(*args, **kwargs)

    monkeypatch.setattr(loss_utils, "fixed_cross_entropy", counted)
    mine, made = step(model)
    assert not ran
    torch.testing.assert_close(mine, loss)
    for one, other in zip(made, gradients, strict=True):
        torch.testing.assert_close(one, other)
    model(input_ids=ids(2, 20), labels=ids(2, 20), use_cache=False)
    assert len(ran) == 1  # a length that was not measured
    restore_model(model)
    assert torch.equal(step(model)[0], loss)
    assert len(ran) == 2


def test_by_memory_the_pieces_make_the_step_smaller() -> None:
    """Training by memory takes them, and the whole step's peak is smaller."""
    config = LlamaConfig(
        vocab_size=512, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config)
    inputs = {"input_ids": torch.randint(0, 512, (4, 64), generator=torch.Generator().manual_seed(0))}

    made = tune_model(
        model, inputs, mode="train", objective="memory", registry=Registry(), settings=FEW,
        candidates=["torch.chunked"],
    )  # fmt: skip
    (won,) = made.winners
    assert (won.slot.name, won.selection.winner) == (HEAD, "torch.chunked")
    assert won.selection.memory_ratio is not None
    assert won.selection.memory_ratio < 0.7
    (step,) = made.steps
    assert step.tuned_peak_bytes is not None
    assert step.original_peak_bytes is not None
    assert step.tuned_peak_bytes < 0.7 * step.original_peak_bytes


@pytest.mark.parametrize(
    ("options", "there"),
    [
        ({"mode": "train", "objective": "memory"}, True),
        ({"mode": "train", "objective": "memory", "head": False}, False),
        ({"mode": "train"}, False),
        ({"mode": "train", "objective": "memory", "attention": True}, False),
        ({"mode": "inference", "objective": "memory"}, False),
    ],
)
def test_it_competes_unasked_by_memory_in_training_alone(options: dict[str, Any], there: bool) -> None:
    """Else it has to be asked for."""
    made = tune_model(
        tiny_llama(), {"input_ids": ids()}, registry=Registry(), settings=SETTINGS, executor=Quick(),
        candidates=["original"], **options,
    )  # fmt: skip
    assert (HEAD in {contest.slot.name for contest in made.contests}) is there
