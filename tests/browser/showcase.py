"""A notebook with every widget, one a cell, on people's speech: what the browser tests and the screenshots open."""

from __future__ import annotations

from pathlib import Path

import nbformat

FIRST = "ls-2416-02"

SETUP = f"""
import unisat as us
people = us.corpus.people()
batch = people.where(id=["{FIRST}", "ls-2416-04", "ls-332-03", "ls-332-04"]).batch()
model = us.load("tiny")
"""

CELLS = {
    "masks": "us.widgets.masks(model.config.replace(mask_feature_prob=0.2), batch)",
    "attention": "us.widgets.attention(us.run(model, batch, 'block.*.attn.pattern')[1], batch)",
    "quantizer": "us.widgets.quantizer(us.load('tiny', 'pretraining'), batch)",
    "layers": "us.widgets.layers(us.run(model, batch, 'hidden.*')[1], batch)",
    "layer_weights": (  # asks who says the same, so everybody has to
        "voices = us.corpus.builtin().where(sentence=['s01', 's02', 's03', 's04'])\n"
        "us.widgets.layer_weights(us.collect(model, voices, 'hidden.*', max_seconds=1.0))"
    ),
    "speakers": (
        "voices = people.where(source='speechocean762')\n"
        "bank = us.collect(model, voices, 'hidden.*', max_seconds=2.0)\n"
        "us.widgets.speakers(bank, voices, us.load('tiny', 'xvector'))"
    ),
    "strip": "us.widgets.strip(us.load('tiny', 'pretraining'), batch, 0, us.Segments.people())",
    "losses": "us.widgets.losses(us.load('tiny', 'pretraining'), batch)",
    "mixing": "us.widgets.mixing(batch)",
    "recording": "mine = us.widgets.recording(model)\nmine.load(batch.paths[2].read_bytes(), 'ls-332-03.opus')\nmine",
}

MOVED = {"speakers": "utterance", "strip": "frame", "attention": "head", "quantizer": "frame", "losses": "anchor"}
"""What is moved many times; the first slider or menu of the others. Maps that are fitted anew are kept on purpose."""


def to_move(page, view, name: str):
    """Kind, name and handle of the control that is moved many times."""
    controls = [one for one in page.controls(view) if one[0] in ("slider", "menu")]
    return next(one for one in controls if one[1] == MOVED.get(name, one[1]))


def write(path: Path, *names: str) -> Path:
    """Write a notebook with these widgets, all if none is named; the cell of each comes after that of the setup."""
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [
        nbformat.v4.new_code_cell(text.strip()) for text in (SETUP, *(CELLS[name] for name in names or CELLS))
    ]
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(notebook, path)
    return path
