# Two commands on a fresh machine: `make demo` and `make test`. Both install what they need into .venv first.
PYTHON ?= python3
BIN := .venv/bin

# uv where it is there: it installs in seconds what takes pip minutes. Both show how far they are.
define install
	@if command -v uv >/dev/null; then \
	  uv venv --quiet --allow-existing --python $(PYTHON) .venv && \
	  uv pip install --python $(BIN)/python --editable "$(1)"; \
	else \
	  $(PYTHON) -m venv .venv && \
	  $(BIN)/python -m pip install --disable-pip-version-check --editable "$(1)"; \
	fi
endef

.PHONY: demo test unit long lint clean

demo: .venv/runs
	@echo "training: minutes on two cores; a first report is drawn within one"
	$(BIN)/prunefront run studies/digits.toml --out runs/digits

test: .venv/installed
	$(MAKE) --jobs 2 lint unit

unit: .venv/installed
	$(BIN)/python -m pytest

long: .venv/installed
	$(BIN)/python -m pytest --numprocesses 0 -m long

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p build/types/prunefront
	for package in search trainables analysis; do ln -sfn ../../../$$package build/types/prunefront/$$package; done
	$(BIN)/pyright

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
