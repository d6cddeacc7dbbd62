# Two commands do all: `make demo` and `make test`. Each sets up what it needs first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

# A wheel of MinkowskiEngine fits one torch and one Python.
# CUDA=1 builds for the GPU, with the nvcc that is there (docs/minkowski-wheel.sh).
CUDA ?=
WHEELS = .cache/minkowski$(if $(CUDA),-cuda)-$(shell $(BIN)/python -c 'import sys; from importlib.metadata import version; \
	print(version("torch"), sys.implementation.cache_tag, sep="-")')

.PHONY: demo test check minkowski minkowski-wheel minkowski-compile completions manual help-texts figures docs clean

demo: $(VENV)/installed  ## the main job: a small campaign on synthetic rooms
	$(BIN)/hpal demo --overwrite

# COVERAGE=1: the lines of hpal that run while COUNTED are tested are counted, and their share is printed. Before Python
# 3.12 counting doubles the time, so these are the files that reach many lines in little of it; none of them: all.
COVERAGE ?=
COUNTED ?= info stream stores selection_commands label_files label_log class_tables metrics strategies hmmu reports \
	export prep spread superpoints
LINES := $(abspath .cache/lines)
COUNTING = HPAL_COVERAGE=$(LINES) HPAL_COUNTED="$(COUNTED)" PYTHONPATH=$(abspath tests) \
	COVERAGE_CORE=$$($(BIN)/python -c 'import sys; print("sysmon" if sys.version_info >= (3, 12) else "ctrace")')
TESTS ?=

test: $(VENV)/installed-dev check  ## everything that must hold; TESTS=FILES: only these; COVERAGE=1: and the lines covered
	$(if $(COVERAGE),rm -rf $(LINES))
	# One thread a process: two test processes with two threads each would slow one another down manyfold.
	# worksteal: each has a half of the files at first, so that what the tests of a file share is made once, not twice.
	OMP_NUM_THREADS=1 $(if $(COVERAGE),$(COUNTING)) $(BIN)/python -m pytest -n 2 --dist worksteal $(if $(COVERAGE),-p lines_covered) $(TESTS)
	$(if $(COVERAGE),$(BIN)/coverage combine -q --data-file=$(LINES)/lines $(LINES))
	$(if $(COVERAGE),$(BIN)/coverage report --data-file=$(LINES)/lines --skip-covered)

check: $(VENV)/installed-dev  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

minkowski: minkowski-wheel  ## MinkowskiEngine, built for the torch that is there; CUDA=1: for the GPU (docs/minkowski.md)
	$(PIP) --force-reinstall --no-deps $(WHEELS)/*.whl

minkowski-wheel: $(VENV)/installed
	@ls $(WHEELS)/*.whl >/dev/null 2>&1 || $(MAKE) --no-print-directory minkowski-compile

minkowski-compile: $(VENV)/installed
	@missing=; headers=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))'); \
	command -v g++ >/dev/null || missing="$$missing g++"; \
	echo '#include <cblas.h>' | g++ -fsyntax-only -x c++ - 2>/dev/null || missing="$$missing libopenblas-dev"; \
	test -f "$$headers/Python.h" || missing="$$missing python3-dev"; \
	test -z "$$missing" || { echo "make minkowski: not here:$$missing; on Debian: apt-get install$$missing"; exit 1; }
	@echo "building MinkowskiEngine: some two minutes; for CUDA, several"
	$(PIP) 'setuptools<81' wheel ninja
	docs/minkowski-wheel.sh $(if $(CUDA),cuda,cpu) $(BIN)/python $(WHEELS)

completions: $(VENV)/installed-dev  ## write completions/ anew
	$(BIN)/python tests/generate_completions.py

manual: $(VENV)/installed-dev  ## write man/ anew
	$(BIN)/python tests/generate_manual.py

help-texts: $(VENV)/installed-dev  ## write the help texts of docs/commands.md anew
	HPAL_UPDATE_DOCS=1 $(BIN)/python -m pytest -q tests/test_docs.py -k help_texts

figures: $(VENV)/installed  ## draw the figures of docs/pictures anew that show what is computed and what flows where
	$(BIN)/python tests/generate_figures.py

docs: $(VENV)/installed-docs  ## build the documentation site; a link that leads nowhere is an error
	$(BIN)/python -m sphinx -q -W --keep-going --fresh-env docs build/site
	@echo "open build/site/index.html"

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

# Not after `installed`: one call of pip finds and installs everything in less time than two.
$(VENV)/installed-dev: $(VENV)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[dev]'
	@touch $(VENV)/installed $@

$(VENV)/installed-docs: $(VENV)/installed
	$(PIP) --editable '.[docs]'
	@touch $@
