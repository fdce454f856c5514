# `make demo`, `make test`, `make test-all`, `make test-parity`, `make test-clients`, `make test-targets`,
# `make mutants`, `make bench`, `make bench-formats`, `make bench-scale`, `make notebooks`, `make lab`, `make docs`,
# `make dist`, `make lint`: each needs only Python 3.11 or newer, git and make. What it runs with goes into .venv
# the first time, and is left alone after.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n auto -q

.PHONY: demo test test-all test-parity test-clients test-targets mutants bench bench-formats bench-scale notebooks lab docs dist lint format clean

demo: $(VENV)/examples.stamp
	$(BIN)/python examples/digits.py

test: $(VENV)/test.stamp
	$(PYTEST) $(ARGS)

test-all: $(VENV)/test.stamp
	XLA_FLAGS= $(PYTEST) -m "slow or not slow" $(ARGS)

test-parity: $(VENV)/parity.stamp
	XLA_FLAGS= $(PYTEST) tests/parity $(ARGS)

test-clients: $(VENV)/clients.stamp
	$(PYTEST) -m "slow or not slow" tests/clients $(ARGS)
	$(BIN)/python -m tests.optax_suite

test-targets: $(VENV)/targets.stamp
	$(PYTEST) tests/analysis/test_cost.py

mutants: $(VENV)/mutants.stamp
	JAX_PLATFORMS=cpu $(BIN)/python -m tests.mutants $(ARGS)

bench: $(VENV)/bench.stamp
	$(BIN)/python -m tests.benchmarks $(ARGS)

bench-formats: $(VENV)/bench.stamp $(VENV)/targets.stamp
	JAX_PLATFORMS=cpu $(BIN)/python -m tests.benchmarks.formats $(ARGS)

bench-scale: $(VENV)/bench.stamp $(VENV)/targets.stamp
	JAX_PLATFORMS=cpu $(BIN)/python -m tests.benchmarks.scale $(ARGS)

notebooks: $(VENV)/notebooks.stamp
	$(BIN)/python -m tests.notebooks $(ARGS)

lab: $(VENV)/lab.stamp
	$(BIN)/jupyter lab notebooks $(ARGS)

docs: $(VENV)/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)

dist: $(VENV)/release.stamp
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m tests.release dist/*.whl

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gradx needs Python 3.11 or newer, and this is " + sys.version.split()[0] + ": try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/%.stamp: pyproject.toml .ci/constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -c .ci/constraints.txt -e '.[$*]'
	@touch $@
