# `make demo` and `make test` each set everything up by themselves.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export ORT_DISABLE_TELEMETRY := 1

.PHONY: demo test check fmt clean
.DEFAULT_GOAL := help

help:  ## show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ —/'

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -e ".[cpu,export,dev]"
	@touch $@

demo: $(VENV)/.installed  ## train, export, prove and run on real sensor data
	$(BIN)/lstm-edge demo

check: $(VENV)/.installed  ## lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check  ## every check and every test
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

fmt: $(VENV)/.installed  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove what the targets made
	rm -rf $(VENV) dist build demo-out runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
