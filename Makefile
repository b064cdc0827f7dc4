# What people type.  Everything bootstraps .venv by itself; nothing needs root or containers.
MAKEFLAGS += --no-print-directory
BIN := .venv/bin
# Tests with processes wait for two fifths of their time: there is one worker more than there are cores.  Each may start
# a few processes; more than four at once helps nobody.
PYTEST := $(BIN)/pytest -q --tb=short -n $$(( $$(nproc) + 1 )) --maxprocesses=4

.PHONY: help demo tour test lint format unit explore bench crash lock proto docs clean

help:  ## this list
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1|\2/p' $(MAKEFILE_LIST) | column -ts'|'

demo:  ## run the example mesh on this machine, prove each promise, print the report
	@scripts/bootstrap all
	@$(BIN)/vestibule up --once

tour:  ## drive the example shop through canary, failover, retries, limits, egress, rollback, …, and print what was measured
	@scripts/bootstrap dev
	@$(BIN)/python -m tests.tour

test: lint  ## everything CI runs: lint, types, walls, all tests
	@$(PYTEST) tests

unit:  ## only the tests that start no processes
	@scripts/bootstrap dev
	@$(PYTEST) -m "not e2e and not interop" tests

lint:  ## ruff, formatting, mypy, import walls
	@scripts/bootstrap dev
	@scripts/lint

format:  ## let ruff mend and format
	@scripts/bootstrap dev
	@$(BIN)/ruff check --quiet --fix || true
	@$(BIN)/ruff format --quiet

explore:  ## properties and fuzzers, with other examples each time
	@scripts/bootstrap dev
	@EXPLORE=yes $(PYTEST) -m "not e2e and not interop" tests/unit tests/contract tests/fuzz

bench:  ## every measurement behind a performance claim, one after the other
	@scripts/bootstrap dev
	@scripts/bench

crash:  ## kill server and agent 200 times at seeded points (SEED=1), against a journal of what was acknowledged
	@scripts/bootstrap all
	@$(BIN)/python -m tests.crash.kill_nine --kills 200 --seed $(or $(SEED),1)

lock:  ## requirements/*.txt anew from pyproject.toml (needs uv)
	@scripts/lock

proto:  ## src/vestibule/wire/gen anew from proto/
	@scripts/bootstrap dev
	@scripts/proto

docs:  ## the pages generated from code
	@scripts/bootstrap dev
	@$(BIN)/python scripts/errors_docs.py
	@$(BIN)/python -m scripts.failures_docs
	@$(BIN)/python scripts/cli_docs.py
	@$(BIN)/python scripts/configuration_docs.py
	@$(BIN)/python scripts/intent_docs.py

clean:  ## remove .venv, caches and the state of `vestibule up`
	@rm -rf .venv .vestibule .bootstrap.lock .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	@find . -name __pycache__ -prune -exec rm -rf {} +
