# Everything that is run by hand or by CI. PYTHON is the interpreter of a new .venv; it must be 3.11 or later.
# On Linux, PyPI's torch brings gigabytes of CUDA; the CPU build comes with
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo

PYTHON ?= python3
BIN := .venv/bin
PROMPT := "When winter's hand has closed the garden door"
# Two processes of one thread each: the models are tiny, so threads would only wait for each other. A file's
# tests stay in one process, which makes its fixtures once.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile
# Tests whose results depend on the kernels that the CPU's instructions select.
NUMERICAL := tests/parity tests/contract/test_methods.py tests/unit/bench/test_accounting.py tests/unit/estimate \
	tests/unit/methods tests/unit/model tests/unit/runtime tests/unit/training
SPHINX = $(BIN)/python -m sphinx -q -W --keep-going -n -c docs -d build/doctrees
REFERENCE = $(BIN)/python docs/command_reference.py
HOURS ?= 8
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable

.PHONY: demo test test-avx2 test-oldest lint docs reference linkcheck study bench clean help

help:  ## what there is (the default)
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' Makefile

demo: .venv/with-nothing  ## learn, score and write on embedded defaults, in runs/demo
	$(BIN)/explora train paraphrase --lora 8 --epochs 10 --output runs/demo/paraphrase --overwrite
	$(BIN)/explora eval paraphrase runs/demo/paraphrase
	$(BIN)/explora train sentiment --lora 8 --output runs/demo/sentiment --overwrite
	@echo; echo "A sonnet by the base, before:"
	$(BIN)/explora generate sonnet embedded --prompt $(PROMPT)
	$(BIN)/explora train sonnet --lora 8 --output runs/demo/sonnet --overwrite
	@echo; echo "and after:"
	$(BIN)/explora generate sonnet runs/demo/sonnet --prompt $(PROMPT)

test: .venv/with-test  ## the whole test suite
	$(PYTEST)

test-avx2: .venv/with-test  ## the numerical tests with the kernels of a CPU without AVX-512
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(PYTEST) $(NUMERICAL)

test-oldest: .venv-oldest/installed  ## the tests with the oldest declared versions of everything but torch
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -n 2 --dist loadfile

.venv-oldest/installed: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --constraint constraints-oldest.txt --editable ".[test]"
	@touch $@

lint: .venv/with-lint  ## style, types, layers and words
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.words.check

study: .venv/with-study  ## train the study (benchmarks/study): hours; it goes on where it stopped
	$(BIN)/python -m benchmarks.study costs --data $(EXPLORA_DATA)
	$(BIN)/python -m benchmarks.study floors --data $(EXPLORA_DATA)
	$(BIN)/python -m benchmarks.study run --data $(EXPLORA_DATA) --hours $(HOURS)
	$(BIN)/python -m benchmarks.study tables
	$(BIN)/python -m benchmarks.paper tables
	$(BIN)/python -m benchmarks.study.ship
	$(BIN)/python -m benchmarks.study.leave_one_out

docs: .venv/with-docs  ## the documentation site, in build/site; any warning or broken local link is an error
	@$(REFERENCE) | diff docs/commands.md - || { echo "docs/commands.md is out of date: run make reference"; exit 1; }
	$(SPHINX) . build/site

linkcheck: .venv/with-docs  ## the links of the documentation to other sites; needs the internet
	$(SPHINX) -b linkcheck . build/linkcheck

reference: .venv/with-nothing  ## write again what docs/ has from the code: options, layers, the output of examples
	$(REFERENCE) > docs/commands.md
	$(BIN)/python docs/layers.py > docs/layers.svg
	$(BIN)/python docs/console_examples.py

bench: .venv/with-nothing  ## full against LoRA against last-linear on this machine
	$(BIN)/explora bench

.PHONY: pictures
pictures: .venv/with-report  ## draw the pictures of the documentation again
	$(BIN)/python benchmarks/session.py docs/pictures/session.svg
	$(BIN)/python benchmarks/speed_and_memory.py docs/pictures/speed-and-memory.svg

clean:  ## remove what was built, but neither .venv nor runs
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find explora tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/with-nothing: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) .
	@touch $@

.venv/with-%: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) ".[$*]"
	@touch $@
