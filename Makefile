# Two commands are all there is to remember: `make demo` and `make test`. Each sets everything up first.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Bytecode is written on first import, for the modules in use only: quicker than compiling every library on install.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test smoke test-random test-slow test-ray test-gpu lint docs bench wheel install clean

demo: $(VENV)/.installed
	$(BIN)/inoculate study run studies/demo.yaml

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n auto --dist loadfile -p no:randomly

smoke: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n auto --dist loadfile -p no:randomly -m smoke

# In random order; the seed is printed, and `make test-random SEED=123` repeats it.
SEED ?= $(shell date +%s)
test-random: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n auto --dist loadfile --randomly-seed=$(SEED)

test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m slow

# Ray is large, and only its own tests need it.
test-ray: $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet --no-compile -e '.[ray]'
	$(BIN)/python -m pytest -m ray

test-gpu: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m gpu

lint: $(VENV)/.installed-lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs
	@echo "open build/docs/index.html in a browser"

bench: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks

wheel: $(VENV)/bin/python
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

install: $(VENV)/.installed

clean:
	rm -rf $(VENV) runs build dist .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "inoculate needs Python 3.10 or newer: call make PYTHON=/path/to/python3"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --no-compile -e .
	@touch $@

# Collecting the tests compiles what they import, once; the workers would otherwise all do it, in the first run.
# torchattacks pins an old `requests`: it is installed without its requirements, all of which are here already.
$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-compile -e '.[test]'
	$(BIN)/python -m pip install --quiet --no-compile --no-deps 'torchattacks>=3.5'
	$(BIN)/python -m pytest --collect-only -qq > /dev/null
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-compile -e '.[docs]'
	@touch $@

$(VENV)/.installed-lint: $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet --no-compile -e '.[lint]'
	@touch $@
