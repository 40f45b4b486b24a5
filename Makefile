# Thin targets over pip and the package's own commands. `make` alone lists them.
#
#   PYTHON  the Python that makes the virtual environment     make demo PYTHON=python3.12
#   VENV    where it is                                       make test VENV=/tmp/venv
#   ARGS    more words for the command                        make test ARGS="-k sensor"
#   ONCE    run the demo headless, and end                    make demo ONCE=1
#   WORKERS run the tests in so many processes; 0 for one     make test WORKERS=0 ARGS="--pdb -k sensor"
#   PIP     what installs                                     make install PIP="uv pip install -p .venv"

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
ONCE ?=

# Each worker starts a sandbox with dbt of its own, so more than two pay on large machines only.
WORKERS ?= 2

BIN := $(VENV)/bin
PIP ?= $(BIN)/python -m pip install -qq
# The tests of a file stay together: they share what its first one sets up.
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile
# A stamp is older than what it was installed from when that has changed since.
SANDBOX := $(VENV)/.installed-sandbox
DEV := $(VENV)/.installed-dev
SOURCES := pyproject.toml constraints.txt

# Neither the demo nor the tests tell anybody about this machine.
export DAGSTER_DISABLE_TELEMETRY := yes
export DO_NOT_TRACK := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(SANDBOX) ## Show it all here: a local dbt Cloud, the example project, the Dagster UI (ONCE=1: headless).
	$(BIN)/dagster-dbtcloud demo $(if $(ONCE),--once) $(ARGS)

.PHONY: test
test: $(DEV) ## Run the tests.
	$(PYTEST) $(ARGS)

.PHONY: observer-table
observer-table: $(DEV) ## Print what the sensor makes of dbt Cloud's history, case by case.
	$(BIN)/python -m dagster_dbtcloud_tests.observer_table

.PHONY: observer-soak
observer-soak: $(DEV) ## Take one sensor through 20,000 runs, and print what has grown (ten minutes).
	$(BIN)/python -m dagster_dbtcloud_tests.soak $(ARGS)

.PHONY: kill-daemon
kill-daemon: $(DEV) ## Kill Dagster's daemon fifty times in a backlog, on SQLite and on PostgreSQL; compare (half an hour).
	$(BIN)/python -m dagster_dbtcloud_tests.kill_daemon $(ARGS)

.PHONY: nightly
nightly: $(DEV) ## Run the tests that are too long for every day.
	$(PYTEST) -m nightly $(ARGS)

.PHONY: fault-table
fault-table: $(DEV) ## Print what becomes of a dbt Cloud run under each fault (ARGS=--all: the nightly ones too).
	$(BIN)/python -m dagster_dbtcloud_tests.fault_table $(ARGS)

.PHONY: bench
bench: $(DEV) ## Measure against Dagster's own floor: docs/performance.md, README.md.
	$(BIN)/python -m benchmarks $(ARGS)

.PHONY: check
check: $(DEV) ## Format, lint, types, floors: all but the tests.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

.PHONY: docs
docs: $(DEV) ## Build the documentation site: site/index.html. Every warning is an error.
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --fresh-env \
		--doctree-dir site/.doctrees --builder html docs site $(ARGS)
	@echo "site/index.html"

.PHONY: format
format: $(DEV) ## Write the code as `make check` wants it.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: install
install: $(DEV) ## Make the virtual environment for work on this package.

.PHONY: constraints
constraints: $(DEV) ## Renew constraints.txt.
	sed -n '/^#/p' constraints.txt > constraints.tmp
	printf 'dagster==1.13.27\ndbt-core==1.11.16\n' > constraints.pins
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --all-extras --no-annotate --no-header \
		--no-emit-index-url --no-emit-find-links --constraint constraints.pins pyproject.toml >> constraints.tmp
	mv constraints.tmp constraints.txt
	rm -f constraints.pins

.PHONY: clean
clean: ## Remove what the targets made.
	rm -rf .venv .demo build dist site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(SANDBOX): $(BIN)/python $(SOURCES)
	$(PIP) --constraint constraints.txt --editable ".[sandbox]"
	@touch $@

$(DEV): $(BIN)/python $(SOURCES)
	$(PIP) --constraint constraints.txt --editable ".[dev]"
	@touch $(SANDBOX) $@

# Only its absence matters: as a link to the system's Python it is older than everything.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))' 2>/dev/null || { \
		echo "Python 3.10 to 3.13 is needed; $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo missing)." >&2; \
		echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@echo "Making a virtual environment in $(VENV), and installing: about a minute, once."
	@$(PYTHON) -m venv $(VENV) || { \
		echo "$(PYTHON) cannot make a virtual environment. On Debian and Ubuntu its venv module is a" >&2; \
		echo "package of its own: apt-get install python3-venv. Or name another Python:" >&2; \
		echo "make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
