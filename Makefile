# Few verbs; `make help` explains them. Everything is made below .venv and .cache, nothing outside but Debian packages.
SHELL := /bin/sh
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
# What must work on macOS and Windows, too: no name may be used that Python does not have there.
PORTABLE := $(addprefix src/memwarden/, errors.py protocols.py testing.py model assess policy records engine compat \
	faces/render.py process/signals.py process/process_tree.py actions/notify.py actions/targets.py \
	actions/terminate.py actions/suspend.py actions/pause.py \
	readers/portable.py readers/self_report.py readers/factory.py readers/collect.py) $(wildcard src/memwarden/settings*)

.PHONY: help setup system run test test-long lint types docs bench contract clean

help:  ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## the virtual environment with the locked packages (quick the second time)

$(STAMP): pyproject.toml requirements/dev.lock scripts/venv.sh
	@PYTHON="$(PYTHON)" scripts/venv.sh $(VENV)
	@touch $@

system:
	@scripts/system.sh

run: setup  ## the main job on a real program: once inside its limit, once growing past it
	@scripts/demo.sh

test: setup system lint types  ## every test (ORDER=random SEED=1 for random order); names the apt packages it installs
	@ORDER="$(ORDER)" SEED="$(SEED)" scripts/test.sh

test-long: setup system  ## the slow proofs: 200 quiet runs, soaks, real time
	$(BIN)/python -m pytest -m long

lint: setup  ## style, the import contract, retired words
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports
	@$(BIN)/python scripts/vocabulary.py

types: setup  ## strict type checks on src/, and of what is portable against macOS' and Windows' own Python
	@$(BIN)/mypy
	@for system in darwin win32; do \
		$(BIN)/mypy --platform $$system --no-warn-unreachable --follow-imports=silent --no-error-summary \
			--cache-dir .mypy_cache/$$system $(PORTABLE) || exit 1; \
	done

docs: setup  ## the documentation site, strictly, into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: setup  ## the promised figures, as ratios in one run
	@$(BIN)/python -m benchmarks

contract: setup  ## the rows of docs/contract.toml that no test names
	@$(BIN)/python scripts/contract.py

clean:  ## everything that the other verbs made
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis site dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
