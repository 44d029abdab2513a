"""Pictures: data first, everything else by keyword, ``ax`` last; each returns the Axes and shows nothing.

``plots.waveform(samples).figure`` at the end of a cell shows a picture of its own; ``ax=`` draws into yours.
"""

from unisat.deprecation import old_modules
from unisat.plots._architecture import Drawing, architecture
from unisat.plots._attention import pattern
from unisat.plots._comparison import comparison, differences
from unisat.plots._directions import abx, analogies, direction
from unisat.plots._heads import activity, alignment, tokens
from unisat.plots._interventions import attribution, effect_map, effects
from unisat.plots._layer_weights import layer_weights
from unisat.plots._layers import features, hidden, norms
from unisat.plots._masks import mask, mask_cells, run_counts, run_lengths
from unisat.plots._mixing import mixing
from unisat.plots._objective import similarity, terms
from unisat.plots._probes import probe_curves
from unisat.plots._quantizer import code_counts, code_map, code_track, entry_scores, perplexity
from unisat.plots._show import CellFigure, describe, grade, listen, say
from unisat.plots._similarity import layer_similarity, subspaces
from unisat.plots._sound import spectrogram, waveform
from unisat.plots._speakers import det, embedding, trial_scores
from unisat.plots._style import CLASSES, MAGNITUDE, SIGNED, axes, heat_map
from unisat.plots._units import (
    code_heat_map,
    code_usage,
    kmeans_lens,
    lens,
    lens_layers,
    rarefaction,
    unit_durations,
    unit_labels,
)

__all__ = [
    "CLASSES",
    "MAGNITUDE",
    "SIGNED",
    "CellFigure",
    "Drawing",
    "abx",
    "activity",
    "alignment",
    "analogies",
    "architecture",
    "attribution",
    "axes",
    "code_counts",
    "code_heat_map",
    "code_map",
    "code_track",
    "code_usage",
    "comparison",
    "describe",
    "det",
    "differences",
    "direction",
    "effect_map",
    "effects",
    "embedding",
    "entry_scores",
    "features",
    "grade",
    "heat_map",
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
    "perplexity",
    "probe_curves",
    "rarefaction",
    "run_counts",
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

old_modules(
    __name__,
    {
        "activity": "_heads",
        "attention": "_attention",
        "attribution": "_interventions",
        "codebook": "_units",
        "ctc": "_heads",
        "embedding": "_speakers",
        "interventions": "_interventions",
        "layer_frames": "_layers",
        "layer_similarity": "_style _similarity",
        "layer_weights": "_layer_weights",
        "layers": "_layers",
        "lenses": "_units",
        "masks": "_masks",
        "objective": "_objective _mixing",
        "probes": "_probes",
        "quantizer": "_quantizer",
        "show": "_show",
        "step": "_objective",
        "style": "_style _show",
        "units": "_units",
        "verification": "_speakers",
        "wave": "_sound",
        "weighted_sum": "_layer_weights",
    },
)


def __dir__() -> list[str]:
    return __all__
