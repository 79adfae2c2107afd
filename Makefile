# Everything a fresh machine with Python 3.10 or newer and make needs: `make run`, `make test`, `make lint`.

PYTHON ?= python3
VENV ?= .venv
BENCHMARK_VENV ?= .venv-benchmark
BENCHMARK_OPTIONS ?=
BIN = $(VENV)/bin
SOURCES = $(shell find locust_newrelic -name '*.py') setup.cfg pyproject.toml README.md LICENSE

.DEFAULT_GOAL := help
.PHONY: help run test lint format benchmark clean

help: ## Show this list.
	@sed -n 's/^\([a-z]*\): .*## /  make \1	/p' $(MAKEFILE_LIST)

run: $(VENV)/.installed ## Run the demo: Locust against a small server, and what New Relic would have received.
	$(BIN)/python examples/demo.py

test: $(VENV)/.installed ## Run all tests against the built and installed package.
	$(BIN)/python tests/in_parallel.py

lint: $(VENV)/.lint ## Check style, formatting and types.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/.lint ## Format the code.
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

benchmark: $(BENCHMARK_VENV)/.peers ## Measure what Locust feels of it, beside peers: 35 minutes (BENCHMARK_OPTIONS=--quick: 4).
	$(BENCHMARK_VENV)/bin/python benchmarks/all.py $(BENCHMARK_OPTIONS)

clean: ## Remove what the other targets made.
	rm -rf $(VENV) $(BENCHMARK_VENV) build dist *.egg-info .tox

# The package is installed as its users get it: from a wheel.
$(VENV)/.installed: $(SOURCES) | $(VENV)/bin/pip
	rm -rf build dist
	$(BIN)/pip install --quiet --disable-pip-version-check build
	$(BIN)/python -m build --wheel --outdir dist . > dist.log 2>&1 || (cat dist.log; rm -f dist.log; exit 1)
	rm -rf build dist.log *.egg-info
	wheel=$$(ls dist/*.whl) && $(BIN)/pip install --quiet --disable-pip-version-check --upgrade "$$wheel[test]"
	$(BIN)/pip install --quiet --disable-pip-version-check --force-reinstall --no-deps dist/*.whl
	touch $@

# What is compared with is installed beside it, in an environment of its own. A peer that cannot be installed is named,
# here and in the results, and tried again the next time. All at once first: their dependencies have to agree.
$(BENCHMARK_VENV)/.peers: benchmarks/peers.txt $(SOURCES)
	$(MAKE) --no-print-directory VENV=$(BENCHMARK_VENV) $(BENCHMARK_VENV)/.installed
	@install="$(BENCHMARK_VENV)/bin/pip install --quiet --disable-pip-version-check"; missing=; \
	$$install -r $< || while read -r peer; do $$install "$$peer" || missing="$$missing $$peer"; done < $<; \
	if [ -n "$$missing" ]; then echo "Could not be installed, so not measured:$$missing" >&2; else touch $@; fi

$(VENV)/.lint: pyproject.toml $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check "ruff>=0.15" "mypy>=1.15" types-requests
	touch $@

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		(echo "Python 3.10 or newer is needed; name one with: make PYTHON=python3.12 ..." >&2; exit 1)
	$(PYTHON) -m venv $(VENV)
