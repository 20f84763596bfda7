# Everything here needs Python >= 3.11, git and make; the rest is installed into .venv.
#
#   make demo    set up, then train the cycle on drawn scenes
#   make test    set up, then run the tests
#   make check   format, lint and types
#
# Variables: PYTHON (interpreter to build .venv with), TESTS (what to test), WORKERS (processes).

PYTHON ?=
TESTS ?= tests src
WORKERS ?= 2
VENV := .venv
CONSTRAINTS := constraints.txt
BIN = $(VENV)/bin

# Where the shell forbids bytecode, every process of a test would compile all libraries again.
export PYTHONDONTWRITEBYTECODE :=

# One thread per process: several processes share the cores.
TEST_ENVIRONMENT := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1

.PHONY: help setup demo test test-oldest check format clean

help:
	@sed -n 's/^#   //p' Makefile

setup: $(VENV)/.ready

# The stamp holds what was installed from. As long as pyproject.toml and the constraints say the same,
# nothing is fetched or built. An installation that was cut short is done again in full.
$(VENV)/.ready: pyproject.toml $(CONSTRAINTS)
	@set -e; \
	if cat pyproject.toml $(CONSTRAINTS) | cmp -s - $@; then touch $@; exit 0; fi; \
	again=; if [ -e $(VENV)/.unfinished ]; then again=--reinstall; fi; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.14 python); do \
			if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
				>/dev/null 2>&1; then found=$$python; break; fi; \
		done; \
		if [ -z "$${found:-}" ]; then \
			echo "tsic needs Python 3.11 or newer with its venv module, and found none:" \
				"install it, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; \
			exit 1; \
		fi; \
		"$$found" -m venv --clear $(VENV); \
	fi; \
	touch $(VENV)/.unfinished; \
	echo "setting up $(VENV), a few minutes the first time"; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv; \
	index=$${PIP_INDEX_URL:-$$($(BIN)/python -m pip config get global.index-url 2>/dev/null || :)}; \
	if [ -n "$$index" ]; then export UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$$index}"; fi; \
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python $$again \
		--constraints $(CONSTRAINTS) --group dev --editable .; \
	rm $(VENV)/.unfinished; \
	cat pyproject.toml $(CONSTRAINTS) >$@.part; mv $@.part $@

demo: setup
	$(BIN)/tsic demo

test: setup
	$(TEST_ENVIRONMENT) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not gpu" --doctest-modules $(TESTS)

# The same tests with the oldest versions that pyproject.toml allows.
test-oldest:
	$(MAKE) test VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt

check: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean:
	rm -rf .venv .venv-oldest .pytest_cache .ruff_cache .mypy_cache dist
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
