# Everything here needs only python3 with venv and pip; each target makes what it lacks and skips what is done.
VENV    := .venv
BIN     := $(VENV)/bin
READY   := $(VENV)/.ready
LOWEST  := .venv-lowest
PYTHON3 ?= python3
ROWS    := mlp compiled bf16 parts start

.DEFAULT_GOAL := help
.PHONY: help install demo test lowest notebooks gallery bench lint format type clean

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON3) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --group dev
	touch $@

install: $(READY)  ## make .venv with vae_lab and its development tools

demo: $(READY)  ## train a small VAE on scikit-learn's digits, no download, and say which page to open
	$(BIN)/python -m vae_lab.train name=demo data=digits model=gaussian_mlp likelihood=gaussian_shared latent_dim=2 \
	  trainer.max_epochs=150 print_every=25

test: lint type  ## ruff, mypy and pytest
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal

$(LOWEST)/.ready: pyproject.toml
	$(PYTHON3) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/bin/uv pip compile --quiet --python $(LOWEST) --no-deps --all-extras --resolution lowest-direct \
	  --output-file $(LOWEST)/lowest.txt pyproject.toml
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST) --constraint $(LOWEST)/lowest.txt \
	  --editable . --requirements pyproject.toml --all-extras --group dev
	touch $@

lowest: $(LOWEST)/.ready  ## pytest with the lowest versions that pyproject.toml allows, in .venv-lowest; use Python 3.11
	$(LOWEST)/bin/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal

notebooks: $(READY)  ## run the notebooks, and keep what they show as pages in outputs/notebooks
	$(BIN)/jupyter nbconvert --to html --execute --output-dir outputs/notebooks notebooks/*.ipynb

gallery: $(READY)  ## train the experiments of docs/experiments.md and draw docs/gallery, in an hour or more
	$(BIN)/python docs/gallery.py

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
	rm -rf $(VENV) $(LOWEST) dist .mypy_cache .pytest_cache .ruff_cache notebooks/outputs
	find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
