# make demo and make test need Python (3.10 to 3.15), a C++17 compiler and make; each sets itself up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SOURCES := $(shell find cmake csrc python tests/emulator CMakeLists.txt pyproject.toml -type f -not -name '*.pyc')

# A python in which the emulated GPU (tests/emulator) can be imported: AddressSanitizer has to come first, and to know
# of exceptions.
SANITIZERS = $(foreach library,asan ubsan stdc++,$(shell $(CXX) -print-file-name=lib$(library).so))
EMULATED = FASTOPT_TEST_CUDA=1 LD_PRELOAD="$(SANITIZERS)" ASAN_OPTIONS=detect_leaks=0

# OFF where there are no sanitizers of GCC's: then there is no make test-emulated.
EMULATOR ?= ON

# What depends most on torch, for make check-torch; SELECTION=short takes the first line alone.
SHORT_CHECK = interop/test_torch_details optim/test_odd_states dropout/test_dropout_autograd optim/test_step
LONG_CHECK = $(SHORT_CHECK) optim/test_errors interop/test_convert batch_norm/test_batch_norm_torch \
	batch_norm/test_batch_norm_programs dropout/test_dropout_programs interop/test_compile_step interop/test_functional_mode
SELECTION ?= long
CHECK = $(if $(filter short,$(SELECTION)),$(SHORT_CHECK),$(LONG_CHECK))
OTHER := $(VENV)/torch-$(VERSION)

DEVELOP := build/develop

.PHONY: develop check demo gallery test test-cpu test-emulated check-torch test-ecosystem lint wheel docs bench bench-compare bench-peers clean

demo: $(VENV)/demo
	$(BIN)/python examples/train_digits.py --out digits_loss.png

# Redraws every picture of docs/gallery.md.
gallery: $(VENV)/demo
	set -e; for script in $$(grep -l __main__ examples/gallery/*.py); do \
		$(BIN)/python $$script --out docs/gallery/$$(basename $$script .py).png; done

# An editable install: Python files are used where they lie, and an import builds anew what has changed of csrc. CMake
# has to be on PATH then: source .venv/bin/activate.
develop: $(VENV)/develop

# What a change is tried with while it is made: the suite without what is marked slow; make check K=Lion: of that the tests
# of one optimizer, dropout or norm. With the install of make develop where there is one; else with that of make test.
develop check: export PATH := $(CURDIR)/$(BIN):$(PATH)
check: $(or $(wildcard $(VENV)/develop),$(VENV)/dev)
	$(BIN)/python -c "import fastopt"
	$(BIN)/python -m pytest -q -n auto -m "not slow" $(K:%=--thing %)

test: test-cpu test-emulated

test-cpu: $(VENV)/dev
	$(BIN)/python -m pytest -q -n auto

# The kernels for CUDA on an emulated GPU.
test-emulated: $(VENV)/dev
	$(EMULATED) $(BIN)/python -m pytest -q -n auto tests/cuda

# Another torch, in a virtual environment of its own, with the build and the tools of .venv:
# make check-torch VERSION=2.4.1
check-torch: $(OTHER)/ready
	$(OTHER)/bin/python -m pytest -q -n auto $(CHECK:%=tests/%.py)

# Trainers of other packages with our optimizers.
test-ecosystem: $(VENV)/ecosystem
	$(BIN)/python -m pytest -q -n 2 tests/ecosystem

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(shell find csrc tests/emulator -name '*.h' -o -name '*.cpp' -o -name '*.cu')
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest fastopt._core --allowlist scripts/stubtest.txt --ignore-unused-allowlist

# dist/ gets a wheel that was seen to run where nothing can compile.
wheel: $(VENV)/dev
	PYTHON=$(BIN)/python scripts/wheel_check.sh

# Into build/site. Warnings are errors, and so is a page that would fetch a script, a style or a picture from elsewhere.
docs: $(VENV)/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	! grep -rnoE --include='*.html' '<(script|link|img)[^>]+(src|href)="?(https?:)?//[^>]*' build/site

bench: $(VENV)/bench
	$(BIN)/python -m bench

# What a change did: the library of BASE and this one, both measured by this bench, a run each; ratios are compared.
# make bench-compare BASE=main ARGS="--only Adam"
BASE ?= HEAD
BEFORE := $(VENV)/before
bench-compare: $(VENV)/bench
	rm -rf build/before $(BEFORE) && mkdir -p build/before
	git archive $(BASE) | tar -x -C build/before
	$(BIN)/python -m venv $(BEFORE)
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
		> $$($(BEFORE)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/rest.pth
	$(BEFORE)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --ignore-installed ./build/before
	$(BEFORE)/bin/python -m bench --json build/before.json $(ARGS)
	$(BIN)/python -m bench --json build/after.json $(ARGS)
	$(BIN)/python -m bench --compare build/before.json build/after.json

# What bench measures beside torch, too. Without their dependencies, which would bring another torch; and a first run,
# in which some compile themselves.
bench-peers: $(VENV)/bench
	$(PIP) --no-deps -r bench/peers.txt
	$(BIN)/python -m bench --quick --family optimizers --only 'one tensor of 128k'

clean:
	rm -rf $(VENV) build

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch comes first: the constraint picks its CPU build.
$(VENV)/torch: constraints.txt | $(BIN)/python
	$(PIP) torch numpy
	touch $@

# The package as a user installs it, with the extra of the stamp's name from pyproject.toml; our own
# compiler warnings are errors. It takes the place of the editable install.
$(VENV)/dev: EXTRA = --config-settings=cmake.define.FASTOPT_EMULATOR=$(EMULATOR)
$(VENV)/bench $(VENV)/demo $(VENV)/dev: $(SOURCES) $(VENV)/torch
	$(PIP) --config-settings=cmake.define.FASTOPT_WERROR=ON $(EXTRA) ".[$(@F)]"
	rm -f $(VENV)/develop
	touch $@

# What builds stays in the environment, as later imports build with it; they see changes of CMake's files as well.
$(VENV)/develop: pyproject.toml $(VENV)/torch
	$(PIP) "scikit-build-core>=0.10" "pybind11>=2.13" "cmake>=3.21" "ninja>=1.11"
	$(PIP) --no-build-isolation --config-settings=editable.rebuild=true --config-settings=editable.verbose=false \
		--config-settings=build-dir=$(DEVELOP) --config-settings=cmake.define.FASTOPT_WERROR=ON --editable ".[dev]"
	rm -f $(VENV)/bench $(VENV)/demo $(VENV)/dev
	touch $@

# Without our constraints, which name the torch of .venv. What is in the .pth comes after the environment's own packages.
$(OTHER)/ready: $(VENV)/dev
	$(if $(VERSION),,$(error check-torch needs a version of torch: make check-torch VERSION=2.4.1))
	$(BIN)/python -m venv $(OTHER)
	$(OTHER)/bin/python -m pip install --quiet --disable-pip-version-check torch==$(VERSION)
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
		> $$($(OTHER)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/fastopt-build.pth
	touch $@

# Pages are made from the sources: nothing has to be built.
$(VENV)/docs: docs/requirements.txt | $(BIN)/python
	$(PIP) -r $<
	touch $@

$(VENV)/ecosystem: tests/ecosystem/requirements.txt $(VENV)/dev
	$(PIP) -r $<
	touch $@
