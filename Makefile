# make demo   from nothing to a report in a few minutes
# make test   the whole suite
# make lint   style, types, layers
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3.11 python3 python; do command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
INSTALL := $(PIP) install --constraint requirements.lock

.PHONY: demo test coverage lint format docs bench lock clean

demo: $(VENV)/.core
	$(BIN)/workbench pipeline -c kolmogorov/fno

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --maxprocesses=4 --dist worksteal

coverage: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --maxprocesses=4 --dist worksteal --cov=workbench --cov-report=term:skip-covered

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format .

docs: $(VENV)/.docs
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

bench: $(VENV)/.dev
	for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python $$script --quick || exit 1; done

# The lock pins everything that any extra installs; extras choose what is installed. Bytecode is compiled at once:
# without it, the first start of every command takes 14 s instead of 4.
$(VENV)/.python:
	@test -n "$(PYTHON)" || { echo "Workbench needs Python 3.11: install it, or name it with make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) hatchling editables
	@touch $@

$(VENV)/.core: $(VENV)/.python pyproject.toml requirements.lock
	$(INSTALL) --compile --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(INSTALL) --compile --no-build-isolation --editable '.[dev,hpc,remote,docs]'
	@touch $@

$(VENV)/.docs: $(VENV)/.core
	$(INSTALL) --compile --no-build-isolation --editable '.[docs]'
	@touch $@

# Pin what a fresh environment resolves to now.
lock:
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip --quiet install 'torch==2.13.0' && .venv-lock/bin/pip --quiet install '.[dev,hpc,remote,docs,pybamm]'
	{ echo "# Exact versions of everything that any extra installs; made by make lock."; \
	  .venv-lock/bin/pip freeze --exclude workbench-surrogates | sed -e 's/^\(torch==[0-9.]*\)+.*/\1/' | grep -vE '^(nvidia-|triton)'; } > requirements.lock
	rm -rf .venv-lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache docs/_build dist build
