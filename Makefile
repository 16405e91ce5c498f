# `make run` shows what the project does, `make lab` opens it, `make test` proves it.
# Each makes .venv first if it is missing or out of date.
PYTHON ?= python3
SCRATCH := build
QUICK := data/quick

.PHONY: run lab notebooks quick test

run: .venv/installed
	.venv/bin/flgc check
	OMP_NUM_THREADS=1 .venv/bin/flgc notebooks --mode smoke --into $(SCRATCH)/notebooks --workers 2
	.venv/bin/flgc figures
	@echo 'The notebooks run on this computer. To open them, type: make lab'

# Opens the course in the browser.
lab: .venv/installed
	.venv/bin/jupyter lab notebooks/00-start-here.ipynb

# Executes all notebooks in place, as their stored outputs were made.
notebooks: .venv/installed
	OMP_NUM_THREADS=1 .venv/bin/flgc notebooks

# A small sweep on embedded data: the shape of the experiment in a few minutes.
quick: .venv/installed
	.venv/bin/flgc sweep --grid quick --results $(QUICK)/results --root $(QUICK) --workers 2 --threads 1
	.venv/bin/flgc figures --results $(QUICK)/results --folder $(QUICK)/figures

test: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/python -m pytest
	FLGC_MODE=smoke OMP_NUM_THREADS=1 .venv/bin/python -m pytest notebooks -n 2 --dist loadfile \
		--nbval-lax --nbval-current-env --nbval-cell-timeout 180 --nbval-sanitize-with tests/nbval_sanitize.cfg

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev,notebooks,fast,export]'
	touch $@
