# Two commands: `make demo` and `make test`. The rest are their parts.
PYTHON ?= python3
DEVICE ?= auto
BIN := .venv/bin
PIP := $(BIN)/pip install -q --no-compile -c constraints.txt
READY := .venv/.ready
# Python with the packages of the ComfyUI at COMFYUI_PATH, or of the registry's HOST_VERSION.
ON_HOST := $(BIN)/python -m tests.harness.environment

.PHONY: demo test suites prepare lint texts unit contract contract-check contract-news nix nix-service sim-tests sim-host sim-cases sim-faults sim-sampling browser front-ends browser-newest pictures examples host hosts host-core host-own matrices many-machines sim bench-cpu reliability families family-tests templates soak my-gpu hardware-page
demo: $(READY)
	$(ON_HOST) -m tests.harness.demo --device $(DEVICE)

# Three suites at a time, the longest first: each computes on one thread, and waits for servers a part of its time.
# Where the minutes go: pytest -p tests.harness.cpu_seconds.
test: $(READY)
	OMP_NUM_THREADS=1 $(MAKE) --no-print-directory --output-sync=target -j3 suites

SHARING := host sim-host sim-cases sim-faults sim-sampling family-tests host-own host-core sim-tests browser nix contract-check
suites: $(SHARING) unit lint

# Hosts, models and programs, before the suites that share them run side by side.
$(SHARING): prepare
prepare: $(READY)
	$(ON_HOST) -m tests.harness.prepare

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))
	mkdir -p .cache/typing && ln -sfn ../.. .cache/typing/xpu_nodes
	cd .cache/typing && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p xpu_nodes.nodes -p xpu_nodes.xpu_utils
	cd .cache/typing && ../../$(BIN)/lint-imports ../../pyproject.toml

# The nodes' texts, from their schemas to the locale and the help pages; the host suite says where they are stale.
texts: $(READY)
	$(ON_HOST) -m tests.harness.texts

unit: $(READY)
	$(BIN)/pytest tests/unit

# Every touch of ours on ComfyUI against every version that is recorded.
contract-check: $(READY)
	$(BIN)/pytest tests/contract

# Records what the ComfyUI at COMFYUI_PATH offers of what we touch; then what is new there, in Markdown.
contract: $(READY)
	$(BIN)/python -m tests.contract
contract-news: $(READY)
	$(BIN)/python -m tests.contract news

# The simulated Intel devices, against PyTorch on the CPU and in a process of their own.
sim-tests: $(READY)
	$(ON_HOST) -m pytest tests/sim

# The pack inside the real server on simulated devices.
sim-host: $(READY)
	$(ON_HOST) -m pytest tests/sim_host $(addprefix --ignore ,$(SIM_CASES) $(SIM_FAULTS) $(SIM_SAMPLING))

# Parts of the pack there, in processes without a server.
SIM_CASES := $(patsubst %,tests/sim_host/test_%.py,attention benches beside_aimdo beside_multigpu cpu_fallback doctor \
	gates hooks int8 loading my_gpu noise odd_files placing protecting_parts short_memory stand_ins upscaling vae)
sim-cases: $(READY)
	$(ON_HOST) -m pytest $(SIM_CASES)

# Faults at every stage of a prompt there.
SIM_FAULTS := tests/sim_host/test_faults.py
sim-faults: $(READY)
	$(ON_HOST) -m pytest $(SIM_FAULTS)

# Faults with every sampler and everything that a model may be given.
SIM_SAMPLING := tests/sim_host/test_sampling.py tests/sim_host/test_left_behind.py
sim-sampling: $(READY)
	$(ON_HOST) -m pytest $(SIM_SAMPLING)

# A dozen families of models there, tiny and in one process; two of ComfyUI's templates with tiny models.
family-tests: $(READY)
	$(ON_HOST) -m pytest tests/families tests/templates

# All families of the ComfyUI at COMFYUI_PATH, or those in FAMILIES; writes docs/models.md.
families: prepare
	$(ON_HOST) -m tests.families $(FAMILIES)

# ComfyUI's templates, or those in TEMPLATES, with our nodes and tiny models on the ComfyUI at COMFYUI_PATH: docs/models.md.
templates: prepare
	$(ON_HOST) -m tests.templates $(TEMPLATES)

# What your own card does, a dozen families of models too: xpu-hardware.json, to send. See docs/hardware.md.
my-gpu: $(READY)
	$(ON_HOST) -m xpu_utils my-gpu
	$(ON_HOST) -m tests.families.on_device

# The page of cards, from the reports in docs/measurements/hardware.
hardware-page: $(READY)
	$(BIN)/python -m tests.harness.hardware_page

# All samplers, of which `make test` runs some of every kind, and the CPU benchmark from end to end.
matrices: prepare
	OMP_NUM_THREADS=1 $(ON_HOST) -m pytest -m matrix tests/sim_host tests/host

# 60 jobs on three machines of this one's loopback, while a worker, a machine and the command are killed; then 1,000
# malformed requests to the address of `serve`.
many-machines: prepare
	OMP_NUM_THREADS=1 $(ON_HOST) -m pytest -m matrix tests/sim_host/test_batch.py
	OMP_NUM_THREADS=1 $(ON_HOST) -m pytest -m matrix tests/host/test_serve.py

# The panel in a real Chromium.
browser: $(READY)
	$(ON_HOST) -m pytest tests/browser

# All of that with every front end that users have, on classic and on Vue nodes: half an hour; prints a table.
front-ends: $(READY)
	$(ON_HOST) -m tests.browser.table

# With the front end that is the newest now.
browser-newest: $(READY)
	$(ON_HOST) -m tests.browser.table newest

# The pictures of the documentation, in docs/images.
pictures: $(READY)
	$(ON_HOST) -m tests.browser.pictures
	$(ON_HOST) -m tests.harness.gallery

# The examples of the template browser and their pictures, and the blueprints, by the real editor.
examples: $(READY)
	$(ON_HOST) -m tests.browser.examples

# Packaging, ComfyUI started from the Nix store; with NIXPKGS_LIB= and FLAKE_PARTS= also the modules, with WHEELS=1
# Intel's runtime from its wheels, 1 GB (see docs/nix.md).
nix: $(READY)
	$(BIN)/pytest tests/nix

# The service under the real systemd, in namespaces: needs root and NIXPKGS_LIB=.
nix-service: $(READY)
	$(BIN)/python -m tests.nix.service

# The pack inside the real server, on the newest host that the registry offers.
host: $(READY)
	$(ON_HOST) -m pytest tests/host

# The core part again on the oldest host that is supported.
host-core: $(READY)
	HOST_VERSION=0.3.52 $(ON_HOST) -m pytest tests/host -m core

# The suites that need a ComfyUI on the one at COMFYUI_PATH, and its own tests: a table, also in out/hosts.
hosts: prepare
	$(ON_HOST) -m tests.harness.suites

# ComfyUI's own tests, with the pack installed.
host-own: $(READY)
	$(ON_HOST) -m tests.harness.host_suite

# Stock ComfyUI, its best flags, OpenVINO if installed and this pack on this CPU, in turns; SHAPE=sd15|sdxl|dit|all|tiny.
# CHART=docs/images/cpu.svg draws the chart of docs/cpu.md.
SHAPE ?= sd15
CHART ?= out/bench-cpu.svg
bench-cpu: $(READY)
	mkdir -p out
	$(ON_HOST) -m tests.bench cpu --shape $(SHAPE) --json out/bench-cpu.json --chart $(CHART)

# Faults everywhere, stock ComfyUI beside us, long queues, memory, attention: hours; writes docs/measurements/reliability.md.
reliability: prepare
	$(ON_HOST) -m tests.harness.reliability

# Of that, 500 prompts on two cards with faults of every kind, hangs too; prints its seed.
SEED ?= $(shell date +%s)
soak: prepare
	$(ON_HOST) -m tests.harness.reliability --only queue --seed $(SEED)

# A server on a simulated Arc B580, to click through.
sim: prepare
	$(ON_HOST) -m tests.harness.sim

$(READY): requirements.txt requirements-dev.txt constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) -r requirements.txt -r requirements-dev.txt
	# Their wheels ask for a CUDA build of torch; see tests/harness/site/sitecustomize.py.
	$(PIP) --no-deps torchvision kornia kornia_rs spandrel
	# On all cores, which pip does not do; torch holds a file for Python 3.12.
	$(BIN)/python -m compileall -qq -j 0 .venv/lib || true
	touch $@
