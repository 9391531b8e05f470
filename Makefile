# Two commands on a fresh machine: `make demo` and `make test`. Both install what they need into .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo check test unit quick slow long lint docs clean

demo: .venv/installed
	$(BIN)/prunefront run studies/digits.toml --out runs/digits

test: .venv/installed
	$(MAKE) --jobs 2 lint unit

unit: .venv/installed
	$(BIN)/python -m pytest

# While one works: lint, types, and the tests that are quick and need no Ray.
check: .venv/installed
	$(MAKE) --jobs 2 lint quick

quick: .venv/installed
	$(BIN)/python -m pytest --numprocesses 2 -m "not long and not ray and not slow"

# Times all tests without Ray, and writes tests/slow.txt.
slow: .venv/installed
	$(BIN)/python -m pytest --numprocesses 2 -m "not long and not ray" --find-slow

long: .venv/installed
	$(BIN)/python -m pytest --numprocesses 0 -m long

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p build/types/prunefront
	for package in search trainables analysis; do ln -sfn ../../../$$package build/types/prunefront/$$package; done
	$(BIN)/pyright

# The site, from docs/, the README and docstrings: build/site/index.html.
docs: .venv/docs
	$(BIN)/python docs/imports.py
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -d build/doctrees docs build/site

.venv/docs: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[docs]"
	touch $@

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv build runs *.egg-info
