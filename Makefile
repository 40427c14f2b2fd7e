# `make demo` and `make test` set up .venv themselves; nothing else is needed first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check
TYPECHECKED := build/typecheck

.DEFAULT_GOAL := help
.PHONY: help demo test test-full fuzz sanitize lint typecheck clean

help:
	@echo "make demo       compile, verify and measure zoo:vit_digits for this machine"
	@echo "make test       lint, type check and the tests (under 20 minutes on 2 cores)"
	@echo "make test-full  the long tests as well"
	@echo "make fuzz       2,000 broken models, bundles and inputs through the commands"
	@echo "make sanitize   10,000 calls of the kernels under AddressSanitizer and UBSan"

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "edgec needs Python 3.11 or newer; make PYTHON=python3.11 demo")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt pip setuptools wheel
	# torch by itself first: its pin must win before anything asks for "any torch".
	$(PIP) install -q -c constraints.txt torch
	$(PIP) install -q -c constraints.txt -e '.[all,dev]'
	@touch $@

demo: $(INSTALLED)
	$(BIN)/python benchmarks/demo.py

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# An editable install maps rooms by an import hook that type checkers cannot follow.
typecheck: $(INSTALLED)
	@rm -rf $(TYPECHECKED)
	$(PIP) install -q --no-deps --no-build-isolation --target $(TYPECHECKED) .
	MYPYPATH=$(TYPECHECKED) $(BIN)/mypy -n 2 -p edgec

test: lint typecheck
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m "not full"

test-full: lint typecheck
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

fuzz: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fuzz.py --cases 2000

sanitize: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/sanitize.py 10000

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
