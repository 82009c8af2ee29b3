# Every target sets up what it needs and may be the first command in a fresh clone.
# Set-up is stamped: it runs again only when pyproject.toml changes.
PYTHON ?= python3
PY     ?= python3.12
ARGS   ?=

VENV   := .venv
BIN    := $(VENV)/bin
NOUNS  := .venv-nouns-$(notdir $(PY))
PIP     = -m pip install -qq --no-input --disable-pip-version-check --no-compile

# Modules are compiled when they are first imported, and kept: pip need not compile them all.
unexport PYTHONDONTWRITEBYTECODE

# What needs no torch: the naming modules, search, store, measurement and the dashboard.
NOUN_TESTS := $(wildcard tests/test_*.py tests/hierarchy/test_tree.py tests/evaluate/test_bounds.py \
                tests/evaluate/test_memory.py tests/search tests/store tests/measure tests/tui)
NOUN_DEPENDENCIES := 'optuna>=5,<6' 'sqlalchemy>=2.0' 'typer>=0.15' 'textual>=8,<9' numpy 'scipy>=1.11' nvidia-ml-py \
                'pytest>=8.4' 'pytest-asyncio>=1' 'hypothesis>=6.100' 'tomli>=2; python_version < "3.11"'

.PHONY: help demo test lint types contracts check test-nouns wheel clean
.DELETE_ON_ERROR:

help:           ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(VENV)/.ready            ## set up, then run the whole job on the embedded model
	$(BIN)/qslm-opt demo $(ARGS)

test: $(VENV)/.ready-dev        ## run all tests (ARGS='tests/search -x' runs some)
	$(BIN)/python -m pytest -n 2 --dist loadfile --timeout 900 $(ARGS)

lint: $(VENV)/.ready-dev        ## ruff
	$(BIN)/ruff check .

types: $(VENV)/.ready-dev       ## mypy, strict
	$(BIN)/mypy

contracts: $(VENV)/.ready-dev   ## import-linter: which module may import which
	$(BIN)/lint-imports --no-cache

check: lint types contracts test  ## all of the above

test-nouns: $(NOUNS)/.ready     ## the torch-free tests on another Python (PY=python3.10)
	$(NOUNS)/bin/python -m pytest $(NOUN_TESTS) $(ARGS)

wheel: $(VENV)/.ready-dev       ## build the wheel into dist/ and check what it holds
	rm -rf dist
	$(BIN)/python -m pip wheel -qq --no-input --disable-pip-version-check --no-deps -w dist .
	$(BIN)/python .ci/check_wheel.py dist/*.whl

clean:          ## remove environments, caches and build products
	rm -rf .venv .venv-nouns-* dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find qslm_opt tui tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: pyproject.toml | $(BIN)/python
	@echo "setting up $(VENV) (torch and friends: a few minutes the first time)" >&2
	$(BIN)/python $(PIP) -e .
	@touch $@

$(VENV)/.ready-dev: pyproject.toml | $(BIN)/python
	@echo "setting up $(VENV) with the developers' tools (a few minutes the first time)" >&2
	$(BIN)/python $(PIP) -e '.[dev,dashboard]'
	@touch $(VENV)/.ready $@

$(NOUNS)/.ready: pyproject.toml Makefile
	$(PY) -m venv $(NOUNS)
	$(NOUNS)/bin/python $(PIP) $(NOUN_DEPENDENCIES)
	@touch $@
