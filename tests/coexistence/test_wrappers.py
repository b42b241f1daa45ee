"""What else changes a model: adapters, hooks, checkpointing, export, copies and files."""

from __future__ import annotations

import copy
import pickle
import re
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from tests.coexistence.tiny import bind, gradients, kernelized_logits, known, logits, profile, tiny_llama, tokens
from twinkle_tune.kernel import kernelize_model, kernelize_report, restore_model


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


# accelerate


def test_accelerate_hooks_added_later() -> None:
    """Hooks added to a kernelized model run around its kernels; restoring takes the kernels out below the hooks."""
    hooks = pytest.importorskip("accelerate.hooks")
    model, original = tiny_llama(), logits(tiny_llama())
    bind(model)
    hooks.add_hook_to_module(model.model.norm, hooks.ModelHook())
    hooks.add_hook_to_module(model.model.layers[0].input_layernorm, hooks.ModelHook())
    assert torch.equal(logits(model), kernelized_logits())
    assert len(kernelize_report(model).bound) == 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        restore_model(model)
    assert torch.equal(logits(model), original)
    hooks.remove_hook_from_module(model, recurse=True)
    assert torch.equal(logits(model), original)


def test_accelerate_hooks_that_are_there() -> None:
    """A model with hooks (device_map) takes kernels below them, and keeps them when the hooks go."""
    hooks = pytest.importorskip("accelerate.hooks")
    model, original = tiny_llama(), logits(tiny_llama())
    for module in model.modules():
        hooks.add_hook_to_module(module, hooks.ModelHook())
    bind(model)
    assert torch.equal(logits(model), kernelized_logits())
    hooks.remove_hook_from_module(model, recurse=True)
    assert torch.equal(logits(model), kernelized_logits())
    restore_model(model)
    assert torch.equal(logits(model), original)


def test_accelerate_offload() -> None:
    """Weights that come only for a submodule's own call: a kernel that does not call it stands aside, and says so."""
    accelerate = pytest.importorskip("accelerate")
    model = tiny_llama()
    bind(model, mlp=True)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    assert model.model.layers[0].mlp.gate_proj.weight.is_meta
    assert torch.equal(logits(model), kernelized_logits())
    report = kernelize_report(model)
    assert {b.slot for b in report.bound} == {"RMSNorm"}
    assert all("has a hook" in kept.reason for kept in report.kept)


# PEFT


def _with_lora(model: nn.Module) -> nn.Module:
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    config = peft.LoraConfig(r=2, target_modules=["gate_proj", "q_proj"], init_lora_weights=False)
    wrapped: nn.Module = peft.get_peft_model(model, config).eval()
    return wrapped


def test_lora_first() -> None:
    """A model with adapters takes the kernels of layers without one; those of a layer with one stay the original's."""
    model, plain = _with_lora(tiny_llama()), _with_lora(tiny_llama())
    with pytest.warns(UserWarning, match="GatedMLP .*its settings changed"):
        kernelize_model(model, profile=profile(mlp=True), registry=known(mlp=True))
    assert {b.slot for b in kernelize_report(model).bound} == {"RMSNorm"}
    kernelize_model(plain, profile=profile(), registry=known(), use_fallback=False)
    assert torch.equal(logits(model), logits(plain))
    assert not torch.equal(logits(model), kernelized_logits())


def test_lora_on_a_kernelized_model() -> None:
    """Adapters put into a bound layer are not left out: the original runs there, with gradients, and it is said."""
    model = tiny_llama()
    bind(model, mlp=True)
    wrapped = _with_lora(model)
    plain = _with_lora(bind(tiny_llama()))
    assert torch.equal(logits(wrapped), logits(plain))
    assert _same(gradients(wrapped), gradients(plain))
    assert any("gate_proj.lora_A" in name for name in gradients(wrapped))
    assert {kept.slot.split()[0] for kept in kernelize_report(model).kept} == {"GatedMLP"}
    merged: nn.Module = wrapped.merge_and_unload()  # type: ignore[operator]
    assert {b.slot for b in kernelize_report(merged).bound} == {"RMSNorm", "GatedMLP"}
    restore_model(merged)
    assert torch.allclose(logits(merged), logits(_with_lora(tiny_llama())), atol=1e-5)


# Checkpointing and export


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(reentrant: bool) -> None:
    """The recomputed forward runs the same kernels: gradients are those without checkpointing."""
    plain = bind(tiny_llama()).train()
    model = tiny_llama()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    bind(model).train()
    assert _same(gradients(model), gradients(plain))


def test_checkpoint_wrapper() -> None:
    """torch's own wrapper puts a name into every path; the profile is found all the same."""
    model = tiny_llama().train()
    apply_activation_checkpointing(model, check_fn=lambda module: isinstance(module, LlamaDecoderLayer))
    bind(model)
    assert len(kernelize_report(model).bound) == 5
    assert _same(gradients(model), gradients(bind(tiny_llama()).train()))


def test_compile() -> None:
    """torch.compile takes the kernels into one graph, and notices when they are restored."""
    model = tiny_llama()
    bind(model, mlp=True)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(logits(compiled), kernelized_logits(mlp=True))  # type: ignore[arg-type]
    restore_model(model)
    assert torch.equal(logits(compiled), logits(tiny_llama()))  # type: ignore[arg-type]


def test_export() -> None:
    """torch.export takes the kernels along, also with a batch of any size; restoring changes nothing in the export."""
    model = tiny_llama()
    bind(model, mlp=True)
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(model, (), {"input_ids": tokens()}, dynamic_shapes={"input_ids": {0: batch}})
    restore_model(model)
    assert torch.allclose(logits(exported.module()), kernelized_logits(mlp=True), atol=1e-6)
    more = torch.cat([tokens(), tokens()])
    assert torch.allclose(exported.module()(input_ids=more).logits[:2], kernelized_logits(mlp=True), atol=1e-6)


# Copies and files


def test_deepcopy() -> None:
    """A deep copy has the kernels, bound to its own weights, and is restored alone."""
    model = tiny_llama()
    bind(model, mlp=True)
    twin = copy.deepcopy(model)
    assert torch.equal(logits(twin), kernelized_logits(mlp=True))
    restore_model(twin)
    assert torch.equal(logits(twin), logits(tiny_llama()))
    assert torch.equal(logits(model), kernelized_logits(mlp=True))


def test_shallow_copy() -> None:
    """A shallow copy stays bound to what it was copied from, whose weights it computes with."""
    norm = tiny_llama().model.norm
    kernelize_model(norm, registry=known(), use_fallback=False)
    twin, x = copy.copy(norm), torch.randn(3, 8)
    twin._parameters = {"weight": nn.Parameter(torch.zeros(8))}
    assert torch.equal(twin(x), norm(x))


def test_pickle(tmp_path: Path) -> None:
    """Pickled layers come back with their originals, say so, and can be kernelized again."""
    layers, x = tiny_llama().model.layers[0].mlp, torch.randn(3, 8)
    original = layers(x)
    kernelize_model(layers, registry=known(mlp=True), use_fallback=False)
    torch.save(layers, tmp_path / "layers.pt")
    for loaded in (pickle.loads(pickle.dumps(layers)), torch.load(tmp_path / "layers.pt", weights_only=False)):
        assert torch.equal(loaded(x), original)
        assert not kernelize_report(loaded).bound
        kernelize_model(loaded, registry=known(mlp=True), use_fallback=False)
        assert torch.equal(loaded(x), layers(x))


def test_pickle_of_a_whole_model() -> None:
    """A bound model is pickled where a plain one is.

    Those of newer transformers hold functions of the kernels package that no pickle takes.
    """
    bound = bind(tiny_llama())
    try:
        pickle.dumps(tiny_llama())
    except AttributeError as error:
        with pytest.raises(AttributeError, match=re.escape(str(error))):
            pickle.dumps(bound)
    else:
        assert torch.equal(logits(pickle.loads(pickle.dumps(bound))), logits(tiny_llama()))
    assert torch.equal(logits(bound), kernelized_logits())


def test_save_pretrained(tmp_path: Path) -> None:
    """What save_pretrained writes is what it writes of the plain model, byte by byte."""
    model = tiny_llama()
    bind(model, mlp=True)
    model.save_pretrained(tmp_path / "bound")
    tiny_llama().save_pretrained(tmp_path / "plain")
    names = sorted(file.name for file in (tmp_path / "plain").iterdir())
    assert names == sorted(file.name for file in (tmp_path / "bound").iterdir())
    for name in names:
        assert (tmp_path / "bound" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    loaded = LlamaForCausalLM.from_pretrained(tmp_path / "bound").eval()
    assert torch.equal(logits(loaded), logits(tiny_llama()))
