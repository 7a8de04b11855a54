# Everything runs from here; `make help` lists the targets. The environment lives in .venv.
#
# On a container with its own torch (MLU containers have one) keep that torch:
#     make demo VENV_FLAGS=--system-site-packages

PYTHON ?= python3
VENV ?= .venv
VENV_FLAGS ?=
BIN := $(VENV)/bin
SAMPLE := data/sample
DEMO_RUN := runs/demo

.DEFAULT_GOAL := help
.PHONY: help install demo demo-mlu test test-slow lint format bench clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: $(VENV)/.installed ## make the environment, or bring it up to date with pyproject.toml

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV_FLAGS) $(VENV)
	@# A torch that is there already (MLU containers) stays: pip may add to it but not replace it.
	$(BIN)/python -c "from importlib.metadata import distributions as all; print(*sorted({f'{d.name}=={d.version}' for d in all() if d.name in ('torch', 'torchvision')}), sep='\n')" > $(VENV)/constraints.txt
	$(BIN)/python -m pip install --quiet --constraint $(VENV)/constraints.txt ".[dev]"
	touch $@

demo: install ## train on the built-in sample data and print its COCO mAP (minutes on a CPU)
	$(BIN)/python -m coco.sample $(SAMPLE)
	rm -rf $(DEMO_RUN)
	$(BIN)/python train.py --config configs/demo.yaml --data_root $(SAMPLE) --run_dir $(DEMO_RUN)

test: install lint ## lint and tests, without the slow ones
	$(BIN)/python -m pytest

test-slow: install ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

lint: install ## ruff's rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install ## apply ruff's fixes and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the environment, the sample data and the demo's run
	rm -rf $(VENV) $(SAMPLE) $(DEMO_RUN)
