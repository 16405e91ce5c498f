# `make run` shows what the project does, `make lab` opens it, `make test` proves it; `make help` lists the rest.
# Each makes .venv first if it is missing or out of date.
PYTHON ?= python3
SCRATCH := build
QUICK := data/quick

.PHONY: run lab notebooks quick book test package help

run: .venv/installed  ## executes the notebooks quickly and draws the figures: does all of it work here?
	.venv/bin/flgc check
	OMP_NUM_THREADS=1 .venv/bin/flgc notebooks --mode smoke --into $(SCRATCH)/notebooks --workers 2
	.venv/bin/flgc figures
	@echo 'The notebooks run on this computer. To open them, type: make lab'

lab: .venv/installed  ## opens the course in the browser
	.venv/bin/jupyter lab notebooks/00-start-here.ipynb

notebooks: .venv/installed  ## executes all notebooks in place, as their stored outputs were made
	OMP_NUM_THREADS=1 .venv/bin/flgc notebooks

quick: .venv/installed  ## a small sweep on embedded data: the shape of the experiment in a few minutes
	.venv/bin/flgc sweep --grid quick --results $(QUICK)/results --root $(QUICK) --workers 2 --threads 1
	.venv/bin/flgc figures --results $(QUICK)/results --folder $(QUICK)/figures

book: .venv/installed  ## builds the book in build/book: the course, the results and the reference, to read in a browser
	OMP_NUM_THREADS=1 .venv/bin/python -m sphinx --fail-on-warning --keep-going --quiet -c book . $(SCRATCH)/book
	@echo 'The book is built. Open: $(CURDIR)/$(SCRATCH)/book/index.html'

test: book  ## the book, lint, types, all tests, the wheel's among them, and every notebook's stored outputs
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2
	FLGC_MODE=smoke OMP_NUM_THREADS=1 .venv/bin/python -m pytest notebooks -n 2 --dist loadfile \
		--nbval-lax --nbval-current-env --nbval-cell-timeout 180 --nbval-sanitize-with tests/nbval_sanitize.cfg

package: .venv/installed  ## builds the wheel in build/package/ and tries it where only PyTorch, NumPy and SciPy are
	.venv/bin/python -m pytest tests/test_package.py --basetemp $(SCRATCH)/package

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	touch $@
