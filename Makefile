# One door for everything. Needs make and a Python 3.11 or newer, nothing else.

SHELL := /bin/sh
.DEFAULT_GOAL := help
# An environment whose making was cut off is made again.
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# Where `make run` keeps its mail, and the settings file it reads (none: environment and defaults).
DATA ?= .data
CONFIG ?=
# Further options of `dispatch serve`, as ARGS="--set listener.ports=2525".
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
# The stamps lie in the environment, so that they vanish with it.
RUN_STAMP := $(VENV)/.installed-run
DEV_STAMP := $(VENV)/.installed-dev
PIP := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check
TREES := $(wildcard src tests bench scripts fuzz)

.PHONY: help setup run test test-long crash bench check format reference clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

setup: $(RUN_STAMP) $(DEV_STAMP) ## Install all that developing needs into .venv
	@:

run: $(RUN_STAMP) ## Start the relay (DATA=.data CONFIG=file ARGS=options)
	@exec $(BIN)/dispatch serve --data "$(DATA)" $(if $(CONFIG),--config "$(CONFIG)") $(ARGS)

test: check ## Check, then run every test but the long ones
	$(BIN)/pytest -n auto --dist worksteal -m "not long" -q

test-long: setup ## Run the long tests: minutes of simulation and fuzzing
	$(BIN)/pytest -n auto --dist worksteal -m long -q --timeout 3600

crash: setup ## Kill and cut the power under load, and audit (KILLS=200 CUTS=100 RATE=600 SEED= UPSTREAMS=3 TLS=no)
	$(BIN)/python -m tests.scenarios.crash --kills $(or $(KILLS),200) --cuts $(or $(CUTS),100) \
	  --rate $(or $(RATE),600) --upstreams $(or $(UPSTREAMS),3) $(if $(filter no,$(TLS)),--no-tls) \
	  $(if $(SEED),--seed $(SEED))

bench: setup ## Benchmarks beside Postfix (root, Debian's postfix, stunnel4; ARGS="[PART …] [--quick]")
	$(BIN)/python -m bench $(ARGS)

check: setup ## Lint, formatting, types, import layers
	$(BIN)/ruff check $(TREES)
	$(BIN)/ruff format --check --quiet $(TREES)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: setup ## Format the code, and repair what the linter can
	$(BIN)/ruff check --fix $(TREES)
	$(BIN)/ruff format $(TREES)

reference: $(RUN_STAMP) ## Write docs/reference/ anew from the program
	$(BIN)/python -m scripts.reference

clean: ## Remove the environment and all caches; mail in .data stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(DEV_STAMP): requirements/dev.txt $(RUN_STAMP)
	@echo "Installing what developing needs ..."
	@$(PIP) install -r requirements/dev.txt
	@touch $@

$(RUN_STAMP): requirements/run.txt pyproject.toml | $(BIN)/python
	@echo "Installing what running needs ..."
	@$(PIP) install -r requirements/run.txt
	@$(PIP) install --no-deps -e .
	@touch $@

# Debian splits venv's own installer (ensurepip) off into a package: a Python is good only if it has it.
$(BIN)/python:
	@good() { "$$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }; \
	find_python() { for p in /usr/bin/python3 python3; do if good $$p; then echo $$p; return; fi; done; }; \
	python=$$(find_python); \
	if [ -z "$$python" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "Installing the package python3-venv ..."; \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	    apt-get install -y -qq --no-install-recommends python3 python3-venv; } >/dev/null || true; \
	  python=$$(find_python); \
	fi; \
	if [ -z "$$python" ]; then \
	  echo "No Python 3.11 or newer that can make a virtual environment was found." >&2; \
	  echo "On Debian and Ubuntu:  sudo apt-get install python3 python3-venv" >&2; \
	  exit 1; \
	fi; \
	echo "Making $(VENV) with $$($$python -V) ..."; \
	rm -rf $(VENV); $$python -m venv $(VENV)
