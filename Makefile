# One list of targets, for people and for CI. `make help` prints them.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := setup.py pyproject.toml $(wildcard ext/qzd_ext/*.pyx ext/qzd_ext/*.pxd ext/qzd_ext/*.h)
DEMO_DIR ?= demo-output

.DEFAULT_GOAL := help
.PHONY: help demo build lint types test test-system test-memory dist clean \
        bench-kernels bench-quantize bench-engine

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  \1\t/' | expand -t 18

# Everything lives in .venv; a change of a Cython source installs, and so compiles, again.
.venv/bin/python:
	@$(PYTHON) -c 'import venv, ensurepip' || { \
	  echo "make: Python's venv is missing. On Debian: apt install python3-venv" >&2; exit 3; }
	$(PYTHON) -m venv .venv

.venv/tools: .venv/bin/python $(SOURCES)
	$(BIN)/pip install --quiet --editable '.[tools]' || { \
	  echo "make: the install failed; compiling needs gcc and python3-dev, the rest pip's index" >&2; exit 3; }
	@touch $@

.venv/dev: .venv/bin/python $(SOURCES)
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@ .venv/tools

demo: .venv/tools ## the main job, from images to detections on a socket
	$(BIN)/qzd-tools demo -o $(DEMO_DIR)

build: .venv/dev ## compile the extensions in place
	$(BIN)/python setup.py --quiet build_ext --inplace

lint: build ## style, import rules, stubs
	$(BIN)/ruff check
	$(BIN)/lint-imports
	$(BIN)/python -m mypy.stubtest qzd_ext._nms qzd_ext._ssd qzd_ext._yolo

types: build ## strict types
	$(BIN)/mypy

test: lint types ## everything that a change must pass
	$(BIN)/pytest -m 'not system'

test-system: build ## real processes on real models and videos, for minutes
	$(BIN)/pytest -m system

# Bounds checks, AddressSanitizer and UBSan, in a build of their own.
test-memory: .venv/dev ## the kernels' tests, with every access to memory checked
	QZD_DEBUG=1 $(BIN)/python setup.py --quiet build --build-base build/debug --build-lib build/debug/lib
	PYTHONPATH=build/debug/lib PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 \
	  LD_PRELOAD="$$(gcc -print-file-name=libasan.so)" $(BIN)/python -m pytest -p no:cacheprovider \
	  tests/ext/test_nms.py tests/ext/test_heads.py tests/ext/test_decode.py

bench-kernels: build ## decode and NMS beside one pass over memory and OpenCV [JSON=FILE]
	$(BIN)/python benchmarks/kernels.py $(if $(JSON),--json $(JSON))

bench-quantize: build ## accuracy, speed and time of quantization beside NNCF's defaults, 20 minutes [JSON=FILE]
	$(BIN)/python benchmarks/quantize.py $(if $(JSON),--json $(JSON)) $(if $(MARKDOWN),--markdown $(MARKDOWN)) $(MODELS)

dist: .venv/dev ## an sdist, and a wheel made from it
	$(BIN)/python -m build

clean: ## what was built, not what was installed
	rm -rf build dist *.egg-info ext/qzd_ext/*.c ext/qzd_ext/*.so $(DEMO_DIR)
