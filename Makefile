# The commands of the project. `make lab` and `make test` set up .venv by themselves.
PYTHON ?= python3
BIN := .venv/bin
# in a container one is root, where Jupyter asks to be told that this is meant
LAB_OPTIONS = $(if $(filter 0,$(shell id -u)),--allow-root)
# Modules are compiled when they are first imported: to compile all of them takes pip as long as everything else.
PIP = $(BIN)/python -m pip install --disable-pip-version-check --no-compile
# `make lab UV=uv` takes uv instead
INSTALL = $(if $(UV),$(UV) pip install --python $(BIN)/python,$(PIP)) --quiet --constraint constraints.txt
NBVAL = --nbval --nbval-current-env --nbval-sanitize-with notebooks/sanitize.cfg --nbval-cell-timeout=300
# a worker for each core, one thread each
WORKERS = $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

.PHONY: lab tour test browser screenshots docs check format notebooks speech tiny benchmarks clean

lab: .venv/.notebook  ## open JupyterLab on the tour
	$(BIN)/jupyter lab $(LAB_OPTIONS) --LabApp.default_url=/lab/tree/notebooks/00_tour.ipynb

tour: .venv/.notebook  ## run the tour without a browser and write build/tour.html
	$(BIN)/jupyter nbconvert --execute --to html --output-dir build --output tour notebooks/00_tour.ipynb \
		--HTMLExporter.mathjax_url= --HTMLExporter.require_js_url= --ExecutePreprocessor.timeout=600

test: .venv/.test  ## run every test, then every notebook
	$(PYTEST) --dist worksteal --ignore=tests/browser
	$(PYTEST) --dist loadfile $(NBVAL) notebooks

browser: .venv/.test  ## run every notebook and move every control in JupyterLab in Chromium
	$(BIN)/python -m pytest tests/browser -rs

screenshots: .venv/.test  ## film the widgets for the README, and take their pictures into build/widgets
	$(BIN)/python docs/film.py
	$(BIN)/python docs/screenshots.py

docs: .venv/.test  ## write the API reference into build/docs
	$(BIN)/python docs/api.py

check: .venv/.test  ## format, lint, types, shapes, coverage
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) -q --dist worksteal --cov --jaxtyping-packages=unisat,typechecker.beartype -m "not wrong_types and not runs_once" --ignore=tests/browser

format: .venv/.test  ## put the code into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

notebooks: .venv/.test  ## run every notebook and store its outputs
	$(BIN)/python notebooks/store.py
	$(BIN)/python notebooks/index.py
	$(BIN)/python notebooks/claims.py

speech: .venv/.notebook  ## make the built-in speech anew (needs espeak-ng)
	$(BIN)/python data/make_speech.py

tiny: .venv/.test  ## train the built-in models anew from what the first iteration left, where the recorded speech is present (hours on two cores)
	$(BIN)/unisat pretrain --config recipes/sat-2.toml
	$(BIN)/unisat pretrain --config recipes/hubert-2.toml
	$(BIN)/unisat xvector --config recipes/sat-xvector.toml
	$(BIN)/python benchmarks/tiny.py

benchmarks: .venv/.test  ## time unisat against others, train, probe, break the notebooks' formulas, and write the tables
	$(BIN)/python -m benchmarks
	$(BIN)/python benchmarks/instruments.py
	$(BIN)/python benchmarks/chunks.py
	$(BIN)/python benchmarks/ablation.py --page
	$(BIN)/python benchmarks/training.py --page
	$(BIN)/python benchmarks/probing.py
	$(BIN)/python benchmarks/layers.py
	$(BIN)/python benchmarks/mutations.py

clean:
	rm -rf .venv build

# Choose a build of torch with TORCH_INDEX, the index URL that pytorch.org's selector shows for your machine.
.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "unisat needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) -V); say which: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(if $(TORCH_INDEX),$(PIP) --quiet --index-url $(TORCH_INDEX) --constraint constraints.txt torch)

.venv/.notebook: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) --editable '.[hub,notebook]'
	touch $@

.venv/.test: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) 'pip>=25.1' # older ones do not know --group
	$(INSTALL) --editable '.[all]' --group dev
	touch $@ .venv/.notebook
