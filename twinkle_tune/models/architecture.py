"""Which class of transformers a configuration is of, and what to paste where its inputs cannot be guessed."""

from __future__ import annotations

from typing import Any

from twinkle_tune.errors import ModelError

_INPUTS = {
    "pixel_values": "torch.randn(1, 3, 224, 224)",
    "input_values": "torch.randn(1, 16000)",
    "input_features": "torch.randn(1, 80, 3000)",
    "input_ids": "torch.randint(100, (1, 128))",
}


def class_of(config: Any) -> Any:
    """The class that a model of this configuration is made with.

    It is the one that the configuration names under ``architectures``. Where it names none, it is the causal language
    model of its kind, or else the bare model; either by transformers' own lists. Code that comes with a model is never
    run: only classes of transformers are taken.

    Raises:
        ModelError: transformers has no class for it.
    """
    import transformers

    for name in getattr(config, "architectures", None) or ():
        found = getattr(transformers, str(name), None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            # Causal language models are made as ever, by the list: it knows later names of a class, too.
            return transformers.AutoModelForCausalLM if is_causal(config, name) else found
    if type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        return transformers.AutoModelForCausalLM
    if type(config) in transformers.MODEL_MAPPING:
        return transformers.AutoModel
    named = ", ".join(getattr(config, "architectures", None) or ()) or type(config).__name__
    raise ModelError(
        f"model: transformers {transformers.__version__} has no class for {named}, expected an architecture of "
        "transformers; write a factory that returns (module, inputs)"
    )


def factory_text(spec: str, model: Any, why: str) -> str:
    """What to tell where a model's inputs cannot be made: why, and a factory to paste, in five lines."""
    name = type(model).__name__
    main = str(getattr(model, "main_input_name", "input_ids"))
    example = _INPUTS.get(main, "torch.randn(1, 16)")
    return (
        f"{spec}: is a {name}, and its inputs could not be made from its configuration ({why}). Save this as mine.py "
        "and change the inputs, then name mine:make in place of the folder:\n"
        "    import torch, transformers\n"
        "    def make():\n"
        f"        model = transformers.{name}.from_pretrained({spec!r})\n"
        f"        inputs = {{{main!r}: {example}}}\n"
        "        return model, inputs"
    )


def is_causal(config: Any, name: str) -> bool:
    """Whether the class of that name is transformers' causal language model for the configuration."""
    import transformers

    listed = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    return type(config) in listed and listed[type(config)].__name__ == name
