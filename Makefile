# make check: all that has to pass before a change is handed in.
# The tests hold the documentation's code, its command lines, and that it mentions every name of spatialboost.__all__.

PYTHON ?= python
CODE = src tests examples $(wildcard scripts benchmarks)

.PHONY: check format lint types docs test fix

check: format lint types test

format:
	$(PYTHON) -m ruff format --check $(CODE)

lint:
	$(PYTHON) -m ruff check $(CODE)

types:
	$(PYTHON) -m mypy

docs:
	$(PYTHON) -m pytest tests/test_docs.py

test:
	$(PYTHON) -m pytest

fix:
	$(PYTHON) -m ruff format $(CODE)
	$(PYTHON) -m ruff check --fix $(CODE)
