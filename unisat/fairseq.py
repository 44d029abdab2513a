"""The authors' own checkpoints: ``.pt`` files of fairseq, and WavLM's, under the reference's names."""

from __future__ import annotations

import argparse
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unisat.checkpoint import is_state, read_torch

PREFIXES = {"unispeech-sat": "unispeech_sat.", "wav2vec2": "wav2vec2.", "hubert": "hubert.", "wavlm": "wavlm."}
"""What stands in front of the backbone's weights, by ``model_type``."""

# pattern and the reference's name, to which the prefix is added unless it begins with ^; no name: left out
_BACKBONE = [
    (r"w2v_encoder\.proj\.(.*)", r"^lm_head.\1"),
    (r"mask_emb", r"masked_spec_embed"),
    (r"feature_extractor\.conv_layers\.(\d+)\.0\.(.*)", r"feature_extractor.conv_layers.\1.conv.\2"),
    (r"feature_extractor\.conv_layers\.(\d+)\.2\.(?:1\.)?(.*)", r"feature_extractor.conv_layers.\1.layer_norm.\2"),
    (r"post_extract_proj\.(.*)", r"feature_projection.projection.\1"),
    (r"layer_norm\.(.*)", r"feature_projection.layer_norm.\1"),
    (r"encoder\.pos_conv\.0\.(.*)", r"encoder.pos_conv_embed.conv.\1"),
    (r"encoder\.layers\.(\d+)\.self_attn\.((?:q|k|v|out)_proj\..*)", r"encoder.layers.\1.attention.\2"),
    (r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.(.*)", r"encoder.layers.\1.layer_norm.\2"),
    (r"encoder\.layers\.(\d+)\.fc1\.(.*)", r"encoder.layers.\1.feed_forward.intermediate_dense.\2"),
    (r"encoder\.layers\.(\d+)\.fc2\.(.*)", r"encoder.layers.\1.feed_forward.output_dense.\2"),
    (r"encoder\.layers\.(\d+)\.final_layer_norm\.(.*)", r"encoder.layers.\1.final_layer_norm.\2"),
    (r"encoder\.layer_norm\.(.*)", r"encoder.layer_norm.\1"),
]
_QUANTIZER = [
    (r"final_proj\.(.*)", r"^project_hid.\1"),
    (r"project_q\.(.*)", r"^project_q.\1"),
    (r"quantizer\.vars", r"^quantizer.codevectors"),
    (r"quantizer\.weight_proj\.(.*)", r"^quantizer.weight_proj.\1"),
]
_SPEAKERS = [
    (r"encoder\.layer_norm_for_extract\.(.*)", r"^layer_norm_for_extract.\1"),
    (r"spk_proj\.(.*)", r"^speaker_proj.\1"),
    (r"label_embs_concat", r"^label_embeddings_concat"),
]
_GATES = [
    (r"encoder\.layers\.0\.self_attn\.relative_attention_bias\.(.*)", r"encoder.layers.0.attention.rel_attn_embed.\1"),
    (r"encoder\.layers\.(\d+)\.self_attn\.grep_a", r"encoder.layers.\1.attention.gru_rel_pos_const"),
    (r"encoder\.layers\.(\d+)\.self_attn\.grep_linear\.(.*)", r"encoder.layers.\1.attention.gru_rel_pos_linear.\2"),
]
# the reference has no class that predicts clusters
_CLUSTERS = [(r"final_proj\.(.*)", ""), (r"label_embs_concat", "")]
_NAMES = {
    "unispeech-sat": [*_SPEAKERS, *_QUANTIZER, *_BACKBONE],
    "wav2vec2": [*_QUANTIZER, *_BACKBONE],
    "hubert": [*_CLUSTERS, *_BACKBONE],
    "wavlm": [*_GATES, *_CLUSTERS, *_BACKBONE],
}
_MOST_CONVS = 100


class Placeholder:
    """Stands for an object that is neither a weight nor a setting: it takes what was kept of it, and forgets it.

    The authors' trainer keeps the state of its task, such as a ``fairseq.data.Dictionary``. No name in a file is
    looked up or called; each gives one of these.
    """

    def __init__(self, *values: Any, **named: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read(path: str | Path, family: str = "unispeech-sat") -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a ``.pt`` file; return fields of the family's config, and weights under the reference's names.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file does not exist, is damaged, is not a fairseq checkpoint, or has weights or settings of another
        architecture.
    """
    if family not in PREFIXES:
        raise ValueError(f"the authors' files of {family} are not read; those of {', '.join(PREFIXES)} are.")
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; from_fairseq reads one .pt file.")
    content = read_torch(path, _known)
    if not isinstance(content, Mapping) or not is_state(content.get("model")):
        raise ValueError(f"{path} is not a fairseq checkpoint; a dict with 'model' was expected, which holds weights.")
    name = "UniSpeech-SAT" if family == "unispeech-sat" else family
    state, unknown = rename(content["model"], family)
    if unknown:
        shown = ", ".join(sorted(unknown)[:20]) + (" …" if len(unknown) > 20 else "")
        raise ValueError(f"{path} has weights that {name} does not have: {shown}.")
    try:
        config = sizes(state, settings(content), family)
    except (IndexError, TypeError, ZeroDivisionError, OverflowError) as error:
        raise ValueError(f"{path} has weights or settings that no {name} has ({error}).") from error
    if family == "unispeech-sat" and not config["do_stable_layer_norm"] and "project_hid.weight" in state:
        # post-LN models do not have this norm; the reference has an identity in its place
        state.setdefault("layer_norm_for_extract.weight", torch.ones(config["hidden_size"]))
        state.setdefault("layer_norm_for_extract.bias", torch.zeros(config["hidden_size"]))
    return config, state


def _known(path: Path) -> list[Any]:
    """Types that such a file may hold: settings, and placeholders for all that is no tensor."""
    # torch lists the names in a zip file alone; an older kind of file is read without placeholders
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []
    return [argparse.Namespace, *((Placeholder, name) for name in names if name != "argparse.Namespace")]


def rename(state: Mapping[str, Tensor], family: str = "unispeech-sat") -> tuple[dict[str, Tensor], list[str]]:
    """Weights under the reference's names, and the names that fit no pattern."""
    renamed, unknown = {}, []
    prefix = PREFIXES[family]
    for name, tensor in state.items():
        short = name.removeprefix("w2v_encoder.w2v_model.")
        for pattern, new in _NAMES[family]:
            if found := re.fullmatch(pattern, short):
                target = found.expand(new)
                if target:
                    renamed[target[1:] if target[0] == "^" else prefix + target] = tensor
                break
        else:
            unknown.append(name)
    return renamed, unknown


def settings(content: Mapping[str, Any]) -> dict[str, Any]:
    """The model's settings, from ``args`` in older files and ``cfg`` in newer ones; empty if there are none."""
    nested = content.get("args") or content.get("cfg")
    for _ in range(10):  # settings that hold themselves end here
        found = _entries(nested)
        inner = _entries(found.get("model"))
        # a fine-tuned file keeps the settings of the model it started from in w2v_args
        nested = found.get("w2v_args") or inner.get("w2v_args")
        if not nested:
            return {**found, **inner}
    raise ValueError("the settings of the checkpoint hold settings that hold settings, and so on; expected one set.")


def _entries(found: Any) -> dict[str, Any]:
    if isinstance(found, argparse.Namespace):
        return vars(found)
    return dict(found) if isinstance(found, Mapping) else {}


def _whole(given: Mapping[str, Any], name: str, default: int) -> int:
    """A setting that counts something."""
    value = given.get(name, default)
    if type(value) is not int or value < 1:
        raise ValueError(f"the checkpoint's setting {name}={value!r:.60} must be a positive whole number.")
    return value


def sizes(state: Mapping[str, Tensor], given: Mapping[str, Any], family: str = "unispeech-sat") -> dict[str, Any]:
    """Fields of the config: widths, depths and norms from the weights, heads and strides from the settings."""
    prefix = PREFIXES[family]
    backbone = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    try:
        width = len(backbone["masked_spec_embed"])
        taps = backbone["encoder.pos_conv_embed.conv.weight_v"]
        inner = len(backbone["encoder.layers.0.feed_forward.intermediate_dense.bias"])
    except KeyError as error:
        raise ValueError(f"the checkpoint has no {error.args[0]}; expected a file of {family}.") from error
    convs = [backbone[f"feature_extractor.conv_layers.{i}.conv.weight"] for i in range(_count(backbone, "conv_layers"))]
    if family != "unispeech-sat" and "layer_norm_first" not in given:
        raise ValueError(
            "the checkpoint's settings do not say layer_norm_first, and its weights do not show it; convert it with "
            "the tools of its authors, or load the copy on the hub with from_pretrained."
        )
    stable = given.get("layer_norm_first", "layer_norm_for_extract.weight" in state)
    config: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": _count(backbone, "encoder.layers"),
        "num_attention_heads": _whole(given, "encoder_attention_heads", max(width // 64, 1)),
        "intermediate_size": inner,
        "conv_dim": [len(weight) for weight in convs],
        "conv_kernel": [weight.shape[-1] for weight in convs],
        "conv_stride": [5, 2, 2, 2, 2, 2, 2][: len(convs)],
        "conv_bias": "feature_extractor.conv_layers.0.conv.bias" in backbone,
        "feat_extract_norm": "layer" if "feature_extractor.conv_layers.1.layer_norm.weight" in backbone else "group",
        "num_conv_pos_embeddings": taps.shape[-1],
        "num_conv_pos_embedding_groups": width // taps.shape[1],
        "do_stable_layer_norm": bool(stable),
    }
    if layers := given.get("conv_feature_layers"):
        config["conv_stride"] = _strides(str(layers))
    if "lm_head.bias" in state:
        config["vocab_size"] = len(state["lm_head.bias"])
    if "label_embeddings_concat" in state:
        config["num_clusters"], config["codevector_dim"] = state["label_embeddings_concat"].shape
        config["proj_codevector_dim"] = config["codevector_dim"]
    if "quantizer.codevectors" in state:
        groups = _whole(given, "latent_groups", 2)
        if family == "wav2vec2":
            config["codevector_dim"] = state["quantizer.codevectors"].shape[2] * groups
            config["proj_codevector_dim"] = len(state["project_hid.bias"])
        config["num_codevector_groups"] = groups
        config["num_codevectors_per_group"] = state["quantizer.codevectors"].shape[1] // groups
    if family == "wavlm":
        if (table := backbone.get("encoder.layers.0.attention.rel_attn_embed.weight")) is not None:
            config["num_buckets"] = len(table)
        config["max_bucket_distance"] = _whole(given, "max_distance", 800)
    for name in ("spk_layer", "utterance_contrastive_layer"):
        if given.get(name) is not None:
            config["utterance_contrastive_layer"] = _whole(given, name, 0)
    return config


def _count(state: Mapping[str, Tensor], part: str) -> int:
    numbers = [int(found[1]) for name in state if (found := re.search(rf"{re.escape(part)}\.(\d+)\.", name))]
    return max(numbers, default=-1) + 1


def _strides(text: str) -> list[int]:
    """Strides in a text such as ``[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2``, which is not run."""
    strides: list[int] = []
    for found in re.finditer(r"\(\s*\d+\s*,\s*\d+\s*,\s*(\d+)\s*\)\s*\]\s*(?:\*\s*(\d+))?", text):
        if len(strides) + int(found[2] or 1) > _MOST_CONVS:
            raise ValueError(f"conv_feature_layers={text:.60} asks for more than {_MOST_CONVS} convolutions.")
        strides += [int(found[1])] * int(found[2] or 1)
    return strides
