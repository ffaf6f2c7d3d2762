# carbon-exporter: `make demo` shows it, `make test` proves it. Both do their own set-up.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-fast check fmt docs rules dashboards bench

demo: $(VENV)/ready
	@scripts/real-parts prometheus prometheus-pushgateway prometheus-alertmanager
	@$(BIN)/carbon-exporter demo $(if $(KEEP),--keep)

test: $(VENV)/ready
	@scripts/real-parts prometheus prometheus-pushgateway prometheus-alertmanager prometheus-node-exporter gcc libc6-dev curl \
	  slurmctld slurmd slurm-client munge victoria-metrics chromium
	@$(BIN)/python -m pytest

test-fast: $(VENV)/ready
	@$(BIN)/python -m pytest -m "not slow" -q

check: $(VENV)/ready
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/mypy --python-version 3.11 -p dashboards

fmt: $(VENV)/ready
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .
	@$(MAKE) --no-print-directory docs rules dashboards

docs: $(VENV)/ready
	@$(BIN)/python -m carbon_exporter.metrics > docs/metrics.md

rules: $(VENV)/ready
	@$(BIN)/carbon-exporter rules --out alerts --force

dashboards: $(VENV)/ready
	@$(BIN)/python -m dashboards

bench: $(VENV)/ready
	@status=0; for part in node cluster intensity forecast rules; do $(BIN)/python -m benchmarks.$$part || status=1; done; exit $$status

$(VENV)/ready: pyproject.toml requirements-dev.txt
	@echo "Setting up $(VENV) (once) ..."
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || scripts/real-parts python3-venv
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --require-hashes -r requirements-dev.txt
	@$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
