"""Steps: the ways in which a model is run. Each can be repeated at will and leaves the model as it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from twinkle_tune.capture.encoder_decoder import decoder_points, encoder_heard, states_of
from twinkle_tune.capture.generate import TOKENS, Generate, generates
from twinkle_tune.capture.kv_cache import PrefilledCache
from twinkle_tune.capture.language import for_decode, for_prefill, for_training, is_extensible, keyword_point
from twinkle_tune.capture.look import Look, look_at
from twinkle_tune.capture.micro_batches import micro_batches
from twinkle_tune.capture.optimizer import OptimizerStep
from twinkle_tune.capture.point import Point, read_points, tensors_in, unwrapped
from twinkle_tune.capture.untouched import Untouched
from twinkle_tune.errors import CaptureError, in_a_line
from twinkle_tune.mode import Mode

OF_GENERATION = ("use_cache", "logits_to_keep", "position_ids", "return_dict", "cache_position")
"""What ``generate`` gives a model by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One way of running the model.

    Attributes:
        label: "prefill 1x128", "decode 1x128", "train 2x64" (batch by sequence length), "train 2x64 *4" (four
            micro-batches), "forward", "train".
        run: runs the model once and returns its outputs; in the train modes forward and backward. It can be
            repeated, keeps no outputs, and uses whatever kernels are bound at that moment. With an optimizer its
            step comes after them.
        look: as ``run``, and looks at what came out, gradients included; the optimizer's step follows from those.
        optimizer: whose step is part of the run; None for none.
        is_made_up: whether the model is given something else than the user's inputs, which it may not take.
        instead: of a made-up step, how the model is run where it does not take it; None to leave it out.
        inputs: the user's, of which it was made; None where that is not known.
    """

    label: str
    run: Callable[[nn.Module], object]
    look: Callable[[nn.Module], Look]
    optimizer: OptimizerStep | None = None
    is_made_up: bool = False
    instead: Step | None = None
    trains: bool = False
    inputs: Point | None = None

    @property
    def generates(self) -> bool:
        """Whether the model generates text in it, by its own ``generate``."""
        return isinstance(self.run, Generate)


def make_steps(
    model: nn.Module,
    example_inputs: object,
    mode: Mode,
    device: str,
    optimizer: OptimizerStep | None = None,
    *,
    growing: bool = False,
    accumulate: int = 1,
) -> tuple[Step, ...]:
    """The steps in which to run ``model`` on its example inputs.

    Inference modes run the forward without gradients. A causal language model with ``input_ids`` (B, S) gives
    two steps for each set of inputs: "prefill", a forward that makes a cache and the last token's logits, as
    generation does, and "decode", one new token on a cache of S tokens. Labels are left out there. An encoder-decoder
    that generates gives "forward", the call as it is given, and "decode", one new token on a cache of the decoder's
    tokens (B, S), with the encoder's states given. Such steps are
    made up: :func:`twinkle_tune.capture.taken.taken` finds out whether the model takes them. Train
    modes run forward and backward: from ``outputs.loss`` where there is one (labels of a causal language
    model default to its ``input_ids``), else from fixed random gradients (standard normal) of every floating
    output that requires one.

    The model's train flag is not changed, nor is the model compiled. Autocast applies as the caller sets it.

    Args:
        model: on ``device``.
        example_inputs: a tensor, a tuple of positional arguments, a dict of keyword arguments, or a list of
            these.
        mode: how the model will run.
        device: a device name; the inputs are copied there.
        optimizer: whose step comes after the backward in the train modes, one for all steps; None for none.
        growing: whether "generate", new tokens on a cache that grows, takes the place of "decode", which has a cache of
            one length.
        accumulate: micro-batches of a training step, whose gradients add up before the optimizer's step: each is of the
            inputs' sizes (:mod:`twinkle_tune.capture.micro_batches`). A loss is divided by their number.

    Raises:
        DeviceError: an unknown device name.
        CaptureError: the inputs do not fit the model.
    """
    steps: list[Step] = []
    for point in read_points(model, example_inputs, device):
        is_language = _is_causal_language_model(model, point)
        if mode.trains:
            made = for_training(point, is_language)
            given, train = (_train(each, point, optimizer, accumulate) for each in (point, made))
            steps.append(given if made is point else _made_up(train, instead=given))
        elif is_language:
            given = _step("forward", point, _Forward(point))
            steps.append(_made_up(_step("prefill", point, _Forward(for_prefill(point))), instead=given))
            if growing and generates(model):
                steps.append(_generate(point))
            elif is_extensible(point) and not growing:
                steps.append(_made_up(_step("decode", point, _Decode(for_prefill(point), for_decode(point)))))
        else:
            steps.append(_step("forward", point, _Forward(point)))
            of_decoder = decoder_points(model, point)
            if of_decoder is not None and growing and generates(model):
                steps.append(_generate(point))
            elif of_decoder is not None and not growing:
                prefill, decode = of_decoder
                ids = prefill.call.kwargs["decoder_input_ids"]
                step = _step("decode", point, _Decode(prefill, decode))
                steps.append(_made_up(replace(step, label=f"decode {ids.shape[0]}x{ids.shape[1]}")))
    return _numbered(steps)


def _train(run: Point, point: Point, optimizer: OptimizerStep | None, accumulate: int) -> Step:
    step = _step("train", point, _Train(micro_batches(run, accumulate), optimizer))
    label = step.label if accumulate == 1 else f"{step.label} *{accumulate}"
    return replace(step, label=label, optimizer=optimizer, trains=True)


def _generate(point: Point) -> Step:
    # What a run may be asked for beside the prompt, generation sets itself; a decoder begins with a token of its own.
    left_out = ("labels", "decoder_input_ids", "decoder_attention_mask", *OF_GENERATION)
    named = {name: value for name, value in point.named().items() if name not in left_out}
    made = _step("generate", point, Generate(keyword_point(point, named)))
    return _made_up(replace(made, label=f"{made.label}+{TOKENS}"))


def _step(kind: str, point: Point, way: _Forward | _Decode | _Train | Generate) -> Step:
    return Step(label=_label(kind, point), run=way, look=way.look, inputs=point)


def _made_up(step: Step, instead: Step | None = None) -> Step:
    return replace(step, is_made_up=True, instead=instead)


class _Forward:
    def __init__(self, point: Point) -> None:
        self._point = point
        self._untouched = Untouched(gradients=False)

    def __call__(self, model: nn.Module) -> object:
        call = self._point.fresh()
        with self._untouched.around(model), torch.no_grad():
            return model(*call.args, **call.kwargs)

    def look(self, model: nn.Module) -> Look:
        return look_at(self(model))


class _Decode:
    """One new token on a cache that holds the whole sequence of the call before; of an encoder its states, too."""

    def __init__(self, prefill: Point, decode: Point) -> None:
        self._prefill = _Forward(prefill)
        self._point = decode
        self._untouched = Untouched(gradients=False)
        self._cache: PrefilledCache | None = None

    def __call__(self, model: nn.Module) -> object:
        if self._cache is not None:
            return self._forward(model, self._cache)
        with encoder_heard(model) as heard:
            outputs = self._prefill(model)
        filled = getattr(outputs, "past_key_values", None)
        if filled is None:
            raise CaptureError(
                f"{type(unwrapped(model)).__name__} gave no past_key_values when asked with use_cache=True, "
                "so there is no decode step; turn gradient checkpointing off, or wrap the model in a module"
            )
        cache = PrefilledCache(filled)
        states = states_of(outputs, heard)
        if states:
            call = self._point.call
            self._point = replace(self._point, call=replace(call, kwargs={**call.kwargs, **states}))
        del filled, outputs, heard
        outputs = self._forward(model, cache)
        cache.settle()
        self._cache = cache
        return outputs

    def _forward(self, model: nn.Module, cache: PrefilledCache) -> object:
        call = self._point.fresh()
        with self._untouched.around(model), torch.no_grad():
            return model(**call.kwargs, past_key_values=cache.take())

    def look(self, model: nn.Module) -> Look:
        return look_at(self(model))


class _Train:
    def __init__(self, points: Sequence[Point], optimizer: OptimizerStep | None) -> None:
        self._points = points
        self._optimizer = optimizer
        self._untouched = Untouched(gradients=True)
        self._incoming: dict[tuple[object, ...], torch.Tensor] = {}

    def __call__(self, model: nn.Module) -> object:
        try:
            return self._run(model)
        except torch.OutOfMemoryError as error:
            if self._optimizer is None or not self._optimizer.holds:
                raise
            # What the optimizer keeps may be what the model has no room for.
            self._optimizer.give_up(in_a_line(error, 200))
        return self._run(model)

    def _run(self, model: nn.Module) -> object:
        with self._untouched.around(model), torch.enable_grad():
            outputs = self._there_and_back(model)
            if self._optimizer is not None:
                self._optimizer(model)
            return outputs

    def look(self, model: nn.Module) -> Look:
        with self._untouched.around(model), torch.enable_grad():
            return look_at(self._there_and_back(model), model.parameters())

    def _there_and_back(self, model: nn.Module) -> object:
        outputs: object = None
        for point in self._points:
            del outputs  # what the last one holds of memory is free by now
            call = point.fresh()
            outputs = model(*call.args, **call.kwargs)
            loss = loss_of(outputs)
            if loss is not None:
                (loss / len(self._points) if len(self._points) > 1 else loss).backward()  # type: ignore[no-untyped-call]
            else:
                self._backward(outputs)
        return outputs

    def _backward(self, outputs: object) -> None:
        roots = [tensor for tensor in tensors_in(outputs) if tensor.is_floating_point() and tensor.requires_grad]
        if not roots:
            raise CaptureError(
                f"no output of the model (a {type(outputs).__name__}) requires a gradient, so there is no "
                "backward; make parameters require gradients, or use mode='inference'"
            )
        torch.autograd.backward(roots, [self._gradient(i, root) for i, root in enumerate(roots)])

    def _gradient(self, index: int, output: torch.Tensor) -> torch.Tensor:
        form = (index, tuple(output.shape), output.dtype, output.device)
        if form not in self._incoming:
            generator = torch.Generator().manual_seed(index)
            values = torch.randn(output.shape, generator=generator)
            self._incoming[form] = values.to(device=output.device, dtype=output.dtype)
        return self._incoming[form]


def _is_causal_language_model(model: nn.Module, point: Point) -> bool:
    inner = unwrapped(model)
    config = getattr(inner, "config", None)
    makes_text = callable(getattr(inner, "generate", None)) or getattr(config, "use_cache", None) is not None
    is_other = getattr(config, "is_encoder_decoder", False) or getattr(config, "is_decoder", True) is False
    ids = point.named().get("input_ids")
    if not makes_text or is_other or "past_key_values" not in point.names:
        return False
    if "use_cache" not in point.names and not point.takes_more:
        return False
    if not isinstance(ids, torch.Tensor) or ids.dim() != 2:
        return False
    if point.named().get("past_key_values") is not None:
        raise CaptureError(
            "example_inputs: got past_key_values, which a run makes longer; leave it out: decode steps with "
            "a cache of the inputs' length are made for you"
        )
    return True


def loss_of(outputs: object) -> torch.Tensor | None:
    """The loss that a model's output carries, a scalar that a training step goes back from; None if there is none."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
    is_scalar = isinstance(loss, torch.Tensor) and loss.numel() == 1 and loss.requires_grad
    return loss if is_scalar else None


def _label(kind: str, point: Point) -> str:
    size = point.size
    return kind if size is None else f"{kind} {size[0]}x{size[1]}"


def _numbered(steps: Sequence[Step]) -> tuple[Step, ...]:
    counts: dict[str, int] = {}
    labelled = []
    for step in steps:
        counts[step.label] = counts.get(step.label, 0) + 1
        number = counts[step.label]
        labelled.append(step if number == 1 else replace(step, label=f"{step.label} #{number}"))
    return tuple(labelled)
