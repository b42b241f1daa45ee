"""Contests of the compile modes: on the block around a slot, each contestant with compiled code of its own."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from tests.tune import blocks
from tests.tune.blocks import SHORT, Layer, Scale, Stack, inside, observed, opaque, registry_of, task_of
from twinkle_tune.capture.block import OUTSIDE
from twinkle_tune.contest.compiling import Contestant, uncapped
from twinkle_tune.contest.copies import Copies, in_place_of
from twinkle_tune.kernel import Registry, register_external_layer, register_layer_kernel
from twinkle_tune.mode import Mode
from twinkle_tune.outcome import Measurement, Outcome, Rejection
from twinkle_tune.profile.schema import Contest, TimedOn
from twinkle_tune.strategy.backend import MOST_AGAIN, Backend, compiled
from twinkle_tune.tune.in_process import InProcess
from twinkle_tune.tune.package import pack, unpack

X = torch.ones(4, 8)


@pytest.fixture(autouse=True)
def no_inductor(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Graphs are run as they are: dynamo does all that these tests are of, and Inductor takes seconds a graph."""
    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", lambda graph, inputs, **options: graph.forward)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def run(task: Any) -> Contest:
    """A contest in this process, without a listener."""
    return InProcess().hold(task, lambda event: None)


def outcome_of(contest: Contest, name: str) -> Outcome:
    """Of the contestant whose name ends so."""
    (found,) = (t.outcome for t in contest.trials if t.candidate.endswith(name))
    return found


def test_a_candidate_that_splits_its_block_keeps_the_original() -> None:
    """Faster alone and slower in its block, it would win the slot's contest and loses the block's."""
    registry = registry_of(opaque)
    seen = inside(observed(Stack(), X, registry))
    on_block = run(task_of(seen, registry))
    alone = run(task_of(replace(seen, block=None, why_alone="to compare"), registry))
    assert on_block.timed_on == TimedOn(block="Layer", path="layers.0", calls=2)
    assert on_block.selection.winner == "original"
    assert isinstance(outcome_of(on_block, "opaque"), Measurement)
    assert alone.timed_on == TimedOn(why_alone="to compare")
    block, slot, its = (outcome_of(on_block, "original"), outcome_of(alone, "original"), outcome_of(alone, "opaque"))
    assert isinstance(block, Measurement)
    assert isinstance(slot, Measurement)
    assert isinstance(its, Measurement)
    # Of the fastest rounds: on a busy machine the others may scatter too widely for a winner.
    assert min(its.times_us) < 0.9 * min(slot.times_us)
    # Two calls of the slot and what is around them. Each spins as long on any machine: others can but add to it.
    assert min(block.times_us) > blocks.REST_US + 2 * blocks.ALONE_US
    assert blocks.ALONE_US < min(slot.times_us) < min(block.times_us)


def test_a_winner_in_its_block_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing around it suffers, the ratio is that of the whole block with the candidate in every place."""
    monkeypatch.setattr(blocks, "SPLIT_US", blocks.REST_US)
    registry = registry_of(opaque)
    contest = run(task_of(inside(observed(Stack(), X, registry)), registry))
    assert contest.selection.winner.endswith("opaque")
    # 100 + 2 x 20 µs against 100 + 2 x 200 µs, and what the call itself takes; of the slot alone 20 against 200.
    # On a busy machine the interval is wide.
    assert contest.selection.high is not None
    assert contest.selection.low is not None
    assert contest.selection.high > 0.28
    assert contest.selection.low < 0.7


def test_graph_breaks_are_counted() -> None:
    """A candidate that leaves compiled code twice a block call is told from the original, which never does."""

    def breaking(self: Any, x: torch.Tensor) -> torch.Tensor:
        torch._dynamo.graph_break()
        return torch.mul(blocks.spun(x, 0.0), self.weight)

    registry = registry_of(breaking)
    contest = run(task_of(inside(observed(Stack(), X, registry)), registry))
    own, its = outcome_of(contest, "original"), outcome_of(contest, "breaking")
    assert isinstance(own, Measurement)
    assert isinstance(its, Measurement)
    assert (own.graph_breaks, own.recompilations) == (0, 0)
    assert (its.graph_breaks, its.recompilations) == (2, 0)


def test_compiling_anew_is_counted_and_without_end_refused() -> None:
    """Who is compiled anew a few times at calls that are alike is timed and told, who always is, is refused."""
    count: list[int] = []

    def twice(self: Any, x: torch.Tensor) -> torch.Tensor:
        known = min(len(count), 3)
        if not torch.compiler.is_compiling() or known < 3:
            count.append(1)
        return torch.mul(x, self.weight) + 0.0 * known

    def always(self: Any, x: torch.Tensor) -> torch.Tensor:
        count.append(1)
        return torch.mul(x, self.weight) + 0.0 * len(count)

    def found(kernel: Any, name: str) -> Any:
        registry = registry_of(kernel)
        task = task_of(inside(observed(Stack(), X, registry)), registry)
        # On a busy machine it would be given up as hopelessly slow before it has been called often enough.
        patient = replace(SHORT, hopeless=1e6)
        return outcome_of(run(replace(task, terms=replace(task.terms, settings=patient))), name)

    few = found(twice, "twice")
    assert isinstance(few, Measurement)
    assert 0 < few.recompilations <= MOST_AGAIN
    never = found(always, "always")
    assert isinstance(never, Rejection)
    assert f"compiled anew {MOST_AGAIN} times" in never.reason


def times(factor: float, *, breaks: bool) -> Callable[..., torch.Tensor]:
    """A gain that gives away whether it runs compiled: uncompiled it is 0."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return multiplied(x, factor, breaks)

    return forward


def multiplied(x: torch.Tensor, factor: float, breaks: bool) -> torch.Tensor:
    """What all of them call: after a break a function that is compiled by itself."""
    if breaks:
        torch._dynamo.graph_break()
    return x * factor if torch.compiler.is_compiling() else x * 0.0


def contestants(stage: Copies, breaks: bool, many: int) -> list[Contestant]:
    """As many copies of a block with gains of 2, 3, ..."""
    made = []
    for number in range(many):
        backend = Backend(gives_up=True)
        step = stage.forward(str(number), times(number + 2.0, breaks=breaks), backend, None)
        made.append(Contestant(step=step, backend=backend))
    return made


@pytest.mark.parametrize("breaks", [False, True])
def test_many_contestants_do_not_mix(*, breaks: bool) -> None:
    """Ten by turns: each block calls its own candidate, compiled, and nobody compiled twice; broken graphs too."""
    seen = inside(observed(Stack(), X, registry_of(opaque)))
    assert seen.block is not None
    with torch.no_grad(), uncapped():
        made = contestants(Copies(seen.block, seen.slot), breaks, 10)
        for each in made:
            each.step()
            each.settle()
        for _ in range(2):
            for number, each in enumerate(made):
                torch.testing.assert_close(each.step(), X * (number + 2.0) ** 2 + 1)
        assert [each.recompilations for each in made] == [0] * 10
        assert all(each.graphs > 0 for each in made)


def test_without_our_guard_the_limit_strikes() -> None:
    """Under torch's own limit of eight the tenth has no compiled code of its own: what the test above would see."""
    seen = inside(observed(Stack(), X, registry_of(opaque)))
    assert seen.block is not None
    with torch.no_grad():
        made = contestants(Copies(seen.block, seen.slot), True, 10)
        for each in made:
            each.step()
    assert made[0].backend.graphs > 0
    assert made[-1].backend.graphs == 0


def test_functions_stand_only_while_they_are_called() -> None:
    """Each contestant of a function slot calls its own function, by turns, and nobody else ever does."""
    registry = registry_of(functions=(lambda x: x + 1,))
    seen = next(o for o in observed(Stack(), X, registry) if o.module is None)
    assert seen.block is not None
    assert (seen.block.name, seen.block.places, seen.block.calls) == ("Layer", (), 1)
    before = blocks.shifted
    with torch.no_grad(), uncapped():
        stage, made = Copies(seen.block, seen.slot), []
        for number in range(10):
            backend = Backend(gives_up=True)
            standing = in_place_of(seen.slot, lambda x, number=number: x + 10.0 * number)
            step = stage.forward(str(number), None, backend, None)
            made.append(Contestant(step=step, backend=backend, standing=standing))
        plain = stage.forward("original", None, Backend(gives_up=False), None)()
        assert isinstance(plain, torch.Tensor)
        for _ in range(2):
            for number, each in enumerate(made):
                with each.standing():
                    torch.testing.assert_close(each.step(), plain - 1 + 10.0 * number)
                assert blocks.shifted is before
        assert [each.backend.graphs for each in made] == [1] * 10


def test_what_we_compile_does_not_count_for_the_user() -> None:
    """After contests no class of the model has compiled code left, and the user's own compiled code is there still."""
    user = torch.compile(nn.Sequential(Scale()), backend="eager")
    with torch.no_grad():
        user(X)
    codes = torch._C._dynamo.eval_frame
    before = len(codes._debug_get_cache_entry_list(nn.Sequential.forward.__code__))
    limit = torch._dynamo.config.recompile_limit

    def breaking(self: Any, x: torch.Tensor) -> torch.Tensor:
        torch._dynamo.graph_break()
        return torch.mul(blocks.spun(x, 0.0), self.weight)

    registry = registry_of(breaking)
    run(task_of(inside(observed(Stack(), X, registry)), registry))
    assert not codes._debug_get_cache_entry_list(Layer.forward.__code__)
    assert len(codes._debug_get_cache_entry_list(nn.Sequential.forward.__code__)) == before
    assert torch._dynamo.config.recompile_limit == limit


def test_what_one_contest_saw_change_is_not_dynamic_in_the_next() -> None:
    """Shapes differ from contest to contest, not within one: each is compiled for its own, unless told otherwise."""
    sizes: list[object] = []

    class Seeing(Backend):
        def __call__(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
            sizes.extend(size for size in inputs if not isinstance(size, torch.Tensor))
            return graph.forward

    def call(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    for rows in (4, 6, 8):
        compiled(call, Seeing(gives_up=True), None)(torch.ones(rows, 8))
    assert not sizes
    compiled(call, Seeing(gives_up=True), True)(torch.ones(10, 8))
    assert sizes


class Growing(nn.Module):
    """A block that makes its cache longer with each call, as attention does."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = Scale(width)

    def forward(self, x: torch.Tensor, cache: Any = None) -> torch.Tensor:
        """(rows, width) to the same."""
        cache.keys = torch.cat([cache.keys, x])
        return torch.add(self.scale(x), cache.keys.shape[0])


class Cache:
    """A cache by what it does."""

    def __init__(self) -> None:
        self.keys = torch.ones(3, 8)

    def reset(self) -> None:
        """Caches have it."""


class Cached(nn.Module):
    """A model that hands a cache to its blocks."""

    def __init__(self, block: Callable[[int], nn.Module] = Growing) -> None:
        super().__init__()
        self.layers = nn.ModuleList(block(8) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, width) to the same."""
        for layer in self.layers:
            x = layer(x, cache=Cache())
        return x


class Writing(Growing):
    """A block that writes into its cache."""

    def forward(self, x: torch.Tensor, cache: Any = None) -> torch.Tensor:
        """(rows, width) to the same."""
        cache.keys.add_(1)
        return self.scale(x)  # type: ignore[no-any-return]


def test_a_cache_is_put_back_after_each_call() -> None:
    """A call with a cache that grows is the same each time, and its compiled code too."""
    seen = inside(observed(Cached(), X, registry_of(opaque)))
    assert seen.block is not None
    backend = Backend(gives_up=True)
    with torch.no_grad(), uncapped():
        stage = Copies(seen.block, seen.slot)
        step = stage.forward("original", None, backend, None)
        results = [step() for _ in range(4)]
    assert all(torch.equal(results[0], each) for each in results)  # type: ignore[arg-type]
    assert backend.graphs == 1
    assert stage.call.kwargs["cache"].keys.shape == (3, 8)


def test_a_cache_that_is_written_to_is_no_call_to_repeat() -> None:
    """The slot is then timed alone, and the contest says why."""
    (seen,) = observed(Cached(Writing), X, registry_of(opaque))
    assert seen.block is None
    assert "writes into tensors" in seen.why_alone


def test_a_block_that_cannot_be_compiled_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the original's block does not stand is the block's fault: the slot is timed alone, with that reason."""

    class Uncompiled(Layer):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x.tanh()))  # type: ignore[no-any-return]

    def choosy(graph: torch.fx.GraphModule, inputs: object, **options: object) -> Any:
        if "tanh" in graph.code:
            raise RuntimeError("no code for tanh")
        return graph.forward

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", choosy)

    registry, x = registry_of(opaque), torch.randn(4, 8)
    contest = run(task_of(inside(observed(Stack(block=Uncompiled), x, registry)), registry))
    assert contest.timed_on is not None
    assert contest.timed_on.block == ""
    assert "no code for tanh" in contest.timed_on.why_alone
    assert contest.selection.winner.endswith("opaque")


def test_training_goes_both_ways_through_the_block() -> None:
    """In train+compile a block's step gives the gradient of its input and of every parameter."""

    class Plain(Layer):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x))  # type: ignore[no-any-return]

    def fast(self: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.mul(x, self.weight)

    class Quick(Scale):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.weight

    model = Stack(block=Plain)
    model.last = nn.Identity()  # type: ignore[assignment]
    for layer in model.layers:
        layer.first, layer.second = Quick(), Quick()
    registry = Registry()
    register_external_layer(Quick, "Quick", registry=registry)
    register_layer_kernel("Quick", layer_impl=fast, device="cpu", registry=registry)
    # The first gain's input is the model's own and takes no gradient: the others' do.
    seen = [o for o in observed(model, X, registry, Mode.TRAIN_COMPILE) if o.slot.name == "Quick"]
    task = task_of(max(seen, key=lambda o: len(o.instances)), registry, Mode.TRAIN_COMPILE)
    contest = run(task)
    assert contest.block == "Plain"
    assert isinstance(outcome_of(contest, "fast"), Measurement)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_block_travels_with_its_parameters_once() -> None:
    """In the package for a worker process the slot's module is the one in the block; parameters are there once."""
    registry = registry_of(opaque)
    model = Stack(width=4096)
    with io.BytesIO() as file:
        pack(task_of(inside(observed(model, torch.ones(2, 4096), registry)), registry), file)
        size = len(file.getvalue())
        task = unpack(file)
    block = task.observation.block
    assert block is not None
    assert block.module.get_submodule(block.places[0]) is task.observation.module
    assert size < 2 * 4096 * 4 + 4096 * 4 * 8  # two gains, the calls of two rows and of the judge, and some text
    stage = Copies(block, task.observation.slot)
    ours = {id(p) for p in stage.copied().parameters()}
    assert ours == {id(p) for p in block.module.parameters()}


def test_a_block_of_this_process_alone_stays_at_home() -> None:
    """A block with something in it that cannot be sent leaves the slot alone in the package, with that reason."""
    registry = registry_of(opaque)
    model = Stack()
    for layer in model.layers:
        layer.hook = lambda x: x  # type: ignore[assignment]
    with io.BytesIO() as file:
        pack(task_of(inside(observed(model, X, registry)), registry), file)
        task = unpack(file)
    assert task.observation.block is None
    assert "cannot be sent to another process" in task.observation.why_alone


def test_what_lies_in_no_block_says_so() -> None:
    """The last gain is in no part that repeats; it is a contest of its own though it is called alike."""
    seen = [o for o in observed(Stack(), X, registry_of(opaque)) if o.slot.name == "Scale"]
    assert {o.instances: o.why_alone for o in seen} == {
        ("last",): OUTSIDE,
        ("layers.0.first", "layers.0.second", "layers.1.first", "layers.1.second"): "",
    }
    assert len({o.workload.key for o in seen}) == 1
