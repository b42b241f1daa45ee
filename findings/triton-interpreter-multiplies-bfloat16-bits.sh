#!/usr/bin/env bash
# tl.dot of two bfloat16 matrices in Triton's interpreter (TRITON_INTERPRET=1) multiplies their bits, read as integers of 16
# bits, and adds those up: the interpreter keeps bfloat16 as bare bits, and its dot hands them to numpy as they are. The
# same kernel is right with float16 and float32, nothing is raised, and elementwise bfloat16 is right as well. So a matmul
# kernel that is checked in the interpreter looks utterly wrong in bfloat16 alone.
#
# Seen with triton 3.9.0, torch 2.13.0 (CPU), numpy 2.4.6, Python 3.11, on 2026-11-30 (each sum is 16 x 1 x 2 = 32):
#   float32 32.0
#   float16 32.0
#   bfloat16 4261412864.0
# (1.0 is 0x3F80 = 16256 and 2.0 is 0x4000 = 16384 in bfloat16: 16 x 16256 x 16384 = 4261412864.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0
"$folder/venv/bin/pip" install -q --disable-pip-version-check triton==3.9.0 numpy==2.4.6
cat > "$folder/product.py" <<'PY'
import torch
import triton
import triton.language as tl


@triton.jit
def product(a, b, out, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    square = at[:, None] * SIZE + at[None, :]
    tl.store(out + square, tl.dot(tl.load(a + square), tl.load(b + square)))


for dtype in (torch.float32, torch.float16, torch.bfloat16):
    a, b = torch.ones(16, 16, dtype=dtype), torch.full((16, 16), 2.0, dtype=dtype)
    out = torch.empty(16, 16)
    product[(1,)](a, b, out, SIZE=16)
    print(str(dtype).removeprefix("torch."), out[0, 0].item())
PY
TRITON_INTERPRET=1 "$folder/venv/bin/python" "$folder/product.py" | tee "$folder/output"
diff "$folder/output" - <<'EXPECTED'
float32 32.0
float16 32.0
bfloat16 4261412864.0
EXPECTED
