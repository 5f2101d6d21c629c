# Every target does its own set-up: a virtual environment, the pinned packages it needs, the native core.
# Needs Python >= 3.10, a C++20 compiler and make. `make help` lists the targets.

PYTHON ?= python3
DEVICE ?= cpu
WORKERS ?= auto

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
PIP_INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
EDITABLE := --no-build-isolation --config-settings=build-dir=build/editable \
  --config-settings=cmake.define.OPTLAYERS_WERROR=ON --editable
# With directories, whose time changes when a file is added or removed.
NATIVE := CMakeLists.txt $(shell find cmake csrc)

.PHONY: help build demo test lint format types docs bench gpu clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile

build: $(STAMPS)/test  ## the editable install with the test packages, after a change in csrc/ too

demo: $(STAMPS)/examples  ## train a network whose layer is a quadratic program on 4x4 Sudoku
	$(BIN)/python examples/sudoku.py --device $(DEVICE) $(ARGS)

test: $(STAMPS)/test  ## the tests; DEVICE=cuda runs them on a GPU, ARGS="-k name" picks some
	DEVICE=$(DEVICE) $(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

lint: $(STAMPS)/dev  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMPS)/dev  ## let ruff repair what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMPS)/dev $(STAMPS)/examples  ## pyright
	$(BIN)/pyright

docs: $(STAMPS)/docs  ## the HTML pages in docs/_build/html; warnings are errors
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

bench: $(STAMPS)/bench  ## time this library beside its peers
	$(BIN)/python benchmarks/qp.py $(ARGS)

gpu: $(STAMPS)/bench $(STAMPS)/test  ## on a machine with a GPU: its tests, memcheck and racecheck of the kernels, benchmark
	DEVICE=cuda $(BIN)/python -m pytest tests/test_device.py tests/test_cuda_kernels.py
	for tool in memcheck racecheck; do \
	  DEVICE=cuda compute-sanitizer --tool $$tool --error-exitcode 1 --target-processes all \
	    $(BIN)/python -m pytest -q tests/test_cuda_kernels.py -k "reference or singular" || exit 1; done
	$(BIN)/python benchmarks/gpu.py --markdown benchmarks/results/$$(date +%F)-qp-gpu.md $(ARGS)

clean:  ## everything that make made
	rm -rf $(VENV) build docs/_build .pytest_cache .ruff_cache .hypothesis

# The build tools live in the environment, so that the editable build is incremental and needs no second download.
$(STAMPS)/tools: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS)
	$(PIP_INSTALL) pip
	$(PIP_INSTALL) scikit-build-core pybind11 cmake ninja
	@touch $@

# One stamp per extra of pyproject.toml: a target installs only what it needs.
$(STAMPS)/%: $(STAMPS)/tools pyproject.toml $(NATIVE)
	$(PIP_INSTALL) $(EDITABLE) '.[$*]'
	@touch $@

# qpth's metadata caps numpy below 2, though it runs with 2: it comes without its dependencies.
$(STAMPS)/bench: $(STAMPS)/tools pyproject.toml $(NATIVE)
	$(PIP_INSTALL) $(EDITABLE) '.[bench]'
	$(PIP_INSTALL) --no-deps qpth
	@touch $@
