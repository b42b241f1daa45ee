#!/usr/bin/env bash
# Models of one class share torch.compile's limit of eight versions, although each was compiled by a torch.compile of its
# own: versions are kept by code object, and the forward's is the class's. After one model met eight sizes another model
# of the class, compiled afterwards with another backend, never runs compiled code at all. There is one warning, of the
# function and not of the model, and it goes to the log. Who times several compiled models of one class in a process (a base
# and its fine-tuned copies, or one option of torch.compile against another) times the later ones uncompiled.
#
# Seen with torch 2.13.0 (CPU), Python 3.11, on 2026-11-30: how often compiled code ran,
#   one model, called with eight sizes 8
#   another of its class, compiled by itself, called with one size 0
#   the same after torch.compiler.reset() 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.0
cat > "$folder/share.py" <<'PY'
import torch
from torch import nn

runs = [0]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return torch.tanh(self.layer(x))


def counting():
    def backend(graph, inputs):
        def run(*args):
            runs[0] += 1
            return graph.forward(*args)

        return run

    return backend


with torch.no_grad():
    one = torch.compile(Net(), dynamic=False, backend=counting())
    for rows in range(2, 10):
        one(torch.ones(rows, 8))
    print("one model, called with eight sizes", runs[0])
    runs[0] = 0
    other = torch.compile(Net(), dynamic=False, backend=counting())
    other(torch.ones(20, 8))
    print("another of its class, compiled by itself, called with one size", runs[0])
    torch.compiler.reset()
    other(torch.ones(20, 8))
    print("the same after torch.compiler.reset()", runs[0])
PY
output=$("$folder/venv/bin/python" "$folder/share.py" 2> /dev/null)
echo "$output"
test "$output" = "one model, called with eight sizes 8
another of its class, compiled by itself, called with one size 0
the same after torch.compiler.reset() 1"
