# make demo and make test need Python (3.10 to 3.15), a C++17 compiler and make; they install the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SOURCES := $(shell find cmake csrc python tests/emulator CMakeLists.txt pyproject.toml -type f -not -name '*.pyc')

# To import the emulated GPU (tests/emulator), python has to load AddressSanitizer first, and with it C++'s exceptions.
SANITIZERS = $(foreach library,asan ubsan stdc++,$(shell $(CXX) -print-file-name=lib$(library).so))
EMULATED = FASTOPT_TEST_CUDA=1 LD_PRELOAD="$(SANITIZERS)" ASAN_OPTIONS=detect_leaks=0

# OFF where GCC's sanitizers are missing: then make test-emulated does not work.
EMULATOR ?= ON

# The tests that depend most on torch, for make check-torch; SELECTION=short takes only the first line.
SHORT_CHECK = interop/test_torch_details optim/test_odd_states dropout/test_dropout_autograd optim/test_step
LONG_CHECK = $(SHORT_CHECK) optim/test_errors interop/test_convert batch_norm/test_batch_norm_torch \
	batch_norm/test_batch_norm_programs dropout/test_dropout_programs interop/test_compile_step interop/test_functional_mode
SELECTION ?= long
CHECK = $(if $(filter short,$(SELECTION)),$(SHORT_CHECK),$(LONG_CHECK))
OTHER := $(VENV)/torch-$(VERSION)
RACES := $(VENV)/races

# The tests for make test-races: they reach every kernel where threads share memory. Larger ones would take GBs.
WATCHED = (shuffled and not large_equals and not thousands) or equals_the_cpu or long_rows or numbers_of_rows \
	or columns_in_vectors or places_in_planes or coefficients or histories_of_all or mean_of_the_mask \
	or storage_of_matrices or bias_gradient or many_chunks or test_muon or (test_adafactor and options)

DEVELOP := build/develop

.PHONY: develop check demo gallery test test-cpu test-emulated test-races check-torch test-ecosystem lint wheel docs bench bench-compare bench-peers clean

demo: $(VENV)/demo
	$(BIN)/python examples/train_digits.py --out digits_loss.png

# Redraws every picture of docs/gallery.md.
gallery: $(VENV)/demo
	set -e; for script in $$(grep -l __main__ examples/gallery/*.py); do \
		$(BIN)/python $$script --out docs/gallery/$$(basename $$script .py).png; done

# An editable install: Python files are used in place, and an import rebuilds what has changed in csrc. CMake has to be
# on PATH then: source .venv/bin/activate.
develop: $(VENV)/develop

# For use while changing code: the suite without the tests marked slow. make check K=Lion runs only the tests about one
# optimizer, dropout or norm. Uses the install of make develop if there is one, otherwise that of make test.
develop check: export PATH := $(CURDIR)/$(BIN):$(PATH)
check: $(or $(wildcard $(VENV)/develop),$(VENV)/dev)
	$(BIN)/python -c "import fastopt"
	$(BIN)/python -m pytest -q -n auto -m "not slow" $(K:%=--thing %)

test: test-cpu test-emulated

test-cpu: $(VENV)/dev
	$(BIN)/python -m pytest -q -n auto

# The CUDA kernels on an emulated GPU.
test-emulated: $(VENV)/dev
	$(EMULATED) $(BIN)/python -m pytest -q -n auto tests/cuda

# The same kernels, watched for data races (tests/emulator/races.h).
test-races: $(RACES)/ready
	FASTOPT_TEST_CUDA=1 $(RACES)/bin/python -m pytest -q -n auto -k "$(WATCHED)" tests/cuda

# Another torch in a separate virtual environment, with the build and the tools of .venv:
# make check-torch VERSION=2.4.1
check-torch: $(OTHER)/ready
	$(OTHER)/bin/python -m pytest -q -n auto $(CHECK:%=tests/%.py)

# Our optimizers with the trainers of other packages.
test-ecosystem: $(VENV)/ecosystem
	$(BIN)/python -m pytest -q -n 2 tests/ecosystem

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(shell find csrc tests/emulator -name '*.h' -o -name '*.cpp' -o -name '*.cu')
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest fastopt._core --allowlist scripts/stubtest.txt --ignore-unused-allowlist

# Puts a wheel into dist/ after it has run where nothing can compile.
wheel: $(VENV)/dev
	PYTHON=$(BIN)/python scripts/wheel_check.sh

# Builds into build/site. Warnings are errors, and so is a page that loads a script, style or picture from elsewhere.
docs: $(VENV)/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	! grep -rnoE --include='*.html' '<(script|link|img)[^>]+(src|href)="?(https?:)?//[^>]*' build/site

bench: $(VENV)/bench
	$(BIN)/python -m bench

# Measures the effect of a change: runs this bench with the library of BASE and with this one, and compares the ratios.
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

# Installs what the bench measures in addition to torch, without dependencies, which would bring another torch. In a
# first run, some packages compile themselves.
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

# Installs the package as a user does, with the extra of pyproject.toml that has the stamp's name; our own compiler
# warnings are errors. It replaces the editable install.
$(VENV)/dev: EXTRA = --config-settings=cmake.define.FASTOPT_EMULATOR=$(EMULATOR)
$(VENV)/bench $(VENV)/demo $(VENV)/dev: $(SOURCES) $(VENV)/torch
	$(PIP) --config-settings=cmake.define.FASTOPT_WERROR=ON $(EXTRA) ".[$(@F)]"
	rm -f $(VENV)/develop
	touch $@

# The build tools stay in the environment, as later imports build with them; these also notice changes of CMake's files.
$(VENV)/develop: pyproject.toml $(VENV)/torch
	$(PIP) "scikit-build-core>=0.10" "pybind11>=2.13" "cmake>=3.21" "ninja>=1.11"
	$(PIP) --no-build-isolation --config-settings=editable.rebuild=true --config-settings=editable.verbose=false \
		--config-settings=build-dir=$(DEVELOP) --config-settings=cmake.define.FASTOPT_WERROR=ON --editable ".[dev]"
	rm -f $(VENV)/bench $(VENV)/demo $(VENV)/dev
	touch $@

# A separate virtual environment, because a build of the emulator looks either for races or for wrong addresses.
$(RACES)/ready: $(VENV)/dev
	$(BIN)/python -m venv $(RACES)
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
		> $$($(RACES)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/rest.pth
	$(RACES)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --ignore-installed \
		--config-settings=build-dir=build/races --config-settings=cmake.define.FASTOPT_WERROR=ON \
		--config-settings=cmake.define.FASTOPT_CUDA=OFF --config-settings=cmake.define.FASTOPT_EMULATOR=RACES .
	touch $@

# Does not use our constraints, which name .venv's torch. Paths in the .pth come after the environment's own packages.
$(OTHER)/ready: $(VENV)/dev
	$(if $(VERSION),,$(error check-torch needs a version of torch: make check-torch VERSION=2.4.1))
	$(BIN)/python -m venv $(OTHER)
	$(OTHER)/bin/python -m pip install --quiet --disable-pip-version-check torch==$(VERSION)
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
		> $$($(OTHER)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/fastopt-build.pth
	touch $@

# Needs no build: pages are made from the sources.
$(VENV)/docs: docs/requirements.txt | $(BIN)/python
	$(PIP) -r $<
	touch $@

$(VENV)/ecosystem: tests/ecosystem/requirements.txt $(VENV)/dev
	$(PIP) -r $<
	touch $@
