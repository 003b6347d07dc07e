# `make` alone lists the targets. Override VENV to keep several environments side by side,
# and PYTHON to choose the interpreter: make test VENV=.venv-3.12 PYTHON=python3.12

VENV   ?= .venv
PYTHON ?=
SEEDS  ?= 1000
BIN     = $(VENV)/bin
STAMP   = $(VENV)/.installed
# Where a Docker engine answers, servers are containers; its client is an extra.
CONTAINERS = $(BIN)/python -c 'import testcontainers' 2>/dev/null || \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[containers]'

.DEFAULT_GOAL := help
.PHONY: help venv demo test check brokers brokers-down integration simulate faults bench bench-full
.PHONY: containers bench-sqlite bench-postgres bench-rabbitmq docs fmt clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(STAMP) ## Create .venv and install Bananas with its development tools

demo: venv ## Run the demo: a queue, a worker and some real jobs
	$(BIN)/python -m examples.codestats

test: venv ## Run the tests that need no server
	$(BIN)/python -m pytest tests -n 2

check: venv ## Lint, formatting, types, import rules, wording, packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	scripts/check_words.sh
	scripts/check_package.sh $(BIN)/python

brokers: venv ## Start servers for local use in the background and print their URLs
	@scripts/install_servers.sh $(BIN)/python
	@$(BIN)/python -m integration.servers up

brokers-down: venv ## Stop them and remove their folders
	@$(BIN)/python -m integration.servers down

integration: venv ## Run what needs a server or real time, on all brokers
	@scripts/install_servers.sh $(BIN)/python
	@if [ -n "$$DOCKER_HOST" ] || [ -S /var/run/docker.sock ]; then $(CONTAINERS); fi
	$(BIN)/python -m pytest integration -n 2 --dist worksteal
	$(BIN)/python -m integration.suites

containers: venv ## Run servers as containers, on a Docker engine that is started for it
	@scripts/install_servers.sh $(BIN)/python
	@$(CONTAINERS)
	$(BIN)/python -m integration.containers

simulate: venv ## Run SEEDS seeds of the simulation on both memory forms
	BANANAS_SEEDS=$(SEEDS) $(BIN)/python -m pytest tests/simulation -n 2

faults: venv ## Kill, cut and restart things while jobs run
	$(BIN)/python -m integration.faults

bench: venv ## Measure Bananas and its peers, ten minutes at most
	@scripts/install_servers.sh $(BIN)/python
	@$(BIN)/python -c 'import hiredis, matplotlib, redis' 2>/dev/null || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python -m benchmarks $(BENCH)

bench-sqlite: venv ## Measure Bananas and a plain loop on SQLite
	$(BIN)/python -m benchmarks.sqlite

bench-postgres: venv ## Measure Bananas and a plain loop on PostgreSQL
	@scripts/install_servers.sh $(BIN)/python
	$(BIN)/python -m benchmarks.postgres

bench-rabbitmq: venv ## Measure Bananas and a plain loop on RabbitMQ
	@scripts/install_servers.sh $(BIN)/python
	$(BIN)/python -m benchmarks.rabbitmq

bench-full: venv ## The same with more rounds, more jobs and all peers' redelivery: an hour at most
	@$(MAKE) --no-print-directory bench BENCH="--full $(BENCH)"

docs: venv ## Build the documentation, run its code and compare its generated lists
	$(BIN)/python -m mkdocs build --strict --quiet
	$(BIN)/python -m pytest tests/docs

fmt: venv ## Format the code and apply safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove what builds and runs leave behind (the environments stay)
	rm -rf build dist .bananas .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name '.venv*' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# The interpreter is tried, not only looked up: a pyenv shim may exist for a version that is not
# active, and a distribution may ship Python without sqlite3 or ensurepip.
define create_venv
usable() { "$$1" -c 'import sys, sqlite3, venv; sys.exit(sys.version_info < (3, 11))' \
	>/dev/null 2>&1 </dev/null; }; \
has_pip() { "$$1" -c 'import ensurepip' >/dev/null 2>&1 </dev/null; }; \
python=; fallback=; \
for candidate in $(if $(PYTHON),"$(PYTHON)",python3.13 python3.12 python3.11 python3 python); do \
	usable "$$candidate" || continue; \
	if has_pip "$$candidate"; then python=$$candidate; break; fi; \
	fallback=$${fallback:-$$candidate}; \
done; \
if [ -z "$$python$$fallback" ]; then \
	echo "No usable Python >= 3.11 (with sqlite3) found. Install one, or name it:" >&2; \
	echo "    make venv PYTHON=/path/to/python3" >&2; exit 1; \
fi; \
if [ -z "$$python" ]; then \
	python=$$fallback; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		minor=$$("$$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])'); \
		echo "$$python has no ensurepip: installing $$minor-venv" >&2; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
			apt-get install -y -qq --no-install-recommends "$$minor-venv" >/dev/null; \
	fi; \
	has_pip "$$python" || { \
		echo "$$python has no ensurepip. On Debian or Ubuntu: apt install python3-venv" >&2; \
		exit 1; }; \
fi; \
echo "$(VENV): $$("$$python" -c 'import sys; print(sys.version.split()[0], sys.executable)')"; \
"$$python" -m venv --clear $(VENV)
endef

$(STAMP): pyproject.toml
	@$(BIN)/python -c 'import pip' >/dev/null 2>&1 || { $(create_venv); }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,uvloop]'
	@touch $@
