# Each target does its own set-up: `make profile` or `make test` on a fresh machine needs nothing before it.
# PYTHON is only what creates .venv (3.11 or newer); `make gpu` alone runs with it directly.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
OUT    := out
# Another file for `make oldest`, where these versions cannot be had.
OLDEST := oldest.txt
# The versions that are installed into VENV, and of them torch, so that its version stands in one place.
PINS   := constraints.txt
TORCH  := $(shell sed -n 's/^torch==/torch==/p' $(PINS))

# Of the GPU targets: a profile's and a bench's limits, and the folder below which everything is written.
BUDGET  ?= 10m
MINUTES ?= 15
GPU_OUT ?= $(OUT)/gpu
# Carried packages lie in folders that PYTHONPATH names: it is added to, never replaced.
ON_GPU  := HF_HUB_OFFLINE=1 PYTHONPATH="$(CURDIR)$${PYTHONPATH:+:$$PYTHONPATH}" $(PYTHON)

.DEFAULT_GOAL := help
.PHONY: help profile test slow oldest lint type format check docs bench aa regret reports families patterns zoo gpu gpu-first gpu-second gpu-profile gpu-models gpu-races gpu-ops gpu-ready clean

help: ## Show this help
	@sed -n 's/^\([a-z-]*\):.*## /\1 /p' $(MAKEFILE_LIST) | while read -r name text; do \
		printf '  make %-11s %s\n' "$$name" "$$text"; done

profile: $(READY) ## Profile a tiny Qwen3 on this machine's CPU in two minutes; write a profile and an HTML report
	$(BIN)/twinkle-tune profile qwen3-tiny --device cpu --candidates torch --budget 105s --out $(OUT)/qwen3-tiny-cpu.json --report $(OUT)/qwen3-tiny-cpu.html

test: $(READY) ## Run the tests (all but those marked slow, which `make slow` runs)
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

slow: $(READY) ## Run the tests that take minutes: 20 seeds of the zoo, runs killed at 50 moments
	$(BIN)/python -m pytest -m slow

oldest: ## Run the tests with the oldest versions that are supported (oldest.txt), in .venv-oldest
	$(MAKE) test VENV=.venv-oldest PINS=$(OLDEST)

lint: $(READY) ## Look for mistakes and for unformatted code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(READY) ## Check the types, strictly
	$(BIN)/mypy

format: $(READY) ## Format the code and repair what can be repaired
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint type test docs ## Everything that must hold before a change is handed in

docs: $(READY) ## Build the documentation into site/, strictly; check its links, examples and commands
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	$(BIN)/python -m pytest -q tests/test_docs.py tests/docs

bench: $(READY) ## Measure what the package itself costs; writes figures to reports/
	$(BIN)/python -m tests.bench

aa: $(READY) ## Race identical candidates on this machine (12 minutes); writes reports/aa.md
	$(BIN)/python -m tests.bench.aa

regret: $(READY) ## Hold the race's choices against a long exhaustive run (15 minutes); writes reports/regret.md
	$(BIN)/python -m tests.bench.regret

reports: $(READY) ## Write the reports of the profiles under profiles/ to reports/, and docs/results.md
	$(BIN)/python -m tests.report.shipped
	$(BIN)/python -m tests.docs.results

families: $(READY) ## Tiny models of four families with the winners against their rivals (20 minutes); writes reports/
	$(BIN)/python -m tests.bench.models

patterns: $(READY) ## What patterns alone gain in tiny models of four families (quarter of an hour); writes reports/patterns.md
	$(BIN)/python -m tests.bench.patterns

zoo: $(READY) ## Every model type of transformers, tiny, with every right rival bound (hours; goes on where it stopped)
	$(BIN)/python -m tests.zoo
	$(BIN)/python -m tests.zoo --page

gpu: gpu-profile gpu-models gpu-races gpu-ops ## All figures of a CUDA device; BUDGET= and MINUTES= limit each part

gpu-first: ## The first run on a CUDA machine, nine minutes, the most decisive part first; into OUT/gpu
	$(ON_GPU) -m tests.gpu_first --out $(GPU_OUT)

gpu-second: ## The second run on a CUDA machine, five minutes: device graphs, inference; into OUT/gpu
	$(ON_GPU) -m tests.gpu_first --out $(GPU_OUT) --second

gpu-profile: gpu-ready ## Profile Qwen3-0.6B (4 layers, bfloat16) on the CUDA device
	mkdir -p $(GPU_OUT)
	set -e; for mode in inference train; do \
		$(ON_GPU) -m twinkle_tune.cli profile qwen3-0.6b --layers 4 --dtype bfloat16 --device cuda --mode $$mode \
			--budget $(BUDGET) --out $(GPU_OUT)/qwen3-0.6b-$$mode.json --report $(GPU_OUT)/qwen3-0.6b-$$mode.html; \
	done

gpu-models: gpu-ready ## Qwen3-0.6B and Llama-3.2-1B with the winners against the original, Liger and torch.compile
	$(ON_GPU) -m tests.bench.models --device cuda --budget $(BUDGET) --out $(GPU_OUT)

gpu-races: gpu-ready ## How often the race errs on the CUDA device, and what its choices cost
	$(ON_GPU) -m tests.bench.aa --device cuda --minutes $(MINUTES) --out $(GPU_OUT)
	$(ON_GPU) -m tests.bench.regret --device cuda --minutes $(MINUTES) --out $(GPU_OUT)

gpu-ops: gpu-ready ## Our ops against eager torch, torch.compile and Liger on the CUDA device
	$(ON_GPU) -m tests.bench.ops --device cuda --minutes $(MINUTES) --out $(GPU_OUT) $(if $(OPS),--op $(OPS))

gpu-ready:
	@$(ON_GPU) -m tests.gpu_ready

clean: ## Remove build products, caches and out/ (the environment stays; remove .venv by hand)
	rm -rf $(OUT) site build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage htmlcov
	find twinkle_tune tests -name __pycache__ -type d -prune -exec rm -rf {} +

# torch first and alone, so that nothing that is installed after it draws in another build.
$(READY): pyproject.toml $(PINS)
	@$(PYTHON) -c "import sys; sys.version_info >= (3, 11) or sys.exit( \
	'make: $(PYTHON) is Python ' + sys.version.split()[0] + ', expected 3.11 or newer; name another: make PYTHON=python3.12')"
	@test -x $(BIN)/python || { echo "Creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing $(TORCH)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c $(PINS) $(TORCH)
	@echo "Installing twinkle_tune and its tools"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c $(PINS) -e ".[transformers,liger,dev,docs]"
	@touch $@
