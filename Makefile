# Everything here needs only python3 with venv and pip; each target makes what it lacks and skips what is done.
VENV    := .venv
BIN     := $(VENV)/bin
READY   := $(VENV)/.ready
PYTHON3 ?= python3
ROWS    := mlp compiled bf16 parts start

.DEFAULT_GOAL := help
.PHONY: help install demo test bench lint format type clean

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON3) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --group dev
	touch $@

install: $(READY)  ## make .venv with vae_lab and its development tools

demo: $(READY)  ## train a small VAE on scikit-learn's digits, no download
	$(BIN)/python -m vae_lab.train name=demo data=digits latent_dim=2 trainer.max_epochs=100 print_every=20

test: lint type  ## ruff, mypy and pytest
	$(BIN)/python -m pytest

bench: $(READY)  ## measure the speed against a bare PyTorch loop, in a few minutes; ROWS= for all rows, in twenty
	$(BIN)/python benchmarks/bench.py $(ROWS)
	$(BIN)/python benchmarks/page.py

lint: $(READY)  ## ruff, without changing anything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)  ## ruff, mending what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: $(READY)  ## mypy, strict on src
	$(BIN)/mypy

clean:  ## remove .venv and every cache; outputs/ and data/ stay
	rm -rf $(VENV) dist .mypy_cache .pytest_cache .ruff_cache
	find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
