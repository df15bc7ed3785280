# Written for GNU make 3.81, which macOS ships. Paths are relative: the checkout may stand in a folder with spaces.

# Interpreter that creates .venv; when empty, .ci/make-venv takes the first one that will do.
PYTHON ?=
# Processes that run tests, and further arguments for pytest: make test ARGS="-k layering"
WORKERS ?= 2
ARGS ?=

PY := .venv/bin/python
READY := .venv/.ready

export PYTHONUNBUFFERED := 1

# Tests never upload anything. Two processes cannot share an accelerator unless told how, hence the CPU by default.
# Compiled programs are kept in .cache/jax, also the quick ones: a second run of the tests compiles almost nothing.
# OPENBLAS_NUM_THREADS as s5c sets it itself (s5c/__init__.py), here before anything imports NumPy.
TEST_ENV := JAX_PLATFORMS="$${JAX_PLATFORMS:-cpu}" WANDB_MODE=offline OPENBLAS_NUM_THREADS=1 \
  JAX_COMPILATION_CACHE_DIR="$$PWD/.cache/jax" JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0
# Array shapes, dtypes and all other annotations are checked at run time; an int passes for a float, as mypy has it.
RUNTIME_TYPES := --jaxtyping-packages='s5c,beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))'
PYTEST := $(TEST_ENV) $(PY) -m pytest -n $(WORKERS) $(RUNTIME_TYPES)

.PHONY: help setup demo test test-slow check docs bench reproduce faults clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## Create .venv and install s5c into it (override: PYTHON=/path/to/python)

$(READY): pyproject.toml .ci/constraints.txt
	@$(PY) -m pip --version >/dev/null 2>&1 || sh .ci/make-venv .venv "$(PYTHON)"
	@echo "Installing s5c and what it needs into .venv (1.3 GB on disk; a minute or more)"
	@$(PY) -m pip install --quiet --disable-pip-version-check --constraint .ci/constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY) ## Train on real digits, prune with LAST and ten other methods at nine ratios, write tables and figures
	$(PY) -m s5c.train +experiment=digits_last 'reduction.ratio=[0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9]'
	$(PY) -m s5c.train -m +experiment=digits_baselines
	$(PY) -m s5c.report runs=results/digits_last

# Nearly all of their time is compilation, of thousands of small programs: a tenth shorter without most optimisations,
# and another third without the emitters of fused kernels; one part per program, and no stack noted at every operation,
# save a twentieth. Tests of one file share programs, so the quick ones stay in one process; the slow ones find most of
# theirs in the cache.
QUICK_COMPILES := JAX_DISABLE_MOST_OPTIMIZATIONS=1 JAX_TRACEBACK_IN_LOCATIONS_LIMIT=0 \
  XLA_FLAGS="--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1 $$XLA_FLAGS"

test: check ## Check style and types, then run all tests but the slow ones
	$(QUICK_COMPILES) $(PYTEST) --dist loadfile -m "not slow" $(ARGS)

# Compiled as users' programs are: answers of the original codes to the last digits, and what is there to be timed.
OPTIMISED := tests/test_convert.py tests/test_bench.py

# pytest exits with 5 when nothing is marked slow, which is no failure. The commands of the pages stay in one process.
test-slow: $(READY) ## Run the slow tests
	$(QUICK_COMPILES) $(PYTEST) --dist loadgroup -m slow $(OPTIMISED:%=--ignore=%) $(ARGS) || [ $$? -eq 5 ]
	$(PYTEST) -m slow $(OPTIMISED) $(ARGS) || [ $$? -eq 5 ]

check: $(READY) ## Check style (ruff) and types (mypy)
	$(PY) -m ruff check --quiet .
	$(PY) -m ruff format --check --quiet .
	$(PY) -m mypy

docs: $(READY) ## Build the documentation into docs/site, warnings are errors
	$(PY) -m mkdocs build --strict --quiet --config-file docs/mkdocs.yml
	@echo "docs/site/index.html"

bench: $(READY) ## Time s5c against S5 as published, half an hour: make bench ARGS="step --rounds 3"
	$(PY) -m s5c.bench $(ARGS)

reproduce: $(READY) ## Train and compare what this machine can, hours to days: make reproduce ARGS="imdb_s5 --hours 40"
	$(PY) -m s5c.studies run $(ARGS)

faults: $(READY) ## Inject faults and check that each is survived or noticed, scripts/faults*.py
	@found=; for script in scripts/faults*.py; do \
	  [ -e "$$script" ] || continue; found=yes; echo "$(PY) $$script"; $(PY) "$$script" $(ARGS) || exit 1; \
	done; [ -n "$$found" ] || { echo "No scripts/faults*.py in this checkout." >&2; exit 1; }

clean: ## Remove .venv, caches and build products; results are kept
	rm -rf .venv .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist docs/site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
