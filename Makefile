# `make help` lists the targets. Each installs what it needs into .venv, once, and again when
# pyproject.toml changes; all that must be there is Python 3.11 or newer (with venv) and make.

VENV ?= .venv
PYTEST = $(VENV)/bin/python -m pytest
WORKERS ?= 2

# uv installs faster where it is on the path; pip does otherwise.
UV ?= $(shell command -v uv 2>/dev/null)
INSTALL = $(if $(UV),$(UV) pip install --quiet --python $(VENV)/bin/python \
	$(if $(PIP_CONSTRAINT),--constraint $(PIP_CONSTRAINT)),\
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check)

# The first of these that is new enough and can make environments; or name one: make test PYTHON=...
ENOUGH = import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$name -c '$(ENOUGH)' >/dev/null 2>&1 && { echo $$name; break; }; done)

.DELETE_ON_ERROR:
.PHONY: help demo example test tests slow nightly kernels doctests bare laws layers lint format types docs docs-links notebooks \
	compile-tpu compile-gpu bench peers multilabel text vectors conformance clean \
	build check-build newest-peers history newcomer

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.has-demo  ## the guided run: train, calibrate, act and read, print tables, save pictures
	$(VENV)/bin/python -m jsoftmax

example: $(VENV)/.has-examples  ## train a small language model on a mesh of 2 × 4 forced devices; half a minute
	$(VENV)/bin/python -m examples.language_model --mesh 2x4 --steps 50

test: tests doctests  ## the tests but the slow ones; import layers and examples in docstrings included

tests: $(VENV)/.has-test
	$(PYTEST) -n $(WORKERS) -m "not slow and not kernels"

slow: $(VENV)/.has-test  ## the tests that `make test` leaves out because they take long
	$(PYTEST) -n $(WORKERS) -m "slow and not nightly and not kernels"

kernels: $(VENV)/.has-test  ## the laws of mappings, losses and attention for their kernels, interpreted
	$(PYTEST) -n $(WORKERS) -m "kernels and not tpu_compiler" tests/kernels

nightly: $(VENV)/.has-test  ## the widest tables, which only .ci/nightly runs
	$(PYTEST) -n $(WORKERS) -m nightly

# On their own, because tests/conftest.py turns on float64 and the examples show JAX as it comes.
doctests: $(VENV)/.has-test  ## the examples in docstrings and on the pages of docs/
	JAX_PLATFORMS=$${JAX_PLATFORMS:-cpu} $(PYTEST) -n $(WORKERS) --doctest-modules \
		--doctest-glob='*.md' jsoftmax examples docs/*.md docs/guides/*.md

FUNCTIONS = $(addprefix jsoftmax/,mappings losses sampling policies calibration attention vocabulary routing)
bare: $(VENV)/.has-test  ## the examples of functions, where neither Flax nor optax can be imported
	JAX_PLATFORMS=$${JAX_PLATFORMS:-cpu} $(PYTEST) -n $(WORKERS) -p tests.without_flax \
		--doctest-modules $(FUNCTIONS)

laws: $(VENV)/.has-test  ## the tests that hold for every member of the catalogue, but the slow ones
	JSOFTMAX_COMPILE=wholly $(PYTEST) -n $(WORKERS) -m "law and not slow"

layers: $(VENV)/.has-test  ## imports point one way
	$(PYTEST) tests/test_layers.py

lint: $(VENV)/.has-test  ## ruff: faults and formatting; how readable the prose is
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/python .ci/english.py

format: $(VENV)/.has-test  ## ruff: mend what can be mended
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

types: $(VENV)/.has-test  ## pyright
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python

# A warning is an error: a broken link or reference, a public name without a page, a formula that does
# not render, a notebook that fails. Notebooks run again where their code changed. JSOFTMAX_LONGEST=8192
# leaves out the lengths that take minutes.
SPHINX = $(VENV)/bin/python -m sphinx -W --keep-going -d build/docs/doctrees
docs: $(VENV)/.has-docs  ## the site, into build/docs/html; executes the notebooks, once
	$(SPHINX) -b html docs build/docs/html

docs-links: $(VENV)/.has-docs  ## do external links of the site answer? needs a network
	$(SPHINX) -b linkcheck docs build/docs/links

notebooks: $(VENV)/.has-docs  ## write an .ipynb, not executed, beside each notebooks/*.py, for Jupyter
	$(VENV)/bin/jupytext --to ipynb notebooks/*.py

# Without the hardware: compilers work from the description of a chip. QUICK=1 compiles what CI does.
compile-tpu:  ## compile hot functions and the example for TPU v5e, print figures, fail at broken limits
	$(MAKE) VENV=.venv-tpu .venv-tpu/.has-tpu
	.venv-tpu/bin/python -m benchmarks run chips --platform tpu $(if $(QUICK),--quick)
	.venv-tpu/bin/python -m pytest -m tpu_compiler tests/examples

compile-gpu:  ## the same functions for an H100; 5.6 GB of packages
	$(MAKE) VENV=.venv-gpu .venv-gpu/.has-gpu
	.venv-gpu/bin/python -m benchmarks run chips --platform gpu $(if $(QUICK),--quick)

RUN = $(VENV)/bin/python -m benchmarks run
bench: $(VENV)/.has-bench  ## race everything against its peers; with DATA=folder also text and vectors; MNIST=mnist.npz
	$(RUN) mappings sampling truncation regression estimators calibration_peers attention short_attention \
	linear experts_and_contrast trees sampled adaptive language_model
	$(RUN) gumbel_softmax_table $(if $(MNIST),--mnist $(MNIST))
	$(if $(DATA),$(RUN) text --data $(DATA))
	$(if $(DATA),$(RUN) word_vectors --data $(DATA))

# They need Python 3.12 or newer, and the newest JAX: an environment of their own.
newest-peers:  ## the newest SoftJAX and tokamax beside ours: make newest-peers PYTHON=python3.13
	$(MAKE) VENV=.venv-peers .venv-peers/.has-peers
	$(MAKE) VENV=.venv-peers .venv-peers/.has-demo
	.venv-peers/bin/python -m benchmarks run newest_peers

history: $(VENV)/.has-demo  ## ratios of the committed results over commits, into docs/performance.md
	$(VENV)/bin/python -m benchmarks history

peers: $(VENV)/.has-bench $(VENV)/.has-test  ## attention, and the pairs of docs/coming_from.md, against torch, entmax and gensim
	$(PYTEST) benchmarks/test_attention_peers.py tests/docs/test_coming_from.py

multilabel: $(VENV)/.has-bench  ## the sparsemax paper's table: make multilabel DATA=folder
	$(VENV)/bin/python -m benchmarks run multilabel --data $(DATA)

text: $(VENV)/.has-bench  ## ten output layers of one language model on real text: make text DATA=folder
	$(VENV)/bin/python -m benchmarks run text --data $(DATA)

vectors: $(VENV)/.has-bench  ## word vectors by hierarchical softmax, against gensim: make vectors DATA=folder
	$(VENV)/bin/python -m benchmarks run word_vectors --data $(DATA)

conformance: $(VENV)/.has-bench  ## what each library answers at the edges
	$(VENV)/bin/python -m benchmarks run conformance

# Both need no checkout but this one; the release workflow calls them too.
build: $(VENV)/.has-build  ## wheel and source distribution in dist/, checked by twine
	rm -rf dist
	$(VENV)/bin/python -m build --outdir dist .
	$(VENV)/bin/python -m twine check --strict dist/*

newcomer: $(VENV)/.made  ## follow README.md and CONTRIBUTING.md literally, in an empty folder
	$(VENV)/bin/python .ci/newcomer.py research
	$(VENV)/bin/python .ci/newcomer.py contribute

check-build: $(VENV)/.made  ## install the wheel outside of the tree, run tests of the sdist with it; ALL=1 for all
	$(VENV)/bin/python .ci/check_build.py --workers $(WORKERS) $(if $(ALL),--all)

clean:  ## remove the environments and everything the tools left behind
	rm -rf .venv .venv-* build dist docs/api/generated .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp says that .venv has the extra of that name.
$(VENV)/.has-%: $(VENV)/.made pyproject.toml
	@echo "Installing jsoftmax[$*] into $(VENV), which can take a few minutes ..."
	@$(INSTALL) --editable '.[$*]'
	@touch $@

# torch first and by version: left to entmax it would be the newest, with gigabytes of CUDA.
$(VENV)/.has-bench: $(VENV)/.made pyproject.toml
	@echo "Installing jsoftmax[bench] into $(VENV), which can take a few minutes ..."
	@$(INSTALL) torch==2.13.0
	@$(INSTALL) --editable '.[bench]'
	@touch $@

$(VENV)/.made:
	@$(or $(PYTHON),false) -c '$(ENOUGH)' 2>/dev/null || { \
		echo "jsoftmax needs Python 3.11 or newer with venv; found: $(or $(PYTHON),$$(python3 --version 2>&1))." \
			"Install one, or name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@
