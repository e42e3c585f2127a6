# Two commands from nothing but Python 3.11+, pip and make: `make demo` and `make test`.
PYTHON ?= python3
# An environment for each Python that is asked for by name: .venv, .venv-python3.12, …
VENV := .venv$(if $(filter-out python3,$(PYTHON)),-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# What the tests use of the optional dependencies.
EXTRAS := data,export,hub,serve,tensorboard,triton
comma := ,
DEMO_READY := $(VENV)/demo-ready
READY := $(VENV)/ready

.PHONY: docs lock demo native sanitize test test-all matrix lint format types pytest clean help
.DEFAULT_GOAL := help

help:
	@echo "make demo      train an HCNN on handwritten digits (under two minutes, with the first installation)"
	@echo "make test      everything CI checks: lint, format, types, tests with doctests"
	@echo "make test-all  the same, with the slow tests"
	@echo "make matrix    the tests under other locales, terminals, time zones, thread counts, instruction sets and paths"
	@echo "make native    compile the native kernels again, after their source has changed"
	@echo "make sanitize  the native kernels under AddressSanitizer and UndefinedBehaviorSanitizer"
	@echo "make lock      requirements.lock anew, from pyproject.toml and constraints.txt; needs uv"
	@echo "make docs      the documentation into docs/_build/html; runs every example (HCNN_GALLERY=0: without running them)"
	@echo "make format    let ruff rewrite what it can"
	@echo "With another Python, in an environment of its own: make test PYTHON=python3.12"

# torch is installed alone and first: its version decides which build every later package sees.
$(DEMO_READY): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"hcnn needs Python 3.11 or newer; $(PYTHON) is {v[0]}.{v[1]}. Try: make PYTHON=python3.11")'
	@echo "Creating $(VENV) and installing pinned versions (first time only)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable .
	@touch $@

# The developers' tools go into the same environment, when a test or a check first asks for them.
$(READY): $(DEMO_READY)
	@echo "Installing the developers' tools (first time only)"
	$(PIP) 'pip>=25.1'  # the first that knows dependency groups
	$(PIP) --editable '.[$(EXTRAS)]' --group dev
	@touch $@

demo: $(DEMO_READY)
	$(BIN)/hcnn demo $(DEMO)

test: lint types pytest

test-all: lint types $(READY)
	$(PYTEST) -m ''

native:
	$(PYTHON) src/hcnn/functional/native/build.py

sanitize: $(READY)
	$(BIN)/python tools/sanitize.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/pyright --pythonpath $(BIN)/python

# Two files at a time; each process computes with one thread (see tests/conftest.py).
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --durations 10

pytest: $(READY)
	$(PYTEST)

# Slow: the whole suite once per setting. MATRIX="--only columns,path tests/cli" runs less.
matrix: $(READY)
	$(BIN)/python tools/matrix.py $(MATRIX)

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# An environment of its own: aeon needs an older numpy than constraints.txt has.
DOCS := .venv-docs/bin
.venv-docs/ready: docs/constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv-docs
	$(DOCS)/python -m pip install --quiet --disable-pip-version-check --constraint docs/constraints.txt torch
	$(DOCS)/python -m pip install --quiet --disable-pip-version-check 'pip>=25.1'
	$(DOCS)/python -m pip install --quiet --disable-pip-version-check --constraint docs/constraints.txt --editable '.[examples,hub,serve]' --group docs
	@touch $@

# Every package that developers need, with hashes, for every platform; `uv pip sync requirements.lock` installs them.
lock:
	uv pip compile pyproject.toml $(foreach extra,$(subst $(comma), ,$(EXTRAS)),--extra $(extra)) --group dev \
		--constraint constraints.txt --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --no-annotate --no-header --quiet --output-file requirements.lock

HCNN_GALLERY ?= 1
docs: .venv-docs/ready
	HCNN_GALLERY=$(HCNN_GALLERY) MPLBACKEND=agg $(DOCS)/python -m sphinx -W --keep-going -b html docs docs/_build/html

clean:
	rm -rf .venv .venv-* build dist docs/_build docs/api docs/gallery docs/generated docs/sg_execution_times.rst
