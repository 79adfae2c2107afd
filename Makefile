# Everything a fresh machine with Python 3.10 or newer and make needs: `make run`, `make test`, `make lint`.

PYTHON ?= python3
VENV ?= .venv
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

benchmark: $(VENV)/.installed ## Measure what a request, a worker's report, a backlog and a long outage cost.
	$(BIN)/python benchmarks/request_hook.py
	$(BIN)/python benchmarks/distributed.py
	$(BIN)/python benchmarks/backlog.py
	$(BIN)/python benchmarks/soak.py

clean: ## Remove what the other targets made.
	rm -rf $(VENV) build dist *.egg-info .tox

# The package is installed as its users get it: from a wheel.
$(VENV)/.installed: $(SOURCES) | $(VENV)/bin/pip
	rm -rf build dist
	$(BIN)/pip install --quiet --disable-pip-version-check build
	$(BIN)/python -m build --wheel --outdir dist . > dist.log 2>&1 || (cat dist.log; rm -f dist.log; exit 1)
	rm -rf build dist.log *.egg-info
	wheel=$$(ls dist/*.whl) && $(BIN)/pip install --quiet --disable-pip-version-check --upgrade "$$wheel[test]"
	$(BIN)/pip install --quiet --disable-pip-version-check --force-reinstall --no-deps dist/*.whl
	touch $@

$(VENV)/.lint: pyproject.toml $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check "ruff>=0.15" "mypy>=1.15" types-requests
	touch $@

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		(echo "Python 3.10 or newer is needed; name one with: make PYTHON=python3.12 ..." >&2; exit 1)
	$(PYTHON) -m venv $(VENV)
