# Two plain commands behind each target stand in the README, for machines without make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8000
BOT ?= aiogram

# Of `make simulate`: for how long, or how many seeds of each world, which world, from which seed on.
SECONDS ?= 3600
SEEDS ?=
WORLD ?=
FIRST ?= 0

# Of `make sweep`: points of each call, which loop, which part of the worlds, and where to keep what is done.
POINTS ?= 28
LOOP ?=
SHARE ?= 1/1
LEDGER ?=

# Tests that run side by side, beside the servers that they start.
WORKERS ?= 2
# Mutants of each module.
SAMPLE ?= 30
# Bytecode is kept whatever the environment says: the tests start many Python processes.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: run cluster example check test test-servers docs bench chaos mutants simulate sweep matrix lock audit clean

run: $(VENV)/.service
	exec $(BIN)/python -m bot --port $(PORT)

# A front and three instances on this machine.
cluster: $(VENV)/.service
	exec $(BIN)/python -m bot.service.cluster --port $(PORT)

# A bot of examples/ against a test server, with users who write to it; BOT=... runs another one.
example: $(VENV)/.dev
	exec $(BIN)/python examples/run.py $(BOT)

# The quick loop: what starts no server, with a fifth of the random cases.
check: $(VENV)/.dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	PHASE4_TEST_SEARCH=0.2 $(PYTEST) -q -m "not server"

test: $(VENV)/.dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(PYTEST)

# The backend tests against the servers that PHASE4_TEST_REDIS_URL, ..._POSTGRESQL_URL, ..._MYSQL_URL and
# ..._MONGODB_URL name; make hands what stands on its command line on to the tests.
test-servers: $(VENV)/.dev
	$(BIN)/python -m pytest tests/core/batch_processor tests/core/cache_manager tests/core/connection_pool_manager \
		tests/core/query_optimizer/sql/test_catalog.py tests/core/query_optimizer/plans/test_evidence.py \
		tests/core/query_optimizer/plans/test_explain_pool.py tests/core/rate_limiter \
		tests/properties/test_query_rewrites_differential.py tests/docs tests/service tests/test_phase4_integration.py

# The pages and the API reference as a site, in site/; a link that leads nowhere is an error.
docs: $(VENV)/.docs
	$(BIN)/python -m zensical build --strict --clean

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks

# The whole library under load while its servers and instances are killed, frozen, filled and cut off.
chaos: SECONDS = 600
chaos: $(VENV)/.dev
	$(BIN)/python -m tests.chaos --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

# Whether the tests of what decides notice faults; MODULES="pool queue" takes these only, SAMPLE=0 every mutant.
mutants: $(VENV)/.dev
	$(BIN)/python -m tools.mutants --sample $(SAMPLE) --jobs $(WORKERS) $(MODULES)

# Simulated worlds, seed after seed; prints what replays a failure. SEEDS=500 or SECONDS=60, WORLD=cache, FIRST=1000.
simulate: $(VENV)/.dev
	$(BIN)/python -m tests.simulation $(if $(SEEDS),--seeds $(SEEDS),--seconds $(SECONDS)) --first $(FIRST) \
		$(if $(WORLD),--world $(WORLD))

# Every public call, cancelled at each of its suspensions; more than 5,000 points on each event loop. With a newer
# PYTHON also with eager tasks. LOOP=uvloop takes this one only, SHARE=1/2 every second world; LEDGER=file keeps
# what is done, and the next run goes on from it.
sweep: $(VENV)/.dev
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m tests.cancellation.sweep --points $(POINTS) --share $(SHARE) \
		$(if $(LOOP),--loop $(LOOP)) $(if $(LEDGER),--ledger $(LEDGER))

# The tests with each Python, on uvloop, and with the oldest and newest libraries, in environments of their own;
# SESSIONS="locked-3.12 oldest" takes these only, TESTS=tests/core these tests.
matrix: | $(BIN)/python
	$(BIN)/python -m pip install --quiet nox
	$(BIN)/python -m nox $(if $(SESSIONS),--session $(SESSIONS)) -- $(TESTS)

clean:
	rm -rf .nox $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)

# One stamp for each set of dependencies: a second run installs nothing. What is installed is what the lock
# files name, by hash.
$(VENV)/.service: pyproject.toml requirements/service.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements/service.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

$(VENV)/.dev: pyproject.toml requirements/dev.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements/dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

# The newest versions that pyproject.toml allows, for every system and Python it does.
lock: | $(BIN)/python
	$(BIN)/python -m pip install --quiet uv
	for set in "service --extra redis" dev; do \
		$(BIN)/python -m uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
			--no-emit-index-url --no-header --no-annotate --extra $$set pyproject.toml \
			--output-file requirements/$${set%% *}.txt || exit 1; \
	done

# Against the database of known vulnerabilities, which has to be reached.
audit: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/python -m pip_audit --require-hashes --requirement requirements/service.txt
	$(BIN)/python -m pip_audit --require-hashes --requirement requirements/dev.txt

$(VENV)/.docs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

$(VENV)/.bench: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev,bench]'
	touch $@
