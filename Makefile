# The commands of the project. `make lab` and `make test` set up .venv by themselves.
PYTHON ?= python3
BIN := .venv/bin
# in a container one is root, where Jupyter asks to be told that this is meant
LAB_OPTIONS = $(if $(filter 0,$(shell id -u)),--allow-root)
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable
NBVAL = --nbval --nbval-current-env --nbval-sanitize-with notebooks/sanitize.cfg --nbval-cell-timeout=300
# The fast tests, run once more with every shape in every signature checked
SHAPES = tests/test_frames.py tests/test_masking.py tests/test_model.py tests/test_group_norm.py tests/test_quantizer.py tests/test_sites.py \
	tests/test_capture.py tests/test_audio.py tests/test_corpus.py tests/test_plots.py tests/test_plots_heads.py \
	tests/test_heads.py tests/test_feature_extraction.py tests/test_tokenization.py tests/test_processing.py \
	tests/test_losses.py tests/test_mixing.py tests/test_pretraining.py tests/test_targets.py tests/test_training_data.py \
	tests/test_plots_objective.py tests/test_acoustics.py tests/test_clusters.py tests/test_bank.py tests/test_reduce.py \
	tests/test_collect.py tests/test_intervene.py tests/test_sweep.py tests/test_attribution.py tests/test_lenses.py \
	tests/test_verification.py tests/test_codebook.py tests/test_units.py tests/test_similarity.py tests/test_layer_weights.py \
	tests/test_plots_interventions.py tests/test_plots_speakers.py tests/test_plots_attention.py tests/test_plots_layers.py \
	tests/test_plots_units.py tests/test_plots_layer_weights.py tests/test_plots_quantizer.py tests/test_plots_similarity.py tests/test_plots_results.py tests/test_picture.py \
	tests/test_widgets_masks.py tests/test_widgets_attention.py tests/test_widgets_quantizer.py tests/test_widgets_objective.py \
	tests/test_widgets_mixing.py tests/test_widgets_layers.py tests/test_widgets_layer_weights.py tests/test_shortcuts.py \
	tests/test_chunks.py tests/test_batching.py tests/test_attention_blocks.py tests/test_attention.py tests/test_over_time.py \
	tests/test_weighted_sums.py tests/test_perplexity.py tests/test_masks.py tests/test_quantized_frames.py tests/test_objective.py

.PHONY: lab tour test browser screenshots docs check format notebooks speech tiny benchmarks clean

lab: .venv/.notebook  ## open JupyterLab on the tour
	$(BIN)/jupyter lab $(LAB_OPTIONS) --LabApp.default_url=/lab/tree/notebooks/00_tour.ipynb

tour: .venv/.notebook  ## run the tour without a browser and write build/tour.html
	$(BIN)/jupyter nbconvert --execute --to html --output-dir build --output tour notebooks/00_tour.ipynb \
		--HTMLExporter.mathjax_url= --HTMLExporter.require_js_url= --ExecutePreprocessor.timeout=600

test: .venv/.test  ## run every test, then every notebook
	$(BIN)/python -m pytest --ignore=tests/browser
	$(BIN)/python -m pytest $(NBVAL) notebooks

browser: .venv/.test  ## run every notebook and move every control in JupyterLab in Chromium
	$(BIN)/python -m pytest tests/browser -rs

screenshots: .venv/.test  ## take the pictures of the widgets that the pages show
	$(BIN)/python docs/screenshots.py

docs: .venv/.test  ## write the API reference into build/docs
	$(BIN)/python docs/api.py

check: .venv/.test  ## format, lint, types, shapes
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q --jaxtyping-packages=unisat,beartype.beartype -m "not wrong_types" $(SHAPES)

format: .venv/.test  ## put the code into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

notebooks: .venv/.test  ## run every notebook and store its outputs
	$(BIN)/python notebooks/store.py
	$(BIN)/python notebooks/index.py

speech: .venv/.notebook  ## make the built-in speech anew (needs espeak-ng)
	$(BIN)/python data/make_speech.py

tiny: .venv/.test  ## train the built-in checkpoint anew where the recorded speech is present (an hour on two cores)
	$(BIN)/unisat pretrain --config recipes/tiny-1.toml
	$(BIN)/unisat pretrain --config recipes/tiny-2.toml
	$(BIN)/unisat xvector --config recipes/tiny-xvector.toml
	$(BIN)/python benchmarks/tiny.py

benchmarks: .venv/.test  ## time unisat against others, train, probe, break the notebooks' formulas, and write the tables
	$(BIN)/python -m benchmarks
	$(BIN)/python benchmarks/chunks.py
	$(BIN)/python benchmarks/ablation.py
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
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --quiet --index-url $(TORCH_INDEX) --constraint constraints.txt torch)

.venv/.notebook: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) '.[hub,notebook]'
	touch $@

.venv/.test: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) '.[test]'
	touch $@ .venv/.notebook
