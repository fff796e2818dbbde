# The commands a person types. Each sets up what it needs: no activated environment, no step before it.

PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin
# Stages are run as `python -m stages.<name>`: that python must be the environment's.
export PATH := $(BIN):$(PATH)

.PHONY: help repro test lint bench demo leftovers lock setup clean

help:     ## show this list
	@grep -E '^[a-z]+: ' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 10

repro: setup  ## download, annotate, train, evaluate and export what changed; then show the metrics
	@python -m stages.mend
	dvc repro
	@tail -n +1 metrics/train.json metrics/evaluate.json metrics/export.json

test: setup  ## run the tests, one worker a core
	pytest --numprocesses auto --dist worksteal

lint: setup  ## check style and types
	ruff check
	ruff format --check
	mypy

bench: repro  ## measure what the speed claims rest on; run nothing beside it
	python benchmarks/overhead.py
	python benchmarks/inference.py

PORT ?= 8000
demo: setup  ## build the page that runs the model in a browser, and serve it to this machine: make demo PORT=8000
	python -m demo.build --port $(PORT)

leftovers: setup  ## list what interrupted runs left; python -m stages.leftovers --remove cleans up
	@python -m stages.leftovers

lock:  ## pin the newest versions that pyproject.toml allows; needs uv
	uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-annotate --no-header --upgrade --quiet --output-file requirements.lock

# The environment remembers, as a copy, the lock that it was made from: a second call installs nothing.
setup:  ## create .venv from requirements.lock, or update it if the lock changed
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; make PYTHON=/path/to/it")'
	@cmp -s requirements.lock .venv/installed.lock || { \
	  echo 'setup: installing requirements.lock into .venv (torch and its libraries: about 6 GB, a few minutes)' && \
	  $(PYTHON) -m venv .venv && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock && \
	  cp requirements.lock .venv/installed.lock; }

clean:  ## remove the environment and interrupted runs' states; data, models and metrics stay
	@[ ! -x $(BIN)/python ] || $(BIN)/python -m stages.leftovers --remove --all
	rm -rf .venv scratch
