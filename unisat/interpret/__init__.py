"""Look inside a model and change what it computes; `activations.sites` has the table of what can be seen.

===================  ==================================================
room                 question
===================  ==================================================
`activations`        What does the model compute on the way?
`features`           What does a corpus look like to it?
`interventions`      What happens if a value is changed?
`probing`            What can be read from a layer?
`speakers`           Who speaks?
`layers`             How do layers and models compare?
`units`              Which discrete units does it use?
`masks`              What is hidden from it?
`objective`          What does a step of pretraining see?
`statistics`         How sure is a number?
`result`             What a measurement returns.
===================  ==================================================

Beside the rooms it gives names that are not at the top of `unisat`: the classes `Trace`, `LayerReport` and
`WeightedLayerSum`; `measures` and `head_measures` of attention, `rollout_of`, `chunk_error`, `active_scopes`;
`one_step` and `clean_targets`; `xvectors`, `nearest_utterances`, `eer`, `eer_interval`, `min_dcf`.
"""

import lazy_loader

from unisat.deprecation import old_modules

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


old_modules(
    __name__,
    {
        "attention": "activations.attention",
        "attention_blocks": "activations.attention_blocks",
        "attribution": "interventions.attribution",
        "bank": "features.bank",
        "batching": "features.batching",
        "bootstrap": "statistics.intervals",
        "capture": "activations.capture",
        "chunks": "activations.long_recordings",
        "classifiers": "probing.classifiers",
        "codebook": "units.codebook",
        "collect": "features.collect features.store features.acoustic",
        "edit_text": "interventions.edit_text",
        "edits": "interventions.edits",
        "embedding": "speakers.maps speakers.xvectors",
        "error_rates": "statistics.error_rates",
        "intervene": "interventions.intervene",
        "layer_frames": "layers.over_time",
        "layer_report": "probing.report",
        "layer_weights": "layers.weights",
        "lenses": "units.lenses",
        "metrics": "interventions.metrics",
        "plda": "speakers.plda",
        "probes": "probing.probes",
        "quantization": "units.perplexity",
        "reduce": "activations.reduce",
        "scoring": "probing.scoring",
        "similarity": "layers.similarity layers.subspaces",
        "sites": "activations.sites",
        "sweep": "interventions.sweep",
        "verification": "speakers.trials",
        "weighted_sum": "layers.weighted_sums",
    },
)
