# make demo   the whole loop on the built-in model, and where its report is
# make test   all tests; make test-fast: those that are not slow. WORKERS=3: in so many processes, 2 by default;
#             TESTS=tests/reward: of a folder or a file
# make lint   ruff and mypy
# Each sets up .venv by itself. They need Python 3.11 or newer and the network for the first set-up.

VENV := .venv
BIN := $(VENV)/bin
TORCH := $(shell sed -n 's/^\(torch==[0-9.]*\).*/\1/p' constraints.txt)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
DEMO ?= runs/demo
WORKERS ?= 2
TESTS ?= tests

.PHONY: demo test test-fast lint setup clean

demo: $(VENV)/.installed
	@HF_HUB_OFFLINE=1 $(BIN)/vidalign demo --output_dir $(DEMO)
	@echo "The report is $(abspath $(DEMO))/report.html"

# The tests of a file run in one process, so that what its fixtures make is made once.
PYTEST := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder --max-worker-restart=2

test: $(VENV)/.tested
	$(PYTEST) $(TESTS)

test-fast: $(VENV)/.tested
	$(PYTEST) -m "not slow" $(TESTS)

lint: $(VENV)/.linted
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(VENV)/.tested $(VENV)/.linted

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache

$(BIN)/python:
	@test -n "$(PYTHON)" || { \
	  echo "vidalign needs Python 3.11 or newer, and none was found: install one, or name it with make PYTHON=/path/to/python3." >&2; \
	  exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "$(PYTHON) cannot make a virtual environment: install its venv module (on Debian: apt-get install python3-venv)." >&2; \
	  exit 1; }

# torch goes first and alone: what is built from source afterwards asks it for its version.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Setting up $(VENV); the first time this downloads torch and takes some minutes."
	@$(PIP) --upgrade pip "setuptools>=77" wheel
	@$(PIP) $(TORCH)
	@$(PIP) --editable .
	@touch $@

$(VENV)/.tested: $(VENV)/.installed
	@$(PIP) --editable ".[test]"
	@$(PIP) --editable ".[ocr]" \
	  || echo "RapidOCR could not be installed here; everything but the reward ocr works without."
	@$(PIP) --no-build-isolation --editable ".[deepspeed]" \
	  || echo "DeepSpeed could not be built here; everything but --accelerate_config zero1|zero2|zero3 works without."
	@touch $@

$(VENV)/.linted: $(VENV)/.installed
	@$(PIP) --editable ".[lint]"
	@touch $@
