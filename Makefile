# make demo   everything on synthetic speech: data, training over folds, blend, submission, score
# make test   linters, types, tests
# Both create .venv first if needed. `make` alone lists everything.

# The pinned versions were tested on 3.11, so it is tried first; any later version works too.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
INSTALLED := .venv/.installed
CLUSTER_INSTALLED := .venv/.cluster-installed

FAULT_ARGS ?=
# Processes that run tests, one file of tests at a time each: a file's fixtures are made once.
TEST_WORKERS ?= 2
DEMO ?= demo
DEMO_ARGS ?=
DEMO_MODELS ?= gru_small,cnn_lstm_small
TRAIN_ARGS ?= --epochs 12 --batch-frames 3000

.PHONY: help install demo test coverage test-slurm test-cluster faults docs completion bench ctcdecode clean

help:
	@echo "make demo       train two small models over two folds of synthetic speech, blend, score (5 to 20 minutes)"
	@echo "make test       linters, type checker, tests (about 20 minutes)"
	@echo "make coverage   the tests alone, and which lines they run"
	@echo "make faults     bad input to every command, 20,000 cases, faults of Kaggle, 1,000 sequences, and kills of a training (hours)"
	@echo "make install    only create .venv"
	@echo "make docs       the documentation site, into site/"
	@echo "make completion completion for bash and zsh, into .venv/completion.bash"
	@echo "make bench      benchmarks: training speed, decoders, blenders"
	@echo "make test-slurm    launching on a Slurm cluster of this machine (needs slurm-wlm and munge)"
	@echo "make test-cluster  launching on Ray, and runs in S3 object storage"
	@echo "make ctcdecode  build the ctcdecode decoder into .venv (needs a C++ compiler)"
	@echo "make clean      remove .venv, the demo and tool caches; never runs/"

install: $(INSTALLED)

# An existing environment keeps its Python: made over it by another one, it would not start.
$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or later found: install one, or run make PYTHON=/path/to/python" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[test]' -c constraints.txt
	touch $@

# Each step continues where it was stopped, so an interrupted `make demo` can simply be run again.
demo: $(INSTALLED)
	$(BIN)/python -m folds.demo --out "$(DEMO)/competition" $(DEMO_ARGS)
	$(BIN)/python -m folds.train --data "$(DEMO)/competition" --model $(DEMO_MODELS) --fold all --folds 2 \
		--runs "$(DEMO)/runs" --resume $(TRAIN_ARGS)
	$(BIN)/python -m ensemble.blend --data "$(DEMO)/competition" --runs "$(DEMO)/runs" --out "$(DEMO)/submission.csv"
	$(BIN)/python -m folds.demo --out "$(DEMO)/competition" --score "$(DEMO)/submission.csv"

test: $(INSTALLED)
	$(BIN)/python -m ruff check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m mypy
	$(BIN)/python -m pytest -q -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

coverage: $(INSTALLED)
	$(BIN)/python -m pytest -q -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered

# FAULT_ARGS="--kind json --most 100" tries fewer; every failure is printed with the command that shows it.
faults: $(INSTALLED)
	SUBMIT_SEQUENCES=1000 $(BIN)/python -m pytest -q -s tests/submit/test_submit_kills.py
	HW3P2_FAULTS=all $(BIN)/python -m pytest -q tests/faults/test_faults_kills.py
	$(BIN)/python tests/faults/campaign.py --jobs 2 $(FAULT_ARGS)

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet --site-dir site

completion: $(INSTALLED)
	$(BIN)/python docs/generate/completion.py > .venv/completion.bash

bench: $(INSTALLED)
	@for benchmark in tests/benchmarks/bench_*.py; do \
		echo "== $$benchmark"; $(BIN)/python "$$benchmark" || exit 1; done

# What runs only with Slurm (Debian: slurm-wlm and munge), and with Ray and an S3 server, which are installed here.
test-slurm: $(CLUSTER_INSTALLED)
	HW3P2_TEST_SLURM=1 $(BIN)/python -m pytest -q -s tests/slurm

test-cluster: $(CLUSTER_INSTALLED)
	HW3P2_TEST_CLUSTER=1 $(BIN)/python -m pytest -q -s tests/cluster

$(CLUSTER_INSTALLED): $(INSTALLED)
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[cluster-test]' -c constraints.txt
	touch $@

ctcdecode: $(INSTALLED)
	sh docs/build_ctcdecode.sh $(BIN)/python

clean:
	rm -rf .venv demo site build dist .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis .coverage *.egg-info
	find . -name __pycache__ -not -path './.git/*' -type d -prune -exec rm -rf {} +
