# Every target works in a fresh clone: the ones that need it make the virtual environment first.
PYTHON ?= python3
VENV ?= .venv
PHOTO ?=
PYTEST_ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Exported, so that a path with spaces or quotes reaches the recipe as it is.
export PHOTO

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-all test-distributed check

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(STAMP) ## make the virtual environment and install vlm into it, once

# Made again only when the dependencies change.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "vlm needs Python 3.10 or newer; name one with: make venv PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[eval,dev]'
	@touch $@

demo: $(STAMP) ## describe a photo and draw on it; your own: make demo PHOTO=me.jpg
	@$(BIN)/python -m vlm.demo -- "$$PHOTO"

test: $(STAMP) ## run the tests (not those marked slow or gpu)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-all: $(STAMP) ## run every test
	$(BIN)/python -m pytest -m "" $(PYTEST_ARGS)

test-distributed: $(STAMP) ## run every test of several processes, the slow ones too; those of ZeRO need the extra `deepspeed`
	$(BIN)/python -m pytest -m distributed $(PYTEST_ARGS)

check: $(STAMP) ## lint, format, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
