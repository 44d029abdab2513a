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
    "Ablate": "unisat.interpret.edits",
    "AutoFeatureExtractor": "unisat.processing",
    "AutoProcessor": "unisat.processing",
    "AutoTokenizer": "unisat.processing",
    "Batch": "unisat.corpus",
    "Edit": "unisat.interpret.edits",
    "FeatureBank": "unisat.interpret.bank",
    "GumbelVectorQuantizer": "unisat.quantizer",
    "LayerReport": "unisat.interpret.layer_report",
    "Patch": "unisat.interpret.edits",
    "Placebo": "unisat.interpret.edits",
    "Project": "unisat.interpret.edits",
    "Steer": "unisat.interpret.edits",
    "Trace": "unisat.interpret.capture",
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
    "WeightedLayerSum": "unisat.interpret.layer_weights",
    "active_scopes": "unisat.interpret.intervene",
    "attention_statistics": "unisat.interpret.attention_blocks",
    "attribute": "unisat.interpret.attribution",
    "audio": "unisat.audio",
    "capture": "unisat.interpret.capture",
    "chunk_error": "unisat.interpret.chunks",
    "codebook_usage": "unisat.interpret.codebook",
    "collect": "unisat.interpret.collect",
    "corpus": "unisat.corpus",
    "ctc_lens": "unisat.interpret.lenses",
    "embed": "unisat.interpret.embedding",
    "encode_long": "unisat.interpret.chunks",
    "fit_layer_weights": "unisat.interpret.layer_weights",
    "frames": "unisat.frames",
    "intervene": "unisat.interpret.intervene",
    "kmeans_lens": "unisat.interpret.lenses",
    "layer_similarity": "unisat.interpret.similarity",
    "layer_weights": "unisat.interpret.layer_weights",
    "listen": "unisat.plots.show",
    "load": "unisat.zoo",
    "losses": "unisat.losses",
    "masking": "unisat.masking",
    "metrics": "unisat.interpret.metrics",
    "mixing": "unisat.mixing",
    "outputs": "unisat.outputs",
    "plots": "unisat.plots",
    "probe_layers": "unisat.interpret.probes",
    "rollout": "unisat.interpret.attention",
    "rollout_of": "unisat.interpret.attention_blocks",
    "run": "unisat.interpret.capture",
    "shortcuts": "unisat.shortcuts",
    "sites": "unisat.interpret.sites",
    "subspaces": "unisat.interpret.similarity",
    "sweep": "unisat.interpret.sweep",
    "unit_lens": "unisat.interpret.lenses",
    "units": "unisat.interpret.units",
    "value_norms": "unisat.interpret.attention",
    "verify_trials": "unisat.interpret.verification",
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
    from unisat.interpret import metrics
    from unisat.interpret.attention import rollout, value_norms
    from unisat.interpret.attention_blocks import attention_statistics, rollout_of
    from unisat.interpret.attribution import attribute
    from unisat.interpret.bank import FeatureBank
    from unisat.interpret.capture import Trace, capture, run
    from unisat.interpret.chunks import chunk_error, encode_long
    from unisat.interpret.codebook import codebook_usage
    from unisat.interpret.collect import collect
    from unisat.interpret.edits import Ablate, Edit, Patch, Placebo, Project, Steer
    from unisat.interpret.embedding import embed
    from unisat.interpret.intervene import active_scopes, intervene
    from unisat.interpret.layer_report import LayerReport
    from unisat.interpret.layer_weights import WeightedLayerSum, fit_layer_weights, layer_weights
    from unisat.interpret.lenses import ctc_lens, kmeans_lens, unit_lens
    from unisat.interpret.probes import probe_layers
    from unisat.interpret.similarity import layer_similarity, subspaces
    from unisat.interpret.sites import sites
    from unisat.interpret.sweep import sweep
    from unisat.interpret.units import units
    from unisat.interpret.verification import verify_trials
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
    is_module = _HOME[name] in (f"unisat.{name}", f"unisat.interpret.{name}") and not hasattr(module, name)
    globals()[name] = module if is_module else getattr(module, name)
    return globals()[name]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
