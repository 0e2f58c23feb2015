# Each target makes what it needs, from a fresh clone on a machine with Python >= 3.11, and leaves nothing running.
#
#   make demo       stream a real data set through the fabric; writes demo/report.html
#   make test       the test suite                    (ARGS="-k name" goes to pytest)
#   make test-slow  the tests marked slow or timing
#   make kills      a thousand kill -9 of writers, readers and servers on every place (ARGS="--place shm --count 100"),
#                   or of producers, consumers and brokers (ARGS="--plane events --count 200")
#   make soak       mixed load with kills, cuts and pauses on Redis and a node server (MINUTES=30 for each)
#   make fuzz       every decoder of bytes from outside, with coverage guidance (RUNS=100000 or SECONDS=60 for each)
#   make test-dask  what rests on Dask's own insides, with three other versions of Dask
#   make dask-suite distributed's own tests of its client with ours in its place (SOURCE=a checkout or archive of distributed)
#   make bench      the benchmarks beside other systems; writes bench/ and the tables in README.md and docs/
#   make lint       ruff, mypy, pyright and the floors
#   make docs       the documentation, into site/
#   make ready      what lint and test need, installed beforehand
#   make format     rewrite the code as ruff formats it
#   make clean      remove everything that was made here
#
# PYTHON=python3.12 chooses the interpreter, which then has an environment of its own (.venv-3.12).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DELETE_ON_ERROR:
.NOTPARALLEL:

ifndef VENV
ifdef PYTHON
VERSION := $(shell tools/find-python --version $(PYTHON))
VENV := $(if $(VERSION),.venv-$(VERSION),$(error PYTHON=$(PYTHON) cannot be used))
else
VENV := .venv
endif
endif
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# The tests start interpreters by the hundred, which must not compile the package each time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help ready collected demo test test-slow kills soak fuzz test-dask dask-suite bench lint docs format clean

help:
	@sed -n 's/^#   //p' Makefile

# An environment that exists is kept, whichever Python it was made with; `make clean` lets go of it.
$(BIN)/python:
	@python=$$(tools/find-python $(PYTHON)); echo "making $(VENV) with $$python"; tools/make-venv $$python $(VENV)

# One stamp per extra: only what a target needs is installed, and only again when pyproject.toml or the C core changed.
# pip would compile the modules one after the other.
$(VENV)/.installed-%: pyproject.toml $(wildcard proxyfab/proxy/_core*.[ch]) | $(BIN)/python
	@echo "installing proxyfab[$*] into $(VENV) (minutes the first time, then never)"
	@$(BIN)/python -m pip install --quiet --no-compile --editable '.[$*]'
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1 || true
	@touch $@

# Both at once: each installation builds the core.
ready: $(VENV)/.installed-lint,test
	@touch $(VENV)/.installed-lint $(VENV)/.installed-test

demo: $(VENV)/.installed-demo
	@$(BIN)/proxyfab demo $(ARGS)

# Most of the tests' time is spent waiting for processes and servers: they take a quarter of it from a core.
WORKERS ?= $(shell cores=$$(nproc); echo $$(( cores < 4 ? 5 * cores / 2 : 8 )))

EXTRA ?= test
test: $(VENV)/.installed-$(EXTRA)
	@tools/get-programs
	@tools/run-tests $(BIN)/python $(WORKERS) $(ARGS)

# Only modules: their assertions are rewritten, and kept beside them.
collected: $(VENV)/.installed-$(EXTRA)
	@$(BIN)/python -m pytest --collect-only -q -o python_functions=- -o python_classes=- >/dev/null || [ $$? = 5 ]

test-slow: $(VENV)/.installed-test
	@tools/get-programs
	@$(BIN)/python -m pytest -m 'slow or timing' $(ARGS)

kills: $(VENV)/.installed-test
	@$(BIN)/python -m proxyfab.testing.campaign --output kills.json $(ARGS)

MINUTES ?= 30
soak: $(VENV)/.installed-test
	@$(BIN)/python -m proxyfab.testing.soak --minutes $(MINUTES) $(ARGS)

fuzz: $(VENV)/.installed-fuzz
	@RUNS=$(RUNS) SECONDS=$(SECONDS) $(BIN)/python tools/fuzz $(ARGS)

test-dask: $(VENV)/.installed-test
	@tools/get-programs
	@tools/dask-versions $(BIN)/python $(ARGS)

dask-suite: $(VENV)/.installed-test
	@$(BIN)/python tools/dask-suite $(SOURCE) $(ARGS)

bench: $(VENV)/.installed-bench
	@tools/get-programs
	@$(BIN)/python -m benchmarks $(ARGS)

lint: $(VENV)/.installed-lint
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@$(BIN)/lint-imports --no-logo

docs: $(VENV)/.installed-docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "site/index.html"

format: $(VENV)/.installed-lint
	@$(BIN)/ruff check --fix --select I
	@$(BIN)/ruff format

clean:
	@rm -rf .venv .venv-3.* *.egg-info build dist site demo bench fuzz kills.json .hypothesis .import_linter_cache .*_cache
	@rm -f proxyfab/proxy/_core*.so
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
