#!/usr/bin/env bash
# A query whose mask hides every key with a dtype's least number (torch.finfo(dtype).min, as transformers writes padding): its
# softmax weighs all keys alike, and torch's scaled_dot_product_attention on a CPU gives that answer, too. The gradients of
# its fused kernel are others, by more than one where values are of size one: the forward agrees to rounding, so a check of
# outputs does not see it. The gradients of the math backend are those of the attention written out.
#
# Seen with torch 2.13.0 (CPU), Python 3.11, on 2026-12-01: the output below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy
cat > "$folder/attend.py" <<'PY'
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

torch.manual_seed(0)
q, k, v = (torch.randn(1, 1, 4, 8, requires_grad=True) for _ in range(3))


def written(mask):
    return torch.softmax(q @ k.mT / 8**0.5 + mask, -1) @ v


def by(backend):
    def attended(mask):
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(q, k, v, mask)

    return attended


def agree(one, other):
    return all(torch.allclose(x, y, rtol=1e-4, atol=1e-5) for x, y in zip(one, other, strict=True))


def gradients(out):
    return torch.autograd.grad(out.sin().sum(), (q, k, v))


for hidden in (3, 4):
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 2, :hidden] = torch.finfo(torch.float32).min
    for name, backend in (("fused", SDPBackend.FLASH_ATTENTION), ("math", SDPBackend.MATH)):
        one, other = written(mask), by(backend)(mask)
        same = agree([one], [other]), agree(gradients(one), gradients(other))
        print(f"a query with {hidden} of 4 keys hidden, {name}: outputs agree {same[0]}, gradients agree {same[1]}")
PY
"$folder/venv/bin/python" "$folder/attend.py" | tee "$folder/output"
diff "$folder/output" - <<'EXPECTED'
a query with 3 of 4 keys hidden, fused: outputs agree True, gradients agree True
a query with 3 of 4 keys hidden, math: outputs agree True, gradients agree True
a query with 4 of 4 keys hidden, fused: outputs agree True, gradients agree False
a query with 4 of 4 keys hidden, math: outputs agree True, gradients agree True
EXPECTED
