#!/usr/bin/env bash
# Triton 3.6's interpreter does not run a loop over `tl.range` whose bound is an argument with numpy 2.4 or newer: it turns
# an array of one element into an int, which numpy 2.4 refuses. Triton 3.6 does not bound numpy, so pip installs the pair
# without a word. With numpy 2.3.5 the same kernel runs.
#
# Seen with triton 3.6.0, torch 2.13.0 (CPU), Python 3.11, on 2026-11-29:
#   numpy 2.4.6: InterpreterError: TypeError('only 0-dimensional arrays can be converted to Python scalars')
#   numpy 2.3.5: 45.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0
cat > "$folder/add.py" <<'PY'
import numpy
import torch
import triton
import triton.language as tl


@triton.jit
def add(x, out, n, SIZE: tl.constexpr):
    total = 0.0
    for first in tl.range(0, n, SIZE):
        at = first + tl.arange(0, SIZE)
        total += tl.sum(tl.load(x + at, mask=at < n, other=0.0))
    tl.store(out, total)


out = torch.empty(1)
try:
    add[(1,)](torch.arange(10.0), out, 10, SIZE=4)
    print(f"numpy {numpy.__version__}: {out.item()}")
except Exception as error:
    print(f"numpy {numpy.__version__}: {type(error).__name__}: {error}")
PY
for numpy in 2.4.6 2.3.5; do
  "$folder/venv/bin/pip" install -q --disable-pip-version-check triton==3.6.0 "numpy==$numpy"
  TRITON_INTERPRET=1 "$folder/venv/bin/python" "$folder/add.py" | tee -a "$folder/output"
done
grep -q "^numpy 2.4.6: InterpreterError: TypeError('only 0-dimensional arrays can be converted to Python scalars')" "$folder/output"
grep -q "^numpy 2.3.5: 45.0$" "$folder/output"
