# Everything runs in a virtual environment that the first target makes by itself.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# ROS 2 talks to this machine only, unless the caller says otherwise.
export ROS_AUTOMATIC_DISCOVERY_RANGE ?= LOCALHOST

.PHONY: help demo test check bench soak format clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*##/\1\t/p' Makefile

demo: $(STAMP)  ## play a bag through the node into demo_out/ (BAG=path RATE=hz IMAGE=topic)
	$(BIN)/tc-depth demo $(BAG) --out demo_out \
		$(if $(RATE),--rate $(RATE)) $(if $(IMAGE),--image $(IMAGE))

# Those of the node by themselves: they send images at 10 Hz and look at the clock.
test: check  ## check, then all tests
	$(BIN)/python -m pytest -q -m ros
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m 'not ros' -n auto --dist loadfile

check: $(STAMP)  ## format, lint, types, import lines
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q test/test_architecture.py

bench: $(STAMP)  ## time the network, the node and training
	$(BIN)/python test/bench.py
	$(BIN)/python test/bench_training.py

soak: $(STAMP)  ## 20 minutes of the node with a failing camera (BAG=path IMAGE=topic SECONDS=n)
	$(BIN)/python test/soak.py $(if $(BAG),--bag $(BAG)) $(if $(IMAGE),--image $(IMAGE)) \
		$(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED))

format: $(STAMP)  ## mend format and imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove what the targets wrote, and the environment
	rm -rf $(VENV) demo_out build install log training/build .mypy_cache .pytest_cache .ruff_cache
	rm -rf *.egg-info training/*.egg-info

# torch first and by itself: one that is there already (a robot's, a GPU build) must stay.
$(STAMP): Makefile setup.py training/pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 10) <= v <= (3, 13) or sys.exit( \
		"Python %d.%d has no ROS 2 wheels: choose 3.10 to 3.13, as in PYTHON=python3.12" % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/python -m pip install torch==2.13.0
	$(BIN)/python -m pip install -e '.[ros-wheels,test]' -e './training[imagenet,onnx,tensorboard]' \
		ruff==0.17.6 mypy==2.4.1 pytest-xdist==3.8.0
	@touch $@
