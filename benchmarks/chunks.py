"""How far hidden states by chunks are from those of the whole, by chunk and context: writes docs/chunks.md.

    python benchmarks/chunks.py

The built-in checkpoint on a minute of the built-in speech: twenty sentences of as many voices, joined.
"""

from pathlib import Path

import torch

import unisat as us
from unisat.interpret.activations.long_recordings import chunk_error

CHUNKS, CONTEXTS = (5.0, 10.0, 20.0), (0.0, 0.5, 1.28, 2.0, 4.0)
SECONDS = 60


def main() -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    corpus, rows = us.corpus.builtin(), []
    for number, voice in enumerate(corpus.table["speaker"].unique()):
        rows.append(corpus.where(speaker=voice).batch([number % 12]).waveforms[0])
    waveform = torch.cat(rows)[: 16_000 * SECONDS]
    model = us.load("tiny")
    lines = [
        "# Long recordings by chunks: how far from the whole",
        "",
        f"Written by `benchmarks/chunks.py`: `us.load('tiny')` on {len(waveform) / 16_000:.0f} s of the built-in "
        "speech, one voice after the other. A number is the root mean square of the difference from the whole, over "
        "that of the whole's hidden states; in brackets the largest difference of a frame, over the root mean square "
        "of the frames.",
        "",
        "What enters the first layer is exact from 1.28 s of context on, the reach of the positional convolution. What "
        "remains is attention beyond the context, and grows from layer to layer. It depends on the model and the "
        "speech: `us.interpret.chunk_error` measures it on yours.",
        "",
    ]
    for layer, title in ((0, "What enters the first layer"), (model.config.num_hidden_layers, "The last layer")):
        lines += [f"## {title}", "", "| chunk | " + " | ".join(f"{one:g} s of context" for one in CONTEXTS) + " |"]
        lines += ["|---" * (len(CONTEXTS) + 1) + "|"]
        for chunk in CHUNKS:
            cells = []
            for context in CONTEXTS:
                row = chunk_error(model, waveform, chunk_seconds=chunk, context_seconds=context).loc[layer]
                cells.append(f"{100 * row['rms']:.2g} % ({100 * row['largest']:.2g} %)")
            lines.append(f"| {chunk:g} s | " + " | ".join(cells) + " |")
        lines.append("")
    (Path(__file__).resolve().parents[1] / "docs" / "chunks.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
