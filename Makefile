# Every target does its own set-up: a fresh clone needs make and Python 3.11 or newer.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
FREQTRADE ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Large, and used by some of the minutes-long tests alone.
RAY_STAMP := $(VENV)/.ray_installed
# What builds the docs, and what builds and checks the package.
DOCS_STAMP := $(VENV)/.docs_installed
RELEASE_STAMP := $(VENV)/.release_installed
LOG := $(VENV)/setup.log
# pip-audit's own packages are none of those that are locked and tested.
AUDIT := $(VENV)/audit
GOAL := $(or $(firstword $(MAKECMDGOALS)),setup)
REMEDY := make PYTHON=python3.12 $(GOAL)
TORCH := $(shell grep '^torch==' requirements.lock)
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-input --progress-bar off
show_log = { tail -n 20 $(LOG) >&2; echo "$(GOAL): pip failed; its whole output: $(LOG)" >&2; exit 1; }
BENCHMARKS := $(sort $(wildcard benchmarks/bench_*.py))
CACHES := build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage htmlcov
OFFLINE := user_data/offline
SYNTHETIC := $(OFFLINE)/data/binance
# What the demo of the synthetic market and validate_monitoring.py name their models and logs.
RUN_OUTPUTS := $(foreach name,mtfscalper_demo mtfscalper_demo_[0-9]* validate_*,$(OFFLINE)/models/$(name)) \
  $(foreach name,mtfscalper_demo mtfscalper_demo_[0-9]* validate_*,$(OFFLINE)/models/.sealed/$(name)) \
  $(OFFLINE)/models/.mtfscalper_demo*.lock $(OFFLINE)/logs/validate_*

.DEFAULT_GOAL := help
.PHONY: help setup demo docs docs-serve reference test check format acceptance soak freqtrade-tests bench validate \
  package audit clean

help: ## show this page
	@awk -F ':.*## ' '/^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@printf '\nVariables\n'
	@printf '  %-21s %s\n' 'PYTHON=$(PYTHON)' 'the interpreter that creates the environment, 3.11 or newer' \
	  'VENV=$(VENV)' 'where the environment lies' PYTEST_ARGS= "passed on to pytest: PYTEST_ARGS='-k reward -x'" \
	  FREQTRADE= 'a checkout of freqtrade, for freqtrade-tests' \
	  SOAK_ARGS= "passed on to the soak: SOAK_ARGS='--hours 48 --seed 2 --folder DIR'" \
	  PACKAGE_ARGS= "for package. --no-demo: build and check alone; --fresh: download what a user would"

##@ Begin
setup: $(STAMP) ## create the environment and install the locked packages

demo: setup ## a whole run, end to end, on the synthetic market
	@$(BIN)/mtfscalper demo

docs: $(DOCS_STAMP) ## build the docs site into site/, strictly
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet && echo "docs: site/index.html"

docs-serve: $(DOCS_STAMP) ## show the docs on 127.0.0.1:8000 while you write them
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

##@ Change something
test: setup ## the tests, without the minutes-long ones
	@$(BIN)/python -m pytest tests -n logical --dist worksteal $(PYTEST_ARGS)

check: setup ## formatting, lint and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: setup ## rewrite the code in the house format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

reference: setup ## write the pages of docs/reference again, from the code
	@$(BIN)/python docs/write_reference.py

##@ Long runs
acceptance: $(RAY_STAMP) ## the minutes-long tests, through the freqtrade command
	@$(BIN)/python -m pytest -m acceptance tests -s --timeout=7200 $(PYTEST_ARGS)

soak: setup ## four simulated weeks of a bot with faults and kills: hours; goes on where it was interrupted
	@cd tests/acceptance && OMP_NUM_THREADS=1 $(abspath $(BIN))/python -m soak.run $(SOAK_ARGS)

freqtrade-tests: ## freqtrade's own FreqAI tests with this model, from the checkout FREQTRADE
ifeq ($(FREQTRADE),)
	@echo "freqtrade-tests: skipped: name a checkout of freqtrade: make freqtrade-tests FREQTRADE=/path/to/freqtrade"
else
	@test -d "$(FREQTRADE)/tests/freqai" || { \
	  echo "freqtrade-tests: FREQTRADE is '$(FREQTRADE)', which has no tests/freqai; accepted: a checkout of freqtrade" \
	    "of the version in requirements.lock; remedy: git clone it, and name its folder" >&2; exit 1; }
	@$(MAKE) --no-print-directory setup
	@cd "$(FREQTRADE)" && PYTHONPATH="$(CURDIR)/tests$${PYTHONPATH:+:$$PYTHONPATH}" \
	  $(abspath $(BIN))/python -P -m pytest -p freqtrade_originals tests/freqai/test_freqai_interface.py $(PYTEST_ARGS)
endif

bench: setup ## every benchmark in benchmarks/, one after the other
ifeq ($(BENCHMARKS),)
	@echo "bench: nothing to run: benchmarks/ holds no bench_*.py"
else
	@set -e; for benchmark in $(BENCHMARKS); do echo "== $$benchmark"; $(BIN)/python $$benchmark; done
endif

validate: setup ## watch a short training from outside, and advise on settings: 2 to 3 minutes
	@$(BIN)/python validate_monitoring.py

##@ Release
package: $(RELEASE_STAMP) ## build the package, check it, and run its demo in an empty folder
	@VENV="$(VENV)" .ci/package $(PACKAGE_ARGS)

audit: setup ## advisories against the locked packages, a report that fails nothing
	@if $(BIN)/python -m pip_audit --version >/dev/null 2>&1; then $(BIN)/python .ci/audit.py; \
	elif "$(BIN)/python" -m venv "$(AUDIT)" >/dev/null 2>&1 && $(AUDIT)/bin/python -m pip install --quiet \
	  --disable-pip-version-check --no-input 'pip-audit>=2.10' >/dev/null 2>&1; then $(AUDIT)/bin/python .ci/audit.py; \
	else echo "audit: no report: pip-audit cannot be installed here"; fi

clean: ## remove the environment, caches, builds, and models and candles of the synthetic market
	@if [ -f "$(VENV)/pyvenv.cfg" ]; then rm -rf "$(VENV)"; fi
	@rm -rf $(CACHES) $(RUN_OUTPUTS)
	@if [ -f $(SYNTHETIC)/synthetic_market.json ]; then \
	  sed -n 's/^ *"\([^"/]*\.feather\)":.*/\1/p' $(SYNTHETIC)/synthetic_market.json | \
	    while read -r file; do rm -f "$(SYNTHETIC)/futures/$$file"; done; \
	  rm -f $(SYNTHETIC)/synthetic_market.json; \
	fi
	@if [ -d $(OFFLINE) ]; then find $(OFFLINE) -depth -type d -empty -delete; fi
	@if [ -d $(OFFLINE) ]; then \
	  echo "clean: kept what may come of your own candles; remove it by hand if you do not need it:"; \
	  find $(OFFLINE) -mindepth 2 -maxdepth 2 | sort | sed 's/^/  /'; \
	fi
	@find . -name .git -prune -o -name __pycache__ -type d -exec rm -rf {} +

# Says in one line what is wrong with PYTHON; asked only when an environment has to be created.
define require_python
command -v "$(PYTHON)" >/dev/null || { \
  echo "$(GOAL): $(PYTHON) was not found, Python 3.11 or newer is needed; install one or name it: $(REMEDY)" >&2; exit 1; }; \
"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
  found=$$("$(PYTHON)" --version 2>&1 | head -n 1); \
  echo "$(GOAL): $(PYTHON) is '$$found', Python 3.11 or newer is needed; name one: $(REMEDY)" >&2; exit 1; }
endef

$(STAMP): requirements.lock pyproject.toml
	@if ! "$(BIN)/python" -m pip --version >/dev/null 2>&1; then \
	  $(require_python); \
	  echo "[1/4] environment $(VENV) with $$("$(PYTHON)" --version)"; \
	  if [ -f "$(VENV)/pyvenv.cfg" ]; then rm -rf "$(VENV)"; fi; \
	  "$(PYTHON)" -m venv "$(VENV)" >/dev/null 2>&1 || { \
	    echo "$(GOAL): $(PYTHON) cannot create environments (venv or ensurepip is missing);" \
	      "install them (Debian, Ubuntu: apt install python3-venv) or name another Python: $(REMEDY)" >&2; exit 1; }; \
	fi
	@echo "[2/4] $(TORCH), the largest download"
	@$(PIP) --constraint requirements.lock $(TORCH) >$(LOG) 2>&1 || $(show_log)
	@echo "[3/4] the other locked packages"
	@$(PIP) --requirement requirements.lock >>$(LOG) 2>&1 || $(show_log)
	@echo "[4/4] mtfscalper, in place"
	@$(PIP) --no-deps --no-build-isolation --editable . >>$(LOG) 2>&1 || $(show_log)
	@touch $(STAMP)

# The packages of an extra, from the lock of its name.
$(VENV)/.%_installed: $(STAMP) requirements-%.lock
	@echo "what the extra $* needs"
	@$(PIP) --constraint requirements.lock --requirement requirements-$*.lock >>$(LOG) 2>&1 || $(show_log)
	@touch $@
