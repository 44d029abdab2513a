"""Language adapters: the module, and the files, of the small part of a CTC model that belongs to one language."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unisat import checkpoint as files
from unisat.fast import apply
from unisat.layer_norm import LayerNorm
from unisat.pretrained import UniSpeechSatPreTrainedModel

HEAD = ("lm_head.weight", "lm_head.bias")


class AttentionAdapter(nn.Module):
    """A narrow residual branch behind the feed-forward; this part of a layer belongs to one language."""

    def __init__(self, hidden_size: int, adapter_dim: int):
        super().__init__()
        self.norm = LayerNorm(hidden_size)
        self.linear_1 = nn.Linear(hidden_size, adapter_dim)
        self.act_fn = nn.ReLU()
        self.linear_2 = nn.Linear(adapter_dim, hidden_size)

    def forward(self, hidden: Float[Tensor, "batch frames hidden"]) -> Float[Tensor, "batch frames hidden"]:
        """Give what the layer adds to each frame."""
        return apply(self.linear_2, self.act_fn(apply(self.linear_1, self.norm(hidden))))


def check(model: nn.Module) -> None:
    """Refuse a model without adapters."""
    if not any(name.endswith("adapter_layer") for name, _ in model.named_modules()):
        raise ValueError(
            f"this {type(model).__name__} has no adapters: config.adapter_attn_dim must be set and "
            "do_stable_layer_norm be True, since only pre-LN layers have them."
        )


def file_name(target_lang: str) -> str:
    """Give ``adapter.<lang>``; the language must be a plain word such as ``fra`` or ``zh-hans``."""
    if not re.fullmatch(r"\w[\w-]*", target_lang):
        raise ValueError(f"target_lang={target_lang!r} must be a plain word such as 'fra': it names a file.")
    return f"adapter.{target_lang}"


def parts(model: nn.Module) -> dict[str, Tensor]:
    """Give all weights that belong to a language, by full name: those of the adapters and `lm_head`."""
    return {k: v for k, v in model.state_dict().items() if ".adapter_layer." in k or k in HEAD}


def find(model: UniSpeechSatPreTrainedModel, target_lang: str, folder: str | Path | None) -> Path:
    """Find the adapter's file; safetensors comes first if both kinds are there."""
    name = file_name(target_lang)
    place = folder if folder is not None else model.name_or_path
    if place is None:
        raise ValueError("this model was not loaded from a folder; say where adapters lie: load_adapter(lang, folder).")
    for suffix in (".safetensors", ".bin"):
        if (path := Path(place) / (name + suffix)).is_file():
            return path
    there = sorted({path.name.split(".")[1] for path in Path(place).glob("adapter.*.*")})
    raise FileNotFoundError(
        f"there is no {name}.safetensors or {name}.bin in {place}; languages there: {', '.join(there) or 'none'}."
    )


def load(model: Any, target_lang: str, folder: str | Path | None = None) -> None:
    """Put a language's weights into the model; see `UniSpeechSatForCTC.load_adapter`."""
    check(model)
    path = find(model, target_lang, folder)
    state, present = files.read_file(path), parts(model)
    missing, extra = sorted(set(present) - set(state)), sorted(set(state) - set(present))
    misshapen = [
        f"{name} is {tuple(state[name].shape)}, the model has {tuple(present[name].shape)}"
        for name in sorted(set(present) & set(state))
        if state[name].shape[(1 if name in HEAD else 0) :] != present[name].shape[(1 if name in HEAD else 0) :]
    ]
    if missing or extra or misshapen:
        raise ValueError(files.misfit(str(path), model, missing, extra, misshapen))
    tokens = len(state["lm_head.weight"])
    if len(state["lm_head.bias"]) != tokens:
        raise ValueError(f"{path}: lm_head has {tokens} rows and {len(state['lm_head.bias'])} biases; fetch it again.")
    if tokens != model.lm_head.out_features:
        model.lm_head = nn.Linear(model.config.last_size, tokens, device=model.device, dtype=model.dtype)
        model.config.vocab_size = tokens
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in state.items():
            weights[name].copy_(value)


def save(model: nn.Module, target_lang: str, folder: str | Path) -> Path:
    """Write a language's weights; see `UniSpeechSatForCTC.save_adapter`."""
    check(model)
    return files.write_weights(parts(model), folder, file_name(target_lang) + ".safetensors")
