# `make demo` and `make test` do everything on a fresh machine with Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
# Optional packages have environments of their own: without them everything else has to work. Each
# lies over $(VENV) and adds what that lacks, or hides what it needs in other versions: gradio takes
# an older Pillow than requirements.txt pins, moto an older python-dateutil.
TORCH_VENV ?= .venv-torch
ONNX_VENV ?= .venv-onnx
SERVE_VENV ?= .venv-serve
BUCKET_VENV ?= .venv-bucket
DOCS_VENV ?= .venv-docs
WHEEL_VENV ?= .venv-wheel
MATRIX_VENV ?= .venv-matrix
GPU_VENV ?= .venv-gpu
BIN := $(VENV)/bin
INPUTS ?= 10000
SEED ?= 0
# More workers than two cores: some tests wait for processes and time limits.
WORKERS ?= 3
# Long tests, most of which shorter ones hold, and benchmarks are for the night, or for SLOW=1.
SLOW ?=
TESTED = $(if $(SLOW),$(1),$(if $(1),($(1)) and )not slow)
# What Python 3.11 brings takes twice the time.
PIP := pip==26.3
# What is not imported need not be compiled: Python does the rest as it imports.
INSTALL := install --quiet --disable-pip-version-check --no-compile

# What a module is compiled to is kept: each of some hundred processes would compile all it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint types unit gpu coverage fuzz kills torch onnx serve bucket docs wheel test-matrix clean

demo: $(VENV)/.run
	$(BIN)/dedn demo --workdir=runs/demo

test: lint types unit

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.dev
	$(BIN)/mypy

unit: $(VENV)/.dev
	$(BIN)/pytest --quick -n $(WORKERS) --dist worksteal -m '$(call TESTED)'
	$(BIN)/pytest --as-users -n $(WORKERS) --dist worksteal -m '$(call TESTED)'

# The tests, slower, and how much of the code they reach.
coverage: $(VENV)/.dev
	$(BIN)/pytest -n $(WORKERS) --dist worksteal --cov=dedn_jax --cov-report=term:skip-covered

# Ten thousand damaged files of every kind that is read; `make test` tries three hundred.
fuzz: $(VENV)/.dev
	JAX_PLATFORMS=cpu $(BIN)/python -m tests.fuzz --inputs=$(INPUTS) --seed=$(SEED)

# Trainings in fake buckets, killed at random times: nothing may be lost. SCHEME=s3: Amazon's.
KILLS ?= 100
SCHEME ?= gs
kills: $(BUCKET_VENV)/.installed
	$(BUCKET_VENV)/bin/python -m benchmarks.bucket_kills --kills=$(KILLS) --scheme=$(SCHEME) \
	  --seed=$(SEED)

# The tests that need a GPU, on a machine that has one; `make test` skips them.
gpu: $(GPU_VENV)/.installed
	$(GPU_VENV)/bin/python -m pytest -m gpu

# The comparisons with PyTorch and transformers, which `make test` skips.
torch: $(TORCH_VENV)/.installed
	$(TORCH_VENV)/bin/python -m pytest --quick -n 2 --dist worksteal \
	  -m '$(call TESTED,torch or tokenizers)'
	$(TORCH_VENV)/bin/python -m pytest --as-users -n 2 --dist worksteal -m '$(call TESTED,torch)'

# The models exported as ONNX, which `make test` skips.
onnx: $(ONNX_VENV)/.installed
	$(ONNX_VENV)/bin/python -m pytest --quick -n 2 --dist worksteal -m '$(call TESTED,onnx)'

# The tests of the page of `dedn serve`, which `make test` skips.
serve: $(SERVE_VENV)/.installed
	$(SERVE_VENV)/bin/python -m pytest --quick -n 2 --dist worksteal -m '$(call TESTED,gradio)'

# Work directories in fake buckets over HTTP, which `make test` skips.
bucket: $(BUCKET_VENV)/.installed
	$(BUCKET_VENV)/bin/python -m pytest --quick -n 2 --dist worksteal -m '$(call TESTED,moto)'

# The documentation as a site, strictly: site/index.html.
docs: $(DOCS_VENV)/.installed
	NO_MKDOCS_2_WARNING=1 JAX_PLATFORMS=cpu $(DOCS_VENV)/bin/python -m mkdocs build --strict --quiet
	@echo "site/index.html"

# Source distribution and wheel, checked; the wheel in an empty environment, away from the checkout.
wheel: $(WHEEL_VENV)/.installed
	rm -rf dist $(WHEEL_VENV)/empty
	$(WHEEL_VENV)/bin/python -m build --outdir dist . > $(WHEEL_VENV)/build.log || \
	  { cat $(WHEEL_VENV)/build.log; exit 1; }
	$(WHEEL_VENV)/bin/python -m twine check --strict dist/*
	$(PYTHON) -m venv --without-pip $(WHEEL_VENV)/empty
	$(BIN)/pip --python $(WHEEL_VENV)/empty/bin/python $(INSTALL) -c requirements.txt dist/*.whl
	cd $(WHEEL_VENV) && \
	  JAX_PLATFORMS=cpu empty/bin/dedn demo --workdir=empty/demo --config.train.epochs=1

# The tests on Python 3.11 to 3.13, and on the newest and the oldest releases that are allowed.
TESTS ?=
test-matrix: $(MATRIX_VENV)/.installed
	$(MATRIX_VENV)/bin/python -m nox -- $(TESTS)

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; try: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip $(INSTALL) --upgrade $(PIP)
	@touch $@

$(VENV)/.run: $(VENV)/.created requirements.txt setup.py
	$(BIN)/pip $(INSTALL) -r requirements.txt
	$(BIN)/pip $(INSTALL) --no-deps -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements-dev.txt
	$(BIN)/pip $(INSTALL) -r requirements-dev.txt
	@touch $@

# An environment over $(VENV), whose folder is searched after its own, and its requirements.
PACKAGES := -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
define over
$(BIN)/python -m venv --clear --without-pip $(@D)
echo "import site; site.addsitedir('$$($(BIN)/python $(PACKAGES))')" \
  > "$$($(@D)/bin/python $(PACKAGES))/over.pth"
$(BIN)/pip --python $(@D)/bin/python $(INSTALL) -r $<
@touch $@
endef

$(TORCH_VENV)/.installed: requirements-torch.txt $(VENV)/.dev
	$(over)

$(ONNX_VENV)/.installed: requirements-onnx.txt $(VENV)/.dev
	$(over)

$(SERVE_VENV)/.installed: requirements-serve.txt $(VENV)/.dev
	$(over)

$(BUCKET_VENV)/.installed: requirements-bucket.txt $(VENV)/.dev
	$(over)

$(DOCS_VENV)/.installed: requirements-docs.txt $(VENV)/.dev
	$(over)

$(WHEEL_VENV)/.installed: requirements-wheel.txt $(VENV)/.dev
	$(over)

$(GPU_VENV)/.installed: requirements-gpu.txt $(VENV)/.dev
	$(over)

$(MATRIX_VENV)/.installed: requirements-matrix.txt $(VENV)/.dev
	$(over)

clean:
	rm -rf $(VENV) $(TORCH_VENV) $(ONNX_VENV) $(SERVE_VENV) $(BUCKET_VENV) $(DOCS_VENV) \
	  $(WHEEL_VENV) $(MATRIX_VENV) $(GPU_VENV) .nox runs/demo site dist build *.egg-info
