"""UniSpeech-SAT, a speech model you can take apart in a notebook.

>>> import unisat as us
>>> model = us.load("tiny")  # or us.UniSpeechSatModel.from_pretrained("folder/or/hub-name")
>>> batch = us.Batch.from_files(paths)
>>> output, trace = us.run(model, batch, "hidden.*", "block.3.attn.pattern")

========  ======================================================================================
model     `load` the built-in one; the reference's classes: `UniSpeechSatModel`, its config, its
          heads (``UniSpeechSatFor…``), feature extractor, tokenizer, processor and ``Auto…``;
          those of its relatives ``Wav2Vec2…``, ``Hubert…``, ``WavLM…``, ``Data2VecAudio…``, ``UniSpeech…``;
          `GumbelVectorQuantizer`; their `outputs`; `shortcuts` that make them faster
speech    `Batch` of waveforms, `corpus` of files, `audio` reading, `frames` and seconds, `Segments` of labels
watch     `sites` that can be seen; `capture`, `run`; `encode_long`; `attention_statistics`,
          `rollout`, `value_norms`
change    `intervene` with `Ablate`, `Patch`, `Steer`, `Project`, `Erase`, `Edit` and their `Placebo`;
          `erase` a label; `sweep` over places; `attribute` an output to the sound; `metrics`
collect   `collect` features of a corpus into a `FeatureBank`
measure   `probe_layers`, `abx`, `verify_trials`, `compare` models, `embed`, `layer_similarity`, `subspaces`,
          `direction`, `analogies`, `layer_weights`, `fit_layer_weights`; `codebook_usage`, `units`; `ctc_lens`,
          `unit_lens`, `kmeans_lens`
show      `plots`, `widgets`, `listen`; `grade` a bet
train     `losses`, `masking`, `mixing`; the command ``unisat pretrain``; `unisat.training`
========  ======================================================================================

``help(us.collect)`` explains one of them; `unisat.interpret` has the rooms behind *watch* to *measure*.
"""

from __future__ import annotations

import lazy_loader

from unisat.deprecation import renamed

__version__ = "0.1.0"

# The names and their homes are in __init__.pyi alone; each is loaded when it is first used. There is no __all__, with
# which help(unisat) would print the help of every name.
_load, __dir__, _ = lazy_loader.attach_stub(__name__, __file__)
__getattr__ = renamed(
    __name__,
    {
        "LayerReport": "unisat.interpret.LayerReport",
        "Trace": "unisat.interpret.Trace",
        "WeightedLayerSum": "unisat.interpret.WeightedLayerSum",
        "active_scopes": "unisat.interpret.active_scopes",
        "chunk_error": "unisat.interpret.chunk_error",
        "rollout_of": "unisat.interpret.rollout_of",
    },
    _load,
)
