"""Patterns are found by what they compute, replaced in place, and taken back."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from tests.capture.tiny_models import tiny, token_ids
from tests.graph.families import model_of
from tests.graph.toys import Added, Block, Fused, FusedLinearGelu, LinearGelu, Stack
from twinkle_tune import graph_report, kernelize_report, replace_pattern, restore_model
from twinkle_tune.errors import GraphError

X = torch.linspace(-1, 1, 48).reshape(2, 3, 8)


def _replaced(model: nn.Module, pattern: Any = Added, replacement: Any = Fused, **more: Any) -> tuple[str, ...]:
    return replace_pattern(model, pattern, replacement, **{"example_inputs": X, "use_fallback": False, **more})


def test_a_pattern_with_a_module_is_replaced_in_every_block() -> None:
    """The replacement runs once a block with the block's own norm; parameters keep their names; restoring is exact."""
    model, Fused.ran = Stack(), 0
    before, names = model(X), [n for n, _ in model.named_parameters()]
    assert _replaced(model) == ("layers.0: second", "layers.1: second")
    assert torch.equal(model(X), before)
    assert Fused.ran == 2
    assert [n for n, _ in model.named_parameters()] == names
    assert [b.path for b in kernelize_report(model).bound] == ["layers.0", "layers.1"]
    restore_model(model)
    assert torch.equal(model(X), before)
    assert Fused.ran == 2


def test_the_forward_stays_as_it_looks() -> None:
    """The signature is the original's, and calls by name are served."""
    model = Stack()
    before, signature = model(X), inspect.signature(model.layers[0].forward)
    _replaced(model)
    assert inspect.signature(model.layers[0].forward) == signature
    assert torch.equal(model(x=X), before)


def test_gradients_reach_the_models_own_parameters() -> None:
    """Forward and backward are the original's."""
    plain, model = Stack(), Stack()
    _replaced(model)
    for each in (plain, model):
        each(X).square().sum().backward()
    for one, other in zip(plain.parameters(), model.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(one.grad, other.grad)


def test_a_call_of_another_form_runs_the_original() -> None:
    """An argument that was None and is a tensor now, and evaluating, are not what was traced."""
    model = Stack()
    expected = model(X, torch.ones(8))
    _replaced(model)
    Fused.ran = 0
    assert torch.equal(model(X, torch.ones(8)), expected)
    model.eval()(X)
    assert Fused.ran == 0


def test_a_copy_computes_with_its_own_parameters() -> None:
    """A deep copy has the replacement too, and reads its own norms."""
    model = Stack()
    _replaced(model)
    twin, before = copy.deepcopy(model), model(X)
    Fused.ran = 0
    nn.init.zeros_(twin.layers[0].second.weight)
    assert not torch.equal(twin(X), before)
    assert Fused.ran == 2
    assert torch.equal(model(X), before)


def test_a_child_that_was_replaced_is_used() -> None:
    """Another norm of the same class is the one that runs; one of another class brings the original back."""
    model = Stack()
    _replaced(model)
    model.layers[0].second = nn.LayerNorm(8, elementwise_affine=True)
    nn.init.constant_(model.layers[0].second.weight, 3.0)
    plain = Stack()
    nn.init.constant_(plain.layers[0].second.weight, 3.0)
    Fused.ran = 0
    torch.testing.assert_close(model(X), plain(X))
    assert Fused.ran == 2
    model.layers[0].second = plain.layers[0].second = nn.Identity()
    torch.testing.assert_close(model(X), plain(X))
    assert Fused.ran == 3


def test_a_hook_on_a_child_fires() -> None:
    """Where a child of the pattern has a hook the pattern's own operations run, and call it."""
    model, seen = Stack(), []
    _replaced(model)
    model.layers[0].second.register_forward_hook(lambda *given: seen.append(given))
    model.layers[0].mix.register_forward_hook(lambda *given: seen.append(given))
    model(X)
    assert len(seen) == 2


def test_a_forward_that_a_class_gets_later_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's class's, and that of a child's class; and hooks that all modules have fire as without us."""
    model, plain = Stack(), Stack()
    _replaced(model)
    seen: list[object] = []
    for of in (Block, nn.LayerNorm):
        original = of.forward
        with monkeypatch.context() as patched:
            patched.setattr(of, "forward", lambda self, *given, _run=original, **more: _run(self, *given, **more) + 1.0)
            Fused.ran = 0
            torch.testing.assert_close(model(X), plain(X))
            assert Fused.ran == 0
    handle = nn.modules.module.register_module_forward_hook(lambda *given: seen.append(given))
    model(X)
    with_pieces = len(seen)
    plain(X)
    handle.remove()
    assert with_pieces == len(seen) - with_pieces
    Fused.ran = 0
    model(X)
    assert Fused.ran == 2


def test_a_setting_that_was_changed_brings_the_original_back() -> None:
    """What the graph may hold as a constant is looked at."""

    class Scaled(Block):
        def __init__(self) -> None:
            super().__init__()
            self.scale = 2.0

        def forward(self, x: Tensor, bias: Tensor | None = None, **kwargs: Any) -> Any:
            x = x + self.mix(x) * self.scale
            return x + self.second(x)

    model = Stack()
    model.layers = nn.ModuleList([Scaled(), Scaled()])
    _replaced(model)
    model.layers[0].scale = model.layers[1].scale = 0.0
    expected = X
    for layer in model.layers:
        expected = expected + layer.second(expected)
    torch.testing.assert_close(model(X), expected)


def test_a_graph_is_rewritten_in_place() -> None:
    """Nodes of a GraphModule are replaced by the replacement's, which name the graph's own children."""
    graph = fx.symbolic_trace(Stack().layers[0].feed)
    before = graph(X)
    assert replace_pattern(graph, LinearGelu(), FusedLinearGelu(), use_fallback=False) == ("act",)
    assert torch.equal(graph(X), before)
    targets = [str(node.target) for node in graph.graph.nodes if node.op in ("get_attr", "call_module")]
    assert targets == ["up.weight", "up.bias", "down"]


def test_a_pattern_of_functions_shares_its_constants() -> None:
    """A placeholder that comes twice stands for one thing, a constant for itself."""

    def scaled(x: Tensor, factor: Any) -> Any:
        return x * factor + factor

    def fused(x: Tensor, factor: Any) -> Any:
        return (x + 1) * factor

    def right(x: Tensor) -> Tensor:
        return x * 3.0 + 3.0

    def wrong(x: Tensor) -> Tensor:
        return x * 3.0 + 4.0

    graph = fx.symbolic_trace(right)
    assert replace_pattern(graph, scaled, fused, use_fallback=False)
    torch.testing.assert_close(graph(X), right(X))
    with pytest.raises(GraphError, match="is nowhere"):
        replace_pattern(fx.symbolic_trace(wrong), scaled, fused, use_fallback=False)


@pytest.mark.parametrize(
    "norm", [nn.LayerNorm(1, eps=1e-3), nn.LayerNorm(1, bias=False), nn.RMSNorm(1)], ids=["eps", "bias", "class"]
)
def test_a_module_stands_for_those_that_compute_alike(norm: nn.Module) -> None:
    """Another epsilon, no bias, and another class are another pattern."""
    pattern = Added()
    pattern.norm = norm  # type: ignore[assignment]
    with pytest.raises(GraphError, match=r"Stack: the pattern Added \(add, norm\) is nowhere in it"):
        _replaced(Stack(), pattern)


def test_what_is_read_outside_is_not_matched() -> None:
    """A pattern that hides a result which the block reads elsewhere is not there."""

    class Hidden(Added):
        def forward(self, x: Tensor, y: Tensor) -> Any:
            return self.norm(x + y)

    with pytest.raises(GraphError, match="is nowhere"):
        _replaced(Stack(), Hidden, Hidden)


def test_places_that_overlap_are_refused() -> None:
    """A pattern whose places share a node is an error that names the node."""

    def twice(x: Tensor) -> Tensor:
        return torch.relu(torch.relu(x))

    def thrice(x: Tensor) -> Tensor:
        return torch.relu(torch.relu(torch.relu(x)))

    graph = fx.symbolic_trace(thrice)
    with pytest.raises(GraphError, match="overlaps itself at node 'relu_1'"):
        replace_pattern(graph, twice, lambda x: torch.relu(x), use_fallback=False)
    assert [n.name for n in graph.graph.nodes if n.op == "call_function"] == ["relu", "relu_1", "relu_2"]


def test_a_replacement_with_other_inputs_is_refused() -> None:
    """The message has both lists of inputs."""
    with pytest.raises(GraphError, match=r"it takes x, the pattern Added takes x, y"):
        _replaced(Stack(), Added, LinearGelu)


def test_a_replacement_with_a_part_of_its_own_is_refused() -> None:
    """Nothing of the model would stand for it."""

    class Larger(Added):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

    with pytest.raises(GraphError, match="it has scale, which the pattern Added has not"):
        _replaced(Stack(), Added, Larger)


def test_a_block_that_is_no_graph_is_named() -> None:
    """The message has the class, the cause, and the line of the block's code."""

    class Deciding(Block):
        def forward(self, x: Tensor, bias: Tensor | None = None, **kwargs: Any) -> Any:
            return x + self.second(x) if x.sum() > 0 else x

    class Asking(Block):
        def forward(self, x: Tensor, bias: Tensor | None = None, **kwargs: Any) -> Any:
            return x + self.second(x) if isinstance(x, Tensor) else x

    model = Stack()
    model.layers = nn.ModuleList([Deciding()])
    with pytest.raises(GraphError, match=r"Deciding: cannot be one graph: TraceError.*if x.sum\(\) > 0"):
        _replaced(model)
    model.layers = nn.ModuleList([Asking()])
    with pytest.raises(GraphError, match=r"Asking: cannot be one graph: it asks for the class of"):
        _replaced(model)


def test_with_fallback_it_is_a_warning() -> None:
    """The model stays as it is."""
    model, pattern = Stack(), LinearGelu()
    pattern.act = nn.GELU(approximate="tanh")
    with pytest.warns(UserWarning, match="nothing is replaced: Stack: the pattern LinearGelu .* is nowhere"):
        assert _replaced(model, pattern, FusedLinearGelu, use_fallback=True, example_inputs=None) == ()
    assert kernelize_report(model).bound == ()


def test_what_is_bound_elsewhere_stays() -> None:
    """A second pattern is added to the first."""
    model = Stack()
    _replaced(model)
    assert _replaced(model, LinearGelu(), FusedLinearGelu)[0] == "layers.0.feed: act"
    assert {b.slot for b in kernelize_report(model).bound} == {"Added", "LinearGelu"}


def test_tracing_leaves_no_trace() -> None:
    """Nothing of torch is patched meanwhile, and the module has what it had."""
    model, call = Stack(), nn.Module.__call__
    before = dict(vars(model.layers[0]))
    graph_report(model)
    assert nn.Module.__call__ is call
    assert vars(model.layers[0]) == before


def test_the_report_shows_each_class_once() -> None:
    """A line a node, with the class of a child that is called; what is no graph is said, with the reason."""
    text = graph_report(tiny("llama"), {"input_ids": token_ids()})
    assert text.count("LlamaDecoderLayer model.layers.0\n") == 1
    assert "layers.1" not in text
    lines = [line.split() for line in text.splitlines() if "post_attention_layernorm" in line]
    assert lines[0] == ["call_module", *["post_attention_layernorm"] * 2, "add", "LlamaRMSNorm"]
    assert text.count("LlamaAttention model.layers.0.self_attn\n") == 1
    text = graph_report(model_of("gpt2"), {"input_ids": token_ids()})
    assert text.count("GPT2Attention: cannot be one graph: ") == 1
