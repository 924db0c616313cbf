# make quickstart   a first model in a few minutes, on any machine with Python 3.11
# make test         everything that continuous integration checks

PYTHON ?= python3
BIN := .venv/bin
RUN := runs/quickstart

.PHONY: quickstart test lint types clean

quickstart: .venv/ready
	$(BIN)/ingot train recipes/text/quickstart.yaml
	$(BIN)/ingot evaluate $(RUN) --rows 256
	$(BIN)/ingot generate $(RUN) 'def parse(' --tokens 120 --temperature 0.7
	$(BIN)/ingot report $(RUN)

test: lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -q

lint: .venv/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .

types: .venv/ready-dev
	$(BIN)/mypy

.venv/ready: pyproject.toml constraints.txt .ci/environment
	PYTHON=$(PYTHON) .ci/environment
	@touch $@

.venv/ready-dev: pyproject.toml constraints.txt .ci/environment
	PYTHON=$(PYTHON) .ci/environment dev,hf,data,vision,audio,report,scaling,reference
	@touch $@ .venv/ready

clean:
	rm -rf .venv .ingot $(RUN)
