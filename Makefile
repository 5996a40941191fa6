# Requires only python3 with venv and pip. Each target installs missing requirements and skips completed steps.
VENV    := .venv
BIN     := $(VENV)/bin
READY   := $(VENV)/.ready
DOCS    := $(VENV)/.docs-ready
LOWEST  := .venv-lowest
PYTHON3 ?= python3
ROWS    := mlp compiled bf16 parts start
PYTEST  := -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal --durations 10

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all lowest docs notebooks gallery bench lint format type clean

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON3) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --group dev
	touch $@

$(DOCS): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group docs
	touch $@

install: $(READY)  ## create .venv with vae_lab and the development tools

demo: $(READY)  ## train a small VAE on scikit-learn's digits, without a download, and print the path of the report
	$(BIN)/python -m vae_lab.train name=demo data=digits model=gaussian_mlp likelihood=gaussian_shared latent_dim=2 \
	  trainer.max_epochs=150 print_every=25

test: lint type  ## run ruff, mypy and the tests that are not marked as slow
	$(BIN)/python $(PYTEST) -m "not slow"

test-all: lint type  ## run ruff, mypy and all tests
	$(BIN)/python $(PYTEST)

$(LOWEST)/.ready: pyproject.toml
	$(PYTHON3) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/bin/uv pip compile --quiet --python $(LOWEST) --no-deps --all-extras --resolution lowest-direct \
	  --output-file $(LOWEST)/lowest.txt pyproject.toml
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST) --constraint $(LOWEST)/lowest.txt \
	  --editable . --requirements pyproject.toml --all-extras --group dev
	touch $@

lowest: $(LOWEST)/.ready  ## run the tests with the lowest versions that pyproject.toml allows; use Python 3.11
	$(LOWEST)/bin/python $(PYTEST)

notebooks: $(READY)  ## run the notebooks and write them to outputs/notebooks as HTML
	$(BIN)/jupyter nbconvert --to html --execute --output-dir outputs/notebooks notebooks/*.ipynb

docs: $(DOCS)  ## build the documentation; open site/index.html
	OMP_NUM_THREADS=1 NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

gallery: $(READY)  ## train the experiments in docs/experiments.md and regenerate docs/gallery, in an hour or more
	$(BIN)/python docs/gallery.py

bench: $(READY)  ## compare speed with a bare PyTorch loop, in a few minutes; set ROWS= for all rows, in twenty
	$(BIN)/python benchmarks/bench.py $(ROWS)
	$(BIN)/python benchmarks/page.py

lint: $(READY)  ## check style with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)  ## fix style with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: $(READY)  ## check types with mypy
	$(BIN)/mypy

clean:  ## remove environments, caches and the site, but not outputs/ or data/
	rm -rf $(VENV) $(LOWEST) dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis notebooks/outputs
	find src tests benchmarks docs -name __pycache__ -prune -exec rm -rf {} +
