# Two commands do all: `make demo` and `make test`. Each sets up what it needs first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo test check completions docs clean

demo: $(VENV)/installed  ## the main job: a small campaign on made rooms
	$(BIN)/hpal demo --overwrite

test: $(VENV)/installed-dev check  ## everything that must hold
	# One thread a process: two test processes with two threads each would slow one another down manyfold.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

check: $(VENV)/installed-dev  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

completions: $(VENV)/installed-dev  ## write completions/ anew
	$(BIN)/python tests/generate_completions.py

docs: $(VENV)/installed-dev  ## write the pages that are made from --help anew
	HPAL_UPDATE_DOCS=1 $(BIN)/python -m pytest -q tests/test_docs.py

clean:
	rm -rf $(VENV) hpal-demo .pytest_cache .mypy_cache .ruff_cache

$(VENV)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "hpal needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/installed: $(VENV)/python pyproject.toml constraints.txt
	$(PIP) --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) --editable '.[dev]'
	@touch $@
