# Every job of the project, for people and for .ci/run. The virtual environment is made from the hash-pinned
# lock files and stamped, so that a second call starts at once.

PYTHON ?= python3
WORKERS ?= auto
VENV := .venv
BIN := $(VENV)/bin
# The tests start hundreds of processes, which would all compile Coffer again where the caller's shell says so.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
LOCK := $(BIN)/pip-compile -q --allow-unsafe --generate-hashes --strip-extras \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links

COMPILER := $(CURDIR)/$(VENV)/compiler
GET_COMPILER := $(PIP) install --quiet --require-hashes --no-deps --upgrade --target $(COMPILER) -r requirements-compiler.lock
KERNEL := setup.py $(wildcard archive/codec/native/*.[ch])

.DEFAULT_GOAL := help
.PHONY: help run test long lint format types layers docs-check check sizes bench crash-campaign forgery-campaign wheel lock clean

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

run: $(VENV)/.run-stamp ## start an archive in ./archive-data, show a store, a find and a retrieve, keep serving
	@$(BIN)/coffer demo

test: $(VENV)/.dev-stamp ## run the whole test suite
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses=8 --dist loadfile --no-loadscope-reorder -m "not long" $(TESTARGS)

long: export COFFER_KILL_ROUNDS = 50
long: export COFFER_CRASH_RUNS = 20
long: export COFFER_LARGE_BYTES = 1073741824
long: export COFFER_EVERY_FAULT = 1
long: export COFFER_EVERY_BYTE = 1
long: export COFFER_FORGERIES = 1000
long: $(VENV)/.dev-stamp ## run the tests that make test leaves out, and its campaigns at full length
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses=8 --dist loadfile -m long $(TESTARGS)
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses=8 --dist loadfile -m "not long" --timeout=7200 tests/crash tests/forgery tests/integrity \
		tests/archive/verify tests/peers/test_kill.py tests/peers/test_large.py tests/peers/test_faults.py tests/peers/test_every_fault.py

lint: $(VENV)/.dev-stamp ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.dev-stamp ## rewrite style and format
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

types: $(VENV)/.dev-stamp ## check types, strictly
	$(BIN)/mypy

layers: $(VENV)/.dev-stamp ## check that no floor imports from above
	$(BIN)/lint-imports

docs-check: $(VENV)/.dev-stamp ## check links, commands and names in the documents
	$(BIN)/python -m pytest -q tests/docs

check: lint types layers sizes test ## everything above

sizes: $(VENV)/.dev-stamp ## print how large everything is; fails beyond the caps
	$(BIN)/python bench/sizes.py

bench: $(VENV)/.dev-stamp ## measure Coffer beside its peers; BENCHARGS="--quick", "--write", "--help"
	$(BIN)/python -m bench.run $(BENCHARGS)

crash-campaign: $(VENV)/.dev-stamp ## cut the power 100,000 times at every system call; CRASHARGS="--seed 7 --jobs 4"
	$(BIN)/python -m tests.crash --states 100000 $(CRASHARGS)

forgery-campaign: $(VENV)/.dev-stamp ## forge an archive 100,000 times without a key; FORGERYARGS="--seed 7 --jobs 4 --write"
	$(BIN)/python -m tests.forgery --cases 100000 $(FORGERYARGS)

wheel: $(VENV)/.dev-stamp ## build dist/coffer_dicom-*.whl, with the compiled codec for every Linux of this processor
	rm -rf build dist
	@test -d $(COMPILER) || $(GET_COMPILER) || echo "the compiler cannot be fetched: this wheel is for this machine only" >&2
	PYTHONPATH=$(COMPILER) $(BIN)/python -m build --wheel --no-isolation --skip-dependency-check

lock: export CC = cc # the two locks do not depend on whether this machine has a compiler
lock: $(VENV)/.dev-stamp ## resolve pyproject.toml into the lock files again
	CUSTOM_COMPILE_COMMAND="make lock" $(LOCK) --build-deps-for editable -o requirements.lock pyproject.toml
	CUSTOM_COMPILE_COMMAND="make lock" $(LOCK) --extra dev --extra pkcs11 --extra aws --extra s3 --all-build-deps -c requirements.lock \
		-o requirements-dev.lock pyproject.toml
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["tool"]["coffer"]["compiler"])' | \
		CUSTOM_COMPILE_COMMAND="make lock" $(LOCK) -o requirements-compiler.lock -

clean: ## remove everything that was made here, except ./archive-data
	rm -rf $(VENV) build dist *.egg-info bench-data bench-work .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A Debian without python3-venv has a python3 whose venv module fails half-way and leaves a broken folder.
define make_venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "coffer needs Python 3.11 or newer as $(PYTHON): apt install python3, or make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(BIN)/python -c 'import sys, pip' 2>/dev/null || { \
		$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
			echo "coffer needs the venv module of $(PYTHON): apt install python3-venv" >&2; exit 1; }; \
		echo "making $(VENV)"; $(PYTHON) -m venv --clear $(VENV); }
endef

# A compiler takes 440 MB: it is fetched only where the machine has none, and removed after the second that it works.
define install_coffer
	@{ command -v cc || command -v gcc || command -v clang || $(GET_COMPILER); } >/dev/null || true
	@PYTHONPATH=$(COMPILER) $(PIP) install -qq --no-deps --no-build-isolation -e .
	@rm -rf $(COMPILER)
	@$(BIN)/python -c 'from coffer.archive.codec.choice import why_pure as w; w() and print("pixels are coded more slowly:", w())'
endef

# An environment made by hand has no stamp: the installation below then only adds what differs.
$(VENV)/.run-stamp: requirements.lock pyproject.toml $(KERNEL)
	$(make_venv)
	@echo "installing what requirements.lock lists"
	@$(PIP) install --quiet --require-hashes -r requirements.lock
	$(install_coffer)
	@touch $@

$(VENV)/.dev-stamp: requirements-dev.lock requirements.lock pyproject.toml $(KERNEL)
	$(make_venv)
	@echo "installing what requirements-dev.lock lists"
	@$(PIP) install --quiet --require-hashes -r requirements-dev.lock
	$(install_coffer)
	@touch $(VENV)/.run-stamp $@
