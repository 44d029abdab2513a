"""UniSpeech-SAT, a speech model you can take apart in a notebook.

>>> import unisat as us
>>> model = us.UniSpeechSatModel.from_pretrained("path/or/hub-name")
>>> batch = us.Batch.from_files(paths)
>>> output, trace = us.run(model, batch, "hidden.*", "block.3.attn.pattern")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# name -> module that holds it; loaded when first used, so that `import unisat` costs no more than it must
_HOME = {
    "Ablate": "unisat.interpret.interventions.edits",
    "AutoFeatureExtractor": "unisat.processing",
    "AutoProcessor": "unisat.processing",
    "AutoTokenizer": "unisat.processing",
    "Batch": "unisat.corpus",
    "Edit": "unisat.interpret.interventions.edits",
    "FeatureBank": "unisat.interpret.features.bank",
    "GumbelVectorQuantizer": "unisat.quantizer",
    "LayerReport": "unisat.interpret.probing.report",
    "Patch": "unisat.interpret.interventions.edits",
    "Placebo": "unisat.interpret.interventions.edits",
    "Project": "unisat.interpret.interventions.edits",
    "Steer": "unisat.interpret.interventions.edits",
    "Trace": "unisat.interpret.activations.capture",
    "UniSpeechSatConfig": "unisat.config",
    "UniSpeechSatForAudioFrameClassification": "unisat.heads",
    "UniSpeechSatForCTC": "unisat.heads",
    "UniSpeechSatForPreTraining": "unisat.pretraining",
    "UniSpeechSatForSequenceClassification": "unisat.heads",
    "UniSpeechSatForXVector": "unisat.xvector",
    "UniSpeechSatModel": "unisat.model",
    "UniSpeechSatPreTrainedModel": "unisat.pretrained",
    "Wav2Vec2CTCTokenizer": "unisat.tokenization",
    "Wav2Vec2FeatureExtractor": "unisat.feature_extraction",
    "Wav2Vec2Processor": "unisat.processing",
    "WeightedLayerSum": "unisat.interpret.layers.weights",
    "active_scopes": "unisat.interpret.interventions.intervene",
    "attention_statistics": "unisat.interpret.activations.attention_blocks",
    "attribute": "unisat.interpret.interventions.attribution",
    "audio": "unisat.audio",
    "capture": "unisat.interpret.activations.capture",
    "chunk_error": "unisat.interpret.activations.long_recordings",
    "codebook_usage": "unisat.interpret.units.codebook",
    "collect": "unisat.interpret.features.collect",
    "corpus": "unisat.corpus",
    "ctc_lens": "unisat.interpret.units.lenses",
    "embed": "unisat.interpret.speakers.maps",
    "encode_long": "unisat.interpret.activations.long_recordings",
    "fit_layer_weights": "unisat.interpret.layers.weights",
    "frames": "unisat.frames",
    "intervene": "unisat.interpret.interventions.intervene",
    "kmeans_lens": "unisat.interpret.units.lenses",
    "layer_similarity": "unisat.interpret.layers.similarity",
    "layer_weights": "unisat.interpret.layers.weights",
    "listen": "unisat.plots.show",
    "load": "unisat.zoo",
    "losses": "unisat.losses",
    "masking": "unisat.masking",
    "metrics": "unisat.interpret.interventions.metrics",
    "mixing": "unisat.mixing",
    "outputs": "unisat.outputs",
    "plots": "unisat.plots",
    "probe_layers": "unisat.interpret.probing.probes",
    "rollout": "unisat.interpret.activations.attention",
    "rollout_of": "unisat.interpret.activations.attention_blocks",
    "run": "unisat.interpret.activations.capture",
    "shortcuts": "unisat.shortcuts",
    "sites": "unisat.interpret.activations.sites",
    "subspaces": "unisat.interpret.layers.subspaces",
    "sweep": "unisat.interpret.interventions.sweep",
    "unit_lens": "unisat.interpret.units.lenses",
    "units": "unisat.interpret.units.clusters",
    "value_norms": "unisat.interpret.activations.attention",
    "verify_trials": "unisat.interpret.speakers.trials",
    "widgets": "unisat.widgets",
}
__all__ = [
    "Ablate",
    "AutoFeatureExtractor",
    "AutoProcessor",
    "AutoTokenizer",
    "Batch",
    "Edit",
    "FeatureBank",
    "GumbelVectorQuantizer",
    "LayerReport",
    "Patch",
    "Placebo",
    "Project",
    "Steer",
    "Trace",
    "UniSpeechSatConfig",
    "UniSpeechSatForAudioFrameClassification",
    "UniSpeechSatForCTC",
    "UniSpeechSatForPreTraining",
    "UniSpeechSatForSequenceClassification",
    "UniSpeechSatForXVector",
    "UniSpeechSatModel",
    "UniSpeechSatPreTrainedModel",
    "Wav2Vec2CTCTokenizer",
    "Wav2Vec2FeatureExtractor",
    "Wav2Vec2Processor",
    "WeightedLayerSum",
    "active_scopes",
    "attention_statistics",
    "attribute",
    "audio",
    "capture",
    "chunk_error",
    "codebook_usage",
    "collect",
    "corpus",
    "ctc_lens",
    "embed",
    "encode_long",
    "fit_layer_weights",
    "frames",
    "intervene",
    "kmeans_lens",
    "layer_similarity",
    "layer_weights",
    "listen",
    "load",
    "losses",
    "masking",
    "metrics",
    "mixing",
    "outputs",
    "plots",
    "probe_layers",
    "rollout",
    "rollout_of",
    "run",
    "shortcuts",
    "sites",
    "subspaces",
    "sweep",
    "unit_lens",
    "units",
    "value_norms",
    "verify_trials",
    "widgets",
]

if TYPE_CHECKING:
    from unisat import audio, corpus, frames, losses, masking, mixing, outputs, plots, shortcuts, widgets
    from unisat.config import UniSpeechSatConfig
    from unisat.corpus import Batch
    from unisat.feature_extraction import Wav2Vec2FeatureExtractor
    from unisat.heads import (
        UniSpeechSatForAudioFrameClassification,
        UniSpeechSatForCTC,
        UniSpeechSatForSequenceClassification,
    )
    from unisat.interpret.activations.attention import rollout, value_norms
    from unisat.interpret.activations.attention_blocks import attention_statistics, rollout_of
    from unisat.interpret.activations.capture import Trace, capture, run
    from unisat.interpret.activations.long_recordings import chunk_error, encode_long
    from unisat.interpret.activations.sites import sites
    from unisat.interpret.features.bank import FeatureBank
    from unisat.interpret.features.collect import collect
    from unisat.interpret.interventions import metrics
    from unisat.interpret.interventions.attribution import attribute
    from unisat.interpret.interventions.edits import Ablate, Edit, Patch, Placebo, Project, Steer
    from unisat.interpret.interventions.intervene import active_scopes, intervene
    from unisat.interpret.interventions.sweep import sweep
    from unisat.interpret.layers.similarity import layer_similarity
    from unisat.interpret.layers.subspaces import subspaces
    from unisat.interpret.layers.weights import WeightedLayerSum, fit_layer_weights, layer_weights
    from unisat.interpret.probing.probes import probe_layers
    from unisat.interpret.probing.report import LayerReport
    from unisat.interpret.speakers.maps import embed
    from unisat.interpret.speakers.trials import verify_trials
    from unisat.interpret.units.clusters import units
    from unisat.interpret.units.codebook import codebook_usage
    from unisat.interpret.units.lenses import ctc_lens, kmeans_lens, unit_lens
    from unisat.model import UniSpeechSatModel
    from unisat.plots.show import listen
    from unisat.pretrained import UniSpeechSatPreTrainedModel
    from unisat.pretraining import UniSpeechSatForPreTraining
    from unisat.processing import AutoFeatureExtractor, AutoProcessor, AutoTokenizer, Wav2Vec2Processor
    from unisat.quantizer import GumbelVectorQuantizer
    from unisat.tokenization import Wav2Vec2CTCTokenizer
    from unisat.xvector import UniSpeechSatForXVector
    from unisat.zoo import load


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'unisat' has no attribute {name!r}; it has {', '.join(__all__)}.")
    module = importlib.import_module(_HOME[name])
    is_module = _HOME[name].endswith(f".{name}") and not hasattr(module, name)
    globals()[name] = module if is_module else getattr(module, name)
    return globals()[name]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
