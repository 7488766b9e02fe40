# Everything starts here: `make demo` runs the whole job on a small model, `make test` checks and tests.
# PYTHON=python3.12 chooses the Python, TORCH=cpu|cuda|default the build of torch (see scripts/install_torch.py).
PYTHON ?= python3
VENV ?= .venv
export TORCH ?=

BIN := $(VENV)/bin
RUN := $(BIN)/python -m refusal_lightning
DEMO := configs/demo.yaml
STAMP := $(VENV)/.installed
CHECKED := $(wildcard refusal_lightning tests scripts benchmarks examples)

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-zoo test-wheel test-notebooks check docs format clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP)  ## Make .venv with the tested versions of everything

$(STAMP): pyproject.toml constraints.txt scripts/install_torch.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, and '$(PYTHON)' is not: try make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; \
	  exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV) || { \
	  echo "No virtual environment could be made; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Installing into $(VENV): about 2 GB and two minutes"
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.3'
	$(BIN)/python scripts/install_torch.py constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	@touch $@

demo: install  ## Run all stages on the demo model
	$(RUN) run --config $(DEMO)

# Two processes of one thread each: on two cores twice as fast as one process of two. Files keep their order: by the number
# of tests, the longest test would begin last, alone.
test: check  ## Check, and run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: install  ## Run the long suites
	$(BIN)/python -m pytest -m slow

# Not by file as above: the zoo is one file, and its models are independent of each other.
test-zoo: install  ## Hold a tiny model of every architecture to plain passes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m slow tests/zoo

test-wheel: install  ## Build wheel and sdist, install the wheel in an empty environment, use it in another folder
	$(BIN)/python scripts/try_wheel.py

test-notebooks: install  ## Run the notebooks of examples/ on the demo model
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m slow tests/examples

check: install  ## Lint, formatting, types, and which part may import which
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/mypy $(CHECKED)
	$(BIN)/lint-imports

# Then `python -m http.server --directory site`: read from files it is whole too, but for the search.
docs: install  ## Build the site of docs/ into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

format: install  ## Format, and mend what the linter can
	$(BIN)/ruff format $(CHECKED)
	$(BIN)/ruff check --fix $(CHECKED)

clean:  ## Delete the environment and caches; results and stores stay
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
