# `make run` shows what the project does, `make lab` opens it, `make test` proves it; `make help` lists the rest.
# What each of them does stands in run.py, which Windows has too: `py run.py test`.
PYTHON ?= python3
NAMES := install run lab notebooks quick book test gpu package help

.PHONY: $(NAMES)
$(NAMES):
	@$(PYTHON) run.py $@
