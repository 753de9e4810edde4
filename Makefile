# `make demo` and `make test` each set everything up by themselves; PYTHON names another interpreter.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WASM := web/site/lstm-edge/lstm_edge.wasm
C_FILES := $(wildcard $(addprefix native/*/,*.c *.h *.hpp) tests/native/*.c tests/native/*.h benchmarks/*/*.cpp)
export ORT_DISABLE_TELEMETRY := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo native wasm dist test test-all test-system test-slow test-docs fuzz torture test-web test-arm test-thin test-oldest check docs fmt clean

help:  ## show the targets
	@sed -n 's/^\([a-z-]*\):.*##/\1:/p' $(MAKEFILE_LIST)

# Written last, so that a stopped or failed installation is taken up again.
$(VENV)/.installed: pyproject.toml runtime/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo 'error: "$(PYTHON)" is no Python 3.10 or newer; name one, as in: make test PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo 'error: "$(PYTHON)" cannot make virtual environments; on Debian or Ubuntu: apt-get install python3-venv' >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install -q -e "./runtime[cpu]" -e ".[export,dev,docs]"
	@touch $@

# The C library of native/, built where there is a C compiler; all else works without it.
$(VENV)/.native: $(VENV)/.installed native/pyproject.toml native/CMakeLists.txt $(wildcard native/src/* native/include/* native/lstm_edge_native/*)
	@if command -v $${CC:-cc} >/dev/null; then \
	  echo '$(BIN)/python -m pip install -q ./native' && $(BIN)/python -m pip install -q ./native; \
	else echo 'no C compiler: going on without the native engine (apt-get install gcc, then make native)'; fi
	@command -v $${CC:-cc} >/dev/null && touch $@ || true

# build and install the native engine, where there is a C compiler
native: $(VENV)/.native

demo: $(VENV)/.native  ## train, export, verify and run on real sensor data
	$(BIN)/lstm-edge demo
	@echo '(lstm-edge is in $(BIN); to call it by name: . $(BIN)/activate)'

check: $(VENV)/.installed docs  ## lint, types and the documentation's own links
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tools noxfile.py
	$(BIN)/clang-format --dry-run --Werror $(C_FILES)
	if command -v npm >/dev/null; then $(MAKE) -s web/node_modules/.package-lock.json && cd web && npm run -s check; fi

# build sdist and wheels into dist/, and try them in a fresh environment
dist: $(VENV)/.installed $(WASM)
	$(BIN)/python tools/dist.py

docs: $(VENV)/.installed  ## build the documentation's site into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Two workers on two cores: a second torch thread in each would only wait.
test test-system test-docs test-slow: export OMP_NUM_THREADS := 1

test: check $(VENV)/.native $(WASM)  ## every check, and the tests of every function
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not system"

# the tests that run whole programs, compilers, boards and brokers
test-system: $(VENV)/.native $(WASM)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "system and not slow"

# run the pages that take long as printed, four first days, and the action for CI
test-docs: $(VENV)/.native $(WASM)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow tests/project/test_docs_run.py tests/project/test_ci.py \
	  tests/project/first_day

# the full matrices
test-slow: $(VENV)/.native $(WASM)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow

fuzz: $(VENV)/.native $(WASM)  ## read damaged files of every kind, 5,000 per reader; FUZZ=100 for another number
	FUZZ=$(or $(FUZZ),5000) $(BIN)/python -m pytest -q -n 2 tests/fuzz

# kill, interrupt and starve every verb that writes; TORTURE=5 for so many kills of each kind
torture: $(VENV)/.native $(WASM)
	TORTURE=$(or $(TORTURE),20) $(BIN)/python -m pytest -q -n 2 tests/torture

$(WASM): $(VENV)/.installed native/build_wasm.py $(wildcard native/src/* native/include/*)
	$(BIN)/python native/build_wasm.py $@

# build the C library for browsers and Node
wasm: $(WASM)

# npm writes this file last. What packages would run on installation only downloads GPU libraries.
web/node_modules/.package-lock.json: web/package-lock.json
	cd web && npm ci --ignore-scripts --no-audit --no-fund --silent
	@touch $@

# the runtime for browsers and Node, in both
test-web: $(VENV)/.native $(WASM) web/node_modules/.package-lock.json
	cd web && npm test

# the runtime on aarch64, the C library there, on armv7, riscv64 and Windows, emulated
test-arm: $(VENV)/.native
	$(BIN)/python tools/arm.py
	$(BIN)/python -m pytest -n 2 -m slow "tests/native/test_safety.py::test_a_program_runs_on_other_boards"

# the built wheel, without torch
test-thin: $(VENV)/.installed
	$(BIN)/nox -s thin

# the built wheel, on the oldest Python, numpy and onnxruntime
test-oldest: $(VENV)/.installed
	$(BIN)/nox -s oldest

test-all: test-system test-docs test-web test-arm test-oldest test-thin test-slow  ## systems, docs, browsers, boards, wheels, full matrices

fmt: $(VENV)/.installed  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(C_FILES)

clean:  ## remove what the targets made
	rm -rf $(VENV) web/node_modules web/dist $(WASM) .nox site dist build demo-out runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
