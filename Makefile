# Each target sets up all it needs on a machine with Python 3.11 or newer and nothing else; with
# WHEELHOUSE=folder from the wheels in it alone, without an index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TOOLS := build/tools
PIP := -m pip --disable-pip-version-check
WHEELS := $(if $(WHEELHOUSE),--no-index --find-links $(WHEELHOUSE))

.PHONY: setup demo test test-slow test-hosts check bench lock wheelhouse wheelhouse-cluster clean $(TOOLS)

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "Python 3.11 or newer is needed, this is %d.%d: make PYTHON=python3.11" % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) install --quiet $(WHEELS) --require-hashes -r requirements.lock
	$(BIN)/python $(PIP) install --quiet $(WHEELS) --no-deps --no-build-isolation -e .
	@touch $@

demo: setup
	$(BIN)/orchestrator demo --out demo

# Two processes: what needs the one Ray cluster in one of them, the rest in the other.
test: setup
	$(BIN)/python -m pytest -n 2 --no-loadscope-reorder

test-slow: setup
	$(BIN)/python -m pytest -m slow

# Three machines made of namespaces; needs root and the packages that a skip names.
test-hosts: setup
	$(BIN)/python -m pytest -x -m hosts --timeout 1500 --durations 0 tests/hosts

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: setup
	$(BIN)/python -m benchmarks

# Re-pins every package, with hashes and without any index's address: those of a laptop, and of
# cluster nodes with their CUDA libraries.
COMPILE := -m piptools compile --quiet --strip-extras --generate-hashes --allow-unsafe --no-header \
  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host
lock: $(TOOLS)
	$(TOOLS)/bin/python $(PIP) install --quiet pip-tools
	$(TOOLS)/bin/python $(COMPILE) --extra dev -o requirements.lock pyproject.toml
	$(TOOLS)/bin/python $(COMPILE) --extra gpu --extra aws --extra dicom --extra lite --extra notify -o requirements-cluster.lock pyproject.toml

# Every locked package as a wheel, checked against its hash, for machines that reach no index: those of
# a laptop, and those of cluster nodes. Made with the Python of the machines they are for.
wheelhouse wheelhouse-cluster: $(TOOLS)
	$(TOOLS)/bin/python $(PIP) download --quiet --no-deps --only-binary :all: --require-hashes --dest $@ \
	  -r $(subst wheelhouse,requirements,$@).lock
	cd $@ && sha256sum *.whl > SHA256SUMS

# A pip of $(PYTHON) itself, which may have none and may not be what $(VENV) was made with.
$(TOOLS):
	$(PYTHON) -m venv --clear $@

clean:
	rm -rf $(VENV) build wheelhouse wheelhouse-cluster *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
