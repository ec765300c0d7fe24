# Two commands: `make demo` and `make test`. The rest are their parts.
PYTHON ?= python3
DEVICE ?= auto
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test suites prepare lint unit nix sim-tests sim-host browser host host-core host-own sim bench-cpu reliability
demo: $(READY)
	$(BIN)/python -m tests.harness.demo --device $(DEVICE) $(if $(HOST_VERSION),--host-version $(HOST_VERSION))

# Two suites at a time: each computes on one thread.
test: lint prepare
	OMP_NUM_THREADS=1 $(MAKE) --no-print-directory --output-sync=target -j2 suites

suites: host sim-host host-own sim-tests unit browser host-core nix

prepare: $(READY)
	$(BIN)/python -m tests.harness.prepare

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p .cache/typing && ln -sfn ../.. .cache/typing/xpu_nodes
	cd .cache/typing && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p xpu_nodes.nodes -p xpu_nodes.xpu_utils

unit: $(READY)
	$(BIN)/pytest tests/unit

# The simulated Intel devices, against PyTorch on the CPU and in a process of their own.
sim-tests: $(READY)
	$(BIN)/pytest tests/sim

# The pack inside the real server on simulated devices.
sim-host: $(READY)
	$(BIN)/pytest tests/sim_host

# The panel in a real Chromium.
browser: $(READY)
	$(BIN)/pytest tests/browser

# Packaging; with NIXPKGS_LIB= and FLAKE_PARTS= also the modules (see docs/nix.md).
nix: $(READY)
	$(BIN)/pytest tests/nix

# The pack inside the real server, on the newest host that the registry offers.
host: $(READY)
	$(BIN)/pytest tests/host

# The core part again on the oldest host that is supported.
host-core: $(READY)
	HOST_VERSION=0.3.52 $(BIN)/pytest tests/host -m core

# ComfyUI's own tests, with the pack installed.
host-own: $(READY)
	$(BIN)/python -m tests.harness.host_suite

# Stock ComfyUI, its best flags and this pack on this CPU, in turns; SHAPE=sd15|dit|tiny.
SHAPE ?= sd15
bench-cpu: $(READY)
	mkdir -p out
	$(BIN)/python -m xpu_utils bench cpu --shape $(SHAPE) --calls --json out/bench-cpu.json --chart out/bench-cpu.svg

# The whole matrix of faults and a long queue, half an hour; writes docs/reliability.md.
reliability: prepare
	$(BIN)/python -m tests.harness.reliability

# A server on a simulated Arc B580, to click through.
sim: prepare
	$(BIN)/python -m tests.harness.sim

$(READY): requirements.txt requirements-dev.txt constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -r requirements.txt -r requirements-dev.txt
	# Their wheels ask for a CUDA build of torch; see tests/harness/site/sitecustomize.py.
	$(BIN)/pip install -q -c constraints.txt --no-deps torchvision kornia kornia_rs spandrel
	touch $@
