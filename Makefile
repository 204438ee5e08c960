# Everything runs from .venv, which the first target builds with nothing but Python 3.11+ and make.
PYTHON ?= python3
BIN := .venv/bin
export MPLBACKEND := Agg

.PHONY: demo demo-blockpush test check bench soak
.DEFAULT_GOAL := test

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bet-ray needs Python 3.11 or newer; try make PYTHON=python3.12")'
	@echo "installing into .venv, a few minutes"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

.venv-s3/.ready: tests/s3-server.txt  ## the S3 server that tests of storage start, in an environment of its own
	$(PYTHON) -m venv .venv-s3
	.venv-s3/bin/pip install --quiet --disable-pip-version-check --requirement tests/s3-server.txt
	touch $@

demo: .venv/.ready  ## point mass 2: generate demonstrations, sweep, measure the winner, write the report
	$(BIN)/bet-ray demo

demo-blockpush: runs/demo-blockpush.parquet  ## BlockPush: train two settings, measure and film the winner
	$(BIN)/bet-ray sweep sweeps/blockpush_demo.yaml data.path=$<

runs/demo-blockpush.parquet: | .venv/.ready
	$(BIN)/bet-ray data generate blockpush --episodes 500 --out $@

test: check .venv-s3/.ready  ## lint, types, every test
	$(BIN)/pytest -n 2 -m 'not slow'
	$(BIN)/pytest -n 2 --dist worksteal -m slow

check: .venv/.ready
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright

bench: .venv/.ready  ## throughput ratios, side by side in one run
	$(BIN)/python -m benchmarks.pusht_env
	$(BIN)/python -m benchmarks.blockpush_env
	$(BIN)/python -m benchmarks.evaluation
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.scale
	$(BIN)/python -m benchmarks.sweep
	$(BIN)/python -m benchmarks.racing

soak: .venv/.ready  ## ten minutes of random faults, then every table compared
	$(BIN)/python -m tests.soak --minutes 10
