# Two commands for a newcomer: `make demo` restores the photographs in examples/, `make test` runs the suite.
# Each makes .venv first, with the pinned constraints. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
INSTALL := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check bench clean

demo: $(VENV)/.installed
	$(VENV)/bin/python examples/demo.py

test: $(VENV)/.test-tools
	$(VENV)/bin/python -m pytest

check: $(VENV)/.test-tools
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright

bench: $(VENV)/.test-tools
	$(VENV)/bin/python benchmarks/bench.py --large --json benchmarks/results/bench.json --commit "$$(git rev-parse --short HEAD)"

clean:
	rm -rf $(VENV) restored dist

$(VENV)/bin/python:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'pellucid needs Python 3.11 or newer; name one with: make PYTHON=python3.11')"
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing pellucid into $(VENV); the first time takes a minute or two."
	$(INSTALL) -e .
	@touch $@

$(VENV)/.test-tools: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing pellucid and its test tools into $(VENV); the first time takes a minute or two."
	$(INSTALL) -e '.[test]'
	@touch $@ $(VENV)/.installed
