#!/usr/bin/env bash
# One call of a transformers model with output_hidden_states=True leaves forward hooks on its layers for good: later calls
# that ask for nothing still go through them. Whoever takes a hook for a sign that the user watches a layer (a compiler, a
# kernel that runs a layer's parts without calling them) sees a watched model from then on.
#
# Seen with torch 2.13.0 (CPU), transformers 5.17.0, Python 3.11, on 2026-11-29: hooks on a Llama of 2 layers,
#   new 0
#   after a plain call 0
#   after a call with output_hidden_states=True 4
#   after another plain call 4
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0
"$folder/venv/bin/pip" install -q --disable-pip-version-check transformers==5.17.0
cat > "$folder/hooks.py" <<'PY'
import torch
from transformers import LlamaConfig, LlamaForCausalLM

sizes = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, vocab_size=128)
model, ids = LlamaForCausalLM(LlamaConfig(**sizes)).eval(), torch.ones(1, 8, dtype=torch.long)


def hooks():
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


print("new", hooks())
model(ids)
print("after a plain call", hooks())
model(ids, output_hidden_states=True)
print("after a call with output_hidden_states=True", hooks())
model(ids)
print("after another plain call", hooks())
PY
output=$("$folder/venv/bin/python" "$folder/hooks.py" 2> /dev/null)
echo "$output"
test "$output" = "new 0
after a plain call 0
after a call with output_hidden_states=True 4
after another plain call 4"
