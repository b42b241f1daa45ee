#!/usr/bin/env bash
# Triton's interpreter (TRITON_INTERPRET=1) turns float32 into bfloat16 by cutting off the last 16 bits, where GPUs and
# torch round to the nearest. The error of a stored number is up to one unit in the last place instead of half of one, and
# its average is no longer zero, so a right bfloat16 kernel that is checked in the interpreter looks wrong.
#
# Seen with triton 3.9.0, torch 2.13.0 (CPU), numpy 2.4.6, Python 3.11, on 2026-11-29:
#   interpreter [1.0, -1.0, 1.0] torch [1.0078125, -1.0078125, 1.0]
# (1 + 3/512 lies between 1 and 1 + 4/512; the nearer one is 1 + 4/512 = 1.0078125.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0
"$folder/venv/bin/pip" install -q --disable-pip-version-check triton==3.9.0 numpy==2.4.6
cat > "$folder/cast.py" <<'PY'
import torch
import triton
import triton.language as tl


@triton.jit
def cast(x, out, n, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    tl.store(out + at, tl.load(x + at, mask=at < n).to(tl.bfloat16), mask=at < n)


x = torch.tensor([1 + 3 / 512, -1 - 3 / 512, 1 + 1 / 1024])
out = torch.empty(3, dtype=torch.bfloat16)
cast[(1,)](x, out, 3, SIZE=4)
print("interpreter", out.float().tolist(), "torch", x.bfloat16().float().tolist())
PY
output=$(TRITON_INTERPRET=1 "$folder/venv/bin/python" "$folder/cast.py")
echo "$output"
test "$output" = "interpreter [1.0, -1.0, 1.0] torch [1.0078125, -1.0078125, 1.0]"
