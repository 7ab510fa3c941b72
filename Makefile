# Every target makes what it needs: a virtual environment in .venv, from the python3 on the PATH (3.10 or later).
# No C compiler is needed; with one, the cells are compiled.

PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= 4
ARGS   ?=

PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip --disable-pip-version-check --quiet --quiet
PYTEST := $(PY) -m pytest -n $(JOBS) --dist worksteal

# a change in one of these installs the package again
BUILD := pyproject.toml setup.py $(wildcard shm_metrics/native/*_cy.py shm_metrics/native/*.pxd)

COMPILED := $(PY) -c 'from shm_metrics.native.implementation import COMPILED; exit(not COMPILED)'

# the second run needs fewer of hypothesis' examples, if it is the second
AGAIN := $$($(COMPILED) && echo --hypothesis-profile=again)

.NOTPARALLEL:
.SUFFIXES:
.PHONY: help demo test quick conformance torture lint format types bench wheels clean
.PRECIOUS: $(VENV)/.ready $(VENV)/.with-%

help:
	@echo 'make demo      gunicorn with 4 workers, real requests, a worker killed on the way; KEEP=1 leaves it running'
	@echo '               then two hosts and a Valkey: the total of the cluster, though a leader is killed'
	@echo 'make test      the whole suite, on the compiled cells and again on the interpreted ones (ARGS="-k name")'
	@echo 'make quick     the fast tests only, on both builds'
	@echo 'make conformance  the tests of prometheus_client itself, unmodified, on our engine'
	@echo 'make torture   long campaigns of killing and flooding; SHM_METRICS_TORTURE_SEED=2 SHM_METRICS_TORTURE_STATES=1000'
	@echo '               draw other and more of the states that a kill can leave'
	@echo 'make lint      ruff: lint and format;  make format  puts right what it can'
	@echo 'make types     mypy, strict; and mypy and pyright on files of good use and of mistakes'
	@echo 'make bench     us beside the peers; QUICK=1 ends within a minute (ARGS="--json FILE")'
	@echo 'make wheels    build the wheels, with and without a compiler, and check what is in them'
	@echo 'make clean     remove whatever the targets made'
	@echo
	@echo 'The tests against a real Prometheus need its program: apt-get install prometheus (Debian, Ubuntu).'
	@echo 'Those against real caches need apt-get install redis-server redis-sentinel memcached; a Valkey comes with pip.'
	@echo 'Those of pushes need apt-get install prometheus-pushgateway openssl; npm install --global statsd; and in .venv'
	@echo 'pip install "rotel>=0.0.1a15", an OpenTelemetry collector.'
	@echo 'Without them they are skipped; with CI=true in the environment they fail.'

# ---- the virtual environment -----------------------------------------------------------------------------------

$(VENV)/.ready:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 10) or exit("Python 3.10 or later is needed, and $(PYTHON) is %d.%d; say PYTHON=..." % v[:2])'
	@echo "== making $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --upgrade pip
	@touch $@

# Editable, so that what runs is the tree; the compiled cells land beside their source, where they come first on import.
# $(VENV)/.with-test installs the package with the extra `test`, and so on.
$(VENV)/.with-%: $(VENV)/.ready $(BUILD)
	@echo "== installing shm_metrics[$*] in $(VENV)"
	@rm -f shm_metrics/native/_*_cy$$($(PY) -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
	@$(PIP) install --editable '.[$*]'
	@touch $@

# ---- what people run -------------------------------------------------------------------------------------------

# One that is kept has no second act: it ends when somebody wants to end.
demo: $(VENV)/.with-demo
	@$(PY) -m demo $(if $(KEEP),--keep) $(ARGS)
	@$(if $(KEEP),:,echo && $(PY) -m demo.cluster)

# Without a compiler only the second run can be had. In CI that is a failure, not a shorter run.
test: $(VENV)/.with-test
	@if $(COMPILED); then \
	    echo '== the whole suite, compiled cells' && $(PYTEST) -m 'not torture' $(ARGS); \
	elif [ "$${CI:-}" = true ]; then \
	    echo 'the cells are not compiled, and CI must test them so'; exit 1; \
	else \
	    echo '== NO C COMPILER WAS FOUND: the compiled cells are not tested'; \
	fi
	@echo '== again, interpreted cells'
	@SHM_METRICS_INTERPRETED=1 $(PYTEST) $(AGAIN) -m 'not torture and (both_builds or not slow)' $(ARGS)

quick: $(VENV)/.with-test
	@if $(COMPILED); then $(PYTEST) -m 'not torture and not slow' $(ARGS); fi
	@SHM_METRICS_INTERPRETED=1 $(PYTEST) $(AGAIN) -m 'not torture and not slow' $(ARGS)

# The tests come from the package index, once.
conformance: $(VENV)/.with-test
	@$(PY) -m tests.conformance $(ARGS)

torture: $(VENV)/.with-test
	@if $(COMPILED); then $(PYTEST) --timeout 3600 -m torture $(ARGS); fi
	@SHM_METRICS_INTERPRETED=1 $(PYTEST) --timeout 3600 -m 'torture and both_builds' $(ARGS)

lint: $(VENV)/.with-lint
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

format: $(VENV)/.with-lint
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

types: $(VENV)/.with-lint $(VENV)/.with-test
	@$(PY) -m mypy
	@$(PY) -m pytest -q tests/unit/test_typed_mistakes.py

bench: $(VENV)/.with-bench
	@$(PY) -m bench.compare $(if $(QUICK),--quick) $(ARGS)

wheels: $(VENV)/.with-lint
	@$(PY) .ci/check_wheels.py

clean:
	rm -rf .venv .venv-* build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -f shm_metrics/native/*.so shm_metrics/native/*.c
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
