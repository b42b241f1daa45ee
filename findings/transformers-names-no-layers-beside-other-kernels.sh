#!/usr/bin/env bash
# transformers names its layers for the kernels package only beside a version of kernels that is in a narrow range, one
# minor version a release. Beside a newer or older one its decorators do nothing, without a word at import: no layer has
# a `kernel_layer_name`, and `kernels.kernelize` keeps every original. transformers declares the range for an extra alone,
# so pip installs either pair without a word.
#
# Seen with torch 2.13.0 (CPU), Python 3.11, on 2026-11-30:
#   transformers 5.17.0, kernels 0.17.2: no name
#   transformers 5.17.0, kernels 0.16.0: RMSNorm
#   transformers 5.22.2, kernels 0.17.2: RMSNorm
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0
cat > "$folder/names.py" <<'PY'
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("error")
    import kernels
    import transformers
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

name = getattr(LlamaRMSNorm, "kernel_layer_name", "no name")
print(f"transformers {transformers.__version__}, kernels {kernels.__version__}: {name}")
PY
for pair in "transformers==5.17.0 kernels==0.17.2" "transformers==5.17.0 kernels==0.16.0" "transformers==5.22.2 kernels==0.17.2"; do
  # shellcheck disable=SC2086
  "$folder/venv/bin/pip" install -q --disable-pip-version-check $pair
  "$folder/venv/bin/python" "$folder/names.py" 2> "$folder/errors" | tee -a "$folder/output"
  cat "$folder/errors"
done
diff "$folder/output" - <<'EXPECTED'
transformers 5.17.0, kernels 0.17.2: no name
transformers 5.17.0, kernels 0.16.0: RMSNorm
transformers 5.22.2, kernels 0.17.2: RMSNorm
EXPECTED
