# `make run` shows what the project does; `make test` proves it. Both make .venv first if it is missing or out of date.
PYTHON ?= python3
QUICK := data/quick

.PHONY: run test

run: .venv/installed
	.venv/bin/flgc sweep --grid quick --results $(QUICK)/results --root $(QUICK) --workers 2 --threads 1
	.venv/bin/flgc figures --results $(QUICK)/results --folder $(QUICK)/figures

test: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/python -m pytest

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	touch $@
