# Everything a person or CI does here. Needs make and Python 3.11 or newer; `make test` runs what the machine offers.

.DEFAULT_GOAL := help
.PHONY: help setup warm demo test test-fast check audit sbom docs bench faults fuzz services soak lock

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-stamp
JOBS ?= 2
SECONDS ?= 60
FUZZ_EXAMPLES ?= 2000
PAYMENTS ?= 100000
PYTHONS ?= python3.14 python3.13 python3.12 python3.11 python3
USABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
LOCK := $(BIN)/uv pip compile pyproject.toml --quiet --universal --fork-strategy fewest --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
# Compiled modules are kept, whatever the machine's default: without them each process takes twice as long to begin.
export PYTHONDONTWRITEBYTECODE :=

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## Make .venv and install the locked dependencies and the project; quick when nothing changed

$(STAMP): requirements-dev.txt pyproject.toml
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  for python in $(PYTHONS); do \
	    if $$python -c '$(USABLE)' >/dev/null 2>&1; then found=$$python; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "error: no Python 3.11 or newer with venv was found: install one (on Debian: python3 and python3-venv)." >&2; \
	    exit 1; \
	  fi; \
	  echo "making $(VENV) with $$($$found --version)"; \
	  $$found -m venv --clear $(VENV) || exit 1; \
	fi
	@echo "installing the locked dependencies into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --require-hashes --only-binary :all: --no-binary pyspark -r requirements-dev.txt
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --no-index -e .
	@touch $@

demo: setup ## Watch fraud being caught; needs nothing but Python
	@$(BIN)/fraudline demo $(ARGS)

test: warm ## Run the whole suite in JOBS=2 processes; ARGS="-k name" narrows it, REQUIRE_KAFKA=1 forbids skipping
	$(BIN)/pytest --numprocesses=$(JOBS) --dist=loadfile $(ARGS)

warm: setup ## Compile once what every process then loads; make test does it too
	@$(BIN)/python -m features.warm && $(BIN)/python -m models.warm

test-fast: setup ## Run the tests that need nothing but Python
	$(BIN)/pytest -m fast $(ARGS)

check: setup ## Lint, types, import contracts, lock: what CI and pre-commit run
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/test_front_door.py

audit: setup ## Look the locked packages up among known vulnerabilities; REQUIRE_AUDIT=1 fails where they can't be
	$(BIN)/python .ci/audit.py $(ARGS)

sbom: setup ## Write dist/fraudline.cdx.json, the bill of materials of what is locked (CycloneDX)
	@mkdir -p dist
	$(BIN)/python -W ignore -m cyclonedx_py requirements requirements.txt --pyproject pyproject.toml --mc-type application \
	  --short-PURLs --output-reproducible --of JSON -o dist/fraudline.cdx.json

docs: setup ## Write docs/cli.md from the commands themselves
	@TERMINAL_WIDTH=100 $(BIN)/typer consumer.cli utils docs --name fraudline --title "The command line" --output docs/cli.md

bench: setup ## Measure speed and latency on real Kafka and Redis, and write bench/RESULTS.md
	$(BIN)/python -m bench.run $(ARGS)

faults: warm ## Kill, stall and restart real processes; then take every guard away; ONLY=name narrows both, ARGS is pytest's
	@FAULTS=all REQUIRE_KAFKA=1 REQUIRE_FAKETIME=1 $(BIN)/pytest -m faults $(if $(ONLY),-k "$(ONLY)") $(ARGS); rows=$$?; \
	if [ $$rows -ne 0 ] && [ $$rows -ne 5 ]; then exit $$rows; fi; \
	$(BIN)/python -m tests.mutants $(if $(ONLY),-k "$(ONLY)"); guards=$$?; \
	if [ $$guards -eq 5 ]; then exit $$rows; else exit $$guards; fi

fuzz: warm ## Fuzz what reads untrusted input: each target for SECONDS=60, the alert page, PAYMENTS=100000 mutated ones
	@status=0; \
	$(BIN)/python -m tests.fuzz.run --seconds $(SECONDS) $(ARGS) || status=$$?; \
	FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/pytest -q tests/test_dashboard_api.py || status=$$?; \
	$(BIN)/python -m tests.fuzz.million --payments $(PAYMENTS) || status=$$?; \
	exit $$status

services: setup ## Start a Kafka and a Redis on this machine until Ctrl-C, and say where they listen
	@$(BIN)/python -m tests.services

soak: setup ## Run for long on real Kafka and Redis and judge what grows; ARGS="--minutes 30 --rate 1000"
	$(BIN)/python -m bench.soak $(ARGS)

lock: setup ## Compile the locks from pyproject.toml; UPGRADE=1 takes the newest versions
	$(LOCK) --output-file requirements.txt
	$(LOCK) --group dev --constraint requirements.txt --output-file requirements-dev.txt
	$(LOCK) --extra gpu --constraint requirements.txt --output-file requirements-cuda.txt
