"""Pictures: data first, everything else by keyword, ``ax`` last; each returns the Axes and shows nothing.

``plots.waveform(samples).figure`` at the end of a cell shows a picture of its own; ``ax=`` draws into yours.
"""

from unisat.plots.activity import activity
from unisat.plots.attention import pattern
from unisat.plots.ctc import alignment, tokens
from unisat.plots.embedding import embedding
from unisat.plots.layer_similarity import layer_similarity, subspaces
from unisat.plots.layer_weights import layer_weights
from unisat.plots.layers import features, hidden, norms
from unisat.plots.masks import mask
from unisat.plots.objective import mixing, similarity, terms
from unisat.plots.wave import spectrogram, waveform

__all__ = [
    "activity",
    "alignment",
    "embedding",
    "features",
    "hidden",
    "layer_similarity",
    "layer_weights",
    "mask",
    "mixing",
    "norms",
    "pattern",
    "similarity",
    "spectrogram",
    "subspaces",
    "terms",
    "tokens",
    "waveform",
]
