"""A notebook with every widget, one a cell, on built-in speech: what the browser tests and the screenshots open."""

from __future__ import annotations

from pathlib import Path

import nbformat

SETUP = """
import unisat as us
speech = us.corpus.builtin()
batch = speech.where(speaker=["v01", "v03"], sentence=["s01", "s02"]).batch()
model = us.load("tiny")
"""

CELLS = {
    "masks": "us.widgets.masks(model.config.replace(mask_feature_prob=0.2), batch)",
    "attention": "us.widgets.attention(us.run(model, batch, 'block.*.attn.pattern')[1], batch)",
    "quantizer": "us.widgets.quantizer(us.load('tiny', 'pretraining'), batch)",
    "layers": "us.widgets.layers(us.run(model, batch, 'hidden.*')[1], batch)",
    "layer_weights": (
        "voices = speech.where(sentence=['s01', 's02', 's03', 's04'])\n"
        "us.widgets.layer_weights(us.collect(model, voices, 'hidden.*', max_seconds=1.0))"
    ),
    "speakers": (
        "voices = speech.where(sentence=['s01', 's02', 's03', 's04'])\n"
        "bank = us.collect(model, voices, 'hidden.*', max_seconds=1.0)\n"
        "us.widgets.speakers(bank, voices, us.load('tiny', 'xvector'))"
    ),
    "losses": "us.widgets.losses(us.load('tiny', 'pretraining'), batch)",
    "mixing": "us.widgets.mixing(batch)",
    "recording": "mine = us.widgets.recording(model)\nmine.load(batch.paths[2].read_bytes(), 'v03_s01.opus')\nmine",
}


def write(path: Path, *names: str) -> Path:
    """Write a notebook with these widgets, all if none is named; the cell of each comes after that of the setup."""
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [
        nbformat.v4.new_code_cell(text.strip()) for text in (SETUP, *(CELLS[name] for name in names or CELLS))
    ]
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(notebook, path)
    return path
