# `make demo` and `make test` work on a fresh machine that has python3 (3.11 or newer) and make.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
DOCS   := $(VENV)/.installed-docs

# Compiling every module of torch and transformers takes longer than compiling those that are used, when they are.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt

# The bundled models need no network; nothing here should try to reach one.
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
# Bytecode is kept, whatever the shell says: without it every start compiles torch and transformers anew.
RUN     := PYTHONDONTWRITEBYTECODE= $(OFFLINE)

.PHONY: help setup demo test test-all report models lint format docs clean

help:
	@echo "make demo      set everything up, then ask a small model about a picture and show where it looks"
	@echo "make test      set everything up, then run the fast tests"
	@echo "make test-all  also the slow tests"
	@echo "make report    measure the bundled models again, and put the report into docs/ (most of an hour)"
	@echo "make models    prove every adapter on a tiny model again, and put the table into docs/ (minutes)"
	@echo "make lint      ruff and mypy"
	@echo "make format    let ruff rewrite what it can"
	@echo "make docs      build the documentation into site/"

setup: $(STAMP)

# Installs again only when the dependencies change: the package itself is installed in place.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) -e ".[dev]"
	@touch $@

$(DOCS): $(STAMP)
	$(INSTALL) -e ".[docs]"
	@touch $@

demo: $(STAMP)
	@$(RUN) $(BIN)/attnlens demo --save out/demo.png

test: $(STAMP)
	$(RUN) $(BIN)/python -m pytest -q

test-all: $(STAMP)
	$(RUN) $(BIN)/python -m pytest -q -m "not gpu"

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
