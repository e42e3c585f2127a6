# Two commands from nothing but Python 3.11+, pip and make: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: docs demo test lint format types pytest clean help
.DEFAULT_GOAL := help

help:
	@echo "make demo    train an HCNN on handwritten digits (about a minute after the first install)"
	@echo "make test    everything CI checks: lint, format, types, tests with doctests"
	@echo "make docs    this site into docs/_build/html; runs every example (HCNN_GALLERY=0: without running them)"
	@echo "make format  let ruff rewrite what it can"

# torch goes in alone and first: its version decides which build every later package sees.
$(READY): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"hcnn needs Python 3.11 or newer; $(PYTHON) is {v[0]}.{v[1]}. Try: make PYTHON=python3.11")'
	@echo "Creating .venv and installing pinned versions (first time only)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY)
	$(BIN)/hcnn demo $(DEMO)

test: lint types pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/pyright

pytest: $(READY)
	$(BIN)/python -m pytest

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# An environment of its own: aeon needs an older numpy than constraints.txt has.
DOCS := .venv-docs/bin
.venv-docs/ready: docs/constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv-docs
	$(DOCS)/python -m pip install --quiet --disable-pip-version-check --constraint docs/constraints.txt torch
	$(DOCS)/python -m pip install --quiet --disable-pip-version-check --constraint docs/constraints.txt --editable '.[docs]'
	@touch $@

HCNN_GALLERY ?= 1
docs: .venv-docs/ready
	HCNN_GALLERY=$(HCNN_GALLERY) MPLBACKEND=agg $(DOCS)/python -m sphinx -W --keep-going -b html docs docs/_build/html

clean:
	rm -rf .venv .venv-docs build dist docs/_build docs/api docs/gallery docs/generated docs/sg_execution_times.rst
