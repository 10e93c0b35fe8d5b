# Every target sets up what it needs: .venv with pinned packages, once.
PYTHON ?=
ARGS ?=
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help setup quickstart test chaos soak lint format types bench lock audit clean clean-venv

help: ## list the targets
	@echo "Usage: make TARGET [PYTHON=python3.12] [ARGS='...']"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' Makefile

setup: ## make .venv and install the pinned packages, if that is not done
	@PYTHON="$(PYTHON)" sh scripts/setup.sh

quickstart: setup ## the whole pipeline on generated languages; report in runs/quickstart
	@$(BIN)/ccp-ray pipeline --config jobs/recipes/quickstart.yaml --output runs/quickstart $(ARGS)

test: setup ## all tests but those of `make chaos`; ARGS='-k name' for some
	@$(BIN)/pytest --ignore=tests/chaos $(ARGS)

chaos: setup ## kills at every stage, at random steps, under every ZeRO stage; each run must end as an undisturbed one
	@$(BIN)/pytest tests/chaos $(ARGS)

soak: setup ## pipelines on hosts that fail at random (as root, on Linux); ARGS=90 for minutes, default 30
	@PYTHONPATH=. $(BIN)/python tests/soak.py $(ARGS)

lint: setup ## ruff: rules and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: setup ## ruff: apply fixes and formatting
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: setup ## mypy, strict
	@$(BIN)/mypy

bench: setup ## speed and memory beside others and what was asked for; JSON by machine; ARGS=embed for a part
	@$(BIN)/python -m jobs.bench $(ARGS)

lock: setup ## renew constraints.txt; ARGS=--upgrade to move the pins
	@sh scripts/lock.sh $(ARGS)

audit: ## known vulnerabilities of the pinned packages; ARGS=--strict fails where nobody could be asked
	@$(or $(PYTHON),python3) scripts/audit.py $(ARGS)

clean: ## remove caches and build leftovers (runs/ and .venv stay)
	@rm -rf build .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
	@find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +

clean-venv: ## remove .venv
	@rm -rf .venv .venv-audit
