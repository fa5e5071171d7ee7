# Everything starts from a clean clone with Python 3.11+ and make.
PYTHON ?= python3
BIN := .venv/bin
# Modules are compiled once, and not by every process again: shape checks make of this most of a test process's start.
unexport PYTHONDONTWRITEBYTECODE
READY := .venv/.ready

.PHONY: quickstart test test-slow check format readme-figures claims chaos soak cluster-check data-check evaluate-check bench profile models-check parity versions mutations tiny-model clean

quickstart: $(READY)  ## set up, then align the tiny model on Ray; prints the path of the report
	$(BIN)/raypref train experiments/quickstart.toml --overwrite

test: check  ## set up, then everything that must hold
	$(BIN)/python -m pytest -m "not slow" -n logical --maxprocesses 4 --dist loadgroup

test-slow: $(READY)  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

check: $(READY)  ## style, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

readme-figures: $(READY)  ## three seeds: the picture and the table of the README
	for seed in 0 1 2; do \
	  $(BIN)/raypref train experiments/quickstart.toml --overwrite run.seed=$$seed run.name=quickstart-$$seed || exit 1; \
	done
	$(BIN)/python -m experiments.readme_figures runs/quickstart-0 runs/quickstart-1 runs/quickstart-2

claims: $(READY)  ## the papers' claims on five seeds: docs/claims.md; resumable, an hour or two
	$(BIN)/python -m experiments.claims.measure
	$(BIN)/python -m experiments.claims.write

chaos: $(READY)  ## ten minutes of random kills of every role; the same bits must come out
	$(BIN)/python -m experiments.chaos --minutes 10

soak: $(READY)  ## a thousand iterations: docs/soak.svg; memory must stay flat
	$(BIN)/python -m experiments.soak

cluster-check: $(READY)  ## what must hold on a cluster of several nodes, all on this machine; JSON lines
	$(BIN)/python -m experiments.cluster_check

data-check: $(READY)  ## 10,000 pairs: flat memory, and a killed data worker loses none; JSON lines
	$(BIN)/python -m experiments.data_check

evaluate-check: $(READY)  ## every question to the quickstart's run, trained where it is not there; resumable; JSON lines
	$(BIN)/python -m experiments.evaluate_check

bench: $(READY)  ## ours against published loops, the bare minimum, plain copies, and lag; a run's start; JSON lines
	$(BIN)/python -m benchmarks.roofline
	$(BIN)/python -m benchmarks.broadcast
	$(BIN)/python -m benchmarks.roles
	$(BIN)/python -m benchmarks.compute
	$(BIN)/python -m benchmarks.startup

profile: $(READY)  ## runs/profile: a trace of each role, and Ray's timeline
	$(BIN)/python -m benchmarks.profile

models-check: $(READY)  ## full-size random SD1.5 and SDXL networks, a small sd3, and every published reward; JSON lines
	$(BIN)/python -m experiments.models_check

versions: $(READY)  ## the ranges of pyproject.toml at their floors and at their newest; resumable
	$(BIN)/python -m experiments.version_ranges

parity: $(READY)  ## our rewards against their authors' packages, in an environment that is built for them; JSON lines
	$(BIN)/python -m experiments.parity

mutations: $(READY)  ## break one line at a time; every mutant must be noticed by a test
	$(BIN)/python -m experiments.mutations

tiny-model: $(READY)  ## pretrain the shipped model again, from nothing
	$(BIN)/python -m experiments.tiny_model.pretrain

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "raypref needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(READY)

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
