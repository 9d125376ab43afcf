# `make demo` and `make test` work on a fresh machine that has python3 (3.11 or newer) and make.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
DOCS   := $(VENV)/.installed-docs

# LOCK=/dev/null is none: what pyproject.toml allows.
LOCK   ?= constraints.txt
# The torch that the lock and the newest environment hold. Stated, because the newest that an index offers is often a
# CUDA build of several gigabytes, and no index says which one is small: `make test-newest TORCH=...` tries another.
TORCH  ?= 2.13.0
# Two that import together: torchvision is built for one torch each.
TORCHVISION_TORCH ?= 2.14.1
TORCHVISION       ?= 0.29.1

# Makes an environment and installs into it, in silence. A stamp beside it is touched only when all of that succeeded.
ENVIRONMENT := PYTHON="$(PYTHON)" .ci/environment

# The bundled models need no network; nothing here should try to reach one.
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
# Bytecode is kept, whatever the shell says: without it every start compiles torch and transformers anew.
RUN     := PYTHONDONTWRITEBYTECODE= $(OFFLINE)

# What torchvision may change: processors and what is made of them.
WITH_TORCHVISION := tests/pocket tests/lens/layouts tests/lens/test_loading.py tests/lens/test_processors.py \
	tests/lens/test_real_processors.py tests/conformance/test_standins.py tests/test_torchvision_check.py

.PHONY: help setup demo test test-all test-oldest test-newest test-torchvision lock report models lint format docs clean

help:
	@echo "make demo             set everything up, then ask a small model about a picture and show where it looks"
	@echo "make test             set everything up, then run the fast tests"
	@echo "make test-all         also the slow tests"
	@echo "make test-oldest      the fast tests with the oldest versions that pyproject.toml allows"
	@echo "make test-newest      the fast tests with the newest ones (TORCH=2.14.1 for another torch)"
	@echo "make test-torchvision the tests of models and processors where torchvision is installed (gigabytes)"
	@echo "make lock             renew constraints.txt and constraints-oldest.txt"
	@echo "make report           measure the bundled models again, and put the report into docs/ (hours)"
	@echo "make models           prove every adapter on a tiny model again, and put the table into docs/ (minutes)"
	@echo "make lint             ruff and mypy"
	@echo "make format           let ruff rewrite what it can"
	@echo "make docs             build the documentation into site/"
	@echo "PYTHON=python3.12     in front or behind: the Python that environments are made with"

setup: $(STAMP)

# Installs again only when the dependencies change: the package itself is installed in place.
$(STAMP): pyproject.toml constraints.txt
	@$(ENVIRONMENT) $(VENV) $(LOCK) -e ".[dev]"
	@touch $@

$(DOCS): $(STAMP)
	@$(ENVIRONMENT) $(VENV) $(LOCK) -e ".[docs]"
	@touch $@

demo: $(STAMP)
	@$(RUN) $(BIN)/attnlens demo --save out/demo.png

test: $(STAMP)
	$(RUN) $(BIN)/python -m pytest -q

test-all: $(STAMP)
	$(RUN) $(BIN)/python -m pytest -q -m "not gpu"

.venv-oldest/.installed: pyproject.toml constraints-oldest.txt
	@$(ENVIRONMENT) .venv-oldest constraints-oldest.txt -e ".[dev]"
	@touch $@

test-oldest: .venv-oldest/.installed
	$(RUN) .venv-oldest/bin/python -m pytest -q

# No stamp: what is newest changes by itself.
test-newest:
	@$(ENVIRONMENT) .venv-newest /dev/null --upgrade --upgrade-strategy eager torch==$(TORCH) -e ".[dev]"
	$(RUN) .venv-newest/bin/python -m pytest -q

.venv-torchvision/.installed: pyproject.toml constraints.txt
	@mkdir -p build
	@grep -v '^torch==' constraints.txt > build/constraints-torchvision.txt
	@$(ENVIRONMENT) .venv-torchvision build/constraints-torchvision.txt \
		torch==$(TORCHVISION_TORCH) torchvision==$(TORCHVISION) -e ".[dev]"
	@touch $@

test-torchvision: .venv-torchvision/.installed
	$(RUN) .venv-torchvision/bin/python -m pytest -q -m "not slow and not gpu" $(WITH_TORCHVISION)

lock:
	@$(ENVIRONMENT)
	@mkdir -p build
	@$(PYTHON) .ci/lock.py floors > build/floors.txt
	@rm -rf .venv-lock
	@$(ENVIRONMENT) .venv-lock /dev/null torch==$(TORCH) -e ".[dev,docs]"
	@.venv-lock/bin/python .ci/lock.py installed > build/constraints.txt
	@rm -rf .venv-lock
	@$(ENVIRONMENT) .venv-lock build/floors.txt -e ".[dev,docs]"
	@.venv-lock/bin/python .ci/lock.py installed > build/constraints-oldest.txt
	@rm -rf .venv-lock
	@mv build/constraints.txt build/constraints-oldest.txt .

report: $(STAMP)
	$(RUN) $(BIN)/attnlens reproduce out/reproduce
	mkdir -p docs/reproduce
	cp -r out/reproduce/report.md out/reproduce/report.json out/reproduce/pictures docs/reproduce/

models: $(STAMP)
	mkdir -p docs/models
	$(RUN) $(BIN)/attnlens adapters check --tiny --all --jobs 2 --json > docs/models/checks.json || true
	$(RUN) $(BIN)/attnlens adapters table docs/models/checks.json > docs/models.md

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf build dist site out .mypy_cache .ruff_cache .pytest_cache .hypothesis
