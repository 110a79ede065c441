# Everything runs in .venv, made on first use from pinned constraints.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help check test lint format types bench bench-bugs coverage cards docs ports checkpoint clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

check: .venv/.installed ## Set up, then check the Gemma 3 port layer by layer against its reference
	$(BIN)/parity check gemma3 --small-config --all

test: .venv/.installed-dev ## Set up, then run the tests
	$(BIN)/python -m pytest --numprocesses 2

lint: .venv/.installed-dev ## Check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/.installed-dev ## Rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: .venv/.installed-dev ## Check types, strictly
	$(BIN)/mypy

bench: .venv/.installed-dev ## Measure speed and memory, as ratios
	$(BIN)/python bench/run.py

bench-bugs: .venv/.installed-dev ## Measure how many bugs Parity finds, and write docs/benchmark.md
	$(BIN)/python -m bench.bugs --write docs/benchmark.md

coverage: .venv/.installed-dev ## Audit the ports that come with Parity, and write fixtures/coverage.json
	$(BIN)/python -m bench.coverage --write fixtures/coverage.json

cards: .venv/.installed-dev ## Audit the fields of all configs, and measure the table of cards: fixtures/effects.json, docs/cards.md
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.effects --write fixtures/effects.json
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.cards --write docs/cards.md

ports: .venv/.installed-dev ## Check the ports that come with Parity at every stage, and write what is said of them
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.ports --write fixtures/ports.json --page docs/architectures.md

docs: .venv/.installed-dev ## Run again what README.md and docs/ show, and write what has changed
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.causes
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.pages
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.picture

checkpoint: .venv/.installed-dev ## Train the small checkpoint again, and write fixtures/checkpoints/gemma3-tiny
	OMP_NUM_THREADS=1 $(BIN)/python -m fixtures.checkpoints.train_gemma3_tiny

clean: ## Remove .venv and everything that was built
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Parity needs Python 3.11 or newer; name one with: make PYTHON=python3.11 ..."; exit 2; }
	$(PYTHON) -m venv .venv

.venv/.installed: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) --editable .
	@touch $@

# The third-party ports on which Parity is tried declare TensorFlow and an old numpy, which their model files do not need.
.venv/.installed-dev: pyproject.toml constraints.txt requirements-thirdparty.txt | .venv/bin/python
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps --requirement requirements-thirdparty.txt
	@touch $@ .venv/.installed
