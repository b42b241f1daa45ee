"""Our kernels as candidates: right in every family, on CUDA alone, and with a digest that tells what they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.catalog.catalog_families import FAMILIES, tiny
from tests.ops.interpreter import run_interpreted
from twinkle_tune.catalog import layer_contestants, layer_name
from twinkle_tune.catalog import triton as ours
from twinkle_tune.errors import SourceError
from twinkle_tune.ops import launch
from twinkle_tune.ops.rms_norm.space import default
from twinkle_tune.slot import Candidate, Slot, SlotKind


def test_layers_bound_to_our_kernels_do_as_the_original() -> None:
    """Today's quarter of the layers of :func:`test_layers_of_every_family_bound_to_our_kernels_do_as_the_original`."""
    run_interpreted("tests.catalog.triton_cases", "--today")


@pytest.mark.slow
def test_layers_of_every_family_bound_to_our_kernels_do_as_the_original() -> None:
    """Outputs and gradients by the parity rule, in Triton's interpreter."""
    run_interpreted("tests.catalog.triton_cases")


def found(device: str) -> Iterator[tuple[nn.Module, Candidate]]:
    """Our candidates for the layers of a Qwen3."""
    for module in tiny("qwen3").modules():
        name = layer_name(module)
        if name is not None:
            yield from ((module, c) for c in layer_contestants(name, module, device) if c.source.kind == "triton")


def test_ours_are_offered_on_cuda_alone_and_only_with_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU is offered none; without Triton nobody is, and the source says what to install."""
    assert not list(found("cpu"))
    (module, candidate), *_ = found("cuda")
    assert candidate.device == "cuda"
    monkeypatch.setattr(launch, "missing", lambda: "triton is not installed; pip install triton")
    assert not list(found("cuda"))
    slot = Slot(name="RMSNorm", kind=SlotKind.LAYER, target="x:Y")
    with pytest.raises(SourceError, match="pip install triton"):
        candidate.source.load(slot, type(module).forward)


def rms_norm_source() -> ours.TritonSource:
    """Llama's."""
    source = ours.candidate(ours.rms_norm("weight", "variance_epsilon", 0.0, False), "rms_norm").source
    assert isinstance(source, ours.TritonSource)
    return source


def digest(source: ours.TritonSource) -> str:
    """Its digest, which the slot and the original do not enter."""
    return source.digest(Slot(name="RMSNorm", kind=SlotKind.LAYER, target="x:Y"), nn.RMSNorm.forward)


def test_the_digest_tells_config_settings_and_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It changes with each of them, and not otherwise."""
    source = rms_norm_source()
    config = default({"rows": 8, "width": 32}, 90)
    gemma = replace(source, make=ours.rms_norm("weight", "variance_epsilon", 1.0, True))
    told = [digest(each) for each in (source, replace(source, config=config), gemma)]
    told.append(digest(replace(source, config={**config, "warps": 16})))
    assert len(set(told)) == len(told)
    assert digest(rms_norm_source()) == told[0]
    monkeypatch.setattr(ours, "_files_digest", lambda folder: "another kernel")
    assert digest(source) not in told


@pytest.mark.parametrize("family", FAMILIES)
def test_our_candidates_do_not_break_graphs(family: str) -> None:
    """Under torch.compile a bound layer is one graph, with our op in it."""
    targets: list[str] = []

    def backend(graph: torch.fx.GraphModule, example: Any) -> Any:
        targets.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    torch._dynamo.reset()
    tried = 0
    for module in tiny(family).modules():
        name = layer_name(module)
        for candidate in layer_contestants(name, module, "cuda") if name else ():
            if candidate.name == "triton":
                slot = Slot(name=name or "", kind=SlotKind.LAYER, target="x:Y")
                call = candidate.source.load(slot, type(module).forward).call
                wide = next(module.parameters()).shape[-1]
                torch.compile(call, backend=backend, fullgraph=True)(module, torch.randn(2, 3, wide))
                tried += 1
                break
        if tried == 3:
            break
    assert tried
    assert any(target.startswith("twinkle_tune.") for target in targets)
