# The commands that people type. Each sets up what it needs: no environment to activate, no step before it.

PYTHON ?= python3
# The shell reads these from the environment: a folder's name may have spaces, quotes or a dollar sign.
export ROOT := $(CURDIR)
export BIN := $(CURDIR)/.venv/bin
# DVC runs the stages as `python -m stages.<name>`: that python must be the environment's.
export PATH := $(BIN):$(PATH)

# One after another, whatever -j says: the tests would copy files that `repro` is just writing.
.NOTPARALLEL:
.PHONY: help repro metrics experiments test test-all lint bench demo plots checkpoints lock setup clean

help:         ## show this list
	@grep -E '^[a-z-]+: ' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 14

repro: setup  ## run the stages whose inputs changed, then show the metrics and where the report is
	@python -m tools.repair
	python -m dvc repro
	@$(MAKE) --no-print-directory metrics

metrics: setup  ## show the metrics of the workspace
	@python -m dvc metrics show
	@echo 'report: metrics/report.html (open it in a browser)'

experiments: setup  ## list the experiments: their metrics and the params in which they differ
	@python -m dvc exp show --hide-workspace --only-changed --drop '$(HIDDEN_COLUMNS)' --keep '$(METRIC_COLUMNS)'

# Of the columns of `dvc exp show`, which has one for every param and every dependency, too.
METRIC_COLUMNS := Experiment|accuracy|loss$$|val_acc|val_loss
HIDDEN_COLUMNS := Created|ece|f1|train_acc|train_loss|size_mb|classifier/|stages/|data/|models/|metrics/

test: setup   ## run the tests that take seconds each, one worker a core
	python -m pytest --numprocesses auto

test-all: setup  ## run all tests: kills, several processes, experiments, browsers too; what CI runs; some wait, so three workers
	python -m pytest --numprocesses 3 -m ''

lint: setup   ## check style and types
	python -m ruff check
	python -m ruff format --check
	python -m mypy

bench: repro  ## measure what the claims on speed rest on; run nothing beside it
	python benchmarks/overhead.py
	python benchmarks/inference.py

PORT ?= 8000
demo: setup   ## build the page that runs the model in a browser, and serve it to this machine: make demo PORT=8000
	python -m demo.build --port $(PORT)

# The versions that DVC's page names. Each file has within it what its package depends on.
VEGA := vega@5.20.2 vega-lite@5.2.0 vega-embed@6.18.2
plots:        ## fetch what the page of `dvc plots show` draws with; then it needs no network
	@command -v npm >/dev/null || { echo 'plots: npm is missing; install Node.js (on Debian: apt install npm)' >&2; exit 1; }
	@mkdir -p scratch/vega
	@cd scratch/vega && for package in $(VEGA); do \
	  file=$$(npm pack --prefer-offline --loglevel error $$package) && \
	  tar -xzf "$$file" --strip-components=2 package/build/$${package%@*}.min.js || exit 1; done
	@rm scratch/vega/*.tgz

checkpoints: setup  ## list the checkpoints of interrupted runs; python -m tools.checkpoints prune removes old ones
	@python -m tools.checkpoints

lock:         ## pin the newest versions that pyproject.toml allows; needs uv
	uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-annotate --no-header --upgrade --quiet --output-file requirements.lock
	@$(MAKE) --no-print-directory setup
	@python -m tools.environment

# The environment keeps, as copies, the lock and the folder that it was made for: a second call installs nothing. The
# programs in it name that folder: in a clone that was moved or copied they would run another clone's, or nothing.
setup:        ## create .venv from requirements.lock, or update it if the lock changed, or again if the clone was moved
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; make PYTHON=/path/to/it")'
	@made_for="$$(cat .venv/installed.folder 2>/dev/null)"; \
	[ -L .venv ] || [ "$${made_for:-$$ROOT}" = "$$ROOT" ] || rm -rf .venv
	@cmp -s requirements.lock .venv/installed.lock || { \
	  echo 'setup: installing requirements.lock into .venv (torch and its libraries: about 6 GB, a few minutes)' && \
	  $(PYTHON) -m venv .venv && \
	  "$$BIN/python" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock && \
	  "$$BIN/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable . && \
	  printf '%s\n' "$$ROOT" > .venv/installed.folder && \
	  cp requirements.lock .venv/installed.lock; }
	@"$$BIN/python" -m classifier.kernels.build

clean:        ## remove the environment and the checkpoints of interrupted runs; data, models and metrics stay
	@[ ! -x "$$BIN/python" ] || "$$BIN/python" -m tools.checkpoints prune --all
	rm -rf .venv
