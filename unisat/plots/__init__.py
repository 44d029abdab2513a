"""Pictures: data first, everything else by keyword, ``ax`` last; each returns the Axes and shows nothing.

``plots.waveform(samples).figure`` at the end of a cell shows a picture of its own; ``ax=`` draws into yours.
"""

from unisat.plots.activity import activity
from unisat.plots.attention import pattern
from unisat.plots.attribution import attribution
from unisat.plots.codebook import code_heat_map, code_usage, rarefaction
from unisat.plots.ctc import alignment, tokens
from unisat.plots.embedding import embedding
from unisat.plots.interventions import effect_map, effects
from unisat.plots.layer_similarity import layer_similarity, subspaces
from unisat.plots.layer_weights import layer_weights
from unisat.plots.layers import features, hidden, norms
from unisat.plots.lenses import kmeans_lens, lens, lens_layers
from unisat.plots.masks import mask, mask_cells, run_lengths
from unisat.plots.objective import mixing, similarity, terms
from unisat.plots.probes import probe_curves
from unisat.plots.show import describe, listen, say
from unisat.plots.style import axes
from unisat.plots.units import unit_durations, unit_labels
from unisat.plots.verification import det, trial_scores
from unisat.plots.wave import spectrogram, waveform

__all__ = [
    "activity",
    "alignment",
    "attribution",
    "axes",
    "code_heat_map",
    "code_usage",
    "describe",
    "det",
    "effect_map",
    "effects",
    "embedding",
    "features",
    "hidden",
    "kmeans_lens",
    "layer_similarity",
    "layer_weights",
    "lens",
    "lens_layers",
    "listen",
    "mask",
    "mask_cells",
    "mixing",
    "norms",
    "pattern",
    "probe_curves",
    "rarefaction",
    "run_lengths",
    "say",
    "similarity",
    "spectrogram",
    "subspaces",
    "terms",
    "tokens",
    "trial_scores",
    "unit_durations",
    "unit_labels",
    "waveform",
]
