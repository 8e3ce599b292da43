# Two commands: `make demo` and `make test`. Each installs what it needs.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/noria-requirements.stamp
# Waiting OpenMP threads that spin make everything ten times slower on few cores.
export GOMP_SPINCOUNT = 0
export TOKENIZERS_PARALLELISM = false
export HF_HUB_OFFLINE = 1
export GRADIO_ANALYTICS_ENABLED = False
# uv leaves compiling to whoever imports first: ten processes at once, each for itself where bytecode is not written.
COMPILE := env -u PYTHONDONTWRITEBYTECODE $(RUN) -c

.PHONY: help install demo test story check format bench requirements clean
.DEFAULT_GOAL := help

help:  ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## +/\t/' | expand -t 14

install: $(READY)  ## everything into .venv, with uv

$(READY): requirements/main.txt pyproject.toml
	@echo "installing into $(VENV) (5 GB on disk, shared with the uv cache)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Noria needs Python 3.11 or later")'
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@$(RUN) -c 'import uv' 2>/dev/null || $(RUN) -m pip install --quiet --disable-pip-version-check "$$(grep -E '^uv==' requirements/main.txt)"
	@$(RUN) -m uv pip install --quiet --no-deps --python $(RUN) -r requirements/main.txt
	@$(RUN) -m uv pip install --quiet --no-deps --no-build-isolation --python $(RUN) --editable .
	@$(COMPILE) 'import workers.models.golden as golden, workers.trainer.methods.lora; golden.load_transformers()' & \
		$(COMPILE) 'import gradio, uvicorn, api.app, api.ui.serve, deploy.demo.story, streams.app, workers.loop' \
		&& wait $$!
	@touch $@

demo: $(READY)  ## the whole loop on this machine, told as a story (ONCE=1: stop at its end)
	@$(VENV)/bin/noria demo

test: $(READY)  ## every test, against the real Kafka and PostgreSQL (TESTS=tests/unit: only those)
	@env -u PYTHONDONTWRITEBYTECODE $(RUN) -m $(if $(TESTS),pytest $(TESTS),tests.lanes)

story: $(READY)  ## the whole story, three times, and two thousand events under kill -9 (before a release; about an hour)
	@$(RUN) -m pytest tests/story

check: $(READY)  ## format, lint, types, import rules
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/lint-imports & imports=$$!; $(VENV)/bin/mypy; types=$$?; wait $$imports && exit $$types

format: $(READY)  ## put the code into its form
	@$(VENV)/bin/ruff format .
	@$(VENV)/bin/ruff check --fix .

bench: $(READY)  ## one benchmark: make bench NAME=swap (without NAME: their names)
	@$(RUN) -m tests.bench $(NAME)

requirements: $(READY)  ## pin what pyproject.toml, requirements/opencompass.in and deploy/kafka.py ask for
	@$(RUN) -m uv pip compile --quiet --no-header --no-annotate --python-version 3.11 \
		--all-extras pyproject.toml -o requirements/main.txt
	@$(RUN) -m uv pip compile --quiet --no-header --no-annotate --python-version 3.11 \
		requirements/opencompass.in -o requirements/opencompass.txt
	@$(RUN) -m deploy.kafka --pin

clean:  ## stop what runs here and remove all that was made
	@if [ -x $(VENV)/bin/noria ] && [ -d .noria/run ]; then $(VENV)/bin/noria down || true; fi
	rm -rf .venv .noria build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
