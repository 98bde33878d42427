# Correio. `make` lists the targets.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

FOLDER ?= var
ARGS ?=
SEEDS ?= 5000
PYTHON ?= $(shell deploy/find-python.sh)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.bench

.PHONY: help setup demo run test test-browser screenshots test-deep chaos chaos-real chaos-seeds chaos-soak chaos-times test-rabbitmq4 test-pgbouncer chaos-sim chaos-mutants bench bench-short lint format check-bare clean

help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z0-9-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## Make .venv with Correio and its pinned dependencies

$(STAMP): pyproject.toml constraints.txt deploy/make-venv.sh
	@deploy/make-venv.sh $(VENV) "$(PYTHON)"
	@touch $@

demo: $(STAMP) ## Play the ten documented events on a private broker and judge the result
	@$(BIN)/python -m deploy.local demo $(ARGS)

run: $(STAMP) ## Bring everything up until Ctrl-C, with its data in FOLDER (default: var)
	@$(BIN)/python -m deploy.local run --folder $(FOLDER) $(ARGS)

test: $(STAMP) ## Run every test but the deep ones; ARGS goes to pytest
	@$(BIN)/python -m deploy.local prepare
	$(BIN)/python -m pytest -n 3 --dist loadscope -m "not deep and not browser and not chaos" $(ARGS)

test-browser: $(STAMP) ## Run the tests of the console's page in a headless Chromium
	@$(BIN)/python -m deploy.local prepare
	@$(BIN)/python -m deploy.local prepare-browser
	$(BIN)/python -m pytest -n 2 -m "browser and not deep" $(ARGS)

screenshots: $(STAMP) ## Take the README's pictures anew
	@$(BIN)/python -m deploy.local prepare-browser
	$(BIN)/python -m tests.browser.screenshots

test-deep: $(STAMP) ## Run the tests with many examples
	@$(BIN)/python -m deploy.local prepare
	@$(BIN)/python -m deploy.local prepare-browser
	$(BIN)/python -m pytest -m "deep and not chaos" $(ARGS)

chaos: $(STAMP) ## Do every fault of tests/chaos/README.md, on both stores and to SEEDS simulations (as root)
	@$(BIN)/python -m deploy.local prepare
	@$(MAKE) --no-print-directory --jobs 2 chaos-real chaos-seeds

chaos-real: $(STAMP) ## Only the faults, without the simulations; ARGS goes to pytest
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m chaos tests/chaos $(ARGS)

chaos-seeds: $(STAMP) ## Only the simulations
	nice $(BIN)/python -m tests.chaos.simulated --seeds $(SEEDS) --jobs 2

chaos-soak: $(STAMP) ## Do faults in random order, watch memory and files; MINUTES=60 SEED= STORE=postgres
	@$(BIN)/python -m deploy.local prepare
	$(BIN)/python -m tests.chaos.soak --minutes $(or $(MINUTES),60) \
		$(if $(SEED),--seed $(SEED)) --store $(or $(STORE),postgres) $(ARGS)

chaos-times: $(STAMP) ## Do every fault five times on each store; writes the times into the table (30 min)
	@$(BIN)/python -m deploy.local prepare
	for _ in 1 2 3 4 5; do CHAOS_RESULTS=tests/chaos/results.json \
		$(BIN)/python -m pytest -n 2 --dist loadgroup -m chaos tests/chaos $(ARGS) || exit 1; done
	$(BIN)/python -m tests.chaos.table

test-rabbitmq4: $(STAMP) ## Run the tests against RabbitMQ 4 (as root, with debootstrap; 370 MB)
	CORREIO_RABBITMQ_SCRIPTS=$$(tests/support/rabbitmq4.sh /tmp/correio-rabbitmq4) \
		$(BIN)/python -m pytest -n 2 --dist loadscope -m "not deep and not browser and not chaos" $(ARGS)

test-pgbouncer: $(STAMP) ## Run the tests of the PostgreSQL store through PgBouncer
	CORREIO_TEST_PGBOUNCER=1 $(BIN)/python -m pytest -n 2 --dist loadscope -m "not deep and not browser" \
		tests/conformance tests/integration tests/e2e/test_pgbouncer.py -k "postgres or pgbouncer" $(ARGS)

chaos-sim: $(STAMP) ## Simulate seeds: SEED=123 shows one and all that happens in it; ARGS="--seeds 5000"
	@$(BIN)/python -m tests.chaos.simulated $(if $(SEED),--seed $(SEED)) $(ARGS)

chaos-mutants: $(STAMP) ## Plant each known mistake and see that the simulation catches it
	@$(BIN)/python -m tests.chaos.simulated --mutants $(ARGS)

$(BENCH_STAMP): $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[bench]'
	@touch $@

bench: $(BENCH_STAMP) ## Measure against limits and peers (25 min); writes tests/benchmarks/results.*
	@$(BIN)/python -m deploy.local prepare
	$(BIN)/python -m tests.benchmarks $(ARGS)

bench-short: $(BENCH_STAMP) ## Less of it, in 4 minutes; writes var/bench.*
	@$(BIN)/python -m deploy.local prepare
	@mkdir -p var
	$(BIN)/python -m tests.benchmarks --short --out var/bench $(ARGS)

lint: $(STAMP) ## Check style, types and the rules of who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Format the code and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check-bare: ## Clone the last commit into a fresh folder; run demo, test and lint there
	@deploy/check-bare.sh

clean: ## Remove .venv and every cache; FOLDER stays
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './var/*' -prune -exec rm -rf {} +
