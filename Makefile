# One command for everything. `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
DEV_STAMP := $(VENV)/.ready-dev
BENCH_STAMP := $(VENV)/.ready-bench
FUZZ_STAMP := $(VENV)/.ready-fuzz
MINUTES ?= 60
STREAMS ?= 10000
SECONDS ?= 600
LOCK_VENV := $(VENV)-lock
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes
UV := $(LOCK_VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --annotation-style line \
  --no-config --custom-compile-command 'make requirements' $(if $(UPGRADE),--upgrade)
CONFIG ?= pipeline.ini
PYTEST_ARGS ?=
BENCH_ARGS ?=
export PATH := $(CURDIR)/$(BIN):$(PATH)
export STOWGATE_CONFIG := $(CONFIG)

.DEFAULT_GOAL := help
.PHONY: help demo run test check bench-receive bench-deliver bench-pipeline bench-console fuzz fuzz-parser soak format clean \
  test-crashes test-storm test-mutants test-model requirements screenshots

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0) if sys.version_info >= (3, 11) else sys.exit("Stowgate needs Python 3.11 or newer; found %s. Name one with: make PYTHON=/path/to/python3.11" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)

$(STAMP): requirements.txt | $(VENV)/bin/python
	$(INSTALL) -r requirements.txt
	@touch $@

$(DEV_STAMP): requirements-dev.txt | $(VENV)/bin/python
	$(INSTALL) -r requirements-dev.txt
	@touch $@ $(STAMP)

$(BENCH_STAMP): requirements-bench.txt | $(VENV)/bin/python
	$(INSTALL) -r requirements-bench.txt
	@touch $@ $(DEV_STAMP) $(STAMP)

$(FUZZ_STAMP): requirements-fuzz.txt | $(VENV)/bin/python
	$(INSTALL) -r requirements-fuzz.txt
	@touch $@ $(DEV_STAMP) $(STAMP)

demo: $(DEV_STAMP) ## receiver, uploader and sandbox at work on sample instances (ONCE=1: end by itself)
	@$(BIN)/python -m sandbox.demo $(if $(ONCE),--once)

run: $(STAMP) ## receiver, uploader and the web page by the Procfile, with your pipeline.ini (CONFIG=…)
	@$(BIN)/honcho start

test: $(DEV_STAMP) ## every test; what needs Debian packages is skipped where they are missing
	$(BIN)/python -m pytest -n 4 --dist loadfile $(PYTEST_ARGS)

test-crashes: $(DEV_STAMP) ## SIGKILL at every step and inside the steps, about 6 minutes
	$(BIN)/python -m pytest -s -m "" tests/integration/test_crash_*.py $(PYTEST_ARGS)

test-storm: $(DEV_STAMP) ## the kill storm: 250 kills, about 4 minutes (KILLS=…, SEED=… to repeat one)
	STOWGATE_STORM_KILLS=$(or $(KILLS),250) STOWGATE_STORM_SEED=$(or $(SEED),0) $(BIN)/python -m pytest -s tests/integration/test_kill_storm.py $(PYTEST_ARGS)

test-mutants: $(DEV_STAMP) ## break the order of the steps in scratch copies, and see the tests notice, about 8 minutes
	PYTHONPATH=.:tests $(BIN)/python -m support.mutants

test-model: $(DEV_STAMP) ## the state model of an instance's life, over many histories (EXAMPLES=3000, about 15 minutes)
	STOWGATE_MODEL_EXAMPLES=$(or $(EXAMPLES),3000) $(BIN)/python -m pytest tests/model $(PYTEST_ARGS)

check: $(DEV_STAMP) ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(BIN)/lint-imports

bench-receive: $(DEV_STAMP) ## the receiver beside Orthanc, DCMTK and pynetdicom, about 15 minutes (BENCH_ARGS=--help)
	@$(BIN)/python -m bench.receive $(BENCH_ARGS)

bench-deliver: $(BENCH_STAMP) ## the uploader beside curl and dicomweb-client, about 10 minutes (BENCH_ARGS=--help)
	@$(BIN)/python -m bench.deliver $(BENCH_ARGS)

bench-pipeline: $(BENCH_STAMP) ## dcmsend to Orthanc through Stowgate and beside it, about 10 minutes (BENCH_ARGS=--help)
	@$(BIN)/python -m bench.pipeline $(BENCH_ARGS)

bench-console: $(BENCH_STAMP) ## the console on a million rows, and receiving beside it, about 6 minutes (BENCH_ARGS=--help)
	@$(BIN)/python -m bench.console $(BENCH_ARGS)

fuzz: $(DEV_STAMP) ## damaged recordings of real senders into the receiver (STREAMS=10000, about 3 minutes)
	STOWGATE_FUZZ_STREAMS=$(STREAMS) $(BIN)/python -m pytest -o log_cli=true -o log_cli_level=INFO tests/integration/test_receiver_mutations.py

fuzz-parser: $(FUZZ_STAMP) ## coverage-guided fuzzing of what reads a peer's bytes (SECONDS=600)
	@mkdir -p .fuzz
	PYTHONPATH=.:tests:tests/integration $(BIN)/python tests/fuzz/parser.py -max_total_time=$(SECONDS) -max_len=20000 -artifact_prefix=.fuzz/ .fuzz/corpus

soak: $(DEV_STAMP) ## the pipeline at half load with faults: memory, descriptors, threads, latency, loss (MINUTES=60)
	@$(BIN)/python -m bench.soak --minutes $(MINUTES) $(BENCH_ARGS)

screenshots: $(DEV_STAMP) ## docs/images/: the web page with sample data, in Chromium (apt install chromium)
	PYTHONPATH=.:tests $(BIN)/python -m support.screenshots

format: $(DEV_STAMP) ## let ruff format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

requirements: ## make requirements*.txt from requirements*.in (UPGRADE=1: with the newest of what those leave open)
	$(PYTHON) -m venv $(LOCK_VENV)
	$(LOCK_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-lock.txt
	for part in '' -google -aws -dev -bench -fuzz -lock; do $(UV) requirements$$part.in -o requirements$$part.txt || exit; done

clean: ## remove the virtual environment and caches (never the spool)
	rm -rf $(VENV) $(LOCK_VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis
