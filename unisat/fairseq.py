"""The authors' own checkpoints: a fairseq ``.pt`` file under the reference's names."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

PREFIX = "unispeech_sat."

# pattern and the reference's name, to which PREFIX is added unless it begins with ^
_NAMES = [
    (r"w2v_encoder\.proj\.(.*)", r"^lm_head.\1"),
    (r"mask_emb", r"masked_spec_embed"),
    (r"feature_extractor\.conv_layers\.(\d+)\.0\.(.*)", r"feature_extractor.conv_layers.\1.conv.\2"),
    (r"feature_extractor\.conv_layers\.(\d+)\.2\.(?:1\.)?(.*)", r"feature_extractor.conv_layers.\1.layer_norm.\2"),
    (r"post_extract_proj\.(.*)", r"feature_projection.projection.\1"),
    (r"layer_norm\.(.*)", r"feature_projection.layer_norm.\1"),
    (r"encoder\.pos_conv\.0\.(.*)", r"encoder.pos_conv_embed.conv.\1"),
    (r"encoder\.layers\.(\d+)\.self_attn\.(.*)", r"encoder.layers.\1.attention.\2"),
    (r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.(.*)", r"encoder.layers.\1.layer_norm.\2"),
    (r"encoder\.layers\.(\d+)\.fc1\.(.*)", r"encoder.layers.\1.feed_forward.intermediate_dense.\2"),
    (r"encoder\.layers\.(\d+)\.fc2\.(.*)", r"encoder.layers.\1.feed_forward.output_dense.\2"),
    (r"encoder\.layers\.(\d+)\.final_layer_norm\.(.*)", r"encoder.layers.\1.final_layer_norm.\2"),
    (r"encoder\.layer_norm\.(.*)", r"encoder.layer_norm.\1"),
    (r"encoder\.layer_norm_for_extract\.(.*)", r"^layer_norm_for_extract.\1"),
    (r"final_proj\.(.*)", r"^project_hid.\1"),
    (r"project_q\.(.*)", r"^project_q.\1"),
    (r"spk_proj\.(.*)", r"^speaker_proj.\1"),
    (r"label_embs_concat", r"^label_embeddings_concat"),
    (r"quantizer\.vars", r"^quantizer.codevectors"),
    (r"quantizer\.weight_proj\.(.*)", r"^quantizer.weight_proj.\1"),
]
# types in such files besides tensors and Python's own
_ALLOWED: list[Any] = [argparse.Namespace]


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a ``.pt`` file; return fields of a `UniSpeechSatConfig`, and weights under the reference's names.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file does not exist, would run code when read, is not a fairseq checkpoint, or has weights of
        another architecture.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; from_fairseq reads one .pt file.")
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than weights and settings and would run code when read: {error}"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path} is truncated or not a torch file ({error}); fetch it again.") from error
    if not isinstance(content, Mapping) or not isinstance(content.get("model"), Mapping):
        raise ValueError(f"{path} is not a fairseq checkpoint; a dict with 'model' was expected.")
    state, unknown = rename(content["model"])
    if unknown:
        raise ValueError(f"{path} has weights that UniSpeech-SAT does not have: {', '.join(sorted(unknown))}.")
    config = sizes(state, settings(content))
    if not config["do_stable_layer_norm"] and "project_hid.weight" in state:
        # post-LN models do not have this norm; the reference has an identity in its place
        state.setdefault("layer_norm_for_extract.weight", torch.ones(config["hidden_size"]))
        state.setdefault("layer_norm_for_extract.bias", torch.zeros(config["hidden_size"]))
    return config, state


def rename(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Weights under the reference's names, and the names that fit no pattern."""
    renamed, unknown = {}, []
    for name, tensor in state.items():
        short = name.removeprefix("w2v_encoder.w2v_model.")
        for pattern, new in _NAMES:
            if found := re.fullmatch(pattern, short):
                target = found.expand(new)
                renamed[target[1:] if target[0] == "^" else PREFIX + target] = tensor
                break
        else:
            unknown.append(name)
    return renamed, unknown


def settings(content: Mapping[str, Any]) -> dict[str, Any]:
    """The model's settings, from ``args`` in older files and ``cfg`` in newer ones; empty if there are none."""
    found = content.get("args") or content.get("cfg") or {}
    found = vars(found) if isinstance(found, argparse.Namespace) else dict(found)
    inner = found.get("model", {})
    inner = vars(inner) if isinstance(inner, argparse.Namespace) else inner
    # a fine-tuned file keeps the settings of the model it started from in w2v_args
    nested = found.get("w2v_args") or (inner.get("w2v_args") if isinstance(inner, Mapping) else None)
    if nested:
        return settings({"args": nested})
    return {**found, **(inner if isinstance(inner, Mapping) else {})}


def sizes(state: Mapping[str, Tensor], given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the config: widths, depths and norms from the weights, heads and strides from the settings."""
    backbone = {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name.startswith(PREFIX)}
    try:
        width = len(backbone["masked_spec_embed"])
        taps = backbone["encoder.pos_conv_embed.conv.weight_v"]
        inner = len(backbone["encoder.layers.0.feed_forward.intermediate_dense.bias"])
    except KeyError as error:
        raise ValueError(f"the checkpoint has no {error.args[0]}; expected a UniSpeech-SAT file.") from error
    convs = [backbone[f"feature_extractor.conv_layers.{i}.conv.weight"] for i in range(_count(backbone, "conv_layers"))]
    stable = given.get("layer_norm_first", "layer_norm_for_extract.weight" in state)
    config: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": _count(backbone, "encoder.layers"),
        "num_attention_heads": int(given.get("encoder_attention_heads", width // 64)),
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
        groups = int(given.get("latent_groups", 2))
        config["num_codevector_groups"] = groups
        config["num_codevectors_per_group"] = state["quantizer.codevectors"].shape[1] // groups
    layer = given.get("utterance_contrastive_layer", given.get("spk_layer"))
    if layer is not None:
        config["utterance_contrastive_layer"] = int(layer)
    return config


def _count(state: Mapping[str, Tensor], part: str) -> int:
    numbers = [int(found[1]) for name in state if (found := re.search(rf"{re.escape(part)}\.(\d+)\.", name))]
    return max(numbers, default=-1) + 1


def _strides(text: str) -> list[int]:
    """Strides in a text such as ``[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2``, which is not run."""
    strides: list[int] = []
    for found in re.finditer(r"\(\s*\d+\s*,\s*\d+\s*,\s*(\d+)\s*\)\s*\]\s*(?:\*\s*(\d+))?", text):
        strides += [int(found[1])] * int(found[2] or 1)
    return strides
