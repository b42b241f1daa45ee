#!/usr/bin/env bash
# torch.compile of torch 2.11 gives a property what stood in the object before: compiled code that writes an attribute of an
# object whose class has a `__getattribute__` of its own, and then reads it through a property, reads the old value. Read
# directly, the new one. transformers' configurations are such objects, and models read their attention's name through such
# a property: set inside of what is compiled, it has no effect. torch 2.13 gives the new value both ways.
#
# Seen with torch 2.13.0 (CPU) and torch 2.11.0, Python 3.11, on 2026-11-30 (eager gives "new, new"):
#   torch 2.11.0: through the property old, directly new
#   torch 2.13.0: through the property new, directly new
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
cat > "$folder/write.py" <<'PY'
import torch


class Settings:
    def __init__(self):
        self.held = "old"

    def __getattribute__(self, name):
        return super().__getattribute__(name)

    @property
    def value(self):
        return self.held


def read(settings, x, through):
    settings.held = "new"
    found = settings.value if through else settings.held
    settings.held = "old"
    return x + 1 if found == "new" else x


def told(through):
    compiled = torch.compile(read, backend="eager", fullgraph=True)
    return "new" if compiled(Settings(), torch.zeros(1), through).item() else "old"


print(f"torch {torch.__version__.split('+')[0]}: through the property {told(True)}, directly {told(False)}")
PY
for torch in 2.11.0 2.13.0; do
  "$folder/venv/bin/pip" install -q --disable-pip-version-check "torch==$torch" numpy
  "$folder/venv/bin/python" "$folder/write.py" | tee -a "$folder/output"
done
diff "$folder/output" - <<'EXPECTED'
torch 2.11.0: through the property old, directly new
torch 2.13.0: through the property new, directly new
EXPECTED
