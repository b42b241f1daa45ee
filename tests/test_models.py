"""MODEL: presets, factories, directories and Hub ids, and one clear message for each that cannot be had."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from twinkle_tune.errors import DeviceError, ModelError
from twinkle_tune.mode import Mode
from twinkle_tune.models import PRESETS, example_inputs, load, load_model, outline

TINY = [name for name in PRESETS if name.endswith("-tiny")]
# Parameters of the published checkpoints, a tied output embedding counted once.
PUBLISHED = {
    "qwen3-0.6b": 596_049_920,
    "qwen2.5-1.5b": 1_543_714_304,
    "llama-3.2-1b": 1_235_814_400,
    "gemma-3-1b": 999_885_952,
    "mistral-7b": 7_248_023_552,
}
FACTORY = """
import torch
from torch import nn

def alone(): return nn.Linear(4, 2)
def with_tensor(): return nn.Linear(4, 2), torch.ones(3, 4)
def with_several(): return nn.Linear(4, 2), [(torch.ones(3, 4),), {"input": torch.ones(1, 4)}]
def with_text(): return nn.Linear(4, 2), "tokens"
def with_nothing(): return nn.Linear(4, 2), []
def number(): return 7
def broken(): raise RuntimeError("no weights here")
constant = 3
"""


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Names a function of a module of factories, as the command line would."""
    (tmp_path / "my_factories.py").write_text(FACTORY, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_factories", raising=False)
    return lambda name: f"my_factories:{name}"


def loaded(spec: str, **options: Any) -> Any:
    """load_model with the command line's defaults on the CPU."""
    settings: dict[str, Any] = {
        "device": "cpu",
        "dtype": None,
        "layers": None,
        "batches": None,
        "seq_lens": None,
        "mode": Mode.INFERENCE,
    }
    return load_model(spec, **settings | options)


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED.items())
def test_presets_have_the_published_size(name: str, parameters: int) -> None:
    """A full-sized preset has exactly as many parameters as the published checkpoint."""
    assert sum(parameter.numel() for parameter in outline(name).parameters()) == parameters


def test_outline_takes_no_memory() -> None:
    """The outline of a model has its modules and none of its weights."""
    model = outline("mistral-7b")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert len(model.model.layers) == 32  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize("name", TINY)
def test_tiny_presets_run_in_both_directions(name: str) -> None:
    """A tiny preset gives finite logits in inference, and a loss with gradients in training."""
    ready = loaded(name, seq_lens=(8,))
    assert not ready.model.training
    with torch.no_grad():
        assert ready.model(**ready.inputs[0]).logits.isfinite().all()
    trained = loaded(name, seq_lens=(8,), mode=Mode.TRAIN)
    assert trained.model.training
    trained.model(**trained.inputs[0]).loss.backward()
    assert all(parameter.grad is not None for parameter in trained.model.parameters())


def test_phi_and_gemma_keep_their_own_activations() -> None:
    """Tiny models compute what their family computes, not merely its shapes."""
    assert outline("phi-tiny").config.hidden_act == "gelu_new"  # type: ignore[union-attr]
    gemma: Any = outline("gemma3-tiny").config
    assert gemma.hidden_activation == "gelu_pytorch_tanh"
    assert gemma.layer_types == ["sliding_attention", "full_attention"]


def test_a_preset_is_the_same_each_time() -> None:
    """The same seed gives the same weights, another one others, and the process's random state stays."""
    before = torch.get_rng_state()
    first, again, other = (load("llama-tiny", device="cpu", seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])
    assert torch.equal(before, torch.get_rng_state())


def test_dtype_is_built_not_cast() -> None:
    """Weights have the dtype that was asked for, and torch's default dtype is as before."""
    model = load("qwen3-tiny", device="cpu", dtype="bfloat16")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() is torch.float32


def test_layers_shorten_the_stack() -> None:
    """--layers keeps the first layers, in lists with an entry for each layer too, and says so in the name."""
    model: Any = outline("gemma-3-1b", layers=7)
    assert len(model.model.layers) == 7
    assert model.config.layer_types == ["sliding_attention"] * 5 + ["full_attention", "sliding_attention"]
    assert loaded("qwen3-tiny", layers=1).name == "qwen3-tiny (1 layer)"


def test_one_input_for_each_size() -> None:
    """Inputs cover every batch size with every length, hold valid tokens, and labels only where it trains."""
    model = load("qwen3-tiny", device="cpu")
    sets = example_inputs(model, (1, 2), (4, 8), Mode.TRAIN, "cpu")
    assert [tuple(each["input_ids"].shape) for each in sets] == [(1, 4), (1, 8), (2, 4), (2, 8)]
    assert all(each["input_ids"].max() < 2048 and "labels" in each for each in sets)
    assert "labels" not in example_inputs(model, (1,), (4,), Mode.COMPILE, "cpu")[0]


def test_a_directory_is_loaded_with_its_weights(tmp_path: Path) -> None:
    """A local checkpoint gives the weights that were saved, shortened where that was asked for."""
    saved: Any = load("qwen3-tiny", device="cpu", seed=3)
    saved.save_pretrained(tmp_path)
    state = load(str(tmp_path), device="cpu", layers=1).state_dict()
    assert "model.layers.1.mlp.up_proj.weight" not in state
    assert torch.equal(state["model.layers.0.mlp.up_proj.weight"], saved.model.layers[0].mlp.up_proj.weight)


def test_a_factory_gives_model_and_inputs(factory: Callable[[str], str]) -> None:
    """A factory's inputs are taken one by one, in the dtype that was asked for."""
    one, several = loaded(factory("with_tensor")), loaded(factory("with_several"), dtype="float64")
    assert [each.shape for each in one.inputs] == [(3, 4)]
    assert [type(each) for each in several.inputs] == [tuple, dict]
    assert isinstance(several.model, nn.Linear)
    assert several.model.weight.dtype == several.inputs[0][0].dtype == torch.float64


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("qwen3-tin", {}, "did you mean qwen3-tiny"),
        ("zzz", {}, "presets: qwen3-0.6b"),
        ("nobody/nothing-there", {}, "presets need no network: qwen3-0.6b"),
        ("qwen3-tiny", {"dtype": "int7"}, "dtype: got 'int7', expected one of float32"),
        ("qwen3-tiny", {"layers": 0}, "--layers: got 0, expected 1 to 2"),
        ("qwen3-tiny", {"layers": 3}, "--layers: got 3, expected 1 to 2"),
        ("qwen3-tiny", {"seq_lens": (5000,)}, "seq-len: got 5000, expected at most 4096"),
        ("qwen3-tiny", {"batches": (0,)}, "batch: got [0], expected whole numbers of at least 1"),
        ("no_such_module_here:make", {}, "no_such_module_here could not be imported"),
        (
            "my_factories:alon",
            {},
            "has no 'alon', expected a function that returns a module; did you mean alone?",
        ),
        ("my_factories:constant", {}, "got a int, expected a function"),
        ("my_factories:alone", {}, "returned Linear alone"),
        ("my_factories:number", {}, "returned int, expected a torch.nn.Module"),
        ("my_factories:broken", {}, "the factory raised RuntimeError: no weights here"),
        ("my_factories:with_text", {}, "inputs are str, expected a tensor"),
        ("my_factories:with_nothing", {}, "inputs are an empty list"),
        ("my_factories:with_tensor", {"layers": 1}, "let the factory do it"),
        ("my_factories:with_tensor", {"batches": (2,)}, "leave out --batch and --seq-len"),
    ],
)
def test_what_cannot_be_had_says_why(
    factory: Callable[[str], str], spec: str, options: dict[str, Any], message: str
) -> None:
    """Each MODEL that cannot be had is one error that says what was got and what was expected."""
    del factory  # puts my_factories on the path
    with pytest.raises(ModelError) as caught:
        loaded(spec, **options)
    assert message in str(caught.value)


def test_an_empty_directory_is_no_model(tmp_path: Path) -> None:
    """A directory without a checkpoint says what was expected in it, and how a configuration alone is profiled."""
    with pytest.raises(ModelError, match=r"expected a transformers checkpoint \(config.json and weights\)") as told:
        loaded(str(tmp_path))
    assert "for random weights write a function that returns AutoModelForCausalLM.from_config(" in str(told.value)


TINY_OTHERS: dict[str, tuple[str, dict[str, Any], dict[str, tuple[int, ...]]]] = {
    "image classifier": (
        "ViTForImageClassification",
        {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32}
        | {"patch_size": 16},
        {"pixel_values": (2, 3, 32, 32)},
    ),
    "convolutions": (
        "ResNetForImageClassification",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "num_channels": 4},
        {"pixel_values": (2, 4, 224, 224)},
    ),
    "encoder": (
        "BertForSequenceClassification",
        {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "vocab_size": 50,
        },
        {"input_ids": (2, 128)},
    ),
    "short text": (
        "BertForMaskedLM",
        {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50}
        | {"max_position_embeddings": 40},
        {"input_ids": (2, 40)},
    ),
    "encoder-decoder": (
        "T5ForConditionalGeneration",
        {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2}
        | {"vocab_size": 50},
        {"input_ids": (2, 128), "decoder_input_ids": (2, 128)},
    ),
    "speech": (
        "WhisperForConditionalGeneration",
        {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2}
        | {"decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "vocab_size": 60}
        | {"num_mel_bins": 16, "max_source_positions": 50, "pad_token_id": 1, "decoder_start_token_id": 1}
        | {"bos_token_id": 1, "eos_token_id": 1},
        {"input_features": (2, 16, 100), "decoder_input_ids": (2, 32)},
    ),
    "sound": (
        "Wav2Vec2ForCTC",
        {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        | {"conv_dim": [16, 16], "conv_stride": [5, 2], "conv_kernel": [10, 3], "num_conv_pos_embeddings": 16}
        | {"num_conv_pos_embedding_groups": 4},
        {"input_values": (2, 16000)},
    ),
}


def _saved(folder: Path, name: str, figures: dict[str, Any]) -> Any:
    """A random model of that class, saved as a checkpoint."""
    import transformers

    made = getattr(transformers, name)
    model = made(made.config_class(**figures))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("kind", TINY_OTHERS)
def test_a_directory_of_any_architecture_is_loaded(kind: str, tmp_path: Path) -> None:
    """The class is the configuration's own, and inputs of its kind are made: images, sound, text, decoder tokens."""
    name, figures, shapes = TINY_OTHERS[kind]
    _saved(tmp_path, name, figures)
    made = load_model(str(tmp_path), "cpu", None, None, (2,), None, Mode.INFERENCE)
    assert type(made.model).__name__ == name
    assert {key: tuple(value.shape) for key, value in made.inputs[0].items()} == shapes
    assert type(outline(str(tmp_path))).__name__ == name


def test_other_architectures_train_on_labels_of_their_kind(tmp_path: Path) -> None:
    """A classifier is given classes and an encoder-decoder its target tokens, so that their own loss is computed."""
    for kind, shape in (("image classifier", (1,)), ("encoder-decoder", (1, 16))):
        _saved(tmp_path / kind, *TINY_OTHERS[kind][:2])
        made = load_model(str(tmp_path / kind), "cpu", None, None, None, (16,), Mode.TRAIN)
        assert made.inputs[0]["labels"].shape == shape
        assert made.model(**made.inputs[0]).loss is not None


def test_both_stacks_of_an_encoder_decoder_are_cut(tmp_path: Path) -> None:
    """--layers shortens encoder and decoder alike."""
    _saved(tmp_path, *TINY_OTHERS["encoder-decoder"][:2])
    model: Any = outline(str(tmp_path), layers=1)
    assert (len(model.encoder.block), len(model.decoder.block)) == (1, 1)


def test_without_a_named_class_the_bare_model_is_taken(tmp_path: Path) -> None:
    """A configuration that names no class gives the one of transformers' list."""
    (tmp_path / "config.json").write_text('{"model_type": "t5", "num_layers": 1, "d_model": 16}', encoding="utf-8")
    assert type(outline(str(tmp_path))).__name__ == "T5Model"


def test_where_inputs_cannot_be_made_a_factory_is_to_paste(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the model wants is not known: the error has a factory that runs as it stands, once inputs are set."""
    _saved(tmp_path, *TINY_OTHERS["convolutions"][:2])
    monkeypatch.setattr("twinkle_tune.models.modalities._image_shape", lambda config, batch: (batch, 3, 8, 8))
    with pytest.raises(ModelError, match="is a ResNetForImageClassification") as caught:
        loaded(str(tmp_path))
    lines = [line[4:] for line in str(caught.value).splitlines()[1:]]
    assert len(lines) == 5
    namespace: dict[str, Any] = {}
    exec("\n".join(lines), namespace)
    model, inputs = namespace["make"]()
    assert type(model).__name__ == "ResNetForImageClassification"
    assert set(inputs) == {"pixel_values"}


def test_without_transformers_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where transformers is missing, a preset names the extra to install."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match=r"pip install 'twinkle_tune\[transformers\]'"):
        loaded("qwen3-tiny")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_a_device_that_is_not_there_is_an_error() -> None:
    """A device that the machine lacks is refused before anything is built."""
    with pytest.raises(DeviceError, match="got 'cuda', expected a device that this machine"):
        loaded("qwen3-tiny", device="cuda")


@pytest.mark.gpu
def test_weights_are_made_on_the_gpu() -> None:
    """On a GPU a preset is built there, in bfloat16 unless another dtype is asked for."""
    model = load("qwen3-tiny", device="cuda")
    assert {(each.device.type, each.dtype) for each in model.parameters()} == {("cuda", torch.bfloat16)}
