#!/usr/bin/env bash
# torch.compile of torch 2.11 does not look at a method of another object that stands at a module (module.forward =
# other.method, as libraries do that put a forward of their own on an instance). When another method is put there, compiled
# code goes on with the one before and says nothing, and what the method writes into a list that it closes over is lost. A
# method of the module itself, and a plain function, are seen. torch 2.12 and 2.13 see all three.
#
# Seen with torch 2.11.0, 2.12.0 and 2.13.0 (CPU), Python 3.11, on 2026-11-30 (eager gives "1 then 2, 2 written"):
#   torch 2.11.0: a method of another object 1 then 1, 0 written; of the module itself 1 then 2, 2 written
#   torch 2.12.0: a method of another object 1 then 2, 2 written; of the module itself 1 then 2, 2 written
#   torch 2.13.0: a method of another object 1 then 2, 2 written; of the module itself 1 then 2, 2 written
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
cat > "$folder/method.py" <<'PY'
from types import MethodType

import torch


class Other:
    pass


def adds(value, written):
    def forward(self, x):
        written.append(1)
        return x + value

    return forward


def told(of_another):
    torch.compiler.reset()
    module, written, results = torch.nn.Module(), [], []
    compiled = torch.compile(lambda x: module(x), backend="eager", fullgraph=True)
    for value in (1, 2):
        module.forward = MethodType(adds(value, written), Other() if of_another else module)
        results.append(int(compiled(torch.zeros(1))))
    return f"{results[0]} then {results[1]}, {len(written)} written"


print(
    f"torch {torch.__version__.split('+')[0]}: a method of another object {told(True)}; "
    f"of the module itself {told(False)}"
)
PY
for torch in 2.11.0 2.12.0 2.13.0; do
  "$folder/venv/bin/pip" install -q --disable-pip-version-check "torch==$torch" numpy
  "$folder/venv/bin/python" "$folder/method.py" | tee -a "$folder/output"
done
diff "$folder/output" - <<'EXPECTED'
torch 2.11.0: a method of another object 1 then 1, 0 written; of the module itself 1 then 2, 2 written
torch 2.12.0: a method of another object 1 then 2, 2 written; of the module itself 1 then 2, 2 written
torch 2.13.0: a method of another object 1 then 2, 2 written; of the module itself 1 then 2, 2 written
EXPECTED
