#!/usr/bin/env bash
# A generation on transformers' DynamicCache costs three graphs of a compiled model where two would do: the prompt, the first
# token, and all later tokens. Marking the cache's length dynamic beforehand does not save the one in the middle: the first
# token gets keys as the prompt's layers left them, transposed, all later ones as Inductor's torch.cat made them, contiguous,
# and a guard compares strides too. Nor does making the keys contiguous alone. Both together do: two graphs.
#
# Seen with torch 2.13.0 (CPU) and transformers 5.17.0, Python 3.11, on 2026-12-01: the output below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 transformers==5.17.0 numpy
cat > "$folder/generate.py" <<'PY'
import torch
from torch._inductor.compile_fx import compile_fx
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
model = LlamaForCausalLM(
    LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=64, pad_token_id=0,
    )
).eval()
forward = type(model).forward


def graphs_of(marked, contiguous):
    graphs = []
    torch.compiler.reset()
    compiled = torch.compile(forward, backend=lambda graph, inputs: graphs.append(graph) or compile_fx(graph, inputs))

    def run(*args, **kwargs):
        cache = kwargs.get("past_key_values")
        if cache is not None and cache.get_seq_length() == 8:
            for layer in cache.layers:
                if contiguous:
                    layer.keys, layer.values = layer.keys.contiguous(), layer.values.contiguous()
                if marked:
                    torch._dynamo.maybe_mark_dynamic(layer.keys, 2)
                    torch._dynamo.maybe_mark_dynamic(layer.values, 2)
        return compiled(model, *args, **kwargs)

    model.forward = run
    with torch.no_grad():
        model.generate(torch.arange(1, 9)[None], do_sample=False, max_new_tokens=8, min_new_tokens=8)
    del model.forward
    return len(graphs)


for marked in (False, True):
    for contiguous in (False, True):
        told = f"length {'marked' if marked else 'not marked'}, keys {'contiguous' if contiguous else 'as they are'}"
        print(f"{told}: {graphs_of(marked, contiguous)} graphs")
PY
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" "$folder/generate.py" 2> /dev/null | tee "$folder/output"
diff "$folder/output" - <<'EXPECTED'
length not marked, keys as they are: 3 graphs
length not marked, keys contiguous: 3 graphs
length marked, keys as they are: 3 graphs
length marked, keys contiguous: 2 graphs
EXPECTED
