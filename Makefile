# Everything runs from here; `make help` lists the targets. The environment lives in .venv.
#
# On a container with its own torch (MLU containers have one) keep that torch:
#     make demo VENV_FLAGS=--system-site-packages

PYTHON ?= python3
VENV ?= .venv
VENV_FLAGS ?=
# Anything: the versions of requirements.lock instead of the newest that pyproject.toml allows.
LOCKED ?=
UV ?= uv
LOCK_FLAGS ?=
BIN := $(VENV)/bin
SAMPLE := data/sample
DEMO_RUN := runs/demo
DEMO_MLU_RUN := runs/demo_mlu
OLDEST := .venv-oldest
# A test file to a process, in the order of tests/conftest.py: by itself xdist begins with the files of most tests, which
# are quick ones. One thread each: the threads of two would get in each other's way.
SIDE_BY_SIDE := --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SIDE_BY_SIDE)

# As the doors set it (command_line/start.py): threads that wait leave their core to others.
export OMP_WAIT_POLICY ?= passive

.DEFAULT_GOAL := help
.PHONY: help install demo demo-mlu test test-slow test-extras test-faults test-oldest lint format bench lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "%-13s %s\n", $$1, $$2 }'

install: $(VENV)/.installed ## make the environment, or bring it up to date with pyproject.toml; LOCKED=1: tested versions

$(VENV)/.installed: pyproject.toml $(if $(LOCKED),requirements.lock)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV_FLAGS) $(VENV)
ifneq ($(LOCKED),)
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements.lock
	@# The lock has setuptools, which builds the project; nothing is taken that it does not list.
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
else
	@# A torch that is there already (MLU containers) stays: pip may add to it but not replace it.
	$(BIN)/python -c "from importlib.metadata import distributions as all; print(*sorted({f'{d.name}=={d.version}' for d in all() if d.name in ('torch', 'torchvision')}), sep='\n')" > $(VENV)/constraints.txt
	$(BIN)/python -m pip install --quiet --constraint $(VENV)/constraints.txt --editable ".[dev]"
endif
	touch $@

demo: install ## train on the built-in sample data, print its COCO mAP, draw detections (4 minutes with AMX, up to an hour without)
	$(BIN)/python -m coco.sample $(SAMPLE)
	rm -rf $(DEMO_RUN)
	$(BIN)/python train.py --config configs/demo.yaml --data_root $(SAMPLE) --run_dir $(DEMO_RUN)
	$(BIN)/python evaluate.py --accelerator cpu --ckpt_path $(DEMO_RUN)/checkpoints/best.ckpt --data_root $(SAMPLE) \
		--pictures $(DEMO_RUN)/pictures --report $(DEMO_RUN)/report
	@$(BIN)/python benchmarks/training_quality.py --expected configs/demo.yaml
	@echo "best checkpoint: $(DEMO_RUN)/checkpoints/best.ckpt; pictures: $(DEMO_RUN)/pictures"

demo-mlu: install ## train on two stand-in MLUs (tests/standin/) for a few minutes, then evaluate on the CPU
	$(BIN)/python -m coco.sample $(SAMPLE)
	rm -rf $(DEMO_MLU_RUN)
	@echo "These two MLUs are stand-ins for tests: host memory and the CPU's kernels behind a PyTorch device 'mlu'."
	PYTHONPATH=tests/standin STANDIN_MLU_DEVICES=2 CN_VISIBLE_DEVICES=0,1 $(BIN)/python train.py \
		--config configs/demo_mlu.yaml --accelerator mlu --devices 2 --data_root $(SAMPLE) --run_dir $(DEMO_MLU_RUN)
	@echo "The checkpoint of the stand-ins, on the CPU, without torch_mlu:"
	$(BIN)/python evaluate.py --accelerator cpu --ckpt_path $(DEMO_MLU_RUN)/checkpoints/last.ckpt --data_root $(SAMPLE)

test: install lint ## lint and tests, without the slow ones
	$(PYTEST)

test-slow: install ## the tests that take minutes
	$(PYTEST) -m slow

test-extras: install ## the tests that skip without optional tools, with them: Chromium, ONNX, OpenVINO, Gradio, W&B, MLflow
	@command -v chromium || command -v chromium-browser || command -v google-chrome || { \
		echo "no Chromium here, which looks at the report's and the demo's page. Debian: apt-get install chromium" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --editable ".[dev,quantise,check,demo,notebook,loggers]"
	$(PYTEST) -m extras

test-faults: install ## kill, stop, starve and corrupt training runs, then fuzz their inputs: nothing may be lost
	$(BIN)/python -m tests.faults.run
	$(BIN)/python -m tests.faults.fuzz_inputs --cases 10000
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults.fuzz_inputs --of checkpoints pictures names --cases 10000

test-oldest: $(OLDEST)/.installed ## the tests with the oldest supported versions (Python 3.10 or 3.11; installs 5 GB)
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest $(SIDE_BY_SIDE)

$(OLDEST)/.installed: pyproject.toml requirements.txt
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	@# Every lower bound of requirements.txt, exactly; the tools of the tests are current.
	sed -E '/^#/d; s/\[.*\]//; s/>=([^,]+).*/==\1/' requirements.txt > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install --quiet --constraint $(OLDEST)/constraints.txt --editable ".[dev]"
	touch $@

bench: install ## the benchmarks that need nothing but this project, beside their peers
	$(BIN)/python benchmarks/postprocess.py
	$(BIN)/python benchmarks/evaluation.py
	$(BIN)/python benchmarks/annotations.py
	$(BIN)/python benchmarks/inference.py
	$(BIN)/python benchmarks/input_pipeline.py
	$(BIN)/python benchmarks/checkpointing.py

lint: install ## ruff's rules and format, mypy's types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install ## apply ruff's fixes and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: ## remake requirements.lock: the newest versions that pyproject.toml allows, with hashes (needs uv)
	$(UV) pip compile pyproject.toml --extra dev --universal --python-version 3.10 --generate-hashes --no-emit-index-url \
		--no-annotate --upgrade --quiet --custom-compile-command "make lock" $(LOCK_FLAGS) --output-file requirements.lock

clean: ## remove the environments, the sample data and the demo's run
	rm -rf $(VENV) $(OLDEST) $(SAMPLE) $(DEMO_RUN) $(DEMO_MLU_RUN)
