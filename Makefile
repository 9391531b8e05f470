# Two commands on a fresh machine: `make demo` and `make test`. Both install what they need into .venv first.
PYTHON ?= python3
BIN := .venv/bin

# uv where it is there and works: it installs in seconds what takes pip minutes. Both show progress.
define install
	@{ command -v uv >/dev/null && \
	  uv venv --quiet --seed --allow-existing --python $(PYTHON) .venv && \
	  uv pip install --python $(BIN)/python --editable "$(1)"; } || \
	{ $(PYTHON) -m venv .venv && \
	  $(BIN)/python -m pip install --disable-pip-version-check --editable "$(1)"; }
endef

.PHONY: demo check test unit quick slow long lint docs clean

demo: .venv/runs
	@echo "training and reporting: minutes on two cores"
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
	ln -sfn ../../../prunefront/__init__.py build/types/prunefront/__init__.py
	$(BIN)/pyright

# The site, from docs/, the README and docstrings: build/site/index.html.
docs: .venv/docs
	$(BIN)/python docs/imports.py
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -d build/doctrees docs build/site

.venv/docs: .venv/installed
	$(call install,.[docs])
	touch $@

# What a study needs, and no tools of developers. PyTorch alone is some 200 MB (2 GB with CUDA).
.venv/runs: pyproject.toml
	@echo "installing prunefront and what it needs into .venv: minutes, for PyTorch and Ray are large"
	$(call install,.)
	touch $@

.venv/installed: pyproject.toml
	@echo "installing prunefront, what it needs, and the tools of its tests into .venv: minutes"
	$(call install,.[dev])
	touch .venv/runs $@

clean:
	rm -rf .venv build runs *.egg-info
