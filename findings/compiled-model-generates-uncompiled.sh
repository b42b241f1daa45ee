#!/usr/bin/env bash
# torch.compile(model).generate(...) of a transformers model runs no compiled code at all, and says nothing. The wrapper
# that torch.compile returns hands every attribute that it lacks on to the plain model, so that generate is a method of the
# plain one and calls that. A benchmark that compares torch.compile(model).generate with model.generate compares the model
# with itself. Compiled in place (model.compile()) the same model generates with compiled code.
#
# Seen with torch 2.13.0 (CPU), transformers 5.17.0, Python 3.11, on 2026-11-29: how often compiled code ran,
#   torch.compile(model)(ids) 1
#   torch.compile(model).generate(ids), 8 tokens 0
#   model.compile(); model.generate(ids), 8 tokens 8
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0
"$folder/venv/bin/pip" install -q --disable-pip-version-check transformers==5.17.0
cat > "$folder/generate.py" <<'PY'
import torch
from transformers import LlamaConfig, LlamaForCausalLM

sizes = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, vocab_size=128)
told = dict(max_new_tokens=8, min_new_tokens=8, do_sample=False, pad_token_id=0)
ids = torch.ones(1, 8, dtype=torch.long)
runs = [0]


def counts(graph, inputs):
    def run(*args):
        runs[0] += 1
        return graph.forward(*args)

    return run


with torch.no_grad():
    compiled = torch.compile(LlamaForCausalLM(LlamaConfig(**sizes)).eval(), backend=counts)
    compiled(ids)
    print("torch.compile(model)(ids)", runs[0])
    runs[0] = 0
    compiled.generate(ids, **told)
    print("torch.compile(model).generate(ids), 8 tokens", runs[0])
    runs[0] = 0
    model = LlamaForCausalLM(LlamaConfig(**sizes)).eval()
    model.compile(backend=counts)
    model.generate(ids, **told)
    print("model.compile(); model.generate(ids), 8 tokens", runs[0])
PY
output=$("$folder/venv/bin/python" "$folder/generate.py" 2> /dev/null)
echo "$output"
test "$output" = "torch.compile(model)(ids) 1
torch.compile(model).generate(ids), 8 tokens 0
model.compile(); model.generate(ids), 8 tokens 8"
