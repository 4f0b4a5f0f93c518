# Modelworks: `make quickstart` for users; `make test`, `make check`, `make bench`, `make soak` for developers.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCH ?=
PYTEST_FLAGS ?=
# As many test workers as cores, and not more than four: each runs engines of its own.
WORKERS ?= $(shell n=$$(nproc); [ $$n -gt 4 ] && n=4; echo $$n)

.PHONY: help quickstart install develop test check format soak bench docs constraints wheel clean

help:  ## what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

quickstart: install  ## install Modelworks and run the main job: train, register, deploy, call
	@$(BIN)/mw quickstart

install: $(VENV)/.installed  ## the platform in .venv

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: Modelworks needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1)"; \
	  echo "try:   make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "error: $(PYTHON) cannot make a virtual environment"; \
	  echo "try:   apt install python3-venv"; rm -rf $(VENV); exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/uv
	@echo "installing Modelworks into $(VENV)"
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[server,quickstart]'
	@$(BIN)/python -m compileall -q src
	@touch $@

develop: $(VENV)/.developed  ## .installed, with what tests and linters need

$(VENV)/.developed: $(VENV)/.installed
	@# By pip: uv would take a build for GPUs where a smaller one is at hand.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --group test --group lint
	@touch $@

test: develop  ## the whole test suite, on the real embedded engines
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m 'not soak' $(PYTEST_FLAGS)

check: develop  ## formatting, lint, types, import rules and the pure tests
	@$(BIN)/ruff format --check src tests examples
	@$(BIN)/ruff check src tests examples
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@# Without a plugin that these tests do not use, and that takes as long to load as pytest and hypothesis together.
	@$(BIN)/python -m pytest -q -n $(WORKERS) -p no:schemathesis tests/pure $(PYTEST_FLAGS)

format: develop
	@$(BIN)/ruff format src tests examples
	@$(BIN)/ruff check --fix src tests examples

soak: develop  ## the long fault and load runs
	@$(BIN)/python -m pytest -m soak --timeout 3600 $(PYTEST_FLAGS)

bench: develop  ## the benchmarks (BENCH=gateway for a part) into build/bench.json
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --group bench
	@$(BIN)/python -m tests.bench $(BENCH)

wheel: develop  ## the wheel in dist/
	@$(BIN)/uv build --wheel --quiet

constraints: $(BIN)/uv  ## pin what is installed, for every supported Python
	@$(BIN)/uv pip compile --quiet --universal --upgrade --python-version 3.11 --extra server --extra quickstart \
	  --extra plots --extra compile --extra openvino --extra sweeps --extra tracking --extra ray \
	  --group test --group bench --group lint --no-header --no-annotate \
	  pyproject.toml -o constraints.txt

clean:
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
