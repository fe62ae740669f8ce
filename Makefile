# One list of targets, for people and for CI. `make help` prints them.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := setup.py pyproject.toml client/pyproject.toml client/qzd_client/_version.py $(wildcard ext/qzd_ext/*.pyx ext/qzd_ext/*.pxd ext/qzd_ext/*.h)
DEMO_DIR ?= demo-output

# For `make install`. DESTDIR is a folder to fill for a package or another device, PREFIX where it lies there.
DESTDIR ?=
PREFIX ?= /usr/local
DEVICE_PYTHON ?= /usr/bin/python3
TOOLS ?= # 1: qzd-tools too
SYSTEMD ?= $(shell systemctl --version 2>/dev/null | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
LIB := $(PREFIX)/lib
# A space would take a path apart, and `rm -rf` a folder that nobody named.
ifneq ($(words x$(DESTDIR)$(PREFIX)) $(filter /%,$(PREFIX)),1 $(PREFIX))
$(error DESTDIR is "$(DESTDIR)" and PREFIX "$(PREFIX)": wanted are paths without spaces, and PREFIX from the root)
endif
UNITS := $(DESTDIR)$(LIB)/systemd/system
SHARE := $(DESTDIR)$(PREFIX)/share

.DEFAULT_GOAL := help
.PHONY: docs help demo build lint types test test-system test-client test-attack soak test-models test-memory dist clean lock \
        install install-wheels install-program install-systemd install-docs \
        bench-kernels bench-quantize bench-validate bench-engine bench-camera bench-scale bench-truth bench-wire

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  \1\t/' | expand -t 18

# Everything lives in .venv; a change of a Cython source installs, and so compiles, again.
.venv/bin/python:
	@$(PYTHON) -c 'import venv, ensurepip' || { \
	  echo "make: Python's venv is missing. On Debian: apt install python3-venv" >&2; exit 3; }
	$(PYTHON) -m venv .venv

.venv/tools: .venv/bin/python $(SOURCES)
	$(BIN)/pip install --quiet --editable ./client --editable '.[tools]' || { \
	  echo "make: the install failed; compiling needs gcc and python3-dev, the rest pip's index" >&2; exit 3; }
	@touch $@

.venv/dev: .venv/bin/python $(SOURCES)
	$(BIN)/pip install --quiet 'pip>=25.1' # the first that knows --group
	$(BIN)/pip install --quiet --editable ./client --editable '.[cluster]' --group dev
	@touch $@ .venv/tools

demo: .venv/tools ## the main job, from images to detections on a socket
	$(BIN)/qzd-tools demo -o $(DEMO_DIR)

build: .venv/dev ## compile the extensions in place, where a source has changed

lint: build ## style, import rules, stubs, English
	$(BIN)/ruff check
	$(BIN)/python scripts/prose.py
	$(BIN)/lint-imports
	$(BIN)/python -m mypy.stubtest qzd_ext._arrays qzd_ext._nms qzd_ext._place qzd_ext._scan

types: build ## strict types
	$(BIN)/mypy

test: lint types ## everything that a change must pass
	$(BIN)/pytest -m 'not system and not models'

test-system: build ## real processes on real models and videos, for minutes
	$(BIN)/pytest -m system

test-client: build ## qzd-client alone in an environment of its own, on each CPython from 3.10 to 3.13
	$(BIN)/pytest -s -m system tests/system/test_client_alone.py

test-attack: build ## attacks in a memory cgroup of 1 GiB, beside an honest stream, for minutes
	$(BIN)/pytest -m system --durations=0 -v tests/system/attack

test-models: build ## INT8 accuracy of real models, and the whole of `prepare` on them, for an hour
	$(BIN)/pytest -m models

# Bounds checks, AddressSanitizer and UBSan, in a build of their own.
test-memory: .venv/dev ## the kernels' tests, with every access to memory checked
	QZD_DEBUG=1 $(BIN)/python setup.py --quiet build --build-base build/debug --build-lib build/debug/lib
	PYTHONPATH=build/debug/lib PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 \
	  LD_PRELOAD="$$(gcc -print-file-name=libasan.so)" $(BIN)/python -m pytest -p no:cacheprovider \
	  tests/ext/test_nms.py tests/ext/test_heads.py tests/ext/test_decode.py

bench-kernels: build ## decode and NMS beside one pass over memory and OpenCV [JSON=FILE]
	$(BIN)/python benchmarks/kernels.py $(if $(JSON),--json $(JSON))

soak: build ## slopes of memory, files and threads while clients come and go [MINUTES=30] [JSON=FILE]
	$(BIN)/python benchmarks/soak.py --minutes $(or $(MINUTES),30) $(if $(JSON),--json $(JSON))

bench-wire: build ## messages a second, a hundred subscribers, time on the wire [JSON=FILE]
	$(BIN)/python benchmarks/wire.py $(if $(JSON),--json $(JSON))

bench-quantize: build ## accuracy, speed and time of quantization beside NNCF's defaults, 20 minutes [JSON=FILE]
	$(BIN)/python benchmarks/quantize.py $(if $(JSON),--json $(JSON)) $(if $(MARKDOWN),--markdown $(MARKDOWN)) $(MODELS)

bench-validate: build ## validation beside benchmark_app's throughput and pycocotools, 3 minutes [JSON=FILE]
	$(BIN)/python benchmarks/validate.py $(if $(JSON),--json $(JSON))

bench-engine: build ## the daemon beside benchmark_app: throughput, latency, fairness, start, 10 minutes [JSON=FILE]
	$(BIN)/python benchmarks/engine.py $(if $(JSON),--json $(JSON))

bench-camera: build ## CPU and memory of a 1080p camera beside its bare decoding; an idle daemon, 4 minutes [JSON=FILE]
	$(BIN)/python benchmarks/camera.py $(if $(JSON),--json $(JSON))

bench-scale: build ## 1 to 64 cameras: CPU, memory, latency, dropped frames, 5 minutes [JSON=FILE]
	$(BIN)/python benchmarks/scale.py $(if $(JSON),--json $(JSON))

bench-truth: build ## damaged videos and stills: pictures wrongly taken for whole, false alarms, untold [JSON=FILE]
	PYTHONPATH=tests $(BIN)/python benchmarks/truth.py $(if $(JSON),--json $(JSON))

dist: .venv/dev ## an sdist and a wheel of qzd, and of qzd-client
	$(BIN)/python -m build
	$(BIN)/python -m build --outdir dist client

docs: build ## docs/reference.md and docs/schema, from the code
	$(BIN)/python scripts/json_schema.py docs/schema
	$(BIN)/python scripts/reference_page.py docs/reference.md
	$(BIN)/python scripts/man_pages.py docs/man

LOCK := $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
  --generate-hashes --no-header --no-annotate --no-emit-package qzd-client

lock: .venv/dev ## pin the wheels of build, runtime and tools again, with their hashes, for every platform
	$(BIN)/python -c 'import tomllib; file = open("pyproject.toml", "rb"); \
	  print(*tomllib.load(file)["build-system"]["requires"], sep="\n")' \
	  | $(LOCK) - --output-file requirements-build.lock
	$(LOCK) pyproject.toml --output-file requirements.lock
	$(LOCK) pyproject.toml --extra tools --output-file requirements-tools.lock

install: ## the daemon, its units and docs
	umask 022 && $(MAKE) install-wheels install-program install-systemd install-docs

# What serves is not touched while it is built anew; the version before is kept.
PROGRAM := $(DESTDIR)$(LIB)/qzd

install-wheels: .venv/bin/python # what the daemon stands on, as requirements.lock has it
	rm -rf $(PROGRAM).new
	$(BIN)/pip install --quiet --no-deps --require-hashes --target $(PROGRAM).new \
	  -r requirements$(if $(TOOLS),-tools).lock

install-program: .venv/bin/python # qzd and qzdctl, beside what install-wheels has put there; compiles
	@[ -d $(PROGRAM).new ] || { echo "make: there are no wheels to put it beside: make install" >&2; exit 3; }
	rm -rf build/wheel build/requires
	$(BIN)/pip install --quiet --no-deps --require-hashes --target build/requires -r requirements-build.lock
	PYTHONPATH="$(CURDIR)/build/requires" \
	  $(BIN)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/wheel ./client .
	$(BIN)/pip install --quiet --no-deps --upgrade --target $(PROGRAM).new build/wheel/qzd_client-*.whl build/wheel/qzd-*.whl
	rm -rf $(PROGRAM).new/bin $(if $(TOOLS),,$(PROGRAM).new/qzd_tools)
	chmod -R a+rX $(PROGRAM).new # whatever the umask is
	rm -rf $(PROGRAM).old
	[ ! -e $(PROGRAM) ] || mv $(PROGRAM) $(PROGRAM).old
	mv $(PROGRAM).new $(PROGRAM)
	$(if $(DESTDIR),rm -rf $(PROGRAM).old) # what serves is elsewhere
	install -d $(DESTDIR)$(PREFIX)/bin
	$(call launcher,qzd,qzd_daemon.cli)
	$(call launcher,qzdctl,qzd_daemon.ctl.main)
	$(if $(TOOLS),$(call launcher,qzd-tools,qzd_tools.cli))

# $(call launcher,COMMAND,MODULE): found by path, so that nothing of the builder's machine is in it.
define launcher
printf '#!%s -I\nimport sys\n\nsys.path.insert(0, "%s")\nfrom %s import main\n\nmain()\n' \
  "$(DEVICE_PYTHON)" "$(LIB)/qzd" "$(2)" > $(DESTDIR)$(PREFIX)/bin/$(1)
chmod 755 $(DESTDIR)$(PREFIX)/bin/$(1)
endef

# A unit as it lies on the device, and one from which systemd makes instances, each with paths of its own.
PLACED := sed 's|/usr/local|$(PREFIX)|g'
TEMPLATE := sed -e 's,/etc/qzd/qzd.toml,/etc/qzd/%i.toml,; s,^Description=.*,&: %i,' \
  -e 's,^RuntimeDirectory=qzd,&-%i,; s,^CacheDirectory=qzd,&-%i,; s,qzd.server_key,qzd-%i.server_key,g'

install-systemd: # units, the user qzd, its folders, and a configuration that systemd-tmpfiles puts where there is none
	install -d $(UNITS) $(DESTDIR)$(LIB)/sysusers.d $(DESTDIR)$(LIB)/tmpfiles.d
	$(PLACED) systemd/qzd.service > $(UNITS)/qzd.service
	$(PLACED) systemd/qzd.socket > $(UNITS)/qzd.socket
	$(TEMPLATE) $(UNITS)/qzd.service > $(UNITS)/qzd@.service
	for dropin in $(notdir $(wildcard systemd/qzd.service.d/*.conf)); do \
	  [ "$(or $(SYSTEMD),0)" -ge "$${dropin%%-*}" ] || continue; \
	  install -d $(UNITS)/qzd.service.d $(UNITS)/qzd@.service.d; \
	  $(PLACED) systemd/qzd.service.d/$$dropin > $(UNITS)/qzd.service.d/$$dropin; \
	  $(TEMPLATE) $(UNITS)/qzd.service.d/$$dropin > $(UNITS)/qzd@.service.d/$$dropin; \
	done
	install -m 644 systemd/sysusers.conf $(DESTDIR)$(LIB)/sysusers.d/qzd.conf
	$(PLACED) systemd/tmpfiles.conf > $(DESTDIR)$(LIB)/tmpfiles.d/qzd.conf
	install -D -m 644 systemd/qzd.toml $(SHARE)/qzd/qzd.toml

install-docs: # the pages, and what they link to, in the same places to each other; the manual pages
	rm -rf $(SHARE)/doc/qzd
	install -d $(SHARE)/doc/qzd
	cp -r --no-preserve=mode docs docker README.md CHANGELOG.md CONTRIBUTING.md LICENSE $(SHARE)/doc/qzd
	cp -r --no-preserve=mode --parents examples systemd/qzd.toml $(SHARE)/doc/qzd
	install -d $(SHARE)/man/man1
	install -m 644 docs/man/*.1 $(SHARE)/man/man1

clean: ## what was built, not what was installed
	rm -rf build dist *.egg-info client/build client/*.egg-info ext/qzd_ext/*.c ext/qzd_ext/*.so $(DEMO_DIR) .venv/dev .venv/tools
