# make demo   sets everything up and runs the main job
# make stack  sets everything up and runs S3, Ray and the service on this machine
# make test   sets everything up and runs the tests
PYTHON ?= python3
VENV ?= .venv
# FAISS comes in a GPU and a CPU wheel that exclude each other: take what the machine has.
EXTRA := $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)

.PHONY: demo stack test lint clean chromium promtool

demo: $(VENV)/installed-demo
	$(VENV)/bin/python -m infra.local.demo $(ARGS)

stack: $(VENV)/installed-stack
	$(VENV)/bin/python -m infra.local.stack $(ARGS)

test: $(VENV)/installed-test chromium promtool
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadgroup $(ARGS)

lint: $(VENV)/installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# The page is tested in a real browser, the alerts with Prometheus's own tool; both are Debian's.
chromium promtool:
	@command -v $@ >/dev/null \
	  || { test "$$(id -u)" = 0 && apt-get update -qq \
	    && apt-get install -qq --no-install-recommends $(subst promtool,prometheus,$@) >/dev/null; } \
	  || echo "$@ is not there and cannot be installed: the tests that need it are skipped"

clean:
	rm -rf $(VENV) o2n-demo o2n-stack

$(VENV)/installed-%: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 to 3.13 is needed: make PYTHON=python3.11 ..." if not (3, 11) <= sys.version_info < (3, 14) else 0)'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check --quiet --editable '.[$(EXTRA),$*]'
	touch $@
