# demur: each target builds what it needs, so nothing has to be run by hand before.
#
#   make demo    install into .venv, then measure, explain, mitigate, verify and report on the embedded model
#   make test    the tests            make check   ruff and mypy
#   make perf    demur beside its peers, as a table of ratios
#   make docs    the documentation, into site/ (open site/index.html); nothing is fetched but the builder itself
#
# TORCH_INDEX=<url>  take torch (and only torch) from that package index, for instance one with CPU-only builds
# PYTHON=python3.12  the interpreter that makes .venv (3.11 or newer)

PYTHON ?= python3
TORCH_INDEX ?=
OUT ?= runs/demo

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
LOCAL := $(VENV)/.installed-local
DEV := $(VENV)/.installed-dev
DOCS := $(VENV)/.installed-docs

.PHONY: demo test check perf docs
.DEFAULT_GOAL := demo

demo: $(LOCAL)
	$(BIN)/demur run recipes/quickstart.toml --out $(OUT)

test: $(DEV)
	$(BIN)/python -m pytest

check: $(DEV)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

perf: $(LOCAL)
	$(BIN)/python perf/run.py

docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "demur needs Python 3.11 or newer; $(PYTHON) is not. Name another one: make PYTHON=python3.12"; exit 2; }
	@echo "==> making $(VENV)"
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-torch: constraints.txt | $(BIN)/python
ifneq ($(strip $(TORCH_INDEX)),)
	@echo "==> installing torch from TORCH_INDEX"
	$(PIP) --no-deps --index-url $(TORCH_INDEX) torch
endif
	@touch $@

$(LOCAL): pyproject.toml constraints.txt $(VENV)/.installed-torch
	@echo "==> installing demur[local] into $(VENV) (the first time this takes a few minutes)"
	$(PIP) -e '.[local]'
	@touch $@

$(DOCS): pyproject.toml constraints.txt | $(BIN)/python
	@echo "==> installing demur[docs] into $(VENV)"
	$(PIP) -e '.[docs]'
	@touch $@

$(DEV): $(LOCAL)
	@echo "==> installing demur[local,train,serve,gguf,tune,eval,ray,docs,dev] into $(VENV)"
	$(PIP) -e '.[local,train,serve,gguf,tune,eval,ray,docs,dev]'
	@touch $@
